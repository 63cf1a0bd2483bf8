"""The supervisors: small processes that are the parent of others, which they end in time.

It is run as a script of the standard library alone, so that it starts in about 30 ms.

`python -I -S supervisor.py STATE` is the parent of one server and stops it after its last user. What to start comes as
JSON on its standard input: a process list shows arguments to everybody. Users hold a shared lock on a file; the supervisor
waits for the exclusive one, which the kernel gives it when the last user has ended, however it ended. It also stops the
server on SIGTERM, and ends when the server has ended. While it lives it holds an exclusive lock on the state file, which
names the port, its own process and the server's: that lock, and not the text, says that there is a supervisor. Only the
end of its process frees its locks.

On Linux the kernel tells the server to end when its supervisor was killed. Elsewhere such a server is ended by whoever
starts or stops it next.

`python -I -S supervisor.py -- COMMAND…` runs a command, and ends it with all that it has started when its standard input,
a pipe, is closed (`child`). The kernel closes that when the process at the other end has ended, however it ended.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}
KILL_TIMEOUT_S = 10.0
# A run that is cut off needs a moment to write down that it was.
TERMINATION_TIMEOUT_S = 4.0
TERMINATION_POLL_S = 0.02
POLL_S = 0.1
PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def main() -> None:
    """Lock the state, detach, supervise: the first process ends as soon as the second is the supervisor."""
    spec = json.load(sys.stdin)
    os.umask(0o077)
    state = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(state, fcntl.LOCK_EX)
    # Before the start: the process ids of the last run may be those of strangers by now.
    write(state, {"port": spec["port"]})
    if not os.fork():
        supervise(spec, state)


def write(state: int, values: dict[str, int]) -> None:
    """Replace the text of the state file."""
    os.ftruncate(state, 0)
    os.pwrite(state, json.dumps(values).encode(), 0)


def supervise(spec: dict[str, Any], state: int) -> None:
    """Start the server and stay until it has ended; the state stays locked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # by default some systems would drop it
    server = start(spec)
    write(state, {"port": spec["port"], "supervisor": os.getpid(), "server": server.pid})
    threading.Thread(target=wait_for_the_last_user, args=(spec["users"],), daemon=True).start()
    while server.poll() is None and signal.sigwait(SIGNALS) == signal.SIGCHLD:
        pass  # it may only have been paused
    stop(server, spec["stop"])


def start(spec: dict[str, Any]) -> "subprocess.Popen[bytes]":
    """The server's process, which gets its input and, on Linux, ends with this one."""
    libc = ctypes.CDLL(None)
    number = getattr(signal, spec["stop"][0][0])

    def in_the_child() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if sys.platform == "linux":
            libc.prctl(PR_SET_PDEATHSIG, number)

    # No other thread runs yet, so that the child may call Python.
    server = subprocess.Popen(
        spec["argv"],
        cwd=spec["cwd"],
        env=spec["environment"],
        stdin=subprocess.PIPE,
        preexec_fn=in_the_child,
        **spec["account"],
    )
    assert server.stdin is not None
    with contextlib.suppress(BrokenPipeError), server.stdin:
        server.stdin.write(spec["input"].encode())
    return server


def wait_for_the_last_user(users: str) -> None:
    """Block until nobody has a reference, then tell the main thread; the lock is kept until the process ends."""
    fcntl.flock(os.open(users, os.O_RDWR | os.O_CREAT, 0o600), fcntl.LOCK_EX)
    os.kill(os.getpid(), signal.SIGTERM)


def stop(server: "subprocess.Popen[bytes]", steps: list[tuple[str, float]]) -> None:
    """Tell the server to end cleanly, then less and less politely."""
    for name, timeout_s in [*steps, ("SIGKILL", KILL_TIMEOUT_S)]:
        server.send_signal(getattr(signal, name))
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(timeout_s)
            return
        print(f"supervisor: server {server.pid} runs {timeout_s} s after {name}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def child(command: Sequence[str], **options: Any) -> "Iterator[subprocess.Popen[bytes]]":
    """A process that ends, with all that it has started, when the block ends, or this process however it does.

    Args:
        options: further ones of `subprocess.Popen`.
    """
    supervised = [sys.executable, "-I", "-S", __file__, "--", *command]
    process = subprocess.Popen(supervised, stdin=subprocess.PIPE, **options)
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(TERMINATION_TIMEOUT_S + 1)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run(command: Sequence[str]) -> int:
    """Run a command until it ends, SIGTERM comes or standard input is closed; gives its exit code."""
    ended = threading.Event()
    # Ctrl-C and the end of a terminal reach all processes of it; who has started this one decides.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    # A session of its own, so that all its descendants can be signalled at once.
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_at_end_of_input, args=(ended.set,), daemon=True).start()
    while process.poll() is None and not ended.wait(POLL_S):
        pass
    until = time.monotonic() + TERMINATION_TIMEOUT_S
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        while time.monotonic() < until:
            process.poll()
            os.killpg(process.pid, 0)
            time.sleep(TERMINATION_POLL_S)
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def _at_end_of_input(then: Callable[[], None]) -> None:
    os.read(0, 1)
    then()


if __name__ == "__main__":
    if sys.argv[1] == "--":
        sys.exit(run(sys.argv[2:]))
    main()
