"""Each event once, whichever files have it."""

from datetime import timedelta

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.systems.events.contracts import UsEventData
from etl_assets.systems.events.transform import deduplicated_events
from etl_assets_tests.systems.events.world import FIRST, quarter

SCHEMA = arrow_schema(UsEventData, ("global_event_id", "file_interval"))
PAIRS = st.lists(st.tuples(st.integers(-2, 6), st.integers(0, 5)), unique=True, max_size=20)


def table(pairs: list[tuple[int, int]]) -> pa.Table:
    """Events by their id and the number of their interval."""
    return pa.Table.from_pylist(
        [{"global_event_id": event, "file_interval": quarter(at)} for event, at in pairs], SCHEMA
    )


def pairs(rows: pa.Table) -> list[tuple[int, int]]:
    found = rows.to_pylist()
    return [(row["global_event_id"], (row["file_interval"] - FIRST) // timedelta(minutes=15)) for row in found]


def once(
    rows: list[tuple[int, int]], held: list[tuple[int, int]], intervals: set[int], *left_out: int
) -> tuple[list[tuple[int, int]], bool]:
    had = pa.chunked_array([[*(event for event, _ in rows), *left_out]], pa.int64())
    shared = deduplicated_events(table(rows), table(held), [quarter(at) for at in sorted(intervals)], known_ids=had)
    return pairs(shared.rows), shared.given_up


def test_an_event_stays_with_the_interval_that_holds_it() -> None:
    assert once([(7, 0), (7, 1)], [(7, 1)], {0, 1}) == ([(7, 1)], False)
    assert once([(7, 0)], [(7, 3)], {0}) == ([], False)


def test_an_event_that_nobody_holds_goes_to_the_first() -> None:
    assert once([(7, 0), (8, 0), (7, 1)], [], {0, 1}) == ([(7, 0), (8, 0)], False)


def test_an_event_that_its_interval_gives_up_goes_to_another_of_these_or_is_given_up() -> None:
    assert once([(7, 0), (7, 2)], [(7, 1)], {0, 1, 2}) == ([(7, 0)], False)
    assert once([(8, 0)], [(7, 1), (8, 0)], {0, 1}) == ([(8, 0)], True)


def test_an_event_that_only_the_rule_leaves_out_is_not_given_up() -> None:
    assert once([(8, 0)], [(7, 1), (8, 0)], {0, 1}, 7) == ([(8, 0)], False)


def test_nothing_of_nothing() -> None:
    assert once([], [], {0}) == ([], False)


@settings(max_examples=25)
@given(rows=PAIRS, held=PAIRS, intervals=st.sets(st.integers(0, 5), min_size=1))
def test_what_is_stored_is_what_a_loop_over_the_rows_finds(
    rows: list[tuple[int, int]], held: list[tuple[int, int]], intervals: set[int]
) -> None:
    rows = [(event, at) for event, at in rows if at in intervals]
    holders = dict(reversed([(event, at) for event, at in held]))
    owner: dict[int, int] = {event: at for event, at in holders.items() if (event, at) in rows or at not in intervals}
    for event, at in rows:
        owner.setdefault(event, at)
    there = {event for event, _ in rows}
    assert once(rows, list(holders.items()), intervals) == (
        [(event, at) for event, at in rows if owner[event] == at],
        any(at in intervals and event not in there for event, at in holders.items()),
    )
