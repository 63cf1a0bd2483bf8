"""Series of known kind, and aligned work orders made of them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.systems.production.contracts import AlignedWorkOrders

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
SPACING = timedelta(hours=1)


def noise(n: int, *, seed: int) -> np.ndarray:
    """Independent normal values."""
    return np.random.default_rng(seed).standard_normal(n)


def autoregressive(n: int, phi: float, *, seed: int) -> np.ndarray:
    """An autoregression of order one in its steady state."""
    steps = noise(n + 500, seed=seed)
    for at in range(1, len(steps)):
        steps[at] += phi * steps[at - 1]
    return steps[500:]


def random_walk(n: int, *, seed: int) -> np.ndarray:
    """Sums of independent normal values."""
    return noise(n, seed=seed).cumsum()


def trend(n: int, *, seed: int, rise: float = 100.0) -> np.ndarray:
    """A line with independent noise of deviation one."""
    return np.linspace(0, rise, n) + noise(n, seed=seed)


def aligned_table(
    output: Sequence[float | None] | np.ndarray,
    values: Mapping[int, Any],
    *,
    product: int = 0,
    production: Sequence[float | None] | np.ndarray | None = None,
    coverage: Mapping[int, float] | None = None,
) -> pa.Table:
    """Rows of `AlignedWorkOrders` of one product, an hour apart.

    Args:
        output: by work order; None or NaN is unknown.
        values: by parameter, a value for each work order.
        production: as recorded; by default as `output`.
        coverage: by parameter, of each work order; by default 1, or 0 where there is no value.
    """
    recorded = output if production is None else production
    rows = []
    for parameter, series in values.items():
        for at, value in enumerate(series):
            covered = (coverage or {}).get(parameter, 0.0 if _number(value) is None else 1.0)
            row = {
                "product_id": str(product),
                "completed_at": BEGIN + (at + 1) * SPACING,
                "parameter_id": str(parameter),
                "started_at": BEGIN + at * SPACING,
                "production": _number(recorded[at]),
                "output": _number(output[at]),
                "value": _number(value),
                "coverage": covered,
            }
            rows.append(row)
    return pa.Table.from_pylist(rows, schema=arrow_schema(AlignedWorkOrders))


def _number(value: Any) -> float | None:
    return None if value is None or value != value else float(value)
