"""What the simulated production knows: readings of machine parameters, and work orders of two products.

All of it follows from the seed, in the shape of real recordings: irregular readings in order of time, work orders sorted by
product, a running counter with a few decreases. What is planted is said by the constants, so that a test can ask the
statistics for it. Parameters are what was last read until the next reading: the planted effects hold exactly for time-weighted
means of such values.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

# Part of the stream's identity: another number wherever the same seed gives other data.
VERSION = 1
START = 1_704_693_600  # 2024-01-08T06:00:00Z
ORDERS_PER_PRODUCT = 288
READINGS_PER_PARAMETER = 350
_ORDER_S = 4_990
_FIRST_ORDER_S = 1_200
_WRITTEN_AT_ONCE = 500_000

_Floats = npt.NDArray[np.float64]
_Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Planted:
    """An effect that is there: what a work order adds goes with one parameter's mean over that work order."""

    product: int
    parameter: int
    correlation: float


PLANTED = (Planted(product=0, parameter=4, correlation=0.6), Planted(product=1, parameter=9, correlation=-0.4))
# They share a trend with the counter, and nothing else.
TRENDS = {1: 40.0, 6: 900.0, 11: -25.0}
# Stationary noise with a memory: how much of a deviation is left at the next reading. No relation with the output.
AUTOREGRESSIVE = {0: 0.9, 3: 0.6, 5: 0.8, 8: 0.0}
CONSTANT = 2
WITH_GAPS = 10
PARAMETERS = 12
# Corrections: work orders after which the counter of a product is lower than before.
DECREASES = {0: 2, 1: 1}
# This many readings have the parameter and the instant of an earlier one, and another value.
DUPLICATES = 1


def generated(seed: int) -> dict[str, list[str]]:
    """By stream, the text of each record."""
    rng = np.random.default_rng(seed)
    ended = {product: _order_times(rng) for product in DECREASES}
    until = max(int(times[-1]) for times in ended.values())
    readings = {parameter: _readings(parameter, until, rng) for parameter in range(PARAMETERS)}
    orders = []
    for effect in PLANTED:
        times, values = readings[effect.parameter]
        means = held_means(times, values, ended[effect.product])
        output = _counter(means, effect, rng)
        orders += [
            json.dumps({"time": int(time), "product": effect.product, "production": made})
            for time, made in zip(ended[effect.product], output, strict=True)
        ]
    return {"metrics": _in_order_of_time(readings, rng), "workorders": orders}


def held_means(times: _Integers, values: _Floats, ended: _Integers) -> _Floats:
    """Time-weighted means of values that hold until the next one, between neighbouring ends; one fewer than ends.

    Args:
        times: of the readings, ascending, the first not after the first end.
        ended: ends of work orders, ascending.
    """
    total = np.concatenate(([0.0], np.cumsum(values[:-1] * np.diff(times))))
    last = np.searchsorted(times, ended, side="right") - 1
    at_ends = total[last] + values[last] * (ended - times[last])
    return np.diff(at_ends) / np.diff(ended)


def _order_times(rng: np.random.Generator) -> _Integers:
    spacing = _ORDER_S + np.clip(rng.normal(0, 130, ORDERS_PER_PRODUCT), -400, 400)
    return START + _FIRST_ORDER_S + np.cumsum(spacing).astype(np.int64)


def _readings(parameter: int, until: int, rng: np.random.Generator) -> tuple[_Integers, _Floats]:
    """Instants and values of one parameter."""
    spacing = rng.gamma(2.0, (until - START) / READINGS_PER_PARAMETER / 2.0, READINGS_PER_PARAMETER)
    # The first reading comes before any work order.
    spacing[0] = rng.uniform(0, _FIRST_ORDER_S)
    times = START + np.cumsum(np.maximum(spacing, 1)).astype(np.int64)
    if parameter == WITH_GAPS:
        share = (times - START) / (until - START)
        times = times[~((share > 0.15) & (share < 0.35)) & ~((share > 0.5) & (share < 0.75))]
    n = len(times)
    level = 10.0 ** rng.uniform(2, 3.5)
    if parameter == CONSTANT:
        return times, np.full(n, round(level, 3))
    if parameter in TRENDS:
        drift = (times - START) / 86_400 * TRENDS[parameter]
        return times, level + drift + rng.normal(0, abs(TRENDS[parameter]) / 2, n)
    return times, level + level / 50 * _noise(n, AUTOREGRESSIVE.get(parameter, 0.0), rng)


def _noise(n: int, memory: float, rng: np.random.Generator) -> _Floats:
    """Stationary AR(1) noise of variance 1."""
    noise = rng.normal(0, 1, n)
    for i in range(1, n):
        noise[i] = memory * noise[i - 1] + np.sqrt(1 - memory**2) * noise[i]
    return noise


def _counter(means: _Floats, effect: Planted, rng: np.random.Generator) -> list[float]:
    """A running counter, whose increments correlate with the means as planted."""
    standard = (means - means.mean()) / means.std()
    rest = rng.normal(0, 1, len(means))
    added = 20 + 7 * (effect.correlation * standard + np.sqrt(1 - effect.correlation**2) * rest)
    # The smallest increments become the corrections, so that they hardly touch the correlation.
    smallest = np.argsort(added)
    added = np.maximum(added, 0.5)
    added[smallest[: DECREASES[effect.product]]] = -rng.uniform(1, 5, DECREASES[effect.product])
    # A counter that begins at zero says so as an integer, as real ones do.
    first = 0 if effect.product == 0 else 7.2
    return [first, *(first + np.cumsum(added)).tolist()]


def _in_order_of_time(readings: dict[int, tuple[_Integers, _Floats]], rng: np.random.Generator) -> list[str]:
    rows = [
        (int(time), parameter, float(value))
        for parameter, (times, values) in readings.items()
        for time, value in zip(times, values, strict=True)
    ]
    rows.sort()
    noisy = [i for i, (_, parameter, _) in enumerate(rows) if parameter in AUTOREGRESSIVE]
    for place in sorted(rng.choice(noisy, DUPLICATES, replace=False), reverse=True):
        time, parameter, value = rows[place]
        rows.insert(place + 1, (time, parameter, value * 1.01))
    return [json.dumps({"id": parameter, "val": value, "time": time}) for time, parameter, value in rows]


def write_files(
    folder: Path, *, metrics: int, parameters: int, work_orders: int, seed: int = 0, array: bool = False
) -> tuple[Path, Path]:
    """Writes files of any size for load, in constant memory: independent noise and a counter, nothing planted.

    Each (parameter, time) and (product, time) occurs once. Work orders follow each other as in the generated data, and the
    readings are spread over the same time, or over as much more as they need at one a second.

    Args:
        metrics: number of readings over all parameters.
        work_orders: number over both products; one more for the first if it is odd.
        array: JSON arrays instead of NDJSON.

    Returns:
        The file of metrics and that of work orders.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    ending = "json" if array else "ndjson"
    files = folder / f"metrics.{ending}", folder / f"workorders.{ending}"
    duration = (work_orders + 1) // 2 * _ORDER_S
    _write(files[0], _many_readings(metrics, parameters, duration, rng), array=array)
    _write(files[1], _many_orders(work_orders, rng), array=array)
    return files


def _many_readings(number: int, parameters: int, duration: int, rng: np.random.Generator) -> "Iterator[pd.DataFrame]":
    """Rounds of one reading of each parameter, some rounds at a time; within a round in order of time."""
    import pandas as pd

    spacing = max(duration * parameters // max(number, 1), 1)
    levels = 10.0 ** rng.uniform(2, 4, parameters)
    at_once = max(_WRITTEN_AT_ONCE // parameters, 1) * parameters
    for begin in range(0, number, at_once):
        reading = np.arange(begin, min(begin + at_once, number))
        parameter = reading % parameters
        time = START + reading // parameters * spacing + rng.integers(0, spacing, len(reading))
        value = levels[parameter] * (1 + rng.normal(0, 0.02, len(reading)))
        yield pd.DataFrame({"id": parameter, "val": value, "time": time}).sort_values("time", kind="stable")


def _many_orders(number: int, rng: np.random.Generator) -> "Iterator[pd.DataFrame]":
    import pandas as pd

    for product, orders in enumerate(((number + 1) // 2, number // 2)):
        time = START + _FIRST_ORDER_S + product * 2_000 + np.arange(orders) * _ORDER_S + rng.integers(0, 400, orders)
        made = np.cumsum(np.maximum(rng.normal(20, 7, orders), -2))
        yield pd.DataFrame({"time": time, "product": product, "production": made})


def _write(path: Path, blocks: "Iterable[pd.DataFrame]", *, array: bool) -> None:
    """Writes one record per row."""
    with path.open("w") as file:
        between = "["
        for records in blocks:
            text = records.to_json(orient="records", lines=not array, double_precision=15)
            if array and len(records):
                file.write(between + text[1:-1])
                between = ","
            elif not array:
                file.write(text)
        if array:
            file.write("]")
