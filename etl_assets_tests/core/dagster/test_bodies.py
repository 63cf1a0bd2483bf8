"""What surrounds the body of an asset: what its failures mean to Dagster."""

import errno
import os

import dagster as dg
import pytest

from etl_assets.core.dagster.automation import partition_range
from etl_assets.core.dagster.bodies import classified

DAYS = dg.DailyPartitionsDefinition("2024-05-01")


def failure(result: dg.ExecuteInProcessResult) -> tuple[str, dict[str, object]]:
    """What a failed step said, and the metadata of its failure."""
    (event,) = [event for event in result.all_events if event.is_step_failure]
    data = event.step_failure_data
    said = data.user_failure_data
    if said is None:
        assert data.error is not None and data.error.cause is not None
        return data.error.cause.message, {}
    return str(said.description), dict(said.metadata)


def test_a_range_that_begins_with_the_later_partition_is_refused_before_anything_is_asked() -> None:
    asked = []

    @dg.asset
    @classified
    def whole() -> None:
        asked.append("whole")

    @dg.asset(partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run())
    @classified
    def days(context: dg.AssetExecutionContext) -> None:
        asked.extend(context.partition_keys)

    with dg.DagsterInstance.ephemeral() as instance:
        tags = partition_range("2024-05-22", "2024-05-20")
        result = dg.materialize([days], instance=instance, tags=tags, raise_on_error=False)
        assert failure(result)[0] == (
            "the partitions 2024-05-22...2024-05-20 are none: a range begins with the earlier one, 2024-05-20...2024-05-22"
        )
        dg.materialize([whole, days], instance=instance, tags=tags, raise_on_error=False)
        assert asked == []
        right = partition_range("2024-05-20", "2024-05-21")
        assert dg.materialize([days], instance=instance, tags=right).success
    assert asked == ["2024-05-20", "2024-05-21"]


@pytest.mark.parametrize(
    ("number", "said", "stops"),
    [(errno.EACCES, "let ETL_DATA_DIR name a folder", True), (errno.ENOSPC, "the disk is full", False)],
)
def test_what_the_system_refuses_is_one_line_and_only_a_right_that_lacks_stops_the_retries(
    number: int, said: str, stops: bool
) -> None:
    @dg.asset
    @classified
    def writes() -> None:
        raise OSError(number, os.strerror(number), "/data/page.html")

    with dg.DagsterInstance.ephemeral() as instance:
        text, metadata = failure(dg.materialize([writes], instance=instance, raise_on_error=False))
    assert text.strip().splitlines()[-1].count("/data/page.html") == 1
    assert said in text
    assert bool(metadata) is stops
