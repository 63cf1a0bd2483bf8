"""The faults that can reach the files, the clock and the process of a load, by name, each with its stated outcome.

Those of its database are in `test_database_faults`. What a layout, a cell or a key can be hurt by is tested in `test_files`
and `test_transform`, what the sensor does after a failure in `test_automation`.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.errors import DagsterExecutionInterruptedError

from etl_assets.cli import run
from etl_assets.core.slices.writing import write
from etl_assets.errors import TransientError
from etl_assets.systems import experiments
from etl_assets.systems.experiments import source, transform
from etl_assets.systems.experiments.checks import every_user_has_features
from etl_assets.systems.experiments.source import ExperimentFolder, RejectedFile
from etl_assets_tests.systems.experiments.test_assets import judged
from etl_assets_tests.systems.experiments.test_automation import Sensor
from etl_assets_tests.systems.experiments.test_script import FEATURES, NEW_YEARS_EVE
from etl_assets_tests.systems.experiments.world import EXPERIMENTS, HEADERS, USERS, World, write_sample
from etl_assets_tests.systems.outages.runs import QUIET, attempts

# The last and the first days that there are, and the ids at the edges.
LATEST, EARLIEST = date.max, date.min
LARGEST, SMALLEST = 2**63 - 1, -(2**63)


def load(world: World, as_of: date = NEW_YEARS_EVE) -> Any:
    return experiments.load(world.folder, as_of=as_of, database=world.database)


def told(world: World) -> dict[str, list[tuple[str, str, str | None]]]:
    """Column, rule and raw text of each fault, by the line that has it."""
    return {
        source: [(fault["column"], fault["rule"], fault["raw"]) for fault in json.loads(faults)]
        for _, source, faults in world.quarantine()
    }


# Files: what is in them

HOSTILE = [
    "Robert'); DROP TABLE experiments.users; --",
    "=cmd|'/c calc'!A1",
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "\\N",
    "NULL",
    "\\copy \\. \\x00",
    "%s %(id)s {0} ${HOME} $1",
    "<script>alert(1)</script>",
    "\u202egnirts desrever",
    "\u200f\u05e9\u05dc\u05d5\u05dd\u200f",
    "two\u2028lines\u2029and\x85more\x0band\x0cmore\x1eand",
    "e\u0301 is not \u00e9",
    "\U0001f9ea \U0010ffff \ufffd",
    "\x01\x07\x1b[31mred\x7f",
    "x" * 1_000_000,
]


def test_hostile_text_is_stored_as_it_is_and_does_nothing(world: World) -> None:
    users = [f"{number},{text},{text},2023-01-01" for number, text in enumerate(HOSTILE, start=1)]
    compounds = [f"{number},{text},{text}" for number, text in enumerate(HOSTILE, start=1)]
    world.rewrite(users=users, compounds=compounds)
    done = load(world)
    tables = world.tables()
    assert [(row[1], row[2]) for row in tables["users"]] == [(text, text) for text in HOSTILE]
    assert [(row[1], row[2]) for row in tables["compounds"]] == [(text, text) for text in HOSTILE]
    assert done.quarantined == 0


NOT_AN_ID, NO_DATE = "not a whole number", "not a date (YYYY-MM-DD)"
HURT_USERS = {
    f"{LARGEST + 1},beyond,,2023-01-01": ("user_id", "not an integer of 64 bits", str(LARGEST + 1)),
    "\uff11\uff12,full-width digits,,2023-01-01": ("user_id", NOT_AN_ID, "\uff11\uff12"),
    "\u200b7,zero width,,2023-01-01": ("user_id", NOT_AN_ID, "\u200b7"),
    "\ufeff8,a mark amid the file,,2023-01-01": ("user_id", NOT_AN_ID, "\ufeff8"),
    "9; DROP TABLE users,x,,2023-01-01": ("user_id", NOT_AN_ID, "9; DROP TABLE users"),
    "10,no date,,2023-02-29": ("signup_date", NO_DATE, "2023-02-29"),
    "11,no date,,2100-02-29": ("signup_date", NO_DATE, "2100-02-29"),
    "13,with a time,,2023-01-01T00:00+14:00": ("signup_date", NO_DATE, "2023-01-01T00:00+14:00"),
    "14,short,2023-01-01": ("", "3 cells where the header has 4", "14,short,2023-01-01"),
    "15,long,,2023-01-01,x": ("", "5 cells where the header has 4", "15,long,,2023-01-01,x"),
    '16,"open,,2023-01-01': (
        "",
        "the quotation mark that opens cell 2 is not closed in its line",
        '16,"open,,2023-01-01',
    ),
    "=======": ("", "1 cell where the header has 4", "======="),
}


def test_each_hurt_row_is_in_quarantine_with_what_hurts_it_and_the_others_load(world: World) -> None:
    rows = [*USERS, *HURT_USERS]
    # A NUL at the beginning of a file is taken for a binary file; a later one hurts its row.
    filler = [f"{number},{'x' * 1000},,2023-01-01" for number in range(100, 106)]
    text = "\n".join([HEADERS["users.csv"], *rows, *filler, "17,N\0L,,2023-01-01", "18,Zo"]).encode()
    (world.folder / "users.csv").write_bytes(text + b"\xeb,,2023-01-01\n")
    load(world)
    expected = {f"users.csv, line {line}": [fault] for line, fault in enumerate(HURT_USERS.values(), start=5)}
    assert told(world) == {
        **expected,
        "users.csv, line 23": [("name", "no NUL", "N\0L")],
        "users.csv, line 24": [
            (
                "",
                "the line is not UTF-8 text: byte 6 of it is 0xeb, in Windows-1252 the letter ë; save the file as UTF-8",
                "18,Zo\\xeb,,2023-01-01",
            ),
        ],
    }
    assert len(world.tables()["users"]) == 3 + len(filler)
    assert world.tables()["user_features"][:3] == FEATURES


@pytest.mark.long
def test_a_cell_of_ten_megabytes_is_stored_and_in_quarantine_it_is_kept_whole(world: World) -> None:
    text = "x" * 10_000_000
    world.rewrite(users=[*USERS, f"4,{text},,2023-01-01", f"5,{text},,soon"])
    assert load(world).quarantined == 1
    assert world.query("SELECT length(name) FROM experiments.users WHERE user_id = 4") == [(len(text),)]
    assert world.raw()["users.csv, line 6"]["name"] == text


@pytest.mark.long
def test_a_list_of_a_million_ids_loads_or_names_its_first_faults(world: World) -> None:
    world.rewrite(
        experiments=[f"1,1,{';'.join(['1'] * 1_000_000)},10", f"2,1,{';'.join(map(str, range(1_000_000)))},10"]
    )
    assert load(world).repeated_compound_ids == 999_999
    assert world.tables()["experiment_compounds"] == [(1, 1)]
    (faults,) = told(world).values()
    assert len(faults) == 11
    assert faults[0][:2] == ("experiment_compound_ids", "compound 0 is not in compounds.csv")
    assert faults[-1][:2] == ("experiment_compound_ids", "and 999987 more faults of this kind")


@pytest.mark.long
def test_of_run_times_whose_sum_is_beyond_all_numbers_the_features_are_in_quarantine(world: World) -> None:
    world.rewrite(experiments=["1,1,1,1e308", "2,1,1,1e308", "3,2,1,1e308"])
    assert load(world).quarantined == 1
    assert [row[0] for row in world.tables()["user_features"]] == [2, 3]
    ((asset, _, _),) = world.quarantine()
    assert asset == "experiments.user_features"
    (faults,) = told(world).values()
    assert faults == [("total_run_time", "finite", "inf"), ("mean_run_time", "finite", "inf")]
    assert judged(every_user_has_features, world) == (False, 2)


def test_of_a_file_cut_in_the_middle_of_a_line_the_rest_loads_and_the_whole_file_puts_it_right(world: World) -> None:
    path = world.folder / "user_experiments.csv"
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"2;1,4")])
    load(world)
    assert told(world) == {"user_experiments.csv, line 5": [("", "3 cells where the header has 4", "4,2,1;")]}
    assert [row[0] for row in world.tables()["user_experiments"]] == [1, 2, 3]
    path.write_bytes(whole)
    assert load(world).quarantined == 0
    assert world.tables()["user_features"] == FEATURES


@pytest.mark.long
def test_a_file_cut_inside_its_last_cell_looks_whole_and_the_whole_file_puts_it_right(world: World) -> None:
    # Nothing tells 15 from the beginning of 15.5: that is why the sensor waits until the files stay as they are.
    path = world.folder / "user_experiments.csv"
    world.rewrite(experiments=EXPERIMENTS[:2])
    path.write_bytes(path.read_bytes()[:-2])
    assert load(world).quarantined == 0
    assert world.tables()["user_experiments"][-1] == (2, 1, 15.0)
    world.rewrite()
    load(world)
    assert world.tables()["user_features"] == FEATURES


# Files: what happens to them


def replaced(path: Path) -> None:
    """Another file in its place: of the same size, with the same time."""
    before = path.stat()
    other = path.with_name("new")
    other.write_bytes(path.read_bytes().replace(b"Alice", b"Alina"))
    other.replace(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def grown(path: Path) -> None:
    with path.open("a") as file:
        file.write("\n4,Dave,,2023-01-01")


def removed(path: Path) -> None:
    path.unlink()


CHANGES: dict[Callable[[Path], None], tuple[type[Exception], str]] = {
    replaced: (TransientError, "users.csv in .* changed while it was read, nothing was changed in the tables"),
    grown: (TransientError, "users.csv in .* changed while it was read"),
    removed: (RejectedFile, r"users\.csv is missing \(there is: compounds\.csv, user_experiments\.csv\)"),
}


@pytest.mark.parametrize("moment", ["before it is read", "while another is read"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_file_that_changes_under_a_load_stops_it_before_a_table_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], moment: str
) -> None:
    folder = ExperimentFolder(write_sample(tmp_path / "files"))
    owner, name = (source, "_digest") if moment == "before it is read" else (transform, "_pairs")
    original: Callable[..., Any] = getattr(owner, name)
    hurt: list[Path] = []

    def changing(*args: Any) -> Any:
        found = original(*args)
        if not hurt and (name != "_digest" or args[0].name == "users.csv"):
            hurt.append(folder.path / "users.csv")
            change(hurt[0])
        return found

    monkeypatch.setattr(owner, name, changing)
    error, message = CHANGES[change]
    with pytest.raises(error, match=message):
        folder.read()
    assert len(hurt) == 1


def test_a_pipe_in_the_folder_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    folder = write_sample(tmp_path / "files")
    (folder / "users.csv").unlink()
    os.mkfifo(folder / "users.csv")
    with pytest.raises(RejectedFile, match=r"users\.csv is no regular file: put the CSV file itself there"):
        ExperimentFolder(folder).content()


def test_a_link_is_read_as_what_it_leads_to_and_is_missing_where_that_is_nowhere(tmp_path: Path) -> None:
    store, folder = write_sample(tmp_path / "store"), tmp_path / "links"
    folder.mkdir()
    for path in store.iterdir():
        (folder / path.name).symlink_to(path)
    rows, _ = ExperimentFolder(folder).read()
    assert rows.users.valid.num_rows == 3
    (store / "users.csv").unlink()
    with pytest.raises(RejectedFile, match=r"users\.csv is missing"):
        ExperimentFolder(folder).read()


@pytest.mark.long
def test_other_files_in_the_folder_are_left_alone(world: World) -> None:
    for name in ("users.csv.bak", ".users.csv.tmp", "users.csv~", "users (1).csv"):
        (world.folder / name).write_bytes(b"\0half")
    load(world)
    assert world.tables()["user_features"] == FEATURES


# Time


def test_the_first_and_the_last_day_and_the_ids_at_the_edges_load_and_have_features(world: World) -> None:
    world.rewrite(
        users=[f"{SMALLEST},First,,{EARLIEST}", f"{LARGEST},Last,,{LATEST}", "29,Leap,,2000-02-29"],
        experiments=[f"{SMALLEST},{LARGEST},{SMALLEST};{LARGEST},0.5", f"{LARGEST},{SMALLEST},{LARGEST},1"],
        compounds=[f"{SMALLEST},a,", f"{LARGEST},b,"],
    )
    for day in (EARLIEST, LATEST):
        assert load(world, as_of=day).quarantined == 0
    found = {(user, as_of): rest for user, as_of, *rest in world.tables()["user_features"]}
    all_days = (LATEST - EARLIEST).days
    assert found[SMALLEST, LATEST] == [1, 1.0, 1.0, all_days, False, str(LARGEST), 1]
    assert found[LARGEST, EARLIEST] == [1, 0.5, 0.5, 0, True, f"{SMALLEST};{LARGEST}", 1]
    assert found[29, LATEST][3] == (LATEST - date(2000, 2, 29)).days
    assert [found[user, day][4] for user, day in ((SMALLEST, EARLIEST), (LARGEST, LATEST))] == [False, False]


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets the zone that this process takes for the local one."""

    def set_zone(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield set_zone
    monkeypatch.undo()
    time.tzset()


@pytest.mark.long
@pytest.mark.parametrize("name", ["UTC-14", "UTC+12"])
def test_today_is_the_day_in_utc_wherever_the_process_runs(
    world: World, zone: Callable[[str], None], name: str
) -> None:
    # At any moment it is another day in one of the two zones.
    zone(name)
    days = [f"{datetime.now(UTC):%Y-%m-%d}"]
    done = experiments.load(world.folder, database=world.database)
    days.append(f"{datetime.now(UTC):%Y-%m-%d}")
    assert done.as_of.isoformat() in days
    assert world.query("SELECT DISTINCT as_of::text FROM experiments.user_features") == [(done.as_of.isoformat(),)]


@pytest.mark.long
def test_over_a_leap_day_and_the_turn_of_a_year_days_are_counted_one_by_one(world: World) -> None:
    world.rewrite(users=["1,A,,2023-12-31", "2,B,,2024-02-29"], experiments=[])
    days = [date(2023, 12, 31), date(2024, 1, 1), date(2024, 2, 28), date(2024, 2, 29), date(2024, 3, 1)]
    for day in [*days, date(2025, 2, 28), date(2025, 3, 1)]:
        load(world, as_of=day)
    found = world.query(
        "SELECT array_agg(days_since_signup ORDER BY user_id), array_agg(signup_in_future ORDER BY user_id)"
        " FROM experiments.user_features GROUP BY as_of ORDER BY as_of"
    )
    assert [counts for counts, _ in found] == [[0, 0], [1, 0], [59, 0], [60, 0], [61, 1], [425, 365], [426, 366]]
    assert [future for _, future in found] == [[False, True]] * 3 + [[False, False]] * 4


# Process


@pytest.mark.long
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_load_that_is_interrupted_leaves_whole_tables_and_the_next_one_is_right(
    world: World, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    calls: list[Any] = []

    def interrupted(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == number:
            raise KeyboardInterrupt
        return write(*args)

    with monkeypatch.context() as stopped:
        stopped.setattr("etl_assets.systems.experiments.script.write", interrupted)
        assert run(["experiments", "load", str(world.folder), "--as-of", "2023-12-31"]) == 130
    whole = {"users": 3, "compounds": 3, "user_experiments": 4, "experiment_compounds": 7, "user_features": 3}
    assert all(len(rows) in (0, whole[name]) for name, rows in world.tables().items())
    assert len(world.tables()["users"]) == (3 if number > 1 else 0)
    load(world)
    assert {name: len(rows) for name, rows in world.tables().items()} == whole
    assert world.tables()["user_features"] == FEATURES


@pytest.fixture
def sensor(definitions: dg.Definitions, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Sensor:
    return Sensor(definitions, instance, monkeypatch)


def ended(sensor: Sensor, request: dg.RunRequest | str, how: dg.DagsterRunStatus) -> dg.DagsterRun:
    """A run that was asked for, as if it had come so far."""
    assert isinstance(request, dg.RunRequest), request
    job = sensor.definitions.resolve_job_def("experiments_job")
    tags = {**request.tags, "dagster/run_key": str(request.run_key)}
    return sensor.instance.create_run_for_job(job, status=how, tags=tags)


def test_no_run_key_comes_again_though_older_runs_of_the_same_files_are_forgotten(sensor: Sensor) -> None:
    runs: list[dg.DagsterRun] = []
    for forgotten in (False, False, True):
        if forgotten:
            sensor.instance.delete_run(runs[0].run_id)
        runs.append(ended(sensor, sensor.tick(), dg.DagsterRunStatus.SUCCESS))
    assert len({run.tags["dagster/run_key"] for run in runs}) == 3


def test_after_a_run_that_was_cancelled_the_files_are_asked_for_again_under_another_key(sensor: Sensor) -> None:
    first = ended(sensor, sensor.tick(), dg.DagsterRunStatus.CANCELING)
    # It may still write.
    assert sensor.tick() == "a run of experiments_job is queued or running"
    sensor.instance.report_run_canceled(first)
    second = ended(sensor, sensor.tick(), dg.DagsterRunStatus.STARTED)
    assert second.tags["dagster/run_key"] != first.tags["dagster/run_key"]


@pytest.mark.long
@pytest.mark.parametrize("number", [1, 3, 5])
def test_a_step_that_is_interrupted_is_tried_again_and_stores_nothing_twice(
    world: World,
    instance: dg.DagsterInstance,
    definitions: dg.Definitions,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    calls: list[Any] = []

    def interrupted(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == number:
            raise DagsterExecutionInterruptedError
        return write(*args)

    monkeypatch.setattr("etl_assets.core.dagster.io_managers.write", interrupted)
    monkeypatch.setattr(dg.RetryPolicy, "calculate_delay", lambda *_: 0.001)
    result = definitions.resolve_job_def("experiments_job").execute_in_process(
        instance=instance, partition_key="2023-12-31", run_config=dict(QUIET), raise_on_error=False
    )
    assert result.success
    assert attempts(result, "user_features" if number == 5 else "experiment_tables") == 2
    assert world.tables()["user_features"] == FEATURES
    # What was stored before the interruption is met again, and found as it should be.
    again = number - 1 if number < 5 else 0
    assert len(world.ledger()) == 5 + again
    assert [sum(row[place] for row in world.ledger()) for place in (2, 3, 4)] == [3 + 3 + 4 + 7 + 3, 0, 0]
