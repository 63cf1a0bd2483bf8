"""Whether the migrations lead to the contracts: both are run on an empty database, and the catalogs compared.

`make check` names what is missing, a sentence per difference; `etl-assets migrations new "subject"` writes the migration
(`etl_assets.local.migrations`). A migration that was released is never edited.
"""

from collections.abc import Iterable, Mapping

import psycopg

from etl_assets.core.contracts import Contract
from etl_assets.core.migrations.upgrade import upgrade

OURS = """n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%' AND NOT t.relispartition
    AND t.relkind IN ('r', 'p') AND NOT (n.nspname = 'etl' AND t.relname LIKE '%\\_version')"""
IN_TABLE = "format('%s.%s', n.nspname, t.relname)"
FROM_TABLES = "FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace"
# Each query gives: kind of thing, its table, its name, aspect, value (NULL where there is none).
QUERIES = (
    f"""SELECT 'table', {IN_TABLE}, '', aspect, value {FROM_TABLES}, LATERAL (VALUES
        ('comment', obj_description(t.oid, 'pg_class')), ('partitioning', pg_get_partkeydef(t.oid))
    ) AS aspects(aspect, value) WHERE {OURS}""",
    f"""SELECT 'column', {IN_TABLE}, attname::text, aspect, value {FROM_TABLES}
    JOIN pg_attribute a ON a.attrelid = t.oid AND attnum > 0 AND NOT attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = t.oid AND d.adnum = attnum, LATERAL (VALUES
        ('type', format_type(atttypid, atttypmod)),
        ('collation', (SELECT collname::text FROM pg_collation WHERE oid = attcollation)),
        ('nullability', CASE WHEN attnotnull THEN 'NOT NULL' ELSE 'NULL' END),
        ('default', pg_get_expr(adbin, adrelid)),
        ('comment', col_description(t.oid, attnum))
    ) AS aspects(aspect, value) WHERE {OURS}""",
    # NOT NULL is among the constraints since version 18.
    f"""SELECT 'constraint', {IN_TABLE}, conname::text, 'definition', pg_get_constraintdef(c.oid) {FROM_TABLES}
    JOIN pg_constraint c ON c.conrelid = t.oid AND contype <> 'n' WHERE {OURS}""",
    f"""SELECT 'index', {IN_TABLE}, i.relname::text, 'definition', pg_get_indexdef(x.indexrelid) {FROM_TABLES}
    JOIN pg_index x ON x.indrelid = t.oid JOIN pg_class i ON i.oid = x.indexrelid
    WHERE {OURS} AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.oid)""",
)

Thing = tuple[str, str, str]
Aspects = Mapping[str, str | None]
Catalog = Mapping[Thing, Aspects]


def missing_migrations(
    database: str, contracts: Iterable[type[Contract]], *, migrated_url: str, created_url: str
) -> list[str]:
    """What the migrations of a database lack, one sentence per difference; empty when they lead to the contracts.

    Args:
        database: name of the database.
        contracts: all contracts of that database; those that are not stored in Postgres are left out.
        migrated_url, created_url: two empty databases, which are filled.
    """
    return differences(*catalogs(database, contracts, migrated_url=migrated_url, created_url=created_url))


def catalogs(
    database: str, contracts: Iterable[type[Contract]], *, migrated_url: str, created_url: str
) -> tuple[Catalog, Catalog]:
    """What the migrations make of an empty database, and what the contracts make of another."""
    upgrade(migrated_url, database=database)
    _create(created_url, contracts)
    return _catalog(migrated_url), _catalog(created_url)


def _create(url: str, contracts: Iterable[type[Contract]]) -> None:
    import sqlalchemy as sa
    from sqlalchemy.schema import CreateSchema

    from etl_assets.core.contracts.ddl import metadata

    tables = metadata(contracts)
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url), poolclass=sa.NullPool)
    with engine.begin() as connection:
        for schema in sorted({table.schema for table in tables.tables.values() if table.schema}):
            connection.execute(CreateSchema(schema, if_not_exists=True))
        tables.create_all(connection)


def _catalog(url: str) -> Catalog:
    """Everything that contracts describe, as the server shows it."""
    found: dict[Thing, dict[str, str | None]] = {}
    with psycopg.connect(url, options="-c timezone=UTC") as connection:
        for query in QUERIES:
            for kind, table, name, aspect, value in connection.execute(query):
                found.setdefault((kind, table, name), {})[aspect] = value
    return found


def differences(migrated: Catalog, contracted: Catalog) -> list[str]:
    """Compare two catalogs, one sentence per difference; a missing table stands for all that is in it."""
    tables = {
        side: {table for kind, table, _ in catalog if kind == "table"}
        for side, catalog in (("m", migrated), ("c", contracted))
    }
    sentences = [
        f"table {t} is in the contracts and not in the migrations: create it" for t in tables["c"] - tables["m"]
    ]
    sentences += [
        f"table {t} is in the migrations and not in the contracts: drop it" for t in tables["m"] - tables["c"]
    ]
    shared = tables["c"] & tables["m"]
    for thing in {thing for thing in (*migrated, *contracted) if thing[1] in shared}:
        sentences += _difference(thing, migrated.get(thing), contracted.get(thing))
    return sorted(sentences)


def _difference(
    thing: Thing, migrated: Mapping[str, str | None] | None, contracted: Mapping[str, str | None] | None
) -> list[str]:
    kind, table, name = thing
    called = f"table {table}" if kind == "table" else f"{kind} {name} of {table}"
    if contracted is None:
        return [f"{called} is in the migrations and not in the contracts: drop it"]
    if migrated is None:
        wanted = ", ".join(f"{aspect} {value}" for aspect, value in contracted.items() if value is not None)
        return [f"{called} is in the contracts and not in the migrations: add it with {wanted}"]
    return [
        f"{called}: the {aspect} is {migrated[aspect] or 'none'} by the migrations and {value or 'none'} by the contract"
        for aspect, value in contracted.items()
        if migrated[aspect] != value
    ]
