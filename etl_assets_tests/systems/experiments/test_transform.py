"""What the rows of the three files become: every fault in its record, every repeated key decided, no row unaccounted for."""

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl_assets.core.contracts import Fault, Record, Split
from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.systems.experiments import transform
from etl_assets.systems.experiments.contracts import Compounds, ExperimentCompounds, UserExperiments, Users
from etl_assets.systems.experiments.source import (
    COMPOUNDS,
    EXPERIMENTS,
    USERS,
    Batch,
    Block,
    CsvFile,
    ExperimentFolder,
    RejectedFile,
    Unreadable,
    batches,
)
from etl_assets.systems.experiments.transform import Loaded, loaded
from etl_assets_tests.systems.experiments.world import write_sample

ALICE, BOB = "1,Alice,alice@example.com,2023-01-01", "2,Bob,bob@example.com,2023-02-01"
COMPOUND_LINES = ("1,Compound A,C20H25N3O", "2,Compound B,C21H30O2", "3,Compound C,C8H11NO2")
SHORT = "3 cells of 4"


def batch(file: CsvFile, lines: Sequence[str], *, first: int = 2) -> Batch:
    """Lines as the rows that they are: cells between commas, a line with another number of them unreadable."""
    cells: dict[str, list[Any]] = {"line": [], **{name: [] for name in file.columns}}
    unreadable = []
    for number, line in enumerate(lines, start=first):
        found = [cell.strip() or None for cell in line.split(",")]
        if len(found) == len(file.columns):
            for name, cell in zip(cells, [number, *found], strict=True):
                cells[name].append(cell)
        else:
            unreadable.append(Unreadable(number, line, SHORT))
    types = [pa.int64(), *[pa.string() for _ in file.columns]]
    rows = pa.table([pa.array(cells[name], kind) for name, kind in zip(cells, types, strict=True)], names=list(cells))
    return Batch(rows, unreadable, Block.of("".join(f"{line}\n" for line in lines).encode(), first))


def in_batches(file: CsvFile, lines: Sequence[str], *sizes: int) -> Iterator[Batch]:
    """The same lines in batches of these sizes, the rest in a last one."""
    start = 0
    for size in sizes:
        yield batch(file, lines[start : start + size], first=2 + start)
        start += size
    yield batch(file, lines[start:], first=2 + start)


def load(
    *experiments: str,
    users: Sequence[str] = (ALICE, BOB),
    compounds: Sequence[str] = COMPOUND_LINES,
    sizes: Sequence[int] = (),
) -> Loaded:
    return loaded(
        in_batches(USERS, users, *sizes),
        in_batches(COMPOUNDS, compounds, *sizes),
        in_batches(EXPERIMENTS, experiments, *sizes),
    )


def rows(split: Split[pa.Table]) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in split.valid.to_pylist()]


def faults(record: Record) -> list[tuple[str, str]]:
    return [(fault.column, fault.rule) for fault in record.faults]


def refused(line: str, **more: Any) -> list[tuple[str, str]]:
    """The faults of an experiment in line 3, after a good one, and that it reaches no table."""
    result = load("1,1,1;2,10", line, **more)
    (record,) = result.user_experiments.records
    assert record.source == "user_experiments.csv, line 3"
    assert record.raw["text"] == line
    assert record.outcome == "rejected"
    assert rows(result.user_experiments) == [(1, 1, 10.0)]
    assert rows(result.experiment_compounds) == [(1, 1), (1, 2)]
    return faults(record)


def test_the_files_become_four_tables_in_key_order() -> None:
    result = load("20,2,3;1,15.5", "10,1,2,0", users=[BOB, ALICE], compounds=COMPOUND_LINES[::-1])
    assert rows(result.users) == [
        (1, "Alice", "alice@example.com", date(2023, 1, 1)),
        (2, "Bob", "bob@example.com", date(2023, 2, 1)),
    ]
    assert rows(result.compounds) == [
        (1, "Compound A", "C20H25N3O"),
        (2, "Compound B", "C21H30O2"),
        (3, "Compound C", "C8H11NO2"),
    ]
    assert rows(result.user_experiments) == [(10, 1, 0.0), (20, 2, 15.5)]
    assert rows(result.experiment_compounds) == [(10, 2), (20, 1), (20, 3)]
    for split in (result.users, result.compounds, result.user_experiments, result.experiment_compounds):
        assert list(split.records) == []
        assert split.deduplicated == 0


def test_the_tables_have_the_schemas_of_their_contracts() -> None:
    result = load("1,1,1,10")
    assert result.users.valid.schema.equals(arrow_schema(Users))
    assert result.compounds.valid.schema.equals(arrow_schema(Compounds))
    assert result.user_experiments.valid.schema.equals(arrow_schema(UserExperiments))
    assert result.experiment_compounds.valid.schema.equals(arrow_schema(ExperimentCompounds))


def test_the_given_files_load_whole() -> None:
    folder = Path(__file__).parents[3] / "../shared/data/experiments/comma-tab-lf"
    if not folder.is_dir():
        pytest.skip("the given files are not beside the checkout")
    result = loaded(*(batches(folder / file.name, file) for file in (USERS, COMPOUNDS, EXPERIMENTS)))
    assert [len(rows(s)) for s in (result.users, result.compounds, result.user_experiments)] == [10, 3, 11]
    assert rows(result.experiment_compounds)[:4] == [(1, 1), (1, 2), (2, 2), (2, 3)]
    assert result.experiment_compounds.valid.num_rows == 23
    assert result.repeated_compound_ids == 0
    assert not [*result.users.records, *result.compounds.records, *result.user_experiments.records]


def test_a_record_names_file_line_column_rule_and_the_raw_text() -> None:
    result = load("1,1,1;2,10", "2, 1,\t2 ,-5 ")
    assert list(result.user_experiments.records) == [
        Record(
            (Fault("experiment_run_time", ">= 0", "-5"),),
            {
                "text": "2, 1,\t2 ,-5 ",
                "experiment_id": "2",
                "user_id": "1",
                "experiment_compound_ids": "2",
                "experiment_run_time": "-5",
            },
            "user_experiments.csv, line 3",
        )
    ]


def test_a_line_that_is_no_row_is_a_record_of_its_text_alone() -> None:
    result = load("1,1,1;2,10", "2,1,2", "3,1,2,x", users=[ALICE, "what", BOB])
    first, second = result.user_experiments.records
    assert first == Record((Fault("", SHORT, "2,1,2"),), {"text": "2,1,2"}, "user_experiments.csv, line 3")
    assert second.source == "user_experiments.csv, line 4"
    (line,) = result.users.records
    assert line == Record((Fault("", SHORT, "what"),), {"text": "what"}, "users.csv, line 3")


def test_records_stand_in_the_order_of_the_lines() -> None:
    result = load("1,1,1,x", "2,1,2", "3,1,1,1", "4,1,1,x", "5,1", sizes=(2, 1))
    assert [record.source[-1] for record in result.user_experiments.records] == ["2", "3", "5", "6"]


def test_records_can_be_asked_for_by_number_and_from_the_end() -> None:
    records = load("1,1,1,x", "2,1,2", "3,1,1,1", "4,1,1,y", sizes=(1,)).user_experiments.records
    everything = list(records)
    assert len(records) == 3
    assert [records[at] for at in range(3)] == everything
    assert records[-1] == everything[-1]
    assert records[1:] == everything[1:]
    with pytest.raises(IndexError):
        records[3]


@pytest.mark.parametrize(
    "day", ["2023-02-30", "yesterday", "01.02.2023", "2023-2-1", "20230201", "2023-02-01T00:00", "0"]
)
def test_a_date_that_is_none_is_refused(day: str) -> None:
    result = load(users=[ALICE, f"2,Bob,bob@example.com,{day}"])
    (record,) = result.users.records
    assert record.faults == (Fault("signup_date", "not a date (YYYY-MM-DD)", day),)
    assert record.source == "users.csv, line 3"
    assert [row[0] for row in rows(result.users)] == [1]


@pytest.mark.parametrize(
    ("cell", "rule"),
    [
        ("-1", ">= 0"),
        ("ten", "not a number"),
        ("1_5", "not a number"),
        ("0x10", "not a number"),
        ("inf", "finite"),
        ("1e999", "finite"),
        ("nan", "required"),
        ("", "required"),
    ],
)
def test_a_run_time_that_is_none_is_refused(cell: str, rule: str) -> None:
    assert ("experiment_run_time", rule) in refused(f"2,1,1,{cell}")


@pytest.mark.parametrize("cell", ["-inf"])
def test_a_run_time_can_break_two_rules_at_once(cell: str) -> None:
    assert refused(f"2,1,1,{cell}") == [("experiment_run_time", ">= 0"), ("experiment_run_time", "finite")]


@pytest.mark.parametrize(
    ("cell", "rule"),
    [
        ("one", "not a whole number"),
        ("1.5", "not a whole number"),
        ("0x1", "not a whole number"),
        ("１", "not a whole number"),
        ("1\x00", "not a whole number"),
        ("9223372036854775808", "not an integer of 64 bits"),
        ("", "required"),
    ],
)
def test_an_id_that_is_no_bigint_is_refused(cell: str, rule: str) -> None:
    assert refused(f"{cell},1,1,1") == [("experiment_id", rule)]
    assert refused(f"2,{cell},1,1") == [("user_id", rule)]


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        ("-7", -7),
        ("+7", 7),
        ("007", 7),
        ("0000000000000000000000007", 7),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("4611686018427387904", 2**62),
    ],
)
def test_any_bigint_is_an_id(cell: str, number: int) -> None:
    result = load(
        f"{cell},{cell},1;{cell},1",
        users=[ALICE, f"{cell},Zoe,,2023-01-01"],
        compounds=[*COMPOUND_LINES, f"{cell},,"],
    )
    assert rows(result.user_experiments) == [(number, number, 1.0)]
    assert rows(result.experiment_compounds) == [(number, compound) for compound in sorted([1, number])]


def test_a_nul_in_a_name_is_a_fault_of_the_contract() -> None:
    (record,) = load(users=[ALICE, "2,B\x00b,,2023-01-01"]).users.records
    assert faults(record) == [("name", "no NUL")]


def test_names_addresses_and_structures_may_be_blank() -> None:
    result = load(users=["1,,,2023-01-01"], compounds=["1,,"])
    assert rows(result.users) == [(1, None, None, date(2023, 1, 1))]
    assert rows(result.compounds) == [(1, None, None)]


@pytest.mark.parametrize(
    ("cell", "rule"),
    [
        ("1:3", "`1:3` is no compound id: ids are separated by `;`"),
        ("1|2", "`1|2` is no compound id: ids are separated by `;`"),
        ("1 2", "`1 2` is no compound id: ids are separated by `;`"),
        ("2;water", "`water` is no compound id: ids are separated by `;`"),
        ("1.0", "`1.0` is no compound id: ids are separated by `;`"),
        ("9223372036854775808", "`9223372036854775808` is not an integer of 64 bits"),
        ("x" * 60, f"`{'x' * 40}…` is no compound id: ids are separated by `;`"),
        ("1;;2", "a compound id is blank: ids are separated by `;`"),
        ("1;", "a compound id is blank: ids are separated by `;`"),
        (";", "a compound id is blank: ids are separated by `;`"),
        ("", "required"),
        ("99", "compound 99 is not in compounds.csv"),
        ("1;99;2", "compound 99 is not in compounds.csv"),
        ("99;99", "compound 99 is not in compounds.csv"),
        ("-1", "compound -1 is not in compounds.csv"),
    ],
)
def test_a_list_that_cannot_be_read_rejects_its_experiment(cell: str, rule: str) -> None:
    assert refused(f"2,1,{cell},5") == [("experiment_compound_ids", rule)]


def test_white_space_around_the_ids_of_a_list_is_nothing() -> None:
    assert rows(load("1,1,1 ;\t3,5").experiment_compounds) == [(1, 1), (1, 3)]


def test_a_list_names_each_of_its_faults() -> None:
    assert refused("2,1,1:3;;98;99;98,5") == [
        ("experiment_compound_ids", "`1:3` is no compound id: ids are separated by `;`"),
        ("experiment_compound_ids", "a compound id is blank: ids are separated by `;`"),
        ("experiment_compound_ids", "compound 98 is not in compounds.csv"),
        ("experiment_compound_ids", "compound 99 is not in compounds.csv"),
    ]


def test_a_list_of_very_many_faults_names_the_first_ones_and_counts_the_rest() -> None:
    found = refused("2,1," + ";".join(str(number) for number in range(100, 125)) + ",5")
    assert len(found) == 11
    assert found[9] == ("experiment_compound_ids", "compound 109 is not in compounds.csv")
    assert found[10] == ("experiment_compound_ids", "and 15 more faults of this kind")


def test_an_unknown_user_rejects_its_experiment() -> None:
    assert refused("2,99,1,5") == [("user_id", "user 99 is not in users.csv")]


def test_a_user_that_may_be_in_a_line_that_cannot_be_read_is_said_to_be_so(tmp_path: Path) -> None:
    write_sample(tmp_path, users=["2,Bob,,2024-02-29"], experiments=["1,1,1,5", "2,2,1,5"])
    with (tmp_path / "users.csv").open("ab") as users:
        users.write("\n1,José,,2023-01-01".encode("cp1252"))
    found, _ = ExperimentFolder(tmp_path).read()
    ((fault,),) = [record.faults for record in found.user_experiments.records]
    assert fault.rule == (
        "user 1 is not in users.csv, of which 1 line cannot be read (line 3: the line is not UTF-8 text: byte 6 of it is 0xe9,"
        " in Windows-1252 the letter é; save the file as UTF-8)"
    )


def test_a_user_that_is_in_quarantine_itself_is_named_with_its_line() -> None:
    users = [ALICE, "4,Dave,,never", "4,Dave,,at no time"]
    assert refused("2,4,1,5", users=users) == [("user_id", "user 4 is in quarantine itself (users.csv, line 3)")]


def test_a_compound_that_is_in_quarantine_itself_is_named_with_its_line() -> None:
    compounds = [*COMPOUND_LINES, "4,W\x00ter,H2O"]
    assert refused("2,1,1;4,5", compounds=compounds) == [
        ("experiment_compound_ids", "compound 4 is in quarantine itself (compounds.csv, line 5)")
    ]


def test_large_ids_in_quarantine_are_told_apart() -> None:
    users = [ALICE, "x,Nobody,,2023-01-01", f"{2**62 + 1},Zoe,,never"]
    assert refused(f"2,{2**62},1,5", users=users) == [("user_id", f"user {2**62} is not in users.csv")]


def test_a_user_whose_first_row_is_bad_and_whose_second_is_good_is_known() -> None:
    result = load("1,4,1,5", users=["4,Dave,,never", "4,Dave,,2023-04-01"])
    assert rows(result.user_experiments) == [(1, 4, 5.0)]


def test_a_row_with_several_faults_is_one_record_with_all_of_them_in_the_order_of_the_columns() -> None:
    assert refused("x,99,1:3;98,-1") == [
        ("experiment_id", "not a whole number"),
        ("user_id", "user 99 is not in users.csv"),
        ("experiment_compound_ids", "`1:3` is no compound id: ids are separated by `;`"),
        ("experiment_compound_ids", "compound 98 is not in compounds.csv"),
        ("experiment_run_time", ">= 0"),
    ]


def test_an_empty_row_lacks_all_that_is_required() -> None:
    (record,) = load("1,1,1,1", ",,,").user_experiments.records
    assert faults(record) == [(name, "required") for name in EXPERIMENTS.columns]
    assert record.raw == {"text": ",,,", **dict.fromkeys(EXPERIMENTS.columns)}


def test_a_repeated_id_in_a_list_counts_once_and_is_counted() -> None:
    result = load("1,1,2;1;2;2,5", "2,1,1,5", "3,1,1;1,x")
    assert rows(result.experiment_compounds) == [(1, 1), (1, 2), (2, 1)]
    assert result.repeated_compound_ids == 2
    assert result.experiment_compounds.deduplicated == 2
    assert [record.source[-1] for record in result.user_experiments.records] == ["4"]


def test_a_repeated_key_with_the_same_values_is_left_out_and_counted() -> None:
    result = load(
        "1,1,1;2,5", " 01, +1, 2;1;1, 5.0", users=[ALICE, ALICE, f" {ALICE} "], compounds=["1,,", "1, ,"] * 2 + ["2,,"]
    )
    assert rows(result.users) == [(1, "Alice", "alice@example.com", date(2023, 1, 1))]
    assert (result.users.deduplicated, list(result.users.records)) == (2, [])
    assert (result.compounds.deduplicated, list(result.compounds.records)) == (3, [])
    assert (result.user_experiments.deduplicated, list(result.user_experiments.records)) == (1, [])
    assert rows(result.experiment_compounds) == [(1, 1), (1, 2)]
    assert (result.experiment_compounds.deduplicated, result.repeated_compound_ids) == (3, 0)


@pytest.mark.parametrize("second", ["1,2,1;2,5", "1,1,1;2,6", "1,1,1;3,5", "1,1,1,5", "1,1,1;2;3,5"])
def test_a_repeated_key_with_other_values_is_rejected(second: str) -> None:
    result = load("1,1,1;2,5", second, "1,1,2;1,5")
    (record,) = result.user_experiments.records
    assert record.source == "user_experiments.csv, line 3"
    assert record.faults == (Fault("experiment_id", "line 2 has this experiment_id with other values", "1"),)
    assert rows(result.user_experiments) == [(1, 1, 5.0)]
    assert result.user_experiments.deduplicated == 1


@pytest.mark.parametrize("other", ["1,Alicia,alice@example.com,2023-01-01", "1,,alice@example.com,2023-01-01"])
def test_a_blank_cell_is_another_value_than_one_that_is_not(other: str) -> None:
    result = load(users=[ALICE, other])
    assert faults(result.users.records[0]) == [("user_id", "line 2 has this user_id with other values")]
    assert faults(load(users=[other, ALICE]).users.records[0]) == faults(result.users.records[0])


def test_the_first_row_of_a_key_without_another_fault_is_the_one_that_is_loaded() -> None:
    result = load("1,1,1,x", "1,1,2,5", "1,1,1,y", "1,1,3,5", "1,1,2,5")
    assert rows(result.user_experiments) == [(1, 1, 5.0)]
    assert rows(result.experiment_compounds) == [(1, 2)]
    assert [(record.source[-1], faults(record)) for record in result.user_experiments.records] == [
        ("2", [("experiment_run_time", "not a number")]),
        (
            "4",
            [
                ("experiment_id", "line 3 has this experiment_id with other values"),
                ("experiment_run_time", "not a number"),
            ],
        ),
        ("5", [("experiment_id", "line 3 has this experiment_id with other values")]),
    ]
    assert result.user_experiments.deduplicated == 1


def test_repeated_keys_are_found_over_different_batches() -> None:
    lines = ["5,1,1,5", "1,1,1,5", "5,1,2,5", "3,1,1,5", "1,1,1,5", "5,1,1,x", "4,1,1,5", "3,1,1,5"]
    result = load(*lines, sizes=(2, 1, 2))
    assert [row[0] for row in rows(result.user_experiments)] == [1, 3, 4, 5]
    other = ("experiment_id", "line 2 has this experiment_id with other values")
    assert [(record.source[-1], faults(record)) for record in result.user_experiments.records] == [
        ("4", [other]),
        ("7", [other, ("experiment_run_time", "not a number")]),
    ]
    assert result.user_experiments.deduplicated == 2


def test_many_batches_in_any_order_are_merged_into_key_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transform, "ROWS_AT_ONCE", 7)
    order = np.random.default_rng(4).permutation(100).tolist()
    lines = [f"{at},1,{at % 3 + 1},{at}" for at in order] + [f"{at},2,1,1" for at in order]
    result = load(*lines, sizes=[9] * 20)
    assert rows(result.user_experiments) == [(at, 1, float(at)) for at in range(100)]
    assert rows(result.experiment_compounds) == [(at, at % 3 + 1) for at in range(100)]
    assert [fault.rule for record in result.user_experiments.records for fault in record.faults] == [
        f"line {line} has this experiment_id with other values" for line in range(2, 102)
    ]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: load(users=["1,A,,yesterday", "x"]),
            "no row of users.csv can be loaded, for example line 2: signup_date `yesterday`: not a date (YYYY-MM-DD);"
            " nothing was changed",
        ),
        (
            lambda: load(compounds=["A,1"]),
            f"no row of compounds.csv can be loaded, for example line 2: the line `A,1`: {SHORT}; nothing was changed",
        ),
        (
            lambda: load("1,1,,5", "1,2,9,5"),
            "no row of user_experiments.csv can be loaded, for example line 2: experiment_compound_ids ``: required;"
            " nothing was changed",
        ),
        (
            lambda: load(users=[]),
            "users.csv has its header and no user below it: put the users there; nothing was changed",
        ),
        (
            lambda: load(compounds=[]),
            "compounds.csv has its header and no compound below it: put the compounds there; nothing was changed",
        ),
    ],
)
def test_a_file_that_has_nothing_to_load_is_refused(call: Callable[[], Loaded], words: str) -> None:
    with pytest.raises(RejectedFile, match=f"^{re.escape(words)}$"):
        call()


@pytest.mark.parametrize("experiments", [[], [batch(EXPERIMENTS, [])]])
def test_there_may_be_no_experiments(experiments: list[Batch]) -> None:
    result = loaded([batch(USERS, [ALICE])], [batch(COMPOUNDS, COMPOUND_LINES)], experiments)
    for split, contract in (
        (result.user_experiments, UserExperiments),
        (result.experiment_compounds, ExperimentCompounds),
    ):
        assert split.valid.schema.equals(arrow_schema(contract))
        assert (split.valid.num_rows, list(split.records), split.deduplicated) == (0, [], 0)


# Small pools, so that keys meet: every fault is planted, and so is what looks like one and is none.
KEYS = st.sampled_from(["1", "2", "3", " 2", "+3", "x", ""])
USER_LINES = st.one_of(
    st.tuples(KEYS, st.sampled_from(["A", "B", ""]), st.just("@"), st.sampled_from(["2023-01-01", "2023-02-30", ""])),
    st.just(("no row",)),
).map(",".join)
COMPOUND_ROWS = st.tuples(KEYS, st.sampled_from(["A", "B", "\x00"]), st.just("")).map(",".join)
LISTS = st.lists(st.sampled_from(["1", "2", "3", " 1", "1:3", ""]), max_size=3).map(";".join)
EXPERIMENT_LINES = st.one_of(
    st.tuples(KEYS, KEYS, LISTS, st.sampled_from(["1", "1.0", "2", "-1", "x", ""])),
    st.just(("no row",)),
).map(",".join)
SIZES = st.lists(st.integers(0, 4), max_size=5)


class Oracle:
    """The rules once more, row by row.

    Attributes:
        rows: of each key the values of its row.
        found: the faults by line.
        same: how many rows say what another one says, and how many ids their lists name.
    """

    def __init__(self) -> None:
        self.rows: dict[int, tuple[Any, ...]] = {}
        self.found: dict[int, list[tuple[str, str]]] = {}
        self.same, self.same_named, self.named = 0, 0, 0
        self._lines: dict[int, int] = {}
        self._lost: dict[int, int] = {}

    def take(
        self,
        file: CsvFile,
        lines: Sequence[str],
        judge: Callable[[list[str]], tuple[list[Any], list[tuple[str, str]], int]],
    ) -> "Oracle":
        key_name = file.columns[0]
        for number, line in enumerate(lines, start=2):
            cells = [cell.strip() for cell in line.split(",")]
            if len(cells) != len(file.columns):
                self.found[number] = [("", SHORT)]
                continue
            key, key_faults = integer(cells[0], key_name)
            values, more, named = judge(cells[1:])
            found = key_faults + more
            if found and key is not None:
                self._lost.setdefault(key, number)
            if key in self.rows and (found or self.rows[key] != tuple(values)):
                rule = f"line {self._lines[key]} has this {key_name} with other values"
                found = [(key_name, rule), *found]
            elif key in self.rows:
                self.same, self.same_named = self.same + 1, self.same_named + named
            elif not found and key is not None:
                self.rows[key], self._lines[key], self.named = tuple(values), number, self.named + named
            if found:
                self.found[number] = found
        return self

    def why_not(self, noun: str, file: str, key: int) -> str:
        if key in self._lost:
            return f"{noun} {key} is in quarantine itself ({file}, line {self._lost[key]})"
        short = [number for number, found in self.found.items() if found == [("", SHORT)]]
        lines = f"{len(short)} {'line' if len(short) == 1 else 'lines'} cannot be read (line {min(short, default=0)}: {SHORT})"
        return f"{noun} {key} is not in {file}" + (f", of which {lines}" if short else "")


def integer(cell: str, name: str) -> tuple[int | None, list[tuple[str, str]]]:
    try:
        return int(cell), []
    except ValueError:
        return None, [(name, "not a whole number" if cell else "required")]


def judged_user(cells: list[str]) -> tuple[list[Any], list[tuple[str, str]], int]:
    name, email, day = cells
    found = [] if day == "2023-01-01" else [("signup_date", "not a date (YYYY-MM-DD)" if day else "required")]
    return [name or None, email, date(2023, 1, 1)], found, 0


def judged_compound(cells: list[str]) -> tuple[list[Any], list[tuple[str, str]], int]:
    return [cells[0], None], [("compound_name", "no NUL")] if cells[0] == "\x00" else [], 0


def judged_experiment(
    users: Oracle, compounds: Oracle
) -> Callable[[list[str]], tuple[list[Any], list[tuple[str, str]], int]]:
    def judge(cells: list[str]) -> tuple[list[Any], list[tuple[str, str]], int]:
        user, found = integer(cells[0], "user_id")
        if user is not None and user not in users.rows:
            found.append(("user_id", users.why_not("user", "users.csv", user)))
        ids, rules = [], []
        for element in cells[1].split(";"):
            number, broken = integer(element.strip(), "")
            ids.append(number)
            if broken and element.strip():
                rules.append(f"`{element}` is no compound id: ids are separated by `;`")
            elif broken:
                rules.append("a compound id is blank: ids are separated by `;`" if cells[1] else "required")
            elif number not in compounds.rows:
                assert number is not None
                rules.append(compounds.why_not("compound", "compounds.csv", number))
        found += [("experiment_compound_ids", rule) for rule in dict.fromkeys(rules)]
        try:
            run_time = float(cells[2])
            found += [] if run_time >= 0 else [("experiment_run_time", ">= 0")]
        except ValueError:
            run_time = 0.0
            found.append(("experiment_run_time", "not a number" if cells[2] else "required"))
        return [user, run_time, frozenset(ids)], found, len(ids)

    return judge


def expected(split: Split[pa.Table], file: CsvFile) -> dict[int, list[tuple[str, str]]]:
    """The faults of the records of a file by line."""
    return {int(r.source.removeprefix(f"{file.name}, line ")): faults(r) for r in split.records}


@settings(max_examples=30)
@given(
    st.lists(USER_LINES, max_size=6).map(lambda lines: [ALICE, *lines]),
    st.lists(COMPOUND_ROWS, max_size=6).map(lambda lines: ["1,A,", *lines]),
    st.lists(EXPERIMENT_LINES, max_size=12).map(lambda lines: ["1,1,1,1", *lines]),
    SIZES,
)
def test_every_row_is_judged_as_a_plain_reading_of_the_rules_judges_it(
    users: list[str], compounds: list[str], experiments: list[str], sizes: list[int]
) -> None:
    known_users = Oracle().take(USERS, users, judged_user)
    known_compounds = Oracle().take(COMPOUNDS, compounds, judged_compound)
    known = Oracle().take(EXPERIMENTS, experiments, judged_experiment(known_users, known_compounds))
    result = load(*experiments, users=users, compounds=compounds, sizes=sizes)
    files = (
        (USERS, users, result.users, known_users),
        (COMPOUNDS, compounds, result.compounds, known_compounds),
        (EXPERIMENTS, experiments, result.user_experiments, known),
    )
    for file, lines, split, oracle in files:
        assert expected(split, file) == oracle.found
        assert split.deduplicated == oracle.same
        assert len(lines) == split.valid.num_rows + split.deduplicated + len(split.rejected)
    assert rows(result.users) == [(key, *known_users.rows[key]) for key in sorted(known_users.rows)]
    assert rows(result.compounds) == [(key, *known_compounds.rows[key]) for key in sorted(known_compounds.rows)]
    assert rows(result.user_experiments) == [(key, *known.rows[key][:2]) for key in sorted(known.rows)]
    pairs = [(key, compound) for key in sorted(known.rows) for compound in sorted(known.rows[key][2])]
    assert rows(result.experiment_compounds) == pairs
    assert result.repeated_compound_ids == known.named - len(pairs)
    assert result.experiment_compounds.deduplicated == result.repeated_compound_ids + known.same_named


@settings(max_examples=15)
@given(st.lists(EXPERIMENT_LINES, max_size=12).map(lambda lines: ["3,1,1,1", *lines]), SIZES)
def test_several_batches_give_the_same_as_one(lines: list[str], sizes: list[int]) -> None:
    one, several = load(*lines), load(*lines, sizes=sizes)
    for name in ("user_experiments", "experiment_compounds"):
        whole, parts = getattr(one, name), getattr(several, name)
        assert parts.valid.equals(whole.valid)
        assert list(parts.records) == list(whole.records)
        assert parts.deduplicated == whole.deduplicated
    assert several.repeated_compound_ids == one.repeated_compound_ids
