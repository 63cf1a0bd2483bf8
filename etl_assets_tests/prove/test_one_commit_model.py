"""The one commit against its model, at depth; and the model against a fault in each of the rules."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from etl_assets.core.database.connections import Database
from etl_assets_tests.core.slices.histories import HISTORIES, Actions, World, world_of
from etl_assets_tests.core.slices.planted import FAULTS
from etl_assets_tests.core.slices.processes import Processes

COUNT = 2_000
COUNT_OF_PROCESSES = 100
# In each of these a planted fault is found after some tens; see the printed lines.
AT_MOST = 600


@pytest.fixture
def world(fresh_database: Database, tmp_path: Path) -> Iterator[World]:
    with world_of(fresh_database.url, tmp_path / "lake") as made:
        yield made


def run(world: World, count: int, *phases: Phase, anew: bool) -> None:
    """Histories.

    Args:
        anew: whether other ones are drawn each time.
    """

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=not anew,
        phases=phases,
        suppress_health_check=list(HealthCheck),
    )
    @given(actions=HISTORIES)
    def histories(actions: Actions) -> None:
        world.run(actions)

    histories()


def as_line(counted: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counted.items()))


def test_whatever_comes_between_two_statements_what_stands_is_what_the_model_has(world: World) -> None:
    run(world, COUNT, Phase.generate, Phase.shrink, anew=True)
    print(f"\nwhat was done in {COUNT} histories: {as_line(world.counted)}")
    assert world.counted["histories"] >= COUNT


@pytest.mark.parametrize("fault", FAULTS)
def test_the_model_finds_a_fault_in_a_rule(world: World, fault: str) -> None:
    with FAULTS[fault](), pytest.raises(AssertionError) as found:
        run(world, AT_MOST, Phase.generate, anew=False)
    print(f"\n{fault}: found in history {world.counted['histories']}: {found.value}")


def test_processes_that_are_stopped_and_killed_leave_what_the_model_has(world: World) -> None:
    processes = Processes(world)
    for seed in range(COUNT_OF_PROCESSES):
        processes.run(seed)
    print(f"\nwhat was done in {COUNT_OF_PROCESSES} histories of processes: {as_line(world.counted)}")
    assert world.counted["stopped"] > COUNT_OF_PROCESSES
