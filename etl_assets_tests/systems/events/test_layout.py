"""The rows of a file: every line accounted for, traps read as what they are, and a file that is none refused by what it is."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl_assets.core.contracts import Fault, Record, Split
from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.contracts.validation import split_arrow
from etl_assets.systems.events.contracts import RawEvents
from etl_assets.systems.events.files import FileRejected, file_name, verified
from etl_assets.systems.events.format import RAW_COLUMNS, READERS, cast, raw_events, valid_events
from etl_assets_tests.systems.events.event_files import fields, row, rows
from etl_assets_tests.systems.events.layout_model import Expected, expected, expected_valid
from etl_assets_tests.systems.events.raw_rows import INTERVAL, SHARED_FILE, needs_shared_file, shared_table

NAME = file_name(INTERVAL)
ID = "global_event_id"
TYPES = {"int": pa.int64(), "float": pa.float64(), "date": pa.date32(), "timestamp": pa.timestamp("us", "UTC")}


def read(data: bytes) -> Split[pa.Table]:
    """The rows of a file; each of its lines is a row, rejected, or has given way."""
    parts = raw_events(data, interval=INTERVAL)
    lines = data.count(b"\n") + (data[-1:] not in (b"", b"\n"))
    assert lines == parts.valid.num_rows + len(parts.rejected) + parts.deduplicated
    assert parts.valid.schema.equals(arrow_schema(RawEvents), check_metadata=True)
    parts.valid.validate(full=True)
    return parts


def kept(data: bytes) -> Split[pa.Table]:
    """The rows of a file that keep the contract; each of its lines is a row, rejected, or has given way."""
    parts = valid_events(data, interval=INTERVAL)
    lines = data.count(b"\n") + (data[-1:] not in (b"", b"\n"))
    assert lines == parts.valid.num_rows + len(parts.rejected) + parts.deduplicated
    assert parts.valid.schema.equals(arrow_schema(RawEvents), check_metadata=True)
    return parts


def value(column: str, text: str) -> Any:
    """What a field is read as."""
    return read(row(**{column: text})).valid[column].to_pylist()[0]


def rejected(*bad: bytes) -> list[Record]:
    """The records of lines amid good ones; these begin at line 4."""
    parts = read(rows(3) + b"".join(bad) + rows(len(bad), first=10))
    assert parts.valid[ID].to_pylist() == [817930293, 817930294, 817930295, *range(817930303, 817930303 + len(bad))]
    return parts.rejected


def refusal(data: bytes) -> FileRejected:
    with pytest.raises(FileRejected) as refused:
        raw_events(data, interval=INTERVAL)
    assert str(refused.value).startswith(f"{NAME}: ")
    return refused.value


# What is read


@needs_shared_file
def test_the_real_file_is_read_without_a_fault() -> None:
    parts = read(verified(SHARED_FILE, interval=INTERVAL).content)
    assert parts.valid.num_rows == 1629
    assert parts.valid[ID][0].as_py() == 817930293
    assert (parts.rejected, parts.deduplicated) == ([], 0)
    assert parts.valid.to_pydict() == shared_table().to_pydict()
    assert split_arrow(RawEvents, parts.valid).rejected == []


def test_the_first_line_is_an_event() -> None:
    assert read(rows(2)).valid[ID].to_pylist() == [817930293, 817930294]


def test_a_row_has_the_interval_and_its_fields_as_what_they_are() -> None:
    event = read(row()).valid.to_pylist()[0]
    assert event["file_interval"] == INTERVAL
    assert event["sql_date"] == date(2018, 1, 21)  # a year before it was added
    assert event["date_added"] == datetime(2019, 1, 21, 22, tzinfo=UTC)
    assert event["avg_tone"] == -0.75872534142641
    assert event["num_mentions"] == 8
    assert event["actor2_name"] is None
    assert event["source_url"] == "https://example.com/report"


@pytest.mark.parametrize("code", ["043", "0231", "01", "NA", "nan", "NULL", "837279", "-1234", " ", '"', '"a', "é😀"])
def test_text_stays_as_it_is_in_every_column(code: str) -> None:
    columns = [name for name, kind in RAW_COLUMNS.items() if kind == "text"]
    event = read(row(**dict.fromkeys(columns, code))).valid.to_pylist()[0]
    assert {event[name] for name in columns} == {code}


def test_an_empty_field_is_null_in_every_column() -> None:
    columns = [name for name in RAW_COLUMNS if name != ID]
    valid = read(b"".join(row(number, **{name: ""}) for number, name in enumerate(columns))).valid
    assert [valid[name][number].as_py() for number, name in enumerate(columns)] == [None] * 60


def test_a_row_whose_fields_but_the_id_are_all_empty_is_a_row() -> None:
    event = read(b"7" + b"\t" * 60).valid.to_pylist()[0]
    assert {name for name, cell in event.items() if cell is not None} == {"file_interval", ID}


@pytest.mark.parametrize(
    ("text", "number"),
    [("65", 65.0), ("-4", -4.0), ("0", 0.0), ("-0.5", -0.5), (".5", 0.5), ("6.", 6.0), ("5.55E-17", 5.55e-17),
     ("1e2", 100.0), ("2E+1", 20.0), ("1e-999", 0.0), ("91", 91.0)],
)  # fmt: skip
def test_a_latitude_may_be_written_as_any_number(text: str, number: float) -> None:
    assert value("action_geo_lat", text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("-3", -3), ("007", 7), ("9223372036854775807", 2**63 - 1), ("-9223372036854775808", -(2**63)),
     ("00000000000000000000000000001", 1)],
)  # fmt: skip
def test_a_whole_number_has_64_bits(text: str, number: int) -> None:
    assert value("num_mentions", text) == number


@pytest.mark.parametrize("data", [rows(2), rows(2)[:-1]])
def test_the_last_row_needs_no_line_feed(data: bytes) -> None:
    parts = read(data)
    assert parts.valid.num_rows == 2
    assert parts.valid["source_url"].to_pylist() == ["https://example.com/report"] * 2


def test_a_file_without_a_byte_has_no_rows() -> None:
    assert read(b"").valid.num_rows == 0


def test_of_rows_with_one_id_the_last_stays_where_it_is() -> None:
    data = row(1, event_code="010") + row(2) + row(1, event_code="020") + row(3) + row(1, event_code="030") + row(0)
    parts = read(data)
    assert parts.valid[ID].to_pylist() == [817930295, 817930296, 817930294, 817930293]
    assert parts.valid["event_code"].to_pylist() == ["043", "043", "030", "043"]
    assert (parts.deduplicated, parts.rejected) == (2, [])


def test_a_bad_row_does_not_take_the_place_of_a_good_one_with_its_id() -> None:
    for bad in ({"year": "x"}, {"action_geo_lat": "95"}):
        parts = kept(rows(3) + row(0, event_code="020", **bad))
        assert parts.valid[ID].to_pylist() == [817930293, 817930294, 817930295]
        assert parts.valid["event_code"].to_pylist() == ["043"] * 3
        assert ([record.source for record in parts.rejected], parts.deduplicated) == ([f"{NAME}, line 4"], 0)


def test_a_bad_row_is_a_record_though_a_good_one_with_its_id_follows() -> None:
    for bad in ({"year": "x"}, {"action_geo_lat": "95"}):
        parts = kept(row(1, **bad) + row(1, event_code="020") + row(1, event_code="030"))
        assert parts.valid["event_code"].to_pylist() == ["030"]
        assert ([record.source for record in parts.rejected], parts.deduplicated) == ([f"{NAME}, line 1"], 1)


def test_ids_need_not_be_in_order() -> None:
    assert read(row(5) + row(3) + row(4)).valid[ID].to_pylist() == [817930298, 817930296, 817930297]


# Rows that are rejected


@pytest.mark.parametrize(
    ("column", "text", "rule"),
    [
        (ID, "", "required"),
        (ID, "x", "not a whole number"),
        ("year", "2019.0", "not a whole number"),
        ("year", " 2019", "not a whole number"),
        ("year", "2019 ", "not a whole number"),
        ("year", "+2019", "not a whole number"),
        ("year", "2_019", "not a whole number"),
        ("year", "0x7E3", "not a whole number"),
        ("year", "\u0662\u0660\u0661\u0669", "not a whole number"),
        ("year", "-", "not a whole number"),
        ("year", "NA", "not a whole number"),
        ("year", "9223372036854775808", "not an integer of 64 bits"),
        ("year", "-9223372036854775809", "not an integer of 64 bits"),
        ("year", "9" * 5000, "not a whole number"),
        ("action_geo_lat", "nan", "not a number"),
        ("action_geo_lat", "inf", "not a number"),
        ("action_geo_lat", "-Infinity", "not a number"),
        ("action_geo_lat", "1e999", "not a number"),
        ("action_geo_lat", "40,8", "not a number"),
        ("action_geo_lat", " 40.8", "not a number"),
        ("action_geo_lat", "+40.8", "not a number"),
        ("action_geo_lat", "1_0.5", "not a number"),
        ("action_geo_lat", "40.8.1", "not a number"),
        ("action_geo_lat", ".", "not a number"),
        ("action_geo_lat", "1e", "not a number"),
        ("sql_date", "20190229", "not a day (YYYYMMDD)"),
        ("sql_date", "20191301", "not a day (YYYYMMDD)"),
        ("sql_date", "2019-01-21", "not a day (YYYYMMDD)"),
        ("sql_date", "2019W034", "not a day (YYYYMMDD)"),
        ("sql_date", "00000101", "not a day (YYYYMMDD)"),
        ("sql_date", "20190121220000", "not a day (YYYYMMDD)"),
        ("date_added", "20190121", "not an instant (YYYYMMDDHHMMSS)"),
        ("date_added", "20190121240000", "not an instant (YYYYMMDDHHMMSS)"),
        ("date_added", "20190121226000", "not an instant (YYYYMMDDHHMMSS)"),
        ("date_added", "20190229220000", "not an instant (YYYYMMDDHHMMSS)"),
        ("date_added", "2.02E+13", "not an instant (YYYYMMDDHHMMSS)"),
        ("actor1_name", "a\0b", "no NUL"),
        ("year", "20\x0019", "no NUL"),
        ("actor1_name", "a\rb", "no carriage return"),
        ("source_url", "https://example.com\r", "no carriage return"),
    ],
)
def test_a_field_that_cannot_be_read_rejects_its_row(column: str, text: str, rule: str) -> None:
    (record,) = rejected(row(7, **{column: text}))
    assert record.faults == (Fault(column, rule, text or None),)
    assert record.source == f"{NAME}, line 4"
    raw = dict(zip(RAW_COLUMNS, [cell or None for cell in fields(7, **{column: text})], strict=True))
    assert record.raw == {"file_interval": "2019-01-21T22:00:00+00:00", **raw}


def test_a_rejected_row_has_one_record_with_all_its_faults() -> None:
    (record,) = rejected(row(7, global_event_id="", sql_date="x", actor1_name="a\0\rb", date_added="y"))
    assert [(fault.column, fault.rule) for fault in record.faults] == [
        (ID, "required"),
        ("sql_date", "not a day (YYYYMMDD)"),
        ("actor1_name", "no NUL"),
        ("actor1_name", "no carriage return"),
        ("date_added", "not an instant (YYYYMMDDHHMMSS)"),
    ]


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (b"817930300\t20180121", "2 fields, not 61"),
        (b"", "1 field, not 61"),
        (row(7)[:-1] + b"\tmore", "62 fields, not 61"),
        (row(7)[:-1].replace(b"\t", b"", 1), "60 fields, not 61"),
    ],
)
def test_a_short_or_a_long_row_is_rejected_with_its_text(line: bytes, rule: str) -> None:
    (record,) = rejected(line + b"\n")
    assert record.faults == (Fault("", rule, line.decode()),)
    assert record.raw == {"file_interval": "2019-01-21T22:00:00+00:00", "text": line.decode()}


def test_a_row_that_is_not_utf_8_is_rejected_and_only_that_one() -> None:
    line = row(7, actor1_name="MÜNCHEN").decode().encode("latin-1")
    (record,) = rejected(line)
    shown = line[:-1].decode("utf-8", "backslashreplace")
    assert "M\\xdcNCHEN" in shown
    assert record.faults == (Fault("", f"not UTF-8 text: byte {line.index(0xDC) + 1} is 0xdc", shown),)
    assert record.raw["text"] == shown


def test_a_short_row_that_is_not_utf_8_has_both_faults() -> None:
    (record,) = rejected(b"\xff\t\n")
    assert [fault.rule for fault in record.faults] == ["2 fields, not 61", "not UTF-8 text: byte 1 is 0xff"]


def test_a_row_that_breaks_the_contract_has_its_file_and_line_as_source() -> None:
    data = (
        row(5) + b"short\n" + row(4) + row(3, quad_class="7") + row(5, event_code="020") + row(9, action_geo_lat="-91")
    )
    parts = kept(data + row(10, sql_date="x") + row(11))
    assert [(record.source, record.faults[0].column) for record in parts.rejected] == [
        (f"{NAME}, line 2", ""),
        (f"{NAME}, line 4", "quad_class"),
        (f"{NAME}, line 6", "action_geo_lat"),
        (f"{NAME}, line 7", "sql_date"),
    ]
    assert parts.rejected[2].raw[ID] == 817930302
    assert parts.valid[ID].to_pylist() == [817930297, 817930298, 817930304]


def test_records_are_in_the_order_of_the_lines_whatever_is_wrong() -> None:
    records = rejected(row(7, year="x"), b"\n", row(8, actor1_name="\0"), b"\xff\n", row(9, sql_date="x"))
    assert [record.source for record in records] == [f"{NAME}, line {number}" for number in range(4, 9)]


# Files that are refused


def test_half_of_the_rows_may_be_bad_and_no_more() -> None:
    half = rows(2) + b"x\n" + row(5, year="x")
    assert len(read(half).rejected) == 2
    refused = refusal(half + b"x\n")
    assert refused.reason == "fields"
    assert "3 of 5 rows cannot be taken (line 3: 1 field, not 61)" in str(refused)


def test_half_of_the_rows_may_be_bad_by_what_is_read_and_by_the_contract_together() -> None:
    half = rows(2) + b"x\n" + row(5, action_geo_lat="95")
    assert len(kept(half).rejected) == 2
    with pytest.raises(FileRejected) as refused:
        kept(half + row(6, action_geo_lat="95"))
    assert refused.value.reason == "values"
    assert "3 of 5 rows cannot be taken (line 4: action_geo_lat '95.0', <= 90)" in str(refused.value)


@pytest.mark.parametrize(
    ("column", "text"),
    [("action_geo_lat", "95"), ("action_geo_lat", "N/A"), ("date_added", ""), (ID, ""), ("sql_date", "20190230")],
)
@pytest.mark.parametrize("others", [0, 1, 2])
def test_a_single_bad_row_is_rejected_and_refuses_no_file_however_small(column: str, text: str, others: int) -> None:
    parts = kept(row(7, **{column: text}) + rows(others))
    assert [(record.source, record.faults[0].column) for record in parts.rejected] == [(f"{NAME}, line 1", column)]
    assert parts.valid.num_rows == others


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (row(date_added="2.02E+13"), "format"),
        (row(source_url="https://example.com\r"), "format"),
        (row(actor1_name="a\0b"), "encoding"),
        (row(actor1_name="Ü").decode().encode("latin-1"), "encoding"),
        (row()[:-1] + b"\tmore", "fields"),
        (b"\t".join(row()[:-1].split(b"\t")[:58]), "format"),
        (b"something else", "fields"),
    ],
)
def test_a_file_of_one_line_that_is_no_row_of_61_clean_fields_is_refused(data: bytes, reason: str) -> None:
    assert refusal(data).reason == reason


@pytest.mark.parametrize("count", [57, 58])
def test_a_file_of_format_1_0_is_refused_as_that(count: int) -> None:
    refused = refusal(b"".join(b"\t".join(row(number)[:-1].split(b"\t")[:count]) + b"\n" for number in range(5)))
    assert refused.reason == "format"
    assert f"5 of 5 rows cannot be taken (line 1: {count} fields, not 61); it is a file of format 1.0" in str(refused)
    assert str(refused).endswith(": take the file of format 2.0, which has 61 fields")


@pytest.mark.parametrize(("separator", "words"), [(b";", "semicolons"), (b",", "commas")])
def test_a_file_with_other_separators_is_refused_as_saved_again(separator: bytes, words: str) -> None:
    refused = refusal(rows(3).replace(b"\t", separator))
    assert refused.reason == "format"
    assert f"its fields are separated by {words}: a spreadsheet" in str(refused)


def test_an_address_full_of_commas_makes_no_other_separator_of_them() -> None:
    short = b"".join(b"\t".join(row(n, source_url="," * 50)[:-1].split(b"\t")[1:]) + b"\n" for n in range(3))
    assert refusal(short).reason == "fields"


@pytest.mark.parametrize("separator", ["\t", ";", ","])
@pytest.mark.parametrize("quote", ["", '"'])
def test_a_file_with_a_header_is_refused_as_saved_again(separator: str, quote: str) -> None:
    header = separator.join(f"{quote}{name.replace('_', '').upper()}{quote}" for name in RAW_COLUMNS)
    refused = refusal(header.encode() + b"\n" + rows(3).replace(b"\t", separator.encode()))
    assert refused.reason == "format"
    assert "begins with a header" in str(refused)
    assert "GLOBALEVENTID" in str(refused)


@pytest.mark.parametrize("data", [b"x;y\n", b"Hello,world\nof text\n"])
def test_words_where_the_first_event_should_be_are_not_called_a_header_of_ours(data: bytes) -> None:
    refused = refusal(data)
    assert refused.reason == "format"
    assert f"begins with {data.partition(bytes([10]))[0].decode()!r}, where a file of the feed has an event" in str(
        refused
    )
    assert "header" not in str(refused)


def test_instants_that_a_spreadsheet_has_rounded_refuse_the_file() -> None:
    refused = refusal(b"".join(row(number, date_added="2.02E+13") for number in range(3)))
    assert refused.reason == "format"
    assert "line 1: date_added '2.02E+13', not an instant" in str(refused)
    assert "a spreadsheet" in str(refused)


def test_line_ends_of_another_system_refuse_the_file() -> None:
    refused = refusal(rows(3).replace(b"\n", b"\r\n"))
    assert refused.reason == "format"
    assert "no carriage return); a spreadsheet, or another program, has saved it again" in str(refused)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\xef\xbb\xbf" + rows(3), "byte-order mark"),
        (rows(3).decode().encode("utf-16"), "UTF-16"),
        (b"\xfe\xff" + rows(3).decode().encode("utf-16-be"), "UTF-16"),
        (b"<!DOCTYPE html>\n<html><body>Bad gateway</body></html>\n", "it is a web page"),
    ],
)
def test_a_file_that_is_of_another_kind_is_refused_as_that(data: bytes, says: str) -> None:
    refused = refusal(data)
    assert refused.reason == "format"
    assert says in str(refused)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (rows(3).decode().encode("utf-16-le"), "encoding"),
        (b"".join(row(n, actor1_name="MÜNCHEN") for n in range(3)).decode().encode("latin-1"), "encoding"),
        (b"".join(row(n, year="x") for n in range(3)), "values"),
        (b"\n\n\n", "fields"),
        (b"something else", "fields"),
        (bytes(range(256)) * 8, "fields"),
        (row()[:150], "fields"),
    ],
)
def test_a_file_most_of_whose_rows_are_bad_is_refused_by_what_is_wrong_with_most(data: bytes, reason: str) -> None:
    refused = refusal(data)
    assert refused.reason == reason
    assert "rows cannot be taken (line 1: " in str(refused)
    assert len(str(refused)) < 300


# The oracle

ODD = {
    "int": ["0", "-4", "+1", "007", "1 ", " 1", "1_0", "0x1", "9223372036854775808", "--1", "1-", "1.0", "٣", "nan", "", "-"],
    "float": ["0", "-4", "65", "1e5", "1E+5", "-.5", "5.", ".", "+1", "1e999", "-1e-999", "nan", "-inf", "1e", " 1", "1d", "", "٣"],
    "date": ["20190121", "20190229", "20200229", "2019012", "00010101", "00000101", "20191301", "2019-1-1", "", " 20190121"],
    "timestamp": ["20190121221500", "20190121240000", "20190121", "20190121226000", "20190121220060", "", "2.02E+13"],
    "text": ["", "NA", "043", '"', '"a', "a\0b", "a\rb", "\r", " ", "é", "\x1c", "\u2028", "\\N", "\udcff", "a\tb", "a\nb"],
}  # fmt: skip
EACH_COLUMN = [(name, odd) for name, kind in RAW_COLUMNS.items() for odd in ODD[kind]]
A_ROW = st.builds(
    lambda number, odd: row(number).decode() if not odd else "\t".join(fields(number, **dict(odd))) + "\n",
    st.integers(0, 4),
    st.lists(st.sampled_from(EACH_COLUMN), max_size=2),
).map(lambda text: text.encode("utf-8", "surrogateescape"))


def as_expected(data: bytes, how: Callable[[bytes], Split[pa.Table]] = read) -> Expected:
    """What comes of a file, in the oracle's words."""
    try:
        parts = how(data)
    except FileRejected:
        return Expected([], {}, 0, refused=True)
    faults = {
        int(record.source.removeprefix(f"{NAME}, line ")): list(dict.fromkeys(fault.column for fault in record.faults))
        for record in parts.rejected
    }
    return Expected(parts.valid.drop_columns(["file_interval"]).to_pylist(), faults, parts.deduplicated, refused=False)


@pytest.mark.parametrize(("how", "model_of"), [(read, expected), (kept, expected_valid)])
@settings(max_examples=12)
@given(st.lists(A_ROW, min_size=1, max_size=6), st.booleans())
def test_a_file_means_what_its_rows_mean_one_by_one(
    how: Callable[[bytes], Split[pa.Table]], model_of: Callable[[bytes], Expected], odd: list[bytes], cut: bool
) -> None:
    require_as_expected(how, model_of, odd, cut)


@pytest.mark.long
@pytest.mark.parametrize(("how", "model_of"), [(read, expected), (kept, expected_valid)])
@settings(max_examples=300)
@given(st.lists(A_ROW, min_size=1, max_size=6), st.booleans())
def test_many_files_mean_what_their_rows_mean(
    how: Callable[[bytes], Split[pa.Table]], model_of: Callable[[bytes], Expected], odd: list[bytes], cut: bool
) -> None:
    require_as_expected(how, model_of, odd, cut)


def require_as_expected(
    how: Callable[[bytes], Split[pa.Table]], model_of: Callable[[bytes], Expected], odd: list[bytes], cut: bool
) -> None:
    data = b"".join(odd).removesuffix(b"\n" if cut else b"")
    # A row with line feeds in it is several lines: of each there are two good ones, so that the file is not refused.
    padded = data + b"\n" * cut + rows(2 * (data.count(b"\n") + 1), first=10)
    model = model_of(data)
    assert as_expected(data, how) == (Expected([], {}, 0, refused=True) if model.refused else model)
    assert as_expected(padded, how) == model_of(padded)


@settings(max_examples=20)
@given(
    st.sampled_from(sorted(TYPES)),
    st.lists(st.text("0123456789-+.eE xinfa_", min_size=1, max_size=6) | st.none(), max_size=6),
)
def test_a_column_is_read_like_its_fields_one_by_one(kind: str, texts: list[str | None]) -> None:
    def one(text: str | None) -> Any:
        try:
            return None if text is None else READERS[kind](text)
        except ValueError:
            return None

    assert cast(pa.array(texts, pa.string()), kind, TYPES[kind]).to_pylist() == [one(text) for text in texts]


@pytest.mark.parametrize(
    ("kind", "text", "number"),
    [
        ("int", str(-(2**63)), -(2**63)),
        ("int", str(2**63 - 1), 2**63 - 1),
        ("int", "007", 7),
        ("float", "-.5E+1", -5.0),
    ],
)
def test_a_field_is_read_the_same_beside_one_that_cannot_be_read(kind: str, text: str, number: float) -> None:
    assert cast(pa.array(["x", None, text]), kind, TYPES[kind]).to_pylist() == [None, None, number]


def test_a_file_that_breaks_off_anywhere_has_at_most_its_last_row_rejected() -> None:
    data = rows(4)
    for kept in range(len(data) - len(row()) + 1, len(data), 31):
        model = expected(data[:kept])
        assert as_expected(data[:kept]) == model
        assert list(model.faults) in ([4], [])
