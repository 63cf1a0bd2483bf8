"""A Dagster of the gateway's own, where none is given by URL: a webserver in a process beside it that ends with it.

It starts runs at once and by itself: there is no queue, so no daemon is needed. (With `make dev` there is a whole Dagster,
and the gateway is told its URL.)
"""

import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import requests

from etl_assets.gateway import child as leash

LOG_NAME = "webserver.log"
POLL_S = 0.1
ANSWER_TIMEOUT_S = 1.0
# A webserver that ends again and again does not start: it is tried on, but no longer said to be loading.
STARTS_IN_VAIN = 3
LONGEST_PAUSE_S = 30.0
STOP_TIMEOUT_S = leash.PATIENCE_S + 1

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
        self._in_vain = 0
        self._leash: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, name="own dagster", daemon=True)

    @property
    def url(self) -> str:
        """Where it answers, once it does."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def log_path(self) -> Path:
        """What it has printed since it was last started."""
        return self._home / LOG_NAME

    def starting(self) -> bool:
        """Whether it is on its way to answer."""
        return not self._answered.is_set() and self._in_vain < STARTS_IN_VAIN

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def _keep(self) -> None:
        """Start it until it is to stop, with longer and longer pauses when it does not come to answer."""
        while not self._stopping.is_set():
            with self.log_path.open("wb") as output:
                process = self._start(output)
            self._watch(process)
            if self._stopping.is_set():
                break
            self._in_vain = 1 if self._answered.is_set() else self._in_vain + 1
            self._answered.clear()
            log.error("the gateway's own Dagster has ended (exit code %s): see %s", process.returncode, self.log_path)
            self._stopping.wait(min(2.0 ** (self._in_vain - 1), LONGEST_PAUSE_S))

    def _start(self, output: BinaryIO) -> "subprocess.Popen[bytes]":
        webserver = [str(Path(sys.executable).parent / "dagster-webserver"), *self._target]
        return subprocess.Popen(
            [sys.executable, "-I", "-S", leash.__file__, *webserver, "-h", "127.0.0.1", "-p", str(self._port)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=self._home,
            env=self._environment,
        )

    def _watch(self, process: "subprocess.Popen[bytes]") -> None:
        """Until it ends, or is to stop and does; meanwhile note that it answers."""
        while process.poll() is None and not self._stopping.wait(POLL_S):
            if not self._answered.is_set() and self._answers():
                self._in_vain = 0
                self._answered.set()
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/server_info", timeout=ANSWER_TIMEOUT_S).ok
        except requests.RequestException:
            return False
