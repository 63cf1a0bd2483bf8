"""Replays: a rejected row is judged once more, as it is or corrected, and stored in a commit in which its entry is settled."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa
from psycopg import sql

from etl_assets.core.contracts import Contract
from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.database.connections import Database
from etl_assets.core.slices import merging, raw_rows
from etl_assets.core.slices.commit import Loaded, Part, Write, commit
from etl_assets.core.slices.copies import publish
from etl_assets.core.slices.corrections import insert_correction
from etl_assets.core.slices.difference import Rows
from etl_assets.core.slices.entries import Entry, as_entry, find_entry
from etl_assets.core.slices.files import ParquetRoot, readable, standing_file, write_table
from etl_assets.core.slices.heads import Head
from etl_assets.core.slices.lock import locked
from etl_assets.core.slices.merging import Change
from etl_assets.core.slices.quarantine import Quarantine
from etl_assets.core.slices.raw_rows import Replay, replay_of
from etl_assets.core.slices.session import Session, looked_again
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.transaction import Transaction, names, refuse_drift, relation
from etl_assets.core.slices.writing import hash_of
from etl_assets.errors import PermanentError


@dataclass(frozen=True)
class Replayed:
    """What a replay did.

    Attributes:
        outcome: stored; superseded: a later record of its key is in the table and stays; done: somebody has replayed it before, nothing
            was changed; rejected: the row still breaks its contract.
        faults: that the row still has.
    """

    entry: Entry
    outcome: Literal["stored", "superseded", "done", "rejected"]
    faults: Sequence[str] = ()


class _NothingToStore(Exception):
    """A replay that stores nothing."""

    def __init__(self, replayed: Replayed) -> None:
        super().__init__(replayed)
        self.replayed = replayed


def replay(
    database: Database,
    root: ParquetRoot,
    identity: str,
    *,
    contract: type[Contract],
    corrections: Mapping[str, Any] | None = None,
    who: str = "script",
    reason: str | None = None,
) -> Replayed:
    """Judge an entry's raw row anew and store it if it passes: a commit like any other, in which the entry is settled too.

    The correction is kept, and applied at each load in which the same record comes again.

    Args:
        root: of the parquet layers, for tables that live there.
        identity: of the entry, whole.
        contract: the contract of the entry's table, as it is now.
        corrections: fields of the raw row to replace.
        who, reason: for the ledger and the correction.

    Raises:
        PermanentError: if the entry was only flagged: its row is in the table already; or is gone from its source.
        ConfigurationError: for a table whose rows are not replayed, or a field that cannot be corrected; says what to do instead.
        TransientError: if the database stays unavailable; nothing was changed.
    """
    entry = find_entry(database, identity)
    # Whoever finds nothing new at the source draws the generation without a lock.
    return looked_again(lambda: _replayed(database, root, entry, contract, corrections or {}, who, reason))


def _replayed(
    database: Database,
    root: ParquetRoot,
    entry: Entry,
    contract: type[Contract],
    corrections: Mapping[str, Any],
    who: str,
    reason: str | None,
) -> Replayed:
    how = replay_of(contract.config.table)
    how.require(entry, corrections)
    slice_ = Slice(contract, entry.partition)
    write = Write("replay", source=f"replay of {entry.id}", remark=reason)
    stored = _Stored(root, slice_, entry.id, how, corrections, write, who)
    part = Part(slice_, "replay", stored, commit_id=stored.commit_id)
    beside = how.beside(entry)
    try:
        with Session(database) as session:
            if contract.config.store == "parquet":
                # What is beside it is locked in the transaction, as by who loads the slice: two orders would have each wait for the other.
                with locked(database, [slice_]) as lock:
                    commit(session, [part, *beside], replace(write, lock=lock))
                    publish(root, lock, slice_)
            else:
                commit(session, [part, *beside], write)
    except _NothingToStore as nothing:
        return nothing.replayed
    return Replayed(stored.entry or entry, stored.outcome)


class _Stored:
    """Loads the row of an entry within the transaction that settles that."""

    def __init__(
        self,
        root: ParquetRoot,
        slice_: Slice,
        identity: str,
        how: Replay,
        corrections: Mapping[str, Any],
        write: Write,
        who: str,
    ) -> None:
        self._root, self._slice, self._identity = root, slice_, identity
        self._how, self._corrections, self._write, self._who = how, corrections, write, who
        self.commit_id = uuid.uuid4().hex
        self.outcome: Literal["stored", "superseded"] = "stored"
        self.entry: Entry | None = None

    def __call__(self, transaction: Transaction, head: Head) -> Loaded:
        contract = self._slice.contract
        entry = self.entry = _entry_within(transaction, self._identity)
        self._require_open(entry)
        raw = {**entry.raw, **self._corrections}
        path = standing_file(self._root, self._slice, head) if contract.config.store == "parquet" else None
        there = _rows_of(self._root, contract, path)
        judged = raw_rows.judged(contract, [raw], there, source=self._write.source)
        rejected = [record for record in judged.records if record.outcome != "flagged"]
        if rejected or not judged.valid.num_rows:
            faults = [f"{f.column}: {f.rule}" if f.column else f.rule for record in rejected for f in record.faults]
            raise _NothingToStore(Replayed(entry, "rejected", faults))
        if contract.config.store == "parquet":
            loaded = self._into_file(there, judged.valid)
        else:
            loaded = self._into_table(transaction, judged.valid)
        status = "replayed" if self.outcome == "stored" else "superseded"
        _settle(transaction, entry.id, status)
        if self.outcome == "stored":
            insert_correction(
                transaction, self._slice, entry.id, entry.raw, raw, who=self._who, reason=self._write.remark
            )
        return loaded

    def _require_open(self, entry: Entry) -> None:
        if entry.status == "gone":
            raise PermanentError(
                f"{entry.id} is gone: its source ({entry.source}) was read again without it, or given up, so there is nothing to"
                " store"
            )
        if not self._how.takes(entry.outcome):
            raise PermanentError(f"{entry.id} was {entry.outcome}, not rejected: there is nothing to store")
        if entry.status in ("replayed", "superseded"):
            raise _NothingToStore(Replayed(entry, "done" if entry.status == "replayed" else "superseded"))

    def _into_file(self, there: pa.Table, row: pa.Table) -> Loaded:
        key = self._slice.contract.config.key
        is_there = bool(key and there.join(row.select(list(key)), list(key), join_type="left semi").num_rows)
        if is_there and not self._how.cells:
            # Of the load that rejected the row, or of a later one.
            self.outcome = "superseded"
            return Loaded(Change(deduplicated=1), 1, head_stays=True)
        filesystem, _ = self._root.filesystem()
        whole = Rows(pa.concat_tables([there, row]), key).table
        content_hash = hash_of(whole)
        file = f"{self.commit_id}.parquet"
        write_table(filesystem, f"{self._root.folder(self._slice)}/{file}", whole, content_hash)
        change = Change(updated=1) if is_there else Change(inserted=1)
        return Loaded(change, 1, size=row.nbytes, content_hash=content_hash, file=file, rows=whole.num_rows)

    def _into_table(self, transaction: Transaction, row: pa.Table) -> Loaded:
        contract = self._slice.contract
        refuse_drift(transaction, contract)
        if not contract.config.key:
            return Loaded(merging.append(transaction, self._slice, Rows(row, ())), 1, size=row.nbytes)
        if self._is_superseded(transaction, row):
            self.outcome = "superseded"
            return Loaded(Change(deduplicated=1), 1, head_stays=True)
        change = merging.upsert(transaction, self._slice, Rows(row, contract.config.key))
        return Loaded(change, 1, size=row.nbytes)

    def _is_superseded(self, transaction: Transaction, row: pa.Table) -> bool:
        """Whether the table has a later record of the same key: by its sequence, or else by the transaction that wrote it."""
        contract = self._slice.contract
        (values,) = row.to_pylist()
        if self._how.sequence:
            later = sql.SQL("{} >= {}").format(
                sql.Identifier("t", self._how.sequence), sql.Literal(values[self._how.sequence])
            )
        else:
            # Of records that found the row as it is already the entry itself tells: it is superseded. For others
            # the commit that met the entry last tells when that was: the entry itself is changed by who accepts it, too.
            later = sql.SQL(
                "age(t.xmin) <= (SELECT coalesce(age(l.xmin), age(q.xmin)) FROM etl.quarantine AS q"
                " LEFT JOIN etl.ledger AS l ON l.commit_id = q.commit_id WHERE q.id = {})"
            ).format(sql.Literal(self._identity))
        same = sql.SQL(" AND ").join(
            sql.SQL("{} = {}").format(sql.Identifier("t", name), sql.Literal(values[name]))
            for name in contract.config.key
        )
        query = sql.SQL("SELECT EXISTS (SELECT FROM {} AS t WHERE {} AND {})")
        return bool(transaction.value(query.format(relation(contract), same, later)))


def _rows_of(root: ParquetRoot, contract: type[Contract], path: str | None) -> pa.Table:
    schema = arrow_schema(contract)
    if path is None:
        return schema.empty_table()
    with readable(root.filesystem()[0], path) as stored:
        return stored.read(columns=schema.names).select(schema.names).cast(schema)


def _entry_within(transaction: Transaction, identity: str) -> Entry:
    """An entry as it is now, which nobody else can settle before the transaction ends."""
    query = sql.SQL("SELECT {} FROM etl.quarantine WHERE id = {} FOR UPDATE").format(
        names(Quarantine.columns), sql.Literal(identity)
    )
    return as_entry(transaction.row(query))


def _settle(transaction: Transaction, identity: str, status: str) -> None:
    transaction.run(
        sql.SQL("UPDATE etl.quarantine SET status = {} WHERE id = {}").format(*map(sql.Literal, (status, identity)))
    )
