"""One database for the tests of a module: emptying it costs a tenth of making another."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from etl_assets.core.database.connections import Database
from etl_assets.core.embedded import EmbeddedPostgres

# These end sessions, count deadlocks, or leave more than tables behind: each test has a database of its own.
ALONE = ("test_concurrency", "test_faults", "test_together")


@pytest.fixture(scope="module")
def database_of_module(
    postgres_server: EmbeddedPostgres, migrated_template: str, request: pytest.FixtureRequest
) -> Database:
    """A database at head that the tests of a module use one after another."""
    name = f"module_{request.path.stem}"
    with psycopg.connect(postgres_server.create_database("postgres"), autocommit=True) as maintenance:
        maintenance.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                sql.Identifier(name), sql.Identifier(migrated_template)
            )
        )
    return Database(postgres_server.create_database(name))


@pytest.fixture
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database of the platform, at head, without tables of tests, ledger and quarantine empty."""
    if request.path.stem in ALONE:
        yield request.getfixturevalue("fresh_database")
        return
    shared = request.getfixturevalue("database_of_module")
    yield shared
    with shared.connect() as connection:
        connection.execute(
            "DROP SCHEMA IF EXISTS plant CASCADE; TRUNCATE etl.ledger, etl.heads, etl.quarantine, etl.corrections"
        )
