"""The files of the simulated feed: names, archives, archives that somebody has damaged, and what the feed does with a file.

`DEFECTS` says what may be wrong with a file. The feed lists a file with a defect by the size and MD5 that it has, so that only
who looks into it finds out. What the feed itself does other than promised are `Quirks`.
"""

import functools
import hashlib
import io
import stat
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from etl_assets.systems.events.simulator.data import TAB, VERSIONS, events

_LEVEL = 1  # a quarter larger than real archives, in less than half of the time
_BOMB_BYTES = 128 * 2**20
_FILES_KEPT = 500

# Indices of the fields of a line, from 0.
_SQL_DATE, _LATITUDE, _DATE_ADDED, _SOURCE_URL = 1, 56, 59, 60
_SECOND_LEVELS = (39, 47, 55)  # of administration, which version 1.0 of the format does not have

# Lines, from 1, that the defect `bad-rows` makes bad, and what is wrong with each.
BAD_LINES: Mapping[int, str] = {
    2: "60 fields",
    4: "62 fields",
    6: "there is no such day",
    8: "the latitude is no number",
    10: "the id is no number",
}

Fields = list[str]


def file_name(interval: datetime, kind: str = "export.CSV") -> str:
    """The name of an interval's file: of events, or of another kind."""
    return f"{interval:%Y%m%d%H%M%S}.{kind}.zip"


@dataclass(frozen=True)
class Made:
    """What is in a file: the interval, how many events, of which seed, its version, and its defect."""

    interval: datetime
    rows: int
    seed: int
    version: int
    defect: str


@dataclass(frozen=True)
class Listed:
    """What a list says of a file."""

    size: int
    md5: str


@functools.lru_cache(maxsize=_FILES_KEPT)
def archive(made: Made) -> bytes:
    """The file as it is served; the same bytes at each time."""
    content = events(made.interval, rows=made.rows, seed=made.seed, version=made.version)
    return DEFECTS[made.defect](made.interval, content) if made.defect else _zipped(made.interval, content)


@functools.cache
def listed(made: Made) -> Listed:
    """Size and MD5 of the file; kept of all files, which would take long to make again."""
    data = archive(made)
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


def _unpacked(interval: datetime, content: bytes) -> bytes:
    return content


def _empty_archive(interval: datetime, content: bytes) -> bytes:
    return _zip(interval, {})


def _named(name: Callable[[str], str]) -> "Defect":
    return lambda interval, content: _zip(interval, {name(_member(interval)): content})


def _text(change: Callable[[bytes], bytes]) -> "Defect":
    return lambda interval, content: _zipped(interval, change(content))


def _truncated(interval: datetime, content: bytes) -> bytes:
    whole = _zipped(interval, content)
    return whole[: len(whole) // 2]


def _checksum(interval: datetime, content: bytes) -> bytes:
    """Stored as it is, so that nothing but the checksum tells that a byte is another one."""
    made = bytearray(_zip(interval, {_member(interval): content}, method=zipfile.ZIP_STORED))
    made[len(made) // 2] ^= 1
    return bytes(made)


def _link(interval: datetime, content: bytes) -> bytes:
    return _zip(interval, {_member(interval): b"/etc/passwd"}, mode=stat.S_IFLNK | 0o777)


def _bomb(interval: datetime, content: bytes) -> bytes:
    member = zipfile.ZipInfo(_member(interval), interval.timetuple()[:6])
    member.compress_type = zipfile.ZIP_DEFLATED
    packed, block = io.BytesIO(), bytes(2**20)
    with zipfile.ZipFile(packed, "w") as made, made.open(member, "w") as file:
        for _ in range(_BOMB_BYTES // len(block)):
            file.write(block)
    return packed.getvalue()


def _lines(change: Callable[[int, Fields], Fields], *, between: str = TAB, end: str = "\n") -> "Defect":
    """Lines made anew of their fields; a change gets the number of the line, from 1."""

    def changed(content: bytes) -> bytes:
        lines = enumerate(content.decode().splitlines(), 1)
        return "".join(between.join(change(number, line.split(TAB))) + end for number, line in lines).encode()

    return _text(changed)


def _format_1_0(number: int, fields: Fields) -> Fields:
    fields[_DATE_ADDED] = fields[_DATE_ADDED][:8]
    return [field for at, field in enumerate(fields) if at not in _SECOND_LEVELS]


def _resaved(number: int, fields: Fields) -> Fields:
    """What a spreadsheet makes of a line: numbers of what looks like one, long ones as powers of ten, a header."""
    cells = [
        field if not field.isdigit() else str(int(field)) if len(field) < 12 else f"{int(field):.2E}"
        for field in fields
    ]
    return cells if number > 1 else [f"Column{at}" for at in range(1, len(fields) + 1)]


def _bad_row(number: int, fields: Fields) -> Fields:
    match BAD_LINES.get(number):
        case "60 fields":
            del fields[_SOURCE_URL]
        case "62 fields":
            fields.append("")
        case "there is no such day":
            fields[_SQL_DATE] = f"{fields[_SQL_DATE][:4]}0230"
        case "the latitude is no number":
            fields[_LATITUDE] = "north"
        case "the id is no number":
            fields[0] = "one"
    return fields


Defect = Callable[[datetime, bytes], bytes]

DEFECTS: Mapping[str, Defect] = {
    # The archive.
    "truncated": _truncated,
    "checksum": _checksum,
    "no-zip": _unpacked,
    "empty-archive": _empty_archive,
    "two-members": lambda interval, content: _zip(interval, {_member(interval): content, "readme.txt": b"hello"}),
    "nested": lambda interval, content: _zipped(interval, _zipped(interval, content)),
    "bomb": _bomb,
    "link": _link,
    "path": _named(lambda name: f"../{name}"),
    "absolute-path": _named(lambda name: f"/tmp/{name}"),
    "other-name": _named(lambda name: f"x{name}"),
    # The text in it.
    "no-events": _text(lambda content: content[:0]),
    "format-1.0": _lines(_format_1_0),
    "format-1.0-no-url": _lines(lambda number, fields: _format_1_0(number, fields)[:-1]),
    "spreadsheet": _lines(_resaved, between=";", end="\r\n"),
    "latin-1": _text(lambda content: content.decode().encode("latin-1")),
    "byte-order-mark": _text(lambda content: b"\xef\xbb\xbf" + content),
    "nul": _text(lambda content: content.replace(b"UNITED STATES", b"UNITED\0STATES", 1)),
    "bad-rows": _lines(_bad_row),
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
