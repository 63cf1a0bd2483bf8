"""The source of the turbines' signals as Python calls; retries, deadlines and classification are the client's."""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from etl_assets.core.sources.http.address import without_credentials
from etl_assets.core.sources.http.client import ApiClient, ApiRefused, Limits
from etl_assets.errors import ConfigurationError
from etl_assets.settings import Settings
from etl_assets.systems.turbines.answers import (
    ACCEPT,
    POSITION,
    TIMESTAMP,
    Minutes,
    Question,
    UnknownColumns,
    read_minutes,
)

__all__ = ["Minutes", "TurbinesApi", "UnknownColumns"]

_NAME = "turbines"
_PATH = "/data"
# What the source says, with a 400, when it knows none of the columns.
_UNKNOWN = "invalid column names"


class TurbinesApi:
    """The API over the source database; safe to use from several threads, of which each has a connection of its own.

    Args:
        base_url: where the API is.
        zone: IANA name of the zone in which the source writes times without an offset, and reads those of a request.
        limits: time-outs and retries of each call.

    Raises:
        ConfigurationError: if the base URL or the zone cannot be right.
    """

    def __init__(self, base_url: str, *, zone: str = "UTC", limits: Limits | None = None) -> None:
        without_credentials(_NAME, base_url)
        self._base_url = base_url
        self._zone = _known_zone(zone)
        self._limits = limits or Limits()
        self._of_thread = threading.local()

    @classmethod
    def from_settings(cls, settings: Settings, *, limits: Limits | None = None) -> "TurbinesApi":
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
        wanted = _signals(columns)
        first, last = self._local_bounds(start, end)
        params = {
            "start_timestamp": first.isoformat(),
            "end_timestamp": last.isoformat(),
            "columns": wanted,
            **({"turbine": turbine} if turbine else {}),
        }
        asked = f"GET {_PATH}?{urlencode(params, doseq=True, safe=':')}"
        question = Question(wanted, start, end, self._zone.key, asked)
        try:
            return self._client().get_parsed(
                _PATH,
                lambda content_type, body: read_minutes(content_type, body, question),
                params=params,
                accept=ACCEPT,
            )
        except ApiRefused as error:
            if _UNKNOWN not in str(error).lower():
                raise
        raise UnknownColumns(
            f"turbines API, {question.asked}: the source knows none of {', '.join(wanted)}: ask for columns that it has",
            columns=wanted,
        )

    def _client(self) -> ApiClient:
        """The client of this thread; its connections end with the thread."""
        if not hasattr(self._of_thread, "client"):
            self._of_thread.client = ApiClient(
                _NAME, self._base_url, url_variable="TURBINES_API_URL", limits=self._limits
            )
        client: ApiClient = self._of_thread.client
        return client

    def _local_bounds(self, start: datetime, end: datetime) -> tuple[datetime, datetime]:
        """Naive bounds in the source's zone between which it has all times in [start, end).

        Where the clocks change near a bound, this is up to the change more than what is wanted: an hour that occurs twice
        has bounds on both sides of it.
        """
        if start.utcoffset() is None or end.utcoffset() is None or not start < end:
            raise ValueError(f"from {start} to {end}: give two aware times, the earlier one first")
        start, end, day = start.astimezone(UTC), end.astimezone(UTC), timedelta(days=1)
        first = [self._offset(at) for at in (start, min(start + day, end))]
        last = [self._offset(at) for at in (max(end - day, start), end)]
        return (start + min(first)).replace(tzinfo=None), (end + max(last)).replace(tzinfo=None)

    def _offset(self, at: datetime) -> timedelta:
        return at.astimezone(self._zone).utcoffset() or timedelta()


def _signals(columns: Sequence[str]) -> tuple[str, ...]:
    wanted = tuple(dict.fromkeys(columns))
    if not wanted or not {TIMESTAMP, POSITION, ""}.isdisjoint(wanted):
        raise ValueError(f"columns {list(columns)!r}: name at least one, and only signals")
    return wanted


def _known_zone(zone: str) -> ZoneInfo:
    try:
        return ZoneInfo(zone)
    except (ValueError, OSError, KeyError):
        raise ConfigurationError(
            f"TURBINES_ZONE: {zone!r} is not the name of a time zone: set it to one such as UTC or Europe/Berlin"
        ) from None
