"""Findings for the report's tests: small ones written out, and one with the shapes of real data."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from etl_assets.systems.production.contracts import READINGS, AlignedWorkOrders, ProductCorrelations
from etl_assets.systems.production.report import Findings, LeftOut
from etl_assets.systems.production.statistics import OutputSummary

START = datetime(2021, 6, 22, 16, 16, 14, tzinfo=UTC)
MADE = datetime(2021, 7, 9, 8, 0, tzinfo=UTC)
NULLABLE = ("r", "ci_low", "ci_high", "rho", "n_effective", "p", "q", "stability", "tie_group", "p_naive", "r_treated")


def output(**values: Any) -> OutputSummary:
    """The summary of a counter's output, but for what is given."""
    usual = {"product_id": "0", "work_orders": 288, "is_counter": True, "resets": 0, "decreases": 2, "missing": 0}
    return OutputSummary(**{**usual, "first": START, "last": START + timedelta(seconds=287 * 4990), **values})


def row(parameter: object, rank: int, r: float | None = None, **values: Any) -> dict[str, Any]:
    """A row of `ProductCorrelations` of product 0, per work order; what is not given is undefined."""
    given = {"product_id": "0", "reading": "per_work_order", "parameter_id": str(parameter), "rank": rank, "r": r}
    undefined = {name: None for name in (*NULLABLE, "dependence", "treatment") if name != "r"}
    return {**undefined, **given, "n": 287, "coverage": 0.9, "verdict": "not significant", **values}


def correlations(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as the frame that the correlation gives."""
    frame = pd.DataFrame(list(rows), columns=list(ProductCorrelations.columns))
    return frame.astype({"tie_group": "Int64", **dict.fromkeys(set(NULLABLE) - {"tie_group"}, "float64")})


def aligned(values: Any, outputs: Any, *, product: int = 0, parameter: int = 7, every_s: float = 4990) -> pd.DataFrame:
    """Rows of `AlignedWorkOrders` of one parameter; `production` is the running sum of the outputs."""
    ends = pd.date_range(START, periods=len(values), freq=pd.Timedelta(seconds=every_s)).as_unit("us")
    frame = pd.DataFrame(
        {
            "product_id": str(product),
            "completed_at": ends,
            "parameter_id": str(parameter),
            "started_at": ends - pd.Timedelta(seconds=every_s),
            "production": np.cumsum(np.asarray(outputs, dtype=np.float64)),
            "output": np.asarray(outputs, dtype=np.float64),
            "value": np.asarray(values, dtype=np.float64),
            "coverage": 0.9,
        }
    )
    return frame[list(AlignedWorkOrders.columns)]


def nothing() -> Findings:
    """Findings of a run that found no work order."""
    return Findings(
        correlations=correlations([]),
        aligned=aligned([], []),
        products=[],
        left_out=[],
        method={},
        generated_at=MADE,
        run_id="2f6c1d1e",
        source="files:9f8e",
    )


def findings(*rows: Mapping[str, Any], summary: OutputSummary | None = None, **more: Any) -> Findings:
    """Findings about one product."""
    return replace(nothing(), **{"correlations": correlations(rows), "products": [summary or output()], **more})


def drifting(orders: int = 288, parameters: int = 20) -> Findings:
    """Two products: the parameters drift as the first one's counter does; one helps the second one's output, which is no counter."""
    random = np.random.default_rng(20210622)
    drift, rows, frames = np.linspace(0, 1, orders), [], []
    increments = {0: 20 + 3 * random.standard_normal(orders), 1: 20 + 3 * random.standard_normal(orders)}
    for product, increment in increments.items():
        series = {
            parameter: 300 + 40 * parameter + (160 if parameter % 2 else 4) * drift + 9 * random.standard_normal(orders)
            for parameter in range(parameters)
        }
        if product == 1:
            series[5] = 300 + 9 * random.standard_normal(orders)
            increment = increment + (series[5] - 300) / 4
        of_product = {
            parameter: aligned(values, increment, product=product, parameter=parameter)
            for parameter, values in series.items()
        }
        for reading in READINGS:
            column = "production" if product == 0 and reading == "as_recorded" else "output"
            if product == 1:
                of_product = {p: frame.assign(production=frame["output"]) for p, frame in of_product.items()}
            rows += _ranked(product, reading, column, of_product)
        frames += list(of_product.values())
    return replace(
        nothing(),
        correlations=correlations(rows),
        aligned=pd.concat(frames, ignore_index=True),
        products=[
            output(work_orders=orders),
            output(product_id="1", work_orders=orders, is_counter=False, decreases=0),
        ],
        left_out=[
            LeftOut("readings of a parameter at an instant that occurs again", "the one that arrived later counts", 1),
            LeftOut("first work orders", "there is no work order before them, so it is not known when they began", 2),
        ],
        method={
            "notes": [
                "A parameter's value for a work order is its time-weighted mean from the order before to its end."
            ],
            "alignment": {"interpolation": "last value carried forward", "maximum_age": 3.0, "least_coverage": 0.5},
            "surrogates": 20_000,
            "level": 0.05,
        },
    )


def _ranked(product: int, reading: str, column: str, frames: Mapping[int, pd.DataFrame]) -> list[dict[str, Any]]:
    """Rows with the r of the series; the other numbers are made of it, of about the size that real ones have."""
    r = {parameter: float(np.corrcoef(frame["value"], frame[column])[0, 1]) for parameter, frame in frames.items()}
    rows = []
    for rank, parameter in enumerate(sorted(r, key=lambda one: -abs(r[one])), start=1):
        one, n = r[parameter], len(frames[parameter])
        low, high = np.tanh(np.arctanh(one) + np.array([-1, 1]) * 2.4 / np.sqrt(n))
        verdict = "shared trend" if abs(one) > 0.85 else "supported" if abs(one) > 0.35 else "not significant"
        p = {"shared trend": 0.44, "supported": 0.00015, "not significant": max(0.02, 1 - 6 * abs(one))}[verdict]
        rows.append(
            row(
                parameter, rank, one, product_id=str(product), reading=reading, ci_low=low, ci_high=high, rho=one * 0.98, n=n,
                n_effective=1.4 if verdict == "shared trend" else n * 0.91, p=p, q=min(1.0, p * 20 / rank),
                stability=max(0.02, 0.9 - 0.12 * rank), tie_group=1 if verdict == "shared trend" else rank,
                verdict=verdict, r_treated=one * (0.04 if verdict == "shared trend" else 0.97), treatment="detrended",
            )
        )  # fmt: skip
    return rows
