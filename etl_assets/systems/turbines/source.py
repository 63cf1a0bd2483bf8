"""The source of the turbines' signals: its API, and days from it. What its answers mean is in `answers`."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from etl_assets.core.database.connections import Database
from etl_assets.core.prefetch import prefetched
from etl_assets.core.slices.lock import Lock
from etl_assets.core.sources.http.client import ApiClient, ApiRefused, Limits
from etl_assets.errors import ConfigurationError
from etl_assets.systems.turbines.answers import ARROW_STREAM, UnknownColumns, minutes_of, read_page
from etl_assets.systems.turbines.cells import POSITION, TIMESTAMP, Question
from etl_assets.systems.turbines.contracts import SIGNALS, RawTurbineSignals
from etl_assets.systems.turbines.settings import TurbinesSettings
from etl_assets.systems.turbines.transform import DAY, FetchedDay, Minutes, day_slice, midnight, raw_days, stretches

# A request costs more than the minutes of a day; the answer to a longer one has to be held in memory.
LONGEST_STRETCH_DAYS = 16
_PATH = "/data"
# What the source answers, with a 400, when it knows none of the columns.
_UNKNOWN = "invalid column names"
ACCEPT = f"{ARROW_STREAM}, application/json;q=0.5"


class TurbinesApi(threading.local):
    """The API over the source database; each thread that uses it has a connection of its own.

    Args:
        base_url: where the API is.
        zone: IANA name of the zone in which the source writes times without an offset, and reads those of a request.
        late: how much later than a minute begins the source labels its row: nothing, or a minute where it labels it by its end.
        turbine_field: the field in which a row may name its turbine.
        limits: time-outs and retries of each call.

    Raises:
        ConfigurationError: if the base URL cannot be right.
    """

    def __init__(
        self,
        base_url: str,
        *,
        zone: str = "UTC",
        late: timedelta = timedelta(),
        turbine_field: str = "turbine",
        limits: Limits | None = None,
    ) -> None:
        self._zone, self._late, self._turbine_field = ZoneInfo(zone), late, turbine_field
        self._client = ApiClient("turbines", base_url, url_variable="TURBINES_API_URL", limits=limits or Limits())
        # How the source was seen to spell signals that it does not know by our names.
        self._spelling: dict[str, str] = {}

    @classmethod
    def from_settings(cls, settings: TurbinesSettings, *, limits: Limits | None = None) -> "TurbinesApi":
        """The API that the settings name.

        Raises:
            ConfigurationError: if its URL is not set, or cannot be right.
        """
        return cls(
            settings.required("turbines_api_url"),
            zone=settings.turbines_zone,
            late=settings.late,
            turbine_field=settings.turbines_name_field,
            limits=limits,
        )

    def minutes(self, *, start: datetime, end: datetime, columns: Sequence[str], turbine: str = "") -> Minutes:
        """The minutes of one turbine in [start, end), each answer whole or not at all.

        A signal that the source does not know by our name is asked for as some sources spell it.

        Args:
            start, end: aware, in any zone.
            columns: the signals to ask for.
            turbine: which one; empty for the only one of a source that knows none.

        Raises:
            ApiUnavailable, ApiRefused: as the client classifies; a 200 that is cut off, a page or of no known form
                counts as no answer and is asked for again. What is no array of rows is refused.
            ContractError: if none of the rows has a time, or a column of an Arrow stream is of another kind.
            UnknownColumns: if the source does not know a column, or sends rows without it.
            PermanentError: if all rows are of other turbines, or nothing of any of them can be read.
            ValueError: if a time is naive, nothing lies between the two, or no column is named that can be one.
        """
        wanted = tuple(dict.fromkeys(columns))
        if not wanted or not {TIMESTAMP, POSITION, ""}.isdisjoint(wanted):
            raise ValueError(f"columns {list(columns)!r}: name at least one, and only signals")
        ask = partial(self._minutes, start, end, wanted, turbine)
        try:
            return ask(self._spelling)
        except UnknownColumns as error:
            unknown = error
        others = {
            name: SIGNALS[name].spelling for name in unknown.columns if name in SIGNALS and SIGNALS[name].spelling
        }
        if others.items() <= self._spelling.items():
            raise unknown
        try:
            minutes = ask({**self._spelling, **others})
        except UnknownColumns:
            raise unknown from None
        self._spelling |= others
        return minutes

    def _minutes(
        self, start: datetime, end: datetime, columns: tuple[str, ...], turbine: str, spelling: Mapping[str, str]
    ) -> Minutes:
        first, last = (at + self._late for at in self._local_bounds(start, end))
        spelled = [spelling.get(name, name) for name in columns]
        params = {"start_timestamp": first.isoformat(), "end_timestamp": last.isoformat(), "columns": spelled}
        if turbine:
            params["turbine"] = turbine
        request = f"GET {_PATH}?{urlencode(params, doseq=True, safe=':')}"
        question = Question(
            columns, start, end, self._zone.key, request, turbine, self._turbine_field, self._late, spelling
        )
        try:
            pages = self._client.get_pages(
                _PATH, lambda kind, body: read_page(kind, body, question), params=params, accept=ACCEPT
            )
        except ApiRefused as error:
            if _UNKNOWN not in str(error).lower():
                raise
        else:
            return minutes_of(pages, question)
        raise UnknownColumns(
            f"turbines API, {request}: the source knows none of {', '.join(columns)}: ask for columns that it has",
            columns=columns,
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


def locked_days(
    api: TurbinesApi, database: Database, days: Sequence[date], *, turbines: Sequence[str], columns: Sequence[str]
) -> Iterator[tuple[FetchedDay, Lock]]:
    """As `fetched_days`, for who stores them: the lock of each day in the raw layer is held since before its turbines were asked.

    Args:
        database: where the raw layer has its heads.

    Raises:
        TransientError: as `locked`, and as `fetched_days`.
    """
    locks: list[Lock] = []

    def take(stretch: Sequence[date]) -> None:
        lock = Lock(database, [day_slice(RawTurbineSignals, day) for day in stretch])
        locks.append(lock)
        lock.begin()

    try:
        for fetched in fetched_days(api, days, turbines=turbines, columns=columns, before=take):
            while not locks[0].covers(day_slice(RawTurbineSignals, fetched.day)):
                locks.pop(0).close()
            yield fetched, locks[0]
    finally:
        for lock in locks:
            lock.close()


def fetched_days(
    api: TurbinesApi,
    days: Sequence[date],
    *,
    turbines: Sequence[str],
    columns: Sequence[str],
    before: Callable[[Sequence[date]], None] = lambda _: None,
) -> Iterator[FetchedDay]:
    """Each day, in order, whole: every turbine has answered for it. The next stretch is fetched while this one is stored.

    Args:
        turbines: their names; none for a source that has one and knows no names.
        columns: the signals to ask for; a repeated one counts as one.
        before: is given the days of a stretch before the source is asked for them.

    Raises:
        ConfigurationError: for a column that no signal of ours is.
        ApiUnavailable, ApiRefused, ContractError, UnknownColumns: as `TurbinesApi.minutes`.
    """
    columns = known_columns(columns)

    def fetched(stretch: Sequence[date]) -> list[FetchedDay]:
        start, end = midnight(stretch[0]), midnight(stretch[-1] + DAY)
        before(stretch)
        answers = {name: api.minutes(start=start, end=end, columns=columns, turbine=name) for name in turbines or ("",)}
        return raw_days(answers, stretch, columns=columns)

    for ready in prefetched(fetched(stretch) for stretch in stretches(days, longest=LONGEST_STRETCH_DAYS)):
        yield from ready


def known_columns(columns: Sequence[str]) -> tuple[str, ...]:
    """Columns under our names for them, each once.

    Raises:
        ConfigurationError: for a column that no signal of ours is, or none at all; names those that are known.
    """
    ours = {signal.spelling: name for name, signal in SIGNALS.items() if signal.spelling}
    names = tuple(dict.fromkeys(ours.get(name, name) for name in columns))
    unknown = [name for name in names if name not in SIGNALS]
    if unknown or not names:
        raise ConfigurationError(
            f"{', '.join(unknown) or 'no column'}: the columns are {', '.join(SIGNALS)} (turbines/contracts.py)"
        )
    return names
