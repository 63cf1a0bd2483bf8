"""The outbox against its model, at depth."""

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from etl_assets_tests.systems.outages.machine import Outbox
from etl_assets_tests.systems.outages.world import World


def test_whatever_happens_each_outage_takes_effect_once(world: World) -> None:
    run_state_machine_as_test(
        type("OutboxInDepth", (Outbox,), {"world": world}),
        settings=settings(max_examples=25, stateful_step_count=20, deadline=None, database=None),
    )
