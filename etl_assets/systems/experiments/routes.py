"""The calls of the experiments system: the trigger and the checks of the original exercise, and the features, in pages.

The trigger and the checks answer `{"message": …}` with fixed sentences; what they cannot answer at all, and everything that
goes wrong with the other calls, is a problem.
"""

import re
from datetime import date
from typing import Annotated, Any
from urllib.parse import urlencode

import psycopg
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse
from psycopg import sql
from psycopg.rows import dict_row
from pydantic import BaseModel, BeforeValidator, Field, create_model

from etl_assets.core.contracts import Column
from etl_assets.gateway.problems import Problem, documented, unexpected, unfit
from etl_assets.gateway.routing import (
    Configured,
    Dagster,
    Data,
    Words,
    described,
    field_of,
    only_known_parameters,
    words_documented,
    words_response,
)
from etl_assets.gateway.store import STORE_DOWN
from etl_assets.gateway.triggers import Outcome, Trigger, TriggerCall
from etl_assets.systems.experiments.contracts import CONTRACTS, UserFeatures

TRIGGER = TriggerCall(
    Trigger(name="experiments", job="experiments_job"),
    answers={
        Outcome.TAKEN: {"message": "ETL process started"},
        Outcome.TOO_FREQUENT: {"message": "Trigger the API frequently, please try again later."},
        Outcome.LOADING: {"message": "Dag is loading, please try again later."},
    },
    started="A run of the experiments for the present day (UTC) was started",
)

TABLES_THERE, TABLES_MISSING = {"message": "Table created"}, {"message": "Table creation failed"}
FEATURES_THERE = {"message": "Feature Derivation inserted"}
FEATURES_MISSING = {"message": "Feature Derivation insert failed"}

LARGEST_ID = 2**63 - 1
LARGEST_PAGE = 1000
FEATURES = sql.Identifier(*UserFeatures.config.table.split("."))

router = APIRouter(tags=["experiments"])


# --- the trigger


@router.get(
    "/trigger-etl", operation_id="trigger_etl_get", responses=TRIGGER.responses, summary="Start the ETL process"
)
@router.post("/trigger-etl", operation_id="trigger_etl", responses=TRIGGER.responses, summary="Start the ETL process")
async def trigger_etl(dagster: Dagster, store: Data, settings: Configured) -> JSONResponse:
    """Start a run of the experiments for the present day, at most one at a time and not too often.

    `GET` does the same as `POST`, as the original exercise has it.
    """
    return await TRIGGER.answer(dagster, store, settings)


# --- the checks


def _checked(there: Words, missing: Words, *, yes: str, no: str) -> dict[int | str, dict[str, Any]]:
    """What a check answers; a failed one has the status of a gateway that has failed itself."""
    answers = documented(unexpected(), STORE_DOWN)
    answers[500]["description"] = f"{no}; or the gateway has failed, which is a problem"
    answers[500]["content"] |= words_documented(missing, description=no)["content"]
    return {200: words_documented(there, description=yes), **answers}


@router.get(
    "/check/table",
    responses=_checked(
        TABLES_THERE, TABLES_MISSING, yes="All tables of the experiments are there", no="At least one is not"
    ),
    summary="Whether the tables are there",
)
async def check_table(store: Data) -> JSONResponse:
    """Look whether all tables of the experiments system exist."""
    tables = [contract.config.table for contract in CONTRACTS]
    async with store.connection(at_head=False) as connection:
        cursor = await connection.execute(
            "SELECT bool_and(to_regclass(t) IS NOT NULL) FROM unnest(%s::text[]) AS t", (tables,)
        )
        complete = await cursor.fetchone() == (True,)
    return words_response(TABLES_THERE) if complete else words_response(TABLES_MISSING, 500)


@router.get(
    "/check/feature_derivation",
    responses=_checked(
        FEATURES_THERE, FEATURES_MISSING, yes="Features of at least one user and day are stored", no="None are"
    ),
    summary="Whether features were derived",
)
async def check_feature_derivation(store: Data) -> JSONResponse:
    """Look whether features were derived for any day."""
    query = sql.SQL("SELECT EXISTS (SELECT FROM {})").format(FEATURES)
    async with store.connection(at_head=False) as connection:
        try:
            derived = await (await connection.execute(query)).fetchone() == (True,)
        except psycopg.errors.UndefinedTable:
            derived = False
    return words_response(FEATURES_THERE) if derived else words_response(FEATURES_MISSING, 500)


# --- the features


def _field(column: Column) -> tuple[Any, Any]:
    if column.name == "most_common_compounds":
        return (list[int], Field(description=f"{described(column)}. Here as a list, empty where the table has NULL"))
    return field_of(column)


COLUMNS = tuple(column for column in UserFeatures.columns.values() if column.name != "as_of")
fields: Any = {column.name: _field(column) for column in COLUMNS}
Features = create_model("Features", __doc__="What is known of a user.", **fields)

EXAMPLE = {
    "as_of": "2023-12-31",
    "users": [
        {
            "user_id": 1,
            "experiments_count": 2,
            "total_run_time": 25.0,
            "mean_run_time": 12.5,
            "days_since_signup": 364,
            "signup_in_future": False,
            "most_common_compounds": [2],
            "most_common_compounds_count": 2,
        }
    ],
    "next": "/v1/features/users?as_of=2023-12-31&limit=1&after=1",
}


class FeaturesPage(BaseModel):
    """Features of some users, in the order of their ids."""

    as_of: date = Field(description=UserFeatures.columns["as_of"].description)
    users: list[Features] = Field(description="One per user, also without an experiment")  # type: ignore[valid-type]
    next: str | None = Field(description="Where the next page is; null at the end")


def _iso(text: Any) -> Any:
    # A date is read generously otherwise: as seconds since 1970, or as a time.
    if isinstance(text, str) and not re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        raise ValueError("a day is written YYYY-MM-DD")
    return text


Day = Annotated[
    date | None,
    BeforeValidator(_iso),
    Query(description="The day that the features were computed for; without one the newest", examples=["2023-12-31"]),
]
PageSize = Annotated[int, Query(ge=1, le=LARGEST_PAGE, description="Users on a page, at most")]
After = Annotated[
    int | None,
    Query(
        ge=-LARGEST_ID - 1, le=LARGEST_ID, description="The last user that is not wanted; without one from the first"
    ),
]


def _missing(as_of: date | None) -> Problem:
    """Of a day that was never computed, with how it is."""
    day = as_of.isoformat() if as_of else "YYYY-MM-DD"
    found = f"no features were computed as of {day}" if as_of else "no features were computed so far"
    return Problem(
        404,
        "No features",
        f"{found}: run `etl-assets experiments load DIR --as-of {day}`,"
        f' or POST /v1/runs with {{"job": "{TRIGGER.trigger.job}", "partition": "{day}"}}',
    )


@router.get(
    "/v1/features/users",
    response_model=FeaturesPage,
    responses={
        200: {"description": "A page of features", "content": {"application/json": {"example": EXAMPLE}}},
        **documented(
            _missing(date(2023, 12, 31)),
            unfit(("query.limit", f"Input should be less than or equal to {LARGEST_PAGE}")),
            STORE_DOWN,
        ),
    },
    summary="Features of users",
    dependencies=[Depends(only_known_parameters)],
)
async def features_of_users(
    request: Request, store: Data, as_of: Day = None, limit: PageSize = 100, after: After = None
) -> dict[str, Any]:
    """Features of users as of a day, a page at a time, in the order of their ids; `next` leads on.

    A page that is read while its day is computed again has the old rows or the new ones, never both.
    """
    query, values = page_query(as_of, after=after, limit=limit)
    async with store.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(query, values)
        rows = await cursor.fetchall()
    if not rows:
        raise _missing(as_of)
    day: date = rows[0]["day"]
    users = [_user(row) for row in rows[:limit] if row["user_id"] is not None]
    following = {"as_of": day.isoformat(), "limit": limit, "after": users[-1]["user_id"]} if len(rows) > limit else None
    return {
        "as_of": day,
        "users": users,
        "next": f"{request.scope['path']}?{urlencode(following)}" if following else None,
    }


def page_query(as_of: date | None, *, after: int | None, limit: int) -> tuple[sql.Composed, dict[str, Any]]:
    """The statement that reads a page and one row beyond, and its values.

    It is one statement, so that it sees one state of the table. Without rows, the day was never computed; a single row
    without a user means that none is behind `after`.

    Args:
        as_of: the day; None for the newest.
    """
    query = sql.SQL(
        "SELECT d.as_of AS day, page.*"
        " FROM (SELECT as_of FROM {table} WHERE {of_day} ORDER BY as_of DESC LIMIT 1) AS d"
        " LEFT JOIN LATERAL ("
        "SELECT {columns} FROM {table} WHERE as_of = d.as_of AND {behind} ORDER BY user_id LIMIT %(rows)s"
        ") AS page ON true ORDER BY page.user_id"
    ).format(
        table=FEATURES,
        columns=sql.SQL(", ").join(sql.Identifier(column.name) for column in COLUMNS),
        of_day=sql.SQL("true" if as_of is None else "as_of = %(as_of)s"),
        behind=sql.SQL("true" if after is None else "user_id > %(after)s"),
    )
    return query, {"as_of": as_of, "after": after, "rows": limit + 1}


def _user(row: dict[str, Any]) -> dict[str, Any]:
    compounds = row["most_common_compounds"]
    return {**row, "most_common_compounds": [int(compound) for compound in compounds.split(";")] if compounds else []}
