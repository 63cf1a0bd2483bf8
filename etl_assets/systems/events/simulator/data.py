"""What is in the files of the simulated feed: the events of a quarter of an hour, as text, made column by column.

The cells of places, actors and kinds of events are in `cells.tsv`, as they stand in a file.

Everything follows from the seed, the interval and the version of its file. An event's id is given by its interval and its place in it:
ids are unique over all files and rise with time. A version after the first leaves out an event at the beginning and
has another one at the end, and a tenth of the others are mentioned more often.
"""

import functools
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa

INTERVAL = timedelta(minutes=15)
BEGINNING = datetime(2015, 2, 18, 23, tzinfo=UTC)  # the first file of version 2.0 of the format
ROWS = 2_000
_FIRST_ID = 410_000_000
_IDS = 3_000  # of an interval, unless it has more events
_SPARE_IDS = 500
VERSIONS = _SPARE_IDS

# How many of the places of action are where; the rest are in the United States.
_SHARES = {
    "us": 1 - (0.63 + 0.03 + 0.012 + 0.004),
    "abroad": 0.63,
    "nowhere": 0.03,
    "territories": 0.012,
    "at zero": 0.004,
}
# How often each root is met, in hundredths; of the last, which there is not, some in a thousand.
_ROOT_WEIGHTS = (11, 8, 7, 19, 11, 2, 3, 4, 4, 2, 7, 3, 2, 2, 1, 2, 7, 3, 10, 0.5, 0.2)
# Days before that of the file on which an event happened, and how many did.
_AGES = {0: 0.963, 1: 0.007, 7: 0.007, 30: 0.009, 365: 0.014}
_ROWS_OF_AN_ARTICLE = 4.5
_CHANGED = 10  # one event in so many is another one in a new version

_Rng = np.random.Generator
TAB = "\t"


@functools.cache
def _cells(*groups: str) -> list[str]:
    """The cells of some groups, in the order of these."""
    lines = Path(__file__).with_name("cells.tsv").read_text().splitlines()
    named = [line.partition(TAB) for line in lines if not line.startswith("#")]
    return [cells for group in groups for name, _, cells in named if name == group]


def first_id(interval: datetime, *, rows: int) -> int:
    """The id of the first event of an interval's first file."""
    return _FIRST_ID + (interval - BEGINNING) // INTERVAL * max(_IDS, rows + _SPARE_IDS)


def events(interval: datetime, *, rows: int = ROWS, seed: int = 0, version: int = 0) -> bytes:
    """The content of an interval's file: `rows` lines of 61 fields.

    Args:
        interval: aware, on a quarter of an hour in UTC.
        version: how often the file was published again, at most `VERSIONS` times.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

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
    _, offsets, text = lines.buffers()
    # The text of an Arrow array of strings is one block of memory.
    return bytes(memoryview(text)[: np.frombuffer(offsets, np.int32)[rows]]) if rows else b""


def _who_what_where(rng: _Rng, interval: datetime, ids: npt.NDArray[np.int64], version: int) -> list["pa.StringArray"]:
    """The fields between the id and the time of the file."""
    count = len(ids)
    articles = rng.geometric(0.18, count)
    tones = np.round(rng.normal(-2.0, 3.5, count), 12)
    all_places = _cells(*_SHARES)
    action = rng.choice(len(all_places), count, p=_weights())
    actors, places = [_actors(rng, count) for _ in range(2)], [_elsewhere(rng, action, share) for share in (0.1, 0.27)]
    mentions = articles + np.where((ids % _CHANGED == 0) & (version > 0), version, 0)
    return [
        _picked(_days(interval.date()), rng.choice(len(_AGES), count, p=list(_AGES.values()))),
        *actors,
        _text(rng.integers(0, 2, count)),
        _picked(_cells("events"), rng.choice(len(_cells("events")), count, p=_event_weights())),
        _text(mentions),
        _text(np.minimum(articles, 1 + rng.poisson(0.05, count))),
        _text(articles),
        _text(tones),
        *(_picked(all_places, chosen) for chosen in (*places, action)),
    ]


def _days(day: date) -> list[str]:
    """The four fields of the day on which an event happened, for each age."""
    return [_day(day - timedelta(days=age)) for age in _AGES]


def _day(day: date) -> str:
    fraction = ((day.month - 1) * 30 + day.day) / 365
    return TAB.join((f"{day:%Y%m%d}", f"{day:%Y%m}", f"{day:%Y}", f"{day.year + fraction:.4f}"))


def _weights() -> npt.NDArray[np.float64]:
    counts = {group: len(_cells(group)) for group in _SHARES}
    return np.concatenate([np.full(counts[group], share / counts[group]) for group, share in _SHARES.items()])


def _event_weights() -> npt.NDArray[np.float64]:
    roots = [int(event.split(TAB)[2]) for event in _cells("events")]
    weights = np.array([_ROOT_WEIGHTS[root - 1] / roots.count(root) for root in roots])
    return weights / weights.sum()


def _actors(rng: _Rng, count: int) -> "pa.StringArray":
    # Of a fifth nothing is known.
    return _picked(
        _cells("actors"), np.where(rng.random(count) < 0.2, 0, rng.integers(0, len(_cells("actors")), count))
    )


def _elsewhere(rng: _Rng, action: npt.NDArray[np.int64], unknown: float) -> npt.NDArray[np.int64]:
    """Where an actor is: mostly where the action is, at times anywhere else or unknown."""
    draw = rng.random(len(action))
    nowhere = _cells(*_SHARES).index(_cells("nowhere")[0])
    anywhere = rng.integers(0, len(_cells(*_SHARES)), len(action))
    return np.select([draw < unknown, draw < unknown + 0.2], [np.full(len(action), nowhere), anywhere], action)


def _lines_of_urls(rng: _Rng, interval: datetime, count: int) -> "pa.StringArray":
    """Articles, each with some events; with them a line ends."""
    folder = f"example/{interval:%Y/%m/%d/%H%M}"
    articles = [
        f"https://news{number % 7}.{folder}/{number}.html\n"
        for number in range(max(round(count / _ROWS_OF_AN_ARTICLE), 1))
    ]
    return _picked(articles, np.sort(rng.integers(0, len(articles), count)))


def _picked(texts: Sequence[str], chosen: npt.NDArray[np.int64]) -> "pa.StringArray":
    import pyarrow as pa

    return pa.array(texts, pa.string()).take(pa.array(chosen))


def _text(values: npt.NDArray[Any]) -> "pa.StringArray":
    import pyarrow as pa

    return pa.array(values).cast(pa.string())
