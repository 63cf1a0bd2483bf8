"""What the simulated turbines measured: four signals a minute, and the faults that are planted in them.

A value follows from the seed, the turbine's name and the instant alone: it is the same in whatever parts the rows are made,
and whichever other turbines there are. Faults follow from the day's number and the turbine's place, and `planted` tells where they
are, so that a test can look for each of them. No I/O here; the database is filled by `database`.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

# Part of the content's identity: another number wherever the same seed gives other rows.
VERSION = 1
START = date(2024, 5, 20)
DAYS = 10
# With it the first day goes from a calm to full power.
SEED = 8
SIGNALS = ("wind_speed", "power", "ambient_temperature", "wind_direction")
SCHEMA = pa.schema(
    [("id", pa.int64()), ("turbine", pa.string()), ("timestamp", pa.timestamp("us"))]
    + [(name, pa.float64()) for name in SIGNALS]
)

# The turbine: wind in m/s at which it begins to turn, has its full power, and is stopped for its own safety.
CUT_IN = 3.0
RATED_WIND = 12.5
CUT_OUT = 25.0
RATED_KW = 3_600.0

_DAY_MIN = 1_440
_DAYS_AT_ONCE = 120
_WEIBULL_SCALE = 9.0
_STORM = 28.0  # m/s on top of the wind that there is

_Floats = npt.NDArray[np.float64]
_Minutes = npt.NDArray[np.int64]  # since 1970, unless noted


@dataclass(frozen=True)
class Planted:
    """Something that a turbine's rows have in [begin, end).

    Attributes:
        kind: `gap` (the rows are missing), `null` (the signal is), `frozen` (the signal stays what it was at `begin`), `spike` (a
            value that can be, and was not), `out_of_range` (one that cannot be), `storm` (wind beyond cut-out; not a fault).
        turbine: its name; empty for the only one of a source that names none.
        signal: empty where the whole row is concerned.
        value: of spikes and of what is out of range.
    """

    kind: str
    turbine: str
    signal: str
    begin: datetime
    end: datetime
    value: float | None = None


class _Place(NamedTuple):
    """A fault of one day of the schedule, from a time of day on."""

    day: int
    kind: str
    signal: str
    at: time
    minutes: int
    value: float | None = None


# It repeats, and each turbine is a day further in it than the one before: the first turbine's first day has no fault.
PERIOD_DAYS = 10
_SCHEDULE = (
    _Place(1, "gap", "", time(2, 0), 180),
    _Place(2, "gap", "", time(3, 7), 1),
    _Place(2, "gap", "", time(7, 11), 2),
    _Place(2, "gap", "", time(12, 50), 10),
    _Place(3, "frozen", "wind_speed", time(10, 0), 120),
    _Place(3, "frozen", "ambient_temperature", time(15, 30), 300),
    _Place(4, "spike", "wind_speed", time(4, 44), 1, 61.0),
    _Place(4, "spike", "power", time(10, 17), 1, 9_000.0),
    _Place(4, "spike", "ambient_temperature", time(21, 3), 1, 49.5),
    _Place(5, "out_of_range", "wind_speed", time(6, 5), 3, -3.0),
    _Place(5, "out_of_range", "power", time(11, 20), 2, 65_535.0),
    _Place(5, "out_of_range", "ambient_temperature", time(16, 0), 15, -99.9),
    _Place(5, "out_of_range", "wind_direction", time(22, 41), 1, 720.0),
    _Place(6, "null", "wind_speed", time(8, 0), 30),
    _Place(6, "null", "power", time(8, 15), 10),
    _Place(6, "null", "ambient_temperature", time(19, 59), 1),
    # Of the ten minutes from 13:20 only one is there.
    _Place(7, "gap", "", time(13, 20), 5),
    _Place(7, "gap", "", time(13, 26), 4),
    _Place(8, "storm", "wind_speed", time(12, 0), 360),
    _Place(9, "gap", "", time(23, 0), 60),
)


def planted(start: date = START, days: int = DAYS, turbines: Sequence[str] = ()) -> list[Planted]:
    """What is in the rows of these days, in order of time, then turbine.

    The schedule of ten days repeats: nothing on the first day, then hours missing, single minutes missing, frozen sensors, spikes,
    values out of range, NULL, a bin with one minute, a storm, the last hour missing. The second turbine begins with the
    second day of it, and so on.
    """
    found = [
        _planted(place, start + timedelta(days=day), turbine)
        for number, turbine in enumerate(turbines or ("",))
        for day in range(days)
        for place in _SCHEDULE
        if place.day == (day + number) % PERIOD_DAYS
    ]
    return sorted(found, key=lambda one: (one.begin, one.turbine))


def _planted(place: _Place, day: date, turbine: str) -> Planted:
    begin = datetime.combine(day, place.at, UTC)
    return Planted(
        place.kind, turbine, place.signal, begin, begin + timedelta(minutes=place.minutes), value=place.value
    )


def rows(
    start: date = START, days: int = DAYS, turbines: Sequence[str] = (), *, seed: int = SEED
) -> Iterator[pa.RecordBatch]:
    """All rows in order of turbine and time, some days at a time: constant memory, and the order of the table's index.

    A row's `id` is its place among all minutes of these turbines and days, from 1; those of missing minutes are left out.
    """
    first_minute = (start - date(1970, 1, 1)).days * _DAY_MIN
    faults: dict[str, list[Planted]] = {turbine: [] for turbine in turbines or ("",)}
    for one in planted(start, days, turbines):
        faults[one.turbine].append(one)
    for number, turbine in enumerate(faults):
        for first in range(0, days, _DAYS_AT_ONCE):
            passed = first * _DAY_MIN + np.arange(min(_DAYS_AT_ONCE, days - first) * _DAY_MIN)
            minutes = first_minute + passed
            values, present = _measured(turbine, minutes, faults[turbine], seed)
            columns = [
                pa.array(number * days * _DAY_MIN + passed[present] + 1),
                pa.repeat(pa.scalar(turbine), np.count_nonzero(present)),
                pa.array(minutes[present] * 60_000_000).cast(pa.timestamp("us")),
                *(pa.array(values[name][present], from_pandas=True) for name in SIGNALS),
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _measured(
    turbine: str, minutes: _Minutes, faults: Sequence[Planted], seed: int
) -> tuple[dict[str, _Floats], npt.NDArray[np.bool_]]:
    """Consecutive minutes of one turbine with their faults, NaN for NULL, and which of them are present."""
    first = int(minutes[0])
    within: list[tuple[Planted, slice]] = []
    for fault in faults:
        begin, end = (int(instant.timestamp()) // 60 - first for instant in (fault.begin, fault.end))
        if begin >= 0 and end <= len(minutes):
            within.append((fault, slice(begin, end)))
    storms = np.zeros(len(minutes))
    for _, place in (pair for pair in within if pair[0].kind == "storm"):
        storms[place] = _STORM * np.sin(np.linspace(0, np.pi, place.stop - place.start)) ** 2
    values = _signals(turbine, minutes, storms, seed)
    present = np.ones(len(minutes), bool)
    for fault, place in within:
        if fault.kind == "gap":
            present[place] = False
        elif fault.kind == "null":
            values[fault.signal][place] = np.nan
        elif fault.kind == "frozen":
            values[fault.signal][place] = values[fault.signal][place.start]
        elif fault.value is not None:
            values[fault.signal][place] = fault.value
    return values, present


def _signals(turbine: str, minutes: _Minutes, storms: _Floats, seed: int) -> dict[str, _Floats]:
    """The signals of a turbine that has no fault, at consecutive minutes."""

    def weather(signal: str, every: int) -> _Floats:  # the same for all turbines
        return _noise(f"{seed}/{signal}", minutes, every)

    def local(signal: str, every: int = 1) -> _Floats:
        return _noise(f"{seed}/{signal}/{turbine}", minutes, every)

    normal = 0.9 * weather("wind", 5_760) + 0.6 * weather("wind", 720) + 0.3 * weather("wind", 120)
    # With Φ(z) taken as 1 / (1 + exp(-1.702 z)) this is the Weibull distribution's quantile, of shape 2.
    wind = _WEIBULL_SCALE * np.sqrt(np.log1p(np.exp(1.702 * (normal + 0.2 * local("wind", 30))))) + storms
    gusts = 0.05 * local("gusts", 4) + 0.04 * local("gusts")
    # The rotor's inertia evens the gusts out.
    caught = np.clip(wind * (1 + gusts / 2), CUT_IN, RATED_WIND) ** 3
    power = RATED_KW * (caught - CUT_IN**3) / (RATED_WIND**3 - CUT_IN**3) * (1 + 0.004 * local("power"))
    power[wind > CUT_OUT] = 0
    years = minutes / (365.2425 * _DAY_MIN)
    season = -np.cos(2 * np.pi * (years - 0.055))  # coldest on 20 January
    hours = -np.cos(2 * np.pi * (minutes % _DAY_MIN - 150) / _DAY_MIN)  # coldest at 2:30, warmest at 14:30
    temperature = 10 + 8 * season + 3.5 * hours + 3 * weather("temperature", 2_880) + 0.06 * local("temperature")
    turned = 250 + 110 * weather("direction", 5_760) + 20 * weather("direction", 360) + 2.5 * local("direction")
    return {
        "wind_speed": np.round(wind * (1 + gusts), 2),
        "power": np.round(power, 1),
        "ambient_temperature": np.round(temperature, 2),
        "wind_direction": np.round(turned % 360, 1) % 360,
    }


def _noise(name: str, minutes: _Minutes, every: int) -> _Floats:
    """Random numbers of about unit variance at each `every`-th minute since 1970, on straight lines in between."""
    first, last = int(minutes[0]), int(minutes[-1])
    knots = np.arange(first // every, last // every + 2)
    values = _drawn(f"{name}/{every}", knots)
    return values[: len(minutes)] if every == 1 else np.interp(minutes, knots * every, values)


def _drawn(name: str, numbers: _Minutes) -> _Floats:
    """A random number for each number, of unit variance and within ±√6: SplitMix64, whose halves are added."""
    key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
    mixed = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    halves = (mixed >> np.uint64(32)) + (mixed & np.uint64(0xFFFFFFFF))
    return (halves.astype(np.float64) / 2**32 - 1) * np.sqrt(6)
