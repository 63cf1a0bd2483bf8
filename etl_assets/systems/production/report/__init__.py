"""The correlation report: findings from the tables, in words and charts, as one page with the same numbers as CSV and JSON.

    <folder>/latest.html  .csv  .json             of the newest run
    <folder>/<run>/report.html  .csv  .json        of each run

The page is self-contained: styles and charts are in it, it fetches nothing and runs no script. What is said is decided in
`words`; what is drawn, in `charts`; here it is put together and written.
"""

import csv
import functools
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pydantic_core import to_jsonable_python

from etl_assets.core.charts import numbers
from etl_assets.core.charts.files import safe_name, write_text
from etl_assets.core.charts.pages import template
from etl_assets.core.charts.pictures import figure, svg
from etl_assets.core.contracts.validation import to_frame
from etl_assets.core.database.connections import Database
from etl_assets.systems.production.contracts import METRICS, READINGS, Metrics, ProductCorrelations, Workorders
from etl_assets.systems.production.report import words
from etl_assets.systems.production.report.charts import MARKS, charts_of
from etl_assets.systems.production.statistics import FEWEST, TOP, AlignmentRules, Method, OutputSummary, outputs
from etl_assets.systems.production.tables import committed_position, quarantined, readings_without_value

QUESTION = "For each product: which three machine parameters go with its output, and what is that worth?"
COLUMNS = (
    "rank", "parameter", "r", "ci_low", "ci_high", "rho", "n", "n_effective",
    "coverage", "p", "q", "stability", "tie_group", "verdict", "r_treated",
)  # fmt: skip
# Columns of a row by their name in the table, where that is another.
NAMES = {"parameter_id": "parameter"}
# For a report of many products the charts share this number of marks, so that a browser can still open the page.
MARKS_PER_PAGE = 80_000
FEWEST_MARKS = 100

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
    workorders: pd.DataFrame,
    rules: AlignmentRules,
    method: Method,
    run_id: str,
) -> Findings:
    """Everything that a report says, as of now.

    Args:
        correlations: rows of `ProductCorrelations`.
        aligned: rows of `AlignedWorkOrders`.
        workorders: rows of `Workorders`: product, time and production.
    """
    _, products = outputs(workorders)
    return Findings(
        correlations=correlations,
        aligned=drawn(aligned, correlations),
        products=products,
        left_out=[*_not_in_tables(database), *_not_aligned(aligned, products)],
        method=described(rules, method, correlations),
        generated_at=datetime.now(UTC),
        run_id=run_id,
        source=committed_position(database, METRICS).source,
    )


def drawn(aligned: pa.Table, correlations: pd.DataFrame) -> pd.DataFrame:
    """The aligned rows of the parameters that rank first to third for any product: those that the report draws."""
    first = pa.array(sorted(set(correlations.loc[correlations["rank"] <= TOP, "parameter_id"])), pa.string())
    return to_frame(aligned.filter(pc.is_in(aligned["parameter_id"], value_set=first)))


def described(rules: AlignmentRules, method: Method, correlations: pd.DataFrame) -> dict[str, Any]:
    """The settings, and what follows from them for these data."""
    family = len(READINGS) * int(correlations["parameter_id"].nunique())
    surrogates = method.surrogates(family)
    described = {
        "alignment": asdict(rules),
        "statistics": {**asdict(method), "surrogates_at_most": surrogates, "fewest_work_orders": FEWEST},
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
    products = []
    for product in findings.products:
        name, summary = product.product_id, asdict(product)
        del summary["product_id"]
        said = words.answer(product, readings[name])
        products.append({"product": name, "answer": said, **summary, "readings": readings[name]})
    report = {
        "question": QUESTION,
        "generated_at": findings.generated_at,
        "run_id": findings.run_id,
        "source": findings.source,
        "products": products,
        "left_out": [asdict(left_out) for left_out in findings.left_out],
        "method": findings.method,
    }
    return _plain(report)


def _readings(findings: Findings) -> dict[str, dict[str, list[Row]]]:
    """Rows in rank order by product and reading; each product has both readings, if need be without rows."""
    readings: dict[str, dict[str, list[Row]]] = {
        product.product_id: {reading: [] for reading in READINGS} for product in findings.products
    }
    ranked = findings.correlations.rename(columns=NAMES).sort_values("rank").astype({"tie_group": "Int64"})
    ids = zip(ranked["product_id"].tolist(), ranked["reading"].tolist(), strict=True)
    for (product, reading), row in zip(ids, _plain(ranked[list(COLUMNS)].to_dict("records")), strict=True):
        if product not in readings:
            raise ValueError(
                f"product {product} has correlations and no summary: pass the OutputSummary of every product that is correlated"
            )
        readings[product][reading].append({**row, "top": row["rank"] <= TOP})
    return readings


def _plain(value: Any) -> Any:
    """A value as JSON has it: no NaN, no infinity, no types of numpy or pandas; times as ISO 8601 in UTC, spans in seconds."""
    return to_jsonable_python(
        value,
        inf_nan_mode="null",
        timedelta_mode="float",
        fallback=lambda other: None if other is pd.NA else other.item(),
    )


def as_json(report: Mapping[str, Any]) -> str:
    """The document as text that every JSON parser takes."""
    return json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_csv(report: Mapping[str, Any]) -> str:
    """The rows of the document, one per line, in full precision; what is undefined is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["product", "reading", *COLUMNS, "top"], lineterminator="\n")
    writer.writeheader()
    for product in report["products"]:
        for reading, rows in product["readings"].items():
            for row in rows:
                top = "true" if row["top"] else "false"
                writer.writerow({"product": product["product"], "reading": reading, **row, "top": top})
    return text.getvalue()


@dataclass(frozen=True)
class ReportFiles:
    """Where a report is: the files of its run, the stable names that show the newest, and the document in them all."""

    document: Mapping[str, Any]
    html: Path
    csv: Path
    json: Path
    latest_html: Path
    latest_csv: Path
    latest_json: Path


def write_report(folder: Path, findings: Findings) -> ReportFiles:
    """Write the report of a run, then let the stable names show it.

    Each file appears whole or not at all. Killed in between, the stable names still show the report before, or for some of the
    three formats the new one.

    Args:
        folder: made if it is not there.
        findings: what the report says.

    Raises:
        PermanentError: if the folder cannot be written to.
    """
    report = document(findings)
    texts = {"html": _page(report, findings), "csv": as_csv(report), "json": as_json(report)}
    of_run = {kind: folder / safe_name(findings.run_id) / f"report.{kind}" for kind in texts}
    latest = {kind: folder / f"latest.{kind}" for kind in texts}
    for paths in (of_run, latest):
        for kind, path in paths.items():
            write_text(path, texts[kind])
    return ReportFiles(document=report, **of_run, **{f"latest_{kind}": path for kind, path in latest.items()})


def _page(report: Mapping[str, Any], findings: Findings) -> str:
    places = findings.aligned.groupby(["product_id", "parameter_id"]).indices
    charts = 2 * sum(row["top"] for p in report["products"] for rows in p["readings"].values() for row in rows)
    marks = min(MARKS, max(FEWEST_MARKS, MARKS_PER_PAGE // max(charts, 1)))

    def drawings(product: str, reading: str, row: Row, name: str) -> Iterator[str]:
        aligned = findings.aligned.iloc[places.get((product, row["parameter"]), [])]
        for chart in charts_of(row, aligned, reading, marks):
            picture = svg(
                chart.drawing,
                name=f"{name}-{chart.kind}",
                title=chart.title,
                description=chart.description,
                data=chart.data,
            )
            yield figure(picture, caption=chart.caption, kind=chart.kind)

    text: str = _template().render(
        report=report,
        findings=findings,
        settings=list(_settings(report["method"])),
        notes=report["method"].get("notes", []),
        columns=COLUMNS,
        meanings={NAMES.get(name, name): column.description for name, column in ProductCorrelations.columns.items()},
        interval=words.interval,
        remarks=words.remarks,
        drawings=drawings,
    )
    return text


@functools.cache
def _template() -> Any:
    filters = (numbers.amount, numbers.counted, numbers.instant, numbers.share, safe_name)
    return template(Path(__file__).with_name("report.html.j2"), *filters, words.correlation, words.probability)


def _settings(method: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and value of each setting for people; those of a group carry its name."""
    for name, value in method.items():
        title = name.replace("_", " ").capitalize()
        if name != "notes":
            for of_group, setting in value.items() if isinstance(value, Mapping) else [("", value)]:
                spoken = f"{title}: {of_group.replace('_', ' ')}" if of_group else title
                yield spoken, f"{setting:,}" if isinstance(setting, int) else str(setting)
