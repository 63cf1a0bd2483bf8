"""Axes: round values, in few marks, whatever is drawn."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from etl_assets.core.charts.axes import time_axis, value_axis

START = datetime(2021, 6, 22, 16, 16, 14, tzinfo=UTC)


@pytest.mark.parametrize(
    ("values", "labels", "unit"),
    [
        ([0, 5729.3], ["0", "2,000", "4,000", "6,000"], ""),
        ([-0.26, 0.23], ["−0.2", "0.0", "0.2"], ""),
        ([2e7, 9e7], ["2", "4", "6", "8"], " (× 10⁷)"),
        ([-4e-5, 0], ["−4", "−3", "−2", "−1", "0"], " (× 10⁻⁵)"),
        ([999.9, 1000.2], ["999.9", "1,000.0", "1,000.1", "1,000.2"], ""),
        ([1e5, 1e5 + 1e-4], ["lowest", "highest"], ""),
        ([4.5], ["4.5"], ""),
    ],
)
def test_an_axis_has_round_values(values: list[float], labels: list[str], unit: str) -> None:
    axis = value_axis(np.asarray(values, dtype=np.float64))
    assert ([label for _, label in axis.marks], axis.unit) == (labels, unit)


def test_a_low_axis_has_at_least_two_marks() -> None:
    assert [label for _, label in value_axis(np.array([8.5, 31.0]), intervals=2).marks] == ["10", "20", "30"]


@pytest.mark.parametrize(
    ("span", "labels"),
    [
        (timedelta(), ["16:16:14"]),
        (timedelta(milliseconds=1), ["16:16:14"]),
        (timedelta(minutes=3), ["16:17", "16:18", "16:19"]),
        (timedelta(hours=9), ["22 Jun 18:00", "22 Jun 21:00", "23 Jun 00:00"]),
        (timedelta(days=2), ["23 Jun 00:00", "23 Jun 12:00", "24 Jun 00:00", "24 Jun 12:00"]),
        (timedelta(days=16.6), ["24 Jun", "1 Jul", "8 Jul"]),
        (timedelta(days=100), ["Jul 2021", "Aug 2021", "Sep 2021"]),
        (timedelta(days=1500), ["2022", "2024"]),
        (timedelta(days=36500), ["2050", "2100"]),
    ],
)
def test_a_time_axis_is_labelled_in_steps_that_people_use(span: timedelta, labels: list[str]) -> None:
    axis = time_axis(pd.DatetimeIndex([START, START + span]))
    assert [label for _, label in axis.marks] == labels
