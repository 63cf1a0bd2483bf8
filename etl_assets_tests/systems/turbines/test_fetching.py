"""Days from the source: divided, in order, and asked for in as few requests as that takes."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from etl_assets.core.contracts import Fault, Record
from etl_assets.errors import ConfigurationError, TransientError
from etl_assets.systems.turbines import source
from etl_assets.systems.turbines.source import fetched_days
from etl_assets.systems.turbines.transform import DAY, FetchedDay, Minutes, midnight

FIRST = date(2024, 5, 20)
BAD = Record((Fault("power", "number", "x"),), {"power": "x"})
BAD_OF_BOTH = [{"turbine": name, "power": "x"} for name in ("a", "b")]


class Api:
    """An API that has these minutes, days after the first, of each turbine; fails at the turbine of the name `away`."""

    def __init__(
        self,
        *minutes: float,
        rejected: Sequence[Record] = (),
        rejected_at: Sequence[datetime | None] = (),
        outside: int = 0,
    ) -> None:
        self.times = [midnight(FIRST) + timedelta(days=number) for number in minutes]
        self.rejected, self.outside = rejected, outside
        self.rejected_at = rejected_at or [None for _ in rejected]
        self.asked: list[tuple[str, datetime, datetime]] = []

    def minutes(self, *, start: datetime, end: datetime, columns: Sequence[str], turbine: str = "") -> Minutes:
        self.asked.append((turbine, start, end))
        if turbine == "away":
            raise TransientError("away")
        times = [time for time in self.times if start <= time < end]
        table = {
            "timestamp": pa.array(times, pa.timestamp("us", "UTC")),
            **{name: pa.array(range(len(times)), pa.float64()) for name in columns},
            "position": pa.array(range(len(times)), pa.int64()),
        }
        return Minutes(pa.table(table), self.outside, self.rejected, self.rejected_at)


def fetch(
    api: Any, *numbers: int, turbines: Sequence[str] = (), columns: Sequence[str] = ("power",)
) -> list[FetchedDay]:
    days = [FIRST + number * DAY for number in numbers]
    return list(fetched_days(api, days, turbines=turbines, columns=columns))


def rows(fetched: FetchedDay) -> list[tuple[Any, ...]]:
    """Turbine, position, hour, power."""
    return [
        (row["turbine"], row["position"], row["timestamp"].hour, row["power"]) for row in fetched.rows.valid.to_pylist()
    ]


def raws(fetched: FetchedDay) -> list[Mapping[str, Any]]:
    """What came for each record."""
    return [record.raw for record in fetched.rows.records]


def test_each_day_has_its_rows_in_order_of_time_and_those_of_an_instant_as_they_came() -> None:
    first, second, third = fetch(Api(1.5, 0.25, 2.0, 0.25, 0.0, 1.0), 0, 1, 2)
    assert rows(first) == [("", 0, 0, 4.0), ("", 1, 6, 1.0), ("", 2, 6, 3.0)]
    assert rows(second) == [("", 0, 0, 5.0), ("", 1, 12, 0.0)]
    assert rows(third) == [("", 0, 0, 2.0)]
    assert [fetched.day for fetched in (first, second, third)] == [FIRST, FIRST + DAY, FIRST + 2 * DAY]


def test_a_day_of_which_there_is_nothing_comes_too() -> None:
    first, second = fetch(Api(0.5), 0, 1)
    assert (first.rows.valid.num_rows, second.rows.valid.num_rows) == (1, 0)
    assert second.rows.valid.schema == first.rows.valid.schema


def test_days_in_a_row_are_asked_for_at_once_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "LONGEST_STRETCH_DAYS", 2)
    api = Api()
    found = fetch(api, 4, 0, 1, 2, 0, turbines=["a", "b"])
    assert [fetched.day.day for fetched in found] == [20, 21, 22, 24]
    assert [(turbine, start.day, end.day) for turbine, start, end in api.asked] == [
        (turbine, start, end) for start, end in ((20, 22), (22, 23), (24, 25)) for turbine in "ab"
    ]


def test_a_turbine_may_have_rows_where_another_has_none() -> None:
    api = Api(0.5)
    api.minutes = lambda **asked: Api(*([0.5] if asked["turbine"] == "b" else [])).minutes(**asked)  # type: ignore[method-assign]
    (fetched,) = fetch(api, 0, turbines=["a", "b"])
    assert rows(fetched) == [("b", 0, 12, 0.0)]


def test_a_turbine_that_fails_fails_the_whole_stretch() -> None:
    with pytest.raises(TransientError):
        fetch(Api(0.5), 0, 1, turbines=["a", "away"])


def test_what_belongs_to_no_day_is_in_the_books_of_the_first_once() -> None:
    found = fetch(Api(0.5, rejected=[BAD], outside=1), 0, 1, turbines=["a", "b"])
    assert [(raws(fetched), fetched.outside) for fetched in found] == [(BAD_OF_BOTH, 2), ([], 0)]


def test_a_rejected_element_is_in_the_books_of_its_own_day() -> None:
    api = Api(0.5, 1.5, rejected=[BAD], rejected_at=[midnight(FIRST + DAY) + timedelta(minutes=5)])
    assert [raws(fetched) for fetched in fetch(api, 0, 1, turbines=["a", "b"])] == [[], BAD_OF_BOTH]


def test_a_column_that_is_named_twice_is_asked_for_once() -> None:
    (fetched,) = fetch(Api(0.5), 0, columns=("power", "wind_speed", "power"))
    (row,) = fetched.rows.valid.to_pylist()
    assert (row["columns_asked"], row["ambient_temperature"]) == ("power;wind_speed", None)


@pytest.mark.parametrize("columns", [(), ("power", "rpm")])
def test_columns_that_are_none_of_ours_are_refused_before_the_source_is_asked(columns: tuple[str, ...]) -> None:
    api = Api()
    with pytest.raises(ConfigurationError, match="the columns are wind_speed, power"):
        fetch(api, 0, columns=columns)
    assert api.asked == []


def test_no_days_are_no_requests() -> None:
    api = Api()
    assert fetch(api) == []
    assert api.asked == []
