"""`etl-assets dev` as its user meets it: the ports it takes, and what is left when a signal ends it."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import requests

from etl_assets.cli import run
from etl_assets.settings import local_servers_live
from etl_assets_tests.ports import free_port

BIN = Path(sys.executable).parent
TIMEOUT_S = 300.0


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end, f"it did not come to pass: {what}"
        time.sleep(0.05)


def processes_of(folder: Path) -> list[str]:
    """Command lines of the processes that have a data folder in their arguments, environment or working directory."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                texts = [*process.cmdline(), process.cwd(), process.environ().get("ETL_DATA_DIR", "")]
                if any(str(folder) in text for text in texts):
                    found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


class Dev:
    """The command in a process group of its own, as a shell starts it in the background: with Ctrl-C ignored."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.log = data_dir.with_name("dev.log")
        self.port, self.gateway_port = free_port(), free_port()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(BIN / "etl-assets"), "dev", "--port", f"{self.port}", "--gateway-port", f"{self.gateway_port}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
                env={**os.environ, "COLUMNS": "200"},
            )

    def output(self) -> str:
        return self.log.read_text()

    def runs_until(self, condition: Callable[[], object], what: str) -> None:
        until(lambda: condition() or self.process.poll() is not None, what)
        assert self.process.poll() is None, self.output()

    def commands(self) -> str:
        return "\n".join(processes_of(self.data_dir))


@pytest.fixture
def dev(data_dir: Path) -> Iterator[Dev]:
    dev = Dev(data_dir)
    yield dev
    dev.process.kill()
    dev.process.wait()
    subprocess.run([str(BIN / "etl-assets"), "down", "--purge"], check=True, timeout=TIMEOUT_S)


def test_a_port_that_is_taken_is_named_before_anything_starts(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken, free = server.getsockname()[1], free_port()
        cases = {(taken, free): (taken, "--port"), (free, taken): (taken, "--gateway-port")}
        cases[free, free] = (free, "--gateway-port")
        for (port, gateway_port), (named, option) in cases.items():
            assert run(["dev", "--port", f"{port}", "--gateway-port", f"{gateway_port}"]) == 2, option
            message = f"cannot serve on 127.0.0.1:{named} (Address already in use): choose another port by {option}"
            assert message in capsys.readouterr().err
            assert list(data_dir.iterdir()) == [], option


@pytest.mark.long
def test_its_url_is_printed_when_it_answers_and_ctrl_c_twice_ends_everything(dev: Dev) -> None:
    url = f"http://127.0.0.1:{dev.port}"
    dev.runs_until(lambda: f"Dagster UI: {url}" in dev.output(), "the UI answers")
    assert requests.get(f"{url}/server_info", timeout=10).ok
    dev.runs_until(lambda: f"gateway: http://127.0.0.1:{dev.gateway_port}" in dev.output(), "the gateway listens")
    assert re.search(r"delivered_site_outages", dev.output())
    assert "supervisor.py -- " in dev.commands()

    dev.process.send_signal(signal.SIGINT)
    dev.process.send_signal(signal.SIGINT)

    assert dev.process.wait(TIMEOUT_S) == 0, dev.output()
    assert processes_of(dev.data_dir) == []


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("when", ["the servers start", "the demo runs"])
def test_a_signal_that_comes_early_ends_everything(dev: Dev, when: str, number: signal.Signals) -> None:
    if when == "the servers start":
        dev.runs_until(lambda: local_servers_live(dev.data_dir), when)
    else:
        dev.runs_until(lambda: re.search(r"etl_assets.cli demo", dev.commands()), when)

    dev.process.send_signal(number)

    assert dev.process.wait(TIMEOUT_S) == 130, dev.output()
    assert processes_of(dev.data_dir) == []


@pytest.mark.long
def test_killed_it_takes_everything_with_it(dev: Dev) -> None:
    dev.runs_until(lambda: "Dagster UI: " in dev.output(), "the UI answers")

    dev.process.kill()

    until(lambda: processes_of(dev.data_dir) == [], "nothing runs")
