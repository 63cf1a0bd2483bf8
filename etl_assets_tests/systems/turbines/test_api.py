"""The client against a real server: what it asks for, and what becomes of each fault that can reach it."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest
from fastapi import Request, Response

from etl_assets.core.sources.http.client import ApiRefused, ApiUnavailable, Limits
from etl_assets.errors import ConfigurationError, PermanentError, TransientError
from etl_assets.simulators.controls import simulator_app
from etl_assets.simulators.faults import KINDS, Faults
from etl_assets.simulators.server import serve
from etl_assets.systems.turbines.answers import UnknownColumns
from etl_assets.systems.turbines.settings import TurbinesSettings
from etl_assets.systems.turbines.source import TurbinesApi
from etl_assets.systems.turbines.transform import Minutes
from etl_assets_tests.limits import QUICK, STALL_S, limits_for

START = datetime(2024, 5, 20, tzinfo=UTC)
JSON, ARROW = "application/json", "application/vnd.apache.arrow.stream"
RETRIED = sorted(set(KINDS) - {"slow"})
# Faults of the body: what comes may look like a part of the answer.
DAMAGED = ("empty", "html", "reset-mid-body", "short-body", "truncated-json")
ROWS = [{"timestamp": f"2024-05-20T{hour:02}:00:00", "power": hour * 1.5} for hour in range(24)]


def in_arrow(rows: list[dict[str, Any]]) -> bytes:
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    columns["timestamp"] = pa.array([datetime.fromisoformat(time) for time in columns["timestamp"]], pa.timestamp("us"))
    table, sink = pa.table(columns), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=10)
    return bytes(sink.getvalue())


FORMS = {JSON: json.dumps(ROWS).encode(), ARROW: in_arrow(ROWS)}


@dataclass
class Source:
    """A small server that says one thing to everybody, and fails on plan."""

    faults: Faults = field(default_factory=Faults)
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    status: int = 200
    body: bytes = b"[]"
    headers: dict[str, str] = field(default_factory=dict)

    def says(self, body: bytes, content_type: str = JSON, *, status: int = 200, **headers: str) -> None:
        self.body, self.status = body, status
        self.headers = {"Content-Type": content_type, **{n.replace("_", "-"): v for n, v in headers.items()}}

    def app(self) -> Any:
        app = simulator_app("Source", self.faults)

        @app.get("/data")
        async def data(request: Request) -> Response:
            self.requests.append(request)
            return Response(self.body, self.status, headers=self.headers)

        return app

    def minutes(self, *, columns: tuple[str, ...] = ("power",), limits: Limits = QUICK) -> Minutes:
        api = TurbinesApi(self.url, limits=limits)
        return api.minutes(start=START, end=START + timedelta(days=1), columns=columns)

    def asked(self, parameter: str) -> list[str]:
        return self.requests[-1].query_params.getlist(parameter)


@pytest.fixture(scope="module")
def served() -> Iterator[Source]:
    source = Source()
    with serve(source.app()) as source.url:
        yield source


@pytest.fixture
def source(served: Source) -> Source:
    served.faults.clear()
    served.faults.retry_after_s, served.faults.stall_s = 0.0, STALL_S
    served.requests.clear()
    served.says(FORMS[JSON])
    return served


@pytest.fixture(params=[JSON, ARROW], ids=["json", "arrow"])
def whole(request: pytest.FixtureRequest, source: Source) -> Source:
    """The source with a day in JSON, and with the same in Arrow."""
    source.says(FORMS[request.param], request.param)
    return source


def assert_whole(minutes: Minutes) -> None:
    expected = [(START + timedelta(hours=hour), hour * 1.5, hour) for hour in range(24)]
    assert [tuple(row.values()) for row in minutes.table.to_pylist()] == expected
    assert (minutes.outside, minutes.rejected) == (0, [])


# What is asked for


def test_a_stretch_of_time_and_columns_are_asked_for_in_arrow_or_else_json(whole: Source) -> None:
    assert_whole(whole.minutes(columns=("power", "power")))
    assert whole.asked("start_timestamp") == ["2024-05-20T00:00:00"]
    assert whole.asked("end_timestamp") == ["2024-05-21T00:00:00"]
    assert whole.asked("columns") == ["power"]
    assert whole.asked("turbine") == []
    assert whole.requests[-1].headers["accept"] == f"{ARROW}, application/json;q=0.5"


def test_several_columns_and_a_turbine_are_asked_for_by_name(source: Source) -> None:
    source.says(b"[]")
    api = TurbinesApi(source.url, limits=QUICK)
    api.minutes(start=START, end=START + timedelta(minutes=1), columns=["power", "wind speed"], turbine="T 01&x")
    assert source.asked("columns") == ["power", "wind speed"]
    assert source.asked("turbine") == ["T 01&x"]


@pytest.mark.parametrize(
    ("zone", "start", "first", "last"),
    [
        pytest.param("Etc/GMT+3", datetime(2024, 5, 20), "2024-05-19T21:00:00", "2024-05-20T21:00:00", id="fixed"),
        pytest.param("Europe/Berlin", datetime(2024, 5, 20), "2024-05-20T02:00:00", "2024-05-21T02:00:00", id="summer"),
        pytest.param("Europe/Berlin", datetime(2024, 3, 30), "2024-03-30T01:00:00", "2024-03-31T01:00:00", id="before"),
        # In spring an hour more is asked for than there is.
        pytest.param("Europe/Berlin", datetime(2024, 3, 31), "2024-03-31T01:00:00", "2024-04-01T02:00:00", id="spring"),
        # The times from 00:00 UTC are written from 02:00 on, those from 01:00 UTC from 02:00 on once more.
        pytest.param(
            "Europe/Berlin", datetime(2024, 10, 27), "2024-10-27T01:00:00", "2024-10-28T02:00:00", id="autumn"
        ),
        pytest.param(
            "Europe/Berlin",
            datetime(2024, 10, 27, 0, 30),
            "2024-10-27T01:30:00",
            "2024-10-28T02:30:00",
            id="in the fold",
        ),
        pytest.param(
            "UTC", datetime(2023, 12, 31), "2023-12-31T00:00:00", "2024-01-01T00:00:00", id="turn of the year"
        ),
    ],
)
def test_the_source_is_asked_in_its_own_zone_for_all_that_is_wanted(
    source: Source, zone: str, start: datetime, first: str, last: str
) -> None:
    source.says(b"[]")
    start = start.replace(tzinfo=UTC)
    TurbinesApi(source.url, zone=zone).minutes(start=start, end=start + timedelta(days=1), columns=["power"])
    assert (source.asked("start_timestamp"), source.asked("end_timestamp")) == ([first], [last])


def test_what_an_asking_around_a_change_of_the_clocks_brings_too_much_is_left_out(source: Source) -> None:
    times = ["2024-10-28T00:59:00", "2024-10-28T01:00:00"]
    source.says(json.dumps([{"timestamp": time, "power": 1} for time in times]).encode())
    start = datetime(2024, 10, 27, tzinfo=UTC)
    minutes = TurbinesApi(source.url, zone="Europe/Berlin").minutes(
        start=start, end=start + timedelta(days=1), columns=["power"]
    )
    assert minutes.table["timestamp"].to_pylist() == [datetime(2024, 10, 27, 23, 59, tzinfo=UTC)]
    assert minutes.outside == 1


def test_a_source_that_labels_minutes_by_their_end_is_asked_a_minute_later(source: Source) -> None:
    source.says(json.dumps([{"timestamp": "2024-05-21T00:00:00", "power": 1}]).encode())
    api = TurbinesApi(source.url, late=timedelta(minutes=1))
    minutes = api.minutes(start=START, end=START + timedelta(days=1), columns=["power"])
    assert (source.asked("start_timestamp"), source.asked("end_timestamp")) == (
        ["2024-05-20T00:01:00"],
        ["2024-05-21T00:01:00"],
    )
    assert minutes.table["timestamp"].to_pylist() == [START + timedelta(minutes=1439)]


def test_a_signal_is_asked_for_as_the_source_spells_it_from_the_second_time_on(source: Source) -> None:
    source.says(json.dumps([{"timestamp": "2024-05-20T00:00:00", "power": 1, "ambient_temprature": 9}]).encode())
    api = TurbinesApi(source.url)
    for requests in (2, 3):
        minutes = api.minutes(start=START, end=START + timedelta(days=1), columns=["power", "ambient_temperature"])
        assert minutes.table["ambient_temperature"].to_pylist() == [9.0]
        assert len(source.requests) == requests
        assert source.asked("columns") == ["power", "ambient_temprature"]


def test_times_may_be_given_in_any_zone(source: Source) -> None:
    east = START.astimezone(timezone(timedelta(hours=5)))
    TurbinesApi(source.url).minutes(start=east, end=east + timedelta(days=1), columns=["power"])
    assert source.asked("start_timestamp") == ["2024-05-20T00:00:00"]


@pytest.mark.parametrize(
    ("start", "end", "columns"),
    [
        (START.replace(tzinfo=None), START, ["power"]),
        (START, START, ["power"]),
        (START + timedelta(days=1), START, ["power"]),
        (START, START + timedelta(days=1), []),
        (START, START + timedelta(days=1), ["power", "timestamp"]),
        (START, START + timedelta(days=1), [""]),
    ],
)
def test_a_question_that_makes_no_sense_is_not_asked(
    source: Source, start: datetime, end: datetime, columns: list[str]
) -> None:
    with pytest.raises(ValueError, match="name at least one|give two aware times"):
        TurbinesApi(source.url).minutes(start=start, end=end, columns=columns)
    assert source.requests == []


@pytest.mark.parametrize("zone", ["", "Europe", "Mars/Phobos", "../etc/passwd", "Europe/Berlin "])
def test_a_zone_that_does_not_exist_is_refused_and_named(zone: str) -> None:
    with pytest.raises(ConfigurationError, match="TURBINES_ZONE: .*must be a name like UTC or Europe/Lisbon"):
        TurbinesSettings.load(turbines_zone=zone)


def test_a_base_url_that_cannot_be_right_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="turbines API: the base URL is not of the form"):
        TurbinesApi("source:8000")


def test_each_thread_asks_over_a_connection_of_its_own(whole: Source) -> None:
    api = TurbinesApi(whole.url, limits=QUICK)

    def ask() -> int | None:
        assert_whole(api.minutes(start=START, end=START + timedelta(days=1), columns=["power"]))
        client = whole.requests[-1].client
        return client.port if client else None

    here, here_again = ask(), ask()
    with ThreadPoolExecutor(1) as thread:
        there = thread.submit(ask).result()
    assert here == here_again != there


# Faults that pass


@pytest.mark.parametrize("kind", RETRIED)
def test_any_passing_fault_ends_in_the_whole_answer(whole: Source, kind: str) -> None:
    # A date has whole seconds, so that one of now may be in a second; one that is over asks for no wait.
    whole.faults.retry_after_s = -2.0 if kind.endswith("-date") else 0.0
    whole.faults.script("data", [kind])
    assert_whole(whole.minutes(limits=limits_for(kind)))
    assert whole.faults.count("data", kind) == whole.faults.count("data", "none") == 1


# Faults that last


@pytest.mark.parametrize("kind", [*DAMAGED, pytest.param("timeout-mid-body", marks=pytest.mark.long)])
def test_a_body_that_is_not_whole_is_never_taken_for_one(whole: Source, kind: str) -> None:
    whole.faults.rates("data", {kind: 1.0})
    with pytest.raises(ApiUnavailable, match=r"turbines API, GET /data\?.*: tried 3 times .* at last: ") as caught:
        whole.minutes(limits=limits_for(kind))
    assert isinstance(caught.value, TransientError)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("500", "answered 500"),
        ("502", "answered 502"),
        ("503", "answered 503"),
        ("504", "answered 504"),
        ("408", "answered 408"),
        ("429", "answered 429"),
        ("timeout", "the answer did not come in time"),
        ("reset", "the connection was reset"),
    ],
)
def test_an_outage_that_lasts_says_what_it_is(source: Source, kind: str, what: str) -> None:
    source.faults.rates("data", {kind: 1.0})
    with pytest.raises(ApiUnavailable, match=f"tried 3 times .* at last: {what}"):
        source.minutes(limits=limits_for(kind))


def test_an_arrow_stream_that_ends_between_two_batches_is_cut_off(source: Source) -> None:
    source.says(FORMS[ARROW][:-8], ARROW)
    with pytest.raises(ApiUnavailable, match="answered 200 with an Arrow stream without its end mark: it is cut off"):
        source.minutes()


def test_one_byte_at_a_time_ends_at_the_deadline(whole: Source) -> None:
    whole.faults.rates("data", {"slow": 1.0})
    with pytest.raises(
        ApiUnavailable, match=r"tried once .*\(deadline 0\.3 s\), at last: the answer did not come in time"
    ):
        whole.minutes(limits=Limits(deadline_s=0.3))


def test_an_absurd_retry_after_fails_at_once_and_says_so(source: Source) -> None:
    source.says(b"{}", status=429, Retry_After="86400")
    with pytest.raises(ApiUnavailable, match=r"asks to wait 86400 s, longer than the [45]\.\d s left of the deadline"):
        source.minutes()
    assert len(source.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 422])
def test_a_refusal_fails_at_once_with_what_the_source_said(source: Source, status: int) -> None:
    source.says(b'{"detail": "not for you"}', status=status)
    with pytest.raises(ApiRefused, match=f"answered {status} \\(“not for you”\\)") as caught:
        source.minutes()
    assert isinstance(caught.value, PermanentError)
    assert len(source.requests) == 1


def test_a_redirect_loop_ends(source: Source) -> None:
    source.says(b"", status=302, Location="/data")
    with pytest.raises(ApiRefused, match="redirected more than 5 times"):
        source.minutes()
    assert len(source.requests) == 6


def test_a_source_that_takes_no_connection_is_tried_again_and_named() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        said = f"tried 3 times .*: no connection was accepted: check that TURBINES_API_URL is right and that {url} can"
        with pytest.raises(ApiUnavailable, match=said):
            Source(url=url).minutes()


def test_a_connection_that_times_out_is_tried_again_and_named() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        limits = Limits(connect_timeout_s=0.05, max_attempts=2, base_delay_s=0.0)
        with pytest.raises(ApiUnavailable, match="tried 2 times .* at last: the connection timed out"):
            Source(url=f"http://127.0.0.1:{full.getsockname()[1]}").minutes(limits=limits)
        for one in waiting:
            one.close()


def test_a_host_without_an_address_is_tried_again_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_address(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_address)
    with pytest.raises(ApiUnavailable, match="at last: the host's name was not found"):
        Source(url="http://source.invalid").minutes()


def test_a_failed_tls_handshake_fails_at_once(source: Source) -> None:
    with pytest.raises(ApiRefused, match="the TLS handshake failed: check the certificate"):
        Source(url=source.url.replace("http:", "https:")).minutes()


# Answers that are whole and wrong


@pytest.mark.parametrize("content_type", ["text/html", "text/plain; charset=latin-1", "x"])
def test_json_under_a_wrong_type_or_charset_is_read(source: Source, content_type: str) -> None:
    source.says(FORMS[JSON], content_type)
    assert_whole(source.minutes())


@pytest.mark.parametrize(
    ("body", "content_type", "what"),
    [
        (FORMS[JSON], ARROW, "an Arrow stream without its end mark: it is cut off, or is none"),
        (FORMS[ARROW], JSON, "text that is not utf-8"),
        (b"pong", "text/plain", "invalid JSON"),
        (b"<html>login</html>", JSON, "a page"),
        (b"", ARROW, "an empty body"),
    ],
)
def test_what_is_not_what_it_is_declared_as_is_asked_for_again(
    source: Source, body: bytes, content_type: str, what: str
) -> None:
    source.says(body, content_type)
    with pytest.raises(ApiUnavailable, match=f"tried 3 times .* at last: answered 200 with {what}"):
        source.minutes()


@pytest.mark.parametrize("body", [b'{"rows": []}', b"null", b'"text"'])
def test_an_answer_that_is_no_array_fails_at_once(source: Source, body: bytes) -> None:
    source.says(body)
    with pytest.raises(
        ApiRefused, match=r"turbines API, GET /data\?start_timestamp=.*answered 200 .* not with an array"
    ):
        source.minutes()
    assert len(source.requests) == 1


@pytest.mark.parametrize("said", [{"detail": "Invalid column names"}, {"message": "invalid column names: x"}])
def test_columns_that_the_source_refuses_are_named(source: Source, said: dict[str, str]) -> None:
    source.says(json.dumps(said).encode(), status=400)
    with pytest.raises(UnknownColumns, match="the source knows none of rotor_speed, pitch: ask for") as caught:
        source.minutes(columns=("rotor_speed", "pitch"))
    assert caught.value.columns == ("rotor_speed", "pitch")
    assert isinstance(caught.value, PermanentError)
    assert len(source.requests) == 1


def test_a_column_that_is_absent_beside_known_ones_is_named_at_once(whole: Source) -> None:
    with pytest.raises(UnknownColumns, match="no row has pitch, there is timestamp, power: ") as caught:
        whole.minutes(columns=("power", "pitch"))
    assert caught.value.columns == ("pitch",)
    assert len(whole.requests) == 1


def test_rows_with_a_fault_say_where_they_came_from(source: Source) -> None:
    source.says(json.dumps([*ROWS, {"timestamp": "2024-05-20T00:01:00", "power": "N/A"}]).encode())
    api = TurbinesApi(source.url, limits=QUICK)
    minutes = api.minutes(start=START, end=START + timedelta(days=1), columns=["power"], turbine="T01")
    assert minutes.table.num_rows == 25
    assert [record.source for record in minutes.records] == [
        "GET /data?start_timestamp=2024-05-20T00:00:00&end_timestamp=2024-05-21T00:00:00&columns=power&turbine=T01,"
        " element 24"
    ]


def test_a_body_beyond_the_limit_is_refused(whole: Source) -> None:
    with pytest.raises(ApiRefused, match="the body is longer than 100 bytes: ask for less at a time"):
        whole.minutes(limits=Limits(max_body_bytes=100))
