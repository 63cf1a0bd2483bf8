"""The source of the turbines' signals, days from it, and the target database; both as Dagster resources."""

import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import dagster as dg
from pydantic import Field, PrivateAttr

from etl_assets.core.database.connections import Database
from etl_assets.core.prefetch import prefetched
from etl_assets.core.sources.http.client import ApiClient, ApiRefused, Limits
from etl_assets.errors import ConfigurationError
from etl_assets.systems.turbines.answers import (
    ACCEPT,
    POSITION,
    TIMESTAMP,
    Minutes,
    Question,
    UnknownColumns,
    read_minutes,
)
from etl_assets.systems.turbines.contracts import SIGNALS
from etl_assets.systems.turbines.databases import turbines_target
from etl_assets.systems.turbines.days import DAY, midnight, stretches
from etl_assets.systems.turbines.settings import TurbinesSettings
from etl_assets.systems.turbines.transform import FetchedDay, raw_days

# A request costs more than the minutes of a day; the answer to a longer one has to be held in memory.
LONGEST_STRETCH_DAYS = 16
_PATH = "/data"
# What the source answers, with a 400, when it knows none of the columns.
_UNKNOWN = "invalid column names"


class TurbinesApi(threading.local):
    """The API over the source database; each thread that uses it has a connection of its own.

    Args:
        base_url: where the API is.
        zone: IANA name of the zone in which the source writes times without an offset, and reads those of a request.
        limits: time-outs and retries of each call.

    Raises:
        ConfigurationError: if the base URL or the zone cannot be right.
    """

    def __init__(self, base_url: str, *, zone: str = "UTC", limits: Limits | None = None) -> None:
        self._zone = _known_zone(zone)
        self._client = ApiClient("turbines", base_url, url_variable="TURBINES_API_URL", limits=limits or Limits())

    @classmethod
    def from_settings(cls, settings: TurbinesSettings, *, limits: Limits | None = None) -> "TurbinesApi":
        """The API that the settings name.

        Raises:
            ConfigurationError: if its URL is not set, or it or the zone cannot be right.
        """
        url, zone = settings.required("turbines_api_url"), settings.required("turbines_zone")
        return cls(url, zone=zone, limits=limits)

    def minutes(self, *, start: datetime, end: datetime, columns: Sequence[str], turbine: str = "") -> Minutes:
        """The minutes of one turbine in [start, end), each answer whole or not at all.

        Args:
            start, end: aware, in any zone.
            columns: the signals to ask for.
            turbine: which one; empty for the only one of a source that knows none.

        Raises:
            ApiUnavailable, ApiRefused: as the client classifies; a 200 that is cut off, a page or of no known form
                counts as no answer and is asked for again.
            ContractError: if the answer is no array of rows, or a column of an Arrow stream is of another kind.
            UnknownColumns: if the source does not know a column, or sends rows without it.
            ValueError: if a time is naive, nothing lies between the two, or no column is named that can be one.
        """
        wanted = tuple(dict.fromkeys(columns))
        if not wanted or not {TIMESTAMP, POSITION, ""}.isdisjoint(wanted):
            raise ValueError(f"columns {list(columns)!r}: name at least one, and only signals")
        first, last = self._local_bounds(start, end)
        params = {"start_timestamp": first.isoformat(), "end_timestamp": last.isoformat(), "columns": wanted}
        if turbine:
            params["turbine"] = turbine
        request = f"GET {_PATH}?{urlencode(params, doseq=True, safe=':')}"
        question = Question(wanted, start, end, self._zone.key, request)
        try:
            return self._client.get_parsed(
                _PATH, lambda kind, body: read_minutes(kind, body, question), params=params, accept=ACCEPT
            )
        except ApiRefused as error:
            if _UNKNOWN not in str(error).lower():
                raise
        raise UnknownColumns(
            f"turbines API, {request}: the source knows none of {', '.join(wanted)}: ask for columns that it has",
            columns=wanted,
        )

    def _local_bounds(self, start: datetime, end: datetime) -> tuple[datetime, datetime]:
        """Naive bounds in the source's zone between which it has all times in [start, end).

        Where the clocks change near a bound, this is up to the change more than what is wanted: an hour that occurs twice
        has bounds on both sides of it.
        """
        if start.utcoffset() is None or end.utcoffset() is None or not start < end:
            raise ValueError(f"from {start} to {end}: give two aware times, the earlier one first")
        start, end = start.astimezone(UTC), end.astimezone(UTC)
        first = min(self._offset(at) for at in (start, min(start + DAY, end)))
        last = max(self._offset(at) for at in (max(end - DAY, start), end))
        return (start + first).replace(tzinfo=None), (end + last).replace(tzinfo=None)

    def _offset(self, at: datetime) -> timedelta:
        return at.astimezone(self._zone).utcoffset() or timedelta()


def _known_zone(zone: str) -> ZoneInfo:
    try:
        return ZoneInfo(zone)
    except (ValueError, OSError, KeyError):
        raise ConfigurationError(
            f"TURBINES_ZONE: {zone!r} is not the name of a time zone: set it to one such as UTC or Europe/Berlin"
        ) from None


def fetched_days(
    api: TurbinesApi, days: Sequence[date], *, turbines: Sequence[str], columns: Sequence[str]
) -> Iterator[FetchedDay]:
    """Each day, in order, whole: every turbine has answered for it. The next stretch is fetched while this one is stored.

    Args:
        turbines: their names; none for a source that has one and knows no names.
        columns: the signals to ask for; one that is named again counts once.

    Raises:
        ConfigurationError: for a column that no signal of ours is.
        ApiUnavailable, ApiRefused, ContractError, UnknownColumns: as `TurbinesApi.minutes`.
    """
    require_columns(columns)
    columns = tuple(dict.fromkeys(columns))

    def fetched(stretch: Sequence[date]) -> list[FetchedDay]:
        start, end = midnight(stretch[0]), midnight(stretch[-1] + DAY)
        answers = {name: api.minutes(start=start, end=end, columns=columns, turbine=name) for name in turbines or ("",)}
        return raw_days(answers, stretch, columns=columns)

    for ready in prefetched(fetched(stretch) for stretch in stretches(days, longest=LONGEST_STRETCH_DAYS)):
        yield from ready


def require_columns(columns: Sequence[str]) -> None:
    """Reject columns that no signal of ours is.

    Raises:
        ConfigurationError: names them, and those that are known.
    """
    unknown = [name for name in columns if name not in SIGNALS]
    if unknown or not columns:
        raise ConfigurationError(
            f"{', '.join(unknown) or 'no column'}: the columns are {', '.join(SIGNALS)} (turbines/contracts.py)"
        )


class TurbinesApiResource(dg.ConfigurableResource[Any]):
    """The API at TURBINES_API_URL; settings are read when a run needs it, so that no address is in a run config."""

    def connect(self) -> TurbinesApi:
        """The API, ready to be called.

        Raises:
            ConfigurationError: if its URL is not set.
        """
        return TurbinesApi.from_settings(TurbinesSettings.load())


class TurbinesTargetResource(dg.ConfigurableResource[Any]):
    """The database at TURBINES_TARGET_URL, or one beside the platform's; opened at its first use."""

    url: str = Field(
        default="", description="Database of a test; empty: TURBINES_TARGET_URL, else beside the platform's"
    )
    _database: Database | None = PrivateAttr(default=None)

    @property
    def database(self) -> Database:
        """The database; the same object for as long as the resource lives."""
        if self._database is None:
            self._database = Database(self.url, name="target") if self.url else turbines_target()
        return self._database
