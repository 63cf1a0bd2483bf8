"""Entries of the quarantine as people deal with them: listed, looked up, accepted, forgotten. How one is replayed is in `replay.py`."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, LiteralString

from psycopg import sql
from psycopg.rows import dict_row

from etl_assets.core.contracts import Contract
from etl_assets.core.database.connections import Database
from etl_assets.core.slices.commit import Loaded, Part, Write, commit
from etl_assets.core.slices.heads import Head
from etl_assets.core.slices.merging import Change
from etl_assets.core.slices.quarantine import Quarantine
from etl_assets.core.slices.session import Session
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.transaction import Transaction, names
from etl_assets.errors import ConfigurationError, PermanentError

# Whoever gives less has a variable that is not set, rather than an id.
SHORTEST_PREFIX = 4


@dataclass(frozen=True)
class Entry:
    """One entry of the quarantine; the fields are those of its contract."""

    id: str
    asset: str
    partition: str
    outcome: str
    status: str
    faults: list[dict[str, Any]]
    raw: dict[str, Any]
    source: str
    run_id: str
    seen: int
    first_seen: datetime
    last_seen: datetime
    commit_id: str | None = None
    remark: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The entry as JSON can hold it."""
        return {
            **asdict(self),
            "first_seen": self.first_seen.isoformat(),
            "last_seen": self.last_seen.isoformat(),
        }


def as_entry(row: Mapping[str, Any]) -> Entry:
    """A row of the quarantine."""
    return Entry(**{**row, "faults": json.loads(row["faults"]), "raw": json.loads(row["raw"])})


@dataclass(frozen=True)
class Filter:
    """Which entries are meant; what is None or empty chooses nothing out.

    Attributes:
        asset: of this table.
        partition: of this partition.
        status: `open`, `replayed`, `superseded`, `accepted`, `gone` or `all`.
        column, rule: with a fault of this column, of this rule.
        older_than: last seen so long ago, by the database's clock.
        containing: whose raw row has this text somewhere.
    """

    asset: str | None = None
    partition: str | None = None
    status: str = "open"
    column: str | None = None
    rule: str | None = None
    older_than: timedelta | None = None
    containing: str | None = None

    def condition(self) -> sql.Composable:
        """As a condition on the columns of the quarantine."""
        faults = {name: value for name, value in (("column", self.column), ("rule", self.rule)) if value is not None}
        chosen = {
            "asset = {}": self.asset,
            "partition = {}": self.partition,
            "status = {}": None if self.status == "all" else self.status,
            "faults::jsonb @> {}::jsonb": json.dumps([faults]) if faults else None,
            "last_seen < clock_timestamp() - {}::interval": self.older_than,
            "strpos(raw, {}) > 0": self.containing,
        }
        parts = [sql.SQL(text).format(sql.Literal(value)) for text, value in chosen.items() if value is not None]
        return sql.SQL(" AND ").join(parts) if parts else sql.SQL("TRUE")


def list_entries(
    database: Database, chosen: Filter | None = None, *, limit: int | None = 100
) -> tuple[list[Entry], int]:
    """Entries, the newest first, and how many there are in all."""
    condition = (chosen or Filter()).condition()
    query = sql.SQL("SELECT {} FROM etl.quarantine WHERE {} ORDER BY last_seen DESC, id LIMIT {}").format(
        names(Quarantine.columns), condition, sql.Literal(limit)
    )
    count = sql.SQL("SELECT count(*) AS n FROM etl.quarantine WHERE {}").format(condition)
    with database.connect() as connection, connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(query).fetchall()
        total = cursor.execute(count).fetchone()
    return [as_entry(row) for row in rows], total["n"] if total else 0


def find_entry(database: Database, prefix: str) -> Entry:
    """The entry whose id begins so.

    Raises:
        ConfigurationError: for so short a beginning that it may be a slip.
        PermanentError: if there is none, or more than one.
    """
    if len(prefix) < SHORTEST_PREFIX:
        raise ConfigurationError(f"{prefix!r} is no id: give {SHORTEST_PREFIX} of its characters at least")
    query = sql.SQL("SELECT {} FROM etl.quarantine WHERE starts_with(id, %s) LIMIT 2").format(names(Quarantine.columns))
    with database.connect() as connection, connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(query, (prefix,)).fetchall()
    if len(rows) != 1:
        found = f"more than one entry, {' and '.join(row['id'] for row in rows)}," if rows else "no entry"
        raise PermanentError(f"{found} of the quarantine begins with {prefix!r}")
    return as_entry(rows[0])


def accept(
    database: Database, entries: Sequence[Entry], contract_of: Callable[[str], type[Contract]], *, who: str, reason: str
) -> int:
    """Close open entries that nobody will mend, with the reason; gives how many that were.

    Raises:
        TransientError, PermanentError: as `commit`; entries of slices before stay accepted.
    """
    remark = f"{reason} ({who})"
    entries = [entry for entry in entries if entry.status == "open"]
    change = "UPDATE etl.quarantine SET status = 'accepted', remark = {remark} WHERE status = 'open' AND id = ANY({ids}::text[])"
    return _changed(database, entries, contract_of, "accept", change, remark)


def forget(
    database: Database, entries: Sequence[Entry], contract_of: Callable[[str], type[Contract]], *, who: str, reason: str
) -> int:
    """Delete entries, and the corrections of their rows, for good: rows may hold names and addresses; gives how many there were.

    A row that was replayed stays in its table, until its slice is loaded again.

    Raises:
        TransientError, PermanentError: as `commit`; entries of slices before stay forgotten.
    """
    change = (
        "WITH corrected AS (DELETE FROM etl.corrections WHERE id = ANY({ids}::text[]))"
        " DELETE FROM etl.quarantine WHERE id = ANY({ids}::text[])"
    )
    return _changed(database, entries, contract_of, "forget", change, f"{reason} ({who})")


def _changed(
    database: Database,
    entries: Sequence[Entry],
    contract_of: Callable[[str], type[Contract]],
    mode: str,
    change: LiteralString,
    remark: str,
) -> int:
    """Change entries, those of a slice in one commit, which the ledger has."""
    changed: dict[tuple[str, str], int] = {}

    def load(transaction: Transaction, _: Head) -> Loaded:
        statement = sql.SQL(change).format(ids=sql.Literal(ids), remark=sql.Literal(remark))
        # A commit may have to be repeated.
        changed[asset, partition] = transaction.changed(statement)
        return Loaded(Change(), 0, head_stays=True)

    by_slice = groupby(sorted(entries, key=_slice_of), key=_slice_of)
    with Session(database) as session:
        for (asset, partition), of_slice in by_slice:
            ids = sorted(entry.id for entry in of_slice)
            part = Part(Slice(contract_of(asset), partition), mode, load)
            commit(session, [part], Write(mode, remark=remark))
    return sum(changed.values())


def _slice_of(entry: Entry) -> tuple[str, str]:
    return entry.asset, entry.partition
