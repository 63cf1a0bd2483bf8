"""The one commit: how anything becomes visible, whatever the store, the system, the door.

    1 lock     the slices (`lock.py`); their generation goes up
    2 look     only now the source is asked, or the inputs are read, with the commits that they are (`inputs.py`)
    3 write    in one transaction, the heads of the slices held:
                 the generation is still the one that was drawn, each input still the commit that was read; else nothing is written
                 rows are loaded, rejected ones go to quarantine
                 the ledger gets a row, the head the commit
    4 unlock

Nobody looks before holding the lock, and nobody commits without that fence. So what was read later is never replaced by what was read earlier, without
any clock. Who has rows in hand, or derives them from inputs, takes the lock within the transaction: the check of the inputs makes them right. A batch
that is appended has no order, and is stored once.

What differs between stores and modes is how the rows of a part are loaded, `Part.load`: `writing.py` (Postgres), `parquet.py` (files), and of those
who have more to say than rows, the drain of a stream, a replay and a delivery.
"""

import functools
import itertools
import json
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from psycopg import sql

from etl_assets.core.contracts import Record
from etl_assets.core.slices.heads import Head, draw_statement, generations_query, hold, key_of
from etl_assets.core.slices.inputs import Inputs
from etl_assets.core.slices.ledger import record, record_moved
from etl_assets.core.slices.lock import WRITES_FOR, Lock, LookOutdated, locked, try_statement, wanted
from etl_assets.core.slices.merging import Change
from etl_assets.core.slices.quarantine import store_records
from etl_assets.core.slices.session import Session, retried
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.transaction import Transaction, names
from etl_assets.errors import TransientError

BALANCED = ("inserted", "updated", "unchanged", "deduplicated", "quarantined")
CHANGES = ("inserted", "updated", "deleted", "unchanged", "deduplicated")
COUNTS = ("received", *CHANGES, "quarantined", "flagged")
# These find rows by their key, wherever in the table they are.
BY_KEY = ("upsert", "replay")


class _Busy(Exception):
    """A lock is not free: it has to be waited for outside of a transaction."""


@dataclass(frozen=True)
class Write:
    """How to write: everything about a write beside its rows.

    Attributes:
        mode: one of those of the store.
        run_id: who writes.
        source: where the rows come from.
        source_position: where the source stands after them.
        lock: held since before the source was asked; None for rows that were in hand, or are derived.
        inputs: what the rows are derived from.
        batch: identity of what is appended; the same batch is appended once.
        remark: why, where a person does it.
        max_rejected: the largest share of rejected rows that is taken, where somebody says another than the contract.
    """

    mode: str
    run_id: str = "script"
    source: str = ""
    source_position: Mapping[str, Any] | None = None
    lock: Lock | None = None
    inputs: Inputs | None = None
    batch: str | None = None
    remark: str | None = None
    max_rejected: float | None = None


@dataclass(frozen=True)
class Loaded:
    """What loading a part did.

    Attributes:
        received: rows, with those that were rejected.
        quarantined: how many of them are in no table.
        records: rows for quarantine that are not there yet: rejected, flagged, superseded.
        size: bytes of the valid rows in Arrow.
        content_hash: of the valid rows; none of batches.
        file, rows: of a slice in files, the one that holds it now, and how many rows that has.
        first_rejected: one of the rows that are in quarantine already, if there are any.
        source_position: where the source stands after the rows, where only loading tells; else as the write says.
        head_stays: nothing of the slice was changed or confirmed: only the ledger has it.
    """

    change: Change
    received: int
    quarantined: int = 0
    records: Sequence[Record] = ()
    size: int = 0
    content_hash: str | None = None
    file: str | None = None
    rows: int | None = None
    first_rejected: Record | None = None
    source_position: Mapping[str, Any] | None = None
    head_stays: bool = False


Load: TypeAlias = Callable[[Transaction, Head], Loaded]


@dataclass(frozen=True)
class Part:
    """One slice of a commit.

    Attributes:
        mode: how it is written, for the ledger.
        load: loads its rows within the transaction, given the head that stands.
        settle: brings its entries in quarantine up to date once the records of the write are stored.
        commit_id: identity under which the ledger will know it.
    """

    slice: Slice
    mode: str
    load: Load
    settle: Callable[[Transaction], None] = lambda _: None
    commit_id: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True)
class Outcome:
    """What became of the rows of one slice; every received row is in exactly one of the counts.

    received = inserted + updated + unchanged + deduplicated + quarantined. Flagged rows are loaded, with a remark in quarantine.
    """

    slice: Slice
    commit_id: str
    change: Change
    received: int
    quarantined: int
    flagged: int
    size: int
    content_hash: str | None
    seconds: float

    @property
    def loaded(self) -> int:
        """Rows that the write put into the table, new or with new values."""
        return self.change.inserted + self.change.updated

    def counts(self) -> dict[str, int]:
        """All counts by name, as the ledger has them."""
        return {name: getattr(self if hasattr(self, name) else self.change, name) for name in COUNTS}

    def as_dict(self) -> dict[str, Any]:
        """For programs: which slice, which commit, all counts."""
        table, partition = key_of(self.slice)
        return {"table": table, "partition": partition or None, "commit_id": self.commit_id, **self.counts()}


def commit(
    session: Session,
    parts: Sequence[Part],
    how: Write,
    *,
    prepare: Callable[[Transaction], None] = lambda _: None,
    repeatable: Callable[[], bool] = lambda: True,
) -> list[Outcome]:
    """Make parts visible, all in one transaction, which is repeated when it gave way or lost its connection.

    Args:
        parts: each of another slice.
        prepare: what is done once, before the first part is loaded.
        repeatable: whether the parts can be loaded again; record batches can be read once only.

    Returns:
        What became of the rows, by part.

    Raises:
        Outdated: if somebody has looked or written since what is to be stored was looked at; whoever cannot look again takes it
            for the `TransientError` that it is.
        TransientError: if the database stays unavailable or busy.
        ContractError, PermanentError: for what a table or the database refuses; nothing was changed.
    """
    began = time.perf_counter()
    slices = [part.slice for part in parts]
    whole = frozenset(key_of(part.slice)[0] for part in parts if part.mode in BY_KEY and in_postgres(part.slice))
    attempts = itertools.count()

    def attempt(locks: Sequence[Lock]) -> list[Outcome]:
        for lock in locks:
            lock.take()
        settings = {"application_name": f"{WRITES_FOR} {locks[-1].pid}"} if locks else {}
        with session.transaction(**settings) as transaction:
            heads = _entered(transaction, slices, locks, whole)
            if next(attempts) and (earlier := _committed(transaction, parts)) is not None:
                return earlier
            prepare(transaction)
            _require_inputs(session, transaction, how)
            outcomes: list[Outcome] = []
            for part in parts:
                started = time.perf_counter() if outcomes else began
                outcomes.append(_written(transaction, part, heads.get(key_of(part.slice), Head()), how, started))
            _require_inputs(session, transaction, how)
            session.commit(outcomes[-1].commit_id)
        return outcomes

    # A dry run has none that outlives its transaction.
    mine = [how.lock] if how.lock and not session.database.is_dry_run else []
    try:
        return retried(functools.partial(attempt, mine), while_=repeatable)
    except _Busy:
        return _waited(session, attempt, slices, whole, mine, repeatable)


def _waited(
    session: Session,
    attempt: Callable[[Sequence[Lock]], list[Outcome]],
    slices: Sequence[Slice],
    whole: Collection[str],
    mine: Sequence[Lock],
    repeatable: Callable[[], bool],
) -> list[Outcome]:
    """Commit once the locks that others hold are free; one that is lost meanwhile is waited for again, for nothing was looked at under it."""
    if session.database.is_dry_run:
        raise TransientError(f"another writer is at {', '.join(map(str, slices[:3]))}: try again when it is done")
    free = _not_covered(slices, mine)
    for last in (False, False, True):
        with locked(session.database, free, whole=whole) as lock:
            try:
                return retried(functools.partial(attempt, [*mine, lock]), while_=repeatable)
            except LookOutdated:
                if mine or last or not repeatable():
                    raise
    raise AssertionError("the last attempt returns or raises")


def in_postgres(slice_: Slice) -> bool:
    """Whether the rows of a slice are in the database of its ledger."""
    return slice_.contract.config.store == "postgres"


def _not_covered(slices: Sequence[Slice], locks: Sequence[Lock]) -> list[Slice]:
    return [slice_ for slice_ in slices if not any(lock.covers(slice_) for lock in locks)]


def _require_inputs(session: Session, transaction: Transaction, how: Write) -> None:
    if how.inputs is not None:
        how.inputs.require_current(session.database, transaction)


def _entered(
    transaction: Transaction, slices: Sequence[Slice], locks: Sequence[Lock], whole: Collection[str]
) -> dict[tuple[str, str], Head]:
    """Take what locks are missing, and go through the fence; gives the heads of the slices, which nobody else can write now.

    Raises:
        LookOutdated: if a lock was lost and somebody else has had it.
        _Busy: if a lock that is missing is not free.
    """
    free = _not_covered(slices, locks)
    if free:
        if not transaction.value(try_statement(wanted(free, whole=whole), until="transaction")):
            raise _Busy
        transaction.run(draw_statement(free))
    covered = [slice_ for slice_ in slices if slice_ not in free]
    # Of partitions under the lock of their whole table, that may have none.
    unknown = [slice_ for slice_ in covered if not any(key_of(slice_) in lock.generations for lock in locks)]
    if unknown:
        transaction.run(draw_statement(unknown, by=0))
    heads = hold(transaction, slices)
    for lock in locks:
        _require_generations(transaction, lock, covered)
    return heads


def _require_generations(transaction: Transaction, lock: Lock, slices: Sequence[Slice]) -> None:
    """Raise `LookOutdated` if somebody else has had the lock of these slices since it was taken."""
    mine = [lock.covering(slice_) for slice_ in slices if lock.covers(slice_)]
    if mine:
        lock.compare(tuple(row.values()) for row in transaction.rows(generations_query(mine)).to_pylist())


def _written(transaction: Transaction, part: Part, head: Head, how: Write, started: float) -> Outcome:
    """Load a part, and record what became of it.

    Raises:
        AssertionError: if a received row is in no count or in two: a fault of the write path itself.
    """
    if how.batch is not None and (appended := _recorded(transaction, part, "batch", how.batch)):
        # All of it is there: this time nothing is written.
        change = Change(unchanged=appended.loaded, deduplicated=appended.change.deduplicated)
        return replace(appended, change=change)
    loaded = part.load(transaction, head)
    store_records(transaction, part.slice, loaded.records, run_id=how.run_id, commit_id=part.commit_id)
    part.settle(transaction)
    outcome = Outcome(
        slice=part.slice,
        commit_id=part.commit_id,
        change=loaded.change,
        received=loaded.received,
        quarantined=loaded.quarantined,
        flagged=sum(record.outcome == "flagged" for record in loaded.records),
        size=loaded.size,
        content_hash=loaded.content_hash,
        seconds=time.perf_counter() - started,
    )
    counts = outcome.counts()
    if counts["received"] != sum(counts[name] for name in BALANCED):
        raise AssertionError(f"the counts of {outcome.slice} do not balance: {counts}")
    inputs = how.inputs.as_json(part.slice) if how.inputs else None
    position = loaded.source_position or how.source_position
    entry = {
        "commit_id": part.commit_id,
        "run_id": how.run_id,
        "mode": part.mode,
        **counts,
        "size": outcome.size,
        "content_hash": outcome.content_hash,
        "source_position": None if position is None else json.dumps(position),
        "seconds": outcome.seconds,
        "batch": how.batch,
        "inputs": inputs,
        "file": loaded.file,
        "remark": how.remark,
    }
    record(transaction, part.slice, entry, _head_after(part, loaded, head, inputs))
    if loaded.change.moved:
        record_moved(transaction, part.slice, part.commit_id)
    return outcome


def _head_after(part: Part, loaded: Loaded, head: Head, inputs: str | None) -> dict[str, Any]:
    """What changes of a head: a write that found everything as it should be leaves its commit, so that what is derived from it is current."""
    if loaded.head_stays:
        return {}
    columns = {"inputs": inputs, "file": loaded.file, "rows": loaded.rows, "content_hash": loaded.content_hash}
    change = loaded.change
    if change.inserted or change.updated or change.deleted or loaded.file != head.file or head.commit_id is None:
        columns["commit_id"] = part.commit_id
    return columns


def _committed(transaction: Transaction, parts: Sequence[Part]) -> list[Outcome] | None:
    """The outcomes of an earlier attempt that was committed although its answer was lost."""
    found = [_recorded(transaction, part, "commit_id", part.commit_id) for part in parts]
    outcomes = [outcome for outcome in found if outcome is not None]
    return outcomes if len(outcomes) == len(parts) else None


def _recorded(transaction: Transaction, part: Part, column: str, value: str) -> Outcome | None:
    """What the ledger has of a slice under an identity."""
    query = sql.SQL("SELECT {} FROM etl.ledger WHERE {} = {} AND asset = {} AND partition = {} LIMIT 1").format(
        names((*COUNTS, "commit_id", "size", "content_hash", "seconds")),
        sql.Identifier(column),
        *map(sql.Literal, (value, *key_of(part.slice))),
    )
    found = transaction.rows(query).to_pylist()
    if not found:
        return None
    (row,) = found
    change = Change(**{name: row.pop(name) for name in CHANGES})
    return Outcome(slice=part.slice, change=change, **row)
