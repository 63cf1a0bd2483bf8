"""The files of the simulated feed: the events in them, archives, archives that somebody has damaged, and what the feed does with a file.

An event's text is made column by column; the cells of places, actors and kinds of events are in `cells.tsv`, as they stand in a
file. Everything follows from the seed, the interval and the version of its file. An event's id is given by its interval and its place
in it: ids are unique over all files and rise with time. A version after the first leaves out an event at the beginning and has another
one at the end, and a tenth of the others are mentioned more often.

`DEFECTS` says what may be wrong with a file. The feed lists a file with a defect by the size and MD5 that it has, so that only
who looks into it finds out. What the feed itself does other than promised are `Quirks`.
"""

import functools
import hashlib
import io
import stat
import zipfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, field_validator

from etl_assets.systems.events.files import INTERVAL

BEGINNING = datetime(2015, 2, 18, 23, tzinfo=UTC)  # the first file of version 2.0 of the format
ROWS = 2_000
VERSIONS = 500
_FIRST_ID = 410_000_000
_IDS = 3_000  # of an interval, unless it has more events

# Days before that of the file on which an event happened, and how many did.
_AGES = {0: 0.963, 1: 0.007, 7: 0.007, 30: 0.009, 365: 0.014}
_ROWS_OF_AN_ARTICLE = 4.5
_CHANGED = 10  # one event in so many is another one in a new version

_LEVEL = 1  # a quarter larger than real archives, in less than half of the time
_BOMB_BYTES = 128 * 2**20
_FILES_KEPT = 500
TAB = "\t"

# Indices of the fields of a line, from 0.
_SQL_DATE, _LATITUDE, _DATE_ADDED = 1, 56, 59
_SECOND_LEVELS = (39, 47, 55)  # of administration, which version 1.0 of the format does not have

Integers = npt.NDArray[np.int64]
Fields = list[str]
Defect = Callable[[datetime, bytes], bytes]


# The events


def first_id(interval: datetime, *, rows: int) -> int:
    """The id of the first event of an interval's first file."""
    return _FIRST_ID + (interval - BEGINNING) // INTERVAL * max(_IDS, rows + VERSIONS)


def events(interval: datetime, *, rows: int = ROWS, seed: int = 0, version: int = 0) -> bytes:
    """The content of an interval's file: `rows` lines of 61 fields.

    Args:
        interval: aware, on a quarter of an hour in UTC.
        version: how often the file was published again, at most `VERSIONS` times.
    """
    number = (interval - BEGINNING) // INTERVAL
    if not 0 <= version <= VERSIONS or number < 0:
        raise ValueError(f"version {version} of {interval}: there are {VERSIONS}, from {BEGINNING} on")
    rng = np.random.default_rng([seed, number])
    # One draw for all versions: what an event is does not depend on how many others there are.
    count = rows + VERSIONS
    ids = first_id(interval, rows=rows) + np.arange(count)
    cells = [
        _text(ids),
        *_who_what_where(rng, interval, ids, version),
        pa.repeat(f"{interval:%Y%m%d%H%M%S}", count),
        _lines_of_urls(rng, interval, count),
    ]
    lines = pc.binary_join_element_wise(*(cell.slice(version, rows) for cell in cells), TAB)
    return "".join(lines.to_pylist()).encode()


def _who_what_where(rng: np.random.Generator, interval: datetime, ids: Integers, version: int) -> list[pa.StringArray]:
    """The fields between the id and the time of the file."""
    count, (places, _) = len(ids), _cells("place")
    articles = rng.geometric(0.18, count)
    tones = np.round(rng.normal(-2.0, 3.5, count), 12)
    action = _chosen(rng, "place", count)
    # Where an actor is: mostly where the action is, at times anywhere else or unknown.
    nowhere = next(at for at, place in enumerate(places) if place.startswith(f"0{TAB}"))
    actors_at = [
        np.select(
            [(draw := rng.random(count)) < unknown, draw < unknown + 0.2],
            [nowhere, _chosen(rng, "place", count)],
            action,
        )
        for unknown in (0.1, 0.27)
    ]
    mentions = articles + np.where((ids % _CHANGED == 0) & (version > 0), version, 0)
    return [
        _picked(_days(interval.date()), rng.choice(len(_AGES), count, p=list(_AGES.values()))),
        *(_picked(_cells("actor")[0], _chosen(rng, "actor", count)) for _ in range(2)),
        _text(rng.integers(0, 2, count)),
        _picked(_cells("event")[0], _chosen(rng, "event", count)),
        _text(mentions),
        _text(np.minimum(articles, 1 + rng.poisson(0.05, count))),
        _text(articles),
        _text(tones),
        *(_picked(places, chosen) for chosen in (*actors_at, action)),
    ]


@functools.cache
def _cells(group: str) -> tuple[list[str], npt.NDArray[np.float64]]:
    """The cells of a group, and how often each is met, as shares of 1."""
    lines = Path(__file__).with_name("cells.tsv").read_text().splitlines()
    named = [line.split(TAB, 2) for line in lines if line.startswith(group + TAB)]
    shares = np.array([float(share) for _, share, _ in named])
    return [cells for _, _, cells in named], shares / shares.sum()


def _chosen(rng: np.random.Generator, group: str, count: int) -> Integers:
    """Some of the cells of a group, by their places in it."""
    return rng.choice(len(_cells(group)[0]), count, p=_cells(group)[1])


def _days(day: date) -> list[str]:
    """The four fields of the day on which an event happened, for each age."""
    days = [day - timedelta(days=age) for age in _AGES]
    fractions = [each.year + ((each.month - 1) * 30 + each.day) / 365 for each in days]
    return [f"{each:%Y%m%d\t%Y%m\t%Y}\t{fraction:.4f}" for each, fraction in zip(days, fractions, strict=True)]


def _lines_of_urls(rng: np.random.Generator, interval: datetime, count: int) -> pa.StringArray:
    """Articles, each with some events; with them a line ends."""
    folder, articles = f"example/{interval:%Y/%m/%d/%H%M}", max(round(count / _ROWS_OF_AN_ARTICLE), 1)
    urls = [f"https://news{number % 7}.{folder}/{number}.html\n" for number in range(articles)]
    return _picked(urls, np.sort(rng.integers(0, articles, count)))


def _picked(texts: Sequence[str], chosen: Integers) -> pa.StringArray:
    return pa.array(texts, pa.string()).take(pa.array(chosen))


def _text(values: npt.NDArray[Any]) -> pa.StringArray:
    return pa.array(values).cast(pa.string())


# The files


class Listed(NamedTuple):
    """What a list says of a file."""

    size: int
    md5: str


def file_name(interval: datetime, kind: str = "export.CSV") -> str:
    """The name of an interval's file: of events, or of another kind."""
    return f"{interval:%Y%m%d%H%M%S}.{kind}.zip"


@functools.lru_cache(maxsize=_FILES_KEPT)
def archive(interval: datetime, rows: int, seed: int, version: int, defect: str) -> bytes:
    """The file as it is served; the same bytes at each time."""
    content = events(interval, rows=rows, seed=seed, version=version)
    return DEFECTS[defect](interval, content) if defect else _zipped(interval, content)


@functools.cache
def listed(interval: datetime, rows: int, seed: int, version: int, defect: str) -> Listed:
    """Size and MD5 of the file; kept of all files, which would take long to make again."""
    data = archive(interval, rows, seed, version, defect)
    return Listed(len(data), hashlib.md5(data, usedforsecurity=False).hexdigest())


def _member(interval: datetime) -> str:
    return file_name(interval).removesuffix(".zip")


def _zip(
    interval: datetime, members: Mapping[str, bytes], *, method: int = zipfile.ZIP_DEFLATED, mode: int = 0
) -> bytes:
    """An archive; the time in it is that of the interval, so that it is always the same."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as made:
        for name, content in members.items():
            member = zipfile.ZipInfo(name, interval.timetuple()[:6])
            member.external_attr = mode << 16
            made.writestr(member, content, method, _LEVEL)
    return packed.getvalue()


def _zipped(interval: datetime, content: bytes) -> bytes:
    return _zip(interval, {_member(interval): content})


def _checksum(interval: datetime, content: bytes) -> bytes:
    """Stored as it is, so that nothing but the checksum tells that a byte is another one."""
    made = bytearray(_zip(interval, {_member(interval): content}, method=zipfile.ZIP_STORED))
    made[len(made) // 2] ^= 1
    return bytes(made)


def _named(name: Callable[[str], str]) -> Defect:
    return lambda interval, content: _zip(interval, {name(_member(interval)): content})


def _changed(change: Callable[[bytes], bytes]) -> Defect:
    return lambda interval, content: _zipped(interval, change(content))


def _lines(change: Callable[[int, Fields], Fields], *, between: str = TAB, end: str = "\n") -> Defect:
    """Lines made anew of their fields; a change gets the number of the line, from 1."""

    def changed(content: bytes) -> bytes:
        lines = enumerate(content.decode().splitlines(), 1)
        return "".join(between.join(change(number, line.split(TAB))) + end for number, line in lines).encode()

    return _changed(changed)


def _format_1_0(number: int, fields: Fields) -> Fields:
    fields[_DATE_ADDED] = fields[_DATE_ADDED][:8]
    return [field for at, field in enumerate(fields) if at not in _SECOND_LEVELS]


def _resaved(number: int, fields: Fields) -> Fields:
    """What a spreadsheet makes of a line: numbers of what looks like one, long ones as powers of ten, a header."""
    if number == 1:
        return [f"Column{at}" for at in range(1, len(fields) + 1)]
    short = [str(int(field)) if field.isdigit() else field for field in fields]
    return [f"{int(field):.2E}" if field.isdigit() and len(field) >= 12 else field for field in short]


def _replaced(at: int, text: str) -> Callable[[Fields], Fields]:
    return lambda fields: [*fields[:at], text, *fields[at + 1 :]]


# What the defect `bad-rows` does to lines, by their numbers from 1.
BAD_LINES: Mapping[int, Callable[[Fields], Fields]] = {
    2: lambda fields: fields[:-1],
    4: lambda fields: [*fields, ""],
    6: lambda fields: _replaced(_SQL_DATE, f"{fields[_SQL_DATE][:4]}0230")(fields),  # there is no such day
    8: _replaced(_LATITUDE, "north"),
    10: _replaced(0, "one"),
}

DEFECTS: Mapping[str, Defect] = {
    # The archive.
    "truncated": lambda interval, content: (whole := _zipped(interval, content))[: len(whole) // 2],
    "checksum": _checksum,
    "no-zip": lambda _, content: content,
    "empty-archive": lambda interval, _: _zip(interval, {}),
    "two-members": lambda interval, content: _zip(interval, {_member(interval): content, "readme.txt": b"hello"}),
    "nested": lambda interval, content: _zipped(interval, _zipped(interval, content)),
    "bomb": lambda interval, _: _zipped(interval, bytes(_BOMB_BYTES)),
    "link": lambda interval, _: _zip(interval, {_member(interval): b"/etc/passwd"}, mode=stat.S_IFLNK | 0o777),
    "path": _named(lambda name: f"../{name}"),
    "absolute-path": _named(lambda name: f"/tmp/{name}"),
    "other-name": _named(lambda name: f"x{name}"),
    # The text in it.
    "no-events": _changed(lambda _: b""),
    "format-1.0": _lines(_format_1_0),
    "format-1.0-no-url": _lines(lambda number, fields: _format_1_0(number, fields)[:-1]),
    "spreadsheet": _lines(_resaved, between=";", end="\r\n"),
    "latin-1": _changed(lambda content: content.decode().encode("latin-1")),
    "byte-order-mark": _changed(lambda content: b"\xef\xbb\xbf" + content),
    "nul": _changed(lambda content: content.replace(b"UNITED STATES", b"UNITED\0STATES", 1)),
    "bad-rows": _lines(lambda number, fields: BAD_LINES[number](fields) if number in BAD_LINES else fields),
}


class Quirks(BaseModel):
    """What is other than promised with the file of an interval; by default nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    held: bool = Field(default=False, description="in no list, and 404: missing, or late until it is not held any more")
    answers_until_there: int = Field(
        default=0, ge=0, description="answers without it until a held file comes; 0: never"
    )
    withdrawn: bool = Field(default=False, description="in the lists, and 404 all the same")
    withdrawn_as: Literal[403, 404, 410] = Field(default=404, description="status of a withdrawn file")
    version: int = Field(
        default=0, ge=0, le=VERSIONS, description="how often it was published again, with another content"
    )
    defect: str = Field(default="", description=f"what is wrong with it: {', '.join(DEFECTS)}; empty: nothing")
    listed_size: int | None = Field(default=None, description="what the lists say instead of the size")
    listed_md5: str | None = Field(default=None, description="what the lists say instead of the MD5")
    halves: int = Field(
        default=0, ge=0, description="answers that have only the first half of it: it is being published"
    )

    @field_validator("defect")
    @classmethod
    def _known_defect(cls, value: str) -> str:
        if value and value not in DEFECTS:
            raise ValueError(f"must be one of {', '.join(DEFECTS)}")
        return value
