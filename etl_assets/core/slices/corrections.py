"""Corrections of rows that a source says wrong: what came, what it should have been, who says so and why.

A correction is applied at each load in which the same record of the same slice comes again, so that a row that was replayed lives as long as its record
does: until the source says it right, or withdraws it.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from psycopg import sql

from etl_assets.core.contracts import Contract, Record, Split, Timestamp, column
from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.database.connections import Database
from etl_assets.core.slices.difference import Rows
from etl_assets.core.slices.quarantine import entry_of
from etl_assets.core.slices.raw_rows import judged, replay_of
from etl_assets.core.slices.session import Session
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.transaction import Transaction, names


class Corrections(Contract):
    """Corrections of rejected rows, by the identity that the row has in quarantine."""

    id: str = column("Entry of the quarantine", max_length=64)
    asset: str = column("Table that the row is for, schema.table")
    partition: str = column("Partition; empty for a whole table")
    raw: str = column("The row as it was received, as JSON")
    corrected: str = column("The row as it should have been, as JSON")
    corrected_by: str = column("Who says so")
    reason: str | None = column("Why")
    corrected_at: Timestamp = column("When that was said, by the database's clock")
    closed_at: Timestamp | None = column(
        "Since when the source does not say the row any more; NULL while it is corrected"
    )

    class Config:
        table = "etl.corrections"
        key = ("id",)
        indexes = (("asset", "partition"),)


class Corrected(NamedTuple):
    """What corrections make of rejected rows.

    Attributes:
        rows: to be loaded behind the others, in the contract's schema; None for none. One that was stored without a cell has the key of
            that row, and so takes its place.
        records: those that nobody has corrected.
        repeated: rejected rows whose correction was applied before in the same load.
    """

    rows: pa.Table | None
    records: Sequence[Record]
    repeated: int = 0


class Corrector:
    """Applies the corrections of a slice to the rejected rows of one load.

    Attributes:
        ids: of the corrections that were applied.
    """

    def __init__(self, slice_: Slice) -> None:
        self._slice = slice_
        self.ids: set[str] = set()

    def applied(self, transaction: Transaction, records: Sequence[Record], *, beside: pa.Table | None) -> Corrected:
        """Rejected rows as corrections have them, within the transaction that loads them.

        Args:
            beside: the rows that they will stand beside.
        """
        takes = replay_of(self._slice.contract.config.table).takes
        if not any(takes(record.outcome) for record in records):
            return Corrected(None, records)
        known = self._known(transaction)
        if not known:
            return Corrected(None, records)
        contract = self._slice.contract
        rows = arrow_schema(contract).empty_table() if beside is None else beside
        made, left, repeated = [], [], 0
        for record in records:
            identity = entry_of(self._slice, record)["id"]
            if identity in self.ids:
                repeated += 1
                continue
            found = None
            if identity in known:
                found = judged(contract, [known[identity]], rows, source=f"correction of {identity}").valid
            if found is None or not found.num_rows:
                # A correction that the contract of today refuses is open again.
                left.append(record)
                continue
            self.ids.add(identity)
            made.append(found)
            rows = pa.concat_tables([rows, found])
        return Corrected(pa.concat_tables(made) if made else None, left, repeated)

    def _known(self, transaction: Transaction) -> dict[str, Mapping[str, Any]]:
        query = sql.SQL(
            "SELECT id, corrected FROM etl.corrections WHERE closed_at IS NULL AND asset = {} AND partition = {}"
        ).format(sql.Literal(self._slice.contract.config.table), sql.Literal(self._slice.name))
        return {row["id"]: json.loads(row["corrected"]) for row in transaction.rows(query).to_pylist()}


def with_corrections(database: Database, slice_: Slice, given: Split[pa.Table]) -> pa.Table:
    """The rows that a load would store, were it done now: those that keep the contract, and those that have been corrected.

    Raises:
        TransientError: if the database stays unavailable.
    """
    with Session(database) as session, session.transaction() as transaction:
        found = Corrector(slice_).applied(transaction, given.records, beside=given.valid).rows
    rows = given.valid if found is None else pa.concat_tables([given.valid, found])
    return Rows(rows, slice_.contract.config.key).table


def insert_correction(
    transaction: Transaction,
    slice_: Slice,
    identity: str,
    raw: Mapping[str, Any],
    corrected: Mapping[str, Any],
    *,
    who: str,
    reason: str | None,
) -> None:
    """Keep a correction of a rejected row, which takes the place of an earlier one of the same row."""
    row = {
        "id": identity,
        "asset": slice_.contract.config.table,
        "partition": slice_.name,
        "raw": json.dumps(raw, sort_keys=True),
        "corrected": json.dumps(corrected, sort_keys=True),
        "corrected_by": who,
        "reason": reason,
    }
    values = sql.SQL(", ").join(map(sql.Literal, row.values()))
    transaction.run(
        sql.SQL(
            "INSERT INTO etl.corrections ({}, corrected_at) VALUES ({}, clock_timestamp()) ON CONFLICT (id) DO UPDATE SET"
            " corrected = excluded.corrected, corrected_by = excluded.corrected_by, reason = excluded.reason,"
            " corrected_at = excluded.corrected_at, closed_at = NULL"
        ).format(names(row), values)
    )
