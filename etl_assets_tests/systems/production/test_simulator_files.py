"""Files of records in every shape that people have them in, and what is said about those that cannot be served."""

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etl_assets.systems.production.simulator import files as production_files
from etl_assets.systems.production.simulator import write_files
from etl_assets.systems.production.simulator.files import FileRejected, RecordFile, digest, inspect

METRICS, WORKORDERS = ("id", "val", "time"), ("product", "production", "time")
SAMPLES = Path(__file__).resolve().parents[4] / "shared" / "data" / "production"
ONE, TWO = '{"id": 1, "val": -2.50, "time": 1}', '{"id":2,"val":1e3,"time":2}'
BOM = b"\xef\xbb\xbf"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.json"


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def texts(path: Path, after: int = 0) -> list[str]:
    return [record for block in RecordFile(path).blocks(after=after) for record in block]


def refusal(path: Path, fields: tuple[str, ...] = METRICS) -> str:
    """What is said about a file, without its name, which comes first."""
    with pytest.raises(FileRejected) as refused:
        inspect(path, fields)
    said = str(refused.value)
    assert said.startswith(f"{path}: ")
    return said.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    "content",
    [
        f"[{ONE}, {TWO}]",
        f"[{ONE},{TWO}]\n",
        f" \r\n\t[ \n{ONE}\n,\n\n{TWO} ] \n ",
        f"{ONE}\n{TWO}\n",
        f"{ONE}\n{TWO}",
        f"\n{ONE}\r\n\r\n  \n\t{TWO} \r\n\n",
        BOM + f"[{ONE},{TWO}]".encode(),
        BOM + f"{ONE}\n{TWO}\n".encode(),
    ],
    ids=["array", "dense", "spaced", "lines", "no last line break", "crlf and blank lines", "bom array", "bom lines"],
)
def test_each_shape_of_file_gives_the_same_texts(path: Path, content: str | bytes) -> None:
    written(path, content)
    assert texts(path) == [ONE, TWO]
    assert texts(path, after=1) == [TWO]
    assert texts(path, after=2) == texts(path, after=7) == []
    assert inspect(path, METRICS) == 2


def test_a_pretty_printed_record_comes_on_one_line_with_its_numbers_as_they_are(path: Path) -> None:
    written(
        path, '[{\r\n    "time": 1624383671,\r\n    "product": 0,\n\n    "production": 15.680\n}, {\n  "a":\n [1 , 2]}]'
    )
    assert texts(path) == ['{"time": 1624383671,"product": 0,"production": 15.680}', '{"a":[1 , 2]}']


def test_brackets_and_escapes_in_strings_nesting_and_tokens_that_are_no_numbers_are_kept(path: Path) -> None:
    records = [
        r'{"id": "]}\"],[{", "val": NaN, "x": "\\"}',
        '{"val": [Infinity, -Infinity, {"a": [[]]}], "text": "\\ud83d\\ude00 \u2028 é"}',
        "1" * 5_000,
        "-1.50E+3",
        '"a"',
        "null",
    ]
    written(path, f"[{', '.join(records)}]")
    assert texts(path) == records


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.long
@given(st.lists(VALUES, max_size=8), st.integers(1, 40), st.booleans(), st.sampled_from([None, 0, 3]), st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_array_is_read_through_a_window_of_any_size(
    path: Path, values: list[Any], window: int, ascii_only: bool, indent: int | None, data: st.DataObject
) -> None:
    written(path, json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "replace"))
    expected = [json.dumps(value) for value in json.loads(path.read_bytes())]
    after = data.draw(st.integers(0, len(values)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(production_files, "WINDOW_BYTES", window)
        read = texts(path, after=after)
    assert [json.dumps(json.loads(text)) for text in read] == expected[after:]
    assert not any("\n" in text for text in read)


@pytest.mark.long
@given(
    st.lists(st.dictionaries(st.text(max_size=4), VALUES, min_size=1, max_size=3), min_size=1, max_size=8),
    st.integers(1, 40),
    st.sampled_from(["\n", "\r\n", "\n\n \n"]),
    st.booleans(),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_lines_are_read_through_a_window_of_any_size(
    path: Path, values: list[Any], window: int, ending: str, last: bool
) -> None:
    lines = [json.dumps(value, ensure_ascii=False).encode("utf-8", "replace").decode() for value in values]
    written(path, ending.join(lines) + ending * last)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(production_files, "WINDOW_BYTES", window)
        assert texts(path) == lines


@pytest.mark.long
@pytest.mark.parametrize("cut", range(1, 90))
def test_a_file_that_is_cut_anywhere_is_refused_after_its_complete_records(
    path: Path, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(production_files, "WINDOW_BYTES", 7)
    whole = f'[{ONE}, {{"id": "é\\n", "val": [true, -1.5e-3], "time": NaN}}]'.encode()
    written(path, whole[: cut % len(whole) or 1])
    read: list[str] = []
    with pytest.raises(FileRejected, match=r"is cut in the middle: the file ends .* record \d \(byte \d+\)"):
        read.extend(itertools.chain.from_iterable(RecordFile(path).blocks()))
    assert len(read) == (cut % len(whole) > len(ONE)) + (cut % len(whole) == len(whole) - 1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b" \r\n ", "has no records"),
        (b"[]", "has no records"),
        (b"[ \n ] \n", "has no records"),
        (b"[1, 2.", "is cut in the middle: the file ends inside of record 2 (byte 6)"),
        (b"[1, 2.]", "is not JSON after record 2: a comma or the end of the array is expected (byte 5)"),
        (b"[{", "is cut in the middle: the file ends inside of record 1 (byte 2)"),
        (b"[{},", "is cut in the middle: the file ends after record 1 (byte 4)"),
        (b'{"a":1}\n{"a"', "is cut in the middle: the file ends inside of record 2 (byte 12)"),
        (b'{"a":1}\n{"a":"\xc3', "is cut in the middle: the file ends inside of record 2 (byte 14)"),
        (b"[{},]", "is not JSON in record 2: expecting value (byte 4)"),
        (b'[{},{"a":oops}]', "is not JSON in record 2: expecting value (byte 9)"),
        (b"[{},{'a':1}]" + b" " * 99, "is not JSON in record 2: expecting property name enclosed in double quotes"),
        (b"[{} {}]", "is not JSON after record 1: a comma or the end of the array is expected (byte 4)"),
        (b"[{}]\n[{}]", "goes on after the end of its array (byte 5)"),
        (b"[" * 100_000, "record 1 is nested too deeply to read (byte 1)"),
        (b"id,val\n1,2\n", "is not JSON: neither an array nor lines of objects; it begins with 'id,val' (byte 0)"),
        (b'{\n"id" 1\n}', "is not JSON: neither an array nor lines of objects; it begins with '{' (byte 0)"),
        (
            b'{\n"id": 1\n}',
            "has objects that are not each on one line: put each on a line of its own, or all into an array (byte 0)",
        ),
        (b"PK\x03\x04\x00\x00", "is not JSON: byte 4 is NUL, which no text contains"),
        ("[{}]".encode("utf-16"), "is not UTF-8: byte 0 is 0xff; save it as UTF-8"),
        (BOM + '[{"é":"'.encode() + b'\xff"}]', "is not UTF-8: byte 11 is 0xff; save it as UTF-8"),
        (
            '[{"é":1},{]'.encode(),
            "is not JSON in record 2: expecting property name enclosed in double quotes (byte 11)",
        ),
        (b"[1, 2]", "is no array of objects and no lines of objects: none of 2 records is one"),
        (b'{"metrics": []}', "no record has id, time, val: found metrics"),
        (b'[{"id": 1, "val": 2}, {}]', "no record has id, time, val: found id, val"),
        (b"[{}]", "no record has id, time, val: found no fields"),
        (
            b'[{"time": 1, "product": 0, "production": 0}]',
            "no record has id, time, val, it looks like work orders: found time, product, production",
        ),
    ],
)
def test_a_refusal_says_what_is_wrong_and_where(path: Path, content: bytes, said: str) -> None:
    assert refusal(written(path, content)).startswith(said)


def test_metrics_in_the_place_of_work_orders_are_recognised(path: Path) -> None:
    assert "looks like metrics" in refusal(written(path, f"[{ONE}]"), WORKORDERS)


def test_a_missing_file_a_folder_and_a_pipe_are_refused(path: Path, tmp_path: Path) -> None:
    assert refusal(path) == "there is no such file"
    assert refusal(tmp_path) == "is a folder: name a file"
    os.mkfifo(path)
    assert refusal(path) == "cannot be read (it is no regular file)"
    with pytest.raises(FileRejected, match="is a folder"):
        digest(tmp_path)


def test_a_record_beyond_the_limit_is_refused_before_it_fills_the_memory(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(production_files, "WINDOW_BYTES", 10)
    monkeypatch.setattr(production_files, "MAX_RECORD_BYTES", 100)
    written(path, f'[{ONE}, "{"x" * 1_000}"]')
    assert refusal(path).startswith("a record is longer than 100 bytes")


def test_lines_that_are_not_json_do_not_refuse_the_file(path: Path) -> None:
    written(path, f'oops\n{{"id": 1\n{ONE}\n[1]\n{TWO}\n')
    assert inspect(path, METRICS) == 2
    assert texts(path, after=1) == ['{"id": 1', ONE, "[1]", TWO]


def test_the_records_of_a_growing_file_are_read_as_they_come(path: Path) -> None:
    written(path, "")
    reader = RecordFile(path).reader()
    assert reader.block() == []
    read = []
    with path.open("ab", buffering=0) as file:
        for part in (ONE.encode()[:9], ONE.encode()[9:], b"\n\xef\xbb", b"\xbf\n", TWO.encode()[:3]):
            file.write(part)
            read.append(reader.block())
    assert read == [[], [ONE], [], ["\ufeff"], []]
    with pytest.raises(FileRejected, match="is cut in the middle: the file ends inside of record 3"):
        reader.finish()
    reader.close()


@pytest.mark.parametrize("array", [False, True])
def test_places_in_a_large_file_are_remembered(tmp_path: Path, array: bool) -> None:
    metrics, _ = write_files(tmp_path, metrics=50_000, parameters=7, work_orders=10, array=array)
    origin, whole = RecordFile(metrics), texts(metrics)
    first = origin.reader()
    while first.block():
        pass
    assert (first.sequence, len(whole)) == (50_000, 50_000)
    for after in (0, 1, 15_000, 30_001, 49_999, 50_000):
        assert origin.mark(after).sequence <= after < max(origin.mark(after).sequence, 1) + 25_000
        reader = origin.reader(after=after)
        assert reader.block()[:2] == whole[after : after + 2]
        reader.close()
    assert origin.mark(30_001).sequence > 10_000
    first.close()


@pytest.mark.long
def test_a_file_that_is_replaced_while_it_is_served_is_refused(path: Path) -> None:
    origin = RecordFile(written(path, f"{ONE}\n"))
    origin.reader().close()
    written(path.with_name("other"), f"{TWO}\n").rename(path)
    with pytest.raises(FileRejected, match="was replaced or cut while it was served: start the API anew"):
        origin.reader()


def test_the_digest_knows_which_file_is_which(tmp_path: Path) -> None:
    one, two, both = (written(tmp_path / name, name) for name in ("a", "b", "ab"))
    empty = written(tmp_path / "empty", "")
    found = {digest(one, two), digest(two, one), digest(both, empty), digest(empty, both)}
    assert len(found) == 4
    assert digest(one, two) == digest(written(tmp_path / "copy", "a"), two)


@pytest.mark.parametrize("array", [False, True])
def test_files_for_load_have_the_asked_sizes_and_each_key_once(tmp_path: Path, array: bool) -> None:
    metrics, orders = write_files(tmp_path / "new", metrics=10_001, parameters=30, work_orders=101, array=array)
    assert inspect(metrics, METRICS) == len(texts(metrics)) == 10_001
    assert inspect(orders, WORKORDERS) == len(texts(orders)) == 101
    readings = [json.loads(record) for record in texts(metrics)]
    assert len({(reading["id"], reading["time"]) for reading in readings}) == 10_001
    assert {reading["id"] for reading in readings} == set(range(30))
    ends = [json.loads(record)["time"] for record in texts(orders)]
    last = max(reading["time"] for reading in readings)
    assert abs(last - max(ends)) < 10_000
    assert texts(metrics) == texts(write_files(tmp_path / "b", metrics=10_001, parameters=30, work_orders=101)[0])


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the sample files are not there")
def test_the_sample_files_are_read_as_json_reads_them() -> None:
    for name, fields, records in (("metrics", METRICS, 6_896), ("workorder", WORKORDERS, 576)):
        path = SAMPLES / f"{name}.json"
        assert inspect(path, fields) == records
        assert [json.loads(record) for record in texts(path)] == json.loads(path.read_text())
