"""Bring a database to the heads of its migration histories, one process at a time."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from etl_assets.core.registry import History, histories
from etl_assets.errors import PermanentError

if TYPE_CHECKING:
    from alembic.config import Config

LOCK = 7_061_001  # one advisory lock for all upgrades of a database
# Before the systems had histories of their own each database had one. Its revision is kept as 9000 and what it was, which the
# versions of that time take for one that is newer than they know, and refuse.
LEGACY = ("platform", "target")
CLOSED = 9000


def version_table(history: str) -> str:
    """Where a history keeps its revision, in schema `etl`."""
    return f"{history}_version"


def ensure_head(url: str, *, database: str, migrate: str = "auto") -> None:
    """Upgrade an empty or older database; leave one at head alone.

    Args:
        database: which of the platform's databases it is; says which histories it has.

    Raises:
        PermanentError: if it is behind and `migrate` is `off`, or newer than this version knows.
    """
    with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
        if not (lacking := behind(connection, database)):
            return
        if migrate == "off":
            raise PermanentError(
                f"the {database} database is not at the revision of this version ({', '.join(lacking)}) and ETL_MIGRATE is off:"
                " run `etl-assets migrate`"
            )
        connection.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        if behind(connection, database):
            upgrade(url, database=database)


def behind(connection: psycopg.Connection[Any], database: str) -> list[str]:
    """The histories of a database that have migrations to run."""
    found = _versions(connection)
    legacy = found.get(database) if database in LEGACY else None
    if legacy is not None and CLOSED > int(legacy) > max(_replaced(database)):
        raise PermanentError(_newer(database, database, legacy, f"{max(_replaced(database)):04}"))
    behind = []
    for history in histories(database):
        revision = found.get(history.name)
        if revision is not None and revision > history.head:
            raise PermanentError(_newer(database, history.name, revision, history.head))
        if revision != history.head:
            behind.append(f"{history.name} {revision or 'none'} of {history.head}")
    return behind


def _newer(database: str, history: str, revision: str, head: str) -> str:
    return (
        f"the {database} database is at revision {revision} of {history}, newer than {head}, the last that this"
        " version of etl_assets knows: upgrade etl_assets"
    )


def _versions(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """By history, the revision that a database has."""
    names = connection.execute(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'etl' AND tablename LIKE '%\\_version' ORDER BY 1"
    ).fetchall()
    if not names:
        return {}
    query = sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT {}, version_num FROM {}").format(
            sql.Literal(name.removesuffix("_version")), sql.Identifier("etl", name)
        )
        for (name,) in names
    )
    return dict(connection.execute(query).fetchall())


def _replaced(database: str) -> list[int]:
    """The revisions of the one history of old that the histories of today name."""
    return [
        int(replaces[database])
        for history in histories(database)
        for _, replaces in _scripts(history)
        if database in replaces
    ]


def _scripts(history: History) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Of each migration of a history its revision, and which revisions of the histories of old it takes the place of."""
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(alembic_config(history))
    for found in reversed(list(script.walk_revisions())):
        yield found.revision, getattr(found.module, "replaces", {})


def upgrade(url: str, *, database: str, to: Mapping[str, str] | None = None) -> None:
    """Run the migrations of all histories, all in one transaction: a failure leaves the database as it was.

    Args:
        to: by history, the revision to stop at; the head where it is not named. Histories that are named stop the others.
    """
    import alembic.command
    import sqlalchemy as sa

    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url), poolclass=sa.NullPool)
    with _explained(database), engine.begin() as connection:
        # Asked first: making it is refused to whoever may not, even where it is there.
        if connection.execute(sa.text("SELECT to_regnamespace('etl')")).scalar() is None:
            connection.execute(sa.text("CREATE SCHEMA etl"))
        driver: Any = connection.connection.driver_connection
        _carry_over(driver, database)
        for history in histories(database):
            if to is None or history.name in to:
                config = alembic_config(history)
                config.attributes["connection"] = connection
                alembic.command.upgrade(config, to[history.name] if to else "head")


def _carry_over(connection: psycopg.Connection[Any], database: str) -> None:
    """Give the histories the revisions that the one history of old stands for, and close that one to older versions."""
    found = _versions(connection)
    reached = {name: int(found.get(name, "0")) % CLOSED for name in LEGACY}
    for history in histories(database):
        if history.name in found:
            continue
        done = [
            revision
            for revision, replaces in _scripts(history)
            if any(0 < int(old) <= reached[name] for name, old in replaces.items())
        ]
        if done:
            _set_version(connection, history.name, done[-1])
    for name in LEGACY:
        _set_version(connection, name, f"{CLOSED + reached[name]}")


def _set_version(connection: psycopg.Connection[Any], history: str, revision: str) -> None:
    table = sql.Identifier("etl", version_table(history))
    connection.execute(
        sql.SQL(
            "CREATE TABLE IF NOT EXISTS {} (version_num varchar(32) NOT NULL, CONSTRAINT {} PRIMARY KEY (version_num))"
        ).format(table, sql.Identifier(f"{version_table(history)}_pkc"))
    )
    connection.execute(sql.SQL("DELETE FROM {}").format(table))
    connection.execute(sql.SQL("INSERT INTO {} VALUES (%s)").format(table), (revision,))


@contextlib.contextmanager
def _explained(database: str) -> Iterator[None]:
    """What a person has to do where a database is not as a migration needs it; it is then as it was before."""
    import sqlalchemy as sa

    try:
        yield
    except (sa.exc.ProgrammingError, psycopg.errors.ProgrammingError) as error:
        cause = getattr(error, "orig", error)
        text = " ".join(str(cause).split())
        taken = (psycopg.errors.DuplicateTable, psycopg.errors.DuplicateObject, psycopg.errors.WrongObjectType)
        if isinstance(cause, taken):
            raise PermanentError(
                f"the {database} database has something of this name that is not ours ({text}), and was left as it is:"
                " give another database, or rename what is there"
            ) from None
        if isinstance(cause, psycopg.errors.InsufficientPrivilege):
            raise PermanentError(
                f"the role of the {database} database may not make what is missing there ({text}):"
                " grant it CREATE on the database and, for tables of its schema public, on that schema"
            ) from None
        raise


def alembic_config(history: History) -> "Config":
    """Alembic's configuration of one history, without a file."""
    from alembic.config import Config

    config = Config()
    settings = {
        "script_location": str(Path(__file__).parent),
        "version_locations": str(history.folder),
        "path_separator": "newline",
        "version_table": version_table(history.name),
    }
    for name, value in settings.items():
        config.set_main_option(name, value.replace("%", "%%"))
    return config
