"""What the simulated turbines measured: four signals a minute, the faults that are planted in them, and the source database.

A value follows from the seed, the turbine's name and the instant alone: it is the same in whatever parts the rows are made,
and whichever other turbines there are. Faults follow from the day's number and the turbine's place, and `planted` tells where they
are, so that a test can look for each of them.

The database is one table, `public.data`. Its comment tells what it was filled with, which is how a second fill knows that there is
nothing to do, and how a table that somebody else made is left alone. Everything goes over ADBC: COPY both ways, constant memory.
"""

import contextlib
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from psycopg import sql
from sqlalchemy.pool import QueuePool

from etl_assets.errors import ConfigurationError, PlatformError
from etl_assets.redaction import without_secrets

if TYPE_CHECKING:
    from adbc_driver_postgresql.dbapi import Connection

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

_MARK = "simulated turbines"
_LOCK = 7_061_005  # one advisory lock for all fills of a database
_IDLE_CONNECTIONS = 8
# As many as go into one part of an answer; more do not fit into the processor's cache.
_BATCH_BYTES = 2_000_000
_COMMENT = """
    SELECT t::oid AS table, obj_description(t, 'pg_class') AS comment FROM to_regclass('public.data') AS t
"""
# Indexes after the load: half the time. The old table is there for readers until the commit.
_PUBLISH = (
    "SET LOCAL maintenance_work_mem = '256MB'",
    "ALTER TABLE public.data_filled ALTER turbine SET NOT NULL, ALTER timestamp SET NOT NULL,"
    " ADD CONSTRAINT data_filled_id PRIMARY KEY (id)",
    "CREATE INDEX data_filled_time ON public.data_filled (turbine, timestamp)",
    "DROP TABLE IF EXISTS public.data",
    "ALTER TABLE public.data_filled RENAME TO data",
    "ALTER INDEX public.data_filled_id RENAME TO data_id",
    "ALTER INDEX public.data_filled_time RENAME TO data_time",
)

_Floats = npt.NDArray[np.float64]
_Minutes = npt.NDArray[np.int64]  # since 1970, unless noted


# What was measured


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


# Day, kind, signal, from when, for how many minutes, value. It repeats, and each turbine is a day further in it than the one before:
# the first turbine's first day has no fault.
PERIOD_DAYS = 10
_SCHEDULE: tuple[tuple[int, str, str, str, int, float | None], ...] = (
    (1, "gap", "", "02:00", 180, None),
    (2, "gap", "", "03:07", 1, None),
    (2, "gap", "", "07:11", 2, None),
    (2, "gap", "", "12:50", 10, None),
    (3, "frozen", "wind_speed", "10:00", 120, None),
    (3, "frozen", "ambient_temperature", "15:30", 300, None),
    (4, "spike", "wind_speed", "04:44", 1, 61.0),
    (4, "spike", "power", "10:17", 1, 9_000.0),
    (4, "spike", "ambient_temperature", "21:03", 1, 49.5),
    (5, "out_of_range", "wind_speed", "06:05", 3, -3.0),
    (5, "out_of_range", "power", "11:20", 2, 65_535.0),
    (5, "out_of_range", "ambient_temperature", "16:00", 15, -99.9),
    (5, "out_of_range", "wind_direction", "22:41", 1, 720.0),
    (6, "null", "wind_speed", "08:00", 30, None),
    (6, "null", "power", "08:15", 10, None),
    (6, "null", "ambient_temperature", "19:59", 1, None),
    # Of the ten minutes from 13:20 only one is there.
    (7, "gap", "", "13:20", 5, None),
    (7, "gap", "", "13:26", 4, None),
    (8, "storm", "wind_speed", "12:00", 360, None),
    (9, "gap", "", "23:00", 60, None),
)


def planted(start: date = START, days: int = DAYS, turbines: Sequence[str] = ()) -> list[Planted]:
    """What is in the rows of these days, in order of time, then turbine.

    The schedule of ten days repeats: nothing on the first day, then hours missing, single minutes missing, frozen sensors, spikes,
    values out of range, NULL, a bin with one minute, a storm, the last hour missing. The second turbine begins with the
    second day of it, and so on.
    """
    found = []
    for (number, turbine), day in itertools.product(enumerate(turbines or ("",)), range(days)):
        for place, kind, signal, at, minutes, value in _SCHEDULE:
            if place == (day + number) % PERIOD_DAYS:
                begin = datetime.combine(start + timedelta(days=day), time.fromisoformat(at), UTC)
                found.append(Planted(kind, turbine, signal, begin, begin + timedelta(minutes=minutes), value))
    return sorted(found, key=lambda one: (one.begin, one.turbine))


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
    storms = np.zeros(len(minutes))
    within: list[tuple[Planted, slice]] = []
    for fault in faults:
        begin, end = (int(instant.timestamp()) // 60 - first for instant in (fault.begin, fault.end))
        if begin >= 0 and end <= len(minutes):
            within.append((fault, slice(begin, end)))
            if fault.kind == "storm":
                storms[begin:end] = _STORM * np.sin(np.linspace(0, np.pi, end - begin)) ** 2
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


# The database


class SourceFailed(PlatformError):
    """The source database does not answer, or has no table; the message says which, without the URL."""


def fill(
    database_url: str, *, start: date = START, days: int = DAYS, turbines: Sequence[str] = (), seed: int = SEED
) -> int:
    """Fills the table with these days of these turbines, or of one without a name, in one transaction.

    Returns:
        The number of rows written: 0 when they were there already.

    Raises:
        ConfigurationError: if there is a table `data` that was not filled here, or the request makes no sense.
        SourceFailed: if the database does not do it.
    """
    if days < 1 or len(set(turbines)) < len(turbines) or not all(turbines):
        raise ConfigurationError(
            f"simulated turbines need at least one day and names that differ: asked for were {days} days of"
            f" {', '.join(map(repr, turbines)) or 'one turbine'}"
        )
    from adbc_driver_postgresql import dbapi

    content = f"{_MARK} {VERSION}, seed {seed}: {days} days from {start} of {', '.join(turbines) or 'one turbine'}"
    with _translated(database_url), dbapi.connect(database_url) as connection:
        _row(connection, sql.SQL("SELECT pg_advisory_xact_lock({})").format(_LOCK))
        found = _row(connection, sql.SQL(_COMMENT))
        if found["comment"] == content:
            return 0
        if found["table"] is not None and not (found["comment"] or "").startswith(_MARK):
            raise ConfigurationError(
                "the database for simulated turbines has a table public.data that they did not fill, and it was left as it is:"
                " give a database of its own"
            )
        with connection.cursor() as cursor:
            batches = pa.RecordBatchReader.from_batches(SCHEMA, rows(start, days, turbines, seed=seed))
            written = cursor.adbc_ingest("data_filled", batches, mode="create", db_schema_name="public")
            for statement in _PUBLISH:
                cursor.execute(statement)
            cursor.execute(sql.SQL("COMMENT ON TABLE public.data IS {}").format(content).as_string(None))
            cursor.execute("ANALYZE public.data")
        connection.commit()
        return written


def _row(connection: "Connection", query: sql.Composable) -> dict[str, Any]:
    """The single row of a query, not copied: what gives `void` cannot be."""
    with connection.cursor() as cursor:
        cursor.adbc_statement.set_options(**{"adbc.postgresql.use_copy": "false"})
        cursor.execute(query.as_string(None))
        (found,) = cursor.fetch_arrow_table().to_pylist()
        return found


@contextlib.contextmanager
def _translated(database_url: str) -> Iterator[None]:
    """Turns what the driver raises into a failure that carries no secret."""
    from adbc_driver_manager import Error

    try:
        yield
    except (Error, OSError) as error:  # the latter is what a reader raises
        # A URL that cannot be read is repeated by libpq, password included.
        said = " ".join(str(error).split())
        text = without_secrets(said, database_url)
        raise SourceFailed(f"the source database failed: {text}") from (error if text == said else None)


class Source:
    """The table as a server reads it; connections are kept, since opening one takes longer than a day of rows.

    Args:
        database_url: `postgresql://…`; nothing is opened before the first query.
    """

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._pool = QueuePool(self._open, pool_size=_IDLE_CONNECTIONS, max_overflow=-1, reset_on_return=None)

    @contextlib.contextmanager
    def batches(self, query: sql.Composable) -> Iterator[pa.RecordBatchReader]:
        """What a query gives, as it arrives; it ends where the context does, however much was read.

        Raises:
            SourceFailed: also where the batches are read.
        """
        with _translated(self._url):
            pooled = self._pool.connect()
        ended = False
        try:
            with _translated(self._url), contextlib.closing(pooled.cursor()) as cursor:
                cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(_BATCH_BYTES)})
                cursor.execute(query.as_string(None))
                reader = cursor.fetch_record_batch()
                yield reader
                # Otherwise rows may still be under way, and the connection is no good for anything else.
                ended = next(iter(reader), None) is None
        except SourceFailed:
            # A server that went away took the idle connections with it.
            self.close()
            raise
        finally:
            if not ended:
                pooled.invalidate()
            pooled.close()

    def close(self) -> None:
        """Closes what is idle; what is in use is closed by whoever uses it, or is kept."""
        self._pool.dispose()
        self._pool = self._pool.recreate()

    def _open(self) -> Any:
        from adbc_driver_postgresql import dbapi

        connection = dbapi.connect(self._url, autocommit=True)
        with connection.cursor() as cursor:
            # Rows in the order of the table, and a core left for those who read them.
            cursor.execute("SET max_parallel_workers_per_gather = 0")
        return connection
