"""Who looks at the tables of the kill test: again and again while it lasts, and closely at its end."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import psycopg

from etl_assets.systems.production.contracts import STREAMS, Stream
from etl_assets_tests.systems.production.kills_records import Counts, Expected

LOOK_EVERY_S = 0.15
BOOKS = ("inserted", "updated", "unchanged", "deduplicated", "quarantined")


class Witness(threading.Thread):
    """Reads the tables again and again; what one snapshot holds must be the first records up to the position in it, and no others."""

    def __init__(self, url: Callable[[], str], expected: dict[str, Expected]) -> None:
        super().__init__(name="witness", daemon=True)
        self._url = url
        self._expected = expected
        self._ended = threading.Event()
        self._last = dict.fromkeys(expected, 0)
        self.looks = 0
        self.positions: set[tuple[str, int]] = set()
        self.partial: list[str] = []
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._ended.is_set():
                try:
                    with psycopg.connect(self._url(), connect_timeout=10) as connection:
                        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                        while not self._ended.wait(LOOK_EVERY_S):
                            self.look(connection)
                except psycopg.OperationalError:
                    self._ended.wait(LOOK_EVERY_S)
        except BaseException as failure:
            self.failure = failure

    def end(self) -> None:
        self._ended.set()
        self.join()

    def look(self, connection: psycopg.Connection[Any]) -> None:
        """One snapshot of all that the drain writes."""
        with connection.transaction():
            seen = {stream.name: counted(connection, stream.contract.config.table) for stream in STREAMS}
        self.looks += 1
        for name, (position, received, counts) in seen.items():
            expected = self._expected[name].after(position)
            if counts != expected or received != position or position < self._last[name]:
                self.partial.append(
                    f"{name} at {position} (before: {self._last[name]}): {received} received, {counts}, not {expected}"
                )
            self._last[name] = position
            self.positions.add((name, position))


def counted(connection: psycopg.Connection[Any], table: str) -> tuple[int, int, Counts]:
    """Committed position, records received by the ledger, and what is in table and quarantine."""
    query = f"""
        SELECT coalesce((SELECT (source_position::json ->> 'sequence')::bigint FROM etl.ledger
                         WHERE asset = '{table}' ORDER BY committed_at DESC LIMIT 1), 0),
               (SELECT coalesce(sum(received), 0)::bigint FROM etl.ledger WHERE asset = '{table}'),
               count(*), coalesce(sum(sequence), 0)::bigint, coalesce(max(sequence), 0),
               (SELECT coalesce(sum(seen), 0)::bigint FROM etl.quarantine
                WHERE asset = '{table}' AND outcome = 'superseded'),
               (SELECT coalesce(sum(seen), 0)::bigint FROM etl.quarantine
                WHERE asset = '{table}' AND outcome = 'rejected')
        FROM {table}"""
    found = connection.execute(query).fetchone()
    assert found is not None
    return found[0], found[1], Counts(*found[2:])


@dataclass
class Judgement:
    """What is wrong in the end, counted by place; empty if all is well.

    Attributes:
        lost: what should be there and is not.
        twice: what is there once more than it should, or should not be there at all.
    """

    lost: Counter[str] = field(default_factory=Counter)
    twice: Counter[str] = field(default_factory=Counter)

    def compare(self, place: str, wanted: Iterable[Any], there: Iterable[Any]) -> None:
        """Each that is wanted is there, once, and no other."""
        should, does = Counter(wanted), Counter(there)
        self.lost += Counter({place: (should - does).total()})
        self.twice += Counter({place: (does - should).total()})


def judge(connection: psycopg.Connection[Any], stream: Stream, expected: Expected, judgement: Judgement) -> None:
    """Table, quarantine and ledger of a stream beside what its file comes to."""
    table, key = stream.contract.config.table, ", ".join(stream.contract.config.key)
    (value,) = set(stream.contract.columns) - {*stream.contract.config.key, "sequence"}
    rows = connection.execute(f"SELECT {key}, {value}, sequence FROM {table}")
    judgement.compare(table, ((*at, *cells) for at, cells in expected.table.items()), rows)
    quarantine = connection.execute(
        "SELECT (raw::json ->> 'sequence')::bigint, faults::json -> 0 ->> 'rule', outcome, seen FROM etl.quarantine"
        " WHERE asset = %s",
        [table],
    ).fetchall()
    given_way = [(sequence, f"superseded by sequence {by}") for sequence, by in expected.superseded.items()]
    met = [(at, rule) for at, rule, outcome, seen in quarantine for _ in range(seen) if outcome == "superseded"]
    judgement.compare(f"superseded of {table}", given_way, met)
    met = [at for at, _, outcome, seen in quarantine for _ in range(seen) if outcome == "rejected"]
    judgement.compare(f"rejected of {table}", expected.rejected, met)
    counts = f"received, {', '.join(BOOKS)}, source_position::json ->> 'sequence'"
    received, positions = 0, []
    for entry in connection.execute(f"SELECT {counts} FROM etl.ledger WHERE asset = %s ORDER BY committed_at", [table]):
        assert entry[0] == sum(entry[1:-1]), f"the books of {table} do not balance: {entry}"
        received += entry[0]
        positions.append(int(entry[-1]))
        assert positions[-1] == received, f"{received} records were received for {table} up to position {positions[-1]}"
    judgement.compare(f"received for {table}", range(1, expected.total + 1), range(1, received + 1))
