"""How often the correlation report is wrong, and how often it finds what is there, beside what is usually done.

    OMP_NUM_THREADS=1 python benchmarks/correlations.py [--sets 400] [--processes 2] [--only null planted intervals …] [--list]

Each data set is drawn as raw records (`correlations_data`) and goes the whole way: `outputs`, `aligned`, `correlations`. What
it means: docs/correlation-study.md. Prints Markdown, each line as soon as it is known.
"""

import argparse
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from correlations_data import (
    BEGIN,
    ORDER_S,
    PLANTED,
    SEED,
    Floats,
    Integers,
    Recording,
    Scenario,
    Shape,
    bent,
    carried,
    daily,
    growing,
    heavy,
    in_shifts,
    line,
    memory,
    recording,
    shifted,
    walk,
    white,
)
from scipy import stats

from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.systems.production.contracts import READINGS, AlignedWorkOrders
from etl_assets.systems.production.statistics import outputs
from etl_assets.systems.production.statistics.alignment import aligned
from etl_assets.systems.production.statistics.correlation import Method, correlations

LEVEL = 0.05
# Intervals and stability are not judged in the first two tables, so a few resamples will do there.
METHOD = Method(resamples=19)
METHODS = ("ours", "pearson", "equal time", "index")
# Planted effects come with a second product, and power needs less precision than a rate near 5 %.
PLANTED_SHARE = 0.5

IID, AR5, AR9 = Shape(), Shape(partial(memory, left=0.5)), Shape(partial(memory, left=0.9))
GROWING, SHIFTS = Shape(growing), Shape(white, in_shifts)
HEAVY, WAVE, STEP = Shape(heavy), Shape(white, daily), Shape(white, shifted)
LINE, BENT, BENT5 = Shape(white, line), Shape(white, bent), Shape(partial(memory, left=0.5), bent)
WALK, CARRIED = Shape(walk), Shape(walk, carried)
MIXED = (IID, AR5, AR9, LINE, BENT, WALK, CARRIED, WAVE, HEAVY, STEP)


def alike(name: str, shape: Shape, **options: Any) -> Scenario:
    """Output and parameters of one shape."""
    return Scenario(name, shape, (shape,), **options)


NULL = (
    alike("independent", IID),
    alike("AR(1), φ = 0.5", AR5),
    alike("AR(1), φ = 0.9", AR9),
    alike("heavy tails (t, 3 degrees of freedom)", HEAVY),
    alike("daily waves + noise", WAVE),
    alike("lines + noise", LINE),
    alike("bent trends + noise", BENT),
    alike("bent trends + AR(1), φ = 0.5", BENT5),
    alike("changes of level + noise", STEP),
    alike("counter of independent output", IID, production="counter"),
    alike("counter of AR(1) output, φ = 0.9", AR9, production="counter"),
    alike("counter of a rising output; lines", LINE, production="counter"),
    Scenario("even counter with noise; lines", IID, (LINE,), production="noisy counter"),
    Scenario("even counter with noise; parameters of all kinds", IID, MIXED, production="noisy counter"),
    Scenario("AR(1) output, φ = 0.9; parameters of all kinds", AR9, MIXED),
    alike("random walks", WALK, promised=False),
    alike("random walks with drift", CARRIED, promised=False),
    Scenario("counter of independent output; random walks with drift", IID, (CARRIED,), "counter", promised=False),
    *(
        alike(f"{name}, n = {n}", shape, orders=n, promised=shape is not WALK)
        for n in (60, 30)
        for name, shape in (
            ("independent", IID),
            ("AR(1), φ = 0.9", AR9),
            ("lines + noise", LINE),
            ("random walks", WALK),
        )
    ),
    alike("noise that grows sevenfold", GROWING, promised=False),
    alike("eight-hour shifts + noise", SHIFTS, promised=False),
)
EFFECTS = (
    *(
        alike(f"{name}, r = {r}", shape, r=r, production=production)
        for name, shape, production in (
            ("independent", IID, "counter"),
            ("AR(1), φ = 0.5", AR5, "counter"),
            ("AR(1), φ = 0.9", AR9, "counter"),
            ("rising output, lines", LINE, "counter"),
        )
        for r in (0.2, 0.3, 0.4, 0.6)
    ),
    *(
        Scenario(f"even counter with noise, lines, r = {r}", IID, (LINE,), production="noisy counter", r=r)
        for r in (0.3, 0.6)
    ),
    *(alike(f"independent, n = {n}, r = 0.6", IID, orders=n, r=0.6, production="counter") for n in (60, 30)),
)


@dataclass(frozen=True)
class Claims:
    """What one method says of one product and reading.

    Attributes:
        false: whether it claims anything that is not there.
        planted: whether it claims what is planted.
        first: whether what is planted has the largest |r|.
        r: of what is planted.
    """

    false: bool
    planted: bool
    first: bool
    r: float


# By product, method and reading.
Findings = dict[tuple[int, str, str], Claims]


def claims(scenario: Scenario, product: int, r: Floats, claimed: Iterable[bool]) -> Claims:
    """Judge what is claimed of all parameters.

    Args:
        r, claimed: by parameter, in order.
    """
    there = np.zeros(len(r), dtype=bool)
    there[PLANTED] = bool(scenario.r) and product == 0
    said = np.asarray(claimed, dtype=bool)
    size = np.nan_to_num(np.abs(r), nan=-1.0)
    first = size[PLANTED] >= size.max() and (size == size.max()).sum() == 1
    return Claims(bool((said & ~there).any()), bool((said & there).any()), bool(first), float(r[PLANTED]))


def discoveries(p: Floats) -> npt.NDArray[np.bool_]:
    """Which p are below 5 % after Benjamini and Hochberg's correction."""
    known = ~np.isnan(p)
    found = np.zeros(len(p), dtype=bool)
    if known.any():
        found[known] = stats.false_discovery_control(p[known]) <= LEVEL
    return found


def pearson(pairs: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    """r of each parameter and its usual p; NaN where there are less than two pairs or nothing varies."""
    r, n = np.full(len(pairs), np.nan), np.zeros(len(pairs))
    for at, (x, y) in enumerate(pairs):
        known = ~(np.isnan(x) | np.isnan(y))
        n[at] = known.sum()
        if n[at] > 1:
            x, y = x[known] - x[known].mean(), y[known] - y[known].mean()
            size = np.sqrt((x @ x) * (y @ y))
            r[at] = np.clip(x @ y / size, -1, 1) if size > 0 else np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf(np.abs(r) * np.sqrt((n - 2) / (1 - r**2)), n - 2)
    return r, np.where((n == 2) & ~np.isnan(r), 1.0, p)


def by_equal_time(times: Integers, values: Floats, ends: Integers, output: Floats) -> tuple[Floats, Floats]:
    """Readings that have the instant of a work order, with its output."""
    _, of_reading, of_order = np.intersect1d(times, ends, return_indices=True)
    return values[of_reading], output[of_order]


def by_index(times: Integers, values: Floats, ends: Integers, output: Floats) -> tuple[Floats, Floats]:
    """The i-th reading with the i-th output."""
    count = min(len(values), len(output))
    return values[:count], output[:count]


def examine(scenario: Scenario, number: int) -> Findings:
    """What all methods say of one data set."""
    data = recording(scenario, number)
    orders, _ = outputs(data.workorders)
    table = correlations(aligned(data.metrics().to_batches(), orders).read_all(), METHOD)
    findings: Findings = {}
    for product, reading in itertools.product(range(scenario.products), READINGS):
        rows = table[(table["product_id"] == str(product)) & (table["reading"] == reading)].sort_values("parameter_id")
        r, naive = rows["r"].to_numpy(), rows["p_naive"].to_numpy()
        judge = partial(claims, scenario, product)
        findings[product, "ours", reading] = judge(r, rows["verdict"] == "supported")
        findings[product, "pearson", reading] = judge(r, discoveries(naive))
        for name, join in (("equal time", by_equal_time), ("index", by_index)):
            ends, output = _series(data, orders, product, reading)
            joined_r, p = pearson([join(*of_parameter, ends, output) for of_parameter in data.readings.values()])
            findings[product, name, reading] = judge(joined_r, discoveries(p))
    return findings


def _series(data: Recording, orders: pd.DataFrame, product: int, reading: str) -> tuple[Integers, Floats]:
    """Ends and output of a product's work orders as somebody who joins would take them."""
    rows, column = (data.workorders, "production") if reading == READINGS[0] else (orders, "output")
    chosen = rows[rows["product_id"] == str(product)]
    return chosen["completed_at"].dt.as_unit("s").astype("int64").to_numpy(), chosen[column].to_numpy()


def rate(said: Iterable[bool | float], *, error: bool = False) -> str:
    """A share of data sets in per cent; with its standard error, for which one data set stands if all are alike."""
    values = np.array(list(said), dtype=np.float64)
    if not error:
        return f"{100 * values.mean():.0f}"
    return f"{100 * values.mean():.1f} ± {100 * (values.std() / np.sqrt(len(values)) or 1 / len(values)):.1f}"


def null_line(scenario: Scenario, found: list[Findings]) -> str:
    """False discoveries of a product without any effect, by method and reading."""
    cells = [rate((any(one[0, "ours", reading].false for reading in READINGS) for one in found), error=True)]
    readings = READINGS[:1] if scenario.production == "as it is" else READINGS
    for method in METHODS:
        cells.append(" / ".join(rate(one[0, method, reading].false for one in found) for reading in readings))
    return f"| {scenario.name} | " + " | ".join(cells) + " |"


def together_line(found: list[Findings]) -> str:
    """The same over several scenarios, in either reading."""
    said = {method: [any(one[0, method, reading].false for reading in READINGS) for one in found] for method in METHODS}
    cells = [rate(said["ours"], error=True), *(rate(said[method]) for method in METHODS)]
    return "| **trends and stationary noise together, either reading** | " + " | ".join(cells) + " |"


def planted_line(scenario: Scenario, found: list[Findings]) -> str:
    """Power, and false discoveries beside it."""
    recorded, each = READINGS
    either = [any(one[0, "ours", reading].planted for reading in READINGS) for one in found]
    cells = [
        f"{np.mean([abs(one[0, 'ours', each].r) for one in found]):.2f}",
        rate(either, error=True),
        " / ".join(rate(one[0, "ours", reading].planted for one in found) for reading in (recorded, each)),
        rate(any(one[0, "ours", reading].false for reading in READINGS) for one in found),
        rate(any(one[1, "ours", reading].false for reading in READINGS) for one in found),
        rate(one[0, "ours", each].first for one in found),
    ]
    for method in METHODS[1:]:
        claimed, wrong, first = (
            rate(getattr(one[0, method, each], what) for one in found) for what in ("planted", "false", "first")
        )
        cells.append(f"{claimed} / {wrong}" + ("" if method == "pearson" else f" / {first}"))
    return f"| {scenario.name} | " + " | ".join(cells) + " |"


NULL_HEAD = (
    "| no effect at all: data sets with a false discovery, % (goal of ours: at most 5) | ours, either reading | ours | Pearson on aligned values"
    " | join on equal time | join by index |",
    "|---|---:|---:|---:|---:|---:|",
)
PLANTED_HEAD = (
    "| planted in one of 20 parameters, % of data sets | mean absolute r | found | found, by reading | false beside it"
    " | false, other product | largest absolute r | Pearson on aligned values: found / false"
    " | join on equal time: found / false / largest | join by index: found / false / largest |",
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
)
INTERVALS_HEAD = (
    "| 95 % intervals | n | true r | they hold it, % (goal: 95) | mean width |",
    "|---|---:|---:|---:|---:|",
)


@dataclass(frozen=True)
class Known:
    """A kind of series whose correlation is known: five parameters that each have it with the output."""

    name: str
    left: float
    n: int
    r: float


INTERVALS = tuple(
    Known(name, left, n, r)
    for name, left in (("independent", 0.0), ("AR(1), φ = 0.5", 0.5), ("AR(1), φ = 0.9", 0.9))
    for n in (288, 60)
    for r in (0.0, 0.5)
)


def interval(known: Known, number: int) -> tuple[float, float]:
    """Of one data set, the share of intervals that hold the true r, and their mean width."""
    random = np.random.default_rng([SEED, round(100 * known.left), known.n, round(100 * known.r), number])
    noise = partial(memory, left=known.left)
    at = np.arange(known.n, dtype=np.float64)
    output, *others = (noise(at, random) for _ in range(6))
    parameters = [known.r * output + np.sqrt(1 - known.r**2) * other for other in others]
    table = correlations(_aligned(output, parameters), Method())
    rows = table[table["reading"] == READINGS[1]]
    held = (rows["ci_low"] <= known.r) & (known.r <= rows["ci_high"])
    return float(held.mean()), float((rows["ci_high"] - rows["ci_low"]).mean())


def _aligned(output: Floats, parameters: Sequence[Floats]) -> pa.Table:
    """Aligned work orders whose production was not recorded, so that only one reading is tested."""
    ends = (BEGIN + (np.arange(len(output)) + 1) * ORDER_S) * 1e6
    frames = [
        pd.DataFrame(
            {
                "product_id": "0",
                "completed_at": ends.astype(np.int64),
                "parameter_id": str(parameter),
                "started_at": (ends - ORDER_S * 1e6).astype(np.int64),
                "production": np.nan,
                "output": output,
                "value": values,
                "coverage": 1.0,
            }
        )
        for parameter, values in enumerate(parameters)
    ]
    return pa.Table.from_pandas(pd.concat(frames), preserve_index=False).cast(arrow_schema(AlignedWorkOrders))


def interval_line(known: Known, found: list[tuple[float, float]]) -> str:
    """How many intervals hold the truth."""
    held, width = zip(*found, strict=True)
    return f"| {known.name} | {known.n} | {known.r:g} | {rate(held, error=True)} | {np.mean(width):.2f} |"


def study(executor: Executor, sets: int, chosen: Callable[[str], bool]) -> Iterator[str]:
    """The three tables, line by line."""

    def measured(measure: Callable[[Any, int], Any], row: Any, count: int) -> list[Any]:
        return list(executor.map(partial(measure, row), range(count), chunksize=4))

    null = [row for row in NULL if chosen(f"null: {row.name}")]
    yield from NULL_HEAD if null else ()
    promised: list[Findings] = []
    for row in null:
        found = measured(examine, row, sets)
        promised += found if row.promised else []
        yield null_line(row, found)
    yield from (together_line(promised), "") if promised else ()
    tables: tuple[tuple[str, tuple[str, ...], Sequence[Any], Any, Any, int], ...] = (
        ("planted", PLANTED_HEAD, EFFECTS, examine, planted_line, round(sets * PLANTED_SHARE)),
        ("intervals", INTERVALS_HEAD, INTERVALS, interval, interval_line, sets),
    )
    for table, head, rows, measure, said, count in tables:
        some = [row for row in rows if chosen(f"{table}: {row.name}")]
        yield from head if some else ()
        for row in some:
            yield said(row, measured(measure, row, count))
        yield from ("",) if some else ()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--sets", type=int, default=400, help="data sets per line; half as many where effects are planted"
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[], help="parts of what --list prints")
    parser.add_argument("--list", action="store_true", help="print the names of all lines and end")
    options = parser.parse_args()
    if options.list:
        print(*(f"null: {row.name}" for row in NULL), *(f"planted: {row.name}" for row in EFFECTS), sep="\n")
        print(*sorted({f"intervals: {row.name}" for row in INTERVALS}), sep="\n")
        return

    def chosen(name: str) -> bool:
        return not options.only or any(part in name for part in options.only)

    with ProcessPoolExecutor(options.processes) as executor:
        for text in study(executor, options.sets, chosen):
            print(text, flush=True)


if __name__ == "__main__":
    main()
