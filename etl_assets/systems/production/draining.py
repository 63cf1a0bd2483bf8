"""From the broker to the database, each record exactly once.

How far the drain has come is in the ledger row of the transaction that stored the rows, so that it can be killed anywhere: what
was committed is not stored again, what was not is still in the broker. There it is dropped only below that position.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from etl_assets.core.contracts import Fault, Record
from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.database.connections import Database
from etl_assets.core.slices.commit import Loaded, Part, Write, commit
from etl_assets.core.slices.heads import Head
from etl_assets.core.slices.merging import Change
from etl_assets.core.slices.session import Session
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.superseding import SUPERSEDED_BY, KeysThere, store_latest
from etl_assets.core.slices.transaction import Transaction, refuse_drift
from etl_assets.core.sources.streams.broker import Batch, Broker, Foreign, Lag, Position
from etl_assets.errors import PermanentError
from etl_assets.systems.production.contracts import Stream
from etl_assets.systems.production.relaying import begins_anew
from etl_assets.systems.production.tables import BEGINNING, committed_position, emptied, read_position
from etl_assets.systems.production.transform import SEQUENCE, parsed

# About a hundred thousand records per transaction: more gains nothing, and is in memory twice.
BATCHES = 100
AGAIN = (
    "`etl-assets production rewind` empties the broker's streams, and the relay then goes on from where the tables are; where"
    " its API no longer has these records, begin anew with `etl-assets production reset --yes`"
)


COUNTS = ("received", "inserted", "updated", "unchanged", "deduplicated", "superseded", "rejected")


@dataclass(frozen=True)
class Drained:
    """What a drain did.

    Attributes:
        received: records that were in the broker above the committed position, entries that are not ours included.
        superseded: rows that gave way to a later one of the same key, in the table or on the way there; all are in quarantine.
            received = inserted + unchanged + deduplicated + superseded + rejected; what was updated took a superseded row's place.
        position: sequence of the last record that is stored.
        source: what that was read from.
        lag_before, lag: what waited in the broker before and after.
    """

    stream: str
    received: int
    inserted: int
    updated: int
    unchanged: int
    deduplicated: int
    superseded: int
    rejected: int
    position: int
    source: str
    transactions: int
    lag_before: Lag
    lag: Lag


def drain(database: Database, broker: Broker, stream: Stream, *, run_id: str = "script") -> Drained:
    """Store what waits in the broker, in transactions of about a hundred thousand records, until nothing waits.

    Of rows with the same key the one with the highest sequence is in the table. Records that cannot be rows, and entries that
    no relay of ours wrote, go to quarantine. When the records are of another source than the table's, and that can be read
    again at any time (`begins_anew`), they take the place of all its rows.

    Args:
        run_id: for ledger and quarantine.

    Raises:
        PermanentError: if records are missing before those that wait, or the table has records of another source.
        TransientError: if broker or database stay unavailable; what was committed stays, the next drain goes on from current.
    """
    position, after = standing(database, broker, stream)
    lag_before = broker.lag(stream.name, committed=after)
    done: list[_Stored] = []
    if lag_before.batches:
        with Session(database) as session:
            done = list(_Drain(session, broker, stream, run_id).run(after))
    else:
        # What a drain that was killed between commit and trim has left.
        broker.trim(stream.name, committed=position.sequence, source=position.source)
    position = done[-1].position if done else position
    total = Counter[str]()
    for stored in done:
        total.update(stored.counts)
    return Drained(
        stream=stream.name,
        **{name: total[name] for name in COUNTS},
        position=position.sequence,
        source=position.source,
        transactions=sum(bool(stored.counts) for stored in done),
        lag_before=lag_before,
        lag=broker.lag(stream.name, committed=position.sequence),
    )


def standing(database: Database, broker: Broker, stream: Stream) -> tuple[Position, int]:
    """How far the table is, and after which sequence the next drain reads: of another source than the table's all there is."""
    position, newest = committed_position(database, stream), broker.newest(stream.name)
    other_source = isinstance(newest, Batch) and newest.source != position.source
    return position, 0 if other_source else position.sequence


def reset(database: Database, broker: Broker, stream: Stream, *, run_id: str = "script") -> None:
    """Empty the table and the broker's stream; both begin again from the first record of whatever the API streams then.

    What of their source is in quarantine is closed.
    """

    def load(transaction: Transaction, _: Head) -> Loaded:
        deleted = emptied(transaction, stream)
        broker.delete(stream.name)
        return Loaded(Change(deleted=deleted), 0, source_position=dataclasses.asdict(BEGINNING))

    with Session(database) as session:
        commit(session, [Part(Slice(stream.contract), "replace", load)], Write("replace", run_id=run_id))
    # A relay may have gone on from the old position meanwhile.
    broker.delete(stream.name)


@dataclass(frozen=True)
class _Fetched:
    """Consecutive records of one source from the broker, read and judged.

    Attributes:
        after: the position after which they were asked for.
        first, last: their sequences; last = after when there are none.
        unknown: entries that no relay of ours wrote.
    """

    after: int
    source: str
    first: int
    last: int
    rows: pa.Table
    rejected: Sequence[Record]
    unknown: Sequence[Foreign] = field(default=())

    @property
    def count(self) -> int:
        """How many records."""
        return max(0, self.last - self.first + 1)

    @property
    def is_empty(self) -> bool:
        return not self.count and not self.unknown

    def beyond(self, sequence: int) -> "_Fetched":
        """Those after a sequence."""
        if sequence < self.first:
            return self
        rows = self.rows.filter(pc.greater(self.rows[SEQUENCE], sequence))
        rejected = [record for record in self.rejected if record.raw[SEQUENCE] > sequence]
        return dataclasses.replace(self, first=sequence + 1, rows=rows, rejected=rejected)


@dataclass(frozen=True)
class _Stored:
    """Where a transaction led to, and its counts by name; none if all its records were stored before."""

    position: Position
    counts: Mapping[str, int] = field(default_factory=dict)
    met: bool = False


class _Moved(Exception):
    """The records do not go on from where the table is, which somebody else has moved: read again, after this sequence."""

    def __init__(self, after: int) -> None:
        super().__init__(after)
        self.after = after


class _KnownAlready(Exception):
    """All records were stored before: there is nothing to commit."""

    def __init__(self, position: Position) -> None:
        super().__init__(position)
        self.position = position


class _Drain:
    """Stores what waits in the broker, each time in one transaction with the position that it leads to."""

    def __init__(self, session: Session, broker: Broker, stream: Stream, run_id: str) -> None:
        self._session = session
        self._broker = broker
        self._stream = stream
        self._slice = Slice(stream.contract)
        self._run_id = run_id
        # Where one lot has keys that are in the table, the next is likely to have some too.
        self._look_first = False

    def run(self, after: int) -> Iterator[_Stored]:
        """Store what waits; one result for each transaction."""
        unknown: frozenset[str] = frozenset()
        fetched = self._fetch(after, unknown)
        while not fetched.is_empty:
            known = unknown | {entry.entry_id for entry in fetched.unknown}
            # Read and judged while the server loads what is current.
            following = self._session.background(functools.partial(self._fetch, fetched.last, known))
            try:
                stored = self.store(fetched)
            except _Moved as moved:
                fetched = self._fetch(moved.after, unknown)
                continue
            yield stored
            unknown, position = known, stored.position
            self._broker.trim(self._stream.name, committed=position.sequence, source=position.source)
            fetched = following.result()
        if unknown and isinstance(self._broker.newest(self._stream.name), Foreign):
            # All before it is stored, and it is in quarantine. After such an entry the stream refuses ours; without it the
            # relay goes on from the committed position.
            self._broker.delete(self._stream.name)

    def _fetch(self, after: int, known: frozenset[str]) -> _Fetched:
        """The next records, up to the first hole or the first record of another source.

        Args:
            known: entries that no relay of ours wrote and that were read before.
        """
        entries = self._broker.read(self._stream.name, after=after, batches=BATCHES + len(known))
        unknown = [entry for entry in entries if isinstance(entry, Foreign) and entry.entry_id not in known]
        batches = [entry for entry in entries if isinstance(entry, Batch)]
        if not batches:
            nothing = arrow_schema(self._stream.contract).empty_table()
            return _Fetched(after, "", after + 1, after, nothing, (), unknown)
        source, first = batches[0].source, max(batches[0].first, after + 1)
        last, lines = first - 1, []
        for batch in batches:
            if batch.source != source or batch.first > last + 1:
                break
            lines.append(_lines_after(self._stream, batch, last))
            last = batch.last
        judged = parsed(self._stream, b"".join(lines), first=first)
        return _Fetched(after, source, first, last, judged.valid, judged.records, unknown)

    def store(self, fetched: _Fetched) -> _Stored:
        """Store records after those that are stored, if they go on from there.

        Raises:
            _Moved: if they do not, and others may.
        """
        stored: list[_Stored] = []

        def load(transaction: Transaction, _: Head) -> Loaded:
            current = read_position(transaction, self._stream)
            begin = self._begin(current, fetched)
            new = fetched.beyond(begin.sequence)
            if new.is_empty:
                raise _KnownAlready(current)
            anew = current.sequence and begin.source != current.source
            deleted = emptied(transaction, self._stream) if anew else 0
            one, loaded = self._load(transaction, new, begin, deleted)
            stored.append(one)
            return loaded

        how = Write("upsert", run_id=self._run_id)
        while True:
            try:
                commit(self._session, [Part(self._slice, "upsert", load)], how, prepare=self._require_table)
            except KeysThere:
                self._look_first = True
            except _KnownAlready as known:
                return _Stored(known.position)
            else:
                self._look_first = stored[-1].met
                return stored[-1]

    def _require_table(self, transaction: Transaction) -> None:
        refuse_drift(transaction, self._stream.contract)

    def _begin(self, current: Position, fetched: _Fetched) -> Position:
        """From where the records count.

        Raises:
            _Moved: if they do not go on from there.
            PermanentError: if some are missing, or they must not take the place of those that are current.
        """
        if not fetched.count:
            return current
        begin = Position(fetched.source, current.sequence)
        if current.sequence and fetched.source != current.source:
            newest = self._broker.newest(self._stream.name)
            if newest is None or (isinstance(newest, Batch) and newest.source != fetched.source):
                raise _Moved(current.sequence if newest and newest.source == current.source else 0)
            if not begins_anew(current.source):
                raise PermanentError(
                    f"{self._stream.contract.config.table} has records of {current.source or 'a source without a name'!r},"
                    f" and the broker those of {fetched.source!r}: relay from the former, or begin anew with"
                    " `etl-assets production reset --yes`"
                )
            begin = Position(fetched.source, 0)
        if fetched.first <= begin.sequence + 1:
            return begin
        if fetched.after != begin.sequence:
            raise _Moved(begin.sequence)
        raise PermanentError(
            f"stream {self._stream.name}: records {begin.sequence + 1} to {fetched.first - 1} are missing: the table has"
            f" those before, the broker those after, nothing was written beyond the hole: {AGAIN}"
        )

    def _load(self, transaction: Transaction, new: _Fetched, begin: Position, deleted: int) -> tuple[_Stored, Loaded]:
        stored = store_latest(transaction, self._slice, new.rows, sequence=SEQUENCE, look_first=self._look_first)
        gave_way = [*_superseded(self._stream, stored.gave_way), *_superseded(self._stream, stored.taken_out)]
        rejected = [*new.rejected, *(_unknown(self._stream, entry) for entry in new.unknown)]
        position = Position(begin.source, new.last) if new.count else begin
        # A row that was taken out of the table was received in an earlier write.
        loaded = Loaded(
            dataclasses.replace(stored.change, deleted=deleted),
            received=new.count + len(new.unknown),
            quarantined=len(rejected) + stored.gave_way.num_rows,
            records=[_from_source(record, position.source) for record in (*rejected, *gave_way)],
            size=new.rows.nbytes,
            source_position=dataclasses.asdict(position),
        )
        counts = {"received": loaded.received, **dataclasses.asdict(loaded.change)}
        counts |= {"quarantined": loaded.quarantined, "superseded": len(gave_way), "rejected": len(rejected)}
        return _Stored(position, counts, stored.met), loaded


def _lines_after(stream: Stream, batch: Batch, sequence: int) -> bytes:
    """The lines of a batch without those of the records up to a sequence."""
    count = batch.lines.count(b"\n")
    if count != batch.count:
        raise PermanentError(
            f"the broker's entry {batch.last}-0 of {stream.name} says that it has {batch.count} records and has {count}"
            f" lines: {AGAIN}"
        )
    known = max(0, sequence + 1 - batch.first)
    return batch.lines.split(b"\n", known)[known] if known else batch.lines


def _from_source(record: Record, source: str) -> Record:
    """A record that says which source it is from: after another one it can still be told whose it was."""
    return dataclasses.replace(record, source=f"{record.source} of {source}") if source else record


def _superseded(stream: Stream, rows: pa.Table) -> list[Record]:
    """Rows that gave way, for quarantine."""
    key = ", ".join(stream.contract.config.key)
    records = []
    for row in rows.to_pylist():
        fault = Fault(key, f"superseded by sequence {row.pop(SUPERSEDED_BY)}", None)
        raw = {name: cell.isoformat() if isinstance(cell, datetime) else cell for name, cell in row.items()}
        records.append(Record((fault,), raw, f"stream {stream.name}, sequence {row[SEQUENCE]}", "superseded"))
    return records


def _unknown(stream: Stream, entry: Foreign) -> Record:
    """An entry that no relay of ours wrote, for quarantine."""
    raw = {**dict.fromkeys(stream.contract.columns), "entry": entry.entry_id, "fields": dict(entry.fields)}
    fault = Fault("entry", "not written by a relay of ours, or damaged", entry.entry_id)
    return Record((fault,), raw, f"stream {stream.name}, entry {entry.entry_id}")
