"""Days of the turbines, in UTC: as slices of tables, in stretches, and those that there can be statistics of."""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta

from etl_assets.core.contracts import Contract
from etl_assets.core.slices.slice import OneOf, Slice, Span
from etl_assets.errors import ConfigurationError

DAY = timedelta(days=1)


def midnight(day: date) -> datetime:
    """When a day begins, in UTC."""
    return datetime.combine(day, time(), tzinfo=UTC)


def day_slice(contract: type[Contract], day: date, **bounds: OneOf) -> Slice:
    """The rows of a day, or those of them that other columns choose."""
    return Slice(contract, day.isoformat(), {"timestamp": Span(midnight(day), midnight(day + DAY)), **bounds})


def stretches(days: Sequence[date], *, longest: int) -> Iterator[list[date]]:
    """Days that follow each other without a hole, at most so many together."""
    stretch: list[date] = []
    for day in sorted(set(days)):
        if stretch and (day - stretch[-1] != DAY or len(stretch) == longest):
            yield stretch
            stretch = []
        stretch.append(day)
    if stretch:
        yield stretch


def require_days(days: Sequence[date], *, first: date, last: date | None, now: datetime) -> None:
    """Reject days that there can be no statistics of.

    Args:
        first: TURBINES_START_DATE.
        last: TURBINES_END_DATE, if it is set.
        now: the present instant, aware.

    Raises:
        ConfigurationError: for a day before the first, after the last, or that is not over yet; names it and the setting.
    """
    now = now.astimezone(UTC)
    for day in days:
        if day < first:
            raise ConfigurationError(f"{day} is before {first}, the first day: TURBINES_START_DATE says so")
        if last is not None and day > last:
            raise ConfigurationError(f"{day} is after {last}, the last day: TURBINES_END_DATE says so")
        if day >= now.date():
            raise ConfigurationError(
                f"{day} is not over yet: it is {now:%Y-%m-%d %H:%M} in UTC, give a day before that"
            )
