"""What the report says about its own terms: every reading, verdict and column in a sentence for people who run the plant."""

from collections.abc import Mapping
from typing import Any

from etl_assets.core.charts.numbers import counted
from etl_assets.systems.production.contracts import ProductCorrelations
from etl_assets.systems.production.report.document import COLUMNS, NAMES
from etl_assets.systems.production.report.numbers import compared, correlation, is_unbounded, probability

READING_NAMES = {"as_recorded": "As recorded", "per_work_order": "Per work order"}
# By reading and by whether the output is a running counter.
READING_SAYS = {
    (
        "as_recorded",
        True,
    ): "The output as the source has it: a running counter, which hardly ever falls. Whatever else drifts "
    "over the same weeks goes with it, be it connected or not.",
    (
        "per_work_order",
        True,
    ): "What each work order added to the counter. The drift of the counter is gone, so this is the "
    "reading to look at for what helps or harms production.",
    ("as_recorded", False): "The output as the source has it: one amount for each work order, not a running counter.",
    (
        "per_work_order",
        False,
    ): "The output is no running counter: what is recorded is the output of each work order already, "
    "and both readings are the same.",
}
SYMBOLS = {
    "supported": "✓",
    "shared trend": "⇈",
    "not significant": "○",
    "insufficient data": "…",
    "constant": "=",
    "low coverage": "◔",
}
VERDICT_SAYS = {
    "insufficient data": "Fewer than ten work orders can be used: whatever r is, it says nothing.",
    "constant": "The parameter or the output never changes, so there is nothing to go with.",
    "low coverage": "For too much of the time in which work orders ran there is no reading that is recent enough.",
    "shared trend": "r looks strong because both drift over time; with the drift taken out nothing is left that chance would not "
    "do as well. It is no sign of cause.",
    "not significant": "An r of this size also turns up by chance, once the memory of the series and the number of parameters "
    "that were tried are taken into account.",
    "supported": "The relation stays when drift is taken out, and is unlikely by chance among all the parameters that were tried. "
    "It is worth an experiment; a correlation alone never proves a cause.",
}
TITLES = {
    "rank": "Rank",
    "parameter": "Parameter",
    "r": "r",
    "ci_low": "Interval, low",
    "ci_high": "Interval, high",
    "rho": "ρ",
    "n": "n",
    "n_effective": "Effective n",
    "coverage": "Coverage",
    "p": "p",
    "q": "q",
    "stability": "In first three",
    "tie_group": "Tie",
    "verdict": "Verdict",
    "r_treated": "r beneath",
}
# How to read a column; what it is stands in the contract.
COLUMN_SAYS = {
    "rank": "The first three are shown with charts. A rank is an order, not a finding.",
    "parameter": "The same number as in the machine data.",
    "r": "+1: both rise and fall in step; 0: no straight-line relation; −1: one rises as the other falls.",
    "ci_low": "If the interval holds 0, even the direction is open. It is about r as it stands; p, q and the verdict are about what "
    "is left of r with drift and memory taken out.",
    "ci_high": "A wide interval means little information.",
    "rho": "As r, but blind to outliers and to bends: far from r, a few points or a curve make the difference.",
    "n": "Few work orders make large r by chance.",
    "n_effective": "Far below n, neighbouring work orders say nearly the same thing again.",
    "coverage": "1 or 100 %: readings all the time.",
    "p": "Small: rarely seen by chance.",
    "q": "The one to decide by: small means unlikely by chance even among so many parameters.",
    "stability": "Near 100 %: the same parameter would lead in other weeks of the same kind.",
    "tie_group": "Within a group the order is arbitrary.",
    "verdict": "See the verdicts.",
    "r_treated": "What is left of r when drift and memory are taken out of output and parameter.",
}


def columns() -> list[tuple[str, str, str]]:
    """Title, meaning and reading aid of every column; the meaning is the contract's."""
    sources = {name: source for source, name in NAMES.items()}
    described = ProductCorrelations.columns
    return [(TITLES[name], described[sources.get(name, name)].description, COLUMN_SAYS[name]) for name in COLUMNS]


def remarks(row: Mapping[str, Any], others: list[int]) -> list[str]:
    """What must be known about one row beside its numbers.

    Args:
        row: of the document.
        others: parameters that it is tied with, in rank order.
    """
    said = []
    if row["r"] is not None and is_unbounded(row["ci_low"], row["ci_high"]):
        said.append("Too few independent work orders: r could be anything.")
    if row["r_treated"] is not None:
        said.append(f"With drift and memory taken out, {compared('r', correlation(row['r_treated']))}.")
    if row["verdict"] == "not significant" and row["q"] is not None:
        said.append(f"It may be chance: {compared('q', probability(row['q']))}.")
    if row["verdict"] == "supported" and row["q"] is not None:
        said.append(f"Unlikely by chance: {compared('q', probability(row['q']))}.")
    if row["verdict"] == "insufficient data":
        said.append(f"Only {counted(row['n'], 'work order')} can be used.")
    if others:
        said.append(f"Cannot be told apart from {counted(len(others), 'other parameter')}.")
    return said
