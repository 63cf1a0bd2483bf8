"""How likely a correlation is without a relation: what a series is in time, its treatment for that, and surrogates.

Two series that drift correlate whatever they measure. So each series is classified first (trend, unit root, autoregressive,
independent), then detrended or differenced, and what is left of the output is whitened by its own autoregression; the
parameter goes through the same filter (generalised least squares: Cochrane and Orcutt 1949; Prais and Winsten 1954).

How likely a correlation is without a relation is told by surrogates of the treated output: each has its values, and its
autocorrelation but for phases drawn anew (amplitude-adjusted Fourier transform, Theiler et al. 1992). Parameters stay as they
are: whatever dependence they have in time, it is in every surrogate's correlation too.

Nothing here knows of products or of verdicts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Dependence = Literal["independent", "autoregressive", "trend", "unit root"]
Treatment = Literal["detrended", "differenced"]
TREATMENTS: tuple[Treatment, ...] = ("detrended", "differenced")
DRIFTING = ("trend", "unit root")

# Below this a test for a unit root decides nothing.
FEWEST_FOR_UNIT_ROOT = 20
TREND_LEVEL = 0.01
# MacKinnon (2010), Dickey-Fuller with constant, trend and squared trend, 5 %: c0 + c1/n + c2/n² + c3/n³.
DICKEY_FULLER_5 = (-3.83239, -5.9057, -12.490, -118.284)
# Surrogates that are in memory at a time hold about so many values.
VALUES_AT_A_TIME = 4_000_000
FIRST_ROUND = 1_999
# More exceedances than these settle a p-value well enough; Besag and Clifford (1991).
SETTLED = 20


def filtered(coefficients: Array, series: Array) -> Array:
    """What the past of a series does not explain, along the first axis; shorter by the order.

    Args:
        coefficients: of an autoregression; the one at k weighs the value k + 1 steps before.
    """
    order = len(coefficients)
    left = series[order:].copy()
    for lag, weight in enumerate(coefficients, start=1):
        left -= weight * series[order - lag : len(series) - lag]
    return left


def polynomial(n: int, degree: int) -> Array:
    """Powers of time 0…degree as orthonormal columns, (n, degree + 1)."""
    time = np.linspace(-1.0, 1.0, n) if n > 1 else np.zeros(n)
    return np.linalg.qr(np.vander(time, degree + 1, increasing=True))[0]


def without(basis: Array, series: Array) -> Array:
    """A series less its projection on orthonormal columns."""
    return series - basis @ (basis.T @ series)


def autocorrelation(series: Array, lags: int) -> Array:
    """Sample autocorrelations at lags 1…lags of a series without gaps; zeros for a constant."""
    centred = series - series.mean()
    n = len(centred)
    size = 1 << (2 * n - 1).bit_length()
    spectrum = np.fft.rfft(centred, size)
    covariance = np.fft.irfft(spectrum * spectrum.conj(), size)[: lags + 1]
    return covariance[1:] / covariance[0] if covariance[0] > 0 else np.zeros(lags)


def largest_order(n: int) -> int:
    """How many lags n values can carry."""
    return int(min(n // 10, 10 * np.log10(max(n, 1)), 20))


def fit_autoregression(series: Array) -> Array:
    """The coefficients of the autoregression of a series by Burg's method, which is always stationary; its order by Schwarz's criterion."""
    n = len(series)
    forward = backward = series - series.mean()
    variance = float(forward @ forward) / n
    if variance <= 0:
        return np.zeros(0)
    coefficients = best = np.zeros(0)
    lowest = np.log(variance)
    for order in range(1, largest_order(n) + 1):
        leading, lagging = forward[1:], backward[:-1]
        size = float(leading @ leading + lagging @ lagging)
        if size <= 0:
            break
        reflection = 2 * float(leading @ lagging) / size
        coefficients = np.append(coefficients - reflection * coefficients[::-1], reflection)
        forward, backward = leading - reflection * lagging, lagging - reflection * leading
        variance *= 1 - reflection**2
        if variance <= 0:
            best = coefficients
            break
        criterion = np.log(variance) + order * np.log(n) / n
        if criterion < lowest:
            lowest, best = criterion, coefficients
    return best


def has_unit_root(series: Array) -> bool:
    """Whether a unit root cannot be ruled out at 5 %: augmented Dickey-Fuller with a quadratic trend.

    The number of lagged differences is chosen by Akaike's criterion up to Schwert's smaller bound.
    """
    n = len(series)
    if n < FEWEST_FOR_UNIT_ROOT:
        return False
    most = int(4 * (n / 100) ** 0.25)
    difference = np.diff(series)
    target = difference[most:]
    trend = polynomial(len(target), 2)
    lagged = [difference[most - lag : len(difference) - lag] for lag in range(1, most + 1)]
    columns = np.column_stack([trend, series[most:-1], *lagged])
    scale = np.sqrt((columns**2).sum(axis=0))
    scale[scale == 0] = 1.0
    # One factorisation serves all orders: the regressors are nested, and the target as last column brings the rest.
    r: Array = np.asarray(np.linalg.qr(np.column_stack([columns / scale, target]), mode="r"))
    left = np.cumsum(r[::-1, -1] ** 2)[::-1]
    size, fewest = len(target), trend.shape[1] + 1
    orders = np.arange(most + 1)
    with np.errstate(divide="ignore"):
        criterion = np.log(left[fewest + orders] / size) + 2 * (orders + fewest) / size
    used = fewest + int(np.argmin(criterion))
    critical = sum(c / size**power for power, c in enumerate(DICKEY_FULLER_5))
    return _studentised(r[:used, :used], r[:used, -1], left[used] / (size - used), trend.shape[1]) > critical


def _studentised(r: Array, projected: Array, variance: float, which: int) -> float:
    """The t value of one regressor of a least-squares fit.

    Args:
        r: upper triangle of the regressors' QR factors.
        projected: the target in the same basis.
        variance: of the residuals.
    """
    diagonal = np.abs(np.diag(r))
    if diagonal.min() <= 1e-10 * diagonal.max() or variance <= 0:
        return -np.inf  # a series that its trend explains has no unit root
    inverse = np.linalg.inv(r)
    error = np.sqrt(variance * float(inverse[which] @ inverse[which]))
    return float(inverse[which] @ projected / error)


def has_trend(series: Array) -> bool:
    """Whether a line or parabola explains more of a series than its own autoregression would at 1 % (F test, GLS)."""
    from scipy import stats

    n = len(series)
    basis = polynomial(n, 2)
    past = fit_autoregression(without(basis, series))
    target = filtered(past, series)
    curve, constant = (np.linalg.qr(filtered(past, columns))[0] for columns in (basis, basis[:, :1]))
    full, reduced = without(curve, target), without(constant, target)
    freedom = len(target) - 3 - len(past)
    left = float(full @ full)
    if freedom < 1:
        return False
    if left <= 1e-20 * float(target @ target):
        return float(reduced @ reduced) > left
    ratio = (float(reduced @ reduced) - left) / 2 / (left / freedom)
    return bool(stats.f.sf(ratio, 2, freedom) < TREND_LEVEL)


def classify(series: Array) -> Dependence:
    """What a series is in time.

    Args:
        series: values in time order without gaps, at least a few; not constant.
    """
    if has_unit_root(series):
        return "unit root"
    if has_trend(series):
        return "trend"
    n = len(series)
    first = autocorrelation(series, 1)[0] if n > 2 else 0.0
    return "autoregressive" if abs(first) > 1.96 / np.sqrt(n) else "independent"


def treatments_of(one: Dependence, other: Dependence) -> tuple[Treatment, ...]:
    """How a pair is treated. Where one of them drifts, no single way is right for every shape of drift: a relation has
    to outlast both."""
    return TREATMENTS if one in DRIFTING or other in DRIFTING else TREATMENTS[:1]


def trend_degree(n: int) -> int:
    """Degree of the polynomial that is taken out of n values: bent trends need four, short series cannot afford it."""
    return int(np.clip(n // 4, 2, 4))


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


class Significance(NamedTuple):
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
    past = fit_autoregression(without(basis, output))
    basis = np.linalg.qr(filtered(past, basis))[0]
    present = present[len(past) :]
    white = without(basis, filtered(past, output))
    return Treated(white, _projected(filtered(past, filled), present, basis), present, basis)


def _filled(parameters: Array, present: NDArray[np.bool_]) -> Array:
    """Missing values interpolated, so that a gap does not take its neighbours along; they are not correlated themselves."""
    filled = parameters.copy()
    places = np.arange(len(parameters))
    for column in np.flatnonzero(~present.all(axis=0) & present.any(axis=0)):
        known = present[:, column]
        filled[~known, column] = np.interp(places[~known], places[known], parameters[known, column])
    filled[:, ~present.any(axis=0)] = 0.0
    return filled


def _projected(whitened: Array, present: NDArray[np.bool_], basis: Array) -> Array:
    """Parameters orthogonal to the trend over the rows where they are there, 0 elsewhere."""
    whole = present.all(axis=0)
    left = np.zeros_like(whitened)
    left[:, whole] = without(basis, whitened[:, whole])
    for column in np.flatnonzero(~whole):
        rows = present[:, column]
        if rows.sum() > basis.shape[1]:
            left[rows, column] = without(np.linalg.qr(basis[rows])[0], whitened[rows, column])
    # What is left of a parameter that its trend explains is rounding.
    rounding = np.sqrt((left**2).sum(axis=0)) <= 1e-9 * np.sqrt((np.where(present, whitened, 0) ** 2).sum(axis=0))
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
