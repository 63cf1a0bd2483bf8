"""Correlations and probabilities as the report says them to people; what is undefined is a dash."""

from etl_assets.core.charts.numbers import MINUS, UNDEFINED

# From here on two decimals would round to 1.
FINE = 0.95


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
