"""What the simulation study draws: raw readings and work orders of which it is known what goes with what.

The shape is that of real recordings: readings at irregular instants, about one and a quarter work orders apart, work orders one about
every 4,990 s, whole seconds. A parameter is what was last read until the next reading.
"""

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

BEGIN = 1_767_225_600  # 2026-01-01T00:00:00Z
ORDER_S, ORDER_JITTER_S = 4_990.0, 130.0
READING_S = 4_150.0
DAY = 86_400 / ORDER_S
PARAMETERS = 20
PLANTED = 7
# Of the readings, one in a hundred has the instant of a work order: four times as many as real recordings had, so that the join on
# equal times has something to join.
COINCIDING = 0.01
SEED = 20_260_101

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Random = np.random.Generator
# Both make values at instants, which are counted in work orders.
Noise = Callable[[Floats, Random], Floats]
Drift = Callable[[Floats, Random], Floats]


def white(times: Floats, random: Random) -> Floats:
    """Independent normal values."""
    return random.standard_normal(len(times))


def heavy(times: Floats, random: Random) -> Floats:
    """Independent values with Student's t distribution, 3 degrees of freedom."""
    return random.standard_t(3, len(times)) / math.sqrt(3)


def memory(times: Floats, random: Random, *, left: float) -> Floats:
    """Stationary noise, an AR(1) process at evenly spaced instants.

    Args:
        left: of a deviation after one work order.
    """
    kept = left ** np.diff(times)
    values: Floats = random.standard_normal(len(times))
    values[1:] *= np.sqrt(1 - kept**2)
    for at, share in enumerate(kept.tolist(), start=1):
        values[at] += share * values[at - 1]
    return values


def growing(times: Floats, random: Random) -> Floats:
    """Independent normal values whose deviation grows sevenfold."""
    return random.standard_normal(len(times)) * np.exp(2 * _share(times))


def walk(times: Floats, random: Random) -> Floats:
    """A random walk, of deviation one per work order."""
    return np.cumsum(random.standard_normal(len(times)) * np.sqrt(np.diff(times, prepend=times[0] - 1)))


def level(times: Floats, random: Random) -> Floats:
    """No drift."""
    return np.zeros(len(times))


def line(times: Floats, random: Random) -> Floats:
    """A straight line that rises or falls by 5 to 20 deviations of the noise."""
    return _size(random) * _share(times)


def bent(times: Floats, random: Random) -> Floats:
    """An exponential, a root or a parabola that rises or falls by as much."""
    share = _share(times)
    shapes = (np.expm1(3 * share) / np.expm1(3), np.sqrt(share), 2 * (share - random.uniform(0.2, 0.8)) ** 2)
    return _size(random) * shapes[random.integers(len(shapes))]


def carried(times: Floats, random: Random) -> Floats:
    """A straight line that carries a random walk away by 1 to 3 deviations of its end."""
    end = math.sqrt(float(times[-1] - times[0]))
    return _sign(random) * random.uniform(1, 3) * end * _share(times)


def daily(times: Floats, random: Random) -> Floats:
    """A wave with a period of a day and a phase of its own, 1 to 2 deviations high."""
    return random.uniform(1, 2) * np.sin(2 * np.pi * (times / DAY + random.random()))


def in_shifts(times: Floats, random: Random) -> Floats:
    """Another level, 1 to 3 deviations away, in one of three shifts of eight hours, which begin when they like."""
    size, begin, which = random.uniform(1, 3), 3 * random.random(), random.integers(3)
    return np.where(np.floor(3 * times / DAY + begin) % 3 == which, size, 0.0)


def shifted(times: Floats, random: Random) -> Floats:
    """One change of level by 2 to 6 deviations, some time in the middle."""
    size, when = _sign(random) * random.uniform(2, 6), random.uniform(0.2, 0.8)
    return np.where(_share(times) > when, size, 0.0)


def _share(times: Floats) -> Floats:
    share: Floats = (times - times[0]) / (times[-1] - times[0])
    return share


def _sign(random: Random) -> int:
    return int(random.choice([-1, 1]))


def _size(random: Random) -> float:
    return _sign(random) * random.uniform(5, 20)


@dataclass(frozen=True)
class Shape:
    """How a series runs: drift, and noise about it."""

    noise: Noise = white
    drift: Drift = level


@dataclass(frozen=True)
class Scenario:
    """A kind of recording.

    Attributes:
        name: for people, and part of the seed.
        output: what work orders put out.
        parameters: these shapes by turns.
        production: how output is recorded. `as it is`; as a `counter` of it; as a `noisy counter`, which rises evenly and has the
            output as its error, so that its increments are the differences of that.
        orders: of each product.
        r: correlation of the output of product 0, about its drift, with the mean of parameter `PLANTED` over each work order, about the
            drift of that. 0: nothing goes with anything, and there is no other product.
        promised: whether false discoveries are to stay below 5 %: they are for trends and stationary noise.
    """

    name: str
    output: Shape
    parameters: tuple[Shape, ...]
    production: Literal["as it is", "counter", "noisy counter"] = "as it is"
    orders: int = 288
    r: float = 0.0
    promised: bool = True

    @property
    def products(self) -> int:
        """Beside a planted product there is one without any effect."""
        return 2 if self.r else 1


@dataclass(frozen=True)
class Recording:
    """Raw records of one scenario.

    Attributes:
        workorders: `product_id`, `completed_at`, `production`, as `outputs` takes them.
        readings: by parameter, instants (seconds since 1970) and values.
    """

    workorders: pd.DataFrame
    readings: Mapping[int, tuple[Integers, Floats]]

    def metrics(self) -> pa.Table:
        """The readings as `aligned` takes them."""
        times = np.concatenate([times for times, _ in self.readings.values()])
        return pa.table(
            {
                # Of two digits each, so that they are in the order of their text.
                "parameter_id": [f"{name:02}" for name, (times, _) in self.readings.items() for _ in times],
                "measured_at": pa.array(times * 1_000_000, pa.timestamp("us", tz="UTC")),
                "value": np.concatenate([values for _, values in self.readings.values()]),
            }
        )


def recording(scenario: Scenario, number: int) -> Recording:
    """One recording; the same number, the same records."""
    random = np.random.default_rng([SEED, zlib.crc32(scenario.name.encode()), number])
    ends = [_order_times(scenario.orders, random) for _ in range(scenario.products)]
    readings, means = {}, np.zeros(0)
    for parameter in range(PARAMETERS):
        times = _reading_times(ends, random)
        shape = scenario.parameters[parameter % len(scenario.parameters)]
        at = (times - BEGIN) / ORDER_S
        drift, noise = shape.drift(at, random), shape.noise(at, random)
        unit = 10 ** random.uniform(-1, 3)
        readings[parameter] = (times, unit * (random.uniform(-10, 10) + drift + noise))
        if parameter == PLANTED and scenario.r:
            means = held_means(times, noise, ends[0])
    frames = []
    for product, times in enumerate(ends):
        effect = scenario.r * _standard(means) if scenario.r and product == 0 else None
        frames.append(
            pd.DataFrame(
                {
                    "product_id": str(product),
                    "completed_at": pd.to_datetime(times, unit="s", utc=True),
                    "production": _production(scenario, times, effect, random),
                }
            )
        )
    return Recording(pd.concat(frames, ignore_index=True), readings)


def held_means(times: Integers, values: Floats, ends: Integers) -> Floats:
    """Time-weighted means between neighbouring ends of values that hold until the next reading; one fewer than ends."""
    total = np.concatenate(([0.0], np.cumsum(values[:-1] * np.diff(times))))
    last = np.searchsorted(times, ends, side="right") - 1
    return np.diff(total[last] + values[last] * (ends - times[last])) / np.diff(ends)


def _standard(values: Floats) -> Floats:
    return (values - values.mean()) / values.std()


def _order_times(orders: int, random: Random) -> Integers:
    """Ends of work orders; the first comes a while after the first readings."""
    spacing = ORDER_S + np.clip(random.normal(0, ORDER_JITTER_S, orders), -400, 400)
    return BEGIN + 25_000 + np.cumsum(spacing).astype(np.int64)


def _reading_times(ends: list[Integers], random: Random) -> Integers:
    """Instants of a parameter's readings, from before the first work order to the last, each once."""
    until = int(max(times[-1] for times in ends))
    spacing = random.gamma(2.0, READING_S / 2, int(2 * (until - BEGIN) / READING_S) + 50)
    times = BEGIN + np.cumsum(np.maximum(spacing, 1)).astype(np.int64)
    times = times[times <= until]
    meeting = random.random(len(times)) < COINCIDING
    times[meeting] = random.choice(np.concatenate(ends), meeting.sum())
    return np.unique(times)


def _production(scenario: Scenario, times: Integers, effect: Floats | None, random: Random) -> Floats:
    """What is recorded at the end of each work order; the effect has one value less, as the first has no interval."""
    at = (times - BEGIN) / ORDER_S
    noise = scenario.output.noise(at, random)
    if effect is not None:
        noise[1:] = effect + math.sqrt(1 - scenario.r**2) * noise[1:]
    output = scenario.output.drift(at, random) + noise
    if scenario.production == "as it is":
        return 500 + 30 * output
    if scenario.production == "noisy counter":
        return 20 * np.arange(len(times)) + 5 * output
    return np.cumsum(20 + 6 * _standard(output))
