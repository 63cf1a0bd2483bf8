"""The simulated production streams over real HTTP: what they serve, how they follow, how they fail."""

import itertools
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from etl_assets.errors import ConfigurationError
from etl_assets.simulators.faults import KINDS
from etl_assets.simulators.server import serve
from etl_assets.systems.production.simulator import FileRejected, ProductionSimulator
from etl_assets.systems.production.simulator import data as production_data
from etl_assets.systems.production.simulator import files as production_files
from etl_assets.systems.production.simulator.app import Cursor
from etl_assets.systems.production.simulator.data import (
    CONSTANT,
    DECREASES,
    PARAMETERS,
    PLANTED,
    WITH_GAPS,
    generated,
    held_means,
    write_files,
)

Lines = list[dict[str, Any]]


class Api:
    """The calls that a client makes."""

    def __init__(self, simulator: ProductionSimulator, url: str) -> None:
        self.simulator = simulator
        self.url = url

    def get(self, stream: str = "metrics", **query: Any) -> requests.Response:
        return requests.get(f"{self.url}/{stream}", params=query, timeout=5)

    def lines(self, stream: str = "metrics", **query: Any) -> Lines:
        answer = self.get(stream, **query)
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/x-ndjson")
        assert answer.text.endswith("\n") or not answer.text
        return [json.loads(line) for line in answer.text.splitlines()]

    @contextmanager
    def following(self, stream: str = "metrics", **query: Any) -> Iterator[Iterator[bytes]]:
        """The lines of an answer that stays open."""
        query = {"follow": "true", **query}
        with requests.get(f"{self.url}/{stream}", params=query, stream=True, timeout=5) as answer:
            assert answer.status_code == 200
            yield answer.iter_lines()


@contextmanager
def serving(*files: Path, **options: Any) -> Iterator[Api]:
    simulator = ProductionSimulator(*files, **options)
    with serve(simulator.app) as url:
        yield Api(simulator, url)


@pytest.fixture(scope="module")
def served() -> Iterator[Api]:
    with serving() as api:
        yield api


@pytest.fixture
def api(served: Api) -> Api:
    served.simulator.reset()
    served.simulator.faults.stall_s = 0.2
    return served


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Three readings and an empty file of work orders, as NDJSON."""
    metrics, orders = tmp_path / "metrics.ndjson", tmp_path / "orders.ndjson"
    metrics.write_text(
        '{"id": 1, "val": 1.50, "time": 1}\n{"id":2,"val":NaN,"time":2}\n{"id": 3, "val": "é", "time": 3}\n'
    )
    orders.write_text("")
    return metrics, orders


def sequences(lines: Lines) -> list[int]:
    return [line["sequence"] for line in lines]


def record(number: int) -> dict[str, int]:
    return {"id": 0, "val": number, "time": number}


# What is served


def test_the_generated_streams_are_numbered_from_one(api: Api) -> None:
    metrics, orders = api.lines(), api.lines("workorders")
    assert sequences(metrics) == list(range(1, len(metrics) + 1))
    assert sequences(orders) == list(range(1, 577))
    assert [set(line["record"]) for line in (metrics[0], orders[0])] == [
        {"id", "val", "time"},
        {"time", "product", "production"},
    ]


def test_a_line_is_made_around_the_text_of_the_record(files: tuple[Path, Path]) -> None:
    with serving(*files) as api:
        assert api.get().content.decode() == (
            '{"sequence":1,"record":{"id": 1, "val": 1.50, "time": 1}}\n'
            '{"sequence":2,"record":{"id":2,"val":NaN,"time":2}}\n'
            '{"sequence":3,"record":{"id": 3, "val": "é", "time": 3}}\n'
        )
        assert api.get("workorders").content == b""


def test_a_line_of_a_file_that_is_not_json_is_served_as_text(files: tuple[Path, Path]) -> None:
    files[0].write_text('{"id": 1}\n{"id": "é" 2\n\n{"id": 3}\n')
    with serving(*files) as api:
        assert api.lines() == [
            {"sequence": 1, "record": {"id": 1}},
            {"sequence": 2, "text": '{"id": "é" 2'},
            {"sequence": 3, "record": {"id": 3}},
        ]


def test_after_leaves_out_what_is_known(api: Api) -> None:
    everything = api.lines("workorders")
    assert api.lines("workorders", after=570) == everything[570:]
    assert api.lines("workorders", after=576) == []


@pytest.mark.long
@pytest.mark.parametrize("array", [False, True])
def test_a_large_file_is_served_from_any_place(tmp_path: Path, array: bool) -> None:
    metrics, orders = write_files(tmp_path, metrics=20_000, parameters=5, work_orders=10, array=array)
    with serving(metrics, orders) as api:
        assert sequences(api.lines(after=19_998)) == [19_999, 20_000]
        whole = api.lines()
        assert sequences(whole) == list(range(1, 20_001))
        assert api.lines(after=15_001) == whole[15_001:]


def test_after_beyond_the_end_is_answered_with_how_many_there_are(api: Api, files: tuple[Path, Path]) -> None:
    answer = api.get("workorders", after=577)
    assert (answer.status_code, answer.json()) == (
        416,
        {"message": "after=577 is beyond the end: workorders has 576 records"},
    )
    with serving(*files) as over_files:
        assert over_files.get(after=3).status_code == 200
        assert over_files.get(after=4).json() == {"message": "after=4 is beyond the end: metrics has 3 records"}


@pytest.mark.parametrize(
    "query",
    [{"after": -1}, {"after": "x"}, {"after": 1.5}, {"pace": 0}, {"pace": -1}, {"pace": "nan"}, {"pace": "inf"}],
)
def test_a_wrong_question_is_refused(api: Api, query: dict[str, Any]) -> None:
    answer = api.get(**query)
    assert (answer.status_code, list(answer.json())) == (422, ["message"])


def test_a_paced_stream_has_the_same_lines(api: Api) -> None:
    assert api.lines("workorders", after=560, pace=200) == api.lines("workorders", after=560)


def test_the_source_says_what_is_streamed(api: Api, files: tuple[Path, Path]) -> None:
    said = {api.get(name).headers["X-Stream-Source"] for name in ("metrics", "workorders")}
    assert said == {api.simulator.source} == {f"simulated:0-v{production_data.VERSION}"}
    assert ProductionSimulator(seed=7).source == f"simulated:7-v{production_data.VERSION}"
    assert ProductionSimulator(*files, source="plant 4").source == "plant 4"
    first = ProductionSimulator(*files).source
    assert first.startswith("files:") and ProductionSimulator(*files).source == first
    files[1].write_text('{"product": 0}\n')
    assert ProductionSimulator(*files).source != first


def test_files_for_one_stream_only_are_refused_as_is_a_source_that_no_header_can_say(files: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigurationError, match="give both PRODUCTION_METRICS_FILE and PRODUCTION_WORKORDERS_FILE"):
        ProductionSimulator(files[0])
    with pytest.raises(ConfigurationError, match="take printable ASCII"):
        ProductionSimulator(source="a\nb")
    with pytest.raises(FileRejected, match="there is no such file"):
        ProductionSimulator(files[0], files[1].with_name("nowhere"))


# What goes wrong in a file


def test_a_file_that_is_cut_ends_its_stream_with_an_error(files: tuple[Path, Path]) -> None:
    files[0].write_text('[{"id": 1}, {"id": 2}, {"id"')
    said = f"{files[0]}: is cut in the middle: the file ends inside of record 3 (byte 28)"
    with serving(*files) as api:
        for follow, after in itertools.product(("true", "false"), (0, 1, 2, 5)):
            *lines, last = api.lines(after=after, follow=follow)
            assert last == {"error": said}
            assert sequences(lines) == [1, 2][after:]


def test_lines_that_are_cut_end_with_an_error_unless_they_may_grow(files: tuple[Path, Path]) -> None:
    files[0].write_text('{"id": 1}\n{"id"')
    with serving(*files) as api:
        assert api.lines()[1]["error"].endswith("is cut in the middle: the file ends inside of record 2 (byte 15)")
        with api.following() as lines:
            assert json.loads(next(lines)) == {"sequence": 1, "record": {"id": 1}}
            with files[0].open("a") as file:
                file.write(": 2}\n")
            assert json.loads(next(filter(None, lines))) == {"sequence": 2, "record": {"id": 2}}


def test_a_file_that_is_no_json_or_has_vanished_is_one_error_line(files: tuple[Path, Path]) -> None:
    files[0].write_text("id,val,time\n1,2,3\n")
    with serving(*files) as api:
        [line] = api.lines()
        assert "is not JSON: neither an array nor lines of objects; it begins with 'id,val,time'" in line["error"]
        files[0].unlink()
        assert api.lines() == [{"error": f"{files[0]}: there is no such file"}]


# Following


@pytest.mark.long
def test_who_follows_gets_what_is_appended_and_signs_of_life_meanwhile(api: Api) -> None:
    with api.following("workorders", after=575) as lines:
        assert json.loads(next(lines))["sequence"] == 576
        assert next(lines) == b""
        api.simulator.append("workorders", [record(1), "oops"])
        assert [json.loads(next(filter(None, lines))) for _ in range(2)] == [
            {"sequence": 577, "record": record(1)},
            {"sequence": 578, "text": "oops"},
        ]
    assert sequences(api.lines("workorders", after=576)) == [577, 578]


@pytest.mark.long
def test_who_follows_from_beyond_the_end_waits_for_it(api: Api) -> None:
    with api.following("workorders", after=577) as lines:
        assert next(lines) == b""
        api.simulator.append("workorders", [record(1), record(2)])
        assert json.loads(next(filter(None, lines))) == {"sequence": 578, "record": record(2)}


@pytest.mark.parametrize("array", [False, True])
def test_a_file_is_followed_by_what_is_appended_and_never_written_to(files: tuple[Path, Path], array: bool) -> None:
    if array:
        files[0].write_text(json.dumps([record(0), record(0), record(0)]))
    before = files[0].read_bytes()
    with serving(*files) as api, api.following() as lines:
        assert [json.loads(next(lines))["sequence"] for _ in range(3)] == [1, 2, 3]
        api.simulator.append("metrics", [record(4)])
        assert json.loads(next(filter(None, lines))) == {"sequence": 4, "record": record(4)}
        assert sequences(api.lines(after=1)) == [2, 3, 4]
        assert api.get(after=5).json() == {"message": "after=5 is beyond the end: metrics has 4 records"}
        assert files[0].read_bytes() == before
        # What somebody else writes behind that is not taken for it.
        files[0].write_bytes(before + b'{"id": 9}\n')
        assert api.lines(after=3) == [{"sequence": 4, "record": record(4)}]


def test_several_streams_are_served_at_once(api: Api) -> None:
    with api.following(after=10) as one, api.following("workorders") as other:
        with ThreadPoolExecutor(8) as clients:
            answers = list(clients.map(lambda _: api.get().content, range(8)))
        assert len(set(answers)) == 1
        assert (json.loads(next(one))["sequence"], json.loads(next(other))["sequence"]) == (11, 1)


def test_an_answer_that_nobody_reads_any_more_leaves_no_file_open(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(production_files, "WINDOW_BYTES", 10)
    opened: list[Cursor] = []
    closed: list[Cursor] = []
    make, close = Cursor.__init__, Cursor.close

    def made(cursor: Cursor, *args: Any, **options: Any) -> None:
        opened.append(cursor)
        make(cursor, *args, **options)

    def noted(cursor: Cursor) -> None:
        close(cursor)
        closed.append(cursor)

    monkeypatch.setattr(Cursor, "__init__", made)
    monkeypatch.setattr(Cursor, "close", noted)
    with serving(*files) as api:
        with api.following() as lines:
            next(lines)
        assert sequences(api.lines()) == [1, 2, 3]
    # Of servers before this one cursors may be closed meanwhile, which are none of its own.
    assert len(opened) >= 2
    assert [cursor for cursor in opened if cursor not in closed] == []


# Wrong on purpose


def test_a_hole_an_overlap_and_a_poison_line_are_served_as_asked_for(api: Api) -> None:
    right = api.lines("workorders")[:12]
    api.simulator.skip("workorders", 2, 3)
    api.simulator.repeat("workorders", 5, 7)
    api.simulator.poison("workorders", 9, '{"sequence":9,"record":{')
    served = api.get("workorders").text.splitlines()[:12]
    assert served.pop(9) == '{"sequence":9,"record":{'
    lines = [json.loads(line) for line in served]
    assert sequences(lines) == [1, 4, 5, 6, 7, 5, 6, 7, 8, 10, 11]
    assert all(line == right[line["sequence"] - 1] for line in lines)
    api.simulator.unchanged()
    assert api.lines("workorders")[:12] == right


def test_an_overlap_reaches_back_over_many_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(production_files, "WINDOW_BYTES", 1_000)
    metrics, orders = write_files(tmp_path, metrics=200, parameters=5, work_orders=10, array=True)
    with serving(metrics, orders) as api:
        api.simulator.repeat("metrics", 11, 150)
        api.simulator.skip("metrics", 160, 190)
        expected = [*range(1, 151), *range(11, 151), *range(151, 160), *range(191, 201)]
        assert sequences(api.lines()) == expected


def test_the_streams_can_be_steered_over_http(api: Api) -> None:
    control = f"{api.url}/_control/streams/workorders"
    changes: dict[str, Any] = {"holes": [[1, 570]], "lines": {"576": "oops"}}
    assert requests.put(control, json=changes, timeout=5).json() == {**changes, "repeats": []}
    assert requests.put(control, json={"repeats": [[571, 572]]}, timeout=5).json()["holes"] == [[1, 570]]
    assert requests.post(f"{control}/records", json=[record(1), "text"], timeout=5).status_code == 200
    text = api.get("workorders").text.splitlines()
    assert text[7] == "oops" and json.loads(text[-1]) == {"sequence": 578, "text": "text"}
    assert sequences([json.loads(line) for line in text[:7]]) == [571, 572, 571, 572, 573, 574, 575]
    assert requests.put(control, json={"hole": []}, timeout=5).status_code == 422
    assert requests.get(f"{api.url}/_control/streams/orders", timeout=5).status_code == 404
    requests.post(f"{api.url}/_control/reset", timeout=5)
    assert sequences(api.lines("workorders")) == list(range(1, 577))


# Faults


def received(api: Api, **query: Any) -> tuple[bytes, bool]:
    """What comes of an answer, and whether it ends as it should."""
    content = b""
    try:
        with requests.get(f"{api.url}/metrics", params=query, stream=True, timeout=(5, 1)) as answer:
            for chunk in answer.iter_content(65_536):
                content += chunk
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
        return content, False
    return content, True


@pytest.mark.parametrize("follow", ["true", "false"])
@pytest.mark.parametrize(
    "kind", ["reset-mid-body", "short-body", pytest.param("timeout-mid-body", marks=pytest.mark.long)]
)
def test_a_stream_that_breaks_has_some_lines_and_half_a_line(api: Api, kind: str, follow: str) -> None:
    whole = api.get().content
    api.simulator.faults.stall_s = 2.0
    api.simulator.faults.script("metrics", [kind])
    content, ended = received(api, follow=follow)
    assert not ended
    assert whole.startswith(content) and 1_000 < content.count(b"\n") < 4_000
    assert not content.endswith(b"\n")


@pytest.mark.long
@pytest.mark.parametrize("kind", ["timeout", "timeout-mid-body"])
def test_who_waits_longer_than_the_stall_gets_the_whole_stream(tmp_path: Path, kind: str) -> None:
    metrics, orders = write_files(tmp_path, metrics=30_000, parameters=5, work_orders=10)
    with serving(metrics, orders) as api:
        whole = api.get().content
        api.simulator.faults.stall_s = 0.05
        api.simulator.faults.script("metrics", [kind])
        assert api.get().content == whole


@pytest.mark.parametrize("kind", ["500", "503", "429-retry-after"])
def test_a_stream_can_be_refused_before_it_begins(api: Api, kind: str) -> None:
    api.simulator.faults.script("metrics", [kind])
    answer = api.get(follow="true")
    assert (answer.status_code, list(answer.json())) == (int(kind[:3]), ["message"])
    assert sequences(api.lines(after=4_029)) == [4_030, 4_031]


def test_a_cut_in_the_middle_is_never_between_two_lines(files: tuple[Path, Path]) -> None:
    files[0].write_text('{"id": 1}\n{"id": 2}\n')
    with serving(*files) as api:
        api.simulator.faults.script("metrics", ["truncated-json"])
        assert api.get().content == b'{"sequence":1,"record":{"id": 1}}'


def test_truncated_is_an_end_that_looks_right_with_half_a_line(api: Api) -> None:
    whole = api.get().content
    api.simulator.faults.script("metrics", ["truncated-json"])
    content, ended = received(api)
    assert ended and whole.startswith(content) and not content.endswith(b"\n")


@pytest.mark.parametrize("kind", KINDS)
def test_a_followed_stream_fails_in_every_kind_without_a_word_in_the_log(
    api: Api, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    api.simulator.faults.stall_s = 0.01
    api.simulator.faults.byte_interval_s = 0.0
    api.simulator.faults.script("workorders", [kind])
    try:
        with requests.get(f"{api.url}/workorders?follow=true&after=570", stream=True, timeout=2) as answer:
            # A stream that goes on in spite of the fault is left after its first lines.
            for line in answer.iter_lines(chunk_size=1):
                if b"576" in line:
                    break
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
        pass
    assert api.simulator.faults.count("workorders", kind) == 1
    assert sequences(api.lines("workorders", after=574)) == [575, 576]
    assert [entry.getMessage() for entry in caplog.records if not entry.name.startswith("urllib3")] == []


# The generated data


@pytest.fixture(scope="module")
def data() -> tuple[Lines, Lines]:
    records = generated(0)
    metrics, orders = ([json.loads(text) for text in records[name]] for name in ("metrics", "workorders"))
    return metrics, orders


def test_the_same_seed_gives_the_same_text() -> None:
    assert generated(3) == generated(3)
    assert generated(3) != generated(4)


def test_the_generated_data_have_the_shape_of_real_ones(data: tuple[Lines, Lines]) -> None:
    metrics, orders = data
    times = [metric["time"] for metric in metrics]
    assert times == sorted(times)
    assert [order["product"] for order in orders] == [0] * 288 + [1] * 288
    assert 16 < (times[-1] - times[0]) / 86_400 < 19
    readings = Counter(metric["id"] for metric in metrics)
    assert set(readings) == set(range(PARAMETERS))
    assert {number for parameter, number in readings.items() if parameter != WITH_GAPS} <= {350, 351}
    assert 100 < readings[WITH_GAPS] < 300
    assert len({metric["val"] for metric in metrics if metric["id"] == CONSTANT}) == 1
    first = orders[0]["production"]
    assert first == 0 and isinstance(first, int)
    [(twice, number)] = [item for item in Counter((m["id"], m["time"]) for m in metrics).items() if item[1] > 1]
    assert number == 2 and len({m["val"] for m in metrics if (m["id"], m["time"]) == twice}) == 2


def increments(orders: Lines, product: int) -> tuple[np.ndarray, np.ndarray]:
    """Ends of a product's work orders, and what each but the first added."""
    own = [order for order in orders if order["product"] == product]
    return np.array([order["time"] for order in own]), np.diff([order["production"] for order in own])


def test_production_is_a_counter_with_few_decreases(data: tuple[Lines, Lines]) -> None:
    for product, decreases in DECREASES.items():
        _, added = increments(data[1], product)
        assert (added < 0).sum() == decreases
        assert added.min() > -6 and 18 < added.mean() < 22


@pytest.mark.parametrize("seed", range(3))
def test_the_planted_effects_are_there_and_no_others(seed: int) -> None:
    records = generated(seed)
    metrics, orders = ([json.loads(text) for text in records[name]] for name in ("metrics", "workorders"))
    planted = {(effect.product, effect.parameter): effect.correlation for effect in PLANTED}
    for product in DECREASES:
        ended, added = increments(orders, product)
        for parameter in set(range(PARAMETERS)) - {CONSTANT}:
            readings = {metric["time"]: metric["val"] for metric in metrics if metric["id"] == parameter}
            means = held_means(np.array(list(readings)), np.array(list(readings.values())), ended)
            # Three standard errors of a correlation over 287 work orders.
            assert np.corrcoef(means, added)[0, 1] == pytest.approx(planted.get((product, parameter), 0), abs=0.18)


# The command


@pytest.mark.long
def test_the_command_serves_the_files_of_the_settings_until_it_is_told_to_end(files: tuple[Path, Path]) -> None:
    command = [sys.executable, "-m", "etl_assets.cli", "simulate", "production", "--port", "0"]
    environment = {"PRODUCTION_METRICS_FILE": str(files[0]), "PRODUCTION_WORKORDERS_FILE": str(files[1])}
    with subprocess.Popen(
        [*command, "--source", "plant 4"], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout
        said = process.stdout.readline()
        assert said.startswith("production streams of plant 4 on http://127.0.0.1:")
        answer = requests.get(f"{said.split()[-1]}/metrics", params={"after": 2}, timeout=5)
        assert answer.json()["sequence"] == 3
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0


@pytest.mark.long
def test_the_command_refuses_a_file_that_is_not_there(files: tuple[Path, Path]) -> None:
    command = [sys.executable, "-m", "etl_assets.cli", "simulate", "production", "--metrics", "nowhere"]
    done = subprocess.run(
        [*command, "--workorders", str(files[1])], capture_output=True, text=True, timeout=30, env={}, check=False
    )
    assert (done.returncode, done.stderr) == (2, "error: nowhere: there is no such file\n")
