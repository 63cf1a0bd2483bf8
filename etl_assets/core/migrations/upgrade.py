"""Bring a database to the head of its migration history, one process at a time."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg import sql

from etl_assets.core.migrations import HEADS
from etl_assets.errors import PermanentError

LOCK = 7_061_001  # one advisory lock for all upgrades of a database


def current_revision(connection: psycopg.Connection[tuple[str]], history: str) -> str | None:
    """The revision of a database, None if it has none yet."""
    table = sql.Identifier("etl", version_table(history))
    found = connection.execute("SELECT to_regclass(%s)", (f"etl.{version_table(history)}",)).fetchone()
    if found is None or found[0] is None:
        return None
    row = connection.execute(sql.SQL("SELECT version_num FROM {}").format(table)).fetchone()
    return row[0] if row else None


def version_table(history: str) -> str:
    """Where a history keeps its revision, in schema `etl`."""
    return f"{history}_version"


def ensure_head(url: str, *, history: str, migrate: str = "auto") -> None:
    """Upgrade an empty or older database; leave one at head alone.

    Raises:
        PermanentError: if it is behind and `migrate` is `off`, or newer than this version knows.
    """
    with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
        if _is_at_head(connection, history):
            return
        if migrate == "off":
            raise PermanentError(
                f"the {history} database is not at revision {HEADS[history]} and ETL_MIGRATE is off: run `etl-assets migrate`"
            )
        connection.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        if not _is_at_head(connection, history):
            upgrade_to("head", url=url, history=history)


def _is_at_head(connection: psycopg.Connection[tuple[str]], history: str) -> bool:
    revision = current_revision(connection, history)
    if revision is not None and revision > HEADS[history]:
        raise PermanentError(
            f"the {history} database is at revision {revision}, newer than {HEADS[history]}, the last that this"
            " version of etl_assets knows: upgrade etl_assets"
        )
    return revision == HEADS[history]


def upgrade_to(revision: str, *, url: str, history: str) -> None:
    """Run the migrations up to a revision, all in one transaction: a failure leaves the database as it was."""
    import alembic.command
    import sqlalchemy as sa

    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url), poolclass=sa.NullPool)
    with _explained(history), engine.begin() as connection:
        # Asked first: making it is refused to whoever may not, even where it is there.
        if connection.execute(sa.text("SELECT to_regnamespace('etl')")).scalar() is None:
            connection.execute(sa.text("CREATE SCHEMA etl"))
        config = alembic_config(history)
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, revision)


@contextlib.contextmanager
def _explained(history: str) -> Iterator[None]:
    """What a person has to do where a database is not as a migration needs it; it is then as it was before."""
    import sqlalchemy as sa

    try:
        yield
    except sa.exc.ProgrammingError as error:
        said = " ".join(str(error.orig).split())
        taken = (psycopg.errors.DuplicateTable, psycopg.errors.DuplicateObject, psycopg.errors.WrongObjectType)
        if isinstance(error.orig, taken):
            raise PermanentError(
                f"the {history} database has something of this name that is not ours ({said}), and was left as it is:"
                " give another database, or rename what is there"
            ) from None
        if isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
            raise PermanentError(
                f"the role of the {history} database may not make what is missing there ({said}):"
                " grant it CREATE on the database and, for the target, on its schema public"
            ) from None
        raise


def alembic_config(history: str) -> "alembic.config.Config":  # type: ignore[name-defined]  # noqa: F821
    """Alembic's configuration of one history, without a file."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / history).replace("%", "%%"))
    config.set_main_option("version_table", version_table(history))
    return config
