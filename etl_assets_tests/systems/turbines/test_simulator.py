"""The simulated turbines: what is in their database, what the API over it says, and what it does wrong on request."""

import json
import math
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest
import requests

from etl_assets.core.embedded import EmbeddedPostgres
from etl_assets.errors import ConfigurationError
from etl_assets.simulators.server import serve
from etl_assets.systems.turbines.simulator import ARROW, Planted, Quirks, SourceFailed, TurbinesSimulator, fill, planted
from etl_assets.systems.turbines.simulator import data as source_database
from etl_assets.systems.turbines.simulator.data import CUT_IN, CUT_OUT, RATED_KW, RATED_WIND, SIGNALS, rows

Row = dict[str, Any]
DAY = date(2024, 5, 20)
MINUTE = timedelta(minutes=1)
RANGES = {"wind_speed": (0, 75), "power": (-200, 20_000), "ambient_temperature": (-60, 60), "wind_direction": (0, 360)}


class Api:
    """The calls that a client makes."""

    def __init__(self, simulator: TurbinesSimulator, url: str) -> None:
        self.simulator = simulator
        self.url = url

    def get(
        self,
        start: str = "2024-05-20T00:00:00",
        end: str = "2024-05-20T00:03:00",
        *columns: str,
        accept: str = "*/*",
        **query: Any,
    ) -> requests.Response:
        asked = {"start_timestamp": start, "end_timestamp": end, "columns": columns or ("wind_speed", "power"), **query}
        return requests.get(f"{self.url}/data", params=asked, headers={"Accept": accept}, timeout=5)

    def rows(self, *asked: str, **query: Any) -> list[Row]:
        answer = self.get(*asked, **query)
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json"), answer.text
        return answer.json()

    def table(self, *asked: str, **query: Any) -> pa.Table:
        answer = self.get(*asked, accept=f"application/json;q=0.5, {ARROW}", **query)
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, ARROW), answer.text
        return pa.ipc.open_stream(answer.content).read_all()

    def quirks(self, **wanted: Any) -> None:
        self.simulator.quirks = Quirks(**wanted)


@contextmanager
def serving(database_url: str, **options: Any) -> Iterator[Api]:
    simulator = TurbinesSimulator(database_url, **options)
    with serve(simulator.app) as url:
        yield Api(simulator, url)


@pytest.fixture(scope="module")
def source_url(postgres_server: EmbeddedPostgres) -> str:
    """The default: one turbine, ten days."""
    url = postgres_server.create_database("fonte_of_one")
    fill(url)
    return url


@pytest.fixture(scope="module")
def served(source_url: str) -> Iterator[Api]:
    with serving(source_url) as api:
        yield api


@pytest.fixture
def api(served: Api) -> Api:
    served.simulator.reset()
    return served


@pytest.fixture(scope="module")
def farm(postgres_server: EmbeddedPostgres) -> Iterator[Api]:
    """Two turbines, one day."""
    url = postgres_server.create_database("fonte_of_two")
    fill(url, days=1, turbines=("T01", "T02"))
    with serving(url, turbines=("T01", "T02")) as api:
        yield api


@pytest.fixture(scope="module")
def days(source_url: str) -> dict[datetime, Row]:
    """The rows of the default, by instant."""
    with psycopg.connect(source_url) as connection, connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        found = cursor.execute("SELECT * FROM data").fetchall()
    return {row["timestamp"].replace(tzinfo=UTC): row for row in found}


def instants(one: Planted) -> list[datetime]:
    return [one.begin + number * MINUTE for number in range((one.end - one.begin) // MINUTE)]


def minute(text: str) -> str:
    return f"2024-05-20T{text}:00"


# What is in the database


def test_the_first_day_has_no_fault(days: dict[datetime, Row]) -> None:
    first = [row for row in days.values() if row["timestamp"].date() == DAY]
    assert [row["id"] for row in first] == list(range(1, 1_441))
    assert all(row[name] is not None for row in first for name in SIGNALS)
    assert planted(days=1) == []


def test_what_is_planted_is_there(days: dict[datetime, Row]) -> None:
    seen = Counter()
    for one in planted():
        seen[one.kind] += 1
        values = [days[at][one.signal] for at in instants(one)] if one.signal else []
        if one.kind == "gap":
            assert not days.keys() & set(instants(one)), one
        elif one.kind == "null":
            assert set(values) == {None}, one
        elif one.kind == "frozen":
            assert len(values) >= 120 and set(values) == {values[0]}, one
            assert {days[one.begin - MINUTE][one.signal], days[one.end][one.signal]} != {values[0]}, one
        elif one.kind == "storm":
            stopped = [days[at]["power"] for at in instants(one) if days[at]["wind_speed"] > CUT_OUT * 1.2]
            assert max(values) < 60 and len(stopped) > 50 and set(stopped) == {0.0}, one
        else:
            low, high = RANGES[one.signal]
            assert set(values) == {one.value} and (low <= values[0] <= high) == (one.kind == "spike"), one
    assert seen == {"gap": 7, "null": 3, "frozen": 2, "spike": 3, "out_of_range": 4, "storm": 1}


def test_nothing_else_is_wrong_with_the_rows(days: dict[datetime, Row]) -> None:
    gaps = {at for one in planted() if one.kind == "gap" for at in instants(one)}
    begin = datetime(2024, 5, 20, tzinfo=UTC)
    assert days.keys() == {begin + number * MINUTE for number in range(14_400)} - gaps
    faults = {(at, one.signal) for one in planted() if one.kind not in ("gap", "storm") for at in instants(one)}
    for name, (low, high) in RANGES.items():
        values = [row[name] for at, row in days.items() if (at, name) not in faults]
        assert all(low <= value <= high for value in values), name


@pytest.mark.long
def test_the_data_look_like_a_turbine() -> None:
    year = pa.Table.from_batches(rows(DAY, 366))
    wind, power, temperature = (year[name].to_numpy() for name in SIGNALS[:3])
    right = (wind > 0) & (wind < 40) & (power < 4_000) & (np.abs(temperature) < 48)
    wind, power, temperature = wind[right], power[right], temperature[right]
    assert np.corrcoef(wind[1:], wind[:-1])[0, 1] > 0.95  # it has a memory
    assert 6 < wind.mean() < 10 and 20 < np.percentile(wind, 99) < CUT_OUT  # and a tail
    assert np.mean(power[wind < CUT_IN * 0.8] == 0) > 0.95  # the rest: the wind is what is frozen
    full = power[(wind > RATED_WIND * 1.3) & (wind < CUT_OUT * 0.8)]
    assert full.min() > RATED_KW * 0.98 and full.max() < RATED_KW * 1.02 and len(np.unique(full)) > 100
    minutes = year["timestamp"].to_numpy()[right].astype("M8[m]").astype(int)
    hour, month = minutes // 60 % 24, minutes // 1_440 % 365 // 30
    assert temperature[hour == 14].mean() - temperature[hour == 2].mean() > 5
    assert temperature[month == 6].mean() - temperature[month == 0].mean() > 10


def test_a_minute_is_the_same_whatever_is_filled_beside_it() -> None:
    alone = pa.Table.from_batches(rows(DAY, 2, ["T02"])).select(["timestamp", *SIGNALS])
    many = pa.Table.from_batches(rows(date(2024, 2, 1), 130, ["T01", "T02"]))
    many = many.filter(pa.compute.equal(many["turbine"], "T02")).select(alone.schema.names)
    # The first of the two days has no fault here, and there neither: it is the 109th, of the second turbine.
    same = many.filter(pa.compute.greater_equal(many["timestamp"], alone["timestamp"][0])).slice(0, 1_440)
    assert same.equals(alone.slice(0, 1_440))
    assert not pa.Table.from_batches(rows(DAY, 1, ["T02"], seed=1)).select(same.schema.names).equals(same)


def test_each_turbine_begins_a_day_further_in_the_schedule() -> None:
    first = [one for one in planted(days=12, turbines=("A", "B")) if one.turbine == "A"]
    second = [one for one in planted(days=12, turbines=("A", "B")) if one.turbine == "B"]
    assert [(one.kind, one.signal, one.begin - timedelta(days=1)) for one in first if one.begin.day < 30] == [
        (one.kind, one.signal, one.begin) for one in second if one.begin.day < 29
    ]
    assert {one.begin.date() for one in first} & {DAY, DAY + timedelta(days=10)} == set()


def test_a_second_fill_of_the_same_does_nothing_and_one_of_another_replaces(empty_database_url: str) -> None:
    def ids() -> list[tuple[Any, ...]]:
        with psycopg.connect(empty_database_url) as connection:
            return connection.execute(
                "SELECT turbine, count(*), min(id), max(id), min(xmin::text) FROM data GROUP BY 1"
            ).fetchall()

    assert fill(empty_database_url, days=1, turbines=("T01", "T02")) == 2 * 1_440 - 180
    before = sorted(ids())
    assert [found[:4] for found in before] == [("T01", 1_440, 1, 1_440), ("T02", 1_260, 1_441, 2_880)]
    assert fill(empty_database_url, days=1, turbines=("T01", "T02")) == 0
    assert sorted(ids()) == before
    assert fill(empty_database_url, days=2) == 2 * 1_440 - 180
    assert [found[:4] for found in ids()] == [("", 2_700, 1, 2_880)]


def test_a_fill_that_fails_leaves_what_was_there(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(empty_database_url, days=1)

    def breaking(*request: Any, **options: Any) -> Iterator[pa.RecordBatch]:
        yield from rows(*request, **options)
        raise OSError("no more")

    monkeypatch.setattr(source_database, "rows", breaking)
    with pytest.raises(SourceFailed, match="no more"):
        fill(empty_database_url, days=2)
    monkeypatch.undo()
    assert fill(empty_database_url, days=1) == 0


def test_of_two_fills_at_once_one_writes(empty_database_url: str) -> None:
    with ThreadPoolExecutor() as pool:
        written = list(pool.map(lambda _: fill(empty_database_url, days=1), range(2)))
    assert sorted(written) == [0, 1_440]


def test_a_table_that_somebody_else_made_is_left_alone(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url) as connection:
        connection.execute("CREATE TABLE data AS SELECT 7 AS value")
    with pytest.raises(ConfigurationError, match=r"public.data that they did not fill.*give a database of its own"):
        fill(empty_database_url)
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("SELECT value FROM data").fetchall() == [(7,)]


@pytest.mark.parametrize(("number", "turbines"), [(0, ()), (1, ("T01", "T01")), (1, ("",))])
def test_a_fill_that_makes_no_sense_is_refused(number: int, turbines: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match="at least one day and names that differ"):
        fill("postgresql://unused", days=number, turbines=turbines)


@pytest.mark.parametrize("url", ["postgresql://me:hidden@127.0.0.1:1/none", "postgres:/me:hidden@somewhere/none"])
def test_a_database_that_is_not_there_is_said_without_its_password(url: str) -> None:
    with pytest.raises(SourceFailed, match="the source database failed") as refused:
        fill(url)
    assert "hidden" not in str(refused.value)


# What the API says


def test_an_answer_has_the_columns_asked_for_from_start_to_before_end(api: Api, days: dict[datetime, Row]) -> None:
    found = api.rows(minute("00:00"), minute("00:02"), "power", "wind_speed")
    at = datetime(2024, 5, 20, tzinfo=UTC)
    assert found == [
        {"timestamp": minute("00:00"), "power": days[at]["power"], "wind_speed": days[at]["wind_speed"]},
        {
            "timestamp": minute("00:01"),
            "power": days[at + MINUTE]["power"],
            "wind_speed": days[at + MINUTE]["wind_speed"],
        },
    ]
    assert list(found[0]) == ["timestamp", "power", "wind_speed"]


def test_json_and_arrow_say_what_is_in_the_database(api: Api, days: dict[datetime, Row]) -> None:
    expected = [
        {name: row[name] for name in ("timestamp", *SIGNALS)} for row in days.values() if row["timestamp"].day == 26
    ]
    asked = ("2024-05-26", "2024-05-27", *SIGNALS)
    found = api.table(*asked)
    assert found.schema == pa.schema([("timestamp", pa.timestamp("us")), *((name, pa.float64()) for name in SIGNALS)])
    assert found.to_pylist() == expected
    answer = api.get(*asked)
    assert [{**row, "timestamp": datetime.fromisoformat(row["timestamp"])} for row in answer.json()] == expected
    assert answer.text.count("null") == 30 + 10 + 1
    assert int(answer.headers["Content-Length"]) == len(answer.content)


def test_a_long_answer_is_streamed_in_pieces(source_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_database, "_BATCH_BYTES", 20_000)
    monkeypatch.setattr("etl_assets.systems.turbines.simulator._WHOLE_BYTES", 100_000)
    with serving(source_url) as api:
        everything = ("2024-05-20", "2024-05-30", "wind_speed")
        answer = api.get(*everything)
        assert answer.headers["Transfer-Encoding"] == "chunked"
        stamps = [row["timestamp"] for row in answer.json()]
        assert len(stamps) == len(set(stamps)) == 14_400 - 180 - 13 - 9 - 60
        table = api.table(*everything)
        assert table.num_rows == len(stamps) and table["wind_speed"].num_chunks > 5


@pytest.mark.parametrize("accept", ["application/json", ARROW])
def test_an_interval_without_rows_is_an_empty_answer(api: Api, accept: str) -> None:
    answer = api.get("2030-01-01", "2030-01-02", accept=accept)
    assert answer.json() == [] if accept != ARROW else pa.ipc.open_stream(answer.content).read_all().num_rows == 0
    assert api.rows(minute("00:00"), minute("00:00")) == []


def test_unknown_columns_are_refused_only_when_all_are(api: Api) -> None:
    (row,) = api.rows(minute("00:00"), minute("00:01"), "power", "pitch", "power", "id")
    assert list(row) == ["timestamp", "power"]
    refused = api.get(minute("00:00"), minute("00:01"), "pitch", "id")
    assert (refused.status_code, refused.json()) == (400, {"detail": "Invalid column names"})
    assert api.rows(minute("00:00"), minute("00:01"), "timestamp") == [{"timestamp": minute("00:00")}]


@pytest.mark.parametrize(
    "query",
    [
        {"start_timestamp": "yesterday"},
        {"end_timestamp": "2024-05-20T25:00:00"},
        {"start_timestamp": "2024-05-20T00:00:00Z"},
        {"start_timestamp": None},
        {"end_timestamp": None},
        {"columns": None},
        {"end_timestamp": "2024-05-19T23:59:59"},
    ],
)
def test_a_request_that_cannot_be_understood_is_a_422(api: Api, query: dict[str, Any]) -> None:
    answer = api.get(**query)
    assert answer.status_code == 422 and answer.json()["detail"]


def test_a_turbine_is_asked_for_by_name(farm: Api) -> None:
    first, second = (farm.table(turbine=name) for name in ("T01", "T02"))
    assert first.num_rows == second.num_rows == 3 and first["wind_speed"] != second["wind_speed"]
    unknown, none = farm.get(turbine="T09"), farm.get()
    assert (unknown.status_code, unknown.json()) == (404, {"detail": "there is no turbine 'T09': known are T01, T02"})
    assert (none.status_code, none.json()) == (422, {"detail": "turbine is missing: known are T01, T02"})


def test_a_source_of_one_turbine_does_not_know_turbines(api: Api) -> None:
    assert api.rows(turbine="T09") == api.rows()


def test_a_row_is_found_by_its_number(api: Api, farm: Api, days: dict[datetime, Row]) -> None:
    first = days[datetime(2024, 5, 20, tzinfo=UTC)]
    expected = {"id": 1, "timestamp": minute("00:00"), **{name: first[name] for name in SIGNALS}}
    assert requests.get(f"{api.url}/data/1", timeout=5).json() == expected
    assert requests.get(f"{farm.url}/data/1441", timeout=5).json()["turbine"] == "T02"
    for number in (0, 1_440 + 121, 10**30):  # the second: a missing minute
        answer = requests.get(f"{api.url}/data/{number}", timeout=5)
        assert (answer.status_code, answer.json()) == (404, {"detail": f"there is no row {number}"})
    assert requests.get(f"{api.url}/data/first", timeout=5).status_code == 422


def test_the_api_describes_itself(api: Api) -> None:
    assert "swagger" in requests.get(f"{api.url}/docs", timeout=5).text
    (described,) = requests.get(f"{api.url}/openapi.json", timeout=5).json()["paths"]["/data"].values()
    assert set(described["responses"]) == {"200", "400", "404", "422"}
    assert set(described["responses"]["200"]["content"]) == {"application/json", ARROW}


@pytest.mark.long
def test_a_source_that_was_not_filled_is_a_503_and_then_served(empty_database_url: str) -> None:
    with serving(empty_database_url) as api:
        missing = api.get()
        assert missing.status_code == 503 and 'relation "public.data" does not exist' in missing.json()["detail"]
        fill(empty_database_url, days=1)
        assert len(api.rows()) == 3


@pytest.mark.long
def test_a_database_that_was_restarted_costs_one_request(empty_database_url: str) -> None:
    fill(empty_database_url, days=1)
    with serving(empty_database_url) as api:
        with ThreadPoolExecutor(4) as pool:
            assert {len(found) for found in pool.map(lambda _: api.rows(), range(8))} == {3}
        with psycopg.connect(empty_database_url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        assert [api.get().status_code for _ in range(3)] == [503, 200, 200]


# What it does wrong


@pytest.mark.parametrize("limit", [1_000, 1_000_000], ids=["streamed", "whole"])
def test_a_fault_is_one_of_a_whole_and_of_a_streamed_answer(
    api: Api, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr("etl_assets.systems.turbines.simulator._WHOLE_BYTES", limit)
    day = ("2024-05-20", "2024-05-21")
    whole = api.get(*day).content
    api.simulator.faults.script("data", ["500", "429-retry-after", "html", "truncated-json"])
    assert api.get(*day).status_code == 500
    assert api.get(*day).headers["Retry-After"] == "1"
    assert api.get(*day).headers["Content-Type"].startswith("text/html")
    cut = api.get(*day).content
    assert cut and whole.startswith(cut) and len(cut) < len(whole)
    for kind in ("reset-mid-body", "short-body"):
        api.simulator.faults.script("data", [kind])
        with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
            api.get(*day)
    assert api.get(*day).content == whole


def test_the_row_at_the_end_may_be_included(api: Api) -> None:
    api.quirks(include_end=True)
    assert [row["timestamp"] for row in api.rows()] == [minute(f"00:0{number}") for number in range(4)]


def test_rows_may_come_in_any_order(api: Api) -> None:
    day = ("2024-05-20", "2024-05-21")
    ordered = api.rows(*day)
    api.quirks(shuffled=True)
    shuffled = api.rows(*day)
    assert shuffled != ordered
    assert sorted(shuffled, key=lambda row: row["timestamp"]) == ordered


@pytest.mark.parametrize("differs", [False, True])
def test_a_minute_may_come_twice_of_which_the_later_is_right(api: Api, differs: bool) -> None:
    right = {row["timestamp"]: row for row in api.rows("2024-05-20", "2024-05-21")}
    api.quirks(shuffled=True, repeat_every=7, repeat_differs=differs)
    found = api.rows("2024-05-20", "2024-05-21")
    assert len(found) == 1_440 + len(
        [stamp for stamp in right if int(stamp[11:13]) * 60 + int(stamp[14:16]) in sevenths()]
    )
    assert {row["timestamp"]: row for row in found} == right
    first = {row["timestamp"]: row for row in reversed(found)}
    wrong = [stamp for stamp in right if first[stamp] != right[stamp]]
    assert len(wrong) == (len(found) - 1_440 if differs else 0)


def sevenths() -> set[int]:
    """The minutes of the first day whose number since 1970 can be divided by seven."""
    first = int(datetime(2024, 5, 20, tzinfo=UTC).timestamp()) // 60
    return {number for number in range(1_440) if (first + number) % 7 == 0}


def test_late_minutes_come_when_they_are_released(farm: Api) -> None:
    farm.simulator.hold(datetime(2024, 5, 20, 0, 1, tzinfo=UTC), datetime(2024, 5, 20, 0, 3, tzinfo=UTC), turbine="T02")
    assert [row["timestamp"] for row in farm.rows(turbine="T02")] == [minute("00:00")]
    assert len(farm.rows(turbine="T01")) == 3
    farm.simulator.release()
    assert len(farm.rows(turbine="T02")) == 3


def test_columns_may_be_added_and_renamed(api: Api) -> None:
    expected = api.rows()
    api.quirks(extra_column="operator_note", renamed={"power": "active_power", "timestamp": "time"})
    assert [list(row) for row in api.rows()] == [["time", "wind_speed", "active_power", "operator_note"]] * 3
    assert api.table().to_pylist()[0] == {
        "time": datetime(2024, 5, 20),
        "wind_speed": expected[0]["wind_speed"],
        "active_power": expected[0]["power"],
        "operator_note": "ok",
    }
    assert api.table("2030-01-01", "2030-01-02").schema.names == ["time", "wind_speed", "active_power", "operator_note"]


@pytest.mark.parametrize(("as_text", "said"), [(False, "NaN"), (True, '"NaN"')])
def test_numbers_may_be_text_and_null_may_be_nan(api: Api, as_text: bool, said: str) -> None:
    asked = ("2024-05-26T07:59:00", "2024-05-26T08:01:00", "wind_speed")
    known, _ = (row["wind_speed"] for row in api.rows(*asked))
    api.quirks(numbers_as_text=as_text, nan=True)
    number = json.dumps(str(known) if as_text else known)
    assert api.get(*asked).text == (
        f'[{{"timestamp":"2024-05-26T07:59:00","wind_speed":{number}}},'
        f'{{"timestamp":"2024-05-26T08:00:00","wind_speed":{said}}}]'
    )
    _, missing = api.table(*asked)["wind_speed"].to_pylist()
    assert missing == "NaN" if as_text else math.isnan(missing)


def test_text_without_a_number_stays_null(api: Api) -> None:
    api.quirks(numbers_as_text=True)
    (row,) = api.rows("2024-05-26T08:00:00", "2024-05-26T08:01:00", "wind_speed")
    assert row["wind_speed"] is None


def test_quirks_are_set_and_cleared_over_http(api: Api) -> None:
    controls = f"{api.url}/_control/quirks"
    late = {"begin": "2024-05-20T00:00:00Z", "end": "2024-05-20T00:02:00Z"}
    assert requests.put(controls, json={"late": [late], "include_end": True}, timeout=5).status_code == 200
    assert [row["timestamp"] for row in api.rows()] == [minute("00:02"), minute("00:03")]
    assert requests.put(controls, json={"shufled": True}, timeout=5).status_code == 422
    assert requests.get(controls, timeout=5).json()["include_end"] is True
    requests.post(f"{api.url}/_control/reset", timeout=5)
    assert requests.get(controls, timeout=5).json() == Quirks().model_dump()


# At length


@contextmanager
def commanded(*options: str, serves: str) -> Iterator[tuple[str, int]]:
    """URL and process of `etl-assets simulate turbines`, which ends well when it is told to."""
    command = [sys.executable, "-m", "etl_assets.cli", "simulate", "turbines", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as simulator:
        assert simulator.stdout
        try:
            line = re.fullmatch(r"(.*) on (http://127.0.0.1:\d+)\n", simulator.stdout.readline())
            assert line and line[1] == serves
            yield line[2], simulator.pid
        finally:
            simulator.send_signal(signal.SIGTERM)
        assert simulator.wait(30) == 0


@pytest.mark.long
def test_the_command_fills_a_database_of_the_embedded_server(data_dir: Path) -> None:
    options = ("--days", "2", "--turbines", "T01, T02", "--start", "2024-06-01")
    try:
        with commanded(*options, serves="signals of T01, T02") as (url, _):
            first = requests.get(f"{url}/data/1", timeout=5).json()
            assert (first["turbine"], first["timestamp"]) == ("T01", "2024-06-01T00:00:00")
    finally:
        EmbeddedPostgres(data_dir).purge()


@pytest.mark.long
def test_ten_million_rows_stream_in_constant_memory_and_no_broken_answer_looks_whole(empty_database_url: str) -> None:
    options = ("--database-url", empty_database_url, "--days", "6945")
    with commanded(*options, serves="signals of one turbine") as (url, process):
        _stream_at_length(url, process, empty_database_url, 6_945)


def _stream_at_length(url: str, pid: int, database_url: str, days: int) -> None:
    asked = {
        "start_timestamp": "2024-05-20",
        "end_timestamp": (DAY + timedelta(days=days)).isoformat(),
        "columns": ["wind_speed", "power", "ambient_temperature"],
    }
    requests.get(f"{url}/data", params={**asked, "end_timestamp": "2024-07-20"}, timeout=60)
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
    before = _peak_mb(pid)
    for accept in ("application/json", ARROW):
        with requests.get(f"{url}/data", params=asked, headers={"Accept": accept}, stream=True, timeout=60) as answer:
            if accept == ARROW:
                received = sum(batch.num_rows for batch in pa.ipc.open_stream(answer.raw))
            else:
                received = sum(piece.count(b"{") for piece in answer.iter_content(1 << 20))
        assert received == days * 1_440 - sum(
            (one.end - one.begin) // MINUTE for one in planted(days=days) if one.kind == "gap"
        )
    assert _peak_mb(pid) < before + 60
    with psycopg.connect(database_url, autocommit=True) as connection:
        reading = (
            "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND backend_type = 'client backend' AND state = 'active'"
        )
        with requests.get(f"{url}/data", params=asked, stream=True, timeout=60) as answer:
            assert answer.raw.read(1_000)
            assert connection.execute(f"SELECT pg_terminate_backend(pid) {reading}").fetchall() == [(True,)]
            with pytest.raises(requests.exceptions.ChunkedEncodingError):
                sum(map(len, answer.iter_content(1 << 20)))
        with requests.get(f"{url}/data", params=asked, stream=True, timeout=60) as answer:
            assert answer.raw.read(1_000)
            # The session that was ended may take a moment to be gone.
            _until(lambda: connection.execute(f"SELECT count(*) {reading}").fetchone() == (1,), "one query alone")
        # The client went away.
        _until(lambda: connection.execute(f"SELECT count(*) {reading}").fetchone() == (0,), "the end of its query")


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"not seen: {what}"


def _peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]
