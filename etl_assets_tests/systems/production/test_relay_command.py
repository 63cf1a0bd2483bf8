"""`etl-assets relay` as the process that a supervisor starts and ends: whatever it waits for, SIGTERM ends it with 0.

What it waits for is a real server that is away, or one that takes the connection and never says a word.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from etl_assets.core.database.connections import Database
from etl_assets.core.embedded import EmbeddedBroker
from etl_assets.core.sources.streams.broker import Batch, Broker
from etl_assets.simulators.server import serve
from etl_assets.systems.production.contracts import STREAMS
from etl_assets.systems.production.relaying import BACKLOG
from etl_assets.systems.production.simulator import ProductionSimulator

pytestmark = pytest.mark.long

COMMAND = [str(Path(sys.executable).parent / "etl-assets"), "relay"]
# After that Compose kills a service that was told to stop.
GRACE_S = 10.0
TIMEOUT_S = 30.0
# Each is a process of its own, of whose import most of its time goes: one of a kind is enough for every day.
LONG = pytest.mark.long
HEADERS = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass
class World:
    """Addresses of everything that a relay talks to; a test replaces one of them."""

    api: str
    broker: str
    database: str
    folder: Path

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "COLUMNS": "200",
            "PRODUCTION_API_URL": self.api,
            "ETL_BROKER_URL": self.broker,
            "ETL_POSTGRES_URL": self.database,
        }

    def started(self) -> "Running":
        log = self.folder / "relay.log"
        with log.open("wb") as output:
            command = [*COMMAND, "--follow"]
            return Running(subprocess.Popen(command, stdout=output, stderr=output, env=self.environment()), log)

    def ran(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S * 2,
            check=False,
        )


@dataclass
class Running:
    """A relay that follows."""

    process: subprocess.Popen[bytes]
    path: Path

    @property
    def log(self) -> str:
        return self.path.read_text()

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition while the relay lives."""
        end = time.monotonic() + TIMEOUT_S
        while not condition():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < end, self.log
            time.sleep(0.02)

    def ended_by(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        try:
            return self.process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"still running {GRACE_S:g} s after {number.name}:\n{self.log}") from None


@pytest.fixture
def world(data_dir: Path, tmp_path: Path, broker_server: EmbeddedBroker, database: Database) -> Iterator[World]:
    """A simulated API, a database of the broker with nothing in it, and a database at head."""
    url = broker_server.acquire().removesuffix("/0") + "/9"
    with redis.Redis.from_url(url) as client, serve(ProductionSimulator().app) as api:
        client.flushdb()
        yield World(api, url, database.url, tmp_path)
        client.flushdb()


class Silent:
    """A server that takes every connection, and says nothing but what it is given."""

    def __init__(self, listener: socket.socket, says: bytes) -> None:
        self._listener = listener
        self._says = says
        self._connections: list[socket.socket] = []
        self.asked = threading.Event()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                if connection.recv(1):
                    connection.sendall(self._says)
                    self.asked.set()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for connection in (self._listener, *self._connections):
            connection.close()


@contextlib.contextmanager
def silent(*, says: bytes = b"") -> Iterator[Silent]:
    server = Silent(socket.create_server(("127.0.0.1", 0)), says)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()


def nobody() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=LONG)])
def test_a_relay_that_has_brought_everything_ends_with_0(world: World, number: signal.Signals) -> None:
    broker = Broker(world.broker)
    relay = world.started()
    relay.until(lambda: all(broker.held(stream.name) for stream in STREAMS))
    assert relay.ended_by(number) == 0
    for stream in STREAMS:
        assert f"{stream.name}: {broker.held(stream.name):,} records published" in relay.log


@pytest.mark.parametrize("away", [pytest.param("api", marks=LONG), pytest.param("broker", marks=LONG), "database"])
def test_a_relay_that_waits_for_a_server_that_is_away_ends_with_0(world: World, away: str) -> None:
    parts = urlsplit(getattr(world, away))
    setattr(world, away, parts._replace(netloc=nobody()).geturl())
    relay = world.started()
    relay.until(lambda: relay.log.count("attempt 2 without progress") == len(STREAMS))
    assert relay.ended_by(signal.SIGTERM) == 0
    assert "Traceback" not in relay.log


@pytest.mark.parametrize("mute", ["api", pytest.param("broker", marks=LONG), pytest.param("database", marks=LONG)])
def test_a_relay_that_waits_for_an_answer_that_never_comes_ends_with_0(world: World, mute: str) -> None:
    with silent() as server:
        parts = urlsplit(getattr(world, mute))
        setattr(world, mute, parts._replace(netloc=f"127.0.0.1:{server.port}").geturl())
        relay = world.started()
        relay.until(server.asked.is_set)
        assert relay.ended_by(signal.SIGTERM) == 0


def test_a_relay_that_waits_in_the_middle_of_an_answer_ends_with_0(world: World) -> None:
    with silent(says=HEADERS) as server:
        world.api = f"http://127.0.0.1:{server.port}"
        relay = world.started()
        relay.until(server.asked.is_set)
        assert relay.ended_by(signal.SIGTERM) == 0


def test_a_relay_that_waits_for_a_full_backlog_ends_with_0_and_publishes_nothing(world: World) -> None:
    broker = Broker(world.broker)
    ends = [Batch(at, 1, "simulated:0", datetime.now(UTC), b"{}\n") for at in (1, BACKLOG)]
    for stream in STREAMS:
        broker.publish(stream.name, ends)
    with redis.Redis.from_url(world.broker, decode_responses=True) as client:
        client.config_resetstat()
        relay = world.started()
        # Two for each time that a relay measures what waits.
        relay.until(lambda: client.info("commandstats").get("cmdstat_xrange", {}).get("calls", 0) > 8)
    assert relay.ended_by(signal.SIGTERM) == 0
    for stream in STREAMS:
        assert broker.entries(stream.name) == len(ends)
        assert f"{stream.name}: 0 records published, position {BACKLOG:,}" in relay.log


@pytest.mark.parametrize("arguments", [(), pytest.param(("--follow",), marks=LONG)], ids=["all", "follow"])
@pytest.mark.parametrize(
    ("variable", "value", "code", "said"),
    [
        ("api", "", 2, "PRODUCTION_API_URL is not set"),
        ("api", "ftp://hidden@somewhere", 2, "the base URL is not of the form"),
        ("broker", "http://:hidden@somewhere", 2, "correct ETL_BROKER_URL"),
        ("database", "mysql://me:hidden@somewhere", 2, "ETL_POSTGRES_URL: "),
    ],
)
def test_what_is_set_wrongly_is_said_in_one_line(
    world: World, arguments: tuple[str, ...], variable: str, value: str, code: int, said: str
) -> None:
    setattr(world, variable, value)
    ran = world.ran(*arguments)
    assert ran.returncode == code
    assert said in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert "hidden" not in ran.stderr + ran.stdout


def test_a_refusal_in_one_stream_ends_the_relay_with_1_and_one_line(world: World) -> None:
    simulator = ProductionSimulator()
    simulator.skip("metrics", 1001, 1010)
    with serve(simulator.app) as world.api:
        ran = world.ran("--follow")
    assert ran.returncode == 1
    assert "1001 to 1010 are missing" in ran.stderr
    assert ran.stderr.count("\n") == 1
