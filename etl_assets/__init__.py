"""A Dagster asset platform for operational data.

`dagster … -m etl_assets` finds the definitions here as `defs`. They are made when somebody asks for them, so that importing any other part of
the package (a transform, a script) does not import Dagster.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "defs":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from etl_assets.definitions import defs

    return defs


def __dir__() -> list[str]:
    return [*globals(), "defs"]
