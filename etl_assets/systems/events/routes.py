"""The calls of the events system: the public status, the trigger, and the latest US events, in pages.

The status and the trigger answer in fixed words; what they cannot answer at all, and everything that goes wrong with the
events, is a problem.
"""

import asyncio
import logging
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse
from psycopg import sql
from psycopg.rows import dict_row
from pydantic import BaseModel, Field, create_model

from etl_assets.core.contracts.contract import Kind
from etl_assets.core.sources.http.client import Limits
from etl_assets.errors import PlatformError
from etl_assets.gateway.problems import documented, unfit
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
from etl_assets.gateway.store import STORE_DOWN, Connection
from etl_assets.gateway.triggers import Outcome, Plan, Trigger, TriggerCall
from etl_assets.systems.events.contracts import UsEventData
from etl_assets.systems.events.files import INTERVAL
from etl_assets.systems.events.settings import EventsSettings
from etl_assets.systems.events.source import EventsFeed

STATUS: Words = {"message": "Public status check endpoint is operational", "success": True}
# What the feed did not list is not looked for anew within this time, as the sensor of the events has it.
LOOK_AGAIN = timedelta(hours=1)
# Whoever calls the trigger waits for what the feed says.
WITHIN = Limits(connect_timeout_s=2, read_timeout_s=2, deadline_s=3, max_attempts=2)
log = logging.getLogger(__name__)

router = APIRouter(tags=["events"])


@router.get(
    "/status",
    responses={200: words_documented(STATUS, description="It lives")},
    summary="Whether the gateway lives, for anybody",
)
async def public_status() -> JSONResponse:
    """Answer as long as the process lives; nothing else is asked, and no token is needed."""
    return words_response(STATUS)


# --- the trigger

# An interval that is not in the manifest, or was missing when the feed was last asked, which is a while ago.
IS_LACKING = """
    SELECT EXISTS (
        SELECT FROM generate_series(%(first)s::timestamptz, %(last)s::timestamptz, %(step)s) AS due(interval)
        LEFT JOIN events.intervals AS manifest USING (interval)
        WHERE manifest.state IS NULL
           OR manifest.state = 'missing' AND coalesce(manifest.last_asked_at, '-infinity') <= %(now)s - %(again)s
    )
"""


async def newest_day(connection: Connection, now: datetime) -> Plan:
    """The day of the newest file, by that alone where none before it is lacking.

    The feed may have a file from the instant in its name on, or when its interval is over; so that just after midnight it may be one
    of the day before. Where an interval before these two is lacking, as on a first run or after a pause, the list of all files is
    read, which brings them all. Where the newest file is of an earlier day, since the feed is behind or has ended, that day is meant; where the
    feed does not say in time, the clock decides.
    """
    with connection.deadline_paused():
        newest = await asyncio.to_thread(_newest_interval)
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if newest is not None and newest < day:
        begin = newest.replace(hour=0, minute=0)
        lacking = await _is_lacking(connection, begin, newest - INTERVAL, now=now)
        return Plan(f"{newest:%Y-%m-%d}", run_config(master_list=lacking))
    over = day + (now - day) // INTERVAL * INTERVAL - INTERVAL
    if over < day and await _is_lacking(connection, over, over, now=now, again=timedelta(0)):
        # The newest file may be the first of the new day by now: only the list of all has the one of the day before.
        return Plan(f"{over:%Y-%m-%d}", run_config(master_list=True))
    lacking = await _is_lacking(connection, day, over - INTERVAL, now=now)
    return Plan(f"{day:%Y-%m-%d}", run_config(master_list=lacking))


def _newest_interval() -> datetime | None:
    """The interval of the newest file of the feed; None if that is not to be had now, or is of no partition."""
    try:
        settings = EventsSettings.load()
        interval = EventsFeed.from_settings(settings, limits=WITHIN).latest().interval
    except PlatformError as error:
        log.warning("the day of the newest file is taken by the clock: %s", error)
        return None
    return interval if interval.date() >= settings.events_start_date else None


async def _is_lacking(
    connection: Connection, first: datetime, last: datetime, *, now: datetime, again: timedelta = LOOK_AGAIN
) -> bool:
    """Whether one of the intervals from the first to the last is lacking; a missing one for which the feed was not asked within `again`."""
    values = {"first": first, "last": last, "step": INTERVAL, "now": now, "again": again}
    return await (await connection.execute(IS_LACKING, values)).fetchone() == (True,)


def run_config(*, master_list: bool) -> dict[str, Any]:
    """How a run of the job is told what to read, as the sensor of the events does it."""
    return {
        "ops": {
            "events__raw_events": {"config": {"master_list": master_list}},
            "events__us_event_data": {"config": {"only_fetched": True}},
        }
    }


TRIGGER = TriggerCall(
    Trigger(name="events", job="events_job", plan=newest_day),
    answers={
        Outcome.TAKEN: {"success": True, "message": "Job has started"},
        Outcome.TOO_FREQUENT: {
            "success": False,
            "message": "Job is running or was started a moment ago, please try again later",
        },
        Outcome.LOADING: {"success": False, "message": "Job is still being loaded, please try again later"},
    },
    started="A run of the events for the day (UTC) of the newest file was started",
)


@router.get("/start-etl-job", operation_id="start_etl_job_get", responses=TRIGGER.responses, summary="Start the job")
@router.post("/start-etl-job", operation_id="start_etl_job", responses=TRIGGER.responses, summary="Start the job")
async def start_etl_job(dagster: Dagster, store: Data, settings: Configured) -> JSONResponse:
    """Start a run of the events for the day of the newest file, at most one at a time and not too often.

    It fetches the newest file of the feed, or all that is lacking of the day where something before that is. `GET` does the
    same as `POST`, as the original exercise has it.
    """
    return await TRIGGER.answer(dagster, store, settings)


# --- the events

LARGEST_ID = 2**63 - 1
LARGEST_PAGE = 1000
COLUMNS = tuple(UsEventData.columns.values())
HTTP_DATE = (
    "^(Mon|Tue|Wed|Thu|Fri|Sat|Sun), [0-9]{2} (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [0-9]{4}"
    " [0-9]{2}:[0-9]{2}:[0-9]{2} GMT$"
)
CURSOR = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{6})?Z,-?[0-9]{1,19}$"


fields: Any = {column.name: field_of(column) for column in COLUMNS}
UsEvent = create_model("UsEvent", __doc__="An event in the United States.", **fields)
AS_HTTP_DATE = "{}. As an HTTP date: in whole seconds, a day as its begin"
dated: Any = fields | {
    column.name: (str, Field(description=AS_HTTP_DATE.format(described(column)), pattern=HTTP_DATE))
    for column in COLUMNS
    if column.kind in (Kind.DATE, Kind.TIMESTAMP)
}
UsEventWithHttpDates = create_model("UsEventWithHttpDates", __doc__="The same with HTTP dates.", **dated)


class EventsPage(BaseModel):
    """Some US events, the newest first."""

    success: Literal[True] = Field(description="Always true: a failure is a problem")
    data: list[UsEvent] | list[UsEventWithHttpDates] = Field(  # type: ignore[valid-type]
        description="By `date_added`, then `global_event_id`, both descending"
    )
    next: str | None = Field(description="Where the next page is, of older events; null at the end")


ADDED = datetime(2019, 1, 21, 22, tzinfo=UTC)
EXAMPLE = {
    "file_interval": ADDED,
    "global_event_id": 817930293,
    "sql_date": date(2019, 1, 20),
    "event_code": "043",
    "event_base_code": "043",
    "event_root_code": "04",
    "event_root_name": "CONSULT",
    "action_geo_full_name": "Springfield, Illinois, United States",
    "action_geo_country_code": "US",
    "action_geo_lat": 39.8017,
    "action_geo_long": -89.6437,
    "date_added": ADDED,
    "source_url": "https://news.example/a-visit",
    "upload_date": datetime(2019, 1, 21, 22, 16, 4, 125_000, UTC),
    "flags": "",
}
PATH, BEHIND = "/latest-event-data", "after=2019-01-21T22:00:00Z,817930293"


def _http_date(moment: date) -> str:
    """A moment, or a day as its begin."""
    begin = moment if isinstance(moment, datetime) else datetime(moment.year, moment.month, moment.day)
    return format_datetime(begin.replace(tzinfo=UTC), usegmt=True)


def _with_http_dates(event: dict[str, Any]) -> dict[str, Any]:
    return {name: _http_date(value) if isinstance(value, date) else value for name, value in event.items()}


EXAMPLES = {
    name: {
        "value": EventsPage(success=True, data=[event], next=f"{PATH}?limit=1{more}&{BEHIND}").model_dump(mode="json")
    }
    for name, event, more in (("iso", EXAMPLE, ""), ("http", _with_http_dates(EXAMPLE), "&dates=http"))
}

PageSize = Annotated[int, Query(ge=1, le=LARGEST_PAGE, description="Events on a page, at most")]
Dates = Annotated[
    Literal["iso", "http"],
    Query(description="How dates and times are written: as ISO 8601 in UTC, or as HTTP dates (RFC 9110)"),
]
After = Annotated[
    str | None,
    Query(
        pattern=CURSOR,
        description="`date_added` (ISO 8601) and `global_event_id` of the last event that is not wanted, with a comma between"
        " them; without them from the newest",
        examples=["2019-01-21T22:00:00Z,817930293"],
    ),
]


@router.get(
    PATH,
    response_model=EventsPage,
    responses={
        200: {"description": "A page of events", "content": {"application/json": {"examples": EXAMPLES}}},
        **documented(
            unfit(("query.limit", f"Input should be less than or equal to {LARGEST_PAGE}")),
            STORE_DOWN,
        ),
    },
    summary="The latest US events",
    dependencies=[Depends(only_known_parameters)],
)
async def latest_event_data(
    request: Request, store: Data, limit: PageSize = 100, dates: Dates = "iso", after: After = None
) -> dict[str, Any]:
    """US events, the newest first, a page at a time; `next` leads on.

    What is newly published while pages are read comes before the first of them and moves no other; what is published late has
    the place of its `date_added`.
    """
    query, values = page_query(cursor_of(after) if after else None, limit=limit)
    async with store.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(query, values)
        rows = await cursor.fetchall()
    following = None
    if len(rows) > limit:
        wanted = {"limit": limit} | ({"dates": dates} if dates != "iso" else {}) | {"after": _written(rows[limit - 1])}
        following = f"{request.scope['path']}?{urlencode(wanted, safe=':,')}"
    page = rows[:limit] if dates == "iso" else [_with_http_dates(row) for row in rows[:limit]]
    return {"success": True, "data": page, "next": following}


class Cursor(NamedTuple):
    """The place of an event in the order of the pages; the names are those of its columns."""

    date_added: datetime
    global_event_id: int


def cursor_of(text: str) -> Cursor:
    """A place as `next` writes it.

    Raises:
        Problem: 422, if there can be no event at it.
    """
    instant, number = text.split(",")
    try:
        place = Cursor(datetime.fromisoformat(instant), int(number))
    except ValueError as error:
        raise unfit(("query.after", str(error))) from None
    if not -LARGEST_ID - 1 <= place.global_event_id <= LARGEST_ID:
        raise unfit(("query.after", "global_event_id is an integer of 64 bits"))
    return place


def page_query(after: Cursor | None, *, limit: int) -> tuple[sql.Composed, dict[str, Any]]:
    """The statement that reads a page and one row beyond, by the index on the two columns, and its values."""
    query = sql.SQL(
        "SELECT {columns} FROM {table} WHERE {behind} ORDER BY date_added DESC, global_event_id DESC LIMIT %(rows)s"
    ).format(
        table=sql.Identifier(*UsEventData.config.table.split(".")),
        columns=sql.SQL(", ").join(sql.Identifier(column.name) for column in COLUMNS),
        behind=sql.SQL("(date_added, global_event_id) < (%(date_added)s, %(global_event_id)s)" if after else "true"),
    )
    return query, {**(after._asdict() if after else {}), "rows": limit + 1}


def _written(event: dict[str, Any]) -> str:
    """The place of an event as `cursor_of` reads it."""
    return f"{event['date_added'].isoformat().removesuffix('+00:00')}Z,{event['global_event_id']}"
