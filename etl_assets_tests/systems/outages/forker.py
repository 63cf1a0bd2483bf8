"""Processes that start at once: a helper has imported everything and forks a child for each task.

    python -m etl_assets_tests.systems.outages.forker

The helper has no connection and no thread of its own, so that a child is what a freshly started process would be. A task is
a function `module:name` that is called with `arguments` and whose integer result is the exit code.
"""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PRELOADED = (
    "adbc_driver_postgresql.dbapi",
    "alembic.command",
    "dagster",
    "etl_assets.cli",
    "etl_assets.definitions",
    "etl_assets.systems.outages.script",
    "etl_assets.core.migrations.upgrade",
    "etl_assets.core.sources.http.transport",
    "etl_assets_tests.systems.outages.runs",
    "etl_assets_tests.systems.outages.tasks",
    "psycopg",
    "pyarrow.parquet",
    "rich.table",
    "tenacity",
)
CHECKOUT = Path(__file__).resolve().parents[3]


@dataclass
class Child:
    """A running task."""

    forker: "Forker"
    pid: int
    folder: Path
    code: int | None = None

    def kill(self) -> None:
        """Ends it without notice."""
        os.kill(self.pid, signal.SIGKILL)

    def pause(self) -> None:
        """Stops it where it is."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def is_paused(self) -> bool:
        """Waits until it is paused; false if it ends before that."""
        while True:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state in "TZX":
                return state == "T"
            time.sleep(0.003)

    def wait(self) -> int:
        """Its exit code; minus the number of the signal that ended it."""
        if self.code is None:
            self.code = self.forker.read()["code"]
        return self.code

    @property
    def gave_way(self) -> bool:
        """Whether the exception that ended it says that the work is to be done again."""
        *_, last = ["", *self.err.strip().splitlines()]
        return re.match(r"etl_assets\.\S*(LookOutdated|InputsMoved|TransientError): ", last) is not None

    @property
    def out(self) -> str:
        """What it printed."""
        return (self.folder / "out").read_text()

    @property
    def err(self) -> str:
        """What it printed as errors."""
        return (self.folder / "err").read_text()


class Forker:
    """The helper as its user sees it; one task at a time.

    Args:
        folder: where what the children print is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started = 0
        self._helper = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=CHECKOUT,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        self.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._helper.stdin
        assert self._helper.stdout
        self._helper.stdin.close()
        self._helper.wait(timeout=30)
        self._helper.stdout.close()

    def start(
        self, task: str, *, environment: dict[str, str], no_life_s: float | None = None, **arguments: Any
    ) -> Child:
        """Forks a child for a task.

        Args:
            environment: variables of ours; the child has no others.
            no_life_s: how long it waits for one who shows no life, and has a lock; by default a minute.
        """
        self._started += 1
        folder = self._folder / f"child-{self._started}"
        folder.mkdir(parents=True)
        job = {
            "task": task,
            "arguments": arguments,
            "environment": environment,
            "folder": str(folder),
            "no_life_s": no_life_s,
        }
        assert self._helper.stdin
        self._helper.stdin.write(json.dumps(job) + "\n")
        self._helper.stdin.flush()
        return Child(self, self.read()["pid"], folder)

    def read(self) -> dict[str, Any]:
        """The helper's next line."""
        assert self._helper.stdout
        answer: dict[str, Any] = json.loads(self._helper.stdout.readline())
        return answer


def ours() -> dict[str, str]:
    """The variables of this process that the platform reads."""
    return {name: value for name, value in os.environ.items() if name.startswith(("ETL_", "OUTAGES_", "DAGSTER_"))}


def say(**answer: Any) -> None:
    """A line for the user."""
    print(json.dumps(answer), flush=True)


class Command:
    """`etl-assets` as a process of its own, forked from one that has imported everything."""

    def __init__(self, forker: Forker) -> None:
        self.forker = forker
        self.out = self.err = ""

    def __call__(self, *arguments: str, quick: bool = False, **environment: str) -> int:
        """Runs a command and gives its exit code."""
        child = self.forker.start(
            "etl_assets_tests.systems.outages.tasks:command",
            environment={**ours(), **environment},
            arguments=list(arguments),
            quick=quick,
        )
        code = child.wait()
        self.out, self.err = child.out, child.err
        assert "Traceback" not in self.err
        return code


def serve() -> None:
    """Forks a child for each line of input, and says its process id and then its exit code."""
    for module in PRELOADED:
        importlib.import_module(module)
    say(ready=True)
    last = 0
    for line in sys.stdin:
        job = json.loads(line)
        if last:
            os.waitpid(last, 0)
        pid = last = os.fork()
        if pid == 0:
            run(job)
        say(pid=pid)
        # Left as a zombie until the next task: a kill that comes too late must not hit another process of the same number.
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert ended
        say(code=ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status)


def run(job: dict[str, Any]) -> None:
    """The child: does the task and ends."""
    for name, descriptor in (("out", 1), ("err", 2)):
        file = os.open(f"{job['folder']}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    for name in ours():
        del os.environ[name]
    os.environ.update(job["environment"])
    if job["no_life_s"]:
        be_impatient(job["no_life_s"])
    module, name = job["task"].split(":")
    code = 70
    try:
        code = getattr(importlib.import_module(module), name)(**job["arguments"])
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def be_impatient(no_life_s: float) -> None:
    """Locks are taken from who shows no life for so long, and who is alive shows that the more often."""
    lock: Any = importlib.import_module("etl_assets.core.slices.lock")
    lock.NO_LIFE_S, lock.RENEWED_EVERY_S, lock.LOOKED_AT_EVERY_S = no_life_s, no_life_s / 10, no_life_s / 10


if __name__ == "__main__":
    serve()
