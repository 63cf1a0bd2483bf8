"""What a report says, put together from the tables: the correlations, what is drawn, and what is not in the numbers."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from etl_assets.core.contracts.validation import to_frame
from etl_assets.core.database.connections import Database
from etl_assets.systems.production.contracts import READINGS, Metrics, Workorders
from etl_assets.systems.production.report.document import Findings, LeftOut
from etl_assets.systems.production.statistics.alignment import AlignmentRules
from etl_assets.systems.production.statistics.correlation import FEWEST, TOP, Method
from etl_assets.systems.production.statistics.output import OutputSummary
from etl_assets.systems.production.streaming.drain import committed_position
from etl_assets.systems.production.streaming.streams import METRICS
from etl_assets.systems.production.tables import quarantined, readings_without_value

QUARANTINED = (
    (Metrics, "superseded", "readings", "a later one of the same parameter and instant arrived; they are in quarantine"),
    (Metrics, "rejected", "readings", "they cannot be read or break a rule of the table; they are in quarantine"),
    (Workorders, "superseded", "work orders", "a later one of the same product and instant arrived; they are in quarantine"),
    (Workorders, "rejected", "work orders", "they cannot be read or break a rule of the table; they are in quarantine"),
)  # fmt: skip


def findings(
    database: Database,
    *,
    correlations: pd.DataFrame,
    aligned: pa.Table,
    products: Sequence[OutputSummary],
    rules: AlignmentRules,
    method: Method,
    generated_at: datetime,
    run_id: str,
) -> Findings:
    """Everything that a report says.

    Args:
        correlations: rows of `ProductCorrelations`.
        aligned: rows of `AlignedWorkOrders`.
        products: what `outputs` found.
    """
    return Findings(
        correlations=correlations,
        aligned=drawn(aligned, correlations),
        products=products,
        left_out=[*_not_in_tables(database), *_not_aligned(aligned, products)],
        method=described(rules, method, correlations),
        generated_at=generated_at,
        run_id=run_id,
        source=committed_position(database, METRICS).source,
    )


def drawn(aligned: pa.Table, correlations: pd.DataFrame) -> pd.DataFrame:
    """The aligned rows of the parameters that rank first to third for any product: those that the report draws."""
    shown = pa.array(sorted(set(correlations.loc[correlations["rank"] <= TOP, "parameter_id"])), pa.int64())
    return to_frame(aligned.filter(pc.is_in(aligned["parameter_id"], value_set=shown)))


def described(rules: AlignmentRules, method: Method, correlations: pd.DataFrame) -> dict[str, Any]:
    """The settings, and what follows from them for these data."""
    family = len(READINGS) * int(correlations["parameter_id"].nunique())
    surrogates = method.surrogates(family)
    described = {
        "alignment": asdict(rules),
        "statistics": {**method.described(), "surrogates_at_most": surrogates, "fewest_work_orders": FEWEST},
    }
    return {**described, "notes": [_resolution(method, family, surrogates)]} if family else described


def _resolution(method: Method, family: int, surrogates: int) -> str:
    """Whether so many surrogates let the test say yes to a single effect, in a sentence."""
    tried = family * (sum(1 / place for place in range(1, family + 1)) if method.correction == "by" else 1)
    return (
        f"The smallest p that {surrogates:,} surrogates can give is {1 / (surrogates + 1):.1g}; a single effect among {family}"
        f" (all parameters in both readings) needs {method.level / tried:.1g} to pass, so the test can say yes."
    )


def _not_in_tables(database: Database) -> Iterator[LeftOut]:
    """Rows that are in quarantine instead, and readings that are in their table without a value."""
    counts = quarantined(database)
    for contract, outcome, what, why in QUARANTINED:
        if (contract.config.table, outcome) in counts:
            yield LeftOut(what, why, counts[contract.config.table, outcome])
    without_value = readings_without_value(database)
    if without_value:
        yield LeftOut("readings", "the source said that they are no number (NaN or null)", without_value)


def _not_aligned(aligned: pa.Table, products: Sequence[OutputSummary]) -> Iterator[LeftOut]:
    """Work orders, and parameters of work orders, that have no number."""
    uncovered = aligned["value"].null_count
    counts = (
        ("work orders", "the first of each product: when it began is not known", len(products)),
        ("work orders", "they have no production", sum(product.missing for product in products)),
        (
            "work orders",
            "the counter began anew during them, so that their increment is not known (they count as recorded)",
            sum(product.resets for product in products),
        ),
        ("values of a parameter for a work order", "its readings cover too little of the work order", uncovered),
    )
    for what, why, count in counts:
        if count:
            yield LeftOut(what, why, count)
