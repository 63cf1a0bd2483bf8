"""Slices of several tables in one transaction: all of them or none, whatever happens on the way."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd
import psycopg
import pytest

from etl_assets.core.contracts import Contract, column
from etl_assets.core.database.connections import Database
from etl_assets.core.slices import commit as one_commit
from etl_assets.core.slices import session
from etl_assets.core.slices.slice import OneOf, Slice
from etl_assets.core.slices.transaction import Transaction
from etl_assets.core.slices.writing import Outcome, Write, write_together
from etl_assets.errors import ContractError, PermanentError, TransientError
from etl_assets_tests.core.slices.proxy import Proxy, proxied
from etl_assets_tests.core.slices.tables import (
    Readings,
    counts,
    create,
    execute,
    ledger,
    many,
    quarantined,
    readings,
    rejected,
    site_slice,
    split_of,
    values,
)


class Notes(Contract):
    """Notes on a site."""

    id: int = column("Identity", ge=1)
    site: str = column("Site")
    text: str | None = column("What")

    class Config:
        table = "plant.notes"
        key = ("id",)
        partition_by = "site"


def notes(*ids: int, site: str = "a", text: str = "x") -> pd.DataFrame:
    return pd.DataFrame({"id": list(ids), "site": [site] * len(ids), "text": [text] * len(ids)})


def notes_slice(site: str) -> Slice:
    return Slice(Notes, site, {"site": site})


def together(database: Database, *given: tuple[Any, Slice], mode: str = "partition") -> list[Outcome]:
    return write_together(database, given, Write(mode, run_id="r"))


def texts(database: Database) -> dict[int, str]:
    return dict(execute(database, "SELECT id, text FROM plant.notes"))  # type: ignore[arg-type]


@pytest.fixture
def tables(database: Database) -> Database:
    """The two tables, each with a row of site a."""
    create(database, Readings, Notes)
    together(database, (readings(("a", 1)), site_slice("a")), (notes(1), notes_slice("a")))
    return database


@pytest.mark.long
def test_each_slice_has_an_outcome_and_a_ledger_row_of_one_transaction(tables: Database) -> None:
    outcomes = together(
        tables,
        (readings(("a", 1), ("b", 2)), site_slice("a")),
        (notes(2), notes_slice("a")),
        (split_of(readings(("c", 5000), site="c"), rejected("z")), site_slice("c")),
    )
    assert [counts(outcome) for outcome in outcomes] == [
        {"received": 2, "inserted": 1, "unchanged": 1},
        {"received": 1, "inserted": 1, "deleted": 1},
        {"received": 2, "quarantined": 2},
    ]
    assert (values(tables), texts(tables)) == ({"a": 1, "b": 2}, {2: "x"})
    entries = ledger(tables)[2:]
    assert {(entry["asset"], entry["partition"], entry["run_id"]) for entry in entries} == {
        ("plant.readings", "a", "r"),
        ("plant.notes", "a", "r"),
        ("plant.readings", "c", "r"),
    }
    assert {entry["commit_id"] for entry in entries} == {outcome.commit_id for outcome in outcomes}
    assert execute(tables, "SELECT count(DISTINCT xmin::text) FROM etl.ledger") == [(2,)]
    assert [row["partition"] for row in quarantined(tables)] == ["c", "c"]


def test_a_part_that_fails_leaves_nothing_of_those_before_it(tables: Database) -> None:
    execute(tables, "ALTER TABLE plant.notes ADD CONSTRAINT few CHECK (id < 10)")
    with pytest.raises(PermanentError, match="few"):
        together(
            tables, (split_of(readings(("a", 7)), rejected("z")), site_slice("a")), (notes(2, 11), notes_slice("a"))
        )
    assert (values(tables), texts(tables), len(ledger(tables)), quarantined(tables)) == ({"a": 1}, {1: "x"}, 2, [])


@pytest.mark.long
def test_rows_outside_of_their_slice_are_refused_before_anything_is_written(tables: Database) -> None:
    with pytest.raises(ContractError, match="1 rows lie outside partition a"):
        together(tables, (readings(("a", 7)), site_slice("a")), (notes(2, site="b"), notes_slice("a")))
    assert (values(tables), texts(tables)) == ({"a": 1}, {1: "x"})


@pytest.mark.long
def test_a_mode_that_a_table_does_not_have_is_refused(tables: Database) -> None:
    with pytest.raises(ContractError, match="unknown mode"):
        together(tables, (readings(("a", 7)), site_slice("a")), mode="all")
    with pytest.raises(ContractError, match="needs a partition"):
        together(tables, (readings(("a", 7)), Slice(Readings)))


def test_a_slice_of_several_values_replaces_the_rows_that_have_one_of_them(tables: Database) -> None:
    together(tables, (readings(("b", 1), site="b"), site_slice("b")), (readings(("c", 1), site="c"), site_slice("c")))
    some = Slice(Readings, "some", {"site": OneOf(("a", "c", "d"))})
    (outcome,) = together(tables, (readings(("d", 4), site="d"), some))
    assert (values(tables), counts(outcome)) == ({"b": 1, "d": 4}, {"received": 1, "inserted": 1, "deleted": 2})
    with pytest.raises(ContractError, match="lie outside partition some"):
        together(tables, (readings(("b", 4), site="b"), some))


@pytest.fixture
def proxy(tables: Database) -> Iterator[Proxy]:
    with proxied(tables.url) as opened:
        yield opened


@pytest.mark.long
@pytest.mark.parametrize("cut", ["before", "after"])
@pytest.mark.parametrize("asked", [True, False])
def test_a_connection_cut_at_the_commit_is_told_by_the_ledger_and_each_row_is_there_once(
    tables: Database, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, cut: Any, asked: bool
) -> None:
    through = Database(proxy.url)
    through.prepare()
    if not asked:
        # Nobody could look: the next attempt does.
        monkeypatch.setattr(session, "_committed", refuse)
    proxy.cut = cut
    outcomes = together(
        through,
        (readings(("a", 2), ("b", 2)), site_slice("a")),
        (notes(1, 2, text="y"), notes_slice("a")),
        mode="upsert",
    )
    assert proxy.cuts == 1
    assert [counts(outcome) for outcome in outcomes] == [{"received": 2, "inserted": 1, "updated": 1}] * 2
    assert (values(tables), texts(tables)) == ({"a": 2, "b": 2}, {1: "y", 2: "y"})
    assert {entry["commit_id"] for entry in ledger(tables)[2:]} == {outcome.commit_id for outcome in outcomes}
    assert len(ledger(tables)) == 4


def refuse(*_: object) -> bool:
    raise TransientError("the ledger cannot be read")


@pytest.mark.long
def test_a_backend_that_ends_between_two_parts_leaves_nothing_and_the_write_is_repeated(
    tables: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = one_commit._written, []

    def stored(transaction: Transaction, *arguments: Any) -> Outcome:
        calls.append(1)
        if len(calls) == 2:
            assert values(tables) == {"a": 1}
            with psycopg.connect(tables.url, autocommit=True) as other:
                other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
        return original(transaction, *arguments)

    monkeypatch.setattr(one_commit, "_written", stored)
    together(tables, (readings(("a", 2)), site_slice("a")), (notes(2), notes_slice("a")))
    assert (values(tables), texts(tables), len(calls), len(ledger(tables))) == ({"a": 2}, {2: "x"}, 4, 4)


@pytest.mark.long
def test_two_writers_in_opposite_order_exclude_each_other(tables: Database) -> None:
    def work(number: int) -> None:
        given = [
            (many(200, value=number), site_slice("a")),
            (notes(*range(1, 200), text=str(number)), notes_slice("a")),
        ]
        together(tables, *(given if number % 2 else given[::-1]))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(1, 13)))
    assert execute(tables, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == [(0,)]
    last = {int(value or 0) for value in values(tables).values()}
    assert {int(text) for text in texts(tables).values()} == last
    assert (len(last), len(ledger(tables))) == (1, 2 + 24)


@pytest.mark.long
def test_a_reader_sees_both_tables_old_or_both_new(tables: Database) -> None:
    seen: set[tuple[Any, ...]] = set()
    begun, stop = threading.Event(), threading.Event()

    def read() -> None:
        query = "SELECT (SELECT sum(value) FROM plant.readings), (SELECT max(text) FROM plant.notes)"
        with psycopg.connect(tables.url, autocommit=True) as connection:
            ended = False
            while not ended:
                ended = stop.is_set()
                seen.update(connection.execute(query).fetchall())
                begun.set()

    write: Callable[[int], Any] = lambda n: together(  # noqa: E731
        tables, (readings(("a", n)), site_slice("a")), (notes(1, text=str(n)), notes_slice("a"))
    )
    write(0)
    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        begun.wait(20)
        for number in range(1, 8):
            write(number)
        stop.set()
        reader.result()
    assert seen <= {(float(number), str(number)) for number in range(8)}
    assert len(seen) >= 2
