"""The keeper: a small process that is the parent of one embedded server and stops it after its last user.

It is run as a script (`python -I -S embedded_keeper.py SPEC`) and imports nothing but the standard library, so that it
starts in about 30 ms. Users hold a shared lock on the lease file; the keeper waits for the exclusive one. The kernel
gives it away when the last user has ended, however it ended, so a SIGKILLed user leaves nothing behind.

The keeper ends when the server has ended. It stops the server when the lease falls free, and on SIGTERM at once. While
it lives it holds an exclusive lock on its record file, which names its own process and the server's: that lock, and not
the text, says that there is a keeper. Only the end of its process frees the record and the lease, so that whoever waits
for them meets none.
"""

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from typing import Any

LEASE_FREE = 0  # in the wake-up pipe, beside signal numbers, which begin at 1
ADOPTED_POLL_S = 0.2
KILL_PATIENCE_S = 10.0


def has_ended(pid: int) -> bool:
    """Whether a process is gone; one that ended but is not yet reaped by its parent counts as gone."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            # The name of the program, in brackets, may contain anything: the state follows the last bracket.
            return stat.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except FileNotFoundError:
        # Without /proc (macOS) the first answer stands: launchd reaps orphans at once.
        return os.path.isdir("/proc/self")


class Server:
    """The server's process: a child of this keeper, or one that outlived the keeper before it."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._stop_steps = spec["stop"]
        self._child: subprocess.Popen[bytes] | None = None
        if spec["adopt"] is not None:
            self.pid = int(spec["adopt"])
            return
        uid, gid = spec["uid"], spec["gid"]
        self._child = subprocess.Popen(
            spec["argv"],
            cwd=spec["cwd"],
            stdin=subprocess.DEVNULL,
            user=uid,
            group=gid,
            extra_groups=None if uid is None else [],
        )
        self.pid = self._child.pid

    @property
    def adopted(self) -> bool:
        """Whether another process is the parent, so that no signal tells of the end."""
        return self._child is None

    def alive(self) -> bool:
        """Whether the server has not ended yet; reaps it when it has."""
        return not has_ended(self.pid) if self._child is None else self._child.poll() is None

    def stop(self) -> None:
        """Ask for a clean end, then less and less politely."""
        for name, patience_s in [*self._stop_steps, ("SIGKILL", KILL_PATIENCE_S)]:
            try:
                os.kill(self.pid, getattr(signal, name))
            except ProcessLookupError:
                return
            if self._ended_within(patience_s):
                return
            print(f"keeper: server {self.pid} still runs {patience_s} s after {name}", file=sys.stderr, flush=True)

    def _ended_within(self, patience_s: float) -> bool:
        deadline = time.monotonic() + patience_s
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True


def wait_for_the_last_user(lease: int, wake: int) -> None:
    """Block until nobody holds the lease, then wake the main thread; the lock is kept until the keeper ends."""
    fcntl.flock(lease, fcntl.LOCK_EX)
    os.write(wake, bytes([LEASE_FREE]))


def keep(spec: dict[str, Any], record: int) -> None:
    """Start or adopt the server and stay until it has ended; the record stays locked."""
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    # Handlers that do nothing: the number arrives through the pipe, and an exec resets them to the default.
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)

    lease = os.open(spec["lease"], os.O_RDWR | os.O_CREAT, 0o600)
    server = Server(spec)
    os.write(record, f"server {server.pid}\n".encode())
    threading.Thread(target=wait_for_the_last_user, args=(lease, wake_write), daemon=True).start()

    while server.alive():
        ready, _, _ = select.select([wake_read], [], [], ADOPTED_POLL_S if server.adopted else None)
        if ready and {LEASE_FREE, signal.SIGTERM} & set(os.read(wake_read, 1024)):
            server.stop()
    for folder in spec["tidy"]:
        with contextlib.suppress(OSError):  # not empty after a crash: the next start clears it
            os.rmdir(folder)


def main() -> None:
    """Take the record, detach, keep. The first process ends as soon as the detached one is the keeper."""
    spec = json.loads(sys.argv[1])
    os.umask(0o077)
    record = os.open(spec["record"], os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    fcntl.flock(record, fcntl.LOCK_EX)
    os.ftruncate(record, 0)
    # Detached by a second process, whose parent is nobody's user: no user has to reap it, none is warned of it.
    pid = os.fork()
    if pid:
        os.write(record, f"keeper {pid}\n".encode())
        os._exit(0)
    try:
        keep(spec, record)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
