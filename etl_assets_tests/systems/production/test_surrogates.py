"""The surrogates are what they should be, and p says how many of them go with the parameter as well."""

import numpy as np
import pytest

from etl_assets.systems.production.statistics.significance import (
    FIRST_ROUND,
    _rounds,
    autocorrelation,
    significance,
    treat,
)
from etl_assets_tests.systems.production.series import autoregressive, noise, trend


def test_a_copy_of_the_output_has_the_smallest_p_that_there_is() -> None:
    output = noise(100, seed=1)
    found = significance(treat(output, output[:, None], "detrended"), most=8_000, seed=1)
    assert found.r[0] == pytest.approx(1.0)
    assert found.surrogates[0] >= 8_000
    assert found.p[0] == 1 / (found.surrogates[0] + 1)


def test_p_of_an_unrelated_parameter_is_settled_in_the_first_round() -> None:
    found = significance(treat(noise(100, seed=1), noise(100, seed=2)[:, None], "detrended"), most=8_000, seed=1)
    assert found.surrogates[0] == FIRST_ROUND
    assert found.p[0] > 0.01


def test_the_same_seed_gives_the_same_p() -> None:
    treated = treat(noise(60, seed=1), noise(120, seed=2).reshape(60, 2), "differenced")
    assert significance(treated, most=500, seed=3).p.tolist() == significance(treated, most=500, seed=3).p.tolist()


@pytest.mark.parametrize("n", [100, 101])
def test_a_surrogate_has_the_values_and_the_autocorrelation_of_the_treated_output(n: int) -> None:
    treated = treat(noise(n, seed=1), noise(n, seed=2)[:, None], "detrended")
    surrogates = np.vstack(list(_rounds(treated, most=400, seed=4)))
    assert surrogates.shape == (400, len(treated.output))
    assert np.abs(surrogates @ treated.basis).max() < 1e-9
    assert surrogates.std(axis=1) == pytest.approx(treated.output.std(), rel=0.1)
    mean = np.mean([autocorrelation(one, 3) for one in surrogates], axis=0)
    assert mean == pytest.approx(autocorrelation(treated.output, 3), abs=0.05)


def test_a_trend_that_both_share_is_taken_out() -> None:
    output, parameter = trend(288, seed=1), trend(288, seed=2)
    assert np.corrcoef(output, parameter)[0, 1] > 0.99
    found = significance(treat(output, parameter[:, None], "detrended"), most=1_999, seed=1)
    assert abs(found.r[0]) < 0.2
    assert found.p[0] > 0.01


def test_an_effect_beneath_a_shared_trend_is_found() -> None:
    parameter = noise(288, seed=3)
    output = np.linspace(0, 500, 288) + 0.6 * parameter + 0.8 * noise(288, seed=4)
    found = significance(treat(output, (np.linspace(0, 90, 288) + parameter)[:, None], "detrended"), most=8_000, seed=1)
    assert found.r[0] == pytest.approx(0.6, abs=0.1)
    assert found.p[0] < 0.001


def test_rows_without_a_value_play_no_part() -> None:
    output, parameter = noise(200, seed=1), noise(200, seed=2)
    missing = parameter.copy()
    missing[50:120] = np.nan
    other = missing.copy()
    treated = treat(output, np.column_stack([missing, other, parameter]), "detrended")
    lagged = 200 - len(treated.output)
    assert treated.present.sum(axis=0).tolist() == [130 - lagged, 130 - lagged, 200 - lagged]
    found = significance(treated, most=200, seed=1)
    kept = treated.present[:, 0]
    assert found.r[0] == found.r[1]
    assert found.r[0] == pytest.approx(np.corrcoef(treated.output[kept], treated.parameters[kept, 0])[0, 1])


def test_a_difference_needs_both_of_its_values() -> None:
    parameter = noise(50, seed=2)
    parameter[20] = np.nan
    treated = treat(noise(50, seed=1), parameter[:, None], "differenced")
    assert treated.present.sum() == len(treated.output) - 2


def test_of_a_parameter_that_is_its_trend_nothing_is_left_to_correlate() -> None:
    found = significance(treat(noise(80, seed=1), np.linspace(0, 9, 80)[:, None], "detrended"), most=200, seed=1)
    assert np.isnan(found.r[0])
    assert np.isnan(found.p[0])


def test_of_a_parameter_without_values_nothing_is_left_to_correlate() -> None:
    found = significance(treat(noise(80, seed=1), np.full((80, 1), np.nan), "detrended"), most=200, seed=1)
    assert np.isnan(found.p[0])


def test_heavy_tails_do_not_make_discoveries() -> None:
    random = np.random.default_rng(7)
    p = [
        significance(treat(random.exponential(size=150) ** 3, random.exponential(size=(150, 10)) ** 3, "detrended"), most=199, seed=seed).p
        for seed in range(20)
    ]  # fmt: skip
    assert np.mean(np.concatenate(p) <= 0.05) <= 0.1


def test_dependence_in_time_does_not_make_discoveries() -> None:
    p = [
        significance(
            treat(autoregressive(150, 0.9, seed=seed), np.column_stack([autoregressive(150, 0.9, seed=1000 + 10 * seed + k) for k in range(10)]), "detrended"),
            most=199,
            seed=seed,
        ).p
        for seed in range(20)
    ]  # fmt: skip
    assert np.mean(np.concatenate(p) <= 0.05) <= 0.1
