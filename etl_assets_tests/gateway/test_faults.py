"""The faults that can reach the gateway, its database and its process, by name, each with its stated outcome.

How a database can be down is tested in `test_store`, what Dagster can answer in `test_orchestrator`, triggers that come
together in `test_triggers`, bodies that are too long in `test_security`.
"""

import asyncio
import contextlib
import os
import re
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import yaml

from etl_assets.cli.gateway import prepare_gateway_home
from etl_assets.core.database.connections import Database
from etl_assets.gateway import app as gateway_app
from etl_assets.gateway import server
from etl_assets.gateway.orchestrator import LONGEST_RUN_S, CancelPolicy, CancelRefused, Orchestrator
from etl_assets.gateway.own_dagster import OwnDagster
from etl_assets.gateway.server import Server, _listener
from etl_assets.settings import load_settings
from etl_assets.systems.experiments.contracts import UserFeatures
from etl_assets_tests.core.slices.proxy import proxied
from etl_assets_tests.gateway.conftest import TOKEN, Client
from etl_assets_tests.gateway.dagster_api import DagsterApi, location, workspace
from etl_assets_tests.gateway.serving import FakeDagster, serving
from etl_assets_tests.gateway.test_server import WORKSPACE
from etl_assets_tests.gateway.test_store import READING, TIMEOUT_S, ask, assert_down, locked, until
from etl_assets_tests.gateway.test_triggers import FREQUENT, STARTED, execute, recorded

HOST = b"Host: localhost\r\n"
JSON = b"Content-Type: application/json\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
SHORT_S = 0.6


class Raw:
    """A connection that sends what no HTTP library would."""

    def __init__(self, place: tuple[str, int], sent: bytes = b"") -> None:
        self.socket = socket.create_connection(place, timeout=20)
        self.send(sent)

    def send(self, sent: bytes) -> None:
        self.socket.sendall(sent)

    def rest(self) -> bytes:
        """All that comes until the server closes."""
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while data := self.socket.recv(65536):
                received += data
        self.socket.close()
        return received

    def drip(self) -> bytes:
        """Send a byte at a time until the server closes, and give what it has answered."""
        self.socket.settimeout(0.01)
        received = b""
        with contextlib.suppress(ConnectionError):
            while True:
                self.socket.sendall(b"a")
                with contextlib.suppress(TimeoutError):
                    if not (data := self.socket.recv(65536)):
                        break
                    received += data
        self.socket.close()
        return received


def statuses(received: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


@contextlib.contextmanager
def served(app: Any) -> Iterator[tuple[str, int]]:
    """The app behind the gateway's own server; its address."""
    listener = _listener("127.0.0.1", 0)
    serving = Server(app)
    thread = threading.Thread(target=serving.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        serving.should_exit = True
        thread.join(timeout=10)
        app.state.stopping = False


@pytest.fixture
def place(gateway_client: Client) -> Iterator[tuple[str, int]]:
    """A gateway behind its own server, in front of a Dagster in memory."""
    with served(gateway_client.app) as place:
        yield place


@pytest.fixture
def short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_DEADLINE_S", SHORT_S)
    monkeypatch.setattr(gateway_app, "BODY_DEADLINE_S", SHORT_S)


def healthy(place: tuple[str, int]) -> bool:
    return requests.get(f"http://127.0.0.1:{place[1]}/healthz", timeout=TIMEOUT_S).ok


# HTTP: what is none


NO_HTTP = {
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00",
    "no request line": b"GARBAGE\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /healthz HTTP/1.1\r\n" + HOST + b"Host: evil\r\n\r\n",
    "two lengths": b"POST /v1/runs HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a negative length": b"POST /v1/runs HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",
    "a chunk without a size": b"POST /v1/runs HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a raw NUL": b"GET /v1/runs/\x00 HTTP/1.1\r\n" + HOST + b"\r\n",
    "raw bytes beyond ASCII": b"GET /v1/runs/\xff HTTP/1.1\r\n" + HOST + b"\r\n",
    "a huge query": b"GET /v1/runs?" + b"a" * 1_000_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "a huge header": b"GET /v1/runs HTTP/1.1\r\n" + HOST + b"A: " + b"a" * 1_000_000 + b"\r\n\r\n",
    "headers without end": b"GET /v1/runs HTTP/1.1\r\n" + HOST + b"A: a\r\n" * 100_000,
}


def test_what_is_no_http_is_a_problem_and_ends_the_connection(place: tuple[str, int], gateway_client: Client) -> None:
    for name, sent in NO_HTTP.items():
        received = b""
        # A server that has closed while much was on its way resets the connection.
        with contextlib.suppress(ConnectionError):
            connection = Raw(place)
            connection.socket.sendall(sent)
            received = connection.rest()
            assert statuses(received) == ([400] if received else []), name
        if len(sent) < 1000:
            assert b"application/problem+json" in received and b"X-Request-Id" in received, name
    assert healthy(place)
    assert gateway_client.dagster.asked == []


def test_garbage_behind_a_request_does_not_spoil_its_answer(place: tuple[str, int]) -> None:
    assert statuses(Raw(place, HEALTH + HEALTH + b"GARBAGE\r\n\r\n").rest()) == [200, 200, 400]


def test_a_body_that_is_garbage_after_it_was_refused_ends_the_connection(gateway_with: Callable[..., Client]) -> None:
    client = gateway_with(etl_gateway_token=TOKEN)
    head = b"POST /v1/runs HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    with served(client.app) as place:
        connection = Raw(place, head)
        begun = connection.socket.recv(65536)
        connection.send(b"zz\r\n")
        assert statuses(begun + connection.rest()) == [401]


# HTTP: slow and absent clients


@pytest.mark.long
@pytest.mark.usefixtures("short_deadlines")
@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        pytest.param(b"", [], id="nothing at all"),
        pytest.param(b"GET /healthz HTTP/1.1\r\n" + HOST, [408], id="half a head"),
        pytest.param(HEALTH + b"GET /heal", [200, 408], id="half a head after an answer"),
        pytest.param(b"POST /v1/runs HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\n{", [408], id="half a body"),
    ],
)
def test_a_client_that_stops_is_let_go(place: tuple[str, int], sent: bytes, answers: list[int]) -> None:
    received = Raw(place, sent).rest()
    assert statuses(received) == answers
    if 408 in answers:
        assert b"within 0.6 s" in received


@pytest.mark.long
@pytest.mark.usefixtures("short_deadlines")
@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET /healthz HTTP/1.1\r\nA: ", id="in its head"),
        pytest.param(b"POST /v1/runs HTTP/1.1\r\n" + HOST + b"Content-Length: 60000\r\n\r\n", id="in its body"),
    ],
)
def test_clients_that_drip_block_nobody_and_do_not_live_for_ever(place: tuple[str, int], sent: bytes) -> None:
    with ThreadPoolExecutor(10) as pool:
        dripping = [pool.submit(Raw(place, sent).drip) for _ in range(10)]
        assert healthy(place)
        assert all(statuses(each.result()) in ([408], []) for each in dripping)
    assert healthy(place)


@pytest.mark.long
@pytest.mark.usefixtures("short_deadlines")
def test_a_client_that_drips_a_body_nobody_wants_is_let_go(gateway_with: Callable[..., Client]) -> None:
    client = gateway_with(etl_gateway_token=TOKEN)
    head = b"POST /v1/runs HTTP/1.1\r\n" + HOST + b"Content-Length: 60000\r\n\r\n"
    with served(client.app) as place:
        assert statuses(Raw(place, head).drip()) == [401]


def test_a_client_that_resets_its_connection_leaves_the_gateway_serving(
    place: tuple[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    for sent in (b"", HEALTH[:10], HEALTH, b"POST /v1/runs HTTP/1.1\r\n" + HOST + JSON + b"Content-Length: 9\r\n\r\n{"):
        connection = Raw(place, sent)
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.socket.close()
        assert healthy(place)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.long
@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel cannot")
def test_a_client_that_never_reads_its_answers_is_let_go(
    gateway_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "UNREAD_S", 1)
    with served(gateway_client.app) as place:
        connection = Raw(place)
        with contextlib.suppress(ConnectionError, TimeoutError):
            connection.socket.settimeout(10)
            while True:  # at last nothing more can be sent, and then the server has given up
                connection.send(b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n")
        ours = connection.socket.getsockname()
        until(lambda: ours not in {each.raddr for each in psutil.Process().net_connections("tcp4")})
        connection.socket.close()
        assert healthy(place)


# HTTP: bodies and paths


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        (None, b'{"job": "table_job"}', 415),
        ("text/plain", b'{"job": "table_job"}', 415),
        ("application/x-www-form-urlencoded", b"job=table_job", 415),
        ("multipart/form-data; boundary=a", b"--a--", 415),
        ("application/octet-stream", b"\x00\xff", 415),
        ("text/html", b"<html>", 415),
        ("application/json; charset=latin-1", b'{"job": "\xe4"}', 400),
        ("application/json", b"\xff\xfe\x00", 400),
        ("application/json", b'{"job": "table_job"', 422),
        ("application/json", b"", 422),
        ("application/json", b'"table_job"', 422),
        ("application/json; charset=utf-16", '{"job": "table_job"}'.encode("utf-16"), 201),
        ("APPLICATION/JSON; charset=nonsense", b'{"job": "table_job"}', 201),
    ],
)
def test_a_body_of_another_type_or_charset_is_refused_with_what_to_send(
    gateway_client: Client, content_type: str | None, body: bytes, status: int
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    answer = gateway_client.post("/v1/runs", data=body, headers=headers)
    assert answer.status_code == status
    assert len(gateway_client.dagster.runs) == (1 if status == 201 else 0)
    advice = {415: "send it with `Content-Type: application/json`", 400: "send it as JSON in UTF-8", 422: "see errors"}
    assert advice.get(status, "") in answer.text


def test_a_body_that_is_no_json_says_at_which_character(gateway_client: Client) -> None:
    headers = {"Content-Type": "application/json"}
    answer = gateway_client.post("/v1/runs", data=b'{"job": "a" "b"}', headers=headers)
    assert answer.json()["errors"] == [{"where": "body", "reason": "no JSON at character 12: Expecting ',' delimiter"}]
    answer = gateway_client.post("/v1/runs", data=b"[1]", headers=headers)
    assert answer.json()["errors"] == [{"where": "body", "reason": "a JSON object is expected"}]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/runs/%00", 422),
        ("/v1/runs/%ff%fe", 422),
        ("/v1/runs/%C0%AF", 422),
        ("/v1/runs/a%2Fb", 404),
        ("/v1/runs/" + "a" * 30_000, 422),
        ("/v1/runs?job=%00", 422),
        ("/v1/runs?job=%ff", 200),
        ("/v1/runs?after=" + "a" * 30_000, 422),
        ("/v1/runs?" + "&".join(["limit=1"] * 5_000), 422),
        ("/v1/runs?" + "&".join(f"p{number}=1" for number in range(5_000)), 422),
        ("/%00%ff", 404),
    ],
)
def test_a_path_or_query_of_hostile_characters_or_length_is_refused(
    gateway_client: Client, path: str, status: int
) -> None:
    answer = gateway_client.get(path)
    assert answer.status_code == status
    assert len(answer.content) < 10_000


@pytest.mark.parametrize("path", ["/v1/features/users?asof=2023-12-31", "/v1/runs?jobs=a", "/v1/jobs?a"])
def test_a_parameter_that_is_misspelt_is_not_overlooked(gateway_client: Client, path: str) -> None:
    answer = gateway_client.get(path)
    [fault] = answer.json()["errors"]
    assert (answer.status_code, fault["where"]) == (422, f"query.{path.split('?')[1].split('=')[0]}")
    assert fault["reason"].startswith("there is no such parameter: ")


def test_a_parameter_that_is_given_twice_is_refused_unless_it_is_a_list(gateway_client: Client) -> None:
    answer = gateway_client.get("/v1/runs?limit=2&limit=3")
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"where": "query.limit", "reason": "is given more than once: give it once"}]
    assert gateway_client.get("/v1/runs?status=SUCCESS&status=FAILURE").status_code == 200


def test_of_a_header_that_is_there_twice_the_first_counts(
    gateway_with: Callable[..., Client], gateway_client: Client
) -> None:
    guarded = gateway_with(etl_gateway_token=TOKEN)
    right, wrong = f"Authorization: Bearer {TOKEN}\r\n".encode(), b"Authorization: Bearer wrong\r\n"
    with served(guarded.app) as place:
        for headers, status in ((right + wrong, 200), (wrong + right, 401)):
            end = b"Connection: close\r\n\r\n"
            assert statuses(Raw(place, b"GET /v1/jobs HTTP/1.1\r\n" + HOST + headers + end).rest()) == [status]


def test_a_failure_of_the_code_is_a_problem_also_where_500_has_a_message(
    gateway_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etl_assets.gateway.store.Store.connection", None)
    answer = gateway_client.get("/check/table")
    assert (answer.status_code, answer.headers["Content-Type"]) == (500, "application/problem+json")
    document = gateway_client.get("/openapi.json").json()
    described = document["paths"]["/check/table"]["get"]["responses"]["500"]["content"]
    assert set(described) == {"application/json", "application/problem+json"}
    assert answer.json()["title"] in described["application/problem+json"]["examples"]


# Postgres


def failing(database: Database, state: str) -> None:
    """Let every entry of a trigger fail with this SQLSTATE."""
    execute(
        database,
        f"""CREATE FUNCTION gateway.fail() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'secret of the server' USING ERRCODE = '{state}'; END $$;
        CREATE TRIGGER fail BEFORE INSERT OR UPDATE ON gateway.triggers EXECUTE FUNCTION gateway.fail()""",
    )


STATES = {
    "40P01": "deadlock",
    "40001": "serialization failure",
    "53100": "disk full",
    "53200": "out of memory",
    "57014": "statement time-out",
    "55P03": "lock time-out",
    "57P01": "shutdown",
    "42703": "a column changed",
}


@pytest.mark.long
def test_a_statement_that_fails_starts_nothing_and_uses_up_nothing(database: Database) -> None:
    dagster = FakeDagster()
    with serving(database, dagster) as url:
        for state, name in STATES.items():
            failing(database, state)
            answer = ask(url, "POST /trigger-etl")
            assert_down(answer, because="the platform's database failed: ")
            assert "secret" not in answer.text, name
            execute(database, "DROP FUNCTION gateway.fail CASCADE")
        assert (dagster.launched, recorded(database)) == ([], [])
        assert ask(url, "POST /trigger-etl").status_code == 200


@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_connection_that_is_cut_at_commit_leaves_one_run_that_is_reported_as_started(
    database: Database, cut: Any
) -> None:
    dagster = FakeDagster(runs_last=True)
    with proxied(database.url) as proxy, serving(Database(proxy.url), dagster, interval_s=0) as url:
        assert ask(url, "GET /check/table").status_code == 200
        proxy.cut = cut
        answer = ask(url, "POST /trigger-etl")
        assert (answer.status_code, answer.json()["message"]) == STARTED
        assert proxy.cuts == 1
        answer = ask(url, "POST /trigger-etl")
        assert (answer.status_code, answer.json()["message"]) == FREQUENT  # by its run
    assert len(dagster.launched) == 1
    assert len(recorded(database)) == (1 if cut == "after" else 0)


@pytest.mark.parametrize("cut", ["before", pytest.param("after", marks=pytest.mark.long)])
def test_a_connection_that_is_cut_at_commit_lets_a_key_start_one_run(
    gateway_with: Callable[..., Client], database: Database, cut: Any
) -> None:
    with proxied(database.url) as proxy:
        client = gateway_with(database=proxy.url)
        assert client.get("/check/table").status_code == 200
        proxy.cut = cut
        headers = {"Idempotency-Key": "nightly"}
        first = client.post("/v1/runs", json={"job": "table_job"}, headers=headers)
        again = client.post("/v1/runs", json={"job": "table_job"}, headers=headers)
    assert (first.status_code, again.status_code) == (503, 200)
    assert [run["runId"] for run in client.dagster.runs] == [again.json()["run_id"]]


@pytest.mark.long
def test_more_requests_than_connections_all_have_their_answer_in_time(database: Database) -> None:
    with serving(database, deadline_s=1.0) as url, ThreadPoolExecutor(40) as pool:
        with locked(database):
            for answer in pool.map(ask, [url] * 40):
                assert_down(answer, because="did not answer within 1 s")
        with serving(database, deadline_s=30) as slower:
            answers = list(pool.map(lambda _: ask(slower, timeout_s=30), range(40)))
        assert {answer.status_code for answer in answers} == {404}
        assert ask(url).status_code == 404


def test_a_table_that_was_changed_under_us_is_a_503_that_says_nothing_of_it(database: Database) -> None:
    with serving(database) as url:
        for change in ("DROP COLUMN days_since_signup", "RENAME COLUMN user_id TO id", "RENAME TO others"):
            execute(database, f"ALTER TABLE {UserFeatures.config.table} {change}")
            answer = ask(url, READING)
            assert_down(answer, because="the platform's database failed: SQLSTATE 42")
            assert "user_features" not in answer.text, change


def test_a_row_that_breaks_its_contract_spoils_its_page_and_no_other(database: Database) -> None:
    table, columns = UserFeatures.config.table, ", ".join(UserFeatures.columns)
    values = "u, '2023-12-31', 0, 0, NULL, 0, false, NULL, 0"
    execute(database, f"INSERT INTO {table} ({columns}) SELECT {values} FROM generate_series(1, 3) AS u")
    execute(database, f"UPDATE {table} SET most_common_compounds = 'none' WHERE user_id = 3")
    with serving(database) as url:
        found = [ask(url, f"{READING}?limit=1&after={user}").status_code for user in (0, 2)]
    assert found == [200, 500]


@pytest.mark.long
def test_a_hostile_name_is_only_a_name(gateway_with: Callable[..., Client], database: Database) -> None:
    client = gateway_with(database=database.url)
    for name in ("'; DROP TABLE gateway.triggers; --", 'a"b', "%s", "$1", "\\", "{}", "a" * 255):
        body = {"job": "daily_job", "partition": name, "tags": {"a": name}}
        headers = {"Idempotency-Key": name.replace(" ", "")}
        assert client.post("/v1/runs", json=body, headers=headers).status_code == 422
        assert client.post("/v1/runs", json={"job": name}).status_code == 422
        assert client.get("/v1/runs", params={"job": name}).json()["runs"] == []
    assert client.get("/check/table").status_code == 200
    assert recorded(database) == []


# Runs and processes


@pytest.fixture
def experiments(gateway_with: Callable[..., Client], database: Database) -> Client:
    """A gateway whose trigger has no interval, so that only runs hold it off."""
    client = gateway_with(database=database.url, etl_trigger_interval_s=0)
    # The day may change before the trigger takes its own.
    days = "SELECT ((now() AT TIME ZONE 'UTC')::date + day)::text FROM generate_series(0, 1) AS day"
    client.dagster.days = tuple(str(day) for (day,) in execute(database, days))
    client.dagster.answers["workspaceOrError"] = workspace(
        location("experiments_job", partitioned=("experiments_job",))
    )
    return client


def trigger(client: Client) -> tuple[int, str]:
    answer = client.post("/trigger-etl")
    return answer.status_code, answer.json()["message"]


def test_runs_that_have_ended_however_they_did_do_not_hold_off_the_trigger(experiments: Client) -> None:
    for status in ("SUCCESS", "FAILURE", "CANCELED"):
        experiments.dagster.add("experiments_job", status)
    assert trigger(experiments) == STARTED


@pytest.mark.long
def test_a_run_that_was_lost_holds_off_the_trigger_for_as_long_as_a_run_may_take(experiments: Client) -> None:
    for status in ("QUEUED", "STARTED", "CANCELING"):
        experiments.dagster.add("experiments_job", status, age_s=LONGEST_RUN_S + 1)
        experiments.dagster.add("__ASSET_JOB", status, age_s=LONGEST_RUN_S + 1)
    assert trigger(experiments) == STARTED
    for status in ("QUEUED", "STARTED", "CANCELING"):
        experiments.dagster.runs.clear()
        experiments.dagster.add("experiments_job", status, age_s=LONGEST_RUN_S - 60)
        assert trigger(experiments) == FREQUENT


def test_the_longest_run_is_what_dagster_gives_a_run() -> None:
    configuration = Path(__file__).parents[2] / "docker" / "dagster.yaml"
    monitoring = yaml.safe_load(configuration.read_text())["run_monitoring"]
    assert monitoring["max_runtime_seconds"] == LONGEST_RUN_S


@pytest.mark.parametrize("status", ["STARTED", pytest.param("CANCELING", marks=pytest.mark.long)])
def test_a_run_whose_process_is_gone_can_be_marked_as_canceled(experiments: Client, status: str) -> None:
    run_id = experiments.dagster.add("experiments_job", status)
    experiments.dagster.gone = {run_id}
    path = f"/v1/runs/{run_id}/cancel"
    refused = experiments.post(path)
    assert refused.status_code == 409
    assert refused.json()["detail"].endswith(": if its process is gone, cancel it with ?force=true")
    assert trigger(experiments) == FREQUENT
    marked = experiments.post(f"{path}?force=true")
    assert (marked.status_code, marked.json()["status"]) == (200, "CANCELED")
    assert trigger(experiments) == STARTED


@pytest.mark.long
def test_a_run_that_has_ended_cannot_be_marked(experiments: Client) -> None:
    run_id = experiments.dagster.add("experiments_job", "SUCCESS")
    refused = experiments.post(f"/v1/runs/{run_id}/cancel?force=true")
    assert refused.status_code == 409
    assert refused.json()["detail"].endswith("could not be terminated due to having status SUCCESS.")
    assert experiments.post("/v1/runs/none/cancel?force=true").status_code == 404


KILLED = """
import asyncio, os, signal, sys
from etl_assets.gateway.store import Store
from etl_assets.gateway.triggers import Trigger, take
from etl_assets.core.database.connections import Database
from etl_assets_tests.gateway.serving import FakeDagster

async def die():
    os.kill(os.getpid(), signal.SIGKILL)

dagster = FakeDagster()
dagster.meanwhile[sys.argv[2]] = die
asyncio.run(take(Trigger("experiments", "experiments_job"), interval_s=3600, store=Store(Database(sys.argv[1])), orchestrator=dagster))
"""


@pytest.mark.long
@pytest.mark.parametrize("moment", ["unfinished", "launch"])
def test_a_gateway_that_is_killed_in_a_trigger_blocks_no_other(database: Database, moment: str) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, database.url, moment], check=False)
    assert killed.returncode == -9
    assert recorded(database) == []
    dagster = FakeDagster()
    with serving(database, dagster, interval_s=3600) as url:
        until(lambda: ask(url, "POST /trigger-etl").status_code == 200)
    assert len(dagster.launched) == 1


@pytest.mark.long
def test_a_dagster_of_the_gateways_own_that_is_killed_is_started_again_and_a_lost_run_can_be_marked(
    tmp_path: Path,
) -> None:
    home = prepare_gateway_home(load_settings(etl_data_dir=tmp_path))
    with OwnDagster(home, dict(os.environ), target=WORKSPACE) as own:
        until(lambda: not own.starting(), timeout_s=60)
        orchestrator = Orchestrator(own.url)
        run = asyncio.run(orchestrator.launch("lasting_job"))
        until(lambda: asyncio.run(orchestrator.steps(run.run_id)), timeout_s=60)
        for descendant in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if any("dagster" in part for part in descendant.cmdline()):
                    descendant.kill()
        until(own.starting, timeout_s=60)
        until(lambda: not own.starting(), timeout_s=60)
        lost = asyncio.run(orchestrator.run(run.run_id))
        assert lost is not None and not lost.ended
        assert [each.run_id for each in asyncio.run(orchestrator.unfinished("lasting_job"))] == [run.run_id]
        with pytest.raises(CancelRefused, match=r"cancel it with \?force=true"):
            asyncio.run(orchestrator.cancel(run.run_id))
        assert asyncio.run(orchestrator.cancel(run.run_id, policy=CancelPolicy.MARK))
        marked = asyncio.run(orchestrator.run(run.run_id))
        assert marked is not None and marked.status == "CANCELED"
        assert asyncio.run(orchestrator.unfinished("lasting_job")) == []


@pytest.mark.long
def test_dagster_that_cannot_write_its_event_log_is_503_and_uses_up_nothing(
    experiments: Client, dagster_api: DagsterApi
) -> None:
    dagster_api.answers["launchRun"] = {"__typename": "PythonError", "message": "database or disk is full"}
    answer = experiments.post("/trigger-etl")
    assert (answer.status_code, answer.json()["title"]) == (503, "Dagster unavailable")
    del dagster_api.answers["launchRun"]
    assert trigger(experiments) == STARTED
