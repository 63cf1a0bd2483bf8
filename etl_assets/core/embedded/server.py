"""What every embedded server shares: reference count, the start under a lock, stopping.

Files in the data folder, for a server called `postgres`:

    postgres.users     every user holds a shared lock on it; the supervisor waits for the exclusive one
    postgres.lock      exclusive while somebody starts, stops or purges the server
    postgres.state     locked by the supervisor as long as it lives; names the port, its process and the server's
    postgres.log       what the supervisor and the server print

Order matters: a user takes the reference first and looks for a server then. So a server that is there after the lock was
granted is not about to be stopped for want of users; and a user who comes while the supervisor stops the server waits
for the lock and finds none.
"""

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from etl_assets.core.embedded import supervisor
from etl_assets.core.embedded.files import (
    EmbeddedServerError,
    add_reference,
    drop_reference,
    exclusive,
    is_locked,
    open_private,
)

HOST = "127.0.0.1"
# Below the ports that systems hand out to outgoing connections, so that a port is likely to be free again on a restart.
PORTS = range(20_000, 32_000)
POLL_S = 0.01
START_TIMEOUT_S = 300.0  # crash recovery of a large cluster; a server that fails is noticed at once
STOP_TIMEOUT_S = 120.0
KILL_TIMEOUT_S = 5.0
LOG_LIMIT_BYTES = 10_000_000
# Nothing of the user's environment: a bad LANG breaks initdb, PG* variables redirect clients, secrets stay at home.
CHILD_ENVIRONMENT = {"PATH": os.defpath, "LANG": "C", "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True)
class Launch:
    """How the supervisor starts a server."""

    argv: list[str]
    cwd: Path
    port: int = 0
    input: str = ""  # what it reads from its standard input
    environment: dict[str, str] = field(default_factory=CHILD_ENVIRONMENT.copy)
    account: dict[str, Any] = field(default_factory=dict)  # arguments of subprocess.Popen that make it another user's


class EmbeddedServer(ABC):
    """A local server of the platform's data folder, shared by all processes that use that folder."""

    name: ClassVar[str]
    # Signals of a clean end, each with the seconds it is given; SIGKILL comes after the last.
    stop_steps: ClassVar[list[tuple[str, float]]]
    start_attempts: ClassVar[int] = 4  # somebody else may take the port that was free

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = Path(data_dir).resolve()

    # --- the public surface

    def acquire(self) -> str:
        """Take a reference to the server and return its URL; starts the server when it is not running.

        The reference lasts until `release`, or until the process ends, however it ends.

        Raises:
            EmbeddedServerError: if the server cannot be started; the message quotes its log.
        """
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EmbeddedServerError(
                f"cannot make the data folder {self.data_dir} ({error.strerror}): set ETL_DATA_DIR to another"
            ) from error
        add_reference(self._file("users"))
        try:
            if not self.running():
                self._ensure_running()
            return self._url()
        except BaseException:
            drop_reference(self._file("users"))
            raise

    def release(self) -> None:
        """Give back one `acquire`; the server stops when the last process has given back its last."""
        drop_reference(self._file("users"))

    def __enter__(self) -> str:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def running(self) -> bool:
        """Whether the server of this data folder answers now."""
        return is_locked(self._file("state")) and self._answers()

    def url_if_running(self) -> str | None:
        """Its URL if it answers now; takes no reference, starts and makes nothing."""
        return self._url() if self.running() else None

    def lives(self) -> bool:
        """Whether the server's process is there, though it may not answer yet."""
        return is_locked(self._file("state"))

    def stop(self) -> bool:
        """End the server cleanly, whoever uses it; the next `acquire` starts it again.

        Waits also for one that is stopped already for want of users. Returns whether there was anything to wait for.
        """
        if not self._file("users").exists():
            return False  # never used here, and a look leaves nothing
        with exclusive(self._file("lock")):
            return self._stop()

    def purge(self) -> None:
        """Stop the server and delete its data. The empty lock files stay: others may be waiting for them."""
        if not self.data_dir.is_dir():
            self._delete_files()  # what may be outside
            return
        with exclusive(self._file("lock")):
            self._stop()
            self._delete_files()
            for path in self.data_dir.glob(f"{self.name}.*"):
                if path.suffix not in (".lock", ".users"):
                    path.unlink()

    # --- what a kind of server adds

    def location(self) -> Path:
        """The folder of the server's data and its password."""
        return self.data_dir / self.name

    @abstractmethod
    def _url(self) -> str:
        """The server's URL, from the state and the password file."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether the server at the recorded port lets us in with our password and is ready for use.

        Raises:
            EmbeddedServerError: if it lets others in, too: it has not read its settings.
        """

    @abstractmethod
    def _prepare(self) -> Launch:
        """Bring the files in order and say how to start the server; called under the start lock, no server running."""

    def _working_folder(self) -> Path:
        """The folder that is the working directory of the server and its children, and of no other process."""
        return self.location()

    def _delete_files(self) -> None:
        """Delete everything outside the files that this class owns; no server is running."""
        if self.location().exists():
            shutil.rmtree(self.location())

    def _became_ready(self) -> bool:
        """Like `_answers`, under the start lock: may add what a fresh server lacks."""
        return self._answers()

    # --- starting

    def _ensure_running(self) -> None:
        with exclusive(self._file("lock")):
            for _ in range(self.start_attempts):
                if not is_locked(self._file("state")):
                    self._end_leftovers()
                    self._start_supervisor(self._prepare())
                if self._became_ready_in_time():
                    return
            raise EmbeddedServerError(
                f"the {self.name} of {self.data_dir} did not start ({self.start_attempts} attempts): "
                f"{self._file('log')} says: {self._end_of_log()}"
            )

    def _start_supervisor(self, launch: Launch) -> None:
        spec = vars(launch) | {"users": str(self._file("users")), "stop": self.stop_steps}
        log = self._file("log")
        if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
            log.replace(self._file("log.1"))
        with open(log, "ab", opener=open_private) as output:
            # -I: neither the user's environment nor the script's folder, whose modules bear names of standard ones.
            done = subprocess.run(
                [sys.executable, "-I", "-S", supervisor.__file__, str(self._file("state"))],
                input=json.dumps(spec, default=str).encode(),
                stdout=output,
                stderr=output,
                cwd="/",
                env=CHILD_ENVIRONMENT,
                start_new_session=True,
            )
        if done.returncode:
            raise EmbeddedServerError(f"the supervisor of {self.name} did not start: see {log}")

    def _became_ready_in_time(self) -> bool:
        """Wait for a start; returns False when the server has ended."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._became_ready():
            if not is_locked(self._file("state")):
                return False
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"{self.name} in {self.data_dir} runs but has not answered for {START_TIMEOUT_S:.0f} s: "
                    f"see {self._file('log')}; stop() ends it"
                )
            time.sleep(POLL_S)
        return True

    def _free_port(self) -> int:
        """The port of the last time if nobody else has it, otherwise a random one."""
        for port in filter(None, [self._recorded("port"), *random.sample(PORTS, 200)]):
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                # As the servers do: connections of the last run that linger in TIME_WAIT do not count.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with contextlib.suppress(OSError):
                    probe.bind((HOST, port))
                    return port
        raise EmbeddedServerError(f"no free port on {HOST} between {PORTS.start} and {PORTS.stop}: 200 were tried")

    # --- stopping

    def _stop(self) -> bool:
        """End supervisor and server; returns whether there was one of them."""
        lived = False
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while is_locked(self._file("state")):
            lived = True
            if pid := self._recorded("supervisor"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL)
            time.sleep(POLL_S)
        return self._end_leftovers() or lived

    def _end_leftovers(self) -> bool:
        """End a server that has no supervisor, and what is left of a killed one; returns whether there was any."""
        found = False
        for name, timeout_s in [*self.stop_steps, ("SIGKILL", KILL_TIMEOUT_S)]:
            deadline = time.monotonic() + timeout_s
            for process in self._processes():
                found = True
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, getattr(signal, name))
            while self._processes() and time.monotonic() < deadline:
                time.sleep(POLL_S)
        if left := self._processes():
            raise EmbeddedServerError(f"processes {sorted(left)} still use {self._working_folder()}: end them first")
        return found

    def _processes(self) -> set[int]:
        """Living processes that work in the server's folder, which cannot be strangers with the pid of a dead server."""
        import psutil

        wanted, found = str(self._working_folder().resolve()), set()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):  # of other users', ended ones and zombies it is not told
                if process.cwd() == wanted:
                    found.add(process.pid)
        return found

    def _without_settings(self, how: str) -> EmbeddedServerError:
        """The failure of a server that has not read its settings; the caller's reference goes with it, and so does the server."""
        return EmbeddedServerError(
            f"the {self.name} in {self.location()} has not read its settings: {how}. It is stopped; look into"
            f" {self._file('log')}"
        )

    # --- files

    def _password_file(self) -> Path:
        return self.location() / "password"

    def _recorded(self, what: str) -> int:
        """The `port`, `supervisor` or `server` of the state file; 0 if it is not there."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            return int(json.loads(self._file("state").read_text()).get(what, 0))
        return 0

    def _end_of_log(self) -> str:
        lines = self._file("log").read_text(errors="replace").splitlines()
        said = " | ".join(line for line in lines[-6:] if line.strip()) or "nothing"
        full = os.strerror(errno.ENOSPC) in said
        return f"{said}: the disk is full, make room on it or set ETL_DATA_DIR to another" if full else said

    def _file(self, suffix: str) -> Path:
        return self.data_dir / f"{self.name}.{suffix}"
