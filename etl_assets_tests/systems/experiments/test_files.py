"""The three CSV files: the same data in any layout, every line accounted for, and a file that is none refused by name."""

import gzip
import io
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from etl_assets.systems.experiments.source import (
    COMPOUNDS,
    EXPERIMENTS,
    LONGEST_LINE,
    USERS,
    WHITE,
    Batch,
    CsvFile,
    RejectedFile,
    Unreadable,
    batches,
)
from etl_assets_tests.systems.experiments.layouts import LAYOUTS, SAMPLE, write

REAL = Path(__file__).parents[3] / "../shared/data/experiments/comma-tab-lf"
FILES = (USERS, EXPERIMENTS, COMPOUNDS)
ABC = CsvFile("abc.csv", ("a", "b", "c"))
WHOLE = 2**20  # a block that holds the files here, and one that most lines do not fit in
TINY = 5
MANY = 510  # lines that are split in bulk

Cells = list[tuple[str | None, ...]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "abc.csv"


def cells(read: list[Batch]) -> Cells:
    """The cells of all rows, without line numbers."""
    return [tuple(row.values())[1:] for batch in read for row in batch.rows.to_pylist()]


def lines(read: list[Batch]) -> list[int]:
    return [line for batch in read for line in batch.rows["line"].to_pylist()]


def texts(read: list[Batch]) -> list[str]:
    return [batch.block.text(line) for batch in read for line in batch.rows["line"].to_pylist()]


def unreadable(read: list[Batch]) -> list[Unreadable]:
    return [line for batch in read for line in batch.unreadable]


def read(path: Path, content: str | bytes, file: CsvFile = ABC, block_bytes: int = WHOLE) -> list[Batch]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(batches(path, file, block_bytes=block_bytes))


def refusal(path: Path, content: bytes | None = None, file: CsvFile = ABC) -> str:
    """Why a file is refused, behind its path, before any batch of it is there."""
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RejectedFile) as refused:
        next(batches(path, file))
    assert str(refused.value).startswith(str(path))
    return str(refused.value).removeprefix(str(path))


# Layouts


@pytest.mark.parametrize("block_bytes", [1, 7, WHOLE])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_data_are_read_from_any_layout(tmp_path: Path, layout: str, block_bytes: int) -> None:
    write(tmp_path, layout)
    for file in FILES:
        got = list(batches(tmp_path / file.name, file, block_bytes=block_bytes))
        assert cells(got) == list(SAMPLE[file.name][1])
        assert unreadable(got) == []
        assert {batch.rows.schema for batch in got} == {
            pa.schema([("line", pa.int64()), *((column, pa.string()) for column in file.columns)])
        }


@pytest.mark.skipif(not REAL.is_dir(), reason="the real files are not beside this checkout")
def test_the_real_files_are_read() -> None:
    users, experiments, compounds = (list(batches(REAL / file.name, file)) for file in FILES)
    assert cells(users)[0] == ("1", "Alice", "alice@example.com", "2023-01-01")
    assert cells(users)[-1] == ("10", "Judy", "judy@example.com", "2023-10-01")
    assert lines(users) == list(range(3, 13))  # behind a blank line and the header
    assert texts(users)[0] == "1,\tAlice,\talice@example.com,\t2023-01-01"
    assert cells(experiments)[4] == ("5", "4", "1;2;3", "30")
    assert cells(compounds)[2] == ("3", "Compound C", "C8H11NO2")
    assert unreadable(users + experiments + compounds) == []


LETTERS = st.characters(codec="utf-8", exclude_characters='\0,\t"\r\n')
HARD_LETTERS = LETTERS | st.sampled_from(',,\t"')


def a_table(letters: st.SearchStrategy[str], columns: int) -> st.SearchStrategy[list[list[str | None]]]:
    text = st.text(letters, min_size=1, max_size=12).map(lambda cell: cell.strip(WHITE))
    row = st.tuples(text.filter(bool), *[st.none() | text.map(lambda cell: cell or None)] * (columns - 1)).map(list)
    return st.lists(row, max_size=8)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_table_reads_back_from_any_layout_with_its_line_numbers_and_its_lines(path: Path, data: Any) -> None:
    layout = data.draw(st.sampled_from(sorted(LAYOUTS)))
    letters = HARD_LETTERS if layout.startswith("quoted") else LETTERS
    rows = data.draw(a_table(letters, 3)) * data.draw(st.sampled_from([1, 1, 1, MANY]))
    content = LAYOUTS[layout](ABC.columns, rows)
    got = read(
        path, content, block_bytes=data.draw(st.sampled_from([3, 64, WHOLE]) if len(rows) < 9 else st.just(WHOLE))
    )
    written = re.split("\r\n|\r|\n", content.decode("utf-8-sig"))
    with_text = [(number, line) for number, line in enumerate(written, start=1) if line.strip(WHITE)]
    assert cells(got) == [tuple(row) for row in rows]
    assert unreadable(got) == []
    assert list(zip(lines(got), texts(got), strict=True)) == with_text[1:]


PARTS = [",", "\t", ",\t", " ", '"', '""', '"x,y"', '"\tz"', '"a""b"', " \t , ", "\t" * 10, " " * 9]
PARTS += ["x", "7", "é", "\xa0", "\x1c", "\v", "\udcff"]
HEADERS = ["a,b,c", "a\tb\tc", "a,\tb,\tc", "a,b\tc", "a\tb\tc\t\t", "a,b,c,,", "a,b\tc\t", "a,b,c,d", "a\tb\tc\td"]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(HEADERS),
    st.lists(st.lists(st.sampled_from(PARTS), max_size=9).map("".join), min_size=1, max_size=20),
)
def test_lines_mean_the_same_in_bulk_and_one_by_one(path: Path, header: str, messy: list[str]) -> None:
    messy = messy * (MANY // len(messy) + 1)
    content = "\n".join([header, *messy]).encode("utf-8", "surrogateescape")
    bulk, single = read(path, content), read(path, content, block_bytes=400)
    assert len(bulk) == 1
    assert cells(bulk) == cells(single)
    assert lines(bulk) == lines(single)
    assert unreadable(bulk) == unreadable(single)


# Lines


@pytest.mark.parametrize(
    ("header", "line", "expected"),
    [
        ("a,b,c", "1,\tx,\t y ", ("1", "x", "y")),
        ("a,b,c", "1,x y,z", ("1", "x y", "z")),
        ("a,b,c", "1,x\ty,z", ("1", "x\ty", "z")),  # three cells only by the commas: the TAB is text
        ("a\tb\tc", "1\tx, y\tz", ("1", "x, y", "z")),
        ("a,b,c", "1\tx, y\tz", ("1", "x, y", "z")),  # only TABs give three
        ("a\tb\tc", "1,x\ty,z\tw", ("1,x", "y,z", "w")),  # by commas and by TABs three: the header's own way
        ("a,b,c", "1,x\ty,z\tw", ("1", "x\ty", "z\tw")),
        ("a,b,c", "1\tx,\ty", ("1", "x", "y")),
        ("a\tb\tc", "1\t\ty", ("1", None, "y")),
        ("a\tb\tc", "\tx\ty", (None, "x", "y")),
        ("a\tb\tc", "1\tx\t", ("1", "x", None)),
        ("a,b,c", "1,,", ("1", None, None)),
        ("a,b,c", ",,", (None, None, None)),
        ("a,b,c", "1,x,y,, \t,", ("1", "x", "y")),
        ("a,b,c", '1,"x, ""y""",z', ("1", 'x, "y"', "z")),
        ("a,b,c", ' "1" ,\t"\t x\t" , "" ', ("1", "x", None)),
        ("a\tb\tc", '"1"\t"x\ty"\t"\t"', ("1", "x\ty", None)),
        ("a,b,c", '1,5" pipe,6"', ("1", '5" pipe', '6"')),  # marks inside of a cell are text
        ("a,b,c", "1,\xa0x\u3000,\v\f", ("1", "x", None)),
        ("a,b,c", "1,x\0y,z", ("1", "x\0y", "z")),
        ("a,b,c", "1,'x','y'", ("1", "'x'", "'y'")),
        ("a,b,c", '1,"x, y","z"', ("1", "x, y", "z")),
        ("a,b,c", '1,"x\x1c, y",z', ("1", "x\x1c, y", "z")),
        ("a\tb\tc", "\t\t1,x,y", ("1", "x", "y")),
        ("a,b\tc\t", "\t1,x,", ("1", "x", None)),
        ("a,b,c", '1\t"x,y"\t"z,w"', ("1", "x,y", "z,w")),  # by commas three as well, but with TABs in them
    ],
)
@pytest.mark.parametrize("times", [1, MANY])
def test_a_line_is_split_by_the_rules(
    path: Path, header: str, line: str, expected: tuple[str | None, ...], times: int
) -> None:
    padding = "\n" * 4096 if "\0" in line else ""  # a zero byte in the beginning means binary
    assert cells(read(path, "\n".join([header + padding, *[line] * times]))) == [expected] * times


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("1,x", "2 cells where the header has 3"),
        ("1", "1 cell where the header has 3"),
        ("1,x,y,z", "4 cells where the header has 3"),
        ('1,x,"y', "the quotation mark that opens cell 3 is not closed in its line"),
        ('1,"x" y,z', "text follows the closed quotation mark of cell 2"),
        ('1,"x,y,z', "the quotation mark that opens cell 2 is not closed in its line"),
        ('1,"x\ty"', "2 cells where the header has 3"),
        ('1,"\tx"', "2 cells where the header has 3"),
        ("1\t,x", "2 cells where the header has 3"),
        ("1,\tx", "2 cells where the header has 3"),
        (f"1,{' ' * 9}\tx", "2 cells where the header has 3"),
        ("1,\xe9\xe9,y", None),
    ],
)
def test_a_line_that_is_no_row_is_reported_with_its_number_its_text_and_why(
    path: Path, line: str, rule: str | None
) -> None:
    encoding = "utf-8" if rule else "latin-1"
    for times in (1, MANY):
        got = read(path, f"a,b,c\n1,x,y\n\n{f'{line} {chr(10)}' * times}2,x,y".encode(encoding))
        text = f"{line} " if rule else "1,\\xe9\\xe9,y "
        why = (
            rule
            or "the line is not UTF-8 text: byte 3 of it is 0xe9, in Windows-1252 the letter é; save the file as UTF-8"
        )
        assert unreadable(got) == [Unreadable(4 + place, text, why) for place in range(times)]
        assert lines(got) == [2, 4 + times]
        assert texts(got) == ["1,x,y", "2,x,y"]


@pytest.mark.parametrize("times", [1, MANY])
def test_only_blank_cells_are_surplus(path: Path, times: int) -> None:
    got = read(path, "a,b,c,,\n1,x,y, ,\n" + "2,x,y,z,\n" * times)
    assert cells(got) == [("1", "x", "y")]
    assert [line.rule for line in unreadable(got)] == ["4 cells where the header has 3"] * times


def test_lines_are_numbered_as_an_editor_numbers_them_whatever_ends_them(path: Path) -> None:
    got = read(path, "\r\n\ra,b,c\r\n1,x,y\n\n\r\r\n2,x,y\r3,x\x0cy\x85\u2028,z\r\n \t\r\n4,x,y")
    assert lines(got) == [4, 8, 9, 11]
    assert texts(got) == ["1,x,y", "2,x,y", "3,x\x0cy\x85\u2028,z", "4,x,y"]


def test_a_block_may_end_in_the_middle_of_a_line_its_end_or_a_character(path: Path) -> None:
    content = '\ufeff\r\na,b,c\r\n1,\u00e9,\u20ac\r\n\r\n2,\U0001f600,"\u00e9\r3,x,y\r4,z'.encode()
    expected = [("1", "\u00e9", "\u20ac"), ("3", "x", "y")]
    for block_bytes in range(1, len(content) + 1):
        got = read(path, content, block_bytes=block_bytes)
        assert cells(got) == expected
        assert lines(got) == [3, 6]
        assert [(line.line, line.text) for line in unreadable(got)] == [(5, '2,\U0001f600,"\u00e9'), (7, "4,z")]


def test_a_batch_is_about_as_large_as_asked_for(path: Path) -> None:
    got = read(path, "a,b,c\n" + "1,x,y\n" * 5000, block_bytes=1000)
    assert sum(len(batch.rows) for batch in got) == 5000
    assert max(len(batch.block.data) for batch in got) < 1006


def test_a_line_longer_than_a_block_is_read(path: Path) -> None:
    long = "x" * 10_000
    assert cells(read(path, f"a,b,c\n1,{long},y\n2,x,{long}", block_bytes=TINY)) == [("1", long, "y"), ("2", "x", long)]


@pytest.mark.parametrize("filler", [" ", "\t", " \t", '"', '""', ',\t"'])
def test_a_line_of_very_many_special_characters_is_read_in_linear_time(path: Path, filler: str) -> None:
    got = read(path, f"a,b,c\n1,x{filler * 100_000}z,y\n2,x,{filler * 100_000}\n3,x,y", block_bytes=4 * WHOLE)
    assert cells(got)[-1] == ("3", "x", "y")
    assert len(cells(got)) + len(unreadable(got)) == 3


@pytest.mark.parametrize("end", ["", "\n3,x,y"])
def test_a_file_without_line_ends_is_refused_before_it_fills_the_memory(path: Path, end: str) -> None:
    path.write_text("a,b,c\n1,x,y\n2,x," + "y" * LONGEST_LINE + end)
    with pytest.raises(RejectedFile, match=re.escape(f"{path}, line 3 is longer than 16 MiB")):
        list(batches(path, ABC, block_bytes=1_000_000))


# Headers


@pytest.mark.parametrize(
    "header",
    [
        "a,b,c",
        " A ,\tB,\tc\t",
        "a\tb\tc",
        "a,b\tc",
        '"a","\tb"\t"C"',
        "a,b,c,,",
        "\ufeffa,b,c",
        "\n \t\n\xa0\r\n\ra,b,c",
        '\ufeff\n"a",b,c',
    ],
)
def test_a_header_is_found_however_it_is_written(path: Path, header: str) -> None:
    assert cells(read(path, f"{header}\n1,x,y")) == [("1", "x", "y")]


def test_columns_come_in_any_order_and_others_are_ignored(path: Path) -> None:
    got = read(path, "note,c,note,A,,b\nn,3,n,1,n,2\nn,3\n")
    assert cells(got) == [("1", "2", "3")]
    assert [line.rule for line in unreadable(got)] == ["2 cells where the header has 6"]


@pytest.mark.parametrize("content", ["a,b,c", "a,b,c\n", "\n\na,b,c\r\n\r\n"])
def test_a_header_alone_is_one_batch_without_rows(path: Path, content: str) -> None:
    (got,) = read(path, content)
    assert got.rows.column_names == ["line", "a", "b", "c"]
    assert len(got.rows) == len(got.unreadable) == 0


def test_a_missing_column_is_named_with_those_that_are_there(path: Path) -> None:
    assert refusal(path, b"\nuser_id,\tname,\tmail\n1,\tx,\ty\n", USERS) == (
        ", line 2: the header has no column email, signup_date, it has 'user_id', 'name', 'mail': add what is missing"
    )


def test_a_file_without_a_header_is_refused(path: Path) -> None:
    assert ", line 1: the header has no column a, b, c, it has '1', 'x', 'y'" in refusal(path, b"1,x,y\n2,x,y\n")


@pytest.mark.parametrize("separator", ";|")
def test_a_file_of_another_separator_names_it(path: Path, separator: str) -> None:
    content = separator.join(("user_id", '"name"', "email", "Signup_Date")) + "\n"
    assert refusal(path, content.encode(), USERS) == (
        f", line 1: the header separates its cells by `{separator}`: save the file with commas or TABs in that place"
    )


@pytest.mark.parametrize("hint", ["sep=;", "SEP=,\r"])
def test_the_hint_of_a_separator_is_named(path: Path, hint: str) -> None:
    assert refusal(path, f"\ufeff{hint}\na,b,c\n1,x,y\n".encode()) == (
        f", line 1: the header is a hint for Excel, `{hint[:5].lower()}`: delete the line, and separate cells by commas or TABs"
    )


def test_a_column_that_occurs_twice_is_named(path: Path) -> None:
    assert refusal(path, b"a,b,B,c\n1,x,y,z\n") == (
        ", line 1: the header has the column b more than once: leave one of them"
    )


def test_a_header_in_another_encoding_is_refused(path: Path) -> None:
    assert refusal(path, "a,b,c,größe\n".encode("latin-1")) == (
        ", line 1: the header is not UTF-8 text: byte 9 of it is 0xf6, in Windows-1252 the letter ö; save the file as UTF-8"
    )


def test_a_header_whose_quotation_mark_is_not_closed_is_refused(path: Path) -> None:
    assert refusal(path, b'"a,b,c\n1,x,y\n') == (
        ", line 1: the header cannot be read: the quotation mark that opens cell 1 is not closed in its line"
    )


# Files that are none


def test_a_missing_file_is_refused(path: Path) -> None:
    assert refusal(path) == " is missing: put the file there, or name the folder that has it"


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == " is a folder: put the CSV file itself there"


def test_a_pipe_is_refused_and_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    assert refusal(path) == " is no regular file: put the CSV file itself there"


@contextmanager
def as_somebody_without_rights() -> Iterator[None]:
    """The superuser may read everything; whoever else runs the tests has no right that the file does not give."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_file_that_may_not_be_read_is_refused(path: Path) -> None:
    path.write_bytes(b"a,b,c\n1,x,y\n")
    path.chmod(0)
    with as_somebody_without_rights():
        assert refusal(path) == " cannot be opened (Permission denied): make it readable for this process"


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="there is no file here that fails when it is read")
def test_a_disk_that_fails_is_reported_with_the_file() -> None:
    reason = refusal(Path("/proc/self/mem"))
    assert reason == " cannot be read to its end (Input/output error): copy it there again"


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(path: Path, content: bytes) -> None:
    assert refusal(path, content) == " is empty: put the CSV file there, it has a header at least"


@pytest.mark.parametrize("content", ["\n", "\r\n \t\r\n", "\ufeff\n\xa0\n", " ", "\n" * 100_000])
def test_a_file_of_blank_lines_is_refused(path: Path, content: str) -> None:
    assert refusal(path, content.encode()) == " has only blank lines: it needs the header a, b, c"


def zipped(*, name: str) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(name, "a,b,c\n1,x,y\n")
    return archive.getvalue()


def empty_zip() -> bytes:
    archive = io.BytesIO()
    zipfile.ZipFile(archive, "w").close()
    return archive.getvalue()


def as_parquet() -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table({"a": [1], "b": ["x"], "c": ["y"]}), file)
    return file.getvalue()


TEXT = "a,b,c\n1,x,y\n"


@pytest.mark.parametrize(
    ("content", "looks_like", "remedy"),
    [
        (zipped(name="abc.csv"), "a ZIP archive or an Excel workbook", "extract it, or export the sheet as CSV"),
        (empty_zip(), "an empty ZIP archive", "put the CSV file itself there"),
        (gzip.compress(TEXT.encode()), "a gzip archive", "extract it"),
        (as_parquet(), "a parquet file", "export it as CSV"),
        (b"%PDF-1.7\n", "a PDF document", "export the table as CSV"),
        (TEXT.encode("utf-16"), "text in UTF-16", "save it as UTF-8"),
        (TEXT.encode("utf-32"), "text in UTF-32", "save it as UTF-8"),
        (TEXT.encode("utf-16-le"), "text in UTF-16 (byte 1 is zero)", "save it as UTF-8"),
        (TEXT.encode("utf-16-be"), "text in UTF-16 (byte 0 is zero)", "save it as UTF-8"),
        (b"a,b,c\n\x001,x,y\n", "binary data (byte 6 is zero)", "put the CSV file there"),
    ],
    ids=["zip", "empty zip", "gzip", "parquet", "PDF", "UTF-16", "UTF-32", "UTF-16, LE", "UTF-16, BE", "zero byte"],
)
def test_what_is_no_text_is_refused_with_what_it_looks_like_and_what_to_do(
    path: Path, content: bytes, looks_like: str, remedy: str
) -> None:
    assert refusal(path, content) == f" is no CSV file, it looks like {looks_like}: {remedy}"


# Rows that are hurt, in a file that is not


def test_of_a_file_cut_in_the_middle_of_a_line_the_whole_lines_are_read(path: Path) -> None:
    write(path.parent, "comma and TAB")
    whole = (path.parent / USERS.name).read_bytes()
    got = read(path, whole[: whole.index(b"judy@")], USERS)
    assert cells(got) == list(SAMPLE[USERS.name][1][:2])
    assert [(line.line, line.rule) for line in unreadable(got)] == [(4, "3 cells where the header has 4")]


def test_a_file_in_another_encoding_gives_the_lines_that_are_ascii(path: Path) -> None:
    content = "\n".join(["a,b,c", *[f"{number},Zoë,y" if number % 2 else f"{number},x,y" for number in range(MANY)]])
    got = read(path, content.encode("cp1252"))
    assert len(cells(got)) == len(unreadable(got)) == MANY // 2
    why = "the line is not UTF-8 text: byte 5 of it is 0xeb, in Windows-1252 the letter ë; save the file as UTF-8"
    assert unreadable(got)[0] == Unreadable(3, "1,Zo\\xeb,y", why)


def test_two_columns_that_change_places_in_the_file_do_not_change_their_meaning(path: Path) -> None:
    assert cells(read(path, "c,a,b\ny,1,x\n")) == cells(read(path, "a,b,c\n1,x,y\n"))


def test_a_file_with_a_second_file_behind_it_has_the_header_as_a_row(path: Path) -> None:
    got = read(path, "a,b,c\n1,x,y\na,b,c\n2,x,y\n")
    assert cells(got) == [("1", "x", "y"), ("a", "b", "c"), ("2", "x", "y")]
