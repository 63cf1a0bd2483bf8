"""Files of the embedded servers: locks, reference counts, and what only their owner reads.

A lock is an flock: it belongs to the open file, is shared with forked children, and the kernel gives it back when the
last process that has the file open ends, however it ends.
"""

import contextlib
import fcntl
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

from etl_assets.errors import PermanentError


class EmbeddedServerError(PermanentError):
    """A local server cannot be started, reached or stopped; the message names the file or the log to look at."""


# By file, the descriptor that holds the shared lock and the number of references that this process counts.
_references: dict[Path, tuple[int, int]] = {}
_guard = threading.Lock()
os.register_at_fork(before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_guard.release)


def add_reference(path: Path) -> None:
    """Take a shared lock, counted over the process; waits while a supervisor, which has the exclusive one then, stops."""
    with _guard:
        fd, count = _references.get(path, (-1, 0))
        # Of a data folder that was deleted under us the old lock protects nothing.
        if not count or not _is_file_at(fd, path):
            stale, fd = fd, _open_locked(path, fcntl.LOCK_SH)
            if count:
                os.close(stale)
        _references[path] = (fd, count + 1)


def drop_reference(path: Path) -> None:
    """Give back one reference; the last one closes the file.

    Closed, never unlocked: a child that was forked from this process shares the lock and may still use the server.
    """
    with _guard:
        fd, count = _references.pop(path, (-1, 0))
        if not count:
            raise RuntimeError(f"release() without acquire(): this process has no reference in {path}")
        if count > 1:
            _references[path] = (fd, count - 1)
        else:
            os.close(fd)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the exclusive lock of a file."""
    fd = _open_locked(path, fcntl.LOCK_EX)
    try:
        yield
    finally:
        # Unlocked, not only closed: a thread may have forked a child that shares the lock.
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def is_locked(path: Path) -> bool:
    """Whether a process of this user holds the exclusive lock of a file."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_UN)
    except BlockingIOError:
        return True
    except (FileNotFoundError, PermissionError):
        pass
    return False


def open_private(path: str | Path, flags: int) -> int:
    """Open, with mode 0600 if it is made by this; usable as the opener of `open`."""
    return os.open(path, flags, 0o600)


def write_private(path: Path, text: str, *, uid: int = -1) -> None:
    """Write a file of mode 0600 in one piece: a reader sees the old text or the new one."""
    # Exclusive creation does not follow links: the folder may belong to a less trusted user.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with open(temporary, "x", encoding="utf-8", opener=open_private) as file:
        os.fchown(file.fileno(), uid, -1)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _open_locked(path: Path, mode: int) -> int:
    """Open a lock file and lock it; begins again when the file was replaced while we waited."""
    try:
        while True:
            fd = open_private(path, os.O_RDWR | os.O_CREAT)
            fcntl.flock(fd, mode)
            if _is_file_at(fd, path):
                return fd
            os.close(fd)
    except OSError as error:
        raise EmbeddedServerError(
            f"cannot lock {path} ({error.strerror}): run as the user who owns it, "
            "or set ETL_DATA_DIR to a folder of your own on a local disk"
        ) from error


def _is_file_at(fd: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), path.stat())
    return False
