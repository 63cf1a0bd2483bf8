"""The manifest of intervals: what became of each quarter of an hour, as rows of `events.intervals`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pyarrow as pa
from psycopg import Connection, sql
from psycopg.rows import dict_row

from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.database.connections import Database
from etl_assets.core.slices import merging
from etl_assets.core.slices.commit import Loaded, Part
from etl_assets.core.slices.difference import Rows
from etl_assets.core.slices.heads import Head
from etl_assets.core.slices.lock import Lock, locked
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.transaction import Transaction, names, refuse_drift
from etl_assets.core.slices.writing import Write, write
from etl_assets.errors import ConfigurationError
from etl_assets.systems.events.contracts import Intervals

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
        return _read(connection, b"interval >= %s AND interval < %s", first, last)


def with_repeated(database: Database, *, beside: Sequence[datetime]) -> list[Entry]:
    """The intervals with rows of events that are stored with another interval, but for some intervals, in their order."""
    condition = b"rows_repeated > 0 AND rows_raw IS NOT NULL AND NOT interval = ANY(%s)"
    with database.connect() as connection:
        return [*_read(connection, condition, list(beside)).values()]


def unsettled(database: Database) -> list[Entry]:
    """The intervals, in their order, of which rows are to be derived, or the file is sought."""
    condition = b"state = 'fetched' OR accepted IS NULL AND state IN ('missing', 'loaded') AND " + LOST
    with database.connect() as connection:
        left = _read(connection, condition)
    return [entry for entry in left.values() if entry.state == "fetched" or entry.sought]


def entry_of(connection: Connection[Any], interval: datetime) -> Entry | None:
    """What the manifest says of an interval; none if that is not in it."""
    return _read(connection, b"interval = %s", interval).get(interval)


def record(database: Database, changed: Sequence[Entry], *, run_id: str, lock: Lock) -> None:
    """Store what became of intervals; entries that are as they were stay untouched.

    Args:
        lock: of the manifest, held since it was read.
    """
    if changed:
        how = Write("upsert", run_id=run_id, source="events feed", lock=lock)
        write(database, as_table(changed), [Slice(Intervals)], how)


def part(interval: datetime, change: Callable[[Entry], Entry]) -> Part:
    """A change of what the manifest says of an interval, in the commit of what it is about.

    Args:
        change: from what it says in that transaction to what it is to say.
    """

    def load(transaction: Transaction, _: Head) -> Loaded:
        refuse_drift(transaction, Intervals)
        query = sql.SQL("SELECT {} FROM events.intervals WHERE interval = {}").format(
            names(Intervals.columns), sql.Literal(interval)
        )
        found = transaction.rows(query).to_pylist()
        current = Entry(**{name: _in_utc(value) for name, value in found[0].items()}) if found else Entry(interval)
        rows = Rows(as_table([change(current)]), Intervals.config.key)
        return Loaded(merging.upsert(transaction, Slice(Intervals), rows), 1, size=rows.table.nbytes)

    return Part(Slice(Intervals), "upsert", load)


def record_unless_changed(
    database: Database, changed: Sequence[Entry], *, run_id: str, since: Mapping[datetime, Entry]
) -> None:
    """Store what became of intervals, under the lock.

    Args:
        since: what the manifest said when the work on them began. An interval of which it says something else by now is left out: somebody
            else has been at it.
    """
    if not changed or database.is_dry_run:
        return
    with locked(database, [Slice(Intervals)]) as lock, database.connect() as connection:
        now = _read(connection, b"interval = ANY(%s)", [entry.interval for entry in changed])
        same = [entry for entry in changed if now.get(entry.interval) == since.get(entry.interval)]
        record(database, same, run_id=run_id, lock=lock)


def accept(database: Database, first: datetime, last: datetime, *, reason: str) -> list[Entry]:
    """Record that a person has accepted that what is lost of [first, last) is not to be had; gives the entries of that.

    What is missing is absent then: it is looked for no more, but taken if a run of its day finds it. What was accepted before stays
    so, with its reason.

    Raises:
        ConfigurationError: if nothing of that stretch is lost.
    """
    with locked(database, [Slice(Intervals)]) as lock, database.connect() as connection:
        lost = _read(connection, b"interval >= %s AND interval < %s AND accepted IS NULL AND " + LOST, first, last)
        if not lost:
            raise ConfigurationError(
                f"of the intervals from {first:%Y-%m-%dT%H:%MZ} until {last:%Y-%m-%dT%H:%MZ} none is missing, absent, refused or damaged that is not accepted: there is nothing to accept"
            )
        accepted = [
            replace(entry, state="absent" if entry.state == "missing" else entry.state, accepted=reason)
            for entry in lost.values()
        ]
        record(database, accepted, run_id="script", lock=lock)
    return accepted


def as_table(changed: Iterable[Entry]) -> pa.Table:
    """Entries in the contract of `Intervals`."""
    return pa.Table.from_pylist([asdict(entry) for entry in changed], schema=arrow_schema(Intervals))


def _read(connection: Connection[Any], condition: bytes, *values: Any) -> dict[datetime, Entry]:
    query = b"SELECT %b FROM events.intervals WHERE %b ORDER BY interval"
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(query % (", ".join(Intervals.columns).encode(), condition), values).fetchall()
    found = (Entry(**{name: _in_utc(value) for name, value in row.items()}) for row in rows)
    return {entry.interval: entry for entry in found}


def _in_utc(value: Any) -> Any:
    return value.astimezone(UTC) if isinstance(value, datetime) else value
