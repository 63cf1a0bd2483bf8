"""How each parameter goes with the output of each product, and what that is worth.

Ranked is by |r| of Pearson, as asked. What stands beside it says how far to believe it: an interval and an effective number of
work orders that respect dependence in time, p by surrogates after treatment for drift, q for having tried many
parameters, stability and ties of the ranking, and a verdict. The method with its simulations: docs/production.md.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from etl_assets.core.contracts.names import natural
from etl_assets.systems.production.contracts import READINGS, ProductCorrelations
from etl_assets.systems.production.statistics.significance import (
    DRIFTING,
    FIRST_ROUND,
    TREATMENTS,
    Array,
    Dependence,
    autocorrelation,
    classify,
    significance,
    treat,
    treatments_of,
)

FEWEST = 10
TOP = 3
OUTPUT_OF = dict(zip(READINGS, ("production", "output"), strict=True))
NUMBERS = ("r", "ci_low", "ci_high", "rho", "n_effective", "p", "stability", "p_naive", "r_treated")
WORDS = ("dependence", "output_dependence", "treatment")
NORMAL_975 = 1.959963984540054
FEWEST_BLOCKS = 10
# Another rule of alignment moves |r| by as much: what differs less is not told apart, however steadily it differs.
SAME = 0.005
# Values that differ by less than this, relative to their size, differ by rounding.
ROUNDING = 16 * np.finfo(np.float64).eps


@dataclass(frozen=True)
class Method:
    """Settings of the statistics.

    Attributes:
        level: largest q that `supported` has. A little below the 5 % that false discoveries are to stay under: q itself rests on
            estimated models.
        correction: `bh` (Benjamini and Hochberg) or the cautious `by` (Benjamini and Yekutieli).
        min_coverage: share of a product's time that readings must cover.
        resamples: of the block bootstrap.
        seed: makes surrogates and resamples repeatable.
    """

    level: float = 0.04
    correction: Literal["bh", "by"] = "bh"
    min_coverage: float = 0.5
    resamples: int = 999
    seed: int = 20_260_101

    def surrogates(self, family: int) -> int:
        """Surrogates that let a single effect among so many p pass: twice the resolution that it needs."""
        harmonic = float(np.sum(1 / np.arange(1, family + 1))) if self.correction == "by" else 1.0
        return max(FIRST_ROUND, int(np.ceil(2 * max(family, 1) * harmonic / self.level)))


@dataclass(frozen=True)
class WorkOrders:
    """The work orders of one product in time order, with the parameters while each ran.

    Attributes:
        outputs: by reading, (n,); NaN where it is not known.
        parameter_ids: k, in natural order.
        values: (n, k), NaN where readings cover too little.
        coverage: (k,), mean over the work orders; 0 where there are none.
    """

    product_id: str
    outputs: dict[str, Array]
    parameter_ids: Sequence[str]
    values: Array
    coverage: Array


def correlations(
    aligned: pa.Table,
    method: Method = Method(),
    *,
    products: Sequence[str] = (),
    parameters: Sequence[str] = (),
) -> pd.DataFrame:
    """Rank all parameters for each product and reading.

    Args:
        aligned: columns of `AlignedWorkOrders`, in any order.
        products, parameters: ids that get their rows even if nothing could be aligned for them.

    Returns:
        The columns of `ProductCorrelations`, by product, reading and rank.
    """
    columns = list(ProductCorrelations.columns)
    frames = [
        _of_product(orders, method, seed=method.seed + 1_000 * place)
        for place, orders in enumerate(work_orders(aligned, products=products, parameters=parameters))
        if len(orders.parameter_ids)
    ]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def work_orders(
    aligned: pa.Table, *, products: Sequence[str] = (), parameters: Sequence[str] = ()
) -> Iterator[WorkOrders]:
    """The rows of each product as matrices, products in natural order.

    Raises:
        ValueError: if a product has two rows for one instant and parameter.
    """
    product_ids, product = _numbered(aligned["product_id"], products)
    known, column = _numbered(aligned["parameter_id"], parameters)
    ended = aligned["completed_at"].cast(pa.int64()).to_numpy()
    numbers = {
        name: aligned[name].to_numpy().astype(np.float64) for name in ("production", "output", "value", "coverage")
    }
    for place, product_id in enumerate(product_ids):
        rows = np.flatnonzero(product == place)
        instants, row = np.unique(ended[rows], return_inverse=True)
        shape = (len(instants), len(known))
        if len(np.unique(row * len(known) + column[rows])) < len(rows):
            raise ValueError(f"product {product_id} has two rows for one instant and parameter")
        outputs = {}
        for reading, name in OUTPUT_OF.items():
            outputs[reading] = np.full(len(instants), np.nan)
            outputs[reading][row] = numbers[name][rows]
        values, coverage = np.full(shape, np.nan), np.zeros(shape)
        values[row, column[rows]] = numbers["value"][rows]
        coverage[row, column[rows]] = numbers["coverage"][rows]
        mean = coverage.mean(axis=0) if len(instants) else np.zeros(len(known))
        yield WorkOrders(product_id, outputs, known, values, mean)


def _numbered(ids: pa.ChunkedArray, more: Sequence[str]) -> tuple[Sequence[str], NDArray[np.int32]]:
    """All ids in natural order, and the place of each of the column's among them."""
    encoded = ids.combine_chunks().dictionary_encode()
    given = encoded.dictionary.to_pylist()
    known = sorted({*given, *more}, key=natural)
    places = {name: place for place, name in enumerate(known)}
    return known, np.array([places[name] for name in given], np.int32)[encoded.indices.to_numpy()]


def _of_product(orders: WorkOrders, method: Method, *, seed: int) -> pd.DataFrame:
    """All parameters of one product in both readings, each by rank.

    q counts both readings as one family: whoever reads the report sees both.
    """
    readings = [_measured(orders, reading, method, seed=seed + at) for at, reading in enumerate(READINGS)]
    table = pd.concat(readings, ignore_index=True)
    tested = table["p"].notna()
    if tested.any():
        from scipy import stats

        table.loc[tested, "q"] = stats.false_discovery_control(table.loc[tested, "p"], method=method.correction)
    rows: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
    table["verdict"] = [_verdict(row, method) for row in rows]
    table["size"] = table["r"].abs().fillna(-1.0)
    table = table.sort_values(["reading", "size", "place"], ascending=[True, False, True], ignore_index=True)
    return table.assign(rank=table.groupby("reading").cumcount() + 1)


def _measured(orders: WorkOrders, reading: str, method: Method, *, seed: int) -> pd.DataFrame:
    """All parameters of one product and reading, with what can be said of each by itself."""
    known = ~np.isnan(orders.outputs[reading])
    output, values = orders.outputs[reading][known], orders.values[known]
    n = (~np.isnan(values)).sum(axis=0)
    constant = _constant(output, values)
    table = pd.DataFrame(
        {
            "product_id": orders.product_id,
            "reading": reading,
            "parameter_id": orders.parameter_ids,
            "place": range(len(orders.parameter_ids)),
            "n": n,
            "coverage": np.clip(orders.coverage, 0, 1),
            "constant": constant,
            "q": np.nan,
        }
    )
    measured = np.flatnonzero((n >= FEWEST) & ~constant)
    found = pd.DataFrame(index=measured, columns=[*NUMBERS, *WORDS, "tie_group"])
    if len(measured):
        values = values[:, measured]
        found = found.assign(
            **_description(output, values, method, seed=seed),
            **_test(output, values, method, seed=seed),
        )
    return table.join(found).astype({**dict.fromkeys(NUMBERS, "float64"), "tie_group": "Int64"})


def _constant(output: Array, values: Array) -> NDArray[np.bool_]:
    """Which parameters, or the output beside them, do not vary beyond rounding."""
    present = ~np.isnan(values)

    def still(numbers: Array) -> NDArray[np.bool_]:
        low = np.where(present, numbers, np.inf).min(axis=0, initial=np.inf)
        high = np.where(present, numbers, -np.inf).max(axis=0, initial=-np.inf)
        size = np.where(present, np.abs(numbers), 0).max(axis=0, initial=0)
        return present.any(axis=0) & (high - low <= ROUNDING * size)

    return still(values) | still(np.broadcast_to(output[:, None], values.shape))


def _description(output: Array, values: Array, method: Method, *, seed: int) -> dict[str, NDArray[Any]]:
    """r with interval, rank correlation, effective number, stability and ties, by name."""
    from scipy import stats

    r, rho, p_naive, effective = (np.full(values.shape[1], np.nan) for _ in range(4))
    for at in range(values.shape[1]):
        known = ~np.isnan(values[:, at])
        x, y = values[known, at], output[known]
        r[at], p_naive[at] = stats.pearsonr(x - x.mean(), y - y.mean())
        rho[at] = stats.spearmanr(x, y).statistic
        effective[at] = effective_number(x, y)
    resampled = resample(output, values, length=block_length(output, values), resamples=method.resamples, seed=seed)
    low, high = _interval(r, effective, resampled)
    return {
        "r": r,
        "ci_low": low,
        "ci_high": high,
        "rho": rho,
        "n_effective": effective,
        "stability": resampled.stability(TOP),
        "tie_group": resampled.tie_groups(np.argsort(-np.abs(r), kind="stable").tolist()),
        "p_naive": p_naive,
    }


def effective_number(x: Array, y: Array) -> float:
    """How many independent pairs carry as much information on r as these dependent ones.

    The smaller of two estimates of n / (1 + 2 Σ ρx(k) ρy(k)): the closed form for autoregressions of order one (Bayley and
    Hammersley 1946), and the sum over the sample's lags for as long as their products are positive.
    """
    n = len(x)
    lags = max(1, n // 4)
    products = autocorrelation(x, lags) * autocorrelation(y, lags)
    first = min(float(products[0]), 1 - 1e-9)
    closed = n * (1 - first) / (1 + first)
    positive = int(np.argmax(products <= 0)) if (products <= 0).any() else lags
    summed = n / (1 + 2 * float(products[:positive].sum()))
    return float(min(closed, summed, n))


def _interval(r: Array, effective: Array, resampled: "Resampled") -> tuple[Array, Array]:
    """The 95 % interval of r on Fisher's scale, by the larger of the bootstrap's error and that of the effective number.

    Where no more than three work orders are independent, r can be anything.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        by_number = np.where(effective > 3, 1 / np.sqrt(np.maximum(effective - 3, 1e-12)), np.inf)
        z, error = np.arctanh(r), np.maximum(resampled.spread(), by_number)
        # A correlation without any deviation has none in its interval either.
        exact = np.abs(r) >= 1
        low = np.where(exact, r, np.tanh(z - NORMAL_975 * error))
        high = np.where(exact, r, np.tanh(z + NORMAL_975 * error))
    return np.minimum(low, r), np.maximum(high, r)


def _test(output: Array, values: Array, method: Method, *, seed: int) -> dict[str, Any]:
    """p by surrogates after treatment, the largest of those that a parameter needs; by name."""
    of_output = classify(output)
    of_values: list[Dependence] = [classify(column[~np.isnan(column)]) for column in values.T]
    wanted = [treatments_of(of_output, dependence) for dependence in of_values]
    most = method.surrogates(len(READINGS) * len(wanted))
    r, p = np.full((2, len(wanted)), np.nan), np.full((2, len(wanted)), np.nan)
    for at, treatment in enumerate(TREATMENTS):
        some = np.array([place for place, names in enumerate(wanted) if treatment in names], dtype=np.int64)
        if len(some):
            r[at, some], p[at, some], _ = significance(
                treat(output, values[:, some], treatment), most=most, seed=seed + 500 + at
            )
    # What nothing is left of after one of its treatments has not outlasted it.
    gone = np.array([np.isnan(p[: len(names), place]).any() for place, names in enumerate(wanted)])
    worst = np.nan_to_num(p, nan=-1.0).argmax(axis=0), np.arange(len(wanted))
    return {
        "p": np.where(gone, np.nan, p[worst]),
        "r_treated": np.where(gone, np.nan, r[worst]),
        "dependence": of_values,
        "output_dependence": of_output,
        "treatment": [" and ".join(names) for names in wanted],
    }


def _verdict(row: dict[str, Any], method: Method) -> str:
    """What can be said of a parameter, the first that holds."""
    significant = row["q"] == row["q"] and row["q"] <= method.level
    drifting = row["dependence"] in DRIFTING and row["output_dependence"] in DRIFTING
    if row["n"] < FEWEST:
        return "insufficient data"
    if row["constant"]:
        return "constant"
    if row["coverage"] < method.min_coverage:
        return "low coverage"
    if not significant and drifting and row["p_naive"] <= method.level:
        return "shared trend"
    return "supported" if significant else "not significant"


# Block bootstrap of correlations: intervals, stability of the ranking, ties. Blocks of neighbouring work orders are drawn with
# replacement, so that dependence within a block stays. All parameters are correlated in the same resamples, so that they can be
# compared.


@dataclass(frozen=True)
class Resampled:
    """Correlations of each resample, (resamples, parameters); NaN where a resample leaves nothing to correlate."""

    r: Array

    def spread(self) -> Array:
        """Standard deviation of Fisher's z over the resamples, by parameter."""
        with np.errstate(invalid="ignore", divide="ignore"):
            z = np.arctanh(np.clip(self.r, -1 + 1e-15, 1 - 1e-15))
        known = ~np.isnan(z)
        count = known.sum(axis=0)
        mean = np.where(known, z, 0).sum(axis=0) / np.maximum(count, 1)
        squares = (np.where(known, z - mean, 0) ** 2).sum(axis=0)
        return np.where(count > 1, np.sqrt(squares / np.maximum(count - 1, 1)), np.inf)

    def stability(self, first: int = 3) -> Array:
        """Share of the resamples in which a parameter is among the first by |r|."""
        size = np.where(np.isnan(self.r), -1.0, np.abs(self.r))
        order = np.argsort(-size, axis=1, kind="stable")[:, :first]
        chosen = np.zeros(self.r.shape, dtype=bool)
        np.put_along_axis(chosen, order, True, axis=1)
        return (chosen & ~np.isnan(self.r)).mean(axis=0)

    def tie_groups(self, ranking: Sequence[int]) -> NDArray[np.int64]:
        """A number for each parameter: those whose |r| cannot be told from the group's first have the same.

        Args:
            ranking: parameters by falling |r|.
        """
        groups = np.zeros(self.r.shape[1], dtype=np.int64)
        size = np.abs(self.r)
        group, leader = 0, -1
        for column in ranking:
            if leader >= 0:
                difference = size[:, leader] - size[:, column]
                difference = difference[~np.isnan(difference)]
                # Half of the resamples stand for the difference itself, 2.5 % for the end of its interval.
                low, middle = np.quantile(difference, (0.025, 0.5)) if len(difference) else (0.0, 0.0)
                tied = low <= 0 or middle < SAME
            if leader < 0 or not tied:
                group, leader = group + 1, column
            groups[column] = group
        return groups


def block_length(output: Array, parameters: Array) -> int:
    """Length of the blocks, in work orders: Carlstein's (1986) rule for an autoregression of order one.

    Args:
        output: (n,) without gaps.
        parameters: (n, k), NaN where a value is missing.
    """
    n = len(output)
    lags = [_first_lag(parameters[:, column]) for column in range(parameters.shape[1])]
    together = max(_first_lag(output), 0.0) * max(float(np.median(lags)) if lags else 0.0, 0.0)
    rho = min(float(np.sqrt(together)), 0.99)
    length = np.ceil((np.sqrt(6) * rho / (1 - rho**2)) ** (2 / 3) * n ** (1 / 3))
    return int(np.clip(length, 1, max(1, n // FEWEST_BLOCKS)))


def _first_lag(series: Array) -> float:
    known = series[~np.isnan(series)]
    return float(autocorrelation(known, 1)[0]) if len(known) > 2 else 0.0


def resample(output: Array, parameters: Array, *, length: int, resamples: int, seed: int) -> Resampled:
    """Correlate every parameter with the output in each resample of blocks.

    Args:
        output: (n,) in time order, without gaps.
        parameters: (n, k), NaN where a value is missing.
        length: of a block, in rows.
        seed: makes the resamples repeatable.
    """
    present = ~np.isnan(parameters)
    y = ((output - output.mean()) / (output.std() or 1.0))[:, None] * present
    x = np.where(present, _standardised(parameters, present), 0.0)
    starts = np.arange(0, len(output), length)
    sums = [np.add.reduceat(part, starts, axis=0) for part in (present * 1.0, x, y, x * x, y * y, x * y)]
    draws = np.random.default_rng(seed).multinomial(len(starts), np.full(len(starts), 1 / len(starts)), resamples)
    n, sx, sy, sxx, syy, sxy = (draws @ part for part in sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        covariance = sxy - sx * sy / n
        r = covariance / np.sqrt(np.maximum(sxx - sx**2 / n, 0) * np.maximum(syy - sy**2 / n, 0))
    r[(n < 3) | ~np.isfinite(r)] = np.nan
    return Resampled(np.clip(r, -1, 1))


def _standardised(parameters: Array, present: NDArray[np.bool_]) -> Array:
    """Each parameter about its mean in units of its deviation: sums of squares of large values lose digits."""
    n = np.maximum(present.sum(axis=0), 1)
    mean = np.where(present, parameters, 0).sum(axis=0) / n
    deviation = np.sqrt((np.where(present, parameters - mean, 0) ** 2).sum(axis=0) / n)
    return (parameters - mean) / np.where(deviation > 0, deviation, 1.0)
