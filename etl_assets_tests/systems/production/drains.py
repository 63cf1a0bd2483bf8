"""A stream between a real broker and a real database, and the calls that the tests of the drain make."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import dict_row

from etl_assets.core.database.connections import Database
from etl_assets.core.sources.streams.broker import Batch, Broker, Position
from etl_assets.systems.production.contracts import METRICS, Stream
from etl_assets.systems.production.draining import Drained, drain
from etl_assets.systems.production.tables import committed_position
from etl_assets_tests.systems.outages.world import BOOKS

T0 = datetime(2021, 6, 22, 15, 57, 58, tzinfo=UTC)
SOURCE = "simulated:7"


def metric(parameter: int, minute: int, value: Any) -> str:
    """A record: a reading so many minutes after T0."""
    return json.dumps({"id": parameter, "val": value, "time": int(T0.timestamp()) + 60 * minute})


def batch(first: int, records: Sequence[str], *, source: str = SOURCE) -> Batch:
    """Records as an entry of the broker."""
    lines = [f'{{"sequence":{at},"record":{record}}}\n' for at, record in enumerate(records, start=first)]
    return Batch(first, len(records), source, T0, "".join(lines).encode())


@dataclass
class Line:
    """One stream with its neighbours."""

    database: Database
    broker: Broker
    stream: Stream = METRICS
    _connection: psycopg.Connection[dict[str, Any]] | None = None

    def close(self) -> None:
        """Close the connection that the tests ask questions on."""
        if self._connection is not None:
            self._connection.close()

    def publish(self, first: int, *records: str, source: str = SOURCE) -> None:
        """Records as one entry of the broker."""
        self.broker.publish(self.stream.name, [batch(first, records, source=source)])

    def add_foreign(self, entry_id: str = "*", **fields: str) -> None:
        """An entry that somebody else writes."""
        client = self.broker._connected()
        client.xadd(self.broker.key(self.stream.name), fields or {"hello": "world"}, id=entry_id)

    def drain(self, *, database: Database | None = None) -> Drained:
        return drain(database or self.database, self.broker, self.stream)

    def position(self) -> Position:
        return committed_position(self.database, self.stream)

    def entries(self) -> int:
        """Entries in the broker."""
        return self.broker.entries(self.stream.name)

    def query(self, query: str, *values: Any) -> list[dict[str, Any]]:
        if self._connection is None:
            self._connection = psycopg.connect(self.database.url, autocommit=True, row_factory=dict_row)
        return self._connection.execute(query, values).fetchall()

    def rows(self) -> list[tuple[int, int, float | None, int]]:
        """The table: parameter, as the number that it is here, minutes after T0, value, sequence."""
        found = self.query("SELECT * FROM production.metrics ORDER BY parameter_id, measured_at")
        return [
            (int(row["parameter_id"]), (row["measured_at"] - T0) // timedelta(minutes=1), row["value"], row["sequence"])
            for row in found
        ]

    def quarantine(self) -> list[dict[str, Any]]:
        """Quarantine by sequence, raw rows and faults read."""
        found = self.query("SELECT * FROM etl.quarantine")
        for row in found:
            row["raw"], row["faults"] = json.loads(row["raw"]), json.loads(row["faults"])
        return sorted(found, key=lambda row: (row["raw"].get("sequence") or 0, row["id"]))

    def superseded(self) -> list[tuple[int, str]]:
        """Sequence and rule of the rows that gave way."""
        found = [row for row in self.quarantine() if row["outcome"] == "superseded"]
        return [(row["raw"]["sequence"], row["faults"][0]["rule"]) for row in found]

    def ledger(self) -> list[dict[str, Any]]:
        return self.query("SELECT * FROM etl.ledger ORDER BY committed_at")

    def assert_books_balance(self) -> None:
        """In each ledger row every received row is in exactly one count."""
        ledger = self.ledger()
        assert ledger
        assert [row for row in ledger if row["received"] != sum(row[name] for name in BOOKS)] == []
