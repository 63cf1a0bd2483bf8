"""`etl-assets migrate` and `etl-assets migrations …`: bring databases to shape, and write the migrations that the contracts ask for.

One file is written for each owner of tables that differ, to be read before it is kept.
"""

import importlib.util
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from etl_assets.core.registry import PLATFORM, History, contracts, databases, histories, owners, systems
from etl_assets.core.results import Ended, with_json
from etl_assets.errors import ConfigurationError
from etl_assets.settings import load_settings

if TYPE_CHECKING:
    from etl_assets.core.contracts import Contract
    from etl_assets.core.migrations.drift import Aspects, Catalog, Thing

# What a column without NULL gives the rows that are there, by the type that the server says; 0 for numbers.
NEUTRAL = {"text": "''", "boolean": "false", "timestamp with time zone": "'epoch'", "date": "'epoch'"}
TEMPLATE = '''"""{subject}."""

import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = {down}


def upgrade() -> None:
{body}
'''

migrations = typer.Typer(no_args_is_help=True, help="Migrations that the contracts ask for.")


@with_json
def migrate() -> object:
    """Bring the databases to the shape that this version needs."""
    from etl_assets.core.servers import platform_database

    platform_database(load_settings()).prepare(migrate="auto")
    print(f"the platform database is at revision {_heads(PLATFORM)}")
    revisions = {PLATFORM: _heads(PLATFORM)}
    for system in systems():
        for name, database in system.part("databases", "DATABASES", {}).items():
            try:
                database().prepare(migrate="auto")
            except ConfigurationError as error:
                # Whoever does not use the system needs no database of it.
                print(f"the {name} database of the {system.name} is left out: {error}", file=sys.stderr)
            else:
                print(f"the {name} database is at revision {_heads(name)}")
                revisions[name] = _heads(name)
    return {"revisions": revisions}


def _heads(database: str) -> str:
    return ", ".join(f"{history.head} of {history.name}" for history in histories(database))


@migrations.command("new")
@with_json
def new_command(subject: str = typer.Argument(help="What changes, in a few words.")) -> object:
    """Write the migrations that lead to the contracts, a file per system."""
    written = write(subject)
    for path in written:
        print(f"written: {path}: read it before you keep it")
    if not written:
        print("the migrations lead to the contracts: nothing to write")
    return {"written": written}


@migrations.command("check")
@with_json
def check_command() -> object:
    """Say what the migrations lack, one sentence per difference."""
    sentences = missing()
    if sentences:
        print("\n".join(sentences), file=sys.stderr)
        print('run `etl-assets migrations new "what changes"`, which writes what is missing', file=sys.stderr)
        raise Ended(1, {"missing": sentences})
    return {"missing": sentences}


def all_contracts(database: str) -> "tuple[type[Contract], ...]":
    """The contracts of all tables of a database, ledger and quarantine first."""
    from etl_assets.core.slices.tables import CORE_TABLES

    return (*CORE_TABLES, *contracts(database))


def missing() -> list[str]:
    """What the migrations of all databases lack, one sentence per difference; runs them in a server of its own."""
    from etl_assets.core.migrations.drift import missing_migrations

    return [
        f"{database}: {sentence}"
        for database, urls in _two_databases_each()
        for sentence in missing_migrations(database, all_contracts(database), migrated_url=urls[0], created_url=urls[1])
    ]


def write(subject: str) -> list[Path]:
    """Write the migrations that are missing, a file per owner and database.

    Args:
        subject: a few words; names the files and is their first line.

    Raises:
        ConfigurationError: if the subject names nothing, or for a change that has to be written by hand.
    """
    from etl_assets.core.migrations.drift import catalogs

    name = re.sub(r"[^a-z0-9]+", "_", subject.lower()).strip("_")[:40]
    if not name:
        raise ConfigurationError(f"{subject!r} names nothing: say in a few words what changes")
    written = []
    for database, urls in _two_databases_each():
        wanted = all_contracts(database)
        migrated, contracted = catalogs(database, wanted, migrated_url=urls[0], created_url=urls[1])
        by_owner: dict[str, list[str]] = {}
        for table in sorted({thing[1] for thing in (*migrated, *contracted)}):
            code = _of_table(table, migrated, contracted, wanted)
            by_owner.setdefault(_owner(table, database), []).extend(code)
        written += [_file(owner, database, name, subject, code) for owner, code in by_owner.items() if code]
    formatted(written)
    return written


def formatted(paths: Sequence[Path]) -> None:
    """Format what was written as the code base is, where the formatter is installed."""
    if importlib.util.find_spec("ruff"):
        for command in (["check", "--fix", "--quiet"], ["format", "--quiet"]):
            subprocess.run([sys.executable, "-m", "ruff", *command, *map(str, paths)], check=False)


def _two_databases_each() -> Iterator[tuple[str, list[str]]]:
    from etl_assets.core.embedded import EmbeddedPostgres

    with tempfile.TemporaryDirectory(prefix="etl-assets-migrations-") as folder:
        server = EmbeddedPostgres(Path(folder))
        try:
            with server:
                for database in (PLATFORM, *databases()):
                    yield database, [server.create_database(f"{database}_{by}") for by in ("migrated", "created")]
        finally:
            server.purge()


def _owner(table: str, database: str) -> str:
    for owner in owners():
        if any(c.config.table == table and c.config.database == database for c in owner.contracts):
            return owner.name
    # A table that no contract has any more: of the system that its schema is of, or of the only one in that database.
    schema = table.partition(".")[0]
    if schema == "etl":
        return "core"
    found = [history.name for history in histories(database)[1:]]
    if schema in found or len(found) == 1:
        return schema if schema in found else found[0]
    raise ConfigurationError(f"{table} in the {database} database is of no system: drop it by hand")


def _of_table(
    table: str, migrated: "Catalog", contracted: "Catalog", wanted: "Iterable[type[Contract]]"
) -> Iterator[str]:
    """The statements, as Python, that make a table what its contract asks for."""
    has, should = (("table", table, "") in side for side in (migrated, contracted))
    if not should:
        yield _execute(f"DROP TABLE {table}")
    elif not has:
        yield _execute(f"CREATE SCHEMA IF NOT EXISTS {table.partition('.')[0]}")
        yield _created(next(c for c in wanted if c.config.table == table))
    else:
        things = {thing for thing in (*migrated, *contracted) if thing[1] == table}
        steps = [step for thing in sorted(things) for step in _altered(thing, migrated, contracted)]
        yield from (code for _, code in sorted(steps, key=lambda step: step[0]))


def _created(contract: "type[Contract]") -> str:
    from alembic.autogenerate import render_python_code
    from alembic.operations import ops

    from etl_assets.core.contracts.ddl import metadata

    (table,) = metadata([contract]).tables.values()
    made: list[ops.MigrateOperation] = [ops.CreateTableOp.from_table(table)]
    made += [ops.CreateIndexOp.from_index(index) for index in sorted(table.indexes, key=lambda index: str(index.name))]
    lines = render_python_code(ops.UpgradeOps(made)).splitlines()
    code = "\n".join(line for line in lines if not line.strip().startswith("#"))
    return textwrap.indent(textwrap.dedent("    " + code.lstrip()), "    ")


def _altered(thing: "Thing", migrated: "Catalog", contracted: "Catalog") -> Iterator[tuple[int, str]]:
    """The statements for one thing of a table that stays, each with its place in the order."""
    kind, table, name = thing
    before, after = migrated.get(thing), contracted.get(thing)
    if before == after:
        return
    if kind == "constraint":
        if before:
            yield 1, _execute(f'ALTER TABLE {table} DROP CONSTRAINT "{name}"')
        if after:
            yield 4, _execute(f'ALTER TABLE {table} ADD CONSTRAINT "{name}" {after["definition"]}')
    elif kind == "index":
        if before:
            yield 1, _execute(f'DROP INDEX {table.partition(".")[0]}."{name}"')
        if after:
            yield 4, _execute(str(after["definition"]))
    elif kind == "column":
        yield from _column(table, name, before, after)
    elif before and after:
        if before["partitioning"] != after["partitioning"]:
            raise ConfigurationError(f"{table} is partitioned in another way: write that migration by hand")
        yield 6, _execute(f"COMMENT ON TABLE {table} IS {_literal(after['comment'])}")


def _column(table: str, name: str, before: "Aspects | None", after: "Aspects | None") -> Iterator[tuple[int, str]]:
    if after is None:
        yield 5, _execute(f'ALTER TABLE {table} DROP COLUMN "{name}"')
        return
    collation = f' COLLATE "{after["collation"]}"' if after["collation"] else ""
    kind, required = f"{after['type']}{collation}", after["nullability"] == "NOT NULL"
    change = f'ALTER TABLE {table} ALTER COLUMN "{name}"'
    if before is None and required:
        value = NEUTRAL.get(str(after["type"]), "0")
        yield 2, "    # Rows that are there get this value: change it where another is right."
        yield 2, _execute(f'ALTER TABLE {table} ADD COLUMN "{name}" {kind} NOT NULL DEFAULT {value}')
        yield 2, _execute(f"{change} DROP DEFAULT")
    elif before is None:
        yield 2, _execute(f'ALTER TABLE {table} ADD COLUMN "{name}" {kind}')
    else:
        if (before["type"], before["collation"]) != (after["type"], after["collation"]):
            yield 2, _execute(f'{change} TYPE {kind} USING "{name}"::{after["type"]}')
        if before["nullability"] != after["nullability"]:
            yield 3, _execute(f"{change} {'SET' if required else 'DROP'} NOT NULL")
    if before is None or before["comment"] != after["comment"]:
        yield 6, _execute(f'COMMENT ON COLUMN {table}."{name}" IS {_literal(after["comment"])}')


def _execute(statement: str) -> str:
    return f"    op.execute({statement!r})"


def _literal(text: str | None) -> str:
    return "NULL" if text is None else "'" + text.replace("'", "''") + "'"


def _file(owner: str, database: str, name: str, subject: str, code: list[str]) -> Path:
    folder = _folder(owner, database)
    last = History(owner, folder).revisions[-1:]
    revision = f"{int(last[0]) + 1 if last else 1:04}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{revision}_{name}.py"
    down = f'"{last[0]}"' if last else "None"
    text = TEMPLATE.format(subject=subject.rstrip("."), revision=revision, down=down, body="\n".join(code))
    path.write_text(text if " sa." in text else text.replace("import sqlalchemy as sa\n", ""), encoding="utf-8")
    return path


def _folder(owner: str, database: str) -> Path:
    if owner == "core":
        return histories(database)[0].folder
    return next(known.folder for known in owners() if known.name == owner) / "migrations" / database
