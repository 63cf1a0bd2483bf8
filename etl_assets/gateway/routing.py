"""What routers are made of: the app's Dagster and database, checked parameters, columns as fields, answers in fixed words."""

from collections.abc import Mapping
from typing import Annotated, Any, get_origin

from fastapi import Depends, Request
from fastapi.responses import JSONResponse
from pydantic import Field

from etl_assets.core.contracts import Column
from etl_assets.core.contracts.contract import KINDS
from etl_assets.gateway.orchestrator import Orchestrator
from etl_assets.gateway.problems import answer_documented, unfit
from etl_assets.gateway.store import Store
from etl_assets.settings import Settings

# How much an answer quotes of unknown parameters.
LONGEST_NAME, MOST_NAMES = 100, 20
PYTHON_TYPES: dict[Any, type] = {kind: python for python, kind in KINDS.items()}
JSON_TYPES = {str: "string", bool: "boolean"}

Words = Mapping[str, str | bool]


def _state(name: str) -> Any:
    """A dependency on what the app was made with."""

    def given(request: Request) -> Any:
        return getattr(request.app.state, name)

    return Depends(given)


Dagster = Annotated[Orchestrator, _state("orchestrator")]
Data = Annotated[Store, _state("store")]
Configured = Annotated[Settings, _state("settings")]


def only_known_parameters(request: Request) -> None:
    """Refuse a parameter that the call does not have, or that is given twice: a misspelt `as_of` must not give another day.

    Raises:
        Problem: 422, with the names that there are, or those that are given twice.
    """
    parameters = request.scope["route"].dependant.query_params
    known = [parameter.alias for parameter in parameters]
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        reason = f"there is no such parameter: {', '.join(known) or 'none'} can be given"
        raise unfit(*((f"query.{name[:LONGEST_NAME]}", reason) for name in unknown[:MOST_NAMES]))
    single = [each.alias for each in parameters if get_origin(each.field_info.annotation) is not list]
    twice = [name for name in single if len(request.query_params.getlist(name)) > 1]
    if twice:
        raise unfit(*((f"query.{name}", "is given more than once: give it once") for name in twice))


def described(column: Column) -> str:
    """What a column means, with its unit."""
    return f"{column.description} [{column.unit}]" if column.unit else column.description


def field_of(column: Column) -> tuple[Any, Any]:
    """A column as a field for `pydantic.create_model`."""
    python = PYTHON_TYPES[column.kind]
    field = Field(description=described(column), ge=column.ge, le=column.le)
    return (python | None if column.nullable else python, field)


def words_documented(*answers: Words, description: str) -> dict[str, Any]:
    """A documented answer that is one of a few.

    Args:
        answers: have the same names, one of which is `message`.
    """
    values = {name: list(dict.fromkeys(answer[name] for answer in answers)) for name in answers[0]}
    schema = {
        "type": "object",
        "properties": {name: {"type": JSON_TYPES[type(of[0])], "enum": of} for name, of in values.items()},
        "required": list(values),
        "additionalProperties": False,
    }
    return answer_documented(description, {str(answer["message"]): dict(answer) for answer in answers}, schema)


def words_response(answer: Words, status: int = 200) -> JSONResponse:
    """One of these answers."""
    # An answer to a GET might be kept by what lies between, and the next one never reach us.
    return JSONResponse(dict(answer), status, headers={"Cache-Control": "no-store"})
