"""A Dagster of the gateway's own, where none is given by URL: a supervised webserver which ends with the gateway, also with
one that was killed.

It starts runs at once and by itself: there is no queue, so no daemon is needed. (With `make dev` there is a whole Dagster, and
the gateway is told its URL.)
"""

import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import requests

from etl_assets.core.embedded.supervisor import child

POLL_S = 0.1
ANSWER_TIMEOUT_S = 1.0
# A webserver that ends again and again does not start: it is tried on, but no longer reported as loading.
FAILED_STARTS = 3
LONGEST_BACKOFF_S = 30.0

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
        return self._home / "webserver.log"

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
        webserver = [str(Path(sys.executable).parent / "dagster-webserver"), *self._target]
        command = [*webserver, "-h", "127.0.0.1", "-p", str(self._port)]
        while not self._stopping.is_set():
            with (
                self.log_path.open("wb") as output,
                child(
                    command, cwd=self._home, env=self._environment, stdout=output, stderr=subprocess.STDOUT
                ) as process,
            ):
                while process.poll() is None and not self._stopping.wait(POLL_S):
                    if not self._answered.is_set() and self._answers():
                        self._failed_starts = 0
                        self._answered.set()
            if self._stopping.is_set():
                break
            self._failed_starts = 1 if self._answered.is_set() else self._failed_starts + 1
            self._answered.clear()
            log.error("the gateway's own Dagster has ended (exit code %s): see %s", process.returncode, self.log_path)
            self._stopping.wait(min(2.0 ** (self._failed_starts - 1), LONGEST_BACKOFF_S))

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/server_info", timeout=ANSWER_TIMEOUT_S).ok
        except requests.RequestException:
            return False
