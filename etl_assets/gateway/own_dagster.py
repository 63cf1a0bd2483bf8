"""A Dagster of the gateway's own, where none is given by URL: a supervised webserver that ends with the gateway.

It starts runs at once and by itself: there is no queue, so no daemon is needed. (With `make dev` there is a whole Dagster,
and the gateway is told its URL.)

This file is also the supervisor: as a script (`python -I -S own_dagster.py COMMAND…`) it runs a command, and ends it with
all that it has started when its standard input, a pipe, is closed. The kernel closes that when the gateway has ended,
however it ended, so a SIGKILLed gateway leaves nothing behind. At its top it imports nothing but the standard library.
"""

import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Self

LOG_NAME = "webserver.log"
POLL_S = 0.1
ANSWER_TIMEOUT_S = 1.0
# A webserver that ends again and again does not start: it is tried on, but no longer reported as loading.
FAILED_STARTS = 3
LONGEST_BACKOFF_S = 30.0
# A run that is cut off needs a moment to write down that it was.
TERMINATION_TIMEOUT_S = 4.0
TERMINATION_POLL_S = 0.02
STOP_TIMEOUT_S = TERMINATION_TIMEOUT_S + 1

log = logging.getLogger(__name__)


class OwnDagster:
    """A `dagster-webserver` on a free loopback port while the context is open; started again when it ends too early.

    Args:
        home: its DAGSTER_HOME; its log goes there.
        environment: of its process, and so of the runs that it starts.
        target: what it serves, as its command line says it.
    """

    def __init__(
        self, home: Path, environment: Mapping[str, str], *, target: Sequence[str] = ("-m", "etl_assets")
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._home = home
        self._environment = {**environment, "DAGSTER_HOME": str(home)}
        self._target = tuple(target)
        self._stopping = threading.Event()
        self._answered = threading.Event()
        self._failed_starts = 0
        self._thread = threading.Thread(target=self._supervise, name="own dagster", daemon=True)

    @property
    def url(self) -> str:
        """Where it answers as soon as it is up."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def log_path(self) -> Path:
        """What it has printed since it was last started."""
        return self._home / LOG_NAME

    def starting(self) -> bool:
        """Whether it is on its way to answer."""
        return not self._answered.is_set() and self._failed_starts < FAILED_STARTS

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _supervise(self) -> None:
        """Start it again and again until it is to stop, with exponential backoff while it does not come to answer."""
        while not self._stopping.is_set():
            with self.log_path.open("wb") as output:
                process = self._start(output)
            self._watch(process)
            if self._stopping.is_set():
                break
            self._failed_starts = 1 if self._answered.is_set() else self._failed_starts + 1
            self._answered.clear()
            log.error("the gateway's own Dagster has ended (exit code %s): see %s", process.returncode, self.log_path)
            self._stopping.wait(min(2.0 ** (self._failed_starts - 1), LONGEST_BACKOFF_S))

    def _start(self, output: BinaryIO) -> "subprocess.Popen[bytes]":
        webserver = [str(Path(sys.executable).parent / "dagster-webserver"), *self._target]
        return subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, *webserver, "-h", "127.0.0.1", "-p", str(self._port)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=self._home,
            env=self._environment,
        )

    def _watch(self, process: "subprocess.Popen[bytes]") -> None:
        """Wait until it ends, or is to stop and does; meanwhile record that it answers."""
        while process.poll() is None and not self._stopping.wait(POLL_S):
            if not self._answered.is_set() and self._answers():
                self._failed_starts = 0
                self._answered.set()
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _answers(self) -> bool:
        import requests

        try:
            return requests.get(f"{self.url}/server_info", timeout=ANSWER_TIMEOUT_S).ok
        except requests.RequestException:
            return False


def supervise(command: Sequence[str]) -> int:
    """Run a command until it ends or standard input is closed; gives its exit code."""
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    # Handlers that do nothing: the number arrives through the pipe. Ctrl-C reaches the whole terminal; its reader decides.
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    # A session of its own, so that all its descendants can be signalled at once.
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    while child.poll() is None:
        ready, _, _ = select.select([wake_read, sys.stdin], [], [])
        if sys.stdin in ready or signal.SIGTERM in os.read(wake_read, 1024):
            break
    _end(child)
    return child.wait()


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Ask the command and its descendants to end, then make them."""
    until = time.monotonic() + TERMINATION_TIMEOUT_S
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
        while time.monotonic() < until:
            child.poll()
            os.killpg(child.pid, 0)
            time.sleep(TERMINATION_POLL_S)
        os.killpg(child.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(supervise(sys.argv[1:]))
