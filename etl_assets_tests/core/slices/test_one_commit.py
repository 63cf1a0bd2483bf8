"""The one commit against its model: some short histories; the many are in `prove/test_one_commit_model.py`."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from etl_assets.core.database.connections import Database
from etl_assets_tests.core.slices.histories import HISTORIES, World, world_of


@pytest.fixture(scope="module")
def world(database_of_module: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world_of(database_of_module.url, tmp_path_factory.mktemp("lake")) as made:
        yield made


@settings(max_examples=12, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(actions=HISTORIES)
def test_what_stands_after_each_step_is_what_the_model_has(world: World, actions: list[tuple[Any, ...]]) -> None:
    world.run(actions)
