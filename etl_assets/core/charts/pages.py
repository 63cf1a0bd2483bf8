"""Templates of pages; `style.css` is what they have in common, a page includes it in its own style."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from etl_assets.core.charts.theme import palette

# What XML has no place for, and marks that turn the direction of the text behind them.
UNPRINTABLE = re.compile(
    "[^\\t\\n\\r\\x20-\\x7e\\xa0-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]|[\\u202a-\\u202e\\u2066-\\u2069]"
)


def printable(text: str) -> str:
    """A name from outside, with a replacement character for each that a page or a drawing cannot hold."""
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def template(path: Path, *filters: Callable[..., Any]) -> Any:
    """A template that escapes whatever it writes and fails on a name that it is not given.

    Args:
        path: of the template; it may include those beside it and those of this package.
        filters: functions that it calls by their names.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([path.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["palette"] = palette()
    environment.filters.update({function.__name__: function for function in filters})
    return environment.get_template(path.name)
