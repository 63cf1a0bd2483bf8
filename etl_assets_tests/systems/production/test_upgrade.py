"""What the revision before left of the production goes over."""

from etl_assets_tests.core.slices.aged import age
from etl_assets_tests.systems.production.world import Command, small_records


def test_the_position_of_before_is_found_and_the_report_is_the_same(command: Command) -> None:
    metrics, workorders = small_records()
    first = command.report(metrics, workorders)
    command.database = age(command.database)
    again = command.report(metrics, workorders)
    assert "metrics: 0 new records" in command.out
    assert again["products"] == first["products"]
    command.assert_copied()
