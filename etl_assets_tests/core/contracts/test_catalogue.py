"""Every constraint of every contract of the platform, each with a row that breaks it: no rule passes on nothing."""

from typing import Any

import pandas as pd
import psycopg
import pytest

from etl_assets.core import registry
from etl_assets.core.contracts import Contract, Fault
from etl_assets.core.contracts.cast import NOT_OF_KIND
from etl_assets.core.contracts.contract import Kind
from etl_assets.core.contracts.validation import split
from etl_assets.core.database.connections import Database
from etl_assets.local.migrations import all_contracts
from etl_assets_tests.core.contracts.rows import NO_VALUE, broken_constraints, good_row

CONTRACTS = {database: all_contracts(database) for database in ("platform", "target")}
ALL = list(dict.fromkeys(contract for contracts in CONTRACTS.values() for contract in contracts))
IN_POSTGRES = [
    pytest.param(contract, fixture, id=f"{history}-{contract.config.table}")
    for history, fixture in (("platform", "database"), ("target", "target_database"))
    for contract in CONTRACTS[history]
    if contract.config.store == "postgres"
]


def broken_cells(contract: type[Contract]) -> list[tuple[str, str, Any]]:
    """Column, rule and value of a cell for each constraint of a contract, and of cells that fit no contract."""
    cells = []
    for name, c in contract.columns.items():
        cells += [(name, rule, value) for rule, value in broken_constraints(c)]
        cells.append((name, NOT_OF_KIND[c.kind], NO_VALUE))
        if c.kind is Kind.TEXT and not (c.isin or c.pattern):
            cells.append((name, "no NUL", "\x00" * max(c.min_length or 1, 1)))
    return cells


def named(contract: type[Contract]) -> str:
    return contract.config.table


def frame_of(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), dtype=object)


@pytest.mark.parametrize("contract", ALL, ids=named)
def test_a_row_that_keeps_the_contract_passes(contract: type[Contract]) -> None:
    row = good_row(contract)

    parts = split(contract, frame_of(row))

    assert parts.records == ()
    assert parts.valid.to_dict("records") == [row]


@pytest.mark.parametrize("contract", ALL, ids=named)
def test_a_row_that_breaks_one_constraint_is_rejected_for_it(contract: type[Contract]) -> None:
    good, cells = good_row(contract), broken_cells(contract)
    bad = [{**good, name: value} for name, _, value in cells]

    parts = split(contract, frame_of(good, *bad, good), source="made up")

    assert len(parts.records) == len(cells) > 0
    for place, ((name, rule, value), row, record) in enumerate(zip(cells, bad, parts.records, strict=True), start=1):
        # An infinity between two bounds breaks one of them as well.
        low = contract.columns[name].ge
        beside = [f">= {low}"] if rule == "finite" and low is not None and value < low else []
        assert set(record.faults) == {Fault(name, broken, value) for broken in (rule, *beside)}, (name, rule)
        assert record.raw == row, (name, rule)
        assert record.source == f"made up, row {place}"
        assert record.outcome == "rejected"
    assert parts.valid.to_dict("records") == [good, good]


@pytest.mark.parametrize(("contract", "fixture"), IN_POSTGRES)
def test_a_row_that_the_contract_accepts_is_accepted_by_the_table_and_read_back_the_same(
    contract: type[Contract], fixture: str, request: pytest.FixtureRequest
) -> None:
    database: Database = request.getfixturevalue(fixture)
    row = good_row(contract)

    with database.connect() as connection:
        insert(connection, contract, row)
        stored = connection.execute(f"SELECT {', '.join(row)} FROM {contract.config.table}").fetchall()

    assert stored == [tuple(row.values())]


@pytest.mark.parametrize(("contract", "fixture"), IN_POSTGRES)
def test_the_table_refuses_what_the_contract_refuses(
    contract: type[Contract], fixture: str, request: pytest.FixtureRequest
) -> None:
    database: Database = request.getfixturevalue(fixture)
    accepted, tried = [], 0
    with database.connect() as connection:
        for name, c in contract.columns.items():
            for rule, value in broken_constraints(c):
                if rule.startswith("matches ") or rule == "printable":
                    continue  # what SQL cannot state as the contract does
                tried += 1
                try:
                    with connection.transaction():
                        insert(connection, contract, {**good_row(contract), name: value})
                except (psycopg.errors.CheckViolation, psycopg.errors.NotNullViolation):
                    continue
                accepted.append((name, rule))

    assert accepted == []
    assert tried > 0


def test_every_contract_of_every_system_is_among_them_once() -> None:
    for history, table in (("platform", "outages.site_outages"), ("target", "public.data")):
        tables = [contract.config.table for contract in CONTRACTS[history]]
        assert len(tables) == len(set(tables))
        assert {"etl.ledger", "etl.quarantine", table} <= set(tables)
    assert {c for owner in registry.owners() for c in owner.contracts} <= set(ALL)


def insert(connection: Any, contract: type[Contract], row: dict[str, Any]) -> None:
    columns = ", ".join(f'"{name}"' for name in row)
    places = ", ".join(["%s"] * len(row))
    connection.execute(f"INSERT INTO {contract.config.table} ({columns}) VALUES ({places})", list(row.values()))
