"""Numbers and short lists as pages say them to people; what is undefined is a dash."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

UNDEFINED = "–"
MINUS = "\N{MINUS SIGN}"


def share(value: float | None) -> str:
    """A share as per cent; 100 % and 0 % only where it is all or nothing."""
    if value is None:
        return UNDEFINED
    if 0 < value < 0.01:
        return "< 1 %"
    if 0.99 < value < 1:
        return "> 99 %"
    return f"{value * 100:.0f} %"


def amount(value: float | None) -> str:
    """A count; one that is no whole number has a decimal below ten."""
    if value is None:
        return UNDEFINED
    return f"{value:,.1f}" if value < 10 and value != int(value) else f"{value:,.0f}"


def counted(count: int, one: str, many: str | None = None) -> str:
    """`1 reset`, `2 resets`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def quantity(value: float) -> str:
    """A value of a parameter or an output, in four significant digits."""
    size = abs(value)
    if size != 0 and not 1e-3 <= size < 1e6:
        digits, exponent = f"{size:.2e}".split("e")
        text = f"{digits} × 10{raised(int(exponent))}"
    else:
        decimals = 0 if size == 0 else max(0, 3 - math.floor(math.log10(size)))
        text = f"{size:,.{decimals}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    return MINUS + text if value < 0 else text


def raised(exponent: int) -> str:
    """A power in superscript."""
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def instant(value: datetime) -> str:
    """An instant to the minute, in UTC."""
    return f"{value.astimezone(UTC):%d %b %Y, %H:%M} UTC".removeprefix("0")


def listed(names: Sequence[str | int], *, limit: int | None = None) -> str:
    """`7`, `7 and 3`, `7, 3 and 12`, `7, 3, 12 and 4 more`."""
    texts = [str(name) for name in names]
    if limit is not None and len(texts) > limit:
        texts = [*texts[:limit], f"{len(texts) - limit:,} more"]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
