"""Series of known kind are taken for what they are."""

import numpy as np
import pytest

from etl_assets.systems.production.statistics.significance import (
    autocorrelation,
    classify,
    filtered,
    fit_autoregression,
    has_trend,
    has_unit_root,
    polynomial,
    treatments_of,
    trend_degree,
    without,
)
from etl_assets_tests.systems.production.series import autoregressive, noise, random_walk, trend


def test_independent_noise_is_independent() -> None:
    assert [classify(noise(288, seed=seed)) for seed in range(6)].count("independent") >= 5


def test_an_autoregression_is_autoregressive() -> None:
    assert [classify(autoregressive(288, 0.6, seed=seed)) for seed in range(6)].count("autoregressive") >= 5


def test_a_random_walk_has_a_unit_root() -> None:
    assert [classify(random_walk(288, seed=seed)) for seed in range(6)].count("unit root") >= 5


def test_a_line_with_noise_is_a_trend_and_no_unit_root() -> None:
    assert [classify(trend(288, seed=seed)) for seed in range(6)] == ["trend"] * 6


def test_a_line_without_noise_is_a_trend() -> None:
    assert classify(np.linspace(3.0, 9.0, 50)) == "trend"


def test_a_parabola_with_noise_is_a_trend() -> None:
    assert classify(np.linspace(-5, 5, 200) ** 2 + noise(200, seed=1)) == "trend"


def test_a_series_too_short_for_a_unit_root_has_none() -> None:
    assert not has_unit_root(random_walk(19, seed=3))


@pytest.mark.long
@pytest.mark.parametrize("n", [50, 288])
def test_the_unit_root_test_keeps_its_level(n: int) -> None:
    rejected = sum(not has_unit_root(random_walk(n, seed=seed)) for seed in range(1000))
    assert 25 <= rejected <= 130  # 5 % asked for; choosing the lags makes it liberal, more so in short series


def test_a_trend_in_strongly_autoregressive_noise_is_not_imagined() -> None:
    assert sum(has_trend(autoregressive(288, 0.8, seed=seed)) for seed in range(20)) <= 2


def test_burgs_fit_finds_the_coefficients_of_an_autoregression() -> None:
    steps = noise(20_500, seed=4)
    for at in range(2, len(steps)):
        steps[at] += 1.2 * steps[at - 1] - 0.8 * steps[at - 2]
    found = fit_autoregression(steps[500:])
    assert found[:2] == pytest.approx([1.2, -0.8], abs=0.03)
    assert np.abs(found[2:]).max(initial=0) < 0.05


def test_filtering_by_its_own_autoregression_leaves_white_noise() -> None:
    series = autoregressive(5_000, 0.9, seed=5)
    left = filtered(fit_autoregression(series), series)
    assert autocorrelation(series, 1)[0] == pytest.approx(0.9, abs=0.03)
    assert np.abs(autocorrelation(left, 5)).max() < 0.05


def test_a_constant_has_no_autoregression_and_no_autocorrelation() -> None:
    constant = np.full(40, 7.25)
    assert len(fit_autoregression(constant)) == 0
    assert autocorrelation(constant, 3).tolist() == [0, 0, 0]


def test_autocorrelation_is_that_of_the_definition() -> None:
    series = noise(31, seed=6)
    centred = series - series.mean()
    by_hand = [(centred[lag:] * centred[:-lag]).sum() / (centred**2).sum() for lag in (1, 2, 3)]
    assert autocorrelation(series, 3) == pytest.approx(by_hand, abs=1e-12)


def test_a_polynomial_leaves_nothing_of_its_own_degree() -> None:
    time = np.arange(60.0)
    assert np.abs(without(polynomial(60, 2), 3 - 2 * time + 0.5 * time**2)).max() < 1e-9
    assert np.abs(without(polynomial(60, 1), time**2)).max() > 100


@pytest.mark.parametrize(("n", "degree"), [(10, 2), (12, 3), (16, 4), (20_000, 4)])
def test_short_series_lose_a_simpler_trend(n: int, degree: int) -> None:
    assert trend_degree(n) == degree


@pytest.mark.parametrize(
    ("one", "other", "treatments"),
    [
        ("independent", "autoregressive", ("detrended",)),
        ("independent", "trend", ("detrended", "differenced")),
        ("unit root", "independent", ("detrended", "differenced")),
    ],
)
def test_where_one_drifts_the_relation_has_to_outlast_both_treatments(one, other, treatments) -> None:
    assert treatments_of(one, other) == treatments
