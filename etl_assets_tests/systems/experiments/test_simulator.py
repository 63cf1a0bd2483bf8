"""The files that stand for the source of the experiments: what is in them, in every layout, and never half of one."""

import csv
import hashlib
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any, get_args

import pytest

from etl_assets.systems.experiments import simulator as experiments
from etl_assets.systems.experiments.local import LayoutName
from etl_assets.systems.experiments.simulator import (
    COLUMNS,
    COMPOUNDS,
    EXPERIMENTS,
    LAYOUTS,
    USERS,
    Layout,
    Style,
    Written,
    write_files,
)

GIVEN = Path(__file__).parents[3].parent / "shared/data/experiments/comma-tab-lf"
Rows = dict[int, list[str]]  # by line


def rows(path: Path) -> Rows:
    """The cells of each line that is not blank, header included, the plain way: any separator, white space trimmed."""
    lines = path.read_bytes().decode("utf-8-sig").split("\n")
    return {number: cells(line) for number, line in enumerate(lines, start=1) if line.strip()}


def cells(line: str) -> list[str]:
    found = next(csv.reader([line])) if '"' in line else re.split(r"\s*,\s*|\t", line.rstrip())
    return [cell.strip() for cell in found]


def contents(folder: Path) -> dict[str, str]:
    """The files in the folder and below, also under names that are hidden."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def data(path: Path) -> list[list[str]]:
    """The rows without the header."""
    return list(rows(path).values())[1:]


def test_by_default_the_files_are_in_the_manner_of_the_real_ones(tmp_path: Path) -> None:
    written = write_files(tmp_path)
    assert (written.users, written.experiments) == (tmp_path / USERS, tmp_path / EXPERIMENTS)
    assert written.compounds == tmp_path / COMPOUNDS
    for name, header in COLUMNS.items():
        text = (tmp_path / name).read_bytes()
        assert text.startswith((b"\n" if name == USERS else b"") + ",\t".join(header).encode() + b"\n1,\t")
        assert not text.endswith(b"\n")
        assert b"\r" not in text
        if GIVEN.exists():
            real = (GIVEN / name).read_bytes()
            assert [line[:3] for line in text.splitlines()[:3]] == [line[:3] for line in real.splitlines()[:3]]
            assert real.splitlines()[: 1 + (name == USERS)] == text.splitlines()[: 1 + (name == USERS)]


@pytest.mark.parametrize("faults", [False, True], ids=["good", "with faults"])
@pytest.mark.parametrize("block", [2, 30, 1_000])
def test_the_numbers_are_those_asked_for_whatever_is_written_at_once(
    block: int, faults: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments, "_AT_ONCE", block)
    written = write_files(tmp_path, users=30, experiments=100, compounds=50, faults=faults)
    assert len(written.faults) == 11 * faults
    for path, number in ((written.users, 30), (written.experiments, 100), (written.compounds, 50)):
        planted = {fault.line for fault in written.faults if fault.file == path.name}
        good = [int(row[0]) for line, row in list(rows(path).items())[1:] if line not in planted]
        assert good == list(range(1, number + 1))
        assert len(data(path)) == number + len(planted)


def test_people_dates_compounds_and_times_are_plausible(tmp_path: Path) -> None:
    written = write_files(tmp_path)
    for number, name, email, signup in data(written.users):
        first, last = name.split(" ")
        assert re.fullmatch(rf"[a-z]+\.[a-z]+\.{number}@example\.com", email)
        assert (email[0], email.split(".")[1][0]) == (first[0].lower(), last[0].lower())
        assert date(2022, 1, 15) <= date.fromisoformat(signup) <= date(2024, 1, 15)
    late = [row for row in data(written.users) if row[3] > "2023-12-31"]
    assert 0 < len(late) < 20
    assert [row[1] for row in data(written.compounds)[24:28]] == [
        f"Compound {letters}" for letters in ("Y", "Z", "AA", "AB")
    ]
    assert all(re.fullmatch(r"C\d+H\d+(N[2-4]?)?(O[2-6]?)?", row[2]) for row in data(written.compounds))
    lists = [row[2].split(";") for row in data(written.experiments)]
    assert {len(ids) for ids in lists} == {1, 2, 3, 4, 5}
    assert {int(id_) for ids in lists for id_ in ids} == set(range(1, 41))
    times = [float(row[3]) for row in data(written.experiments)]
    assert 0 <= min(times) < 10 < 60 < max(times) < 300


def test_one_user_in_ten_has_no_experiment(tmp_path: Path) -> None:
    counts = Counter(int(row[1]) for row in data(write_files(tmp_path, experiments=4_000).experiments))
    assert set(counts) < set(range(1, 201))
    assert 20 <= 200 - len(counts) < 30


@pytest.mark.parametrize("compounds", [1, 40, 100_000])
def test_pairs_and_repeated_ids_are_told(compounds: int, tmp_path: Path) -> None:
    written = write_files(tmp_path, users=3, experiments=2_000, compounds=compounds, layout="comma-lf")
    lists = [row[2].split(";") for row in data(written.experiments)]
    assert written.pairs == sum(len(set(ids)) for ids in lists)
    assert written.repeated_compound_ids == sum(len(ids) - len(set(ids)) for ids in lists) > 0


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    found = [contents(write_files(tmp_path / str(at), seed=seed).users.parent) for at, seed in enumerate((5, 5, 6))]
    assert found[0] == found[1]
    assert all(found[0][name] != found[2][name] for name in COLUMNS)


def test_more_users_leave_the_compounds_as_they_are(tmp_path: Path) -> None:
    few, many = (write_files(tmp_path / str(users), users=users) for users in (200, 300))
    assert few.compounds.read_bytes() == many.compounds.read_bytes()


MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("layout", "header", "line", "ends"),
    [
        ("comma-tab-lf", b"\nuser_id,\tname,\temail,\tsignup_date\n", rb"2,\t[^\t,]+,\t[^\t,]+,\t[-\d]+\n", rb"\d"),
        ("comma-lf", b"user_id,name,email,signup_date\n", rb"2,[^\t,]+,[^\t,]+,[-\d]+\n", rb"\d\n"),
        ("comma-crlf", b"user_id,name,email,signup_date\r\n", rb"2,[^\t,]+,[^\t,]+,[-\d]+\r\n", rb"\d\r\n"),
        ("tab-lf", b"user_id\tname\temail\tsignup_date\n", rb"2\t[^\t,]+\t[^\t,]+\t[-\d]+\n", rb"\d\n"),
        (
            "bom-crlf",
            MARK + b"\r\nuser_id,name,email,signup_date\r\n",
            rb"2,[^\t,]+,[^\t,]+,[-\d]+\r\n",
            rb"\d\r\n",
        ),
        (
            "quoted-tab",
            b'"user_id","\tname","\temail","\tsignup_date"\n',
            rb'"2","\t[^\t,]+","\t[^\t,]+","\t[-\d]+"\n',
            rb'\d"\n',
        ),
        (
            "mixed",
            b"\nuser_id,name,email,signup_date\n1\t",
            rb'"2","\t[^\t,]+","\t[^\t,]+","\t[-\d]+"\n3 , [^\t,]+ , [^\t,]+ , [-\d]+ \t\n4,\t',
            rb"\d\n",
        ),
    ],
)
def test_a_layout_is_as_its_name_says(layout: str, header: bytes, line: bytes, ends: bytes, tmp_path: Path) -> None:
    text = write_files(tmp_path, users=5, experiments=5, layout=layout).users.read_bytes()
    assert text.startswith(header)
    assert re.search(rb"\n" + line, text)
    assert re.search(ends + rb"\Z", text)


def test_lines_are_in_the_styles_of_a_layout_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    styles = (Style(";", "\r\n"), Style("|"), Style("/", "\r\r\r"))
    monkeypatch.setattr(experiments, "LAYOUTS", {"alternating": Layout(styles, blank_line=True, ended=False)})
    for users, ends in ((1, rb"\d"), (2, rb"\r\r\r2;[^;]+;[^;]+;[-\d]+\d"), (3, rb"\r\n3\|[^|]+\|[^|]+\|[-\d]+\d")):
        text = write_files(tmp_path, users=users, experiments=0, layout="alternating").users.read_bytes()
        assert text.startswith(b"\r\nuser_id|name|email|signup_date\n1/")
        assert re.search(ends + rb"\Z", text)


@pytest.mark.parametrize("faults", [False, True], ids=["good", "with faults"])
def test_every_layout_has_the_same_rows(faults: bool, tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    for layout in LAYOUTS:
        written = write_files(tmp_path / layout, users=50, experiments=300, layout=layout, faults=faults)
        found[layout] = [list(rows(tmp_path / layout / name).values()) for name in COLUMNS]
        assert [len(table) - 1 for table in found[layout]] == [50 + 2 * faults, 300 + 7 * faults, 40 + faults]
        assert len(written.faults) == 11 * faults
    assert all(tables == found["comma-lf"] for tables in found.values())


def test_every_layout_has_a_name_that_the_command_takes() -> None:
    assert get_args(LayoutName) == tuple(LAYOUTS)


def faults_of(file: str, row: dict[str, str], *, users: int, compounds: int) -> Iterator[tuple[str, str]]:
    """Columns and kinds of what is wrong with a row by itself."""
    if file == USERS:
        try:
            date.fromisoformat(row["signup_date"])
        except ValueError:
            yield "signup_date", "no date"
    if file == EXPERIMENTS:
        if int(row["user_id"]) > users:
            yield "user_id", "unknown user"
        ids = row["experiment_compound_ids"].split(";")
        if not all(id_.isdigit() for id_ in ids):
            yield "experiment_compound_ids", "other separator"
        elif any(int(id_) > compounds for id_ in ids):
            yield "experiment_compound_ids", "unknown compound"
        if not re.fullmatch(r"-?[\d.]+", row["experiment_run_time"]):
            yield "experiment_run_time", "run time is no number"
        elif float(row["experiment_run_time"]) < 0:
            yield "experiment_run_time", "negative run time"


@pytest.mark.parametrize("experiments", [1, 3, 500])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_planted_faults_and_no_others_are_in_the_lines_and_columns_told(
    layout: str, experiments: int, tmp_path: Path
) -> None:
    written = write_files(tmp_path, users=20, experiments=experiments, compounds=9, layout=layout, faults=True)
    found = set()
    for file, columns in COLUMNS.items():
        keys: dict[str, list[str]] = {}
        for line, row in list(rows(tmp_path / file).items())[1:]:
            named = dict(zip(columns, row, strict=True))
            found |= {(file, line, *fault) for fault in faults_of(file, named, users=20, compounds=9)}
            if keys.setdefault(row[0], row) != row:
                found.add((file, line, columns[0], "repeated key"))
    assert {(fault.file, fault.line, fault.column, fault.kind) for fault in written.faults} == found
    assert len(written.faults) == len(found)
    assert {fault.kind for fault in written.faults} == {
        "no date",
        "repeated key",
        "other separator",
        "unknown user",
        "unknown compound",
        "negative run time",
        "run time is no number",
    }


def test_without_the_planted_rows_the_rest_is_what_is_written_without_faults(tmp_path: Path) -> None:
    good, bad = write_files(tmp_path / "good"), write_files(tmp_path / "bad", faults=True)
    planted = {(fault.file, fault.line) for fault in bad.faults}
    assert len(planted) == 10
    for name in COLUMNS:
        rest = [row for line, row in rows(tmp_path / "bad" / name).items() if (name, line) not in planted]
        assert rest == list(rows(tmp_path / "good" / name).values())
    assert (good.pairs, good.repeated_compound_ids) == (bad.pairs, bad.repeated_compound_ids)
    ids = [row[0] for row in data(bad.experiments)]
    assert [id_ for id_, times in Counter(ids).items() if times > 1] == ["1"]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"layout": "semicolon"}, "no layout 'semicolon': known are comma-tab-lf, comma-lf,"),
        ({"users": -1}, "no number is below 0"),
        ({"users": 0}, "at least one user"),
        ({"compounds": 0}, "one compound"),
        ({"experiments": 0, "faults": True}, "repeated keys, which need"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_written(
    numbers: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        write_files(tmp_path / "new", **numbers)
    assert not (tmp_path / "new").exists()


def test_files_of_no_rows_have_a_header(tmp_path: Path) -> None:
    written = write_files(tmp_path, users=0, experiments=0, compounds=0, layout="comma-lf")
    for path in (written.users, written.experiments, written.compounds):
        assert path.read_text() == ",".join(COLUMNS[path.name]) + "\n"


def test_a_failure_in_the_middle_leaves_the_files_as_they_were_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path)
    before = contents(tmp_path)
    whole = experiments._compounds

    def broken(*args: Any) -> Iterator[Sequence[Any]]:
        yield from whole(*args)
        raise RuntimeError("no more")

    monkeypatch.setattr(experiments, "_compounds", broken)
    with pytest.raises(RuntimeError, match="no more"):
        write_files(tmp_path, seed=7)
    assert contents(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} == set(COLUMNS)


@pytest.mark.long
def test_a_process_that_is_killed_while_it_writes_leaves_the_files_as_they_were(tmp_path: Path) -> None:
    write_files(tmp_path)
    before = contents(tmp_path)
    code = (
        "from pathlib import Path; from etl_assets.systems.experiments.simulator import write_files;"
        f" write_files(Path({str(tmp_path)!r}), experiments=10**9)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code])
    try:
        end = time.monotonic() + 60
        while not any(path.stat().st_size for path in tmp_path.glob(f".*/{EXPERIMENTS}")):
            assert writer.poll() is None
            assert time.monotonic() < end
            time.sleep(0.005)
    finally:
        writer.kill()
    assert writer.wait() == -signal.SIGKILL
    assert {name: hash_ for name, hash_ in contents(tmp_path).items() if not name.startswith(".")} == before


def test_a_rewrite_leaves_whole_files_of_the_new_seed(tmp_path: Path) -> None:
    for seed in (1, 2):
        written: Written = write_files(tmp_path / "again", seed=seed)
    write_files(tmp_path / "new", seed=2)
    assert contents(written.users.parent) == contents(tmp_path / "new")


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "etl_assets.cli", "simulate", "experiments", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.long
def test_the_command_writes_the_files_and_tells_where_the_faults_are(tmp_path: Path) -> None:
    folder = tmp_path / "by command"
    sizes = ["--users", "7", "--experiments", "1200", "--compounds", "5", "--seed", "3"]
    ran = command(str(folder), *sizes, "--layout", "tab-lf", "--faults")
    assert (ran.returncode, ran.stderr) == (0, "")
    written = write_files(
        tmp_path / "by call", users=7, experiments=1_200, compounds=5, seed=3, layout="tab-lf", faults=True
    )
    assert contents(folder) == contents(tmp_path / "by call")
    assert ran.stdout.splitlines() == [
        f"{folder / USERS}: 7 rows without a fault",
        f"{folder / EXPERIMENTS}: 1,200 rows without a fault",
        f"{folder / COMPOUNDS}: 5 rows without a fault",
        *(f"{fault.file}, line {fault.line}, {fault.column}: {fault.kind}" for fault in written.faults),
    ]


@pytest.mark.long
def test_the_command_refuses_a_folder_that_is_a_file(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    ran = command(str(taken))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == f"error: cannot write to {taken} (File exists): give a folder that can be written to\n"
    assert taken.read_text() == "mine"
