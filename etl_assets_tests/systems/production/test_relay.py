"""The relay over real HTTP and a real broker: what is in the broker afterwards, whatever the API does meanwhile."""

import asyncio
import contextlib
import dataclasses
import itertools
import json
import multiprocessing
import secrets
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from typing import Any
from urllib.parse import parse_qs

import pytest
import redis

from etl_assets.core.embedded import EmbeddedBroker
from etl_assets.core.sources.http.client import Limits
from etl_assets.core.sources.http.stream import StreamInterrupted
from etl_assets.core.sources.streams.broker import Batch, Broker, Position
from etl_assets.errors import ConfigurationError, PermanentError, TransientError
from etl_assets.simulators.server import serve
from etl_assets.systems.production.assets import ProductionApiResource
from etl_assets.systems.production.contracts import METRICS
from etl_assets.systems.production.relaying import Backoff, Lines, Relayed, relay
from etl_assets.systems.production.simulator import ProductionSimulator
from etl_assets.systems.production.source import ProductionApi

QUICK = Limits(
    connect_timeout_s=2, read_timeout_s=1, deadline_s=5.0, max_attempts=3, base_delay_s=0.001, max_delay_s=0.002
)
PATIENCE_S = 20.0

Send = Callable[[dict[str, Any]], Awaitable[None]]


def line(sequence: int) -> bytes:
    return b'{"sequence":%d,"record":{"id":%d,"val":0.5,"time":%d}}\n' % (sequence, sequence % 7, 10**9 + sequence)


def lines(first: int, last: int) -> bytes:
    return b"".join(line(sequence) for sequence in range(first, last + 1))


class Exchange:
    """One request to the API, and the ways to answer it."""

    def __init__(self, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Send) -> None:
        query = parse_qs(scope["query_string"].decode())
        self.path = scope["path"]
        self.after = int(query["after"][0])
        self.follow = query.get("follow") == ["true"]
        self._transport = scope["state"]["transport"]
        self._receive = receive
        self._send = send

    @property
    def is_over(self) -> bool:
        """Whether the client has gone."""
        return bool(self._transport.is_closing())

    async def start(self, *, status: int = 200, **headers: str) -> None:
        pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    async def write(self, body: bytes, *, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def end(self) -> None:
        await self.write(b"", more=False)

    async def reset(self) -> None:
        await asyncio.sleep(0.02)  # a reset overtakes what is still under way
        self._transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self._transport.abort()
        await self.stall()

    async def negative_chunk(self) -> None:
        self._transport.write(b"-5\r\n")
        self._transport.close()
        await self.stall()

    async def stall(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


Step = Callable[["Api", Exchange], Awaitable[None]]


@dataclass
class Api:
    """A streaming API: the lines 1 to `last` of `source`, unless a step of the script says otherwise."""

    last: int = 0
    source: str = "files:a"
    steps: deque[Step] = field(default_factory=deque)
    asked: list[int] = field(default_factory=list)

    async def __call__(self, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Send) -> None:
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send)
        self.asked.append(exchange.after)
        await (self.steps.popleft() if self.steps else everything)(self, exchange)


async def everything(api: Api, exchange: Exchange) -> None:
    if exchange.after > api.last and not exchange.follow:
        await exchange.start(status=416)
        await exchange.write(b'{"message":"there are %d"}' % api.last, more=False)
        return
    await exchange.start(X_Stream_Source=api.source, Content_Type="application/x-ndjson")
    await exchange.write(lines(exchange.after + 1, api.last))
    sent = max(api.last, exchange.after)
    while exchange.follow and not exchange.is_over:
        await asyncio.sleep(0.01)
        await exchange.write(lines(sent + 1, api.last) or b"\n")
        sent = max(api.last, sent)
    await exchange.end()


def status(code: int, **headers: str) -> Step:
    async def step(api: Api, exchange: Exchange) -> None:
        await exchange.start(status=code, **headers)
        await exchange.write(b'{"message":"so it is"}', more=False)

    return step


def body(*parts: bytes, then: str = "end", code: int = 200) -> Step:
    """Exactly these bytes, then the end, a reset or nothing at all."""

    async def step(api: Api, exchange: Exchange) -> None:
        await exchange.start(status=code, X_Stream_Source=api.source)
        for part in parts:
            await exchange.write(part)
        await getattr(exchange, then)()

    return step


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Api, str]]:
    api = Api()
    with serve(api) as url:
        yield api, url


@pytest.fixture
def api(served: tuple[Api, str]) -> Api:
    api, _ = served
    api.last, api.source = 0, "files:a"
    api.steps.clear()
    api.asked.clear()
    return api


@pytest.fixture
def source(served: tuple[Api, str]) -> ProductionApi:
    return ProductionApi(served[1], limits=QUICK)


@pytest.fixture(scope="module")
def broker_url(broker_server: EmbeddedBroker) -> Iterator[str]:
    with broker_server as url:
        yield url


@pytest.fixture
def broker(broker_url: str) -> Iterator[Broker]:
    broker = Broker(broker_url, prefix=f"relay-{secrets.token_hex(4)}:")
    yield broker
    broker.delete("metrics")
    broker.close()


def batches(broker: Broker) -> list[Batch]:
    entries = broker.read("metrics", after=0, batches=10**6)
    found = [entry for entry in entries if isinstance(entry, Batch)]
    assert len(found) == len(entries)
    return found


def content(broker: Broker) -> bytes:
    """All lines in the broker, in order; each batch is what it says that it is."""
    found = batches(broker)
    assert all(batch.lines.count(b"\n") == batch.count for batch in found)
    assert all(one.last + 1 == other.first for one, other in itertools.pairwise(found))
    return b"".join(batch.lines for batch in found)


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S} s: {what}"
        time.sleep(0.005)


# What is published


def test_a_stream_is_published_in_batches_of_a_thousand_as_it_came(
    api: Api, source: ProductionApi, broker: Broker
) -> None:
    api.last = 2500
    assert relay(source, broker, METRICS) == Relayed("metrics", "files:a", 2500, 2500, False)
    assert [(batch.first, batch.count, batch.source) for batch in batches(broker)] == [
        (1, 1000, "files:a"),
        (1001, 1000, "files:a"),
        (2001, 500, "files:a"),
    ]
    assert content(broker) == lines(1, 2500)


def test_the_next_relay_goes_on_where_the_brokers_stream_ends(api: Api, source: ProductionApi, broker: Broker) -> None:
    api.last = 1500
    relay(source, broker, METRICS)
    api.last = 1700
    assert relay(source, broker, METRICS, committed=_unasked) == Relayed("metrics", "files:a", 200, 1700, False)
    assert relay(source, broker, METRICS, committed=_unasked) == Relayed("metrics", "files:a", 0, 1700, False)
    assert api.asked == [0, 1500, 1700]
    assert content(broker) == lines(1, 1700)


def _unasked() -> Position:
    raise AssertionError("the broker's stream says where it ends")


def test_it_goes_on_also_when_all_was_drained_and_trimmed(api: Api, source: ProductionApi, broker: Broker) -> None:
    api.last = 2500
    relay(source, broker, METRICS)
    broker.trim("metrics", committed=2500)
    api.last = 2600
    assert relay(source, broker, METRICS).published == 100
    assert content(broker) == lines(2001, 2600)


def test_when_the_broker_was_emptied_it_goes_on_after_the_committed_position(
    api: Api, source: ProductionApi, broker: Broker
) -> None:
    api.last = 2500
    relay(source, broker, METRICS)
    broker.delete("metrics")
    done = relay(source, broker, METRICS, committed=lambda: Position("files:a", 1200))
    assert done == Relayed("metrics", "files:a", 1300, 2500, False)
    assert content(broker) == lines(1201, 2500)


def test_an_empty_stream_publishes_nothing(api: Api, source: ProductionApi, broker: Broker) -> None:
    assert relay(source, broker, METRICS) == Relayed("metrics", "files:a", 0, 0, False)
    assert broker.newest("metrics") is None


def test_the_pieces_may_end_anywhere(api: Api, source: ProductionApi, broker: Broker) -> None:
    text = lines(1, 1003)
    api.steps.append(body(*(text[i : i + 997] for i in range(0, len(text), 997))))
    relay(source, broker, METRICS)
    assert content(broker) == text


def test_a_last_line_without_an_end_counts_if_it_is_whole(api: Api, source: ProductionApi, broker: Broker) -> None:
    api.steps.append(body(lines(1, 3)[:-1]))
    assert relay(source, broker, METRICS).published == 3
    assert content(broker) == lines(1, 3)


def test_heartbeats_are_no_records(api: Api, source: ProductionApi, broker: Broker) -> None:
    api.steps.append(body(b"\n", lines(1, 2) + b"\n" + line(3), b"\r\n", b"\n\n", lines(4, 5) + b"\n"))
    relay(source, broker, METRICS)
    assert content(broker) == lines(1, 5)


def test_an_api_without_a_source_has_the_source_without_a_name(api: Api, source: ProductionApi, broker: Broker) -> None:
    api.last, api.source = 3, ""
    assert relay(source, broker, METRICS).source == ""
    assert [batch.source for batch in batches(broker)] == [""]


# What goes wrong and is overcome


@pytest.mark.parametrize(
    ("fault", "resumed_after"),
    [
        pytest.param(status(500), {0}, id="500"),
        pytest.param(status(502), {0}, id="502"),
        pytest.param(status(503, Retry_After="0"), {0}, id="503 with Retry-After"),
        pytest.param(status(429, Retry_After="0"), {0}, id="429 with Retry-After"),
        pytest.param(status(429), {0}, id="429"),
        pytest.param(status(408), {0}, id="408"),
        # What a reset overtakes on its way is lost.
        pytest.param(body(lines(1, 1700)[:-9], then="reset"), {0, 1000, 1699}, id="reset in the middle of a line"),
        pytest.param(body(lines(1, 1700), then="reset"), {0, 1000, 1700}, id="reset between two lines"),
        pytest.param(body(lines(1, 1700)[:-9]), {1699}, id="half a last line"),
        pytest.param(body(lines(1, 1700)[:-9], then="negative_chunk"), {1699}, id="a chunk of a negative size"),
        pytest.param(body(b"{", then="negative_chunk", code=503), {0}, id="503 with a chunk of a negative size"),
        pytest.param(
            body(lines(1, 1700)[:-9], then="stall"),
            {1699},
            id="read time-out in the middle of a line",
            marks=pytest.mark.long,
        ),
        pytest.param(body(then="stall"), {0}, id="read time-out before the first line", marks=pytest.mark.long),
        pytest.param(body(b"<!doctype html><p>We will be back soon"), {0}, id="HTML"),
        pytest.param(body(lines(1, 1700) + b"upstream connect error\n"), {1700}, id="a text at the end"),
    ],
)
def test_what_passes_by_itself_is_overcome_without_loss_or_doubling(
    api: Api, source: ProductionApi, broker: Broker, fault: Step, resumed_after: set[int]
) -> None:
    api.last = 2500
    api.steps.append(fault)
    assert relay(source, broker, METRICS) == Relayed("metrics", "files:a", 2500, 2500, False)
    assert content(broker) == lines(1, 2500)
    assert len(api.asked) == 2
    assert api.asked[1] in resumed_after


def test_a_stream_that_breaks_again_and_again_goes_on_as_long_as_something_comes(
    api: Api, source: ProductionApi, broker: Broker
) -> None:
    for i in range(8):
        api.steps.append(body(lines(10 * i + 1, 10 * i + 15)[:-9], then="reset"))
        api.last = 10 * i + 15
    # Each begins with lines that were published before: they are dropped.
    done = relay(source, broker, METRICS)
    assert (done.published, done.position) == (85, 85)
    assert content(broker) == lines(1, 85)


def test_without_progress_it_gives_up_and_what_came_is_there(api: Api, source: ProductionApi, broker: Broker) -> None:
    api.steps.extend([body(lines(1, 1200), then="reset"), *([status(503)] * 3)])
    with pytest.raises(TransientError) as caught:
        relay(source, broker, METRICS)
    assert str(caught.value).startswith("relay of metrics: tried 3 times in ")
    assert "without progress (deadline 5 s), at last: production API, GET /metrics?after=1200: answered 503" in str(
        caught.value
    )
    assert content(broker) == lines(1, 1200)


def test_a_wait_that_is_longer_than_the_deadline_is_not_begun(api: Api, source: ProductionApi, broker: Broker) -> None:
    api.steps.append(status(503, Retry_After="3600"))
    with pytest.raises(TransientError, match="tried once"):
        relay(source, broker, METRICS)


def test_a_trickle_without_a_complete_record_ends_at_the_deadline(
    api: Api, served: tuple[Api, str], broker: Broker
) -> None:
    async def trickle(api: Api, exchange: Exchange) -> None:
        await exchange.start(X_Stream_Source=api.source)
        while not exchange.is_over:
            await exchange.write(b"\n")
            await asyncio.sleep(0.01)

    api.steps.extend([trickle] * 5)
    quick = ProductionApi(served[1], limits=Limits(deadline_s=0.4, base_delay_s=0.001))
    with pytest.raises(TransientError, match="the API's stream metrics brings no complete record"):
        relay(quick, broker, METRICS)


@pytest.mark.parametrize("repeated", [lines(1, 500), lines(499, 500), lines(500, 500)])
def test_repeated_lines_are_dropped(api: Api, source: ProductionApi, broker: Broker, repeated: bytes) -> None:
    api.steps.append(body(lines(1, 500) + repeated + lines(501, 1500)))
    assert relay(source, broker, METRICS).published == 1500
    assert content(broker) == lines(1, 1500)


@pytest.mark.parametrize("place", [1, 2, 700, 1000, 1001, 1499])
def test_a_line_that_is_no_record_keeps_its_place_and_goes_to_the_drain(
    api: Api, source: ProductionApi, broker: Broker, place: int
) -> None:
    text = lines(1, place - 1) + b"not JSON\n" + lines(place + 1, 1500)
    api.steps.append(body(text))
    assert relay(source, broker, METRICS).published == 1500
    assert content(broker) == text


def test_a_sequence_is_found_wherever_it_stands(api: Api, source: ProductionApi, broker: Broker) -> None:
    text = b"".join(b'{"record": {"val": "\xc3\xa9"}, "sequence": %d}\n' % i for i in range(1, 1202))
    api.steps.append(body(text))
    assert relay(source, broker, METRICS).position == 1201
    assert content(broker) == text


# What somebody has to see to


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (401, "answered 401 (“so it is”)"),
        (403, "answered 403"),
        (404, "answered 404 (“so it is”): there is no such thing at http://127.0.0.1:"),
        (410, "answered 410"),
        (422, "answered 422"),
    ],
)
def test_a_refusal_is_not_repeated(api: Api, source: ProductionApi, broker: Broker, code: int, said: str) -> None:
    api.steps.append(status(code))
    with pytest.raises(PermanentError) as caught:
        relay(source, broker, METRICS)
    assert f"production API, GET /metrics?after=0: {said}" in str(caught.value)
    assert ("PRODUCTION_API_URL" in str(caught.value)) == (code in (401, 403, 404))
    assert len(api.asked) == 1


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        (lines(2, 5), 0, 2),
        (lines(1, 500) + lines(502, 900), 500, 502),
        (lines(1, 999) + lines(1011, 3000), 999, 1011),
        (lines(1, 1000) + lines(1003, 3000), 1000, 1003),
        (line(2) + line(1) + lines(3, 5), 0, 2),
    ],
)
def test_a_hole_is_an_error_that_names_its_ends(
    api: Api, source: ProductionApi, broker: Broker, text: bytes, before: int, after: int
) -> None:
    api.steps.append(body(text))
    with pytest.raises(PermanentError) as caught:
        relay(source, broker, METRICS)
    assert (
        f"the API's stream metrics goes from sequence {before} to {after}: {before + 1} to {after - 1} are missing"
        in str(caught.value)
    )
    assert content(broker) == lines(1, before)
    assert len(api.asked) == 1


@pytest.mark.parametrize("records", [0, 3, 1000, 1200])
def test_what_the_api_reports_of_itself_is_said_and_what_came_before_is_published(
    api: Api, source: ProductionApi, broker: Broker, records: int
) -> None:
    api.steps.append(body(lines(1, records) + b'{"error":"metrics.json: cut in the middle at byte 77"}\n'))
    with pytest.raises(PermanentError) as caught:
        relay(source, broker, METRICS)
    assert str(caught.value) == (
        f"the API's stream metrics, after sequence {records}: the API says: metrics.json: cut in the middle at byte 77"
    )
    assert content(broker) == lines(1, records)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'[{"id":1,"val":2}]\n', 'a line that is no record: [{"id":1,"val":2}]'),
        (b"x" * 300 + b"\n", "a line that is no record: " + "x" * 79 + "…"),
        (b'{"sequence":1,"rec', "ended in the middle of the line after sequence 0"),
        (b"no record\n" + lines(1, 3), "a line that is no record: no record"),
        (b"<!doctype html><h1>Log in", "answered 200 with a page (HTML or XML) instead of JSON"),
    ],
)
def test_what_is_no_stream_of_records_is_named_when_it_lasts(
    api: Api, source: ProductionApi, broker: Broker, text: bytes, said: str
) -> None:
    api.steps.extend([body(text)] * 3)
    with pytest.raises(TransientError) as caught:
        relay(source, broker, METRICS)
    assert said in str(caught.value)
    assert len(api.asked) == 3
    assert broker.newest("metrics") is None


def test_a_line_without_end_is_refused_before_it_fills_the_memory() -> None:
    cutter = Lines("metrics", after=7)
    assert all(cutter.feed(b"x" * (1 << 20)) == [] for _ in range(17))
    assert isinstance(cutter.fault, PermanentError)
    assert "the line after sequence 7 is longer than 16777216 bytes" in str(cutter.fault)


def test_a_line_without_a_place_in_the_stream_is_a_fault_before_anything_after_it_is_given_out() -> None:
    cutter = Lines("metrics", after=0)
    cutter.feed(line(1) + b"who am I\n")
    assert [(cut.first, cut.count) for cut in cutter.flush()] == [(1, 1)]
    cutter.feed(lines(2, 4))
    assert cutter.flush() == []
    assert "after sequence 1: a line that is no record: who am I" in str(cutter.fault)


def test_long_records_make_smaller_batches() -> None:
    cutter = Lines("metrics", after=0)
    long_lines = [b'{"sequence":%d,"record":"%s"}\n' % (i, b"x" * (6 << 20)) for i in range(1, 5)]
    cuts = [(cut.first, cut.count) for long_line in long_lines for cut in cutter.feed(long_line)]
    assert cuts == [(1, 3)]
    assert [(cut.first, cut.count) for cut in cutter.end()] == [(4, 1)]


# Another source


@pytest.mark.parametrize("old", ["files:a", "simulated:1/1"])
@pytest.mark.parametrize("last", [1500, 40])
def test_a_source_that_can_be_read_again_makes_room_for_another(
    api: Api, source: ProductionApi, broker: Broker, old: str, last: int
) -> None:
    api.last, api.source = 1500, old
    relay(source, broker, METRICS)
    api.last, api.source = last, "plant-7"
    assert relay(source, broker, METRICS) == Relayed("metrics", "plant-7", last, last, False)
    assert {batch.source for batch in batches(broker)} == {"plant-7"}
    assert content(broker) == lines(1, last)


def test_the_old_source_stays_in_the_broker_until_something_of_the_new_one_is_there(
    api: Api, source: ProductionApi, broker: Broker
) -> None:
    api.last = 1500
    relay(source, broker, METRICS)
    api.last, api.source = 1500, "files:b"
    api.steps.extend([everything, status(503), everything, status(503), everything, status(404)])
    with pytest.raises(PermanentError, match="404"):
        relay(source, broker, METRICS)
    assert {batch.source for batch in batches(broker)} == {"files:a"}
    assert relay(source, broker, METRICS).published == 1500
    assert {batch.source for batch in batches(broker)} == {"files:b"}


@pytest.mark.parametrize("last", [1500, 40])
@pytest.mark.parametrize(("old", "shown"), [("plant-7", "'plant-7'"), ("", "a source without a name")])
def test_a_source_that_cannot_be_read_again_is_kept(
    api: Api, source: ProductionApi, broker: Broker, last: int, old: str, shown: str
) -> None:
    api.last, api.source = 1500, old
    relay(source, broker, METRICS)
    api.last, api.source = last, "plant-8"
    with pytest.raises(PermanentError) as caught:
        relay(source, broker, METRICS)
    assert f"from 'plant-8', while what is stored is from {shown}" in str(caught.value)
    assert "`etl-assets production reset --yes`" in str(caught.value)
    assert content(broker) == lines(1, 1500)


@pytest.mark.parametrize("last", [1500, 40])
def test_another_source_is_noticed_by_the_committed_position_when_the_broker_was_emptied(
    api: Api, source: ProductionApi, broker: Broker, last: int
) -> None:
    api.last = last
    assert relay(source, broker, METRICS, committed=lambda: Position("files:old", 300)).published == last
    assert content(broker) == lines(1, last)
    broker.delete("metrics")
    with pytest.raises(PermanentError, match="'plant-7'"):
        relay(source, broker, METRICS, committed=lambda: Position("plant-7", 300))
    assert broker.newest("metrics") is None


def test_a_source_that_has_become_shorter_is_an_error(api: Api, source: ProductionApi, broker: Broker) -> None:
    api.last = 1500
    relay(source, broker, METRICS)
    api.last = 1499
    with pytest.raises(PermanentError) as caught:
        relay(source, broker, METRICS)
    assert "the API has fewer than the 1500 records of metrics that were already read from 'files:a'" in str(
        caught.value
    )
    assert "answered 416 (“there are 1499”)" in str(caught.value.__cause__)


# The broker


def test_a_foreign_entry_is_waited_for_until_somebody_clears_it(
    api: Api, source: ProductionApi, broker: Broker, broker_url: str
) -> None:
    with contextlib.closing(redis.Redis.from_url(broker_url)) as client:
        client.xadd(broker.key("metrics"), {"who": "knows"}, id="77-1")
    with pytest.raises(TransientError, match="ends with entry 77-1, which no relay of ours wrote"):
        relay(source, broker, METRICS)
    assert api.asked == []


def test_a_broker_that_is_down_is_transient(api: Api, source: ProductionApi) -> None:
    with pytest.raises(TransientError, match="tried 3 times .* could not read the end of metrics on the broker"):
        relay(source, Broker("redis://127.0.0.1:1/0"), METRICS)


def test_an_ambiguous_publish_is_looked_at_before_it_is_repeated(
    api: Api, source: ProductionApi, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to the second publish is lost, after or before it took effect."""
    publish, calls = broker.publish, iter(("ok", "lost after", "ok", "lost before"))

    def unreliable(stream: str, batches: Any, **options: Any) -> None:
        fate = next(calls, "ok")
        if fate != "lost before":
            publish(stream, batches, **options)
        if fate != "ok":
            raise TransientError("could not publish: the connection broke")

    monkeypatch.setattr(broker, "publish", unreliable)
    api.last = 9000
    api.steps.extend([body(lines(1, 1000), lines(1001, 2000), then="reset")] * 1)
    relay(source, broker, METRICS)
    assert content(broker) == lines(1, 9000)


def test_a_stream_that_is_emptied_under_the_relay_gets_no_hole(
    api: Api, source: ProductionApi, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish, calls = broker.publish, iter(("ok", "emptied before"))

    def emptied(stream: str, batches: Any, **options: Any) -> None:
        if next(calls, "ok") != "ok":
            broker.delete(stream)
        publish(stream, batches, **options)

    monkeypatch.setattr(broker, "publish", emptied)
    api.last = 20_000
    relay(source, broker, METRICS, committed=lambda: Position("files:a", 300))
    assert content(broker) == lines(301, 20_000)


def test_two_relays_at_once_lose_and_double_nothing(
    api: Api, source: ProductionApi, broker: Broker, broker_url: str
) -> None:
    api.last = 60_000
    done: list[Relayed] = []

    def run() -> None:
        other = Broker(broker_url, prefix=broker.key(""))
        with contextlib.closing(other):
            done.append(relay(source, other, METRICS))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [relayed.position for relayed in done] == [60_000, 60_000]
    assert sum(relayed.published for relayed in done) == 60_000
    assert content(broker) == lines(1, 60_000)


def test_a_full_backlog_ends_the_relay_and_the_next_goes_on(api: Api, source: ProductionApi, broker: Broker) -> None:
    api.last = 50_000
    position, turns = 0, 0
    while True:
        done = relay(source, broker, METRICS, backlog=9_000)
        assert done.published == done.position - position
        assert broker.held("metrics") == 1000 * bool(position) + done.published
        assert not done.backlog_full or 9_000 <= broker.held("metrics") < 17_000
        again = relay(source, broker, METRICS, backlog=9_000)
        assert (again.published, again.backlog_full) == (0, done.backlog_full)
        position, turns = done.position, turns + 1
        if not done.backlog_full:
            break
        broker.trim("metrics", committed=position)
    assert position == 50_000
    assert turns >= 3


# Following


@contextlib.contextmanager
def following(source: ProductionApi, broker: Broker, **options: Any) -> Iterator[list[Relayed]]:
    """A relay that follows, until the end of the block; then what it did."""
    stop, done = threading.Event(), list[Relayed]()
    thread = threading.Thread(
        target=lambda: done.append(relay(source, broker, METRICS, follow=True, stop=stop, **options))
    )
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join(timeout=PATIENCE_S)
        assert not thread.is_alive()


def _reaches(broker: Broker, sequence: int) -> None:
    def there() -> bool:
        newest = broker.newest("metrics")
        return isinstance(newest, Batch) and newest.last == sequence

    eventually(there, f"the broker has sequence {sequence}")


def test_a_following_relay_publishes_what_comes_until_it_is_stopped(
    api: Api, source: ProductionApi, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etl_assets.systems.production.relaying.MAX_AGE_S", float("inf"))
    api.last = 1200
    with following(source, broker) as done:
        for last in (1200, 1201, 1300, 4000):
            api.last = last
            _reaches(broker, last)
    assert done == [Relayed("metrics", "files:a", 4000, 4000, False)]
    assert content(broker) == lines(1, 4000)


def test_without_heartbeats_a_record_does_not_wait_for_its_batch_to_fill_up(
    api: Api, source: ProductionApi, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etl_assets.systems.production.relaying.MAX_AGE_S", 0)

    async def one_by_one(api: Api, exchange: Exchange) -> None:
        await exchange.start(X_Stream_Source=api.source)
        for sequence in range(1, 4):
            await exchange.write(line(sequence))
            while await asyncio.to_thread(_last, broker) < sequence:
                await asyncio.sleep(0.001)
        await exchange.end()

    api.steps.append(one_by_one)
    assert relay(source, broker, METRICS).published == 3
    assert [(batch.first, batch.count) for batch in batches(broker)] == [(1, 1), (2, 1), (3, 1)]


def test_what_has_arrived_is_published_when_the_relay_is_stopped(
    api: Api, source: ProductionApi, broker: Broker
) -> None:
    stop = threading.Event()

    async def stopping(api: Api, exchange: Exchange) -> None:
        await exchange.start(X_Stream_Source=api.source)
        await exchange.write(lines(1, 5))
        stop.set()
        await exchange.write(line(6))
        await exchange.stall()

    api.steps.append(stopping)
    done = relay(source, broker, METRICS, follow=True, stop=stop)
    assert done.position in (5, 6)
    assert content(broker) == lines(1, done.position)


@pytest.mark.long
def test_a_following_relay_outlives_every_transient_failure(api: Api, source: ProductionApi, broker: Broker) -> None:
    api.last = 100
    api.steps.extend([status(503)] * 10)
    api.steps.extend([body(lines(1, 50)), body(then="reset"), body(b"<html>"), body(lines(51, 60), then="stall")])
    with following(source, broker) as done:
        _reaches(broker, 100)
    assert done == [Relayed("metrics", "files:a", 100, 100, False)]
    assert content(broker) == lines(1, 100)


@pytest.mark.long
def test_a_following_relay_stops_at_a_permanent_failure(api: Api, source: ProductionApi, broker: Broker) -> None:
    api.steps.append(body(lines(1, 5) + b'{"error":"the file is gone"}\n', then="stall"))
    with pytest.raises(PermanentError, match="the file is gone"):
        relay(source, broker, METRICS, follow=True)
    assert content(broker) == lines(1, 5)


def test_a_following_relay_waits_while_the_backlog_is_full(
    api: Api, source: ProductionApi, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etl_assets.systems.production.relaying.BACKLOG_POLL_S", 0.005)
    api.last = 50_000
    with following(source, broker, backlog=9_000) as done:
        committed = 0
        while committed < 50_000:
            eventually(lambda: broker.held("metrics") >= 9_000 or _last(broker) == 50_000, "the room fills")
            assert broker.held("metrics") < 17_000
            committed = _last(broker)
            content(broker)
            broker.trim("metrics", committed=committed)
    assert done == [Relayed("metrics", "files:a", 50_000, 50_000, False)]


def _last(broker: Broker) -> int:
    newest = broker.newest("metrics")
    return newest.last if isinstance(newest, Batch) else 0


def test_a_relay_that_was_stopped_before_it_began_does_nothing(api: Api, source: ProductionApi, broker: Broker) -> None:
    stop = threading.Event()
    stop.set()
    assert relay(source, broker, METRICS, stop=stop) == Relayed("metrics", "", 0, 0, False)
    assert api.asked == []


# Kills


def _relay_process(url: str, broker_url: str, prefix: str) -> None:
    relay(ProductionApi(url), Broker(broker_url, prefix=prefix), METRICS)


@pytest.mark.long
def test_a_relay_that_is_killed_again_and_again_loses_and_doubles_nothing(
    api: Api, served: tuple[Api, str], source: ProductionApi, broker: Broker, broker_url: str
) -> None:
    async def in_steps(api: Api, exchange: Exchange) -> None:
        await exchange.start(X_Stream_Source=api.source)
        for first in range(exchange.after + 1, api.last + 1, 700):
            await exchange.write(lines(first, min(first + 699, api.last)))
            await asyncio.sleep(0.005)
        await exchange.end()

    api.last = 40_000
    api.steps.extend([in_steps] * 10)
    context = multiprocessing.get_context("spawn")
    for _ in range(10):
        process = context.Process(target=_relay_process, args=(served[1], broker_url, broker.key("")))
        before = _last(broker)
        process.start()
        eventually(lambda: _last(broker) > before or not process.is_alive(), "the relay publishes")  # noqa: B023
        process.kill()
        process.join()
        # Read once: what the killed one has sent last may come between two looks.
        found = content(broker)
        assert found == lines(1, found.count(b"\n"))
    relay(source, broker, METRICS)
    assert content(broker) == lines(1, 40_000)


# The parts


def test_patience_counts_from_the_last_progress() -> None:
    now, stop = [0.0], threading.Event()
    limits = Limits(deadline_s=10, max_attempts=100, base_delay_s=0, max_delay_s=0)
    patience = Backoff("relay of metrics", limits, endless=False, stop=stop, clock=lambda: now[0])
    now[0] = 9.0
    patience.pause(TransientError("x"))
    patience.progressed()
    now[0] = 18.9
    assert not patience.is_over()
    patience.pause(TransientError("x"))
    now[0] = 19.0
    assert patience.is_over()
    with pytest.raises(
        TransientError, match=r"tried 2 times in 10\.0 s without progress \(deadline 10 s\), at last: x"
    ):
        patience.pause(TransientError("x"))


def test_endless_patience_waits_as_long_as_the_server_asks_unless_it_is_stopped() -> None:
    stop = threading.Event()
    patience = Backoff("relay", Limits(max_attempts=1, base_delay_s=0), endless=True, stop=stop)
    for _ in range(2000):
        patience.pause(TransientError("x"))
    threading.Timer(0.01, stop.set).start()
    patience.pause(StreamInterrupted("x", retry_after_s=3600))
    assert stop.is_set()


def test_the_api_is_the_one_of_the_setting(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="PRODUCTION_API_URL is not set"):
        ProductionApiResource().connect()
    monkeypatch.setenv("PRODUCTION_API_URL", "http://user:s3cret@[broken")
    with pytest.raises(ConfigurationError, match="base URL is not of the form") as caught:
        ProductionApiResource().connect()
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("fault", [status(401), status(503), body(then="reset"), body(line(1), then="stall")])
def test_a_password_in_the_apis_url_is_not_said(api: Api, served: tuple[Api, str], broker: Broker, fault: Step) -> None:
    api.steps.extend([fault] * 3)
    url = served[1].replace("http://", "http://user:s3cret@")
    with pytest.raises((PermanentError, TransientError)) as caught:
        relay(ProductionApi(url, limits=dataclasses.replace(QUICK, read_timeout_s=0.05)), broker, METRICS)
    error: BaseException | None = caught.value
    while error is not None:
        # The HTTP library's own exceptions can quote headers.
        assert type(error).__module__.startswith("etl_assets.")
        assert "s3cret" not in f"{error!r} {vars(error)!r}"
        error = error.__cause__ or error.__context__


# Over the simulator, with its faults


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ProductionSimulator, ProductionApi]]:
    folder = tmp_path_factory.mktemp("files")
    records = [{"id": i % 5, "val": i / 3, "time": 1_600_000_000 + i} for i in range(1, 2501)]
    (folder / "metrics.json").write_text(json.dumps(records))
    (folder / "workorder.json").write_text("[]")
    made = ProductionSimulator(folder / "metrics.json", folder / "workorder.json")
    made.faults.retry_after_s, made.faults.stall_s = 0.0, 2.0
    with serve(made.app) as url:
        yield made, ProductionApi(url, limits=QUICK)


@pytest.fixture
def simulator(simulated: tuple[ProductionSimulator, ProductionApi]) -> tuple[ProductionSimulator, ProductionApi]:
    simulated[0].reset()
    return simulated


def sequences(broker: Broker) -> list[int]:
    return [json.loads(text)["sequence"] for text in content(broker).splitlines()]


@pytest.mark.parametrize(
    "faults",
    [
        ["500", "503"],
        ["429-retry-after", "429"],
        ["reset", "response-lost"],
        ["reset-mid-body", "truncated-json"],
        ["short-body", "reset-mid-body", "reset-mid-body"],
        ["timeout", "html"],
        ["timeout-mid-body"],
    ],
)
def test_the_simulators_faults_are_overcome(
    simulator: tuple[ProductionSimulator, ProductionApi], broker: Broker, faults: list[str]
) -> None:
    made, source = simulator
    made.faults.script("metrics", faults)
    done = relay(source, broker, METRICS)
    assert done == Relayed("metrics", made.source, 2500, 2500, False)
    assert sequences(broker) == list(range(1, 2501))
    assert sum(made.faults.count("metrics", fault) for fault in set(faults)) == len(faults)


def test_the_simulators_holes_repeats_and_poison_are_what_they_are(
    simulator: tuple[ProductionSimulator, ProductionApi], broker: Broker
) -> None:
    made, source = simulator
    made.repeat("metrics", 400, 450)
    made.poison("metrics", 1000, "{not JSON")
    made.append("metrics", [{"id": 1}, "a line of text"])
    made.skip("metrics", 2001, 2010)
    with pytest.raises(PermanentError, match="goes from sequence 2000 to 2011: 2001 to 2010 are missing"):
        relay(source, broker, METRICS)
    made.unchanged()
    assert relay(source, broker, METRICS).position == 2502
    found = content(broker).splitlines()
    assert len(found) == 2502
    assert found[999] == b"{not JSON"
    assert found[2501] == b'{"sequence":2502,"text":"a line of text"}'


def test_a_file_of_the_simulator_that_is_cut_is_published_up_to_there(tmp_path: Path, broker: Broker) -> None:
    text = json.dumps([{"id": 1, "val": i, "time": i} for i in range(1, 1201)])
    (tmp_path / "m.json").write_text(text[:-20])
    (tmp_path / "w.json").write_text("[]")
    made = ProductionSimulator(tmp_path / "m.json", tmp_path / "w.json")
    with serve(made.app) as url, pytest.raises(PermanentError, match="after sequence 1199: the API says: .*m.json"):
        relay(ProductionApi(url, limits=QUICK), broker, METRICS)
    assert sequences(broker) == list(range(1, 1200))


@pytest.mark.long
def test_records_that_the_simulator_gets_are_followed(
    simulator: tuple[ProductionSimulator, ProductionApi], broker: Broker
) -> None:
    made, source = simulator
    with following(source, broker) as done:
        _reaches(broker, 2500)
        made.append("metrics", [{"id": 1, "val": 2, "time": 3}])
        _reaches(broker, 2501)
    assert done[0].published == 2501


def test_the_brokers_times_are_recent(api: Api, source: ProductionApi, broker: Broker) -> None:
    api.last = 3
    relay(source, broker, METRICS)
    [batch] = batches(broker)
    assert abs((datetime.now(UTC) - batch.published_at).total_seconds()) < 3600
