"""The bench of the kill test: files that grow, servers that are killed, and lives of relay and drain that end too early."""

import json
import os
import random
import signal
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import redis

from etl_assets.core.embedded import EmbeddedBroker, EmbeddedPostgres
from etl_assets.core.embedded.server import EmbeddedServer
from etl_assets.systems.production.contracts import STREAMS
from etl_assets.systems.production.simulator import ProductionSimulator
from etl_assets_tests.systems.outages.forker import Child, Forker
from etl_assets_tests.systems.production.kills_tasks import Step
from etl_assets_tests.systems.production.kills_witness import Judgement, Witness

KILLED = -signal.SIGKILL
COMMANDS = {"relay": ["relay", "--follow"], "drain": ["production", "drain"]}
TASKS = "etl_assets_tests.systems.production.kills_tasks"
# How long a life lasts: a child takes a moment to begin, a command a second. A step that was not reached by then is not
# going to be.
# So long another waits for the lock of one that is paused; and how long that one is paused, and then goes on.
NO_LIFE_S, PAUSED_S, RESUMED_S = 0.7, (1.2, 2.0), (0.3, 0.8)
LASTS_S = {"pause": (4.0, 4.0), "instant": (0.02, 0.7), "command": (0.8, 2.2), "long": (1.0, 4.0), "step": (4.0, 4.0)}
# Shares of the files: at the beginning, for each life of the drain, and whenever there was no kill of it for a while.
AT_FIRST, EACH_LIFE, EACH_PAUSE, PAUSE_S = 0.1, 1 / 120, 1 / 120, 1.5


@dataclass
class GrowingFile:
    """A file that grows to its whole text, and not only by whole lines.

    Args:
        path: the file.
        texts: all its records.
    """

    path: Path
    texts: list[str]

    def __post_init__(self) -> None:
        self._data = "".join(f"{text}\n" for text in self.texts).encode()
        self.path.write_bytes(b"")
        self.size = 0

    def grow(self, share: float) -> None:
        """Write on, up to a share of the whole; a reader may meet half a line at the end."""
        size = max(self.size, int(min(share, 1) * len(self._data)))
        with self.path.open("ab") as file:
            file.write(self._data[self.size : size])
        self.size = size


@dataclass
class Servers:
    """Database and broker of the test, which it holds and kills."""

    database: EmbeddedPostgres
    broker: EmbeddedBroker
    restarts: Counter[str] = field(default_factory=Counter)
    # Goes up at the beginning and at the end of every disturbance.
    disturbances: int = 0

    def __post_init__(self) -> None:
        self.database_url, self.broker_url = self.database.acquire(), self.broker.acquire()
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            # Servers are killed, but no plug is pulled: what the operating system has taken is safe.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")

    def disturb(self, what: str) -> None:
        """One of `broker killed`, `broker stopped`, `broker flushed`, `database killed`, `database stopped`."""
        self.disturbances += 1
        server, _, how = what.partition(" ")
        if how == "flushed":
            with redis.Redis.from_url(self.broker_url) as client:
                client.flushall()
        else:
            self._restart({"broker": self.broker, "database": self.database}[server], how)
        self.restarts[what] += 1
        self.disturbances += 1

    def _restart(self, server: EmbeddedServer, how: str) -> None:
        if how == "stopped":
            server.stop()
        else:
            state = json.loads((server.data_dir / f"{server.name}.state").read_text())
            os.kill(state["server"], signal.SIGKILL)
        url = server.acquire()
        server.release()
        if server is self.broker:
            self.broker_url = url
        else:
            self.database_url = url

    def close(self) -> None:
        """Stop both and delete what they stored."""
        for server in (self.broker, self.database):
            server.release()
            server.purge()


@dataclass(frozen=True)
class Plan:
    """How a life ends.

    Attributes:
        kind: `step`; `instant`; `command` for the real command at an instant; `long` for later than that; `pause` for one that is paused
            at a step, until another has taken over and goes on beside it.
        step: where, for a step.
        number: at its how many-th call.
    """

    kind: str
    step: Step = ("", "")
    number: int = 1


def plans(
    steps: tuple[Step, ...], *, each: int, instants: int, commands: int, pauses: tuple[Step, ...], dice: random.Random
) -> list[Plan]:
    """In random order, each step some times, and the others."""
    at_steps = [Plan("step", step, dice.randint(1, 1 if step[0] == "look" else 2)) for step in steps * each]
    paused = [Plan("pause", step, dice.randint(1, 1 if step[0] == "look" else 2)) for step in pauses]
    planned = [*at_steps, *paused, *[Plan("instant")] * instants, *[Plan("command")] * commands]
    dice.shuffle(planned)
    return planned


class Lives(threading.Thread):
    """A relay, or a drain, that is started again after each kill, until all of its plans were carried out and the others' too.

    Args:
        role: `relay` or `drain`.
        folder: for what they print.
        servers: where they are.
        api_url: of the streams.
        planned: how to kill; afterwards it is at random instants.
        dice: gives the instants.
    """

    def __init__(
        self, role: str, folder: Path, servers: Servers, api_url: str, planned: list[Plan], dice: random.Random
    ) -> None:
        super().__init__(name=role, daemon=True)
        self._role = role
        self._folder = folder
        self._servers = servers
        self._api_url = api_url
        self._plans = deque(planned)
        self._dice = dice
        self._ended = threading.Event()
        self.done: Counter[str] = Counter()
        self.steps: Counter[Step] = Counter()
        self.paused = 0
        self.failure: BaseException | None = None

    @property
    def kills(self) -> int:
        return self.done.total()

    @property
    def open(self) -> list[Plan]:
        """Plans that were not carried out yet."""
        return list(self._plans)

    def end(self) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        self._folder.mkdir()
        try:
            with Forker(self._folder) as forker, Forker(self._folder / "others") as other:
                while not self._ended.is_set():
                    plan = self._plans.popleft() if self._plans else Plan("long")
                    if plan.kind == "pause":
                        self._pause(forker, other, plan)
                    else:
                        self._live(forker, plan)
        except BaseException as failure:
            self.failure = failure

    def _live(self, forker: Forker, plan: Plan) -> None:
        """One life; a plan that was not carried out comes last."""
        before, late = self._servers.disturbances, threading.Event()
        child = self._start(forker, plan)

        def too_late() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(self._dice.uniform(*LASTS_S[plan.kind]), too_late)
        timer.start()
        code = child.wait()
        timer.cancel()
        disturbed = before % 2 or self._servers.disturbances != before
        if code == KILLED:
            reached = plan.kind != "step" or not late.is_set()
            self.done[plan.kind if reached and plan.kind != "long" else "instant"] += 1
            if reached:
                self.steps += Counter([plan.step] if plan.kind == "step" else [])
            else:
                self._plans.append(plan)
        elif plan.kind == "command" and self._role == "drain" and (code == 0 or (code == 1 and disturbed)):
            # Done before it was killed, or met a server that was away.
            self._plans.append(plan)
        else:
            raise AssertionError(f"{self._role} ended with {code} by itself: {child.out}{child.err}")

    def _pause(self, forker: Forker, other: Forker, plan: Plan) -> None:
        """One that is paused at a step; another takes over, and both go on before they are killed. One that was not reached comes last."""
        child = self._start(forker, plan)
        timer = threading.Timer(LASTS_S[plan.kind][0], child.kill)
        timer.start()
        reached = child.is_paused()
        timer.cancel()
        if reached:
            competitor = self._start(other, Plan("long"))
            time.sleep(self._dice.uniform(*PAUSED_S))
            child.resume()
            time.sleep(self._dice.uniform(*RESUMED_S))
            competitor.kill()
            assert competitor.wait() == KILLED, f"beside a paused one: {competitor.out}{competitor.err}"
            self.paused += 1
        else:
            self._plans.append(plan)
        child.kill()
        code = child.wait()
        assert code == KILLED, f"{self._role}, paused at {plan.step}, ended with {code}: {child.out}{child.err}"

    def _start(self, forker: Forker, plan: Plan) -> Child:
        """A child for a plan; the real command finds the servers in the data folder, and brings them back itself."""
        environment = {"ETL_DATA_DIR": str(self._servers.database.data_dir), "PRODUCTION_API_URL": self._api_url}
        if plan.kind == "command":
            return forker.start(f"{TASKS}:command", environment=environment, arguments=COMMANDS[self._role])
        environment["ETL_POSTGRES_URL"] = self._servers.database_url
        environment["ETL_BROKER_URL"] = self._servers.broker_url
        kill = [plan.step[0], plan.number, plan.step[1]] if plan.kind in ("step", "pause") else None
        if kill and plan.kind == "pause":
            kill.append("pause")
        options: dict[str, Any] = {"environment": environment, "no_life_s": NO_LIFE_S, "kill": kill}
        if self._role == "relay":
            return forker.start(f"{TASKS}:relay", **options)
        return forker.start(f"{TASKS}:drains", batches=self._dice.choice((2, 4, 12)), **options)


@dataclass
class Storm:
    """Both sides are killed, the files grow, and now and then a server goes."""

    servers: Servers
    files: list[GrowingFile]
    relay: Lives
    drain: Lives
    witness: Witness
    disturbances: list[str]

    def __post_init__(self) -> None:
        self.planned = len(self.relay.open) + len(self.drain.open)
        self._threads: list[Lives | Witness] = [self.relay, self.drain, self.witness]
        self._seen, self._pauses, self._grown = -1, 0, 0.0

    @property
    def kills(self) -> int:
        return self.relay.kills + self.drain.kills

    @property
    def paused(self) -> int:
        return self.relay.paused + self.drain.paused

    def summary(self, judgement: Judgement) -> str:
        """What it came to, on one line."""
        done, restarts = self.relay.done + self.drain.done, self.servers.restarts
        broker, database = (restarts[f"{name} killed"] + restarts[f"{name} stopped"] for name in ("broker", "database"))
        return (
            f"kills {self.kills} (relay {self.relay.kills}, drain {self.drain.kills}; at steps {done['step']}, at any"
            f" instant {done['instant']}, of the command {done['command']}), paused and resumed {self.paused}, broker restarts {broker}, flushes"
            f" {restarts['broker flushed']}, database restarts {database}: lost {judgement.lost.total()}, twice"
            f" {judgement.twice.total()}, partial {len(self.witness.partial)} of {self.witness.looks} looks"
        )

    def rage(self, *, limit_s: float) -> None:
        """Until all that was planned has happened.

        Raises:
            AssertionError: if a relay or a drain ended by itself, or it takes longer than the limit.
        """
        left, limit = deque(self.disturbances), time.monotonic() + limit_s
        for thread in self._threads:
            thread.start()
        try:
            while left or self.relay.open or self.drain.open:
                self._grow()
                if left and self.kills >= self.planned * (1 - len(left) / (len(self.disturbances) + 1)):
                    self.servers.disturb(left.popleft())
                self._raise_failures()
                assert time.monotonic() < limit, f"{self.kills} kills, not done: {self.relay.open}, {self.drain.open}"
                time.sleep(0.005)
        finally:
            for thread in self._threads:
                thread.end()
        self._raise_failures()
        for file in self.files:
            file.grow(1)

    def _grow(self) -> None:
        """Something new for each life of the drain, and for one that waits for it."""
        if self.drain.kills > self._seen or time.monotonic() > self._grown + PAUSE_S:
            self._pauses += self.drain.kills == self._seen
            self._seen, self._grown = self.drain.kills, time.monotonic()
            for file in self.files:
                file.grow(AT_FIRST + EACH_LIFE * self._seen + EACH_PAUSE * self._pauses)

    def _raise_failures(self) -> None:
        for thread in self._threads:
            if thread.failure:
                raise thread.failure


def faulty(simulator: ProductionSimulator) -> None:
    """The API fails before the answer and in the middle of it."""
    for stream in STREAMS:
        rates = {"reset": 0.05, "503": 0.05, "reset-mid-body": 0.1, "short-body": 0.1}
        simulator.faults.rates(stream.name, rates)


def finish(servers: Servers, api_url: str, folder: Path) -> None:
    """The real commands run to their end, once each."""
    environment = {"ETL_DATA_DIR": str(servers.database.data_dir), "PRODUCTION_API_URL": api_url}
    folder.mkdir()
    with Forker(folder) as forker:
        for arguments in (["relay"], COMMANDS["drain"]):
            child = forker.start(f"{TASKS}:command", environment=environment, arguments=arguments)
            code = child.wait()
            assert code == 0, f"{arguments} ended with {code}: {child.out}{child.err}"
