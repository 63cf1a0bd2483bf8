"""The correlation report: what it says, draws and writes, from findings that are written out."""

import csv
import io
import itertools
import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from etl_assets.core.charts.pages import template
from etl_assets.core.charts.pictures import svg
from etl_assets.errors import PermanentError
from etl_assets.systems.production import report
from etl_assets.systems.production.contracts import READINGS, VERDICTS, AlignedWorkOrders, ProductCorrelations
from etl_assets.systems.production.report import (
    COLUMNS,
    Findings,
    LeftOut,
    as_csv,
    as_json,
    document,
    words,
    write_report,
)
from etl_assets.systems.production.report.charts import Chart, charts_of
from etl_assets_tests.outline import Outline
from etl_assets_tests.systems.production.findings import aligned, drifting, findings, nothing, output, row

# What the report says of its own terms.
TERMS = template(Path(str(report.__file__)).with_name("words.html.j2")).module
SVG = "{http://www.w3.org/2000/svg}"


def page_of(found: Findings, folder: Path) -> Outline:
    """The page that a report of these findings is."""
    return Outline(write_report(folder, found).html.read_text())


@pytest.fixture(scope="module")
def drifting_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a report with the shapes of real data."""
    return write_report(tmp_path_factory.mktemp("drifting"), drifting(orders=30)).html.read_text()


def said(*rows: dict[str, Any], **summary: Any) -> str:
    """The answer about a product with these rows."""
    [product] = document(findings(*rows, summary=output(**summary)))["products"]
    answer: str = product["answer"]
    return answer


def trend(parameter: int, rank: int, r: float, **values: Any) -> dict[str, Any]:
    return row(parameter, rank, r, reading="as_recorded", verdict="shared trend", tie_group=1, q=0.5, **values)


# The document


def test_a_row_has_exactly_the_fields_that_were_promised_in_their_order() -> None:
    [product] = document(findings(row(7, 1, 0.5)))["products"]
    assert list(product["readings"]["per_work_order"][0]) == [
        "rank", "parameter", "r", "ci_low", "ci_high", "rho", "n", "n_effective", "coverage", "p", "q", "stability",
        "tie_group", "verdict", "r_treated", "top",
    ]  # fmt: skip


def test_a_row_carries_the_numbers_as_they_are() -> None:
    given = row(
        19, 1, 0.1 + 0.2, ci_low=0.25, ci_high=0.4, rho=0.3, n=287, n_effective=90.5, coverage=0.75, p=1e-9, q=2e-8,
        stability=0.5, tie_group=2, verdict="supported",
    )  # fmt: skip
    [product] = document(findings(given))["products"]
    [written] = product["readings"]["per_work_order"]
    assert written == {name: given[{"parameter": "parameter_id"}.get(name, name)] for name in COLUMNS} | {"top": True}
    assert {
        name: type(value) for name, value in written.items() if name in ("rank", "parameter", "n", "tie_group")
    } == {"rank": int, "parameter": str, "n": int, "tie_group": int}


def test_rows_come_in_rank_order_and_the_first_three_are_marked() -> None:
    shuffled = [row(7, 4), row(3, 1, 0.9), row(5, 3, 0.7), row(4, 2, 0.8)]
    [product] = document(findings(*shuffled))["products"]
    written = product["readings"]["per_work_order"]
    assert [(one["rank"], one["parameter"], one["top"]) for one in written] == [
        (1, "3", True), (2, "4", True), (3, "5", True), (4, "7", False),
    ]  # fmt: skip


def test_both_readings_are_there_also_without_rows() -> None:
    [product] = document(findings())["products"]
    assert product["readings"] == {"as_recorded": [], "per_work_order": []}


@pytest.mark.parametrize("undefined", [None, math.nan, math.inf, -math.inf, pd.NA, np.float64("nan")])
def test_what_is_undefined_is_null_and_never_nan(undefined: Any) -> None:
    found = findings(row(7, 1, 0.5))
    found.correlations["r"] = pd.Series([undefined], dtype=object)
    found.correlations["tie_group"] = pd.Series([pd.NA], dtype="Int64")
    text = as_json(document(found))
    [written] = json.loads(text, parse_constant=pytest.fail)["products"][0]["readings"]["per_work_order"]
    assert (written["r"], written["tie_group"]) == (None, None)


def test_a_tie_group_that_came_as_a_float_is_an_integer() -> None:
    found = findings(row(7, 1, 0.5), row(8, 2, 0.4))
    found.correlations["tie_group"] = pd.Series([1.0, math.nan])
    [product] = document(found)["products"]
    assert [repr(one["tie_group"]) for one in product["readings"]["per_work_order"]] == ["1", "None"]


def test_nullable_columns_of_pandas_are_plain_numbers() -> None:
    found = findings(row(7, 1, 0.5, tie_group=3), row(8, 2))
    found = Findings(**{**vars(found), "correlations": found.correlations.convert_dtypes()})
    [first, second] = document(found)["products"][0]["readings"]["per_work_order"]
    assert (first["r"], first["tie_group"], second["r"], second["tie_group"]) == (0.5, 3, None, None)
    assert json.loads(as_json(document(found)))["products"][0]["readings"]["per_work_order"][0] == first


def test_settings_of_any_type_become_json() -> None:
    method = {
        "level": np.float64(0.05), "seed": np.int64(3), "maximum_age": timedelta(minutes=2), "nothing": math.nan,
        "since": datetime(2021, 6, 22, tzinfo=UTC), "notes": ("One.",), "nested": {"exact": np.bool_(True)},
    }  # fmt: skip
    assert json.loads(as_json(document(findings(method=method))))["method"] == {
        "level": 0.05, "seed": 3, "maximum_age": 120.0, "nothing": None,
        "since": "2021-06-22T00:00:00Z", "notes": ["One."], "nested": {"exact": True},
    }  # fmt: skip


def test_correlations_of_a_product_without_a_summary_are_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match="product 4 has correlations and no summary"):
        document(findings(row(7, 1, 0.5, product_id=4)))


def test_the_document_says_what_was_left_out_and_about_the_output() -> None:
    left_out = [LeftOut("readings", "arrived again", np.int64(3))]  # type: ignore[arg-type]
    written = document(findings(left_out=left_out, summary=output(resets=1, missing=4)))
    assert written["left_out"] == [{"what": "readings", "why": "arrived again", "count": 3}]
    [product] = written["products"]
    assert [product[name] for name in ("product", "work_orders", "is_counter", "resets", "decreases", "missing")] == [
        "0", 288, True, 1, 2, 4,
    ]  # fmt: skip
    assert product["first"] == "2021-06-22T16:16:14Z"


def test_the_csv_has_the_same_numbers_in_full_precision_and_empty_cells() -> None:
    written = document(findings(row(7, 1, 0.1 + 0.2), row(8, 2), row(9, 1, 1 / 3, reading="as_recorded")))
    lines = list(csv.DictReader(io.StringIO(as_csv(written))))
    assert list(lines[0]) == ["product", "reading", *COLUMNS, "top"]
    assert [(line["product"], line["reading"], line["parameter"], line["r"]) for line in lines] == [
        ("0", "as_recorded", "9", "0.3333333333333333"),
        ("0", "per_work_order", "7", "0.30000000000000004"),
        ("0", "per_work_order", "8", ""),
    ]
    assert (lines[1]["top"], lines[1]["tie_group"], lines[1]["n"]) == ("true", "", "287")


# The answer


def test_three_that_only_share_a_trend_say_nothing_about_cause() -> None:
    rows = [trend(7, 1, 0.9684), trend(3, 2, 0.9683), trend(12, 3, -0.9681), trend(1, 4, 0.967), trend(2, 5, 0.966)]
    assert said(*rows, row(9, 1, -0.26, q=0.12)) == (
        "As recorded, parameters 7, 3 and 12 go with the output most closely (|r| about 0.968), in a tie with 2 more, but all of "
        "them only share its trend, which says nothing about cause; per work order, no parameter is supported: the strongest is "
        "parameter 9 (r = −0.26), and it may be chance (q = 0.12)."
    )


def test_one_that_is_supported_is_named_with_its_interval() -> None:
    supported = row(5, 1, 0.61, ci_low=0.52, ci_high=0.69, q=0.003, verdict="supported")
    assert said(supported, row(4, 2, 0.1), is_counter=False) == (
        "Parameter 5 is supported: r = 0.61 (0.52 to 0.69), unlikely by chance (q = 0.003)."
    )


@pytest.mark.parametrize("r", [0.05, -0.05])
def test_support_that_only_shows_beneath_the_drift_is_said_to(r: float) -> None:
    hidden = row(5, 1, r, ci_low=r - 0.1, ci_high=r + 0.1, q=0.003, verdict="supported", r_treated=0.57)
    shown = f"{r:.2f}".replace("-", "−")
    assert said(hidden, is_counter=False) == (
        f"Parameter 5 is supported: r = 0.57 beneath the drift, r = {shown} with it, unlikely by chance (q = 0.003)."
    )


def test_what_ranks_first_by_its_trend_is_named_before_what_is_supported() -> None:
    trends = [row(n, n, 0.97, verdict="shared trend") for n in (1, 2, 3)]
    supported = row(8, 4, 0.41, ci_low=0.3, ci_high=0.5, q=0.003, verdict="supported")
    assert said(*trends, supported, is_counter=False) == (
        "Parameters 1, 2 and 3 go with the output most closely (|r| about 0.970) but all of them only share its trend, which says"
        " nothing about cause, while parameter 8 is supported: r = 0.41 (0.30 to 0.50), unlikely by chance (q = 0.003)."
    )


def test_one_that_is_supported_counts_also_below_the_first_three() -> None:
    rows = [row(number, number, 0.9, verdict="low coverage") for number in (1, 2, 3)]
    answer = said(*rows, row(8, 4, -0.4, q=0.0001, verdict="supported"), is_counter=False)
    assert answer == "Parameter 8 is supported: r = −0.40, unlikely by chance (q < 0.001)."


def test_of_many_that_are_supported_three_are_named_with_the_worst_q() -> None:
    rows = [row(n, n, 0.9 - n / 10, q=n / 1000, verdict="supported") for n in (1, 2, 3, 4)]
    assert said(*rows, is_counter=False) == (
        "Parameters 1 (r = 0.80), 2 (r = 0.70), 3 (r = 0.60) and 1 more are supported, unlikely by chance (q at most 0.004)."
    )


@pytest.mark.parametrize(
    ("rows", "summary", "answer"),
    [
        ([], {}, "Nothing can be said: there is no machine parameter to compare with."),
        ([], {"work_orders": 1}, "Nothing can be said: only 1 work order can be used."),
        ([row(7, 1, n=2, verdict="insufficient data")], {}, "Nothing can be said: only 2 work orders can be used."),
        (
            [row(7, 1, 1.0, n=2, verdict="insufficient data")],
            {},
            "Nothing can be said: only 2 work orders can be used.",
        ),
        ([row(7, 1, n=0, verdict="insufficient data")], {}, "Nothing can be said: no work order can be used."),
        (
            [row(7, 1, verdict="constant"), row(8, 2, verdict="constant"), row(9, 3, verdict="low coverage")],
            {},
            "Nothing can be said: the output, or every parameter, never changes.",
        ),
        (
            [row(7, 1, verdict="low coverage")],
            {},
            "Nothing can be said: the readings cover too little of the time in which work orders ran.",
        ),
        (
            [row(7, 1, 0.3, verdict="shared trend"), row(8, 2, 0.2, q=0.4)],
            {},
            "No parameter is supported: the strongest is parameter 7 (r = 0.30), and it only shares the output's trend.",
        ),
        (
            [row(7, 1, 0.97, verdict="shared trend")],
            {},
            "Parameter 7 goes with the output most closely (|r| about 0.970) but only shares its trend, which says nothing about "
            "cause.",
        ),
        (
            [row(7, 1, 0.3)],
            {},
            "No parameter is supported: the strongest is parameter 7 (r = 0.30), and it may be chance.",
        ),
    ],
)
def test_an_answer_claims_no_more_than_the_rows(rows: Any, summary: Any, answer: str) -> None:
    recorded = [{**one, "reading": "as_recorded"} for one in rows]
    assert said(*rows, is_counter=False, **summary) == answer
    assert said(*rows, *recorded, **summary) == answer, "a counter whose readings agree says it once"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (0.0, "0.00"), (-0.0028, "−0.003"), (-0.0001, "0.000"), (-0.264, "−0.26"), (0.9684, "0.968"), (0.99999, "> 0.999"),
        (-0.99999, "< −0.999"), (1.0, "1.000"), (-1.0, "−1.000"),
    ],
)  # fmt: skip
def test_a_correlation_is_never_rounded_to_one(value: float | None, text: str) -> None:
    assert words.correlation(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "< 0.001"), (0.00099, "< 0.001"), (0.0031, "0.003"), (0.12, "0.12"), (1.0, "1.00")],
)
def test_a_small_probability_has_three_decimals_and_is_never_zero(value: float | None, text: str) -> None:
    assert words.probability(value) == text


# Charts


@dataclass(frozen=True)
class Drawn:
    """A chart, and its picture read back.

    Attributes:
        panels: where the marks of each panel are, in the picture's own pixels, in their order.
        labels: of its axes and panels.
        breaks: how many parts the line of each panel has.
    """

    chart: Chart
    panels: list[list[tuple[float, float]]]
    labels: list[str]
    breaks: list[int]


def drawn(one: Chart) -> Drawn:
    """Draw a chart, and read its picture."""
    root = ElementTree.fromstring(svg(one.drawing, name="one", title=one.title, data=one.data))
    panels, breaks = [], []
    for group in root.iter(f"{SVG}g"):
        if (group.get("class") or "").startswith(("mark-line role-mark marks", "mark-line role-mark concat")):
            paths = [path.get("d") or "" for path in group.iter(f"{SVG}path")]
            panels.append([(float(x), float(y)) for d in paths for x, y in re.findall(r"[ML]([\d.-]+),([\d.-]+)", d)])
            breaks.append(sum(d.count("M") for d in paths))
    if one.kind == "scatter":
        # One line for each quarter of the time.
        panels, breaks = [list(itertools.chain(*panels))], [sum(breaks)]
    return Drawn(one, panels, [text.text or "" for text in root.iter(f"{SVG}text")], breaks)


def chart(values: Any, outputs: Any, reading: str = "per_work_order", **more: Any) -> tuple[Drawn, Drawn]:
    """Scatter and over-time chart of a parameter."""
    scatter, over_time = charts_of({"parameter": 7, "r": 0.5}, aligned(values, outputs, **more), reading)
    return drawn(scatter), drawn(over_time)


def test_a_dot_is_where_parameter_and_output_meet() -> None:
    scatter, _ = chart([1, 2, 3], [30, 20, 10])
    [[(x1, y1), (x2, y2), (x3, y3)]] = scatter.panels
    assert x1 < x2 < x3 and x2 - x1 == pytest.approx(x3 - x2, abs=0.11)
    assert y1 < y2 < y3, "a larger output is higher up"
    assert y2 - y1 == pytest.approx(y3 - y2, abs=0.11)
    assert {"Parameter 7", "Output per work order", "1.0", "3.0", "10", "30"} <= set(scatter.labels)


def test_as_recorded_draws_the_output_as_recorded() -> None:
    recorded, _ = chart([1, 2, 3], [10, 10, 10], reading="as_recorded")
    heights = [y for _, y in recorded.panels[0]]
    assert heights == sorted(heights, reverse=True) and len(set(heights)) == 3
    assert "output from 10 to 30 upwards" in recorded.chart.description


def test_work_orders_are_drawn_in_time_order_whatever_the_order_of_the_rows() -> None:
    frame = aligned([1, 2, 3, 4], [1, 2, 3, 4]).iloc[[2, 0, 3, 1]]
    _, over_time = charts_of({"parameter": 7, "r": 1.0}, frame, "per_work_order")
    for panel in drawn(over_time).panels:
        assert [x for x, _ in panel] == sorted(x for x, _ in panel)


def test_a_missing_value_breaks_the_line_and_has_no_dot() -> None:
    scatter, over_time = chart([1, math.nan, 3, 4], [1, 2, 3, math.nan])
    assert len(scatter.panels[0]) == 2
    assert over_time.breaks == [1, 2]
    assert "Where a line is broken there is no value." in over_time.chart.caption


def test_twenty_thousand_work_orders_are_at_most_eight_hundred_marks_and_the_page_says_which() -> None:
    random = np.random.default_rng(1)
    values, outputs = random.standard_normal((2, 20_000))
    values[777], outputs[12_345] = 60.0, -60.0
    scatter, over_time = chart(values, outputs)
    assert all(700 < len(panel) <= 800 for one in (scatter, over_time) for panel in one.panels)
    across = sorted(x for x, _ in scatter.panels[0])
    assert across[-1] > across[-2] + 100, "the outlier is there"
    assert re.match(r"7\d\d of 20,000 work orders are drawn: at equal distances", scatter.chart.caption)
    assert scatter.chart.description.startswith("20,000 work orders: Parameter 7 from")


def test_a_parameter_without_a_pair_has_no_chart() -> None:
    assert charts_of({"parameter": 7, "r": None}, aligned([1, math.nan], [math.nan, 2]), "per_work_order") == []
    assert charts_of({"parameter": 7, "r": None}, aligned([], []), "per_work_order") == []


def test_nullable_floats_of_pandas_are_drawn() -> None:
    frame = aligned([1, 2, 3], [1, math.nan, 3]).convert_dtypes()
    scatter, _ = charts_of({"parameter": 7, "r": None}, frame, "per_work_order")
    assert len(drawn(scatter).panels[0]) == 2
    assert scatter.description.endswith("There is no correlation to state.")


def test_values_of_any_size_stay_on_the_chart_with_short_labels() -> None:
    for values, labels in (
        ([5.0], {"5"}), ([5.0, 5.0, 5.0], {"5"}), ([0.0, 0.0], {"0"}), ([1e300, 2e300], {"Parameter 7 (× 10³⁰⁰)", "1.0", "2.0"}),
        ([-1.7e308, 1.7e308], {"Parameter 7 (× 10³⁰⁸)", "−1", "1"}), ([5e-324, 1e-323], {"lowest", "highest"}),
        ([1e-12, 3e-12], {"Parameter 7 (× 10⁻¹²)", "1.0", "3.0"}), ([1e9, 1e9 + 1e-6], {"Parameter 7 (× 10⁹)"}),
        ([123456.0000001, 123456.0000002], {"123,456"}), ([1e5, 1e5 + 1e-4], {"lowest", "highest"}),
        ([999.9, 1000.2], {"1,000.0", "1,000.2"}), ([-3, 8], {"0"}), ([0, 5729.3], {"0", "4,000"}),
        ([8.5, 31.0], {"10", "30"}), ([1e-5, 1e5], {"0", "100,000"}), ([-1e-3, 0], {"0.0000", "−0.0010"}),
    ):  # fmt: skip
        for one in chart(values, values[::-1]):
            assert labels <= set(one.labels), (values, one.chart.kind, one.labels)
            assert all(len(label) <= 9 for label in one.labels if not re.match("Param|Output|UTC", label)), one.labels
            for panel in one.panels:
                assert panel and all(0 <= x <= 350 and 0 <= y <= 296 for x, y in panel), (values, panel)


def test_time_is_labelled_in_steps_that_people_use() -> None:
    for span, labels in (
        (None, {"16:00", "UTC, 22 Jun 2021"}),
        (timedelta(milliseconds=1), {"UTC, 22 Jun 2021"}),
        (timedelta(minutes=3), {"16:17", "16:18", "UTC, 22 Jun 2021"}),
        (timedelta(hours=9), {"18:00", "23 Jun", "UTC, 2021"}),
        (timedelta(days=16.6), {"27 Jun", "4 Jul", "UTC, 2021"}),
        (timedelta(days=100), {"Jul 2021", "Sep 2021", "UTC, 2021"}),
        (timedelta(days=1500), {"2022", "2024", "UTC, 2021–2025"}),
        (timedelta(days=36500), {"2040", "2100", "UTC, 2021–2121"}),
    ):
        frame = aligned([1, 2], [1, 2], every_s=span.total_seconds()) if span else aligned([1], [1])
        _, over_time = charts_of({"parameter": 7, "r": None}, frame, "per_work_order")
        assert labels <= set(drawn(over_time).labels), (span, drawn(over_time).labels)


# The page


def test_the_page_answers_first_and_then_shows_the_rows_of_both_readings(drifting_page: str) -> None:
    outline = Outline(drifting_page)
    answers = [product["answer"] for product in document(drifting(orders=30))["products"]]
    where = [outline.text.index(answer) for answer in answers]
    assert where == sorted(where) and where[-1] < outline.text.index("As recorded The output")
    assert (outline.count("figure", "scatter"), outline.count("figure", "over-time")) == (12, 12)
    assert outline.count("details", "ranking") == 4
    assert outline.count("tr", "top") == 12
    assert outline.text.count("Per work order") >= 2
    assert outline.text.index("What was left out") < outline.text.index("Method") < outline.text.index("The verdicts")


def test_the_page_is_whole_html_without_script_or_anything_to_fetch(drifting_page: str) -> None:
    outline, text = Outline(drifting_page), drifting_page
    assert text.startswith('<!DOCTYPE html>\n<html lang="en">')
    names = {name for name, _ in outline.tags}
    assert not names & {"script", "img", "iframe", "object", "embed", "video", "use", "image"}
    addresses = [given[key] for _, given in outline.tags for key in ("href", "src") if key in given]
    assert all(address and address.startswith(("#", "data:")) for address in addresses)
    assert "url(" not in text and "@import" not in text
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in [
        given for _, given in outline.tags
    ]


def test_what_refers_to_a_part_of_the_page_finds_it_and_every_chart_has_words(drifting_page: str) -> None:
    tags = Outline(drifting_page).tags
    ids = [given["id"] for _, given in tags if "id" in given]
    assert len(ids) == len(set(ids))
    links = [(given["href"] or "")[1:] for name, given in tags if name == "a"]
    labels = [part for _, given in tags for part in (given.get("aria-labelledby") or "").split()]
    assert {*links, *labels} <= set(ids)
    drawings = [given for name, given in tags if name == "svg" and "aria-hidden" not in given]
    assert len(drawings) == 24 and all(given["role"] == "img" and given["aria-labelledby"] for given in drawings)
    levels = [int(name[1]) for name, _ in tags if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1 and all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_a_verdict_is_a_word_and_a_symbol_of_its_own(tmp_path: Path) -> None:
    rows = [row(number, number, verdict=verdict) for number, verdict in enumerate(VERDICTS, 1)]
    text = page_of(findings(*rows), tmp_path).text
    assert len(set(TERMS.SYMBOLS.values())) == len(VERDICTS)
    for verdict in VERDICTS:
        assert f"{TERMS.SYMBOLS[verdict]}{verdict}" in text


def test_every_column_every_verdict_and_every_reading_is_explained(tmp_path: Path) -> None:
    assert tuple(TERMS.VERDICT_SAYS) == VERDICTS
    assert set(TERMS.READING_SAYS) == {(reading, counter) for reading in READINGS for counter in (True, False)}
    text = page_of(findings(), tmp_path).text
    assert set(TERMS.TITLES) == set(TERMS.COLUMN_SAYS) == set(COLUMNS)
    for name in COLUMNS:
        described = ProductCorrelations.columns[{"parameter": "parameter_id"}.get(name, name)].description
        assert f"{TERMS.TITLES[name]}{described}. {TERMS.COLUMN_SAYS[name]}" in text
    assert all(says in text for says in TERMS.VERDICT_SAYS.values())


def test_a_row_says_what_remains_of_r_and_how_many_it_is_tied_with(tmp_path: Path) -> None:
    rows = [row(7, 1, 0.9, tie_group=1, r_treated=0.03, treatment="detrended", q=0.7), row(8, 2, 0.8, tie_group=1)]
    text = page_of(findings(*rows), tmp_path).text
    assert "With drift and memory taken out, r = 0.03." in text
    assert "It may be chance: q = 0.70." in text
    assert text.count("Cannot be told apart from 1 other parameter.") == 2


@pytest.mark.parametrize("is_counter", [True, False])
def test_the_page_says_whether_the_output_is_a_counter(is_counter: bool, tmp_path: Path) -> None:
    summary = output(is_counter=is_counter, resets=1, decreases=2, missing=3)
    text = page_of(findings(row(7, 1, 0.5), summary=summary), tmp_path).text
    assert ("recorded as a running counter, with 2 decreases and 1 reset." in text) == is_counter
    assert ("both readings are the same" in text) != is_counter
    assert "3 work orders have no number as output." in text


def test_without_any_product_the_page_says_so(tmp_path: Path) -> None:
    outline = page_of(nothing(), tmp_path)
    assert "There is no work order, so there is no product to report on." in outline.text
    assert "Nothing was left out." in outline.text
    assert json.loads((tmp_path / "latest.json").read_text())["products"] == []
    assert (tmp_path / "latest.csv").read_text().count("\n") == 1


def test_a_product_without_parameters_says_so_in_both_readings(tmp_path: Path) -> None:
    outline = page_of(findings(), tmp_path)
    assert outline.text.count("There is no parameter to compare with.") == 2
    assert outline.count("figure") == 0


def test_one_parameter_has_one_row_with_its_charts(tmp_path: Path) -> None:
    outline = page_of(findings(row(7, 1, 0.5), aligned=aligned([1, 2, 3], [1, 2, 1])), tmp_path)
    assert (outline.count("figure"), outline.count("tr", "top")) == (2, 1)
    assert "The only parameter, with all its numbers" in outline.text


def test_rows_without_r_are_shown_with_dashes_and_still_drawn(tmp_path: Path) -> None:
    rows = [row(number, number, n=3, verdict="constant") for number in (1, 2, 3)]
    outline = page_of(findings(*rows, aligned=aligned([5, 5, 5], [1, 2, 1], parameter=1)), tmp_path)
    assert outline.text.count("r = –95 % interval: –") == 3
    assert outline.count("figure") == 2
    assert outline.text.count("Nothing to draw") == 2


def test_hostile_text_is_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'&"
    found = findings(
        source=evil,
        run_id=evil,
        method={"notes": [evil], evil: evil, "nested": {"inner": evil}},
        left_out=[LeftOut(evil, evil, 1)],
    )
    files = write_report(tmp_path, found)
    outline = Outline(files.html.read_text())
    assert outline.count("script") == 0
    assert outline.text.count("<script>alert(1)</script>") == 8
    assert json.loads(files.json.read_text())["run_id"] == evil


def test_many_products_share_the_marks_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MARKS_PER_PAGE", 1000)
    rows = [row(7, 1, 0.5, reading=reading) for reading in READINGS]
    text = page_of(findings(*rows, aligned=aligned(range(900), range(900))), tmp_path).text
    assert re.search(r"2\d\d of 900 work orders are drawn", text)


# Files


def test_a_report_is_six_files_of_which_the_latest_equal_those_of_the_run(tmp_path: Path) -> None:
    files = write_report(tmp_path / "new" / "folder", findings(row(7, 1, 0.5), run_id="run-1"))
    assert files.html == tmp_path / "new" / "folder" / "run-1" / "report.html"
    assert files.latest_json == tmp_path / "new" / "folder" / "latest.json"
    for kind in ("html", "csv", "json"):
        assert getattr(files, kind).read_bytes() == getattr(files, f"latest_{kind}").read_bytes() != b""


def test_a_later_run_replaces_the_latest_and_leaves_the_earlier_run(tmp_path: Path) -> None:
    first = write_report(tmp_path, findings(run_id="run-1"))
    second = write_report(tmp_path, findings(run_id="run-2"))
    assert json.loads(first.json.read_text())["run_id"] == "run-1"
    assert json.loads(second.latest_json.read_text())["run_id"] == "run-2"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "latest.csv", "latest.html", "latest.json", "run-1", "run-2",
    ]  # fmt: skip


@pytest.mark.parametrize("broken", ["report.html", "report.csv", "report.json"])
def test_a_run_that_cannot_be_written_leaves_the_latest_as_it_was(broken: str, tmp_path: Path) -> None:
    write_report(tmp_path, findings(run_id="run-1"))
    before = {path: path.read_bytes() for path in tmp_path.glob("latest.*")}
    (tmp_path / "run-2" / broken / "in the way").mkdir(parents=True)
    with pytest.raises(PermanentError, match=re.escape(f"cannot write {tmp_path / 'run-2' / broken} (Is a directory)")):
        write_report(tmp_path, findings(row(7, 1, 0.5), run_id="run-2"))
    assert {path: path.read_bytes() for path in tmp_path.glob("latest.*")} == before
    assert list(tmp_path.rglob("*.tmp")) == []


def test_a_file_is_written_aside_and_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bool, int]] = []
    rename = Path.replace

    def watched(self: Path, target: Path) -> Path:
        seen.append((target.name, target.exists(), self.stat().st_size))
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    write_report(tmp_path, findings(run_id="run-1"))
    assert [name for name, _, _ in seen] == [
        "report.html", "report.csv", "report.json", "latest.html", "latest.csv", "latest.json",
    ]  # fmt: skip
    assert not any(exists for _, exists, _ in seen)
    assert [size for _, _, size in seen[:3]] == [size for _, _, size in seen[3:]]


@pytest.mark.parametrize(
    "run_id",
    [
        "",
        ".",
        "..",
        "../../etc/passwd",
        "/absolute",
        "latest.html",
        "a b",
        "a/b",
        "ü" * 300,
        "a\0b",
        "x" * 300,
        "C:\\x",
    ],
)
def test_a_run_of_any_name_stays_in_the_folder_and_apart_from_others(run_id: str, tmp_path: Path) -> None:
    folder = tmp_path / "reports"
    files = write_report(folder, findings(run_id=run_id))
    assert files.html.resolve().parent.parent == folder.resolve()
    assert files.html.parent.name not in ("", ".", "..", "latest.html")
    assert [path.name for path in tmp_path.iterdir()] == ["reports"]
    assert files.html.parent != write_report(folder, findings(run_id=f"{run_id}!")).html.parent
    assert json.loads(files.json.read_text())["run_id"] == run_id


def test_the_findings_of_these_tests_have_the_columns_of_the_contracts() -> None:
    found = drifting(orders=12)
    assert list(found.correlations.columns) == list(ProductCorrelations.columns)
    assert list(found.aligned.columns) == list(AlignedWorkOrders.columns)
