"""What every embedded server shares: leases, the start under a lock, attaching, adopting, stopping.

Files in the data folder, for a server called `postgres`:

    postgres.lease     every user holds a shared lock on it; the keeper waits for the exclusive one
    postgres.lock      exclusive while somebody starts, stops or purges the server
    postgres.keeper    locked by the keeper as long as it lives; names its process and the server's
    postgres.state     the port (mode 0600)
    postgres.log       what the keeper and the server print

Order matters: a user takes the lease first and looks for a server then. So a server that is there after the lease was
granted is not about to be stopped for want of users; and a user who comes while the keeper stops the server waits for
the lease and finds none. What one kind of server needs is in `embedded_postgres` and `embedded_broker`.
"""

import contextlib
import fcntl
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from etl_assets.core.embedded.lease import (
    EmbeddedServerError,
    Lease,
    first_pid,
    lease_on,
    open_locked,
    open_private,
    processes_in,
    write_private,
)

HOST = "127.0.0.1"
# Below the ports that systems hand out to outgoing connections, so that a port is likely to be free again on a restart.
PORTS = range(20_000, 32_000)
POLL_S = 0.01
START_TIMEOUT_S = 300.0  # crash recovery of a large cluster; a server that fails is noticed at once
ORPHAN_PATIENCE_S = 5.0
KEEPER_PATIENCE_S = 120.0
START_ATTEMPTS = 4
LOG_LIMIT_BYTES = 10_000_000
KEEPER_SCRIPT = Path(__file__).with_name("supervisor.py")
# Nothing of the user's environment: a bad LANG breaks initdb, PG* variables redirect clients, secrets stay at home.
CHILD_ENVIRONMENT = {"PATH": os.defpath, "LANG": "C", "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True)
class Launch:
    """How the keeper starts a server."""

    argv: list[str]
    cwd: Path
    uid: int | None = None
    gid: int | None = None
    tidy: list[str] = field(default_factory=list)  # folders to remove after the server has ended, if empty


class EmbeddedServer(ABC):
    """A local server with its data in the platform's data folder, shared by all processes that use that folder."""

    name: ClassVar[str]
    # Signals of a clean end, each with the seconds it is given; SIGKILL comes after the last.
    stop_steps: ClassVar[list[tuple[str, float]]]

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = Path(data_dir).resolve()

    # --- the public surface

    def acquire(self) -> str:
        """Take a lease on the server and return its URL; starts the server when it is not running.

        The lease lasts until `release`, or until the process ends, however it ends.

        Raises:
            EmbeddedServerError: if the server cannot be started; the message quotes its log.
        """
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EmbeddedServerError(
                f"cannot make the data folder {self.data_dir} ({error.strerror}): set ETL_DATA_DIR to another"
            ) from error
        lease = self._lease()
        lease.hold()
        try:
            if not (self._keeper_lives() and self._answers()):
                self._ensure_running()
            return self._url()
        except BaseException:
            lease.drop()
            raise

    def release(self) -> None:
        """Give back one `acquire`; the server stops when the last process has given back its last."""
        if not self._keeper_lives() and self._main_process() is not None:
            self._ensure_running()  # the keeper was killed: without a new one the server would run for ever
        self._lease().drop()

    def __enter__(self) -> str:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def running(self) -> bool:
        """Whether the server of this data folder answers now."""
        return (self._keeper_lives() or self._main_process() is not None) and self._answers()

    def stop(self) -> bool:
        """End the server cleanly, whoever uses it; the next `acquire` starts it again.

        Waits also for one that is stopped already for want of users. Returns whether there was anything to wait for.
        """
        if not self._file("lease").exists():
            return False  # never used here, and a look leaves nothing
        with self._start_lock():
            lived = self._keeper_lives() or self._main_process() is not None
            self._stop()
            return lived

    def purge(self) -> None:
        """Stop the server and delete its data. The empty lock files stay: others may be waiting for them."""
        if not self.data_dir.is_dir():
            self._delete_files()  # what may be outside
            return
        with self._start_lock():
            self._stop()
            self._delete_files()
            for suffix in ("state", "log", "log.1", "keeper"):
                self._file(suffix).unlink(missing_ok=True)

    @abstractmethod
    def location(self) -> Path:
        """The folder that holds the server's data."""

    # --- what a kind of server adds

    @abstractmethod
    def _url(self) -> str:
        """The server's URL, from the state and the password file."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether the server at the noted port lets us in with our password and is ready for use."""

    @abstractmethod
    def _prepare(self, port: int) -> Launch:
        """Bring the files in order and say how to start the server; called under the start lock, no server running."""

    @abstractmethod
    def _working_folder(self) -> Path:
        """The folder that is the working directory of the server and its children."""

    @abstractmethod
    def _pid_file(self) -> Path:
        """The file that the server itself writes its pid to."""

    @abstractmethod
    def _delete_files(self) -> None:
        """Delete everything outside the files that this class owns; no server is running."""

    def _became_ready(self) -> bool:
        """Like `_answers`, under the start lock: may add what a fresh server lacks."""
        return self._answers()

    # --- starting

    def _ensure_running(self) -> None:
        with self._start_lock():
            for _ in range(START_ATTEMPTS):
                if not self._keeper_lives():
                    log_start = self._log_size()
                    self._launch()
                else:
                    log_start = 0
                if self._wait_until_ready():
                    return
            raise EmbeddedServerError(
                f"{self.name} in {self.location()} ended right after its start, {START_ATTEMPTS} times; "
                f"{self._file('log')} says: {self._log_since(log_start)}"
            )

    def _launch(self) -> None:
        main = self._main_process()
        if main is not None and self._port() is not None:
            launch = Launch(argv=[], cwd=self.data_dir)
        else:
            main = None
            self._end_leftovers()
            port = self._free_port()
            launch = self._prepare(port)
            # Before the start: whoever comes after a kill knows where the server that it finds listens.
            write_private(self._file("state"), json.dumps({"port": port}))
        self._start_keeper(launch, adopt=main)

    def _start_keeper(self, launch: Launch, adopt: int | None) -> None:
        spec: dict[str, Any] = {
            "record": str(self._file("keeper")),
            "lease": str(self._file("lease")),
            "argv": launch.argv,
            "cwd": str(launch.cwd),
            "uid": launch.uid,
            "gid": launch.gid,
            "adopt": adopt,
            "stop": self.stop_steps,
            "tidy": launch.tidy,
        }
        if self._log_size() > LOG_LIMIT_BYTES:
            self._file("log").replace(self._file("log.1"))
        # Emptied before anybody can read a pid of the last keeper in it.
        os.close(open_private(self._file("keeper"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
        log = open_private(self._file("log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            # -I: neither the user's environment nor the script's folder, whose modules bear names of standard ones.
            subprocess.run(
                [sys.executable, "-I", "-S", str(KEEPER_SCRIPT), json.dumps(spec)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=CHILD_ENVIRONMENT,
                start_new_session=True,
                check=True,
            )
        except subprocess.CalledProcessError as error:
            raise EmbeddedServerError(
                f"the keeper of {self.name} did not start (exit {error.returncode}): see {self._file('log')}"
            ) from error
        finally:
            os.close(log)

    def _wait_until_ready(self) -> bool:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._became_ready():
            if not self._keeper_lives():
                return False
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"{self.name} in {self.location()} runs but has not answered for {START_TIMEOUT_S:.0f} s: "
                    f"see {self._file('log')}; stop() ends it"
                )
            time.sleep(POLL_S)
        return True

    def _free_port(self) -> int:
        """The port of the last time if nobody else has it, otherwise a random one."""
        kept = self._port()
        for port in ([kept] if kept is not None else []) + random.sample(PORTS, 200):
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                # As the servers do: connections of the last run that linger in TIME_WAIT do not count.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with contextlib.suppress(OSError):
                    probe.bind((HOST, port))
                    return port
        raise EmbeddedServerError(f"no free port on {HOST} between {PORTS.start} and {PORTS.stop}: 200 were tried")

    # --- stopping

    def _stop(self) -> None:
        deadline = time.monotonic() + KEEPER_PATIENCE_S
        asked: set[int] = set()
        while self._keeper_lives():
            pid = self._recorded("keeper")
            number = signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL
            if pid is not None and (pid not in asked or number == signal.SIGKILL):
                asked.add(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            time.sleep(POLL_S / 2)
        main = self._main_process()
        if main is not None:
            name, patience_s = self.stop_steps[0]
            with contextlib.suppress(ProcessLookupError):
                os.kill(main, getattr(signal, name))
            self._wait_for_end(patience_s)
        self._end_leftovers()

    def _end_leftovers(self) -> None:
        """Wait for, then kill, what is left of a server that cannot be used; its log makes the data whole again."""
        if not self._wait_for_end(ORPHAN_PATIENCE_S):
            for pid in self._processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not self._wait_for_end(ORPHAN_PATIENCE_S):
                raise EmbeddedServerError(
                    f"processes {sorted(self._processes())} still use {self._working_folder()}: end them first"
                )

    def _wait_for_end(self, patience_s: float) -> bool:
        deadline = time.monotonic() + patience_s
        while self._processes():
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return True

    # --- looking

    def _processes(self) -> set[int]:
        return processes_in(self._working_folder(), self._pid_file())

    def _main_process(self) -> int | None:
        """The server's own process, found without its keeper."""
        pid = first_pid(self._pid_file())
        return pid if pid in self._processes() else None

    def _keeper_lives(self) -> bool:
        try:
            fd = os.open(self._file("keeper"), os.O_RDWR)
        except FileNotFoundError:
            return False
        except PermissionError as error:
            raise EmbeddedServerError(
                f"{error.filename} belongs to another user: run as that user, or set ETL_DATA_DIR to your own folder"
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            # Not by closing alone: a thread may have forked a child that shares the lock.
            fcntl.flock(fd, fcntl.LOCK_UN)
            return False
        finally:
            os.close(fd)

    def _recorded(self, what: str) -> int | None:
        with contextlib.suppress(OSError, ValueError):
            for line in self._file("keeper").read_text().splitlines():
                kind, pid = line.split()
                if kind == what:
                    return int(pid)
        return None

    def _port(self) -> int | None:
        try:
            return int(json.loads(self._file("state").read_text())["port"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _log_size(self) -> int:
        try:
            return self._file("log").stat().st_size
        except FileNotFoundError:
            return 0

    def _log_since(self, offset: int) -> str:
        with open(self._file("log"), "rb") as log:
            log.seek(offset if offset <= self._log_size() else 0)
            lines = log.read().decode(errors="replace").splitlines()
        return " | ".join(line for line in lines[-6:] if line.strip()) or "nothing"

    def _file(self, suffix: str) -> Path:
        return self.data_dir / f"{self.name}.{suffix}"

    def _lease(self) -> Lease:
        return lease_on(self._file("lease"))

    @contextlib.contextmanager
    def _start_lock(self) -> Iterator[None]:
        fd = open_locked(self._file("lock"), fcntl.LOCK_EX)
        try:
            yield
        finally:
            # Unlocked, not only closed: a thread may have forked a child that shares the lock.
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)
