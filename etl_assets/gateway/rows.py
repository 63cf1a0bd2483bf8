"""Rows of a table as answers have them: each column of the contract a field, described as there."""

from typing import Any

from pydantic import Field

from etl_assets.core.contracts import Column
from etl_assets.core.contracts.contract import KINDS

PYTHON_TYPES: dict[Any, type] = {kind: python for python, kind in KINDS.items()}


def described(column: Column) -> str:
    """What a column means, with its unit."""
    return f"{column.description} [{column.unit}]" if column.unit else column.description


def field_of(column: Column) -> tuple[Any, Any]:
    """A column as a field for `pydantic.create_model`."""
    python = PYTHON_TYPES[column.kind]
    field = Field(description=described(column), ge=column.ge, le=column.le)
    return (python | None if column.nullable else python, field)
