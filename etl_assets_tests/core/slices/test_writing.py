"""All modes in all forms: rows, counts and ledger of the write path on a real Postgres."""

import datetime
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from etl_assets.core.contracts import Record
from etl_assets.core.database.connections import Database
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.writing import Write, hash_of, write
from etl_assets.errors import ContractError, PermanentError
from etl_assets_tests.core.slices.tables import (
    COUNTS,
    NOON,
    Events,
    Readings,
    as_reader,
    as_table,
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
    store,
    stored,
    values,
)

FORMS: dict[str, Callable[[pd.DataFrame], Any]] = {
    "frame": lambda frame: frame,
    "table": lambda frame: as_table(Readings, frame),
    "reader": lambda frame: as_reader(Readings, frame),
    "frame with records": lambda frame: split_of(frame, rejected("z")),
    "table with records": lambda frame: split_of(as_table(Readings, frame), rejected("z")),
    "reader with records": lambda frame: split_of(as_reader(Readings, frame), rejected("z")),
}
# There: a=1, b=2, c=3. Given: a as it was, b with another value, d new and twice, e against the contract.
GIVEN = readings(("a", 1), ("b", 9), ("d", 7), ("e", 1001), ("d", 4))
EXPECTED: dict[str, tuple[dict[str, float], dict[str, int]]] = {
    "upsert": ({"a": 1, "b": 9, "c": 3, "d": 4}, {"inserted": 1, "updated": 1, "unchanged": 1}),
    "replace": ({"a": 1, "b": 9, "d": 4}, {"inserted": 1, "updated": 1, "unchanged": 1, "deleted": 1}),
    "partition": ({"a": 1, "b": 9, "d": 4}, {"inserted": 1, "updated": 1, "unchanged": 1, "deleted": 1}),
}


@pytest.mark.long
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", EXPECTED)
def test_every_mode_gives_the_same_rows_and_counts_in_every_form(database: Database, mode: str, form: str) -> None:
    create(database, Readings)
    store(database, readings(("a", 1), ("b", 2), ("c", 3)), "append")
    rows, change = EXPECTED[mode]
    given = 1 if "records" in form else 0
    outcome = store(database, FORMS[form](GIVEN), mode, site_slice("a"))
    assert values(database) == rows
    assert counts(outcome) == {**change, "received": 5 + given, "deduplicated": 1, "quarantined": 1 + given}
    entry = ledger(database)[-1]
    assert {name: entry[name] for name in COUNTS} == outcome.counts()
    assert (entry["commit_id"], entry["mode"], entry["partition"]) == (outcome.commit_id, mode, "a")
    assert len(quarantined(database)) == 1 + given


@pytest.mark.long
@pytest.mark.parametrize("form", FORMS)
def test_append_adds_rows_in_every_form_and_the_last_of_equal_keys_wins(database: Database, form: str) -> None:
    create(database, Readings)
    store(database, readings(("z", 1)), "append")
    given = 1 if "records" in form else 0
    outcome = store(database, FORMS[form](readings(("b", 1), ("a", 2), ("b", 3))), "append")
    assert values(database) == {"a": 2, "b": 3, "z": 1}
    assert counts(outcome) == {
        name: count
        for name, count in {"received": 3 + given, "inserted": 2, "deduplicated": 1, "quarantined": given}.items()
        if count
    }


@pytest.mark.long
@pytest.mark.parametrize("mode", ["replace", "append"])
@pytest.mark.parametrize("streamed", [False, True])
def test_rows_without_identity_are_appended_or_replaced_whole(database: Database, mode: str, streamed: bool) -> None:
    create(database, Events)
    frame = pd.DataFrame({"at": [NOON, NOON], "text": ["x", "x"]})
    data = [as_reader(Events, frame) if streamed else frame for _ in range(2)]
    for part in data:
        (outcome,) = write(database, part, [Slice(Events)], Write(mode))
    assert len(stored(database, Events)) == (2 if mode == "replace" else 4)
    assert counts(outcome) == {"received": 2, "inserted": 2, **({"deleted": 2} if mode == "replace" else {})}


@pytest.mark.parametrize("form", ["frame", "reader"])
@pytest.mark.parametrize("mode", ["upsert", "replace"])
def test_an_unchanged_row_is_not_touched(database: Database, mode: str, form: str) -> None:
    create(database, Readings)
    store(database, readings(("a", 1), ("b", None), ("c", 3)), "append")
    before = execute(database, "SELECT id, xmin::text, ctid::text FROM plant.readings ORDER BY id")
    outcome = store(database, FORMS[form](readings(("a", 1), ("b", None), ("c", 4))), mode)
    after = execute(database, "SELECT id, xmin::text, ctid::text FROM plant.readings ORDER BY id")
    assert after[:2] == before[:2]
    assert after[2] != before[2]
    assert counts(outcome) == {"received": 3, "unchanged": 2, "updated": 1}


def test_null_and_a_value_differ_in_both_directions_and_two_nulls_do_not(database: Database) -> None:
    create(database, Readings)
    store(database, readings(("a", None), ("b", 2), ("c", None)), "append")
    outcome = store(database, readings(("a", 1), ("b", None), ("c", None)), "replace")
    assert values(database) == {"a": 1, "b": None, "c": None}
    assert counts(outcome) == {"received": 3, "updated": 2, "unchanged": 1}


def test_several_slices_in_one_call_have_an_outcome_a_ledger_row_and_their_records_each(database: Database) -> None:
    create(database, Readings)
    frame = pd.concat([readings(("a", 1)), readings(("b", 2), ("c", 5000), site="b"), readings(("d", 3), site="c")])
    outcomes = write(database, frame, [site_slice(s) for s in "abcd"], Write("partition", run_id="r"))
    assert [counts(outcome) for outcome in outcomes] == [
        {"received": 1, "inserted": 1},
        {"received": 2, "inserted": 1, "quarantined": 1},
        {"received": 1, "inserted": 1},
        {},
    ]
    assert [(entry["partition"], entry["run_id"]) for entry in ledger(database)] == [(s, "r") for s in "abcd"]
    assert [row["partition"] for row in quarantined(database)] == ["b"]


def test_replacing_a_slice_leaves_the_others_alone(database: Database) -> None:
    create(database, Readings)
    store(database, readings(("a", 1)), "append")
    store(database, readings(("b", 1), ("c", 1), site="b"), "append")
    assert counts(store(database, readings(("c", 2), site="b"), "partition", site_slice("b"))) == {
        "received": 1,
        "updated": 1,
        "deleted": 1,
    }
    assert values(database) == {"a": 1, "c": 2}


def test_a_row_that_moves_to_another_partition_is_updated_by_an_upsert(database: Database) -> None:
    create(database, Readings)
    store(database, readings(("a", 1)), "append")
    assert counts(store(database, readings(("a", 1), site="b"), "upsert", site_slice("b"))) == {
        "received": 1,
        "updated": 1,
    }
    assert stored(database, Readings, ("id", "site")) == [("a", "b")]


@pytest.mark.parametrize("form", ["frame", "reader"])
def test_a_row_outside_its_slice_is_an_error_and_nothing_is_written(database: Database, form: str) -> None:
    create(database, Readings)
    store(database, readings(("old", 1)), "append")
    mixed = pd.concat([readings(("a", 1)), readings(("b", 2), site="elsewhere")])
    with pytest.raises(ContractError, match=r"1 rows lie outside partition a.*elsewhere"):
        store(database, FORMS[form](mixed), "partition", site_slice("a"))
    assert values(database) == {"old": 1}
    assert len(ledger(database)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="value"), "column value is missing"),
        (lambda f: f.assign(extra=1), "column extra is not in the contract"),
        (lambda f: f.assign(site=[1, 2]), "column site is int64 and the contract says text"),
        (lambda f: f.assign(at=f["at"].dt.tz_localize(None)), "column at is timestamp.*give the times a zone"),
    ],
)
def test_drift_in_the_frame_names_the_column_before_anything_is_deleted(
    database: Database, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    create(database, Readings)
    store(database, readings(("a", 1), ("b", 2)), "append")
    with pytest.raises(ContractError, match=message):
        store(database, change(readings(("c", 1), ("d", 2))), "replace")
    assert values(database) == {"a": 1, "b": 2}


@pytest.mark.long
@pytest.mark.parametrize("form", ["frame", "reader"])
@pytest.mark.parametrize(
    ("ddl", "message"),
    [
        ("DROP COLUMN value", "column value is missing in the table"),
        ("ADD COLUMN extra text", "column extra of the table is not in the contract"),
        ("ALTER COLUMN value TYPE bigint", "column value is bigint in the table and double precision in the contract"),
        ("ALTER COLUMN value SET NOT NULL", "column value is NOT NULL in the table and may be empty"),
    ],
)
def test_drift_in_the_table_names_the_column_before_anything_is_deleted(
    database: Database, ddl: str, message: str, form: str
) -> None:
    create(database, Readings)
    store(database, readings(("a", 1)), "append")
    execute(database, f"ALTER TABLE plant.readings {ddl}")
    with pytest.raises(ContractError, match=message):
        store(database, FORMS[form](readings(("b", 2))), "replace")
    assert execute(database, "SELECT id FROM plant.readings") == [("a",)]


def test_a_missing_table_names_the_command_that_makes_it(database: Database) -> None:
    with pytest.raises(ContractError, match=r"plant.readings is not in the database: run `etl-assets migrate`"):
        store(database, readings(("a", 1)), "append")


@pytest.mark.long
@pytest.mark.parametrize("form", ["frame", "reader"])
@pytest.mark.parametrize(("mode", "left"), [("replace", 0), ("upsert", 2), ("append", 2)])
def test_no_rows_empty_the_table_only_when_it_is_replaced(database: Database, mode: str, left: int, form: str) -> None:
    create(database, Readings)
    store(database, readings(("a", 1), ("b", 2)), "append")
    outcome = store(database, FORMS[form](readings()), mode)
    assert len(values(database)) == left
    assert counts(outcome) == ({"deleted": 2} if mode == "replace" else {})
    assert len(ledger(database)) == 2


@pytest.mark.parametrize("mode", ["append", "upsert", "replace"])
def test_integers_for_a_float_column_are_converted_not_reinterpreted(database: Database, mode: str) -> None:
    create(database, Readings)
    frame = readings(("a", 0), ("b", 0)).assign(value=np.array([400, 7], dtype=np.int64))
    store(database, pa.Table.from_pandas(frame, preserve_index=False), mode)
    assert values(database) == {"a": 400.0, "b": 7.0}


def test_text_with_nul_goes_to_quarantine(database: Database) -> None:
    create(database, Readings)
    outcome = store(database, readings(("a", 1), ("b\x00c", 2)), "upsert")
    assert values(database) == {"a": 1}
    assert counts(outcome) == {"received": 2, "inserted": 1, "quarantined": 1}
    assert "no NUL" in quarantined(database)[0]["faults"]


@pytest.mark.long
@pytest.mark.parametrize("form", ["frame", "reader"])
def test_one_bad_row_in_a_hundred_thousand_leaves_the_rest_to_be_loaded(database: Database, form: str) -> None:
    create(database, Readings)
    frame = many(100_000)
    frame.loc[77_777, "value"] = 5000.0
    data = as_reader(Readings, frame, batch=30_000) if form == "reader" else frame
    outcome = store(database, data, "upsert")
    assert counts(outcome) == {"received": 100_000, "inserted": 99_999, "quarantined": 1}
    assert execute(database, "SELECT count(*) FROM plant.readings") == [(99_999,)]
    assert quarantined(database)[0]["source"] == "the data, row 77777"


def test_a_flagged_row_is_loaded_and_noted(database: Database) -> None:
    create(database, Readings)
    note = Record(rejected("a").faults, {"id": "a"}, outcome="flagged")
    outcome = store(database, split_of(readings(("a", 1)), note), "upsert")
    assert counts(outcome) == {"received": 1, "inserted": 1, "flagged": 1}
    assert [row["outcome"] for row in quarantined(database)] == ["flagged"]


def test_the_same_bad_row_again_is_counted_not_repeated(database: Database) -> None:
    create(database, Readings)
    for _ in range(3):
        store(database, readings(("a", 5000), ("b", 1)), "upsert")
    assert [(row["seen"], row["asset"]) for row in quarantined(database)] == [(3, "plant.readings")]


@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["o'clock", 'do"ble', "back\\slash", "%s %(x)s $1 {} ?", "Ωmega 🜨", "'; DROP TABLE plant.readings; --", ""]
)
@pytest.mark.parametrize("form", ["frame", "reader"])
def test_hostile_text_is_stored_and_compared_as_it_is(database: Database, name: str, form: str) -> None:
    create(database, Readings)
    slice_ = Slice(Readings, f"p {name}", {"site": name})
    frame = readings((f"{name}1", 1), (f"{name}2", 2), site=name)
    assert counts(store(database, FORMS[form](frame), "partition", slice_)) == {"received": 2, "inserted": 2}
    for mode in ("partition", "upsert"):
        assert counts(store(database, FORMS[form](frame), mode, slice_)) == {"received": 2, "unchanged": 2}
    assert stored(database, Readings, ("id", "site")) == [(f"{name}1", name), (f"{name}2", name)]
    assert {entry["partition"] for entry in ledger(database)} == {f"p {name}"}


@pytest.mark.parametrize("form", ["frame", "batches"])
def test_a_batch_is_appended_once_whatever_its_rows_are(database: Database, form: str) -> None:
    create(database, Events)

    def append(text: str, batch: str) -> dict[str, int]:
        frame = pd.DataFrame({"at": [NOON], "text": [text]})
        data = frame if form == "frame" else as_reader(Events, frame)
        return counts(store(database, data, "append", Slice(Events), batch=batch))

    assert append("x", "run 1/step/") == {"received": 1, "inserted": 1}
    assert append("the source has moved on", "run 1/step/") == {"received": 1, "unchanged": 1}
    assert append("x", "run 2/step/") == {"received": 1, "inserted": 1}
    assert [text for _, text in stored(database, Events)] == ["x", "x"]
    assert len(ledger(database)) == 2


def test_the_same_keys_appended_by_another_run_are_an_error_that_names_them(database: Database) -> None:
    create(database, Readings)
    store(database, readings(("a", 1)), "append", run_id="run 1")
    with pytest.raises(PermanentError, match=r"keys that are there already, nothing was written.*\(id\)=\(a\)"):
        store(database, readings(("a", 1), ("b", 2)), "append", run_id="run 2")
    with pytest.raises(PermanentError, match=r"keys that are there already, nothing was written.*\(id\)=\(a\)"):
        store(database, as_reader(Readings, readings(("a", 1))), "append", run_id="run 2")
    assert values(database) == {"a": 1}


@pytest.mark.parametrize(
    ("mode", "slice_", "message"),
    [
        ("overwrite", Slice(Readings), "unknown mode 'overwrite'"),
        ("upsert", Slice(Events), "plant.events has no key"),
        ("partition", Slice(Readings), "needs a partition"),
    ],
)
def test_a_mode_that_cannot_be_is_refused(database: Database, mode: str, slice_: Slice, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        store(database, readings(), mode, slice_)


@pytest.mark.long
@pytest.mark.parametrize("changed", [0, 0.01, 0.5, 1])
@pytest.mark.parametrize("mode", ["replace", "upsert"])
def test_whatever_share_is_changed_the_table_is_as_given(database: Database, mode: str, changed: float) -> None:
    create(database, Readings)
    store(database, many(2_000), "append")
    frame = many(2_000).sample(frac=1, random_state=1).reset_index(drop=True)
    frame.loc[: int(2_000 * changed) - 1, "value"] = 2.0
    outcome = store(database, frame, mode)
    assert values(database) == dict(zip(frame["id"], frame["value"], strict=True))
    assert outcome.loaded == 2_000 * changed
    assert outcome.change.unchanged == 2_000 * (1 - changed)


def test_an_upsert_among_far_more_rows_finds_the_existing_ones_by_key(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(database, Readings)
    monkeypatch.setattr("etl_assets.core.slices.merging.READ_ALWAYS", 10)
    store(database, many(3_000), "append")
    execute(database, "ANALYZE plant.readings")
    outcome = store(database, readings(("k0000000", 1), ("k0001000", 5), ("k0001500x", 6), ("k0002999", 1)), "upsert")
    assert counts(outcome) == {"received": 4, "inserted": 1, "updated": 1, "unchanged": 2}
    assert {k: v for k, v in values(database).items() if v != 1} == {"k0001000": 5, "k0001500x": 6}


def test_the_hash_is_of_the_rows_alone() -> None:
    frame = readings(("a", 1), ("b", None))
    table = as_table(Readings, frame)
    plain = table.replace_schema_metadata({"x": "y"})
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    under_null = pa.array(np.array([1.0, 77.0]), mask=np.array([False, True]))
    other = table.set_column(3, table.schema.field(3), under_null)
    assert {hash_of(t) for t in (table, plain, chunked, other)} == {hash_of(table)}
    assert hash_of(as_table(Readings, readings(("a", 1), ("b", 0)))) != hash_of(table)


def test_the_ledger_has_the_source_position_and_the_database_clock(database: Database) -> None:
    create(database, Readings)
    write(database, readings(("a", 1)), [Slice(Readings)], Write("upsert", source_position={"after": 17}))
    (entry,) = ledger(database)
    assert entry["source_position"] == '{"after": 17}'
    assert abs(datetime.datetime.now(datetime.UTC) - entry["committed_at"]) < datetime.timedelta(minutes=5)
    assert entry["content_hash"] == hash_of(as_table(Readings, readings(("a", 1))))
