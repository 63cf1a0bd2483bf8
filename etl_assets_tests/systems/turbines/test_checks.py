"""The checks: what they look at, what they name, and that looking at nothing is a failure."""

from datetime import UTC, date, datetime

import pytest

from etl_assets.systems.turbines import checks
from etl_assets.systems.turbines.checks import no_gaps, statistics_are_in_order
from etl_assets.systems.turbines.transform import DAY
from etl_assets_tests.systems.turbines.world import FIRST, World


@pytest.mark.long
def test_no_gaps_names_each_day_without_statistics(world: World) -> None:
    world.load(FIRST, FIRST + 2 * DAY)
    result = no_gaps(world.target)
    assert not result.passed
    assert result.metadata["missing"].value == "2024-05-21, 2024-05-23"
    assert (result.metadata["missing_days"].value, result.metadata["rows_evaluated"].value) == (2, 288 + 286)
    world.load(FIRST + DAY, FIRST + 3 * DAY)
    result = no_gaps(world.target)
    assert result.passed
    assert result.metadata["missing"].value == "none"


@pytest.mark.long
def test_no_gaps_ends_with_the_day_that_is_over(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TURBINES_END_DATE")
    world.load(FIRST)

    class Clock(datetime):
        @classmethod
        def now(cls, zone: object = None) -> datetime:  # type: ignore[override]
            return datetime(2024, 5, 21, 0, 0, 1, tzinfo=UTC)

    monkeypatch.setattr(checks, "datetime", Clock)
    assert no_gaps(world.target).passed
    monkeypatch.undo()


@pytest.mark.long
def test_many_missing_days_are_counted_and_the_first_of_them_named(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURBINES_END_DATE", "2024-12-31")
    world.load(FIRST)
    result = no_gaps(world.target)
    named = str(result.metadata["missing"].value)
    assert result.metadata["missing_days"].value == (date(2024, 12, 31) - FIRST).days
    assert (named.count(","), named[:10], named[-1]) == (31, "2024-05-21", "…")


@pytest.mark.long
def test_a_check_that_looked_at_nothing_has_failed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for check in (no_gaps, statistics_are_in_order):
        result = check(world.target)
        assert (result.passed, result.description) == (False, "there was nothing to look at")


@pytest.mark.long
def test_means_outside_of_their_range_are_found_on_the_newest_day(world: World) -> None:
    world.load(FIRST, FIRST + DAY, columns=["power", "wind_direction"])
    result = statistics_are_in_order(world.target)
    assert result.passed
    assert result.metadata["rows_evaluated"].value == 126
    mean = "signal_id = (SELECT id FROM signal WHERE name = 'power_mean')"
    world.execute(f"UPDATE data SET value = 1e6 WHERE {mean} AND timestamp >= '2024-05-21 23:00Z'")
    result = statistics_are_in_order(world.target)
    assert (result.passed, result.metadata["disordered"].value) == (False, 6)
