"""The manifest of intervals: what became of each quarter of an hour, as rows of `events.intervals`."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.database.connections import Database
from etl_assets.core.database.locks import advisory_lock, limit_waits
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.writing import Write, write
from etl_assets.errors import ConfigurationError
from etl_assets.systems.events.contracts import Intervals

if TYPE_CHECKING:
    import psycopg

DAY = timedelta(days=1)
# The file, or its newest version, could not be had so far. `reason` is NULL where nothing is wrong, and `md5` where nothing is
# stored, or nobody knows which version.
LOST = b"(reason IS NOT NULL OR md5 IS NULL)"


@dataclass(frozen=True)
class Entry:
    """A row of the manifest; see `Intervals` for what the columns mean."""

    interval: datetime
    state: str = "missing"
    size: int | None = None
    md5: str | None = None
    refused_md5: str | None = None
    rows_raw: int | None = None
    rows_us: int | None = None
    rows_repeated: int | None = None
    attempts: int = 0
    first_asked_at: datetime | None = None
    last_asked_at: datetime | None = None
    loaded_at: datetime | None = None
    reason: str | None = None
    accepted: str | None = None

    @property
    def stored(self) -> bool:
        """Whether rows of the interval are in the raw layer."""
        return self.rows_raw is not None

    @property
    def sought(self) -> bool:
        """Whether the feed is asked again for its file: for any, for a newer version, or as nobody knows which is stored."""
        if self.accepted:
            return False
        newer = self.reason is not None and self.refused_md5 is None
        return self.state == "missing" or (self.stored and (newer or self.md5 is None))


def midnight(day: date) -> datetime:
    """When a day begins, in UTC."""
    return datetime.combine(day, time(), tzinfo=UTC)


def entries(database: Database, first: datetime, last: datetime) -> dict[datetime, Entry]:
    """What the manifest says of the intervals in [first, last), in their order."""
    with database.connect() as connection:
        limit_waits(connection)
        found = _read(connection, b"interval >= %s AND interval < %s", (first, last))
    return {entry.interval: entry for entry in found}


def with_repeated(connection: "psycopg.Connection[Any]", *, beside: Sequence[datetime]) -> list[Entry]:
    """The intervals with rows of events that are stored with another interval, but for some intervals, in their order."""
    condition = b"rows_repeated > 0 AND rows_raw IS NOT NULL AND NOT interval = ANY(%s)"
    return _read(connection, condition, (list(beside),))


def unsettled(database: Database) -> list[Entry]:
    """The intervals, in their order, of which rows are to be derived, or the file is sought."""
    with database.connect() as connection:
        limit_waits(connection)
        left = _read(
            connection, b"state = 'fetched' OR accepted IS NULL AND state IN ('missing', 'loaded') AND " + LOST, ()
        )
    return [entry for entry in left if entry.state == "fetched" or entry.sought]


@contextlib.contextmanager
def locked(database: Database) -> "Iterator[psycopg.Connection[Any]]":
    """Read the manifest and write it, the raw layer or US events as the only one who does; gives the connection that holds the lock."""
    with database.connect() as connection:
        advisory_lock(connection, "events.intervals")
        yield connection


def entry_of(connection: "psycopg.Connection[Any]", interval: datetime) -> Entry | None:
    """What the manifest says of an interval; none if that is not in it."""
    return next(iter(_read(connection, b"interval = %s", (interval,))), None)


def record(database: Database, changed: Sequence[Entry], *, run_id: str) -> None:
    """Store what became of intervals, for one who holds the lock; entries that are as they were stay untouched."""
    if changed:
        write(database, as_table(changed), [Slice(Intervals)], Write("upsert", run_id=run_id, source="events feed"))


def record_unless_changed(
    database: Database, changed: Sequence[Entry], *, run_id: str, since: Mapping[datetime, Entry]
) -> None:
    """Store what became of intervals, under the lock.

    Args:
        since: what the manifest said when the work on them began. An interval of which it says something else by now is left out: somebody
            else has been at it.
    """
    if not changed:
        return
    with locked(database) as connection:
        now = {
            entry.interval: entry
            for entry in _read(connection, b"interval = ANY(%s)", ([e.interval for e in changed],))
        }
        record(
            database,
            [entry for entry in changed if now.get(entry.interval) == since.get(entry.interval)],
            run_id=run_id,
        )


@contextlib.contextmanager
def changing(database: Database, interval: datetime) -> Iterator[Callable[[], None]]:
    """The lock to change the rows of an interval in the raw layer; what is given records, before they are changed, that its US events
    are to be derived again.
    """
    with locked(database) as connection:
        entry = entry_of(connection, interval)

        def derive_again() -> None:
            if entry and entry.state == "loaded":
                record(database, [replace(entry, state="fetched")], run_id="script")

        yield derive_again


def accept(database: Database, first: datetime, last: datetime, *, reason: str) -> list[Entry]:
    """Record that a person has accepted that what is lost of [first, last) is not to be had; gives the entries of that.

    What is missing is absent then: it is looked for no more, but taken if a run of its day finds it. What was accepted before stays
    so, with its reason.

    Raises:
        ConfigurationError: if nothing of that stretch is lost.
    """
    with locked(database) as connection:
        condition = b"interval >= %s AND interval < %s AND accepted IS NULL AND " + LOST
        lost = _read(connection, condition, (first, last))
        if not lost:
            raise ConfigurationError(
                f"of the intervals from {first:%Y-%m-%dT%H:%MZ} until {last:%Y-%m-%dT%H:%MZ} none is missing, absent, refused or damaged that is not accepted: there is nothing to accept"
            )
        states = {"missing": "absent"}
        accepted = [replace(entry, state=states.get(entry.state, entry.state), accepted=reason) for entry in lost]
        record(database, accepted, run_id="script")
    return accepted


def as_table(changed: Iterable[Entry]) -> pa.Table:
    """Entries in the contract of `Intervals`."""
    return pa.Table.from_pylist([asdict(entry) for entry in changed], schema=arrow_schema(Intervals))


def _read(connection: "psycopg.Connection[Any]", condition: bytes, values: Sequence[Any]) -> list[Entry]:
    query = b"SELECT %b FROM events.intervals WHERE %b ORDER BY interval"
    rows = connection.execute(query % (", ".join(Intervals.columns).encode(), condition), values).fetchall()
    return [Entry(**dict(zip(Intervals.columns, map(_in_utc, row), strict=True))) for row in rows]


def _in_utc(value: Any) -> Any:
    return value.astimezone(UTC) if isinstance(value, datetime) else value
