"""The embedded servers of a test session, databases cloned from a migrated template, and a clean environment."""

import contextlib
import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import psycopg
import pytest
from psycopg import sql

from etl_assets.core.database.connections import Database
from etl_assets.core.embedded import EmbeddedBroker, EmbeddedPostgres
from etl_assets.core.migrations.upgrade import ensure_head
from etl_assets.gateway import deadlines
from etl_assets.systems.turbines.databases import TARGET

PROOFS = Path(__file__).parent / "prove"
TEMPLATES = {"platform": "template_platform", "target": "template_target"}
OUR_VARIABLES = ("ETL_", "OUTAGES_", "PRODUCTION_", "EXPERIMENTS_", "TURBINES", "EVENTS_", "DAGSTER_")

# A slow machine is no fault of the code, and a found example belongs into a test, not into a folder.
hypothesis.settings.register_profile("everyday", deadline=None, database=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "everyday"))


def pytest_configure() -> None:
    """Let Ctrl-C and a hang-up reach what the tests start, and no setting what they import.

    In the background a shell has Ctrl-C ignored, below nohup a hang-up is, and every child would inherit that. Partitions begin where settings say, also
    those of local servers that somebody has up, when their module is imported.
    """
    for name in [name for name in os.environ if name.startswith(OUR_VARIABLES)]:
        del os.environ[name]
    os.environ["ETL_DATA_DIR"] = str(Path(__file__).parent / "each-test-has-its-own")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The proofs are long by the folder that they are in."""
    for item in items:
        if PROOFS in item.path.parents:
            item.add_marker(pytest.mark.long)


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines of the gateway as on a quiet machine, whatever else runs beside the tests."""
    monkeypatch.setattr(deadlines, "load_per_core", lambda: 0.1)


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A running server of this session; `create_database(name)` makes a database, or finds it, and gives its URL."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"))
    with psycopg.connect(server.acquire(), autocommit=True) as connection:
        # No test pulls the plug: what the operating system has taken is safe, and a database a test is quick.
        for setting in ("fsync", "full_page_writes"):
            connection.execute(f"ALTER SYSTEM SET {setting} = off")
        connection.execute("SELECT pg_reload_conf()")
    try:
        yield server
    finally:
        server.release()
        server.purge()


@pytest.fixture(scope="session")
def migrated_template(postgres_server: EmbeddedPostgres) -> str:
    """Name of a database at the head of the platform's migrations, to be cloned and never written to."""
    return _migrated(postgres_server, "platform")


@pytest.fixture(scope="session")
def migrated_target_template(postgres_server: EmbeddedPostgres) -> str:
    """As `migrated_template`, of the turbines' target database."""
    return _migrated(postgres_server, "target")


@pytest.fixture
def database(fresh_database: Database) -> Database:
    """An empty database of the platform, at head; a folder may have a cheaper one."""
    return fresh_database


@pytest.fixture
def fresh_database(postgres_server: EmbeddedPostgres, migrated_template: str) -> Iterator[Database]:
    """An empty database of the platform, at head, that no other test has used."""
    with _fresh_database(postgres_server, template=migrated_template) as url:
        yield Database(url)


@pytest.fixture
def target_database(postgres_server: EmbeddedPostgres, migrated_target_template: str) -> Iterator[Database]:
    """An empty target database of the turbines, at head."""
    with _fresh_database(postgres_server, template=migrated_target_template) as url:
        yield Database(url, name="target")


@pytest.fixture
def empty_database_url(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """URL of a database with nothing in it."""
    with _fresh_database(postgres_server, template="template0") as url:
        yield url


@pytest.fixture
def no_default_target(postgres_server: EmbeddedPostgres) -> Iterator[None]:
    """Beside the databases of this session there is none that turbines take for their target by default, before and after."""
    with psycopg.connect(postgres_server.create_database("postgres"), autocommit=True) as maintenance:
        drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(TARGET))
        maintenance.execute(drop)
        yield
        maintenance.execute(drop)


@pytest.fixture(scope="session")
def broker_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    """A running broker of this session; its streams are shared, so that each test uses names of its own."""
    server = EmbeddedBroker(tmp_path_factory.mktemp("broker"))
    server.acquire()
    try:
        yield server
    finally:
        server.release()
        server.purge()


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder, set as ETL_DATA_DIR, in an environment without any other variable of ours."""
    for name in [name for name in os.environ if name.startswith(OUR_VARIABLES)]:
        monkeypatch.delenv(name)
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("ETL_DATA_DIR", str(folder))
    return folder


def _migrated(server: EmbeddedPostgres, name: str) -> str:
    ensure_head(server.create_database(TEMPLATES[name]), database=name)
    return TEMPLATES[name]


@contextlib.contextmanager
def _fresh_database(server: EmbeddedPostgres, *, template: str) -> Iterator[str]:
    """URL of a database that is a copy of another; dropped at the end, whoever is still connected."""
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(server.create_database("postgres"), autocommit=True) as maintenance:
        maintenance.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
        try:
            yield server.create_database(name)
        finally:
            maintenance.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
