"""The drain against a model: records come, batches come twice, drains are killed at any step, the broker restarts or forgets."""

import itertools
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from etl_assets.core.database.connections import Database
from etl_assets.core.embedded import EmbeddedBroker
from etl_assets.core.slices.session import Session
from etl_assets.core.sources.streams.broker import Broker
from etl_assets.systems.production import draining as module
from etl_assets.systems.production.draining import Position
from etl_assets_tests.systems.outages.world import Crash, crashing
from etl_assets_tests.systems.production.drains import Line, batch, metric

POISON = ('{"id": 1}', "[]", '{"id": 1, "val": "N/A", "time": 1624377478}', '{"id": -1, "val": 1, "time": 1624377478}')
numbers = itertools.count(1)

# Few keys and values, so that most records meet another of their key, with its value or another one.
readings = st.tuples(st.integers(0, 1), st.integers(-2, 2), st.sampled_from([None, 0.5, 1.5]))
arriving = st.lists(st.one_of(readings, readings, st.sampled_from(POISON)), min_size=1, max_size=12)


class Model:
    """What table and quarantine are after the first records of a source."""

    def __init__(self, records: list[Any]) -> None:
        self.rows: dict[tuple[int, int], tuple[float | None, int]] = {}
        self.superseded: set[tuple[int, str]] = set()
        self.rejected: set[int] = set()
        for sequence, record in enumerate(records, start=1):
            if isinstance(record, str):
                self.rejected.add(sequence)
                continue
            *key, value = record
            before = self.rows.get(tuple(key))
            if before is None or before[0] != value:
                self.rows[tuple(key)] = (value, sequence)
                if before is not None:
                    self.superseded.add((before[1], f"superseded by sequence {sequence}"))

    def table(self) -> list[tuple[int, int, float | None, int]]:
        """The rows as the table has them."""
        return sorted((*key, *row) for key, row in self.rows.items())


class Production(RuleBasedStateMachine):
    """One stream, from its first record to the moment at which nothing waits."""

    database: Database
    server: EmbeddedBroker

    @initialize(batches=st.sampled_from([1, 2, 100]))
    def begin(self, batches: int) -> None:
        """An empty table and a broker of its own."""
        self.database.prepare()
        with self.database.connect() as connection:
            connection.execute("TRUNCATE production.metrics, etl.ledger, etl.heads, etl.quarantine, etl.corrections")
        self.url = self.server.acquire()
        self.line = Line(self.database, Broker(lambda: self.url, prefix=f"machine-{next(numbers)}:"))
        self.batches, module.BATCHES = module.BATCHES, batches
        self.sources: dict[str, list[Any]] = {}
        self.seen = Position("", 0)
        self.quarantined_before: tuple[set[tuple[int, str]], set[int]] = (set(), set())
        self.from_the_beginning = False
        self.source_is_another()

    @rule(records=arriving)
    def records_come(self, records: list[Any]) -> None:
        self.sources[self.source] += records

    @rule()
    def source_is_another(self) -> None:
        """The API streams something else; the relay deletes what the broker has of the old source."""
        self.source = f"simulated:{next(numbers)}"
        self.sources[self.source] = []
        self.line.broker.delete("metrics")

    @rule(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4))
    def the_relay_publishes(self, sizes: list[int]) -> None:
        for size in sizes:
            self.publish(self.published(), size)

    @rule(back=st.integers(1, 9), size=st.integers(1, 5))
    def the_relay_publishes_an_overlapping_batch(self, back: int, size: int) -> None:
        at = self.published()
        self.publish(max(0, at - back), at - max(0, at - back) + size)

    @rule()
    def a_drain_runs(self) -> None:
        self.drain()

    @rule()
    def two_drains_run_one_after_the_other(self) -> None:
        self.drain()
        assert self.drain().received == 0

    @rule(after=st.booleans())
    def a_drain_is_killed_at_a_commit(self, after: bool) -> None:
        self.killed(Session, "commit", after=after)

    @rule(after=st.booleans())
    def a_drain_is_killed_at_a_trim(self, after: bool) -> None:
        self.killed(self.line.broker, "trim", after=after)

    @rule()
    def somebody_else_writes_into_the_stream(self) -> None:
        """An entry after which the relay cannot publish, until a drain has taken it away."""
        self.line.add_foreign()
        self.drain()

    @rule()
    def the_broker_restarts(self) -> None:
        self.line.broker.close()
        self.server.release()
        self.url = self.server.acquire()

    @precondition(lambda self: not self.from_the_beginning)
    @rule(from_the_beginning=st.booleans())
    def the_broker_forgets_everything(self, from_the_beginning: bool) -> None:
        self.line.broker.delete("metrics")
        self.from_the_beginning = from_the_beginning

    def published(self) -> int:
        """Where a relay goes on: where the broker's stream ends, else at the committed position or at the first record."""
        newest = self.line.broker.newest("metrics")
        if newest is not None:
            self.from_the_beginning = False
            return newest.last  # type: ignore[union-attr]
        position = self.line.position()
        return 0 if self.from_the_beginning or position.source != self.source else position.sequence

    def publish(self, after: int, size: int) -> None:
        records = self.sources[self.source][after : after + size]
        if after + len(records) > self.published():
            texts = [record if isinstance(record, str) else metric(*record) for record in records]
            self.line.broker.publish("metrics", [batch(after + 1, texts, source=self.source)])

    def drain(self) -> module.Drained:
        done = self.line.drain()
        assert done.lag.batches == 0
        return done

    def killed(self, owner: Any, name: str, *, after: bool) -> None:
        with crashing(owner, name, after=after):
            try:
                self.drain()
            except Crash:
                return

    @invariant()
    def table_and_quarantine_are_what_the_position_says(self) -> None:
        if not hasattr(self, "seen"):
            return
        position = self.line.position()
        assert position.source == self.seen.source or position.source == self.source
        if position.source != self.seen.source:
            before = Model(self.sources.get(self.seen.source, [])[: self.seen.sequence])
            superseded, rejected = self.quarantined_before
            self.quarantined_before = superseded | before.superseded, rejected | before.rejected
        else:
            assert position.sequence >= self.seen.sequence
        self.seen = position
        model = Model(self.sources.get(position.source, [])[: position.sequence])
        assert self.line.rows() == model.table()
        assert set(self.line.superseded()) == self.quarantined_before[0] | model.superseded
        rejected = [entry["raw"] for entry in self.line.quarantine() if entry["outcome"] == "rejected"]
        assert {raw["sequence"] for raw in rejected if "entry" not in raw} == self.quarantined_before[
            1
        ] | model.rejected
        if self.line.ledger():
            self.line.assert_books_balance()

    def teardown(self) -> None:
        """The relay publishes the rest, and one more drain stores all of it."""
        if not hasattr(self, "seen"):
            return
        try:
            self.publish(self.published(), 10_000)
            self.drain()
            expected = len(self.sources[self.source])
            assert self.line.position().sequence == expected or not expected
            self.table_and_quarantine_are_what_the_position_says()
        finally:
            module.BATCHES = self.batches
            self.line.close()
            self.line.broker.close()
            self.server.release()
