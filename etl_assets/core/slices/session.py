"""The transactions of one write, one after another on one connection, each tried again when it gave way or was cut off."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import tenacity
from psycopg import sql

from etl_assets.core.database.connections import Database, translated
from etl_assets.core.database.locks import LOCK_TIMEOUT
from etl_assets.core.slices.ledger import commit_lock
from etl_assets.core.slices.transaction import Transaction
from etl_assets.errors import TransientError

ATTEMPTS = 6
PROBES = 5
PROBE_LOCK_TIMEOUT_S = 30
Result = TypeVar("Result")


class Outdated(TransientError):
    """Somebody has looked, or written, since what is to be stored was looked at: only a new look can be stored."""


class Session:
    """One ADBC connection, opened in the background (it takes longer than a small write) and again after a failure.

    Of a dry run all transactions are one, which ends with the session and is never committed: each sees what those before it have done.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._worker = ThreadPoolExecutor(1)
        self._stack = contextlib.ExitStack()
        self._opening: Future[Any] | None = self._worker.submit(self._open)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._worker.shutdown()

    def _open(self) -> Any:
        return self._stack.enter_context(self.database.adbc())

    def background(self, work: Callable[[], Result]) -> "Future[Result]":
        """Run something beside the server's work."""
        return self._worker.submit(work)

    @contextlib.contextmanager
    def transaction(self, **settings: str) -> Iterator[Transaction]:
        """An open transaction, which the caller commits; when an exception passes, it and its connection are gone.

        Args:
            settings: of the session, until its end.
        """
        if self._opening is None:
            self._opening = self._worker.submit(self._open)
        try:
            connection = self._opening.result()
            with self.database.translated("use the {} database"):
                yield Transaction(connection, settings=settings, is_dry_run=self.database.is_dry_run)
        except BaseException:
            self.close()
            raise
        if self.database.is_dry_run:
            return
        try:
            # Ends what the caller left open; tells a connection that was lost at the commit from one that can be used again.
            connection.rollback()
        except Exception:
            self.close()

    def commit(self, commit_id: str) -> None:
        """Commit the open transaction, unless it is one of a dry run; see `commit`."""
        assert self._opening is not None
        if self.database.is_dry_run:
            return
        commit(self.database, self._opening.result(), commit_id)

    def close(self) -> None:
        """Give up the connection and what is not committed."""
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.exception()
        self._stack.close()


def retried(attempt: Callable[[], Result], *, while_: Callable[[], bool] = lambda: True) -> Result:
    """Run a transaction again when it gave way to another or lost its connection.

    Args:
        while_: whether it still can be run again.

    Raises:
        Outdated: at once: the same rows cannot be stored any more.
    """
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(
            lambda error: isinstance(error, TransientError) and not isinstance(error, Outdated) and while_()
        ),
        stop=tenacity.stop_after_attempt(ATTEMPTS) | tenacity.stop_after_delay(LOCK_TIMEOUT),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=10),
        reraise=True,
    )
    return retrying(attempt)


def looked_again(work: Callable[[], Result]) -> Result:
    """Look and write, and again from the look when somebody else has looked or written meanwhile.

    Raises:
        Outdated: if that happens time and again.
    """
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(Outdated),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=5),
        reraise=True,
    )
    return retrying(work)


def commit(database: Database, connection: Any, commit_id: str) -> None:
    """Commit; when the answer is lost, look up in the ledger whether it was done.

    Raises:
        TransientError: if it was not, or if nobody can tell.
    """
    try:
        with translated("commit"):
            connection.commit()
    except TransientError as lost:
        try:
            done = _committed(database, commit_id)
        except TransientError as error:
            raise TransientError(
                f"the answer to a commit was lost, and the ledger cannot be asked for {commit_id}: {error}"
            ) from lost
        if not done:
            raise


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(TransientError),
    stop=tenacity.stop_after_attempt(PROBES),
    wait=tenacity.wait_random_exponential(multiplier=0.5, max=10),
    reraise=True,
)
def _committed(database: Database, commit_id: str) -> bool:
    """Whether a commit is in the ledger; waits for a server process that may still be at it."""
    with database.connect() as probe:
        probe.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        probe.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(f"{PROBE_LOCK_TIMEOUT_S}s")))
        probe.execute(sql.SQL("SELECT {}").format(commit_lock(commit_id)))
        return probe.execute("SELECT 1 FROM etl.ledger WHERE commit_id = %s", (commit_id,)).fetchone() is not None
