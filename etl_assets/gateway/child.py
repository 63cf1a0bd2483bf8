"""The leash: runs a command, and ends it with all that it has started when whoever holds the other end has gone.

It is run as a script (`python -I -S leash.py COMMAND…`) with a pipe as its standard input. The kernel closes the other end
when that process has ended, however it ended, so a SIGKILLed gateway leaves nothing behind. It imports nothing but the
standard library.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

# A run that is cut off needs a moment to write down that it was.
PATIENCE_S = 4.0
POLL_S = 0.02


def main() -> int:
    """Run the command until it ends or the pipe is closed; gives its exit code."""
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    # Handlers that do nothing: the number arrives through the pipe. Ctrl-C reaches the whole terminal; its reader decides.
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    # A session of its own, so that all its descendants can be signalled at once.
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
    while child.poll() is None:
        ready, _, _ = select.select([wake_read, sys.stdin], [], [])
        if sys.stdin in ready or signal.SIGTERM in os.read(wake_read, 1024):
            break
    end(child)
    return child.wait()


def end(child: "subprocess.Popen[bytes]") -> None:
    """Ask the command and its descendants to end, then make them."""
    until = time.monotonic() + PATIENCE_S
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
        while time.monotonic() < until:
            child.poll()
            os.killpg(child.pid, 0)
            time.sleep(POLL_S)
        os.killpg(child.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
