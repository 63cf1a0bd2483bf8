"""Writers and readers as threads of which exactly one goes on at a time, from one statement to the next.

Before each statement, each file and each COMMIT a thread waits at a barrier until it is told to go on. One that waits for a lock within the server is
noticed by `pg_locks`, and counts as waiting while others go on. So a history of steps is the same each time that it is run.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import psycopg
import tenacity
from adbc_driver_manager import dbapi

from etl_assets.core.slices import copies, files, lock, parquet, replay, session, sweeping
from etl_assets.core.slices.transaction import Transaction
from etl_assets.errors import TransientError

LOOKED_AT_EVERY_S = 0.01
STUCK_AFTER_S = 60.0
WAITING = "SELECT DISTINCT pid FROM pg_locks WHERE NOT granted AND pid = ANY(%s)"
END = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s"


class Killed(BaseException):
    """The process of this writer is no more: nothing that it would have tidied up is."""


class Actor:
    """A writer or a reader.

    Attributes:
        state: going, parked (at a barrier), waiting (within the server, for a lock), done.
        at: the barrier that it waits at.
        sessions: processes of the server that work for it: `lock`, `write`.
        cut: what will happen to its next COMMIT: before, after, or unknown (after, and nobody can tell).
        error: what it ended with.
        refused: how often a lock was not given to it.
        intent: name of what it is about to commit.
    """

    def __init__(self, name: str, work: Callable[[], object]) -> None:
        self.name = name
        self.state = "parked"
        self.at = "begin"
        self.killed = self.gone = False
        self.refused = 0
        self.cut: str | None = None
        self.sessions: dict[str, int] = {}
        self.statement_of: int | None = None
        self.error: BaseException | None = None
        self.intent = ""
        self.work = work
        self.go = threading.Semaphore(0)
        self.thread = threading.Thread(target=lambda: None)


class Clock:
    """A clock of this process that jumps; stands in for the module `time`."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s

    def time(self) -> float:
        return time.time() + self.ahead_s


class Barriers:
    """Gives one actor at a time the right to go on.

    Attributes:
        on_commit: called when a commit may have been made.
        on_checked: called in the thread of an actor that has checked all that it has to before its COMMIT.
        cuts: how often a connection was cut at the COMMIT.
        waited: how often somebody waited within the server.
    """

    def __init__(self, url: str) -> None:
        self.monitor = psycopg.connect(url, autocommit=True)
        self.clock = Clock()
        self.cuts = self.waited = 0
        self.on_commit: Callable[[], None] = lambda: None
        self.on_checked: Callable[[Actor], None] = lambda _: None
        self._mine = threading.local()
        self._back = threading.Semaphore(0)
        self._guard = threading.Lock()
        self._actors: list[Actor] = []

    def close(self) -> None:
        self.monitor.close()

    def start(self, name: str, work: Callable[[], object]) -> Actor:
        """A new actor, at its first barrier."""
        actor = Actor(name, work)
        actor.thread = threading.Thread(target=self._run, args=(actor,), name=name, daemon=True)
        self._actors.append(actor)
        actor.thread.start()
        return actor

    def _run(self, actor: Actor) -> None:
        self._mine.actor = actor
        actor.go.acquire()
        try:
            if not actor.killed:
                actor.work()
        except BaseException as error:
            actor.error = error
        with self._guard:
            actor.state, actor.at = "done", "done"
        self._back.release()

    def here(self) -> Actor | None:
        """The actor whose thread this is."""
        return getattr(self._mine, "actor", None)

    def barrier(self, name: str, pid: int | None = None) -> None:
        """Wait here to be told to go on.

        Raises:
            Killed: instead of going on.
        """
        actor = self.here()
        if actor is None or actor.gone:
            return
        if not actor.killed:
            with self._guard:
                actor.state, actor.at, actor.statement_of = "parked", name, pid
            self._back.release()
            actor.go.acquire()
        if actor.killed:
            actor.gone = True
            raise Killed

    def step(self, actor: Actor) -> None:
        """Let an actor go on to its next barrier, or until it waits within the server."""
        if actor.state != "parked":
            return
        actor.state = "going"
        actor.go.release()
        self.settle()
        if actor.at == "committed":
            self.on_commit()

    def until(self, actor: Actor, at: str, *, at_most: int = 400) -> None:
        """Let an actor go on until it is at a barrier, has to wait, or is done."""
        refused = actor.refused
        for _ in range(at_most):
            self.step(actor)
            # Who waits for a lock looks twice at who has it.
            if actor.state != "parked" or actor.at == at or actor.refused >= refused + 2:
                return

    def kill(self, actor: Actor) -> None:
        """End an actor as a process that is killed."""
        if actor.state == "done":
            return
        actor.killed = True
        if actor.state == "waiting" and actor.statement_of:
            self.end(actor.statement_of)
        else:
            actor.go.release()
        actor.state = "going" if actor.state != "done" else "done"
        self.settle()

    def end(self, pid: int) -> None:
        """End a session in the server."""
        # It is gone when it is no longer listed; the server's own wait for that looks every 100 ms.
        while self.monitor.execute(END, (pid,)).fetchone():
            time.sleep(0.001)

    def settle(self) -> None:
        """Wait until nobody goes on: each is at a barrier, waits within the server, or is done."""
        waited = [actor for actor in self._actors if actor.state == "waiting"]
        if waited:
            still = self._in_server(waited)
            for actor in waited:
                with self._guard:
                    if actor.state == "waiting" and actor.statement_of not in still:
                        actor.state = "going"
        deadline = time.monotonic() + STUCK_AFTER_S
        while going := [actor for actor in self._actors if actor.state == "going"]:
            if not self._back.acquire(timeout=LOOKED_AT_EVERY_S):
                still = self._in_server(going)
                for actor in going:
                    with self._guard:
                        if actor.state == "going" and actor.statement_of in still:
                            actor.state = "waiting"
                            self.waited += 1
            if time.monotonic() > deadline:
                raise RuntimeError(f"stuck: {[(actor.name, actor.at) for actor in going]}")
        self._actors = [actor for actor in self._actors if actor.state != "done"]

    def _in_server(self, actors: list[Actor]) -> set[int]:
        pids = [actor.statement_of for actor in actors if actor.statement_of]
        return {pid for (pid,) in self.monitor.execute(WAITING, (pids,))}

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Put the barriers in their places."""
        with contextlib.ExitStack() as stack:
            for place, name, made in self._patches():
                stack.enter_context(mock.patch.object(place, name, made))
            yield

    def _patches(self) -> Iterator[tuple[Any, str, Any]]:
        yield psycopg.Cursor, "execute", self._psycopg(psycopg.Cursor.execute)
        yield dbapi.Cursor, "execute", self._adbc(dbapi.Cursor.execute, "statement")
        yield dbapi.Cursor, "adbc_ingest", self._adbc(dbapi.Cursor.adbc_ingest, "load")
        yield Transaction, "changed", self._adbc(Transaction.changed, "change")
        yield Transaction, "__init__", self._transaction(Transaction.__init__)
        yield lock.Lock, "take", self._taking(lock.Lock.take)
        yield lock.Lock, "close", self._closing(lock.Lock.close)
        yield lock, "time", self.clock
        # Who waits comes back at once, and is at a barrier again.
        yield lock, "LOOKED_AT_EVERY_S", 0.002
        yield tenacity.nap, "time", mock.Mock(sleep=lambda _: self.barrier("sleep"))
        yield session, "commit", self._commit(session.commit)
        yield session, "_committed", self._committed(session._committed)
        yield copies, "_replaced", self._replaced(copies._replaced)
        yield parquet, "readable", self._before("open", parquet.readable)
        new_file = self._new_file(files.new_file)
        yield from ((place, "new_file", new_file) for place in (files, parquet))
        remove = self._remove(files.remove)
        yield from ((place, "remove", remove) for place in (files, parquet, copies, sweeping))
        publish = self._before("publish", copies.publish)
        yield from ((place, "publish", publish) for place in (parquet, replay))

    def _before(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def work(*args: Any, **options: Any) -> Any:
            self.barrier(name)
            return original(*args, **options)

        return work

    def _psycopg(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def execute(cursor: Any, *args: Any, **options: Any) -> Any:
            if (actor := self.here()) is None or cursor.connection.closed:
                return original(cursor, *args, **options)
            self.barrier("statement", cursor.connection.info.backend_pid)
            try:
                return original(cursor, *args, **options)
            except psycopg.errors.LockNotAvailable:
                actor.refused += 1
                raise

        return execute

    def _adbc(self, original: Callable[..., Any], name: str) -> Callable[..., Any]:
        def execute(*args: Any, **options: Any) -> Any:
            if (actor := self.here()) is not None:
                self.barrier(name, actor.sessions.get("write"))
            return original(*args, **options)

        return execute

    def _transaction(self, original: Callable[..., Any]) -> Callable[..., Any]:
        execute = dbapi.Cursor.execute

        def begin(transaction: Any, connection: Any, **options: Any) -> None:
            if (actor := self.here()) is not None:
                actor.sessions.pop("write", None)
                with connection.cursor() as cursor:
                    execute(cursor, "SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
                    execute(cursor, "SELECT pg_backend_pid()")
                    actor.sessions["write"] = cursor.fetchone()[0]
                connection.rollback()
            original(transaction, connection, **options)

        return begin

    def _taking(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def take(of: lock.Lock) -> None:
            self.barrier("lock")
            try:
                original(of)
            finally:
                if (actor := self.here()) is not None and hasattr(of, "pid"):
                    actor.sessions["lock"] = of.pid

        return take

    def _closing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def close(of: lock.Lock) -> None:
            if (actor := self.here()) is not None:
                actor.sessions.pop("lock", None)
            original(of)

        return close

    def _commit(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def commit(database: Any, connection: Any, commit_id: str) -> None:
            if (actor := self.here()) is None:
                return original(database, connection, commit_id)
            self.on_checked(actor)
            self.barrier("commit", actor.sessions.get("write"))
            cut = actor.cut and Cut(connection, actor.cut, lambda: self.end(actor.sessions.get("write", 0)))
            self.cuts += bool(cut)
            if actor.cut != "unknown":
                actor.cut = None
            try:
                original(database, cut or connection, commit_id)
            finally:
                self.barrier("committed")

        return commit

    def _committed(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def committed(database: Any, commit_id: str) -> bool:
            actor = self.here()
            if actor is not None and actor.cut == "unknown":
                actor.cut = None
                raise TransientError("the ledger cannot be read")
            return original(database, commit_id)

        return committed

    def _replaced(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @contextlib.contextmanager
        def replaced(*args: Any) -> Iterator[str]:
            with original(*args) as temporary:
                yield temporary
                self.barrier("copied")

        return replaced

    def _new_file(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @contextlib.contextmanager
        def new_file(*args: Any) -> Iterator[Any]:
            self.barrier("file")
            with original(*args) as file:
                self.barrier("writing")
                yield file
            self.barrier("written")

        return new_file

    def _remove(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def remove(*args: Any) -> None:
            actor = self.here()
            if actor is None or not actor.killed:
                self.barrier("remove")
                original(*args)

        return remove


class Cut:
    """A connection that is cut at its COMMIT."""

    def __init__(self, connection: Any, how: str, end: Callable[[], None]) -> None:
        self._connection, self._how, self._end = connection, how, end

    def commit(self) -> None:
        if self._how == "before":
            self._end()
        self._connection.commit()
        if self._how != "before":
            self._end()
            raise TransientError("the answer to a COMMIT was lost")
