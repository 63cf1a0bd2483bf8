"""What the report says in words about a product and about a row, for people who run the plant; its terms are in `words.html.j2`.

No sentence claims more than its rows do; a correlation is never rounded to one, a probability never to zero.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from etl_assets.core.charts.numbers import MINUS, UNDEFINED, counted, listed
from etl_assets.systems.production.statistics import OutputSummary

# From here on two decimals would round to 1.
FINE = 0.95
NAMED = 3
# Why nothing can be measured, by the verdict that most rows have.
UNMEASURED = {
    "constant": "the output, or every parameter, never changes",
    "low coverage": "the readings cover too little of the time in which work orders ran",
}


def correlation(value: float | None) -> str:
    """A correlation: two decimals, three near ±1 and near 0, and never ±1 unless it is.

    >>> correlation(-0.264), correlation(0.9684), correlation(0.99999)
    ('−0.26', '0.968', '> 0.999')
    """
    if value is None:
        return UNDEFINED
    size = abs(value)
    sign = MINUS if value < 0 else ""
    if 0.9995 <= size < 1:
        return f"{'<' if value < 0 else '>'} {sign}0.999"
    text = f"{size:.3f}" if size >= FINE or 0 < size < 0.01 else f"{size:.2f}"
    return text if float(text) == 0 else sign + text


def interval(low: float | None, high: float | None) -> str:
    """An interval of a correlation."""
    if low is None or high is None:
        return UNDEFINED
    return f"{MINUS}1 to 1" if is_unbounded(low, high) else f"{correlation(low)} to {correlation(high)}"


def is_unbounded(low: float | None, high: float | None) -> bool:
    """Whether an interval leaves every correlation possible."""
    return low is not None and high is not None and low < -FINE and high > FINE


def probability(value: float | None) -> str:
    """A probability: three decimals where it is small, else two; below a thousandth only that."""
    if value is None:
        return UNDEFINED
    if value < 0.001:
        return "< 0.001"
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def compared(name: str, text: str) -> str:
    """`q = 0.12`, or `q < 0.001` where the text begins with its own sign."""
    return f"{name} {text}" if text[:1] in "<>" else f"{name} = {text}"


def answer(product: OutputSummary, readings: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The answer for a product in one sentence, without its name.

    For a running counter both readings have their say; else they are the same.

    Args:
        product: what is known of its output.
        readings: rows of the document in rank order, by reading.
    """
    recorded, per_order = (_clause(product, readings[reading]) for reading in ("as_recorded", "per_work_order"))
    if not product.is_counter or recorded == per_order:
        return f"{per_order[0].upper()}{per_order[1:]}."
    return f"As recorded, {recorded}; per work order, {per_order}."


def _clause(product: OutputSummary, rows: Sequence[Mapping[str, Any]]) -> str:
    """What one reading says, as a clause."""
    measured = [row for row in rows if row["r"] is not None]
    supported = [row for row in measured if row["verdict"] == "supported"]
    if not measured:
        return f"nothing can be said: {_obstacle(product, rows)}"
    top = measured[:NAMED]
    if supported and all(row["verdict"] == "shared trend" for row in top):
        return f"{_trend(top, rows)}, while {_support(supported)}"
    if supported:
        return _support(supported)
    if all(row["verdict"] == "insufficient data" for row in top):
        return f"nothing can be said: {_too_few(max(row['n'] for row in rows))}"
    if all(row["verdict"] == "shared trend" for row in top):
        return _trend(top, rows)
    return _unsupported(top[0])


def _obstacle(product: OutputSummary, rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return (
            "there is no machine parameter to compare with"
            if product.work_orders > 1
            else _too_few(product.work_orders)
        )
    verdicts = [row["verdict"] for row in rows]
    # Of two that are as frequent the one that ranks first.
    usual = max(dict.fromkeys(verdicts), key=verdicts.count)
    return UNMEASURED.get(usual) or _too_few(max(row["n"] for row in rows))


def _too_few(n: int) -> str:
    return f"only {counted(n, 'work order')} can be used" if n else "no work order can be used"


def _support(rows: Sequence[Mapping[str, Any]]) -> str:
    if len(rows) == 1:
        [row] = rows
        return (
            f"parameter {row['parameter']} is supported: {_strength(row)}, "
            f"unlikely by chance ({compared('q', probability(row['q']))})"
        )
    described = [f"{row['parameter']} ({_strength(row, brief=True)})" for row in rows]
    worst = max((row["q"] for row in rows if row["q"] is not None), default=None)
    chance = "" if worst is None else f" (q at most {probability(worst).removeprefix('< ')})"
    return f"parameters {listed(described, limit=NAMED)} are supported, unlikely by chance{chance}"


def _strength(row: Mapping[str, Any], *, brief: bool = False) -> str:
    """r with its interval; r beneath the drift where that is what the support rests on."""
    low, high, treated = row["ci_low"], row["ci_high"], row["r_treated"]
    whole = compared("r", correlation(row["r"]))
    if treated is not None and low is not None and (low <= 0 <= high or treated * row["r"] < 0):
        beneath = f"{compared('r', correlation(treated))} beneath the drift"
        return beneath if brief else f"{beneath}, {whole} with it"
    return whole if brief or low is None else f"{whole} ({interval(low, high)})"


def _trend(top: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> str:
    names = [row["parameter"] for row in top]
    groups = {row["tie_group"] for row in top} - {None}
    tied = [row for row in rows if row["tie_group"] in groups and row["parameter"] not in names]
    among = f", in a tie with {len(tied):,} more," if tied else ""
    size = correlation(max(abs(row["r"]) for row in top))
    subject, share = f"parameters {listed(names)} go", f"{'both' if len(top) == 2 else 'all of them'} only share"
    if len(top) == 1:
        subject, share = f"parameter {names[0]} goes", "only shares"
    return (
        f"{subject} with the output most closely (|r| about {size}){among} but {share} its trend,"
        " which says nothing about cause"
    )


def _unsupported(first: Mapping[str, Any]) -> str:
    named = f"the strongest is parameter {first['parameter']} ({compared('r', correlation(first['r']))})"
    reasons = {
        "shared trend": "it only shares the output's trend",
        "low coverage": "readings cover too little of the work orders' time",
        "insufficient data": f"only {counted(first['n'], 'work order')} can be used for it",
    }
    chance = (
        "it may be chance" if first["q"] is None else f"it may be chance ({compared('q', probability(first['q']))})"
    )
    return f"no parameter is supported: {named}, and {reasons.get(first['verdict'], chance)}"


def remarks(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What must be known about one row beside its numbers.

    Args:
        row: of the document.
        rows: all rows of its reading.
    """
    found = []
    if row["r"] is not None and is_unbounded(row["ci_low"], row["ci_high"]):
        found.append("Too few independent work orders: r could be anything.")
    if row["r_treated"] is not None:
        found.append(f"With drift and memory taken out, {compared('r', correlation(row['r_treated']))}.")
    if row["verdict"] == "not significant" and row["q"] is not None:
        found.append(f"It may be chance: {compared('q', probability(row['q']))}.")
    if row["verdict"] == "supported" and row["q"] is not None:
        found.append(f"Unlikely by chance: {compared('q', probability(row['q']))}.")
    if row["verdict"] == "insufficient data":
        found.append(f"Only {counted(row['n'], 'work order')} can be used.")
    tied = sum(row["tie_group"] is not None and other["tie_group"] == row["tie_group"] for other in rows)
    if tied > 1:
        found.append(f"Cannot be told apart from {counted(tied - 1, 'other parameter')}.")
    return found
