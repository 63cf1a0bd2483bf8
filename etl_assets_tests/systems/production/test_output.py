"""The output of work orders: what is a running counter, and what its increments are."""

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl_assets.systems.production.statistics import OutputSummary, outputs

MIDNIGHT = datetime(2024, 5, 20, tzinfo=UTC)
NAN = math.nan
GIVEN = Path(__file__).parents[3].parent / "shared/data/production/workorder.json"


def orders(*production: float | None, product: int = 0) -> pd.DataFrame:
    """Work orders of one product, an hour apart."""
    return pd.DataFrame(
        {
            "product_id": str(product),
            "completed_at": pd.Series(
                [MIDNIGHT + timedelta(hours=i) for i in range(len(production))], dtype="datetime64[us, UTC]"
            ),
            "production": pd.Series(production, dtype="float64"),
        }
    )


def read(*production: float | None) -> tuple[list[float | None], OutputSummary]:
    """The outputs of one product, None where unknown, and how it was read."""
    found, (summary,) = outputs(orders(*production))
    return [None if math.isnan(value) else round(value, 9) for value in found["output"]], summary


def counters(productions: Sequence[np.ndarray]) -> int:
    """How many of them are taken for counters."""
    _, summaries = outputs(pd.concat([orders(*made, product=i) for i, made in enumerate(productions)]))
    return sum(summary.is_counter for summary in summaries)


def counter(count: int, *, start: float = 0.0, step: float = 20.0) -> list[float]:
    return [start + step * i for i in range(count)]


def test_the_output_of_a_counter_is_its_increments_and_an_integer_zero_at_the_start_is_data() -> None:
    found, summary = read(0, 15.5, 40.0, 55.0, 80.0, 95.0, 95.0)
    assert found == [15.5, 24.5, 15.0, 25.0, 15.0, 0.0]
    assert summary == OutputSummary(
        product_id="0",
        work_orders=7,
        is_counter=True,
        resets=0,
        decreases=0,
        missing=0,
        first=MIDNIGHT,
        last=MIDNIGHT + timedelta(hours=6),
    )


def test_what_is_no_counter_is_its_own_output() -> None:
    found, summary = read(20, 18, 22, 19, 25, 17, 21)
    assert (summary.is_counter, found) == (False, [18, 22, 19, 25, 17, 21])


def test_work_orders_run_from_the_previous_one_of_their_product() -> None:
    mixed = pd.concat([orders(5, 6, 7, product=10), orders(1, 2, product=2), orders(9, product=3)])
    found, summaries = outputs(mixed.sample(frac=1, random_state=1))
    assert list(found.columns) == ["product_id", "completed_at", "started_at", "production", "output"]
    assert [str(dtype) for dtype in found.dtypes] == ["object", *["datetime64[us, UTC]"] * 2, *["float64"] * 2]
    rows = [(p, e.hour, s.hour, n) for p, e, s, n, _ in found.itertuples(index=False)]
    assert rows == [("2", 1, 0, 2), ("10", 1, 0, 6), ("10", 2, 1, 7)]
    assert [(s.product_id, s.work_orders, s.first, s.last) for s in summaries] == [
        ("2", 2, MIDNIGHT, MIDNIGHT + timedelta(hours=1)),
        ("3", 1, MIDNIGHT, MIDNIGHT),
        ("10", 3, MIDNIGHT, MIDNIGHT + timedelta(hours=2)),
    ]


def test_small_decreases_stay_as_negative_increments_and_are_counted() -> None:
    found, summary = read(*counter(10), 175.0, 195.0, *counter(10, start=215.0))
    assert (summary.is_counter, summary.resets, summary.decreases) == (True, 0, 1)
    assert found[9] == -5.0


@pytest.mark.parametrize(
    "production",
    [[0.0, 20.0, 8.0, *counter(20, start=28.0)], [*counter(101), *counter(20, start=1940.0)]],
    ids=["most of the little that had been counted", "more than two rises of the much that had been counted"],
)
def test_a_decrease_is_no_reset(production: list[float]) -> None:
    found, summary = read(*production)
    assert (summary.is_counter, summary.resets, summary.decreases) == (True, 0, 1)
    assert None not in found


def test_the_increment_at_a_reset_is_not_known() -> None:
    found, summary = read(*counter(8), 3.0, *counter(7, start=20.0), 0.0, *counter(8, start=15.0))
    assert (summary.is_counter, summary.resets, summary.decreases) == (True, 2, 0)
    assert [place for place, value in enumerate(found) if value is None] == [7, 15]
    assert found[8] == 17.0


def test_a_counter_that_begins_high_is_one_and_its_reset_is_seen() -> None:
    found, summary = read(*counter(10, start=1e9), *counter(6))
    assert (summary.is_counter, summary.resets) == (True, 1)
    assert found[:9] == [20.0] * 9


def test_a_counter_that_goes_back_to_where_it_began_is_reset_wherever_that_is() -> None:
    _, summary = read(*counter(10, start=1e6), *counter(10, start=1e6))
    assert (summary.is_counter, summary.resets, summary.decreases) == (True, 1, 0)


def test_a_counter_of_shifts_that_begins_anew_every_few_orders_is_one() -> None:
    _, summary = read(*(counter(6, start=20.0) * 6))
    assert (summary.is_counter, summary.resets) == (True, 5)


def test_a_counter_that_drops_out_for_one_order_has_no_huge_increment() -> None:
    found, summary = read(*counter(8), 0.0, *counter(8, start=180.0))
    assert (summary.is_counter, summary.resets) == (True, 1)
    assert found[7:9] == [None, None]
    assert {value for value in found if value is not None} == {20.0}


def test_a_missing_production_makes_the_increments_next_to_it_unknown() -> None:
    found, summary = read(0, 10, None, 30, 40, 50, NAN, 70, 80, 90, math.inf)
    assert (summary.is_counter, summary.missing) == (True, 3)
    assert found == [10, None, None, 10, 10, None, None, 10, 10, None]


def test_a_reset_beside_a_missing_production_is_counted() -> None:
    found, summary = read(*counter(8), None, *counter(8))
    assert (summary.resets, summary.missing) == (1, 1)
    assert [place for place, value in enumerate(found) if value is None] == [7, 8]


@pytest.mark.parametrize(
    "production",
    [
        [5.0] * 50,
        [0.0] * 50,
        [None] * 50,
        [5.0] * 25 + [6.0] * 25,
        [0, 20, 40, 60, 80],
        counter(50)[::-1],
        [100, 120] * 25,
        [0, 100, 0, 120] * 12,
        [0, 20, 40] * 16,
        [*counter(20), *counter(20, start=280.0)],
        [1.7e308, -1.7e308] * 20,
    ],
    ids=[
        "constant",
        "zero",
        "missing",
        "one step",
        "four rises",
        "falling",
        "square",
        "pulses",
        "saw",
        "deep fall",
        "huge",
    ],
)
def test_what_only_looks_like_a_counter_is_none(production: list[float | None]) -> None:
    found, summary = read(*production)
    assert (summary.is_counter, summary.resets, summary.decreases) == (False, 0, 0)
    assert found == production[1:]


@pytest.mark.parametrize("shape", ["normal", "exponential", "heavy", "walk", "autoregressive", "noisy trend"])
@pytest.mark.parametrize("count", [8, 30, 288])
def test_noise_is_hardly_ever_taken_for_a_counter(shape: str, count: int) -> None:
    def made(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        noise = rng.normal(size=count)
        shapes = {
            "normal": lambda: 20 + 5 * noise,
            "exponential": lambda: rng.exponential(20, size=count),
            "heavy": lambda: np.exp(3 * noise),
            "walk": lambda: np.cumsum(noise),
            "autoregressive": lambda: np.convolve(noise, 0.9 ** np.arange(50))[:count],
            "noisy trend": lambda: np.arange(count) + 2 * noise,
        }
        return shapes[shape]()

    assert counters([made(seed) for seed in range(50)]) <= (1 if count < 30 else 0)


@pytest.mark.parametrize("count", [8, 30, 288])
def test_a_counter_with_scatter_and_corrections_is_nearly_always_seen(count: int) -> None:
    scattered = [np.cumsum(np.random.default_rng(seed).normal(20, 7.3, size=count)) for seed in range(50)]
    assert counters(scattered) >= (45 if count < 30 else 50)


@given(
    st.lists(st.integers(0, 100), min_size=7, max_size=40).filter(lambda found: sum(n > 0 for n in found[1:]) >= 5),
    st.integers(-(10**9), 10**9),
)
def test_whatever_never_falls_is_a_counter_and_its_output_adds_up(steps: list[int], start: int) -> None:
    found, summary = read(*(start + np.cumsum(steps)).tolist())
    assert (summary.is_counter, summary.resets, summary.decreases) == (True, 0, 0)
    assert found == steps[1:]


def test_products_are_judged_each_by_itself() -> None:
    found, summaries = outputs(pd.concat([orders(*counter(9)), orders(*[7.0] * 9, product=1)]))
    assert [summary.is_counter for summary in summaries] == [True, False]
    assert found["output"].tolist() == [20.0] * 8 + [7.0] * 8


def test_no_work_orders_give_no_rows() -> None:
    found, summaries = outputs(orders())
    assert (len(found), summaries) == (0, [])
    assert str(found["started_at"].dtype) == "datetime64[us, UTC]"


def test_what_is_not_work_orders_is_refused() -> None:
    good = orders(1, 2)
    with pytest.raises(ValueError, match="no column production"):
        outputs(good.drop(columns="production"))
    with pytest.raises(ValueError, match=r"completed_at of work orders is datetime64\[us\]: give the times a zone"):
        outputs(good.assign(completed_at=good["completed_at"].dt.tz_localize(None)))
    with pytest.raises(ValueError, match="1 work orders have no completed_at"):
        outputs(good.assign(completed_at=good["completed_at"].where([True, False])))
    with pytest.raises(ValueError, match=r"product 0 has two work orders at 2024-05-20T00:00:00\+00:00: keep one"):
        outputs(pd.concat([good, good.iloc[:1]]))


@pytest.mark.skipif(not GIVEN.is_file(), reason="the given files are not here")
def test_the_given_work_orders_are_two_counters_with_a_few_corrections() -> None:
    given = pd.DataFrame(json.loads(GIVEN.read_text()))
    workorders = pd.DataFrame(
        {
            "product_id": given["product"].astype(str),
            "completed_at": pd.to_datetime(given["time"], unit="s", utc=True),
            "production": given["production"],
        }
    )
    found, summaries = outputs(workorders)
    assert len(found) == 574
    assert [(s.work_orders, s.is_counter, s.resets, s.decreases, s.missing) for s in summaries] == [
        (288, True, 0, 2, 0),
        (288, True, 0, 1, 0),
    ]
    assert found["output"].isna().sum() == 0
    assert found["output"].min() == pytest.approx(-5.222895)
