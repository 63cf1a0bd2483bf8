"""The drain against its model, at depth."""

from pathlib import Path

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from etl_assets.core.database.connections import Database
from etl_assets.core.embedded import EmbeddedBroker
from etl_assets_tests.systems.production.machine import Production


def test_whatever_happens_each_record_is_stored_once(database: Database, tmp_path: Path) -> None:
    run_state_machine_as_test(
        type("ProductionInDepth", (Production,), {"database": database, "server": EmbeddedBroker(tmp_path / "broker")}),
        settings=settings(max_examples=60, stateful_step_count=30, deadline=None, database=None),
    )
