"""What a report says, as plain data: put together from the tables, as a document, and as JSON and CSV."""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from etl_assets.core.contracts.validation import to_frame
from etl_assets.core.database.connections import Database
from etl_assets.systems.production.contracts import METRICS, READINGS, Metrics, Workorders
from etl_assets.systems.production.report.words import answer
from etl_assets.systems.production.statistics import FEWEST, TOP, AlignmentRules, Method, OutputSummary
from etl_assets.systems.production.tables import committed_position, quarantined, readings_without_value

QUESTION = "For each product: which three machine parameters go with its output, and what is that worth?"
COLUMNS = (
    "rank", "parameter", "r", "ci_low", "ci_high", "rho", "n", "n_effective",
    "coverage", "p", "q", "stability", "tie_group", "verdict", "r_treated",
)  # fmt: skip
# Columns of a row by their name in the table, where that is another.
NAMES = {"parameter_id": "parameter"}

Row = dict[str, Any]
QUARANTINED = (
    (Metrics, "superseded", "readings", "a later one of the same parameter and instant arrived; they are in quarantine"),
    (Metrics, "rejected", "readings", "they cannot be read or break a rule of the table; they are in quarantine"),
    (Workorders, "superseded", "work orders", "a later one of the same product and instant arrived; they are in quarantine"),
    (Workorders, "rejected", "work orders", "they cannot be read or break a rule of the table; they are in quarantine"),
)  # fmt: skip


@dataclass(frozen=True)
class LeftOut:
    """What is not in the numbers.

    Attributes:
        what: the rows, for people: `readings of a duplicate instant`.
        why: the reason, for people.
        count: how many.
    """

    what: str
    why: str
    count: int


@dataclass(frozen=True)
class Findings:
    """Everything that a report says.

    Attributes:
        correlations: rows of `ProductCorrelations`: all products, readings and parameters.
        aligned: rows of `AlignedWorkOrders`, at least those of the parameters that rank first to third; they are drawn.
        products: the output of each product; in the report in this order.
        left_out: what is not in the numbers.
        method: settings of the method; `notes` is a list of sentences about it.
        generated_at: when, aware.
        run_id: the run that found it.
        source: where the records came from.
    """

    correlations: pd.DataFrame
    aligned: pd.DataFrame
    products: Sequence[OutputSummary]
    left_out: Sequence[LeftOut]
    method: Mapping[str, Any]
    generated_at: datetime
    run_id: str
    source: str


def read_findings(
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
    first = pa.array(sorted(set(correlations.loc[correlations["rank"] <= TOP, "parameter_id"])), pa.int64())
    return to_frame(aligned.filter(pc.is_in(aligned["parameter_id"], value_set=first)))


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


def document(findings: Findings) -> dict[str, Any]:
    """The report as JSON: plain values only, what is undefined is None.

    Raises:
        ValueError: if a product has correlations and no summary; names it.
    """
    readings = _readings(findings)
    return {
        "question": QUESTION,
        "generated_at": _plain(findings.generated_at),
        "run_id": findings.run_id,
        "source": findings.source,
        "products": [
            {
                "product": int(product.product_id),
                "answer": answer(product, readings[int(product.product_id)]),
                "work_orders": int(product.work_orders),
                "is_counter": bool(product.is_counter),
                "resets": int(product.resets),
                "decreases": int(product.decreases),
                "missing": int(product.missing),
                "first": _plain(product.first),
                "last": _plain(product.last),
                "readings": readings[int(product.product_id)],
            }
            for product in findings.products
        ],
        "left_out": [
            {"what": left_out.what, "why": left_out.why, "count": int(left_out.count)} for left_out in findings.left_out
        ],
        "method": _plain(findings.method),
    }


def as_json(report: Mapping[str, Any]) -> str:
    """The document as text that every JSON parser takes."""
    return json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_csv(report: Mapping[str, Any]) -> str:
    """The rows of the document, one per line, in full precision; what is undefined is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["product", "reading", *COLUMNS, "top"])
    for product in report["products"]:
        for reading, rows in product["readings"].items():
            for row in rows:
                cells = (row[column] for column in (*COLUMNS, "top"))
                writer.writerow([product["product"], reading, *map(_cell, cells)])
    return text.getvalue()


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else value if isinstance(value, str) else repr(value)


def _readings(findings: Findings) -> dict[int, dict[str, list[Row]]]:
    """Rows in rank order by product and reading; each product has both readings, if need be without rows."""
    readings: dict[int, dict[str, list[Row]]] = {
        int(product.product_id): {reading: [] for reading in READINGS} for product in findings.products
    }
    for product, reading, row in _rows(findings.correlations):
        if product not in readings:
            raise ValueError(
                f"product {product} has correlations and no summary: pass the OutputSummary of every product that is correlated"
            )
        readings[product][reading].append(row)
    for of_product in readings.values():
        for rows in of_product.values():
            rows.sort(key=lambda row: row["rank"])
    return readings


def _rows(correlations: pd.DataFrame) -> Iterator[tuple[int, str, Row]]:
    frame = correlations.rename(columns=NAMES)
    columns = [frame[column].tolist() for column in ("product_id", "reading", *COLUMNS)]
    for product, reading, *values in zip(*columns, strict=True):
        row = {column: _plain(value) for column, value in zip(COLUMNS, values, strict=True)}
        if row["tie_group"] is not None:
            # A column of integers with gaps arrives as floats.
            row["tie_group"] = int(row["tie_group"])
        yield int(product), str(reading), {**row, "top": row["rank"] <= TOP}


def _plain(value: Any) -> Any:
    """A value as JSON has it: no NaN, no infinity, no types of numpy or pandas; times as ISO 8601 in UTC, spans in seconds."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return value.total_seconds()
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
