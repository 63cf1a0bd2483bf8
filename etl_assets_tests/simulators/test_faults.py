"""Each fault from the client's side, and whether the handler ran."""

import logging
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
import requests

from etl_assets.simulators.controls import simulator_app
from etl_assets.simulators.faults import KINDS, FaultMiddleware, Faults
from etl_assets.simulators.server import serve

ANSWER = b'{"rows":[1,2,3]}'


class Notebook:
    """A small API whose one call leaves a trace, with its faults."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.notes: list[bytes] = []
        self.app = simulator_app("Notebook", self.faults)
        self.url = ""

        @self.app.post("/notes/{name}")
        async def note(name: str) -> dict[str, list[int]]:
            self.notes.append(name.encode())
            return {"rows": [1, 2, 3]}

    def call(self, *, timeout: float = 2.0) -> requests.Response:
        return requests.post(f"{self.url}/notes/a", timeout=timeout)


@pytest.fixture(scope="module")
def served() -> Iterator[Notebook]:
    notebook = Notebook()
    with serve(notebook.app) as notebook.url:
        yield notebook


@pytest.fixture
def notebook(served: Notebook) -> Notebook:
    served.faults.clear()
    served.faults.retry_after_s, served.faults.stall_s, served.faults.byte_interval_s = 1, 0.3, 0.001
    served.notes.clear()
    return served


def test_without_a_plan_everything_works(notebook: Notebook) -> None:
    assert notebook.call().content == ANSWER
    assert notebook.faults.counts() == {"notes": {"none": 1}}


@pytest.mark.parametrize("kind", ["408", "429", "500", "502", "503", "504"])
def test_a_status_comes_with_a_message_and_without_an_effect(notebook: Notebook, kind: str) -> None:
    notebook.faults.script("notes", [kind])
    answer = notebook.call()
    assert answer.status_code == int(kind)
    assert set(answer.json()) == {"message"}
    assert "Retry-After" not in answer.headers
    assert notebook.notes == []


def test_a_429_asks_for_seconds(notebook: Notebook) -> None:
    notebook.faults.retry_after_s = 7
    notebook.faults.script("notes", ["429-retry-after"])
    answer = notebook.call()
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")


def test_a_429_asks_for_a_date(notebook: Notebook) -> None:
    notebook.faults.retry_after_s = 60
    notebook.faults.script("notes", ["429-retry-after-date"])
    answer = notebook.call()
    until = parsedate_to_datetime(answer.headers["Retry-After"])
    assert answer.status_code == 429
    assert 58 < (until - datetime.now(UTC)).total_seconds() <= 61


@pytest.mark.parametrize(("kind", "notes"), [("reset", []), ("response-lost", [b"a"])])
def test_a_reset_comes_before_or_after_the_effect(notebook: Notebook, kind: str, notes: list[bytes]) -> None:
    notebook.faults.script("notes", [kind])
    with pytest.raises(requests.ConnectionError, match="Connection reset by peer"):
        notebook.call()
    assert notebook.notes == notes


@pytest.mark.long
@pytest.mark.parametrize(("kind", "notes"), [("timeout-before-commit", []), ("timeout", [b"a"])])
def test_a_timeout_comes_before_or_after_the_effect(notebook: Notebook, kind: str, notes: list[bytes]) -> None:
    notebook.faults.stall_s = 2.0
    notebook.faults.script("notes", [kind])
    with pytest.raises(requests.ReadTimeout):
        notebook.call(timeout=0.5)
    assert notebook.notes == notes


def test_a_client_that_waits_longer_than_the_timeout_gets_the_answer(notebook: Notebook) -> None:
    notebook.faults.stall_s = 0.05
    notebook.faults.script("notes", ["timeout", "timeout-before-commit"])
    assert notebook.call().content == ANSWER
    with pytest.raises(requests.ConnectionError, match="Connection reset by peer"):
        notebook.call()
    assert notebook.notes == [b"a"]


def exchanged(notebook: Notebook) -> tuple[bytes, BaseException | None]:
    """What comes over the wire, and how it ends."""
    received = b""
    host, port = notebook.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=2) as connection:
        connection.sendall(b"POST /notes/a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        try:
            while chunk := connection.recv(4096):
                received += chunk
        except ConnectionError as error:
            return received, error
    return received, None


def test_a_reset_in_mid_body_breaks_the_stream(notebook: Notebook) -> None:
    notebook.faults.script("notes", ["reset-mid-body"])
    received, error = exchanged(notebook)
    assert isinstance(error, ConnectionResetError)
    assert received.endswith(b"\r\n\r\n" + ANSWER[:8])
    assert notebook.notes == [b"a"]


def test_a_short_body_ends_before_its_declared_length(notebook: Notebook) -> None:
    notebook.faults.script("notes", ["short-body"])
    received, error = exchanged(notebook)
    assert error is None
    assert b"content-length: 16\r\n" in received
    assert received.endswith(b"\r\n\r\n" + ANSWER[:8])


def test_truncated_json_is_a_valid_answer_with_half_a_document(notebook: Notebook) -> None:
    notebook.faults.script("notes", ["truncated-json"])
    answer = notebook.call()
    assert (answer.status_code, answer.headers["Content-Length"], answer.content) == (200, "8", ANSWER[:8])
    assert notebook.notes == [b"a"]


def test_an_html_page_takes_the_place_of_the_answer(notebook: Notebook) -> None:
    notebook.faults.script("notes", ["html"])
    answer = notebook.call()
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert answer.content.startswith(b"<!doctype html>")
    assert notebook.notes == [b"a"]


def test_an_empty_body_comes_with_200(notebook: Notebook) -> None:
    notebook.faults.script("notes", ["empty"])
    answer = notebook.call()
    assert (answer.status_code, answer.content) == (200, b"")


def test_slow_is_a_byte_at_a_time(notebook: Notebook) -> None:
    notebook.faults.byte_interval_s = 0.01
    notebook.faults.script("notes", ["slow"])
    started = time.monotonic()
    assert notebook.call().content == ANSWER
    assert time.monotonic() - started > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_no_fault_is_in_the_servers_log_or_in_the_way_of_the_next_request(
    notebook: Notebook, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    notebook.faults.stall_s = 0.01
    notebook.faults.script("notes", [kind])
    with requests.Session() as session, caplog.at_level(logging.WARNING):
        for _ in range(2):
            try:
                session.post(f"{notebook.url}/notes/a", data=b"x" * 100_000, timeout=2)
            except requests.RequestException:
                continue
        assert notebook.call().content == ANSWER
    assert [record.getMessage() for record in caplog.records if not record.name.startswith("urllib3")] == []


# The plan


def taken(faults: Faults, number: int, call: str = "notes") -> list[str]:
    return [faults.take(call) for _ in range(number)]


def test_a_script_comes_before_the_rates() -> None:
    faults = Faults()
    faults.rates("notes", {"500": 1.0})
    faults.script("notes", ["response-lost", "none"])
    faults.script("notes", ["503"])
    assert taken(faults, 5) == ["response-lost", "none", "503", "500", "500"]
    assert faults.counts() == {"notes": {"500": 2, "503": 1, "none": 1, "response-lost": 1}}
    assert (faults.count("notes", "500"), faults.count("other", "500")) == (2, 0)


def test_the_same_seed_gives_each_call_the_same_faults_however_calls_interleave() -> None:
    one, other, different = Faults(seed=3), Faults(seed=3), Faults(seed=4)
    for faults in (one, other, different):
        faults.rates("a", {"500": 0.3, "reset": 0.2})
        faults.rates("b", {"500": 0.5})
    together = [(one.take("a"), one.take("b")) for _ in range(200)]
    apart = list(zip(taken(other, 200, "a"), taken(other, 200, "b"), strict=True))
    assert together == apart
    assert taken(different, 200, "a") != [a for a, _ in together]


def test_the_rates_are_kept() -> None:
    faults = Faults(seed=1)
    faults.rates("notes", {"500": 0.3, "reset": 0.2})
    taken(faults, 10_000)
    assert 2_850 < faults.count("notes", "500") < 3_150
    assert 1_850 < faults.count("notes", "reset") < 2_150


@pytest.mark.parametrize("rates", [{"500": 0.6, "502": 0.5}, {"500": -0.1}, {"500": float("nan")}])
def test_rates_that_cannot_be_are_refused(rates: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="fault rates of notes must be at least 0 and at most 1 together"):
        Faults().rates("notes", rates)


def test_an_unknown_kind_is_refused_with_those_known() -> None:
    with pytest.raises(ValueError, match="unknown faults 418: known are none, 500, 502"):
        Faults().script("notes", ["500", "418"])


def test_the_plan_can_be_set_over_http_and_controls_never_fail(notebook: Notebook) -> None:
    controls = f"{notebook.url}/_control/faults"
    plan: dict[str, Any] = {
        "rates": {"notes": {"503": 1}, "_control": {"500": 1}},
        "scripts": {"notes": ["none"]},
        "stall_s": 0.5,
    }
    assert requests.put(controls, json=plan, timeout=2).status_code == 200
    assert notebook.faults.stall_s == 0.5
    assert [notebook.call().status_code for _ in range(3)] == [200, 503, 503]
    assert requests.get(controls, timeout=2).json() == {"notes": {"503": 2, "none": 1}}
    assert requests.delete(controls, timeout=2).json() == {}
    assert notebook.call().status_code == 200


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"rates": {"notes": {"418": 1}}}, "unknown faults 418"),
        ({"stall_s": -1}, "Input should be greater than or equal to 0"),
        ({"rate": {}}, "Extra inputs are not permitted"),
    ],
)
def test_a_wrong_plan_is_refused_over_http(notebook: Notebook, plan: dict[str, Any], message: str) -> None:
    answer = requests.put(f"{notebook.url}/_control/faults", json=plan, timeout=2)
    assert answer.status_code == 422
    assert answer.json()["message"].startswith(message)


# The server


def test_a_stalled_request_does_not_keep_the_server_from_stopping() -> None:
    notebook = Notebook()
    notebook.faults.stall_s = 60
    notebook.faults.script("notes", ["timeout"])
    with socket.socket() as connection:
        with serve(notebook.app) as url:
            host, port = url.removeprefix("http://").split(":")
            connection.connect((host, int(port)))
            connection.sendall(b"POST /notes/a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            while not notebook.notes:
                time.sleep(0.001)
            started = time.monotonic()
        assert time.monotonic() - started < 2


def test_a_stopped_server_listens_no_more_and_its_port_is_free() -> None:
    notebook = Notebook()
    with serve(notebook.app) as url:
        port = int(url.rpartition(":")[2])
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=1)
    with serve(notebook.app, port=port) as again:
        assert again == url


def test_a_taken_port_is_named() -> None:
    notebook = Notebook()
    with serve(notebook.app) as url, pytest.raises(OSError, match=r"cannot serve on 127.0.0.1:\d+ .*: choose another"):
        with serve(notebook.app, port=int(url.rpartition(":")[2])):
            pass


def test_a_fault_that_breaks_connections_says_that_it_needs_the_server() -> None:
    faults = Faults()
    faults.script("notes", ["reset"])
    middleware = FaultMiddleware(Notebook().app, faults=faults)
    with pytest.raises(RuntimeError, match="serve the app with etl_assets.simulators.server.serve"):
        middleware({"type": "http", "path": "/notes/a"}, None, None).send(None)  # type: ignore[arg-type]
