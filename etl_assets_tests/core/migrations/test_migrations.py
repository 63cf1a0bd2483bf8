"""The migration histories: they lead to the contracts, one process at a time, wholly or not at all."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.script import ScriptDirectory

from etl_assets.cli import run
from etl_assets.core.contracts import Contract, Timestamp, column
from etl_assets.core.database.connections import Database
from etl_assets.core.embedded import EmbeddedPostgres
from etl_assets.core.migrations import drift
from etl_assets.core.migrations import upgrade as module
from etl_assets.core.migrations.upgrade import alembic_config, ensure_head, upgrade
from etl_assets.core.registry import History, System, histories
from etl_assets.errors import PermanentError
from etl_assets.local import migrations
from etl_assets_tests.core.contracts.rows import good_row

DATABASES = ("platform", "target")
HISTORIES = [
    pytest.param(database, history, id=f"{database}-{history.name}")
    for database in DATABASES
    for history in histories(database)
]


def tables(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT format('%s.%s', schemaname, tablename) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        )
        return {name for (name,) in found}


def revisions(url: str) -> dict[str, str]:
    """By history, the revision that a database has."""
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'etl' AND tablename LIKE '%\\_version'"
        ).fetchall()
        return {
            name.removesuffix("_version"): connection.execute(f"SELECT version_num FROM etl.{name}").fetchall()[0][0]
            for (name,) in found
        }


def set_revision(url: str, history: str, revision: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(f"UPDATE etl.{history}_version SET version_num = %s", (revision,))


@pytest.mark.parametrize(("database", "history"), HISTORIES)
def test_the_revisions_of_a_history_are_the_numbers_of_its_files(database: str, history: History) -> None:
    script = ScriptDirectory.from_config(alembic_config(history))

    # Newer than known is told by comparing them.
    assert [found.revision for found in reversed(list(script.walk_revisions()))] == list(history.revisions)
    assert script.get_heads() == [history.head]


@pytest.mark.long
def test_the_migrations_lead_to_the_contracts(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["migrations", "check"]) == 0
    assert capsys.readouterr().err == ""


def two_databases(server: EmbeddedPostgres, name: str) -> dict[str, str]:
    return {f"{by}_url": server.create_database(f"{name}_{by}") for by in ("migrated", "created")}


class Ledger(Contract):
    """Writes that were committed, one row per slice and transaction; stored in that same transaction."""

    commit_id: str = column("Identity of the commit, made by the writer", max_length=32)
    asset: str | None = column("Table that was written")
    received: float = column("Rows that arrived", unit="rows", ge=0)
    reviewer: str | None = column("Who has looked")

    class Config:
        table = "etl.ledger"
        key = ("commit_id", "received")
        indexes = (("asset",),)


class Reviews(Contract):
    """Reviews."""

    id: int = column("Identity")

    class Config:
        table = "etl.reviews"


def test_each_difference_between_migrations_and_contracts_is_a_sentence(postgres_server: EmbeddedPostgres) -> None:
    contracts = [
        c for c in migrations.all_contracts("platform") if c.config.table not in ("etl.ledger", "etl.quarantine")
    ]

    found = drift.missing_migrations(
        "platform", [Ledger, Reviews, *contracts], **two_databases(postgres_server, "differences")
    )

    lacking = "is in the contracts and not in the migrations:"
    assert {sentence for sentence in found if "drop it" not in sentence} == {
        f"column reviewer of etl.ledger {lacking} add it with type text, collation C, nullability NULL, comment Who has looked",
        "column asset of etl.ledger: the comment is Table that was written, schema.table by the migrations"
        " and Table that was written by the contract",
        "column asset of etl.ledger: the nullability is NOT NULL by the migrations and NULL by the contract",
        "column received of etl.ledger: the type is bigint by the migrations and double precision by the contract",
        "constraint ledger_commit_id_max_length of etl.ledger: the definition is CHECK ((char_length(commit_id) <= 64))"
        " by the migrations and CHECK ((char_length(commit_id) <= 32)) by the contract",
        "constraint ledger_pkey of etl.ledger: the definition is PRIMARY KEY (commit_id) by the migrations"
        " and PRIMARY KEY (commit_id, received) by the contract",
        "constraint ledger_received_ge of etl.ledger: the definition is CHECK ((received >= 0)) by the migrations"
        " and CHECK ((received >= (0)::double precision)) by the contract",
        f"constraint ledger_received_finite of etl.ledger {lacking} add it with definition"
        " CHECK (((received > '-Infinity'::double precision) AND (received < 'Infinity'::double precision)))",
        f"index ledger_asset_idx of etl.ledger {lacking} add it with definition"
        " CREATE INDEX ledger_asset_idx ON etl.ledger USING btree (asset)",
        f"table etl.reviews {lacking} create it",
    }
    dropped = {
        sentence.removesuffix(" is in the migrations and not in the contracts: drop it")
        for sentence in found
        if "drop it" in sentence
    }
    assert {
        "table etl.quarantine",
        "column mode of etl.ledger",
        "index ledger_asset_partition_generation_committed_at_idx of etl.ledger",
    } <= dropped
    assert not [
        sentence
        for sentence in found
        if "etl.ledger" not in sentence and "etl.reviews" not in sentence and "etl.quarantine" not in sentence
    ]


@pytest.mark.parametrize("aspect", ["comment", "partitioning"])
def test_what_a_table_is_as_a_whole_is_compared_too(aspect: str) -> None:
    same: dict[str, str | None] = {"comment": "Rows.", "partitioning": None}
    thing = ("table", "weather.rows", "")

    assert drift.differences({thing: same}, {thing: same}) == []
    assert drift.differences({thing: same}, {thing: {**same, aspect: "other"}}) == [
        f"table weather.rows: the {aspect} is {same[aspect] or 'none'} by the migrations and other by the contract"
    ]


def test_the_check_of_migrations_says_what_is_missing_and_names_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(migrations, "missing", lambda: ["platform: column x of y is missing"])

    assert run(["migrations", "check"]) == 1

    assert capsys.readouterr().err.splitlines() == [
        "platform: column x of y is missing",
        'run `etl-assets migrations new "what changes"`, which writes what is missing',
    ]


# What there was before the systems had histories of their own: by database and revision, the revisions that this stands for.
BEFORE = {
    "platform": {
        "0001": {"core": "0001"},
        "0002": {"outages": "0001"},
        "0003": {"production": "0001"},
        "0004": {"experiments": "0001", "gateway": "0001"},
        "0005": {"events": "0001"},
        "0006": {"core": "0002"},
        "0007": {"events": "0002"},
    },
    "target": {"0001": {"core": "0001", "turbines": "0001"}, "0002": {"core": "0002"}},
}


def make_old(url: str, database: str, revision: str) -> None:
    """A database as an older version left it at a revision of its one history."""
    wanted: dict[str, str] = {}
    for number, stands_for in BEFORE[database].items():
        wanted |= stands_for if number <= revision else {}
    upgrade(url, database=database, to=wanted)
    with psycopg.connect(url) as connection:
        for name in revisions(url):
            connection.execute(f"DROP TABLE etl.{name}_version")
        connection.execute(f"CREATE TABLE etl.{database}_version (version_num varchar(32) PRIMARY KEY)")
        connection.execute(f"INSERT INTO etl.{database}_version VALUES (%s)", (revision,))


@pytest.mark.long
@pytest.mark.parametrize(
    ("database", "revision"), [(database, revision) for database in DATABASES for revision in BEFORE[database]]
)
def test_a_database_of_before_goes_over_with_its_rows(empty_database_url: str, database: str, revision: str) -> None:
    make_old(empty_database_url, database, revision)
    contracts = [c for c in migrations.all_contracts(database) if c.config.table in tables(empty_database_url)]
    with psycopg.connect(empty_database_url) as connection:
        for contract in contracts:
            insert(connection, contract)

    ensure_head(empty_database_url, database=database)

    with psycopg.connect(empty_database_url) as connection:
        counts = {c: connection.execute(f"SELECT count(*) FROM {c.config.table}").fetchone() for c in contracts}
    assert counts
    assert set(counts.values()) == {(1,)}
    heads = {history.name: history.head for history in histories(database)}
    # Versions of that time compare their number with the last that they know, and refuse.
    old = {name: f"9{revision[1:]}" if name == database else "9000" for name in DATABASES}
    assert revisions(empty_database_url) == {**heads, **old}


def test_a_database_that_is_both_of_before_goes_over(empty_database_url: str) -> None:
    upgrade(empty_database_url, database="target", to={"core": "0002", "turbines": "0001"})
    make_old(empty_database_url, "platform", "0007")
    with psycopg.connect(empty_database_url) as connection:
        connection.execute("CREATE TABLE etl.target_version (version_num varchar(32) PRIMARY KEY)")
        connection.execute("INSERT INTO etl.target_version VALUES ('0002')")

    ensure_head(empty_database_url, database="platform")
    ensure_head(empty_database_url, database="target")

    found = revisions(empty_database_url)
    assert (found["platform"], found["target"], found["turbines"]) == ("9007", "9002", "0001")


@pytest.mark.parametrize("database", DATABASES)
def test_an_empty_database_is_closed_to_versions_of_before(empty_database_url: str, database: str) -> None:
    ensure_head(empty_database_url, database=database)

    assert {name: revisions(empty_database_url)[name] for name in DATABASES} == dict.fromkeys(DATABASES, "9000")


def insert(connection: Any, contract: type[Contract]) -> None:
    """A row of the contract, as far as the table has its columns already."""
    found = connection.execute(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0", (contract.config.table,)
    )
    there = {name for (name,) in found}
    row = {name: value for name, value in good_row(contract).items() if name in there}
    columns = ", ".join(f'"{name}"' for name in row)
    places = ", ".join(["%s"] * len(row))
    connection.execute(f"INSERT INTO {contract.config.table} ({columns}) VALUES ({places})", list(row.values()))


def test_the_target_keeps_what_else_the_user_has_in_that_database(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url) as connection:
        connection.execute("CREATE TABLE turbine_sites AS SELECT 'north' AS name")

    ensure_head(empty_database_url, database="target")

    assert tables(empty_database_url) >= {"public.signal", "public.data", "public.bin", "public.turbine_sites"}
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("SELECT * FROM turbine_sites").fetchall() == [("north",)]
        assert connection.execute("SELECT * FROM ten_minute").fetchall() == []


def test_a_table_of_the_users_own_with_a_name_of_ours_is_refused_and_left_alone(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url) as connection:
        connection.execute("CREATE TABLE data (mine int)")

    with pytest.raises(PermanentError, match='relation "data" already exists'):
        Database(empty_database_url, name="target").prepare()

    assert tables(empty_database_url) == {"public.data"}


def test_one_database_may_be_the_platforms_and_the_target(empty_database_url: str) -> None:
    for name in DATABASES:
        Database(empty_database_url, name=name).prepare()

    assert tables(empty_database_url) >= {"outages.site_outages", "public.data", "etl.ledger"}


@pytest.mark.long
def test_two_processes_that_upgrade_one_empty_database_at_once_both_succeed(empty_database_url: str) -> None:
    code = "import sys; from etl_assets.core.migrations.upgrade import ensure_head; ensure_head(sys.argv[1], database='platform')"

    both = [
        subprocess.Popen([sys.executable, "-c", code, empty_database_url], stderr=subprocess.PIPE) for _ in range(2)
    ]

    assert [(process.communicate()[1], process.returncode) for process in both] == [(b"", 0), (b"", 0)]
    assert tables(empty_database_url) >= {"etl.ledger", "outages.site_outages"}


def test_with_migrations_off_a_database_that_is_behind_stops_and_names_the_command(empty_database_url: str) -> None:
    with pytest.raises(PermanentError, match=r"core none of \d+, .* and ETL_MIGRATE is off: run `etl-assets migrate`"):
        Database(empty_database_url, migrate="off").prepare()

    assert tables(empty_database_url) == set()


def test_with_migrations_off_a_database_at_head_is_used(database: Database) -> None:
    Database(database.url, migrate="off").prepare()


@pytest.mark.parametrize("migrate", ["auto", "off"])
def test_a_newer_database_is_refused_and_left_alone(database: Database, migrate: str) -> None:
    set_revision(database.url, "outages", "9999")

    with pytest.raises(PermanentError, match=r"at revision 9999 of outages, newer than .*: upgrade etl_assets"):
        Database(database.url, migrate=migrate).prepare()

    with psycopg.connect(database.url) as connection:
        assert connection.execute("SELECT version_num FROM etl.outages_version").fetchall() == [("9999",)]


BROKEN = '''"""Makes a table, then fails."""

from alembic import op

revision = "9999"
down_revision = "{head}"


def upgrade() -> None:
    op.execute("CREATE TABLE etl.half (id int)")
    op.execute("SELECT 1 / 0")
'''


@pytest.mark.parametrize("from_head", [False, True])
def test_an_upgrade_that_fails_midway_leaves_the_database_as_it_was(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, from_head: bool
) -> None:
    if from_head:
        ensure_head(empty_database_url, database="platform")
    before = tables(empty_database_url)
    core, *others = histories("platform")
    broken = History("core", tmp_path / "versions")
    shutil.copytree(core.folder, broken.folder, ignore=shutil.ignore_patterns("__pycache__"))
    (broken.folder / "9999_broken.py").write_text(BROKEN.format(head=core.head))

    monkeypatch.setattr(module, "histories", lambda database: (broken, *others))
    with pytest.raises(PermanentError, match=r"could not prepare the platform database .*division by zero"):
        Database(empty_database_url).prepare()

    monkeypatch.undo()
    assert tables(empty_database_url) == before
    ensure_head(empty_database_url, database="platform")
    assert tables(empty_database_url) >= {"etl.ledger", "outages.site_outages"}


class Stations(Contract):
    """Stations."""

    station: str = column("Name", max_length=40)
    height: int | None = column("Height", unit="m", ge=0)
    opened_at: Timestamp = column("When it was opened")

    class Config:
        table = "weather.stations"
        key = ("station",)
        indexes = (("opened_at",),)


class StationsLater(Contract):
    """Stations of our own."""

    station: str = column("Name", max_length=60)
    height: float = column("Height", unit="m", ge=0)
    region: str = column("Region")

    class Config:
        table = "weather.stations"
        key = ("region", "station")


@pytest.mark.long
def test_the_migration_that_the_contracts_ask_for_is_written_by_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    contracts: tuple[type[Contract], ...] = (Stations,)

    class Weather(System):
        @property
        def folder(self) -> Path:
            return tmp_path

        @property
        def contracts(self) -> tuple[type[Contract], ...]:
            return contracts

    weather = Weather("weather", "weather", "Stations.")
    history = History("weather", tmp_path / "migrations" / "platform")

    def of(database: str) -> tuple[History, ...]:
        there = [history] if database == "platform" and history.folder.is_dir() else []
        return (*histories(database), *there)

    owners = migrations.owners()
    monkeypatch.setattr(migrations, "owners", lambda: (weather, *owners))
    monkeypatch.setattr(migrations, "databases", dict)
    monkeypatch.setattr(migrations, "histories", of)
    monkeypatch.setattr(module, "histories", of)
    all_contracts = migrations.all_contracts
    monkeypatch.setattr(migrations, "all_contracts", lambda database: (*all_contracts(database), *contracts))

    assert run(["migrations", "new", "Stations, as they are"]) == 0
    assert [path.name for path in history.folder.glob("*.py")] == ["0001_stations_as_they_are.py"]
    assert run(["migrations", "check"]) == 0
    assert run(["migrations", "new", "nothing"]) == 0
    assert "nothing to write" in capsys.readouterr().out
    upgrade(empty_database_url, database="platform")
    with psycopg.connect(empty_database_url) as connection:
        insert(connection, Stations)

    contracts = (StationsLater,)
    assert run(["migrations", "check"]) == 1
    assert run(["migrations", "new", "By region"]) == 0
    assert history.revisions == ["0001", "0002"]
    assert run(["migrations", "check"]) == 0
    # It runs on tables with rows.
    upgrade(empty_database_url, database="platform")
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("SELECT count(*), max(region) FROM weather.stations").fetchall() == [(1, "")]


def test_tables_of_somebody_else_stay_as_they_are_and_are_named(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE public.data (mine int); INSERT INTO public.data VALUES (1)")
    with pytest.raises(PermanentError, match=r'target database has something .* not ours \(relation "data" already'):
        Database(empty_database_url, name="target").prepare()
    assert tables(empty_database_url) == {"public.data"}
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("SELECT mine FROM public.data").fetchall() == [(1,)]


def test_a_role_that_may_not_make_what_is_missing_is_told_what_it_needs(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("CREATE ROLE reader")
        try:
            with pytest.raises(
                PermanentError, match="may not make what is missing .*: grant it CREATE on the database"
            ):
                Database(f"{empty_database_url}?options=-c%20role%3Dreader", name="target").prepare()
        finally:
            connection.execute("DROP ROLE reader")


def test_a_user_who_may_not_make_schemas_upgrades_where_the_schema_is_there(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA etl; CREATE ROLE limited; GRANT CREATE, USAGE ON SCHEMA etl TO limited")
        try:
            upgrade(f"{empty_database_url}?options=-c%20role%3Dlimited", database="platform", to={"core": "0002"})
            assert tables(empty_database_url) >= {"etl.ledger", "etl.core_version"}
        finally:
            connection.execute("DROP OWNED BY limited; DROP ROLE limited")
