"""The drain against its model, briefly; `prove/test_production_stateful.py` goes deep."""

from pathlib import Path

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from etl_assets.resources.database import Database
from etl_assets.resources.embedded import EmbeddedBroker
from etl_assets_tests.production.machine import Production


def test_whatever_happens_each_record_is_stored_once(database: Database, tmp_path: Path) -> None:
    run_state_machine_as_test(
        type("ProductionBriefly", (Production,), {"database": database, "server": EmbeddedBroker(tmp_path / "broker")}),
        settings=settings(max_examples=4, stateful_step_count=12, deadline=None, database=None),
    )
