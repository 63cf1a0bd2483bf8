"""The contract as a Postgres table: what the migrations have to lead to."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from etl_assets.core.contracts.contract import SIGNS, Column, Contract, Kind


def _text() -> sa.Text:
    # Sorted by bytes in every database, as Arrow sorts: writers and readers agree on ranges and order.
    return sa.Text(collation="C")


SQL_TYPES: Mapping[Kind, Callable[[], Any]] = {
    Kind.INT: sa.BigInteger,
    Kind.FLOAT: sa.Double,
    Kind.BOOL: sa.Boolean,
    Kind.TEXT: _text,
    Kind.ID: _text,
    Kind.DATE: sa.Date,
    Kind.TIMESTAMP: lambda: sa.TIMESTAMP(timezone=True),
}


def metadata(contracts: Iterable[type[Contract]]) -> sa.MetaData:
    """The tables of several contracts; those that live elsewhere than in Postgres are left out."""
    tables = sa.MetaData()
    for contract in contracts:
        if contract.config.store == "postgres":
            table(contract, tables)
    return tables


def table(contract: type[Contract], tables: sa.MetaData) -> sa.Table:
    """One contract as a table: columns, key, checks, indexes and comments.

    A rule that SQL cannot state exactly as the contract does (a pattern, what can be printed) is judged on the way in only.
    """
    config = contract.config
    columns = [
        sa.Column(c.name, SQL_TYPES[c.kind](), nullable=c.nullable, comment=_comment(c))
        for c in contract.columns.values()
    ]
    checks = [
        sa.CheckConstraint(condition, name=f"{contract.table_name()}_{c.name}_{rule}")
        for c in contract.columns.values()
        for rule, condition in _conditions(c).items()
    ]
    key = [sa.PrimaryKeyConstraint(*config.key, name=f"{contract.table_name()}_pkey")] if config.key else []
    options: dict[str, Any] = {}
    if config.native:
        options["postgresql_partition_by"] = f'RANGE ("{next(iter(contract.partition_columns().values()))}")'
    rendered = sa.Table(
        contract.table_name(),
        tables,
        *columns,
        *key,
        *checks,
        schema=contract.schema_name(),
        comment=" ".join((contract.__doc__ or "").split()),
        **options,
    )
    for index in config.indexes:
        sa.Index(f"{contract.table_name()}_{'_'.join(index)}_idx", *(rendered.c[name] for name in index))
    return rendered


def _comment(c: Column) -> str:
    return f"{c.description} [{c.unit}]" if c.unit else c.description


def _conditions(c: Column) -> dict[str, str]:
    name = f'"{c.name}"'  # quoted: `user` alone would be the current user
    conditions = {
        rule: f"{name} {sign} {_literal(getattr(c, rule))}"
        for rule, sign in SIGNS.items()
        if getattr(c, rule) is not None
    }
    if c.isin is not None:
        conditions["isin"] = f"{name} IN ({', '.join(map(_literal, c.isin))})"
    if c.min_length is not None:
        conditions["min_length"] = f"char_length({name}) >= {c.min_length}"
    if c.max_length is not None:
        conditions["max_length"] = f"char_length({name}) <= {c.max_length}"
    if c.kind is Kind.FLOAT:
        conditions["finite"] = f"{name} > '-Infinity' AND {name} < 'Infinity'"
    return conditions


def _literal(value: Any) -> str:
    if isinstance(value, (bool, int, float)):
        return str(value)
    # SQLAlchemy takes a colon before a word for a parameter.
    return "'" + str(value).replace("'", "''").replace(":", "\\:") + "'"
