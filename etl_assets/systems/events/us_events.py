"""From the raw layer to the US events in Postgres: some intervals of a day in a transaction, with what the manifest says of them.

An event that several files have is stored once (see `deduplicated_events`), so that what becomes of an interval depends on others, and one writer
at a time decides. Where an interval gives up an event that another file may have too, the intervals with such events are
derived again; until that is done the manifest has them as fetched.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import partial
from typing import NamedTuple

import pyarrow as pa
from psycopg.rows import dict_row

from etl_assets.core.contracts import Split
from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.database.connections import Database
from etl_assets.core.slices.heads import heads_of
from etl_assets.core.slices.inputs import Inputs
from etl_assets.core.slices.lock import Lock, locked
from etl_assets.core.slices.parquet import DamagedFile, NothingStored, read_parquet
from etl_assets.core.slices.session import looked_again
from etl_assets.core.slices.slice import OneOf, Slice
from etl_assets.core.slices.writing import Outcome, Write, write_together
from etl_assets.errors import PermanentError, PlatformError, combined
from etl_assets.systems.events.contracts import Intervals, UsEventData
from etl_assets.systems.events.files import INTERVAL
from etl_assets.systems.events.manifest import Entry, as_table, entries, record, with_repeated
from etl_assets.systems.events.raw_layer import Clock, Stores, interval_slice
from etl_assets.systems.events.transform import TAKEN_OVER, UsEvents, UsRule, deduplicated_events, us_events

# So many intervals go in one transaction.
STORED_TOGETHER = 32
CHANGES = ("inserted", "updated", "deleted")


class Counted(NamedTuple):
    """The events of an interval.

    Attributes:
        us: how many are US events.
        repeated: how many of these are stored with another interval.
        left_out: how many events the rule left out, by reason.
    """

    us: int
    repeated: int
    left_out: Mapping[str, int]


class StoredIntervals(NamedTuple):
    """What became of the US events of some intervals, in one transaction.

    Attributes:
        day: that all of them are of.
        intervals: their events.
        outcome: of their rows; those that are stored with another interval count as deduplicated.
    """

    day: date
    intervals: Mapping[datetime, Counted]
    outcome: Outcome


def totals(stored: Iterable[StoredIntervals]) -> tuple[dict[str, int], dict[str, int]]:
    """What several transactions did together; an interval that was derived again among them counts once, as it is in the end.

    Args:
        stored: in the order in which they were.

    Returns:
        How many `intervals` there are, and of `received` US events how many were `inserted`, `updated` or `unchanged`, or are stored
        with another interval (`deduplicated`); with those that were `deleted`. And how many events the rule left out, by reason.
    """
    last: dict[datetime, Counted] = {}
    changes, left_out = Counter(dict.fromkeys(CHANGES, 0)), Counter[str]()
    for one in stored:
        last.update(one.intervals)
        changes.update({name: getattr(one.outcome.change, name) for name in CHANGES})
    for counted in last.values():
        left_out.update(counted.left_out)
    received, repeated = (sum(getattr(one, name) for one in last.values()) for name in ("us", "repeated"))
    # What was inserted and has gone again since is not among what was received.
    unchanged = max(received - repeated - changes["inserted"] - changes["updated"], 0)
    counts = {"intervals": len(last), "received": received, **changes, "unchanged": unchanged, "deduplicated": repeated}
    return counts, dict(left_out)


class _Derived(NamedTuple):
    """The US events of an interval: what the manifest says of it, the ids of its rows in the raw layer, those that are US events."""

    entry: Entry
    ids: pa.ChunkedArray
    events: UsEvents

    @property
    def known_ids(self) -> pa.ChunkedArray:
        """The ids of the events that are the interval's: of a new file those of its US events."""
        return self.ids if self.entry.state == "loaded" else self.events.rows["global_event_id"]


def store_us_events(
    stores: Stores, intervals: Iterable[datetime], *, rule: UsRule, clock: Clock, only_fetched: bool = False
) -> Iterator[StoredIntervals]:
    """Derive the US events of intervals from the raw layer and replace those that are stored; intervals without rows are passed over.

    Args:
        intervals: aware, on quarters of an hour.
        rule: which events are US events.
        clock: gives the present instant, aware: the upload date of the rows of a transaction that are new or changed.
        only_fetched: pass over what is loaded already.

    Raises:
        TransientError, PermanentError: as `write_together`; intervals that were stored before stay. At the end, for
            intervals whose rows in the raw layer are gone or damaged: of these what is stored stays.
    """
    failures: list[PlatformError] = []
    waiting = set(_stored(stores.database, sorted(intervals), only_fetched=only_fetched))
    while waiting:
        again: set[datetime] = set()
        for batch in _batches(sorted(waiting)):
            stored, given_up = looked_again(partial(_store, batch, stores, rule, clock, failures))
            again = again.difference(batch).union(given_up)
            if stored:
                yield stored
        waiting = again
    if failures:
        raise combined(failures)


def _stored(database: Database, intervals: Sequence[datetime], *, only_fetched: bool) -> list[datetime]:
    """Those of the intervals, in order, that have rows in the raw layer; or of these only those that nobody has derived."""
    if not intervals:
        return []
    manifest = entries(database, intervals[0], intervals[-1] + INTERVAL)
    states = ("fetched",) if only_fetched else ("fetched", "loaded")
    return [at for at in intervals if at in manifest and manifest[at].stored and manifest[at].state in states]


def _batches(intervals: Sequence[datetime]) -> list[list[datetime]]:
    """Intervals, in order, as they are stored together: no two days in one."""
    days = [list(of_day) for _, of_day in itertools.groupby(intervals, lambda at: at.astimezone(UTC).date())]
    return [day[at : at + STORED_TOGETHER] for day in days for at in range(0, len(day), STORED_TOGETHER)]


def _store(
    batch: Sequence[datetime], stores: Stores, rule: UsRule, clock: Clock, failures: list[PlatformError]
) -> tuple[StoredIntervals | None, list[datetime]]:
    """Store some intervals of a day; gives what became of them, and the intervals that are to be derived again."""
    with locked(stores.database, [Slice(Intervals)]) as lock:
        now, inputs = clock(), Inputs()
        manifest = entries(stores.database, batch[0], batch[-1] + INTERVAL)
        raw = _Raw(stores, [at for at in batch if at in manifest and manifest[at].stored], inputs)
        derived = [
            one for at in raw.intervals if (one := _derived(manifest[at], raw, lock, stores, rule, now, failures))
        ]
        if not derived:
            return None, []
        rows = pa.concat_tables([one.events.rows for one in derived])
        intervals = tuple(one.entry.interval for one in derived)
        stored = _stored_events(stores.database, rows["global_event_id"], intervals)
        known_ids = pa.chunked_array([chunk for one in derived for chunk in one.known_ids.chunks], pa.int64())
        kept = deduplicated_events(rows, stored, intervals, known_ids=known_ids)
        again = with_repeated(stores.database, beside=intervals) if kept.given_up else []
        day = f"{batch[0].astimezone(UTC):%Y-%m-%d}"
        loaded = _loaded(derived, kept.rows, now)
        changed = [*loaded, *(replace(entry, state="fetched") for entry in again)]
        as_they_are = {"interval": OneOf(tuple(entry.interval for entry in changed))}
        outcome, _ = write_together(
            stores.database,
            [
                (
                    Split(kept.rows, (), rows.num_rows - kept.rows.num_rows),
                    Slice(UsEventData, day, {"file_interval": OneOf(intervals)}),
                ),
                (as_table(changed), Slice(Intervals, day, as_they_are)),
            ],
            Write("partition", run_id=stores.run_id, source="raw_events", lock=lock, inputs=inputs),
        )
    counted = {
        entry.interval: Counted(one.events.rows.num_rows, entry.rows_repeated or 0, one.events.left_out)
        for one, entry in zip(derived, loaded, strict=True)
    }
    return StoredIntervals(date.fromisoformat(day), counted, outcome), [entry.interval for entry in again]


class _Raw:
    """Intervals of the raw layer, whose heads are looked up together."""

    def __init__(self, stores: Stores, intervals: Sequence[datetime], inputs: Inputs) -> None:
        self.intervals = intervals
        self._stores = stores
        slices = [interval_slice(at) for at in intervals]
        self._heads = heads_of(stores.database, slices) if slices else {}
        inputs.read(stores.database, slices, self._heads)

    def rows(self, interval: datetime) -> pa.Table:
        """What is taken over of the rows of one; raises as `read_parquet`."""
        stores = self._stores
        return read_parquet(stores.root, stores.database, [interval_slice(interval)], TAKEN_OVER, heads=self._heads)


def _derived(
    entry: Entry,
    of: _Raw,
    lock: Lock,
    stores: Stores,
    rule: UsRule,
    now: datetime,
    failures: list[PlatformError],
) -> _Derived | None:
    try:
        raw = of.rows(entry.interval)
    except PermanentError as error:
        if not isinstance(error, (DamagedFile, NothingStored)):
            failures.append(error)
        else:
            # As if there had never been a file; its US events stay. Who has accepted something else has not accepted this.
            lost = replace(
                entry, state="missing", md5=None, refused_md5=None, rows_raw=None, reason=str(error), accepted=None
            )
            record(stores.database, [lost], run_id=stores.run_id, lock=lock)
            failures.append(PermanentError(f"{error}, {_how_to_fetch(entry)}"))
        return None
    return _Derived(entry, raw["global_event_id"], us_events(raw, rule=rule, uploaded_at=now))


def _how_to_fetch(entry: Entry) -> str:
    at = entry.interval.astimezone(UTC)
    return f"by a run of raw_events for {at:%Y-%m-%d} or `etl-assets events load --interval {at:%Y-%m-%dT%H:%MZ}`"


def _stored_events(database: Database, ids: pa.ChunkedArray, intervals: Sequence[datetime]) -> pa.Table:
    """What is stored of intervals, and of these events in others."""
    with database.connect() as connection, connection.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(
            "SELECT global_event_id, file_interval FROM events.us_event_data"
            " WHERE file_interval = ANY(%(intervals)s) OR global_event_id = ANY(%(ids)s)",
            {"intervals": list(intervals), "ids": ids.to_pylist()},
        ).fetchall()
    return pa.Table.from_pylist(found, arrow_schema(UsEventData, ("global_event_id", "file_interval")))


def _loaded(derived: Sequence[_Derived], stored: pa.Table, now: datetime) -> list[Entry]:
    """What the manifest says of intervals once these rows are stored."""
    rows_us = Counter({each["values"]: each["counts"] for each in stored["file_interval"].value_counts().to_pylist()})
    return [
        replace(
            one.entry,
            state="loaded",
            # A line that was replayed from quarantine is a row more than there were.
            rows_raw=len(one.ids),
            rows_us=rows_us[one.entry.interval],
            rows_repeated=one.events.rows.num_rows - rows_us[one.entry.interval],
            loaded_at=now,
        )
        for one in derived
    ]
