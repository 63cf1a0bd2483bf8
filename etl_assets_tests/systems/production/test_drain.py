"""From the broker to the database: each record once, whatever happens on the way."""

import contextlib
import datetime
import json
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from etl_assets.core.database.connections import Database
from etl_assets.core.embedded import EmbeddedBroker, EmbeddedPostgres
from etl_assets.core.slices import session
from etl_assets.core.slices.entries import Filter, list_entries
from etl_assets.core.slices.parquet import ParquetRoot
from etl_assets.core.slices.replay import Replayed, replay
from etl_assets.core.slices.session import Session
from etl_assets.core.slices.transaction import Transaction
from etl_assets.core.sources.streams.broker import Broker, Lag, Position
from etl_assets.errors import ContractError, PermanentError, TransientError
from etl_assets.systems.production import draining as module
from etl_assets.systems.production.contracts import WORKORDERS, Metrics
from etl_assets.systems.production.draining import drain, reset
from etl_assets.systems.production.tables import committed_position
from etl_assets_tests.core.slices.proxy import proxied
from etl_assets_tests.systems.outages.world import Crash, crashing
from etl_assets_tests.systems.production.drains import SOURCE, T0, Line, batch, metric

TERMINATE = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
DATA = Path(__file__).parents[4] / "shared" / "data" / "production"


@pytest.fixture(scope="module")
def platform(postgres_server: EmbeddedPostgres) -> Database:
    """One database for all tests of the module: emptying it takes less than making another."""
    found = Database(postgres_server.create_database("drains"))
    found.prepare()
    return found


@pytest.fixture
def line(platform: Database, broker_server: EmbeddedBroker) -> Iterator[Line]:
    """A stream of its own, between an empty database and the broker."""
    with platform.connect() as connection:
        connection.execute(
            "TRUNCATE production.metrics, production.workorders, etl.ledger, etl.heads, etl.quarantine, etl.corrections"
        )
    with broker_server as url, contextlib.closing(Broker(url, prefix=f"drain-{secrets.token_hex(4)}:")) as broker:
        with contextlib.closing(Line(platform, broker)) as line:
            yield line


def counts(done: module.Drained) -> dict[str, int]:
    """The counts of rows that are not zero."""
    found = ("received", "inserted", "updated", "unchanged", "deduplicated", "superseded", "rejected")
    return {name: count for name in found if (count := getattr(done, name))}


def test_records_become_rows_and_the_position_is_that_of_the_last(line: Line) -> None:
    line.publish(1, metric(1, 0, 1.5), metric(2, 0, None))
    line.publish(3, metric(1, 1, -2.5))
    done = line.drain()
    assert line.rows() == [(1, 0, 1.5, 1), (1, 1, -2.5, 3), (2, 0, None, 2)]
    assert counts(done) == {"received": 3, "inserted": 3}
    assert (done.stream, done.position, done.source, done.transactions) == ("metrics", 3, SOURCE, 1)
    assert (done.lag_before.batches, done.lag_before.records, done.lag.batches, done.lag.records) == (2, 3, 0, 0)
    assert line.position() == Position(SOURCE, 3)
    (entry,) = line.ledger()
    assert (entry["asset"], entry["mode"], entry["run_id"]) == ("production.metrics", "upsert", "script")
    assert json.loads(entry["source_position"]) == {"source": SOURCE, "sequence": 3}


def test_nothing_in_the_broker_is_nothing_to_do(line: Line) -> None:
    done = line.drain()
    assert (counts(done), done.position, done.source, done.transactions) == ({}, 0, "", 0)
    assert done.lag_before == done.lag == Lag(0, 0, 0.0)
    assert line.ledger() == []


def test_work_orders_have_a_position_of_their_own(line: Line) -> None:
    line.publish(1, metric(1, 0, 1.5))
    line.drain()
    orders = Line(line.database, line.broker, WORKORDERS)
    orders.publish(1, '{"time": 1624378574, "product": 0, "production": 0}')
    assert counts(orders.drain()) == {"received": 1, "inserted": 1}
    assert line.query("SELECT product_id, production, sequence FROM production.workorders") == [
        {"product_id": "0", "production": 0.0, "sequence": 1}
    ]
    assert (line.position(), orders.position()) == (Position(SOURCE, 1), Position(SOURCE, 1))


def test_a_drain_goes_on_where_the_one_before_stopped(line: Line) -> None:
    line.publish(1, metric(1, 0, 1.0))
    line.drain()
    line.publish(2, metric(1, 1, 2.0))
    assert counts(line.drain()) == {"received": 1, "inserted": 1}
    assert counts(line.drain()) == {}
    assert line.rows() == [(1, 0, 1.0, 1), (1, 1, 2.0, 2)]


def test_entries_are_dropped_below_the_position_except_the_newest(line: Line) -> None:
    for first in (1, 2, 3):
        line.publish(first, metric(1, first, 1.0))
    line.drain()
    assert line.entries() == 1
    assert line.broker.newest("metrics").last == 3  # type: ignore[union-attr]


def test_more_than_a_transaction_holds_goes_into_several(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCHES", 2)
    for first in range(1, 11, 2):
        line.publish(first, metric(1, first, 1.0), metric(1, first + 1, 2.0))
    done = line.drain()
    assert (done.received, done.inserted, done.transactions, done.position) == (10, 10, 3, 10)
    assert [json.loads(entry["source_position"])["sequence"] for entry in line.ledger()] == [4, 8, 10]
    assert [row[3] for row in line.rows()] == list(range(1, 11))


# What is the same key again.


def test_of_a_key_that_comes_twice_the_later_stays_and_the_earlier_is_kept_in_quarantine(line: Line) -> None:
    line.publish(1, metric(1, 0, 1.0), metric(2, 0, 5.0), metric(1, 0, 2.0))
    assert counts(line.drain()) == {"received": 3, "inserted": 2, "superseded": 1}
    assert line.rows() == [(1, 0, 2.0, 3), (2, 0, 5.0, 2)]
    (entry,) = line.quarantine()
    assert (entry["outcome"], entry["source"]) == ("superseded", f"stream metrics, sequence 1 of {SOURCE}")
    assert entry["faults"] == [{"column": "parameter_id, measured_at", "rule": "superseded by sequence 3", "raw": None}]
    assert entry["raw"] == {"parameter_id": "1", "measured_at": T0.isoformat(), "value": 1.0, "sequence": 1}
    line.assert_books_balance()


def test_a_stored_row_gives_way_to_a_later_record_of_its_key(line: Line) -> None:
    line.publish(1, metric(1, 0, 1.0), metric(2, 0, 1.0))
    line.drain()
    line.publish(3, metric(1, 0, 2.0), metric(3, 0, 2.0))
    assert counts(line.drain()) == {"received": 2, "inserted": 1, "updated": 1, "superseded": 1}
    assert line.rows() == [(1, 0, 2.0, 3), (2, 0, 1.0, 2), (3, 0, 2.0, 4)]
    assert line.superseded() == [(1, "superseded by sequence 3")]
    line.assert_books_balance()


def test_the_same_value_again_is_counted_and_nothing_more(line: Line) -> None:
    line.publish(1, metric(1, 0, 1.0), metric(1, 0, 1.0))
    assert counts(line.drain()) == {"received": 2, "inserted": 1, "deduplicated": 1}
    line.publish(3, metric(1, 0, 1.0))
    assert counts(line.drain()) == {"received": 1, "unchanged": 1}
    assert line.rows() == [(1, 0, 1.0, 1)]
    assert line.quarantine() == []
    line.assert_books_balance()


def test_after_rows_that_are_there_the_next_are_looked_up_until_all_are_new_again(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCHES", 1)
    looked: list[bool] = []
    original = module.store_latest

    def store(*args: Any, **options: Any) -> Any:
        looked.append(options["look_first"])
        return original(*args, **options)

    monkeypatch.setattr(module, "store_latest", store)
    for first, minute in enumerate((0, 1, 0, 2, 3), start=1):
        line.publish(first, metric(1, minute, float(first)))
    assert counts(line.drain()) == {"received": 5, "inserted": 4, "updated": 1, "superseded": 1}
    # The third meets the first, so that it is done again and the fourth looked up; the fifth is not.
    assert looked == [False, False, False, True, True, False]
    line.assert_books_balance()


def test_a_late_record_is_stored_like_any_other(line: Line) -> None:
    line.publish(1, metric(1, 100, 1.0))
    line.drain()
    line.publish(2, metric(1, 5, 2.0))
    assert counts(line.drain()) == {"received": 1, "inserted": 1}
    assert line.rows() == [(1, 5, 2.0, 2), (1, 100, 1.0, 1)]


# What cannot be a row.


def test_poison_goes_to_quarantine_and_does_not_block(line: Line) -> None:
    line.publish(1, metric(1, 0, 1.0), metric(1, 1, "N/A"), '{"id": 1}', metric(1, 2, 2.0))
    done = line.drain()
    assert counts(done) == {"received": 4, "inserted": 2, "rejected": 2}
    assert done.position == 4
    assert line.rows() == [(1, 0, 1.0, 1), (1, 2, 2.0, 4)]
    assert [(entry["outcome"], entry["source"]) for entry in line.quarantine()] == [
        ("rejected", f"stream metrics, sequence 2 of {SOURCE}"),
        ("rejected", f"stream metrics, sequence 3 of {SOURCE}"),
    ]
    line.assert_books_balance()


def test_a_batch_of_nothing_but_poison_moves_the_position(line: Line) -> None:
    line.publish(1, "[]", "5")
    assert counts(line.drain()) == {"received": 2, "rejected": 2}
    assert line.position() == Position(SOURCE, 2)


def test_a_foreign_entry_goes_to_quarantine_and_does_not_block(line: Line) -> None:
    line.publish(1, metric(1, 0, 1.0))
    line.add_foreign("1-7", hello="world")
    line.publish(2, metric(1, 1, 1.0))
    assert counts(line.drain()) == {"received": 3, "inserted": 2, "rejected": 1}
    (entry,) = line.quarantine()
    assert (entry["source"], entry["raw"]["fields"]) == (f"stream metrics, entry 1-7 of {SOURCE}", {"hello": "world"})
    assert [row[3] for row in line.rows()] == [1, 2]
    line.assert_books_balance()
    assert counts(line.drain()) == {}


def test_a_foreign_entry_after_which_the_relay_could_not_publish_is_taken_away(line: Line) -> None:
    line.publish(1, metric(1, 0, 1.0))
    line.add_foreign()
    line.add_foreign()
    done = line.drain()
    assert counts(done) == {"received": 3, "inserted": 1, "rejected": 2}
    assert (line.position(), line.entries(), done.lag.batches) == (Position(SOURCE, 1), 0, 0)
    line.publish(2, metric(1, 1, 1.0))
    assert counts(line.drain()) == {"received": 1, "inserted": 1}


def test_nothing_but_foreign_entries_moves_no_position(line: Line) -> None:
    for _ in range(3):
        line.add_foreign()
    assert counts(line.drain()) == {"received": 3, "rejected": 3}
    assert line.position() == Position("", 0)
    assert counts(line.drain()) == {}


@pytest.mark.parametrize("count", [1, 3])
def test_an_entry_with_another_number_of_lines_than_it_says_is_refused(line: Line, count: int) -> None:
    whole = batch(1, [metric(1, 0, 1.0), metric(1, 1, 1.0)])
    damaged = type(whole)(1, count, SOURCE, T0, whole.lines)
    line.broker.publish("metrics", [damaged])
    with pytest.raises(PermanentError, match=rf"entry {count}-0 of metrics says that it has {count} records and has 2"):
        line.drain()
    assert line.rows() == []


# What is there already, and what is missing.


def test_batches_that_overlap_what_is_stored_bring_only_what_is_new(line: Line) -> None:
    line.publish(1, metric(1, 0, 1.0), metric(1, 1, "x"), metric(1, 2, 1.0))
    line.drain()
    line.broker.delete("metrics")
    line.publish(2, metric(1, 1, "x"), metric(1, 2, 1.0))
    line.publish(3, metric(1, 2, 1.0), metric(1, 3, 1.0), metric(1, 4, "x"))
    assert counts(line.drain()) == {"received": 2, "inserted": 1, "rejected": 1}
    assert [row[3] for row in line.rows()] == [1, 3, 4]
    assert [entry["seen"] for entry in line.quarantine()] == [1, 1]


def test_batches_that_overlap_each_other_bring_each_record_once(line: Line) -> None:
    line.publish(1, metric(1, 0, 1.0), metric(1, 1, 1.0))
    line.publish(1, metric(1, 0, 1.0), metric(1, 1, 1.0), metric(1, 2, "x"))
    line.publish(3, metric(1, 2, "x"), metric(1, 3, 1.0))
    assert counts(line.drain()) == {"received": 4, "inserted": 3, "rejected": 1}


def test_a_broker_that_was_emptied_is_filled_from_the_beginning_without_harm(line: Line) -> None:
    records = [metric(1, minute, 1.0) for minute in range(6)]
    line.publish(1, *records[:4])
    line.drain()
    line.broker.delete("metrics")
    line.publish(1, *records[:2])
    assert counts(line.drain()) == {}
    line.publish(3, *records[2:])
    assert counts(line.drain()) == {"received": 2, "inserted": 2}
    assert [row[3] for row in line.rows()] == [1, 2, 3, 4, 5, 6]


def test_a_hole_is_an_error_that_names_its_ends_and_what_is_before_it_is_stored(line: Line) -> None:
    line.publish(1, metric(1, 0, 1.0), metric(1, 1, 1.0))
    line.publish(6, metric(1, 2, 1.0))
    for _ in range(2):
        with pytest.raises(PermanentError, match=r"stream metrics: records 3 to 5 are missing.*production reset"):
            line.drain()
        assert [row[3] for row in line.rows()] == [1, 2]
        assert line.position() == Position(SOURCE, 2)
    assert line.entries() == 1


def test_a_stream_whose_beginning_was_trimmed_by_somebody_else_is_a_hole(line: Line) -> None:
    line.publish(1, metric(1, 0, 1.0))
    line.publish(2, metric(1, 1, 1.0))
    line.broker.trim("metrics", committed=1)
    with pytest.raises(PermanentError, match="records 1 to 1 are missing"):
        line.drain()


def test_what_another_drain_stores_and_trims_between_reading_and_writing_is_no_hole(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCHES", 1)
    for first in (1, 2, 3, 4):
        line.publish(first, metric(1, first, 1.0))
    original, other = module._Drain.store, []

    def store(writer: Any, fetched: Any) -> Any:
        if not other:
            other.append(None)
            other[0] = line.drain()
        return original(writer, fetched)

    monkeypatch.setattr(module._Drain, "store", store)
    first = line.drain()
    assert (first.received, other[0].received) == (0, 4)
    assert [row[3] for row in line.rows()] == [1, 2, 3, 4]
    assert (first.position, line.entries()) == (4, 1)


def test_records_that_were_read_before_a_reset_are_read_again(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    line.publish(1, metric(1, 0, 1.0))
    line.drain()
    line.publish(2, metric(1, 1, 1.0))
    original, done = module._Drain.store, []

    def store(writer: Any, fetched: Any) -> Any:
        if not done:
            done.append(True)
            reset(line.database, line.broker, line.stream)
            line.publish(1, metric(1, 5, 5.0))
        return original(writer, fetched)

    monkeypatch.setattr(module._Drain, "store", store)
    assert counts(line.drain()) == {"received": 1, "inserted": 1}
    assert line.rows() == [(1, 5, 5.0, 1)]


def test_two_drains_at_once_store_each_record_once(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCHES", 2)
    for first in range(1, 21):
        line.publish(first, metric(first % 3, first, float(first)))
    done: list[module.Drained] = []
    both = threading.Barrier(2)

    def run() -> None:
        both.wait(10)
        done.append(line.drain())

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(one.received for one in done) == sum(one.inserted for one in done) == 20
    assert sorted(row[3] for row in line.rows()) == list(range(1, 21))
    assert len(line.ledger()) == sum(one.transactions for one in done)
    line.assert_books_balance()


# Another source.


@pytest.mark.parametrize("before", ["simulated:7", "files:abc"])
def test_another_source_takes_the_place_of_one_that_can_be_read_again(line: Line, before: str) -> None:
    line.publish(1, metric(1, 0, 1.0), metric(1, 1, 1.0), metric(1, 2, 1.0), source=before)
    line.drain()
    line.broker.delete("metrics")
    line.publish(1, metric(9, 0, 9.0), source="plant 9")
    done = line.drain()
    assert (counts(done), done.source) == ({"received": 1, "inserted": 1}, "plant 9")
    assert (done.lag_before.records, line.rows()) == (1, [(9, 0, 9.0, 1)])
    assert line.position() == Position("plant 9", 1)
    assert line.ledger()[-1]["deleted"] == 3


def test_another_source_that_does_not_begin_at_its_first_record_replaces_nothing(line: Line) -> None:
    line.publish(1, metric(1, 0, 1.0))
    line.drain()
    line.broker.delete("metrics")
    line.publish(2, metric(9, 0, 9.0), source="files:abc")
    with pytest.raises(PermanentError, match="records 1 to 1 are missing"):
        line.drain()
    assert line.rows() == [(1, 0, 1.0, 1)]


@pytest.mark.parametrize("before", ["plant 9", ""])
def test_a_source_that_cannot_be_read_again_is_not_replaced(line: Line, before: str) -> None:
    line.publish(1, metric(1, 0, 1.0), source=before)
    line.drain()
    line.broker.delete("metrics")
    line.publish(1, metric(9, 0, 9.0), source="files:abc")
    with pytest.raises(PermanentError, match=r"'files:abc'.*etl-assets production reset"):
        line.drain()
    assert line.rows() == [(1, 0, 1.0, 1)]
    reset(line.database, line.broker, line.stream)
    line.publish(1, metric(9, 0, 9.0), source="files:abc")
    assert counts(line.drain()) == {"received": 1, "inserted": 1}
    assert line.rows() == [(9, 0, 9.0, 1)]


def test_a_stream_that_is_begun_anew_before_the_trim_loses_nothing(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    line.publish(1, metric(1, 0, 1.0), metric(1, 1, 1.0))
    original = line.broker.trim

    def trim(*args: Any, **options: Any) -> None:
        if line.position().source == SOURCE:
            line.broker.delete("metrics")
            line.publish(1, metric(2, 0, 1.0), source="files:abc")
            line.publish(2, metric(2, 1, 1.0), source="files:abc")
        original(*args, **options)

    monkeypatch.setattr(line.broker, "trim", trim)
    line.drain()
    line.drain()
    assert line.rows() == [(2, 0, 1.0, 1), (2, 1, 1.0, 2)]


def test_what_was_read_from_a_source_that_is_gone_does_not_replace_the_new_one(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    line.publish(1, metric(1, 0, 1.0))
    original, done = module._Drain.store, []

    def store(writer: Any, fetched: Any) -> Any:
        if not done:
            done.append(True)
            line.broker.delete("metrics")
            line.publish(1, metric(2, 0, 2.0), source="files:abc")
            line.drain()
        return original(writer, fetched)

    monkeypatch.setattr(module._Drain, "store", store)
    assert counts(line.drain()) == {}
    assert line.rows() == [(2, 0, 2.0, 1)]


def test_a_reset_empties_table_and_broker_and_begins_with_the_first_record(line: Line) -> None:
    line.publish(1, metric(1, 0, 1.0), metric(1, 1, "x"))
    line.drain()
    line.publish(3, metric(1, 2, 1.0))
    reset(line.database, line.broker, line.stream)
    assert (line.rows(), line.entries(), line.position()) == ([], 0, Position("", 0))
    assert (line.ledger()[-1]["mode"], line.ledger()[-1]["deleted"]) == ("replace", 1)
    assert len(line.quarantine()) == 1
    line.assert_books_balance()


def test_what_a_relay_publishes_during_a_reset_goes_too(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    line.publish(1, metric(1, 0, 1.0))
    line.drain()
    original = Session.commit

    def commit(self: Session, commit_id: str) -> None:
        line.publish(2, metric(1, 1, 1.0))
        original(self, commit_id)

    monkeypatch.setattr(Session, "commit", commit)
    reset(line.database, line.broker, line.stream)
    assert (line.entries(), line.position()) == (0, Position("", 0))


def test_a_reset_that_was_committed_without_an_answer_is_not_done_twice(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(*_: object) -> bool:
        raise TransientError("the ledger cannot be read")

    monkeypatch.setattr(session, "_committed", nobody)
    with proxied(line.database.url) as proxy:
        through = Database(proxy.url)
        through.prepare()
        proxy.cut = "after"
        reset(through, line.broker, line.stream)
    assert len(line.ledger()) == 1


# Kills and cuts.


@pytest.mark.parametrize("after", [False, True])
def test_a_drain_killed_at_the_commit_loses_nothing_and_stores_nothing_twice(line: Line, after: bool) -> None:
    line.publish(1, metric(1, 0, 1.0), metric(1, 0, 2.0), metric(1, 1, "x"))
    with crashing(Session, "commit", after=after), pytest.raises(Crash):
        line.drain()
    assert line.rows() == ([(1, 0, 2.0, 2)] if after else [])
    assert line.entries() == 1
    again = line.drain()
    assert again.received == (0 if after else 3)
    assert line.rows() == [(1, 0, 2.0, 2)]
    assert [entry["seen"] for entry in line.quarantine()] == [1, 1]
    assert len(line.ledger()) == 1


def test_a_drain_killed_before_the_trim_is_trimmed_by_the_next(line: Line) -> None:
    line.publish(1, metric(1, 0, 1.0))
    line.publish(2, metric(1, 1, 1.0))
    with crashing(line.broker, "trim"), pytest.raises(Crash):
        line.drain()
    assert (line.entries(), line.position().sequence) == (2, 2)
    line.publish(3, metric(1, 2, 1.0))
    assert counts(line.drain()) == {"received": 1, "inserted": 1}
    assert line.entries() == 1


def test_what_a_killed_drain_has_left_is_trimmed_although_nothing_waits(line: Line) -> None:
    line.publish(1, metric(1, 0, 1.0))
    line.publish(2, metric(1, 1, 2.0))
    with crashing(line.broker, "trim"), pytest.raises(Crash):
        line.drain()
    assert line.entries() == 2
    assert counts(line.drain()) == {}
    assert line.entries() == 1


def test_a_drain_killed_after_a_trim_finds_all_that_is_not_stored(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCHES", 1)
    for first in (1, 2, 3):
        line.publish(first, metric(1, first, 1.0))
    with crashing(line.broker, "trim", after=True), pytest.raises(Crash):
        line.drain()
    assert (line.position().sequence, line.entries()) == (1, 2)
    assert counts(line.drain()) == {"received": 2, "inserted": 2}
    assert [row[3] for row in line.rows()] == [1, 2, 3]


@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_connection_cut_at_the_commit_leaves_each_record_once(line: Line, cut: Any) -> None:
    line.publish(1, metric(1, 0, 1.0), metric(1, 0, 2.0))
    with proxied(line.database.url) as proxy:
        through = Database(proxy.url)
        through.prepare()
        proxy.cut = cut
        done = line.drain(database=through)
        assert proxy.cuts == 1
    assert counts(done) == {"received": 2, "inserted": 1, "superseded": 1}
    assert len(line.ledger()) == 1
    assert [entry["seen"] for entry in line.quarantine()] == [1]


@pytest.mark.long
def test_a_commit_that_nobody_could_look_up_is_found_by_the_next_attempt(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    line.publish(1, metric(1, 0, 1.0))

    def nobody(*_: object) -> bool:
        raise TransientError("the ledger cannot be read")

    monkeypatch.setattr(session, "_committed", nobody)
    with proxied(line.database.url) as proxy:
        through = Database(proxy.url)
        through.prepare()
        proxy.cut = "after"
        assert counts(line.drain(database=through)) == {"received": 1, "inserted": 1}
    assert len(line.ledger()) == 1


@pytest.mark.parametrize("step", ["returned", "append", "stage"])
def test_a_terminated_backend_is_replaced_and_the_transaction_repeated(
    line: Line, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    original, calls = getattr(Transaction, step), []

    def faulty(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            line.query(TERMINATE)
        return original(*args, **options)

    line.publish(1, metric(1, 0, 1.0), metric(1, 1, "x"))
    monkeypatch.setattr(Transaction, step, faulty)
    assert counts(line.drain()) == {"received": 2, "inserted": 1, "rejected": 1}
    assert len(calls) >= 2
    assert len(line.ledger()) == 1


@pytest.mark.long
def test_a_backend_terminated_in_the_middle_of_a_load_is_replaced(line: Line) -> None:
    lines = [batch(at, [metric(n % 50, n, 1.0) for n in range(at, at + 1000)]) for at in range(1, 100_001, 1000)]
    line.broker.publish("metrics", lines)
    done = threading.Event()

    def terminate() -> None:
        while not done.is_set():
            found = line.query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_progress_copy"
                " WHERE datname = current_database() AND type = 'PIPE' AND tuples_processed > 0"
            )
            if found:
                done.set()

    killer = threading.Thread(target=terminate)
    killer.start()
    try:
        drained = line.drain()
        assert done.is_set()
    finally:
        done.set()
        killer.join()
    assert counts(drained) == {"received": 100_000, "inserted": 100_000}
    assert line.query("SELECT count(*) AS n, count(DISTINCT sequence) AS d FROM production.metrics") == [
        {"n": 100_000, "d": 100_000}
    ]


def test_a_column_changed_under_the_drain_is_an_error_that_names_it(database: Database, line: Line) -> None:
    line.publish(1, metric(1, 0, 1.0))
    with database.connect() as connection:
        connection.execute("ALTER TABLE production.metrics ALTER value TYPE bigint")
    with pytest.raises(ContractError, match="column value is bigint in the table"):
        line.drain(database=database)
    assert committed_position(database, line.stream) == Position("", 0)


def test_a_broker_that_is_away_is_a_failure_that_may_be_tried_again(platform: Database) -> None:
    with contextlib.closing(Broker("redis://127.0.0.1:1/0")) as broker, pytest.raises(TransientError):
        drain(platform, broker, WORKORDERS)


def test_a_clock_that_went_back_does_not_lose_the_position(line: Line) -> None:
    line.publish(1, metric(1, 0, 1.0))
    line.drain()
    with line.database.connect() as connection:
        connection.execute("UPDATE etl.ledger SET committed_at = committed_at + interval '1 hour'")
    line.publish(2, metric(1, 1, 1.0))
    line.drain()
    assert line.position() == Position(SOURCE, 2)
    line.publish(3, metric(1, 2, 1.0))
    assert counts(line.drain()) == {"received": 1, "inserted": 1}


def test_a_reader_sees_the_rows_of_the_old_source_until_the_new_ones_are_there(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    line.publish(1, metric(1, 0, 1.0))
    line.drain()
    line.broker.delete("metrics")
    line.publish(1, metric(9, 0, 9.0), source="files:abc")
    seen: list[Any] = []
    original = Session.commit

    def commit(self: Session, commit_id: str) -> None:
        seen.append(line.rows())
        original(self, commit_id)

    monkeypatch.setattr(Session, "commit", commit)
    line.drain()
    assert (seen, line.rows()) == ([[(1, 0, 1.0, 1)]], [(9, 0, 9.0, 1)])


# Replay.


def replayed(line: Line, sequence: int, **corrections: Any) -> Replayed:
    entries, _ = list_entries(line.database, Filter(status="all"))
    (entry,) = [one for one in entries if one.raw["sequence"] == sequence and one.outcome == "rejected"]
    return replay(line.database, ParquetRoot(""), entry.id, contract=Metrics, corrections=corrections)


def test_a_rejected_record_is_corrected_and_replayed_and_moves_no_position(line: Line) -> None:
    line.publish(1, metric(1, 0, 1.0), metric(1, 1, "N/A"), "[]")
    line.drain()
    assert (replayed(line, 2).outcome, replayed(line, 2).faults) == ("rejected", ["value: not a number"])
    assert replayed(line, 2, value=7.5).outcome == "stored"
    assert replayed(line, 2, value=8.5).outcome == "done"
    assert replayed(line, 3, parameter_id=4, measured_at=T0.isoformat(), value="1").outcome == "stored"
    assert line.rows() == [(1, 0, 1.0, 1), (1, 1, 7.5, 2), (4, 0, 1.0, 3)]
    assert line.position() == Position(SOURCE, 3)


def test_a_replayed_row_outlives_the_drains_after_it_until_a_later_record_has_its_key(line: Line) -> None:
    line.publish(1, metric(1, 0, "N/A"), metric(1, 1, 1.0))
    line.drain()
    replayed(line, 1, value=7.5)
    line.publish(3, metric(1, 2, 1.0))
    assert counts(line.drain()) == {"received": 1, "inserted": 1}
    line.broker.delete("metrics")
    line.publish(1, metric(1, 0, "N/A"), metric(1, 1, 1.0), metric(1, 2, 1.0))
    assert counts(line.drain()) == {}
    assert line.rows() == [(1, 0, 7.5, 1), (1, 1, 1.0, 2), (1, 2, 1.0, 3)]
    line.publish(4, metric(1, 0, 8.0))
    assert counts(line.drain()) == {"received": 1, "updated": 1, "superseded": 1}
    assert line.superseded() == [(1, "superseded by sequence 4")]


def test_a_replayed_record_gives_way_to_a_later_one_of_its_key(line: Line) -> None:
    line.publish(1, metric(1, 0, "N/A"), metric(1, 0, 99.0))
    line.drain()
    assert replayed(line, 1, value=7.5).outcome == "superseded"
    assert line.rows() == [(1, 0, 99.0, 2)]
    assert [entry["status"] for entry in line.quarantine()] == ["superseded"]


def test_records_in_quarantine_go_with_their_source_and_come_with_it_again(line: Line) -> None:
    line.publish(1, metric(1, 0, "N/A"), metric(1, 1, "N/A"))
    line.drain()
    replayed(line, 1, value=7.5)
    assert sorted(entry["status"] for entry in line.quarantine()) == ["open", "replayed"]
    reset(line.database, line.broker, line.stream)
    assert [entry["status"] for entry in line.quarantine()] == ["gone", "gone"]
    with pytest.raises(PermanentError, match="is gone: its source .* was read again without it, or given up"):
        replayed(line, 2, value=7.5)
    line.publish(1, metric(1, 0, "N/A"))
    line.drain()
    assert sorted(entry["status"] for entry in line.quarantine()) == ["gone", "open"]
    assert line.rows() == []


# The real files.


@pytest.mark.skipif(not DATA.exists(), reason="the shared data are not here")
@pytest.mark.parametrize("size", [1000, 6896])
def test_the_metrics_of_the_plant_are_stored_and_their_one_duplicate_is_superseded(line: Line, size: int) -> None:
    records = [json.dumps(record) for record in json.loads((DATA / "metrics.json").read_text())]
    for at in range(0, len(records), size):
        line.publish(at + 1, *records[at : at + size])
    done = line.drain()
    assert counts(done) == {"received": 6896, "inserted": 6895, "superseded": 1}
    (stored,) = line.query("SELECT count(*) AS n, min(measured_at) AS first FROM production.metrics")
    assert stored == {"n": 6895, "first": datetime.datetime(2021, 6, 22, 15, 57, 58, tzinfo=datetime.UTC)}
