"""Templates of pages; `style.css` is what they have in common, a page includes it in its own style."""

from collections.abc import Callable
from pathlib import Path
from typing import Any


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
    environment.filters.update({function.__name__: function for function in filters})
    return environment.get_template(path.name)
