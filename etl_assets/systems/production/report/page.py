"""The correlation report as files: one page to read, and the same numbers as CSV and JSON.

    <folder>/latest.html  .csv  .json             of the newest run
    <folder>/<run>/report.html  .csv  .json        of each run

The page is self-contained: styles and charts are in it, it fetches nothing and runs no script. What is said is decided in
`findings` and `words`; what is drawn, in `charts`; here it is only put together and written.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from etl_assets.core.charts import numbers
from etl_assets.core.charts.files import safe_name, write_text
from etl_assets.core.charts.pages import template
from etl_assets.core.charts.pictures import figure, svg
from etl_assets.systems.production.contracts import ProductCorrelations
from etl_assets.systems.production.report import words
from etl_assets.systems.production.report.charts import MARKS, Chart, charts_of
from etl_assets.systems.production.report.findings import COLUMNS, NAMES, Findings, Row, as_csv, as_json, document

# For a report of many products the charts share this number of marks, so that a browser can still open the page.
MARKS_PER_PAGE = 80_000
FEWEST_MARKS = 100


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
    text: str = _template().render(
        report=report,
        findings=findings,
        products=list(_products(report, findings)),
        settings=list(_settings(report["method"])),
        notes=_notes(report["method"]),
        columns=COLUMNS,
        meanings={NAMES.get(name, name): column.description for name, column in ProductCorrelations.columns.items()},
        interval=words.interval,
        drawing=_drawing,
    )
    return text


def _drawing(chart: Chart, name: str) -> str:
    picture = svg(chart.drawing, name=name, title=chart.title, description=chart.description, data=chart.data)
    return figure(picture, caption=chart.caption, kind=chart.kind)


@functools.cache
def _template() -> Any:
    filters = (numbers.amount, numbers.counted, numbers.instant, numbers.share)
    return template(Path(__file__).with_name("report.html.j2"), *filters, words.correlation, words.probability)


def _products(report: Mapping[str, Any], findings: Findings) -> Iterator[dict[str, Any]]:
    """For each product what the page shows of it."""
    places = findings.aligned.groupby(["product_id", "parameter_id"]).indices
    charts = 2 * sum(row["top"] for p in report["products"] for rows in p["readings"].values() for row in rows)
    marks = min(MARKS, max(FEWEST_MARKS, MARKS_PER_PAGE // max(charts, 1)))
    for summary, product in zip(findings.products, report["products"], strict=True):
        number = product["product"]
        readings = []
        for reading, rows in product["readings"].items():
            top = []
            for row in (row for row in rows if row["top"]):
                aligned = findings.aligned.iloc[places.get((number, row["parameter"]), [])]
                top.append(
                    {
                        **row,
                        "remarks": words.remarks(row, _tied(row, rows)),
                        "charts": _charts(row, aligned, reading, marks),
                    }
                )
            readings.append({"name": reading, "rows": rows, "top": top})
        yield {"number": number, "answer": product["answer"], "summary": summary, "readings": readings}


def _charts(row: Row, aligned: pd.DataFrame, reading: str, marks: int) -> Sequence[Chart]:
    return charts_of(row, aligned, reading, marks) if len(aligned) else []


def _tied(row: Row, rows: Sequence[Row]) -> list[int]:
    """Parameters in the same tie group."""
    if row["tie_group"] is None:
        return []
    return [other["parameter"] for other in rows if other["tie_group"] == row["tie_group"] and other is not row]


def _notes(method: Mapping[str, Any]) -> list[str]:
    notes = method.get("notes") or []
    return [notes] if isinstance(notes, str) else [str(note) for note in notes]


def _settings(method: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Name and value of each setting for people; those of a group carry its name."""
    for name, value in method.items():
        if name == "notes" and not above:
            continue
        title = f"{above}: {_spoken(name)}" if above else _spoken(name).capitalize()
        if isinstance(value, Mapping):
            yield from _settings(value, title)
        else:
            yield title, _setting(value)


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_setting, value)) or numbers.UNDEFINED
    if value is None:
        return numbers.UNDEFINED
    return f"{value:,}" if isinstance(value, int) else str(value)
