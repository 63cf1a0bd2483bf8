"""The lines of a file, found and judged in memory that its bytes bound, whatever these are."""

import tracemalloc
from pathlib import Path

import pytest

from etl_assets.systems.events.files import LARGEST_CONTENT_BYTES, FileRejected, file_name
from etl_assets.systems.events.format import LARGE_BYTES, LONGEST_LINE_BYTES, valid_events
from etl_assets.systems.events.raw_layer import read_file
from etl_assets_tests.systems.events.event_files import loose_archive, row, rows
from etl_assets_tests.systems.events.raw_rows import INTERVAL

ONE_BYTE = [b"\n", b"\t", b"\0", b"\r", b"\xff", b"\xc3", b"1"]
IDS = [f"{byte[0]:#04x}" for byte in ONE_BYTE]


def refusal(data: bytes) -> FileRejected:
    with pytest.raises(FileRejected) as refused:
        valid_events(data, interval=INTERVAL)
    return refused.value


@pytest.mark.parametrize("byte", ONE_BYTE, ids=IDS)
def test_a_large_file_of_one_byte_is_refused_and_takes_no_more_than_a_few_times_its_size(byte: bytes) -> None:
    data = byte * (LARGE_BYTES + 1)
    tracemalloc.start()
    try:
        assert refusal(data).reason == "fields"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * len(data)


@pytest.mark.long
@pytest.mark.parametrize("byte", ONE_BYTE, ids=IDS)
def test_the_largest_content_of_one_byte_takes_four_times_its_size_at_most(tmp_path: Path, byte: bytes) -> None:
    path = tmp_path / file_name(INTERVAL)
    path.write_bytes(loose_archive(byte * 2**20 for _ in range(LARGEST_CONTENT_BYTES // 2**20)))
    tracemalloc.start()
    try:
        with pytest.raises(FileRejected) as refused:
            read_file(path, INTERVAL)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (refused.value.reason, len(str(refused.value)) < 300) == ("fields", True)
    assert peak < 4 * LARGEST_CONTENT_BYTES


def test_more_lines_than_can_be_rows_refuse_a_large_file_by_their_number() -> None:
    data = rows(3) + b"\n" * LARGE_BYTES
    counted = f"has {LARGE_BYTES + 3:,} lines in {len(data):,} bytes, too short for rows of 61 fields: it is no file of events"
    assert counted in str(refusal(data))
    page = b"<!DOCTYPE html>\n" + b"<p>word</p>\n" * (LARGE_BYTES // 12)
    assert refusal(page).reason == "format"
    assert "too short for rows of 61 fields; it is a web page" in str(refusal(page))


def test_the_lines_of_a_file_that_is_not_large_are_judged_one_by_one() -> None:
    assert "3 of 3 rows cannot be taken (line 1: 1 field, not 61)" in str(refusal(b"\n" * 3))
    assert "rows cannot be taken (line 1: 1 field, not 61)" in str(refusal(b"\n" * 10_000))


@pytest.mark.long
def test_as_many_short_lines_as_rows_refuse_no_file_by_their_number() -> None:
    shortest = [b"%d" % number + b"\t" * 60 + b"\n" for number in range(10_000, 10_000 + LARGE_BYTES // 66)]
    data = b"".join(shortest) + b"\n" * (len(shortest) - 1) + row(1)
    assert len(data) > LARGE_BYTES
    assert f"{2 * len(shortest) - 1:,} of {2 * len(shortest):,} rows cannot be taken" in str(refusal(data))


def test_a_line_longer_than_any_row_refuses_the_file_and_is_named() -> None:
    data = rows(3) + b"\xff" * (LONGEST_LINE_BYTES + 1) + b"\n" + rows(3, first=3)
    refused = refusal(data)
    assert refused.reason == "fields"
    assert f"line 4 has {LONGEST_LINE_BYTES + 1:,} bytes, and no row is as long: it is no file of events" in str(
        refused
    )
    assert len(valid_events(data.replace(b"\xff", b"", 1), interval=INTERVAL).rejected) == 1


def test_a_web_page_of_one_long_line_is_refused_as_that() -> None:
    assert refusal(b"<html>" + b"<p>word</p>" * (LONGEST_LINE_BYTES // 11)).reason == "format"
