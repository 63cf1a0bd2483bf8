"""How likely a correlation is without a relation: the treated output against surrogates of itself.

A surrogate has the values of the treated output, and its autocorrelation but for phases drawn anew (amplitude-adjusted Fourier
transform, Theiler et al. 1992). Parameters stay as they are: whatever dependence they have in time, it is in every
surrogate's correlation too.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from etl_assets.systems.production.statistics.dependence import (
    Array,
    Treatment,
    fit_autoregression,
    polynomial,
    trend_degree,
    without,
)

# Surrogates that are in memory at a time hold about so many values.
VALUES_AT_A_TIME = 4_000_000
FIRST_ROUND = 1_999
# More exceedances than these settle a p-value well enough; Besag and Clifford (1991).
SETTLED = 20


@dataclass(frozen=True)
class Treated:
    """An output and parameters after detrending or differencing, and whitening by the output's autoregression.

    Attributes:
        output: (m,), orthogonal to the trend.
        parameters: (m, k), 0 where a value is missing.
        present: (m, k), where a value is there.
        basis: orthonormal columns of the trend, (m, j).
    """

    output: Array
    parameters: Array
    present: NDArray[np.bool_]
    basis: Array


@dataclass(frozen=True)
class Significance:
    """r of the treated series and its p, by parameter; NaN where nothing is left to correlate.

    Attributes:
        surrogates: how many surrogates each p rests on.
    """

    r: Array
    p: Array
    surrogates: NDArray[np.int64]


def treat(output: Array, parameters: Array, treatment: Treatment) -> Treated:
    """Take trend and own past of the output out of the output and of the parameters alike.

    Args:
        output: (n,) in time order, without gaps.
        parameters: (n, k), NaN where a value is missing.
        treatment: `detrended` takes a polynomial of time out; `differenced` differences, and takes out what is left of it.
    """
    present = ~np.isnan(parameters)
    filled = _filled(parameters, present)
    if treatment == "differenced":
        output, filled = np.diff(output), np.diff(filled, axis=0)
        present = present[1:] & present[:-1]
    degree = trend_degree(len(output))
    basis = polynomial(len(output), degree - 1 if treatment == "differenced" else degree)
    model = fit_autoregression(without(basis, output))
    basis = np.linalg.qr(model.filtered(basis))[0]
    present = present[len(model.coefficients) :]
    white = without(basis, model.filtered(output))
    return Treated(white, _projected(model.filtered(filled), present, basis), present, basis)


def _filled(parameters: Array, present: NDArray[np.bool_]) -> Array:
    """Missing values interpolated, so that a gap does not take its neighbours along; they are not correlated themselves."""
    filled = parameters.copy()
    places = np.arange(len(parameters))
    for column in np.flatnonzero(~present.all(axis=0) & present.any(axis=0)):
        known = present[:, column]
        filled[~known, column] = np.interp(places[~known], places[known], parameters[known, column])
    filled[:, ~present.any(axis=0)] = 0.0
    return filled


def _projected(filtered: Array, present: NDArray[np.bool_], basis: Array) -> Array:
    """Parameters orthogonal to the trend over the rows where they are there, 0 elsewhere."""
    whole = present.all(axis=0)
    left = np.zeros_like(filtered)
    left[:, whole] = without(basis, filtered[:, whole])
    for column in np.flatnonzero(~whole):
        rows = present[:, column]
        if rows.sum() > basis.shape[1]:
            left[rows, column] = without(np.linalg.qr(basis[rows])[0], filtered[rows, column])
    # What is left of a parameter that its trend explains is rounding.
    rounding = np.sqrt((left**2).sum(axis=0)) <= 1e-9 * np.sqrt((np.where(present, filtered, 0) ** 2).sum(axis=0))
    left[:, rounding] = 0.0
    return left


def significance(treated: Treated, *, most: int, seed: int) -> Significance:
    """p of each treated r: how often a surrogate of the output goes with the parameter at least as well.

    Args:
        most: surrogates for a parameter that hardly any surrogate equals; others are settled with fewer.
        seed: makes the surrogates repeatable.
    """
    seen = _correlations(treated.output[None, :], treated)[0]
    count = len(seen)
    exceeding, drawn = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    open_ = np.flatnonzero(~np.isnan(seen))
    for surrogates in _rounds(treated, most=most, seed=seed):
        some = Treated(treated.output, treated.parameters[:, open_], treated.present[:, open_], treated.basis)
        found = np.abs(_correlations(surrogates, some))
        # Equal but for rounding counts as at least as large.
        exceeding[open_] += (found >= np.abs(seen[open_]) * (1 - 1e-12)).sum(axis=0)
        drawn[open_] += len(surrogates)
        open_ = open_[(drawn[open_] < min(FIRST_ROUND, most)) | (exceeding[open_] < SETTLED)]
        if len(open_) == 0:
            break
    with np.errstate(invalid="ignore"):
        p = np.where(np.isnan(seen), np.nan, (exceeding + 1) / (drawn + 1))
    return Significance(seen, p, drawn)


def _rounds(treated: Treated, *, most: int, seed: int) -> Iterator[Array]:
    """Surrogates of the output, (some, m) at a time, `most` in all."""
    from scipy import stats

    random = np.random.default_rng(seed)
    size = len(treated.output)
    values = np.sort(treated.output)
    normal = stats.norm.ppf((stats.rankdata(treated.output, method="ordinal") - 0.5) / size)
    spectrum = np.abs(np.fft.rfft(normal))
    spectrum[0] = 0.0
    at_a_time = max(1, min(FIRST_ROUND, VALUES_AT_A_TIME // max(size, 1)))
    for begin in range(0, most, at_a_time):
        rows = min(at_a_time, most - begin)
        phases = np.exp(2j * np.pi * random.random((rows, len(spectrum))))
        if size % 2 == 0:
            # The highest frequency of an even number of values has a sign only.
            phases[:, -1] = np.sign(phases[:, -1].real)
        shuffled = np.argsort(np.fft.irfft(spectrum * phases, size), axis=1)
        surrogates = np.empty_like(shuffled, dtype=np.float64)
        np.put_along_axis(surrogates, shuffled, np.broadcast_to(values, shuffled.shape), axis=1)
        yield surrogates - (surrogates @ treated.basis) @ treated.basis.T


def _correlations(outputs: Array, treated: Treated) -> Array:
    """Pearson's r of each output with each parameter over the rows where the parameter is there, (outputs, parameters)."""
    weight = treated.present.astype(np.float64)
    n = weight.sum(axis=0)
    x = treated.parameters
    mean_x = np.divide(x.sum(axis=0), n, out=np.zeros_like(n), where=n > 0)
    centred = (x - mean_x) * weight
    spread = (centred**2).sum(axis=0)
    if treated.present.all():
        variance = ((outputs - outputs.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)[:, None]
    else:
        total = outputs @ weight
        squares = (outputs**2) @ weight
        variance = squares - np.divide(total**2, n, out=np.zeros_like(total), where=n > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (outputs @ centred) / np.sqrt(np.maximum(variance, 0) * spread)
    r[:, (n < 3) | (spread <= 0)] = np.nan
    return np.clip(np.where(np.isfinite(r), r, np.nan), -1.0, 1.0)
