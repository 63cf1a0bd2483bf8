"""What the ranking says, and what it does not claim."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats

from etl_assets.core.contracts.validation import split
from etl_assets.systems.production.contracts import ProductCorrelations
from etl_assets.systems.production.statistics.correlation import Method, correlations, effective_number
from etl_assets_tests.systems.production.series import aligned_table, autoregressive, noise, random_walk, trend

QUICK = Method(resamples=199)
PLANTED = 3


def ranked(table: pa.Table, reading: str = "per_work_order", **options: object) -> pd.DataFrame:
    """The rows of one reading of the only product, by parameter, as the number that it is here."""
    rows = correlations(table, QUICK, **options)  # type: ignore[arg-type]
    return rows[rows["reading"] == reading].astype({"parameter_id": int}).set_index("parameter_id")


@pytest.fixture(scope="module")
def planted() -> pd.DataFrame:
    """One parameter that the output depends on among five that it does not."""
    values = {parameter: noise(200, seed=10 + parameter) for parameter in range(6)}
    return ranked(aligned_table(0.6 * values[PLANTED] + 0.8 * noise(200, seed=1), values))


def test_the_planted_effect_is_first_and_supported(planted: pd.DataFrame) -> None:
    row = planted.loc[PLANTED]
    assert row["rank"] == 1
    assert row["verdict"] == "supported"
    assert row["r"] == pytest.approx(0.6, abs=0.1)
    assert row["ci_low"] < row["r"] < row["ci_high"]
    assert row["ci_low"] > 0.4
    assert row["q"] < 0.01
    assert row["stability"] == 1.0
    assert row["n"] == 200
    assert row["coverage"] == 1.0


def test_the_others_are_not_significant(planted: pd.DataFrame) -> None:
    assert set(planted.drop(PLANTED)["verdict"]) == {"not significant"}
    assert set(planted.drop(PLANTED)["tie_group"]) == {2}
    assert planted.loc[PLANTED, "tie_group"] == 1


def test_the_numbers_are_those_of_scipy() -> None:
    x, y = noise(50, seed=1), noise(50, seed=2)
    row = ranked(aligned_table(y, {7: x})).loc[7]
    assert row["r"] == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert row["p_naive"] == pytest.approx(stats.pearsonr(x, y).pvalue, abs=1e-12)
    assert row["rho"] == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_ranks_follow_r_without_its_sign_and_come_in_order() -> None:
    base = noise(60, seed=1)
    table = aligned_table(base, {1: noise(60, seed=2), 2: -base + 0.2 * noise(60, seed=3), 3: base + noise(60, seed=4)})
    rows = correlations(table, QUICK)
    first = rows[rows["reading"] == "as_recorded"]
    assert first["rank"].tolist() == [1, 2, 3]
    assert first["parameter_id"].tolist() == ["2", "3", "1"]
    assert first["r"].iloc[0] < -0.9


def test_the_columns_and_their_types_are_those_of_the_contract() -> None:
    rows = correlations(aligned_table(noise(20, seed=1), {1: noise(20, seed=2), 2: np.full(20, np.nan)}), QUICK)
    assert list(rows.columns) == list(ProductCorrelations.columns)
    assert split(ProductCorrelations, rows).records == ()


def test_both_readings_are_ranked_by_their_own_output() -> None:
    x = noise(80, seed=1)
    table = aligned_table(x, {1: x + 0.1 * noise(80, seed=2)}, production=np.cumsum(20 + x))
    rows = correlations(table, QUICK).set_index("reading")
    assert rows.loc["per_work_order", "r"] > 0.9
    assert abs(rows.loc["as_recorded", "r"]) < 0.5


def test_parameters_that_share_a_trend_with_the_output_are_said_to() -> None:
    values = {parameter: trend(150, seed=parameter) for parameter in range(1, 5)}
    rows = ranked(aligned_table(trend(150, seed=50), values))
    assert set(rows["verdict"]) == {"shared trend"}
    assert (rows["r"] > 0.99).all()
    assert set(rows["tie_group"]) == {1}
    assert (rows["n_effective"] < 5).all()


def test_random_walks_that_go_together_by_chance_share_a_trend_or_nothing() -> None:
    values = {parameter: random_walk(200, seed=parameter) for parameter in range(1, 9)}
    rows = ranked(aligned_table(random_walk(200, seed=99), values))
    assert "supported" not in set(rows["verdict"])
    assert (rows["p_naive"] < 0.001).any()


def test_slow_noise_that_seems_significant_is_not() -> None:
    values = {parameter: autoregressive(288, 0.9, seed=parameter) for parameter in range(1, 21)}
    rows = ranked(aligned_table(autoregressive(288, 0.9, seed=77), values))
    assert (rows["p_naive"] < 0.05).sum() >= 3
    assert "supported" not in set(rows["verdict"])


def test_nine_work_orders_are_too_few() -> None:
    x = noise(9, seed=1)
    row = ranked(aligned_table(x, {1: x})).loc[1]
    assert row["verdict"] == "insufficient data"
    assert row["n"] == 9
    assert row[["r", "rho", "ci_low", "p", "q", "stability"]].isna().all()
    assert row["rank"] == 1


def test_ten_work_orders_are_enough() -> None:
    x = noise(10, seed=1)
    assert ranked(aligned_table(x, {1: x})).loc[1, "r"] == pytest.approx(1.0)


def test_two_points_are_no_correlation() -> None:
    row = ranked(aligned_table([1.0, 2.0], {1: [5.0, 9.0]})).loc[1]
    assert pd.isna(row["r"])
    assert row["verdict"] == "insufficient data"


def test_a_constant_parameter_is_constant_whatever_its_rounding() -> None:
    rows = ranked(
        aligned_table(
            noise(40, seed=1),
            {1: np.full(40, 3.7), 2: 1e9 + 1e-7 * noise(40, seed=2), 3: 1e9 + 1e-3 * noise(40, seed=3)},
        )
    )
    assert rows["verdict"].to_dict() == {1: "constant", 2: "constant", 3: "not significant"}
    assert pd.isna(rows.loc[1, "r"])


def test_a_constant_output_makes_every_parameter_constant() -> None:
    rows = ranked(aligned_table(np.full(40, 8.0), {1: noise(40, seed=1), 2: noise(40, seed=2)}))
    assert set(rows["verdict"]) == {"constant"}
    assert rows["rank"].tolist() == [1, 2]


def test_a_parameter_that_readings_cover_too_little_is_said_to_be() -> None:
    x = noise(60, seed=1)
    row = ranked(aligned_table(x, {1: x}, coverage={1: 0.4})).loc[1]
    assert row["verdict"] == "low coverage"
    assert row["coverage"] == pytest.approx(0.4)


def test_what_has_no_r_comes_last_with_a_rank() -> None:
    rows = correlations(
        aligned_table(noise(40, seed=1), {1: np.full(40, np.nan), 2: np.full(40, 5.0), 3: noise(40, seed=2)}), QUICK
    )
    first = rows[rows["reading"] == "as_recorded"]
    assert first["parameter_id"].tolist() == ["3", "1", "2"]
    assert first["rank"].tolist() == [1, 2, 3]
    assert first["verdict"].tolist() == ["not significant", "insufficient data", "constant"]


def test_work_orders_without_output_or_value_are_not_counted() -> None:
    output, values = noise(60, seed=1), noise(60, seed=2)
    output[:7] = np.nan
    values[50:] = np.nan
    row = ranked(aligned_table(output, {1: values})).loc[1]
    assert row["n"] == 43
    assert row["r"] == pytest.approx(stats.pearsonr(output[7:50], values[7:50]).statistic, abs=1e-12)


def test_the_order_of_rows_does_not_matter() -> None:
    table = aligned_table(noise(30, seed=1), {1: noise(30, seed=2), 5: noise(30, seed=3)})
    shuffled = table.take(pa.array(np.random.default_rng(1).permutation(table.num_rows)))
    pd.testing.assert_frame_equal(correlations(table, QUICK), correlations(shuffled, QUICK))


def test_a_second_row_for_one_instant_is_refused() -> None:
    table = aligned_table([1.0, 2.0], {1: [3.0, 4.0]})
    with pytest.raises(ValueError, match="product 0 has two rows for one instant and parameter"):
        correlations(pa.concat_tables([table, table.slice(0, 1)]), QUICK)


def test_products_are_judged_apart() -> None:
    x = noise(60, seed=1)
    both = [aligned_table(x, {1: x}), aligned_table(noise(60, seed=2), {1: x}, product=4)]
    rows = correlations(pa.concat_tables(both), QUICK)
    rows = rows[rows["reading"] == "as_recorded"].set_index("product_id")
    assert rows.loc["0", "r"] == pytest.approx(1.0)
    assert abs(rows.loc["4", "r"]) < 0.4


def test_a_product_without_work_orders_has_its_rows_all_the_same() -> None:
    empty = aligned_table([], {})
    rows = correlations(empty, QUICK, products=["2"], parameters=["11", "2"])
    assert rows[["product_id", "reading", "parameter_id", "rank", "n", "verdict"]].values.tolist() == [
        ["2", reading, parameter, rank, 0, "insufficient data"]
        for reading in ("as_recorded", "per_work_order")
        for rank, parameter in enumerate(("2", "11"), start=1)
    ]


def test_of_nothing_there_is_nothing_to_rank() -> None:
    assert correlations(aligned_table([], {}), QUICK).empty


@pytest.mark.parametrize(
    ("family", "correction", "fewest"), [(20, "bh", 1_999), (400, "bh", 20_000), (20, "by", 3_598)]
)
def test_there_are_enough_surrogates_for_a_single_effect_to_pass(family: int, correction: str, fewest: int) -> None:
    surrogates = Method(correction=correction).surrogates(family)  # type: ignore[arg-type]
    assert surrogates == fewest
    harmonic = sum(1 / k for k in range(1, family + 1)) if correction == "by" else 1
    assert 1 / (surrogates + 1) * family * harmonic <= Method().level / 1.99


def test_independent_work_orders_count_in_full_and_dependent_ones_for_less() -> None:
    assert effective_number(noise(400, seed=1), noise(400, seed=2)) == pytest.approx(400, rel=0.1)
    phi = 0.9
    found = effective_number(autoregressive(20_000, phi, seed=1), autoregressive(20_000, phi, seed=2))
    assert found == pytest.approx(20_000 * (1 - phi**2) / (1 + phi**2), rel=0.25)
