"""Leases, lock files and the processes behind them: what `embedded_server` is built from.

A lock is an flock: it belongs to the open file, is shared with forked children, and the kernel gives it back when the
last process that has the file open ends, however it ends.
"""

import contextlib
import fcntl
import os
import secrets
import subprocess
import threading
from pathlib import Path

from etl_assets.core.embedded.supervisor import has_ended
from etl_assets.errors import PermanentError


class EmbeddedServerError(PermanentError):
    """A local server cannot be started, reached or stopped; the message names the file or the log to look at."""


def open_locked(path: Path, mode: int) -> int:
    """Open a lock file and lock it; begins again when the file was replaced while we waited."""
    try:
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(fd, mode)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(fd), os.stat(path)):
                        return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
    except OSError as error:
        raise EmbeddedServerError(
            f"cannot lock {path} ({error.strerror}): run as the user who owns it, "
            "or set ETL_DATA_DIR to a folder of your own on a local disk"
        ) from error


def open_private(path: str | Path, flags: int) -> int:
    """Open, with mode 0600 if it is made by this; usable as the opener of `open`."""
    return os.open(path, flags, 0o600)


def write_private(path: Path, text: str, *, uid: int = -1, gid: int = -1) -> None:
    """Write a file of mode 0600 in one piece: a reader sees the old text or the new one."""
    # Exclusive creation does not follow links: the folder may belong to a less trusted user.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            if uid != -1:
                os.fchown(fd, uid, gid)
            file.write(text)
            file.flush()
            os.fsync(fd)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def processes_in(folder: Path, pid_file: Path) -> set[int]:
    """Processes of the server whose working directory is `folder`, its children included.

    A server changes into its own folder, so this cannot take a stranger who got the pid of a dead server for it, and
    it leaves out zombies. Without /proc it is the process named by the pid file, if that is alive and works there.
    """
    wanted = str(folder.resolve())
    found = set()
    if os.path.isdir("/proc/self"):
        for entry in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if entry.isdigit() and os.readlink(f"/proc/{entry}/cwd") == wanted:
                    found.add(int(entry))
        return found
    pid = first_pid(pid_file)
    if pid is not None and not has_ended(pid):
        shown = subprocess.run(["lsof", "-a", "-p", str(pid), "-d", "cwd", "-Fn"], capture_output=True, text=True)
        if f"n{wanted}\n" in shown.stdout:
            found.add(pid)
    return found


def first_pid(pid_file: Path) -> int | None:
    """The pid in the first line of a server's own pid file."""
    try:
        return int(pid_file.read_text(encoding="utf-8", errors="replace").splitlines()[0])
    except (OSError, ValueError, IndexError):
        return None


class Lease:
    """This process's lease on one server, counted; all instances and threads of the process share it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.Lock()
        self._fd = -1
        self._count = 0

    def hold(self) -> None:
        """Take the lease; waits while the keeper stops the server."""
        with self.lock:
            if self._count and self._is_current():
                self._count += 1
                return
            stale = self._fd if self._count else -1
            self._fd = open_locked(self.path, fcntl.LOCK_SH)
            self._count += 1
            if stale != -1:
                os.close(stale)

    def drop(self) -> None:
        """Give back one hold; the last one closes the file.

        Closed, never unlocked: a child that was forked from this process shares the lock and may still use the server.
        """
        with self.lock:
            if not self._count:
                raise RuntimeError(f"release() without acquire(): this process holds no lease on {self.path}")
            self._count -= 1
            if not self._count:
                os.close(self._fd)

    def _is_current(self) -> bool:
        # Somebody may have deleted the whole data folder under us; a lease on a deleted file protects nothing.
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(self.path))
        except FileNotFoundError:
            return False


_leases: dict[Path, Lease] = {}


def lease_on(path: Path) -> Lease:
    """The one lease object of this process for a lease file."""
    return _leases.setdefault(path, Lease(path))


def _renew_locks_after_fork() -> None:
    # A thread that does not exist in the child may have held one.
    for lease in _leases.values():
        lease.lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_locks_after_fork)
