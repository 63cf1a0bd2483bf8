"""`run.sh`: the demo's servers and the gateway by one command, and nothing of them left behind it."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from etl_assets.core.embedded import EmbeddedBroker, EmbeddedPostgres
from etl_assets.local import background as local
from etl_assets.settings import LOCAL_LOCK, load_settings, local_servers_live

ROOT = Path(__file__).parent.parent
TIMEOUT_S = 300.0
STAMPS = (".created", ".installed")
# Writes down what it is called with; SAYS is the answer of `up`, and the gateway lasts until it is told to end.
STUB = """#!/bin/sh
(IFS='|'; echo "$*") >> "$CALLS"
case "$1" in
    up) : > "$CALLS.up"; while [ -e "$CALLS.hold" ]; do sleep 0.02; done; echo "${SAYS:-already running}"; exit "${UP_CODE:-0}" ;;
    gateway)
        trap 'echo ended >> "$CALLS"; exit 0' TERM
        [ -z "${GATEWAY_CODE:-}" ] || exit "$GATEWAY_CODE"
        echo serving
        while :; do sleep 0.02; done ;;
    down) : > "$CALLS.down"; while [ -e "$CALLS.hold" ]; do sleep 0.02; done; echo stopped >> "$CALLS" ;;
esac
"""


def until(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + TIMEOUT_S
    while not (met := condition()):
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)
    return met


class Script:
    """run.sh in a checkout of its own, in a process group of its own as in a terminal."""

    def __init__(self, folder: Path) -> None:
        self.checkout = folder / "a checkout"
        self.calls = folder / "calls"
        self.hold = folder / "calls.hold"
        self.log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None
        (self.checkout / ".venv").mkdir(parents=True)
        for name in ("run.sh", "Makefile", "requirements.txt", "pyproject.toml"):
            shutil.copy(ROOT / name, self.checkout)
        # Newer than what they depend on: there is nothing to install.
        for stamp in STAMPS:
            (self.checkout / ".venv" / stamp).touch()

    def start(self, *options: str, called_as: str = "", **environment: str) -> "subprocess.Popen[bytes]":
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [called_as or self.checkout / "run.sh", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.checkout.parent,
                env={**os.environ, "CALLS": str(self.calls), **environment},
            )
        return self.process

    def ctrl_c(self) -> None:
        """What a terminal does: the signal goes to the whole group."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGINT)

    def kill(self) -> None:
        """End what a test has left of it, also without its leader."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def output(self) -> str:
        return self.log.read_text()

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def ended(self) -> int:
        assert self.process is not None
        return self.process.wait(TIMEOUT_S)


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    """The script over a stub in place of `etl-assets`."""
    script = Script(tmp_path)
    stub = script.checkout / ".venv" / "bin" / "etl-assets"
    stub.parent.mkdir()
    stub.write_text(STUB)
    stub.chmod(0o755)
    yield script
    script.kill()


@pytest.mark.parametrize("signals", ["terminal", "supervisor", "hang-up"])
def test_servers_that_it_started_end_with_it_after_the_gateway(script: Script, signals: str) -> None:
    process = script.start("--port", "50 01", SAYS="started (data in /x)")
    until(lambda: "serving" in script.output())
    if signals == "terminal":
        script.ctrl_c()
    else:
        process.send_signal(signal.SIGTERM if signals == "supervisor" else signal.SIGHUP)
    assert script.ended() == 0
    assert script.called() == ["up", "gateway|--port|50 01", "ended", "down", "stopped"]
    assert "started (data in /x)\nserving\n" in script.output()


def test_servers_that_were_there_before_stay(script: Script) -> None:
    script.start(SAYS="already running (data in /x)")
    until(lambda: "serving" in script.output())
    script.ctrl_c()
    assert script.ended() == 0
    assert script.called() == ["up", "gateway", "ended"]


def test_a_gateway_that_cannot_serve_ends_it_with_the_same_code_and_the_servers_with_it(script: Script) -> None:
    script.start(SAYS="started", GATEWAY_CODE="2")
    assert script.ended() == 2
    assert script.called() == ["up", "gateway", "down", "stopped"]


def test_servers_that_do_not_start_end_it_and_nothing_else_is_touched(script: Script) -> None:
    script.start(UP_CODE="1")
    assert script.ended() == 1
    assert script.called() == ["up"]


def test_ctrl_c_while_the_servers_start_ends_them_when_they_have(script: Script) -> None:
    script.hold.touch()
    script.start(SAYS="started")
    until(Path(f"{script.calls}.up").exists)
    script.ctrl_c()
    script.hold.unlink()
    assert script.ended() == 130
    assert script.called() == ["up", "down", "stopped"]


def test_a_second_ctrl_c_does_not_cut_off_the_end_of_the_servers(script: Script) -> None:
    script.start(SAYS="started")
    until(lambda: "serving" in script.output())
    script.hold.touch()
    script.ctrl_c()
    until(Path(f"{script.calls}.down").exists)
    script.ctrl_c()
    script.hold.unlink()
    assert script.ended() == 0
    assert script.called()[-2:] == ["down", "stopped"]


def test_what_is_missing_is_installed_first(script: Script) -> None:
    (script.checkout / ".venv" / ".installed").unlink()
    python = script.checkout / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\necho "python|$2|$3" >> "$CALLS"\n')
    python.chmod(0o755)
    script.start(SAYS="started", GATEWAY_CODE="2")
    assert script.ended() == 2
    assert script.called() == ["python|pip|install", "python|pip|install", "up", "gateway", "down", "stopped"]


def test_it_is_of_the_checkout_that_it_is_in_wherever_it_is_called_from(script: Script, tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / script.checkout.name).mkdir(parents=True)
    script.start(called_as=f"{script.checkout.name}/run.sh", CDPATH=str(tmp_path / "elsewhere"), GATEWAY_CODE="2")
    assert script.ended() == 2
    assert script.called() == ["up", "gateway"]


@pytest.fixture
def real(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    """The script over the commands of this environment, with a data folder whose path has a space."""
    folder = data_dir / "with a space"
    monkeypatch.setenv("ETL_DATA_DIR", str(folder))
    monkeypatch.setenv("ETL_GATEWAY_PORT", "0")
    script = Script(tmp_path)
    (script.checkout / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    yield script
    script.kill()
    local.stop(load_settings())
    EmbeddedPostgres(folder).purge()
    EmbeddedBroker(folder).purge()


def descendants_of(*pids: int) -> list[psutil.Process]:
    processes = [psutil.Process(pid) for pid in pids]
    return processes + [child for process in processes for child in process.children(recursive=True)]


def alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def supervisor(data_dir: Path) -> int:
    return int((data_dir / LOCAL_LOCK).read_text())


def address(script: Script) -> str:
    """Where the gateway says that it is."""

    def look() -> re.Match[str] | None:
        assert script.process is not None
        assert script.process.poll() is None, script.output()
        return re.search(r"gateway: (http://127\.0\.0\.1:\d+)", script.output())

    return str(until(look)[1])


def curl(url: str) -> tuple[int, dict[str, Any]]:
    answer = requests.get(url, timeout=60)
    return answer.status_code, answer.json()


def command_of(process: psutil.Process) -> str:
    """The command line of a process; empty for one that has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.mark.long
def test_a_curl_starts_the_etl_and_ctrl_c_leaves_nothing_running(real: Script) -> None:
    data_dir = load_settings().etl_data_dir
    script = real.start()
    gateway = address(real)
    assert "no ETL_GATEWAY_TOKEN: listening on loopback only" in real.output()

    answers = [curl(f"{gateway}/trigger-etl")]
    while answers[-1] == (400, {"message": "Dag is loading, please try again later."}):
        time.sleep(0.1)
        answers.append(curl(f"{gateway}/trigger-etl"))
    assert answers[-1] == (200, {"message": "ETL process started"})
    assert curl(f"{gateway}/check/table") == (200, {"message": "Table created"})
    (run,) = curl(f"{gateway}/v1/runs?job=experiments_job")[1]["runs"]
    ended = until(lambda: (told := curl(f"{gateway}/v1/runs/{run['run_id']}?wait_s=30")[1])["ended_at"] and told)
    assert ended["status"] == "SUCCESS", ended
    assert curl(f"{gateway}/check/feature_derivation") == (200, {"message": "Feature Derivation inserted"})

    processes = descendants_of(script.pid, supervisor(data_dir))
    commands = [command_of(process) for process in processes]
    for part in ("run.sh", "etl-assets gateway", "supervisor.py -- ", "dagster-webserver", "supervise"):
        assert any(part in command for command in commands), (part, commands)
    real.ctrl_c()
    assert real.ended() == 0
    until(lambda: not any(map(alive, processes)))
    assert real.output().rstrip().endswith("stopped")
    assert not local_servers_live(data_dir)


@pytest.mark.long
def test_beside_servers_that_run_already_it_ends_the_gateway_only(real: Script) -> None:
    settings = load_settings()
    subprocess.run([real.checkout / ".venv" / "bin" / "etl-assets", "up"], check=True, timeout=TIMEOUT_S)
    servers = descendants_of(supervisor(settings.etl_data_dir))
    script = real.start()
    gateway = address(real)
    own = [process for process in descendants_of(script.pid) if process.pid != script.pid]
    assert requests.get(f"{gateway}/healthz", timeout=10).ok

    script.terminate()

    assert real.ended() == 0
    until(lambda: not any(map(alive, own)))
    assert all(map(alive, servers))
    assert local_servers_live(settings.etl_data_dir)


@pytest.mark.long
def test_a_port_that_is_taken_is_named_and_nothing_stays(real: Script) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        real.start(ETL_GATEWAY_PORT=str(port))
        assert real.ended() == 2
    assert f"cannot listen on 127.0.0.1:{port}" in real.output()
    assert "set ETL_GATEWAY_PORT to a port that is free" in real.output()
    assert not local_servers_live(load_settings().etl_data_dir)


@pytest.mark.long
def test_ctrl_c_while_the_real_servers_start_leaves_none_of_them(real: Script) -> None:
    data_dir = load_settings().etl_data_dir
    real.start()
    until(lambda: local_servers_live(data_dir))
    pid = until(lambda: (data_dir / LOCAL_LOCK).read_text())
    servers = descendants_of(int(pid))
    real.ctrl_c()
    assert real.ended() == 130
    assert "gateway:" not in real.output()
    until(lambda: not any(map(alive, servers)))
    assert not local_servers_live(data_dir)
