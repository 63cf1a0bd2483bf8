"""The broker's streams over a real server: what is kept, what is refused, what is trimmed, and what errors mean."""

import contextlib
import json
import os
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from etl_assets.core.dagster.broker import BrokerResource
from etl_assets.core.embedded import EmbeddedBroker
from etl_assets.core.servers import platform_broker
from etl_assets.core.sources.streams.broker import AlreadyPublished, Batch, Broker, Foreign, Lag, Position, StreamMoved
from etl_assets.errors import ConfigurationError, PermanentError, TransientError
from etl_assets.settings import load_settings

NEVER = datetime.fromtimestamp(0, UTC)
PASSWORD = "s3cret/of the+broker"


def batch(first: int, count: int, *, source: str = "files:a") -> Batch:
    lines = b"".join(b'{"sequence":%d,"record":{"val":%d}}\n' % (i, i * 7) for i in range(first, first + count))
    return Batch(first, count, source, NEVER, lines)


@pytest.fixture(scope="module")
def url(broker_server: EmbeddedBroker) -> Iterator[str]:
    with broker_server as found:
        yield found


@pytest.fixture
def server(url: str) -> Iterator[Any]:
    with contextlib.closing(redis.Redis.from_url(url)) as client:
        yield client


@pytest.fixture
def broker(url: str) -> Iterator[Broker]:
    broker = Broker(url, prefix=f"test-{secrets.token_hex(4)}:")
    yield broker
    broker.delete("metrics")
    broker.close()


def spans(broker: Broker, *, after: int = 0, batches: int = 100) -> list[tuple[int, int]]:
    entries = broker.read("metrics", after=after, batches=batches)
    return [(entry.first, entry.last) for entry in entries if isinstance(entry, Batch)]


# What is kept


def test_a_batch_is_read_as_it_was_published_with_the_brokers_time(broker: Broker, server: Any) -> None:
    before = server.time()
    broker.publish("metrics", [batch(1, 1000, source="files:é")])
    after = server.time()
    [read] = broker.read("metrics", after=0, batches=1)
    assert isinstance(read, Batch)
    assert (read.first, read.count, read.last, read.source) == (1, 1000, 1000, "files:é")
    assert read.lines == batch(1, 1000).lines
    seconds = read.published_at.timestamp()
    assert before[0] + before[1] / 1e6 - 1e-5 <= seconds <= after[0] + after[1] / 1e6 + 1e-5
    assert read.published_at.tzinfo is UTC


def test_the_lines_are_stored_compressed(broker: Broker, server: Any) -> None:
    broker.publish("metrics", [batch(1, 1000)])
    [(entry_id, fields)] = server.xrange(broker.key("metrics"))
    assert entry_id == b"1000-0"
    assert len(fields[b"lines"]) < len(batch(1, 1000).lines) / 3


def test_entries_are_read_in_order_after_a_sequence_and_as_many_as_wanted(broker: Broker) -> None:
    broker.publish("metrics", [batch(1, 3), batch(4, 3), batch(7, 1)])
    assert spans(broker) == [(1, 3), (4, 6), (7, 7)]
    assert spans(broker, after=3) == [(4, 6), (7, 7)]
    assert spans(broker, after=4, batches=1) == [(4, 6)]
    assert spans(broker, after=7) == []


def test_a_stream_that_is_not_there_is_empty(broker: Broker) -> None:
    assert broker.newest("metrics") is None
    assert broker.read("metrics", after=0, batches=10) == []
    assert broker.lag("metrics", committed=0) == Lag(0, 0, 0.0)
    assert (broker.held("metrics"), broker.entries("metrics")) == (0, 0)
    broker.trim("metrics", committed=10)
    broker.publish("metrics", [])
    assert broker.entries("metrics") == 0


def test_the_newest_entry_says_how_far_the_stream_is(broker: Broker) -> None:
    broker.publish("metrics", [batch(1, 3), batch(4, 3)])
    newest = broker.newest("metrics")
    assert isinstance(newest, Batch)
    assert (newest.first, newest.last, newest.lines) == (4, 6, batch(4, 3).lines)


def test_a_deleted_stream_begins_with_any_sequence(broker: Broker) -> None:
    broker.publish("metrics", [batch(1, 3), batch(4, 3)])
    broker.delete("metrics")
    broker.publish("metrics", [batch(1, 2)])
    assert spans(broker) == [(1, 2)]


# What is refused


@pytest.mark.parametrize("again", [batch(4, 3), batch(1, 3), batch(2, 5)])
def test_a_batch_that_is_there_is_refused_by_the_broker(broker: Broker, again: Batch) -> None:
    broker.publish("metrics", [batch(1, 3), batch(4, 3)])
    with pytest.raises(AlreadyPublished, match="ends with entry 6-0 and refuses a batch among"):
        broker.publish("metrics", [again])
    assert spans(broker) == [(1, 3), (4, 6)]


def test_a_batch_that_reaches_farther_is_taken_though_it_overlaps(broker: Broker) -> None:
    broker.publish("metrics", [batch(1, 3)])
    broker.publish("metrics", [batch(2, 4)])
    assert spans(broker) == [(1, 3), (2, 5)]


@pytest.mark.parametrize(
    ("newest", "message"),
    [
        (Position("files:a", 3), "was to end with sequence 3 of 'files:a' and ends with 6-0"),
        (Position("files:b", 6), "was to end with sequence 6 of 'files:b' and ends with 6-0 of files:a"),
        (None, "was to end with no entry and ends with 6-0"),
    ],
)
def test_nothing_is_published_onto_an_end_that_is_not_the_expected_one(
    broker: Broker, newest: Position | None, message: str
) -> None:
    broker.publish("metrics", [batch(1, 3), batch(4, 3)])
    with pytest.raises(StreamMoved, match=message):
        broker.publish("metrics", [batch(7, 1)], newest=newest)
    assert spans(broker) == [(1, 3), (4, 6)]
    broker.publish("metrics", [batch(7, 1)], newest=Position("files:a", 6))
    assert spans(broker, after=6) == [(7, 7)]


def test_nothing_is_published_onto_a_stream_that_was_emptied(broker: Broker) -> None:
    with pytest.raises(StreamMoved, match="ends with none"):
        broker.publish("metrics", [batch(7, 1)], newest=Position("files:a", 6))
    assert broker.entries("metrics") == 0


def test_a_stream_begun_anew_is_the_new_one_or_still_the_old(broker: Broker) -> None:
    broker.publish("metrics", [batch(1, 3), batch(4, 3)])
    with pytest.raises(StreamMoved):
        broker.publish("metrics", [batch(1, 2, source="files:b")], newest=Position("files:a", 3), anew=True)
    assert spans(broker) == [(1, 3), (4, 6)]
    broker.publish("metrics", [batch(1, 2, source="files:b")], newest=Position("files:a", 6), anew=True)
    assert [entry.source for entry in broker.read("metrics", after=0, batches=9) if isinstance(entry, Batch)] == [
        "files:b"
    ]


# What is trimmed, and what waits


@pytest.mark.parametrize(
    ("committed", "left"),
    [
        (0, [(1, 3), (4, 6), (7, 7)]),
        (2, [(1, 3), (4, 6), (7, 7)]),
        (3, [(4, 6), (7, 7)]),
        (5, [(4, 6), (7, 7)]),
        (6, [(7, 7)]),
        (7, [(7, 7)]),
        (10**15, [(7, 7)]),
    ],
)
def test_a_trim_drops_what_is_committed_but_never_the_newest_entry(
    broker: Broker, committed: int, left: list[tuple[int, int]]
) -> None:
    broker.publish("metrics", [batch(1, 3), batch(4, 3), batch(7, 1)])
    broker.trim("metrics", committed=committed)
    assert spans(broker) == left


def test_a_trim_for_one_source_leaves_the_stream_of_another(broker: Broker) -> None:
    broker.publish("metrics", [batch(1, 3), batch(4, 3)])
    broker.trim("metrics", committed=6, source="files:old")
    assert spans(broker) == [(1, 3), (4, 6)]
    broker.trim("metrics", committed=6, source="files:a")
    assert spans(broker) == [(4, 6)]


def test_a_stream_that_was_trimmed_still_refuses_what_it_had(broker: Broker) -> None:
    broker.publish("metrics", [batch(1, 3), batch(4, 3)])
    broker.trim("metrics", committed=6)
    with pytest.raises(AlreadyPublished):
        broker.publish("metrics", [batch(1, 3)])


@pytest.mark.parametrize(("committed", "batches", "records"), [(0, 3, 7), (2, 3, 5), (3, 2, 4), (6, 1, 1), (7, 0, 0)])
def test_the_lag_is_what_waits_above_the_committed_position(
    broker: Broker, committed: int, batches: int, records: int
) -> None:
    broker.publish("metrics", [batch(1, 3), batch(4, 3), batch(7, 1)])
    lag = broker.lag("metrics", committed=committed)
    assert (lag.batches, lag.records) == (batches, records)
    assert (lag.seconds > 0) == (records > 0)
    broker.trim("metrics", committed=committed)
    after = broker.lag("metrics", committed=committed)
    assert (after.batches, after.records) == (batches, records)


def test_the_lags_age_is_that_of_the_oldest_waiting_batch_by_the_brokers_clock(broker: Broker, server: Any) -> None:
    fields = {"first": 1, "count": 2, "source": "", "codec": "zstd", "size": 0, "lines": _empty_zstd()}
    now, microseconds = server.time()
    server.xadd(broker.key("metrics"), {**fields, "at": (now - 90) * 1_000_000 + microseconds}, id="2-0")
    broker.publish("metrics", [batch(3, 1)])
    lag = broker.lag("metrics", committed=0)
    assert 90 <= lag.seconds < 150
    assert broker.lag("metrics", committed=2).seconds < 60


def _empty_zstd() -> bytes:
    import pyarrow as pa

    return bytes(pa.Codec("zstd").compress(b"", asbytes=True))


def test_held_counts_what_was_not_trimmed(broker: Broker) -> None:
    broker.publish("metrics", [batch(1, 3), batch(4, 3), batch(7, 1)])
    assert (broker.held("metrics"), broker.entries("metrics")) == (7, 3)
    broker.trim("metrics", committed=3)
    assert (broker.held("metrics"), broker.entries("metrics")) == (4, 2)


# What is not ours


@pytest.mark.parametrize(
    ("entry_id", "fields"),
    [
        pytest.param("9-0", {"hello": b"w\xf6rld"}, id="something else"),
        pytest.param("9-1", {}, id="another kind of ID"),
        pytest.param("9-0", {"count": "0"}, id="no record"),
        pytest.param("9-0", {"lines": "x"}, id="damaged lines"),
        pytest.param("9-0", {"size": str(1 << 40)}, id="a size beyond all measure"),
        pytest.param("9-0", {"size": "7"}, id="more lines than it says"),
        pytest.param("9-0", {"size": "7000"}, id="fewer lines than it says"),
        pytest.param("9-0", {"codec": "none such"}, id="an unknown codec"),
        pytest.param("9-0", {"at": "9" * 30}, id="a time out of range"),
        pytest.param("9-0", {"source": b"\xff"}, id="a source that is no text"),
    ],
)
def test_an_entry_that_is_not_ours_is_given_as_unknown(
    broker: Broker, server: Any, entry_id: str, fields: dict[str, Any]
) -> None:
    broker.publish("metrics", [batch(1, 9)])
    [(_, ours)] = server.xrange(broker.key("metrics"))
    broker.delete("metrics")
    entry = fields if "hello" in fields else {**{name.decode(): value for name, value in ours.items()}, **fields}
    server.xadd(broker.key("metrics"), entry, id=entry_id)
    newest = broker.newest("metrics")
    assert isinstance(newest, Foreign)
    assert newest.entry_id == entry_id
    assert broker.read("metrics", after=0, batches=5) == [newest]
    if "hello" in fields:
        assert newest.fields == {"hello": "w\\xf6rld"}


def test_an_unknown_entry_counts_as_waiting_but_not_as_records(broker: Broker, server: Any) -> None:
    server.xadd(broker.key("metrics"), {"a": "b"}, id="1-5")
    assert broker.lag("metrics", committed=0) == Lag(1, 0, 0.0)
    assert broker.held("metrics") == 0


# What errors mean


def everything_said(error: BaseException | None) -> str:
    texts = []
    while error is not None:
        texts += [str(error), repr(error), repr(vars(error))]
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


def test_a_wrong_password_is_permanent_and_not_said(url: str) -> None:
    place = urlsplit(url)
    wrong = f"redis://:s3cret%2Fof%20the%2Bbroker@{place.hostname}:{place.port}/0"
    with pytest.raises(PermanentError) as caught:
        Broker(wrong).publish("metrics", [batch(1, 1)])
    assert str(caught.value).startswith(
        "could not publish to metrics on the broker: it refused user name or password: correct ETL_BROKER_URL"
    )
    for secret in (PASSWORD, "s3cret", wrong):
        assert secret not in everything_said(caught.value)
        assert secret not in repr(Broker(wrong))


def test_a_password_that_the_broker_echoes_is_not_said() -> None:
    with answering(b"-ERR no such user: s3cret/of the+broker (s3cret%2Fof%20the%2Bbroker)\r\n") as url:
        broker = Broker(url.replace("redis://", "redis://:s3cret%2Fof%20the%2Bbroker@"))
        with contextlib.closing(broker), pytest.raises(PermanentError) as caught:
            broker.newest("metrics")
    assert "no such user: *** (***)" in str(caught.value)
    assert "s3cret" not in everything_said(caught.value)


def test_no_password_where_one_is_wanted_is_permanent(url: str) -> None:
    place = urlsplit(url)
    with pytest.raises(PermanentError, match="it wants a password: put it into ETL_BROKER_URL"):
        Broker(f"redis://{place.hostname}:{place.port}/0").newest("metrics")


def test_a_broker_that_is_down_is_transient() -> None:
    broker = Broker("redis://:s3cret@127.0.0.1:1/0")
    for call in (
        lambda: broker.publish("metrics", [batch(1, 1)]),
        lambda: broker.newest("metrics"),
        lambda: broker.read("metrics", after=0, batches=1),
        lambda: broker.trim("metrics", committed=0),
        lambda: broker.lag("metrics", committed=0),
        lambda: broker.held("metrics"),
        lambda: broker.entries("metrics"),
        lambda: broker.delete("metrics"),
    ):
        with pytest.raises(
            TransientError, match="metrics on the broker: it cannot be reached, or the connection broke"
        ):
            call()


@pytest.mark.parametrize(
    "url", ["", "broker:6379", "http://:s3cret@host", "redis://:s3cret@[::1", "redis://:s3cret@h:p"]
)
def test_a_url_that_cannot_be_right_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Broker(url).newest("metrics")
    assert "redis://user:password@host:port/0: correct ETL_BROKER_URL" in str(caught.value)
    assert "s3cret" not in everything_said(caught.value)


def test_something_else_under_the_key_is_permanent(broker: Broker, server: Any) -> None:
    server.set(broker.key("metrics"), "x")
    for call in (lambda: broker.publish("metrics", [batch(1, 1)]), lambda: broker.newest("metrics")):
        with pytest.raises(PermanentError, match="something else is stored under the stream's key"):
            call()


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (b"-LOADING Valkey is loading the dataset in memory\r\n", TransientError, "still loading its file"),
        (b"-OOM command not allowed when used memory > 'maxmemory'.\r\n", TransientError, "its memory is full"),
        (b"-READONLY You can't write against a read only replica.\r\n", TransientError, "it is a replica"),
        (b"-MASTERDOWN Link with MASTER is down\r\n", TransientError, "its primary is away"),
        (b"-CLUSTERDOWN The cluster is down\r\n", TransientError, "the cluster is not complete"),
        (b"-MISCONF Errors writing to the AOF file\r\n", TransientError, "cannot write to its disk"),
        (b"-ERR max number of clients reached\r\n", TransientError, "max number of clients"),
        (b"-MOVED 3999 127.0.0.1:6381\r\n", PermanentError, "it is one node of a cluster"),
        (b"-NOPERM this user has no permissions\r\n", PermanentError, "its user may not do this"),
        (b"-ERR unknown command 'EVAL'\r\n", PermanentError, "it must be Redis 6.2 or newer, or Valkey"),
        (b"-ERR Error running script: @user_script:1: -OOM not allowed\r\n", TransientError, "its memory is full"),
        (b"what is this\r\n", TransientError, "cannot be reached, or the connection broke"),
        (b"", TransientError, "cannot be reached, or the connection broke"),
    ],
)
def test_what_the_broker_answers_is_classified(answer: bytes, kind: type[Exception], message: str) -> None:
    with answering(answer) as url, contextlib.closing(Broker(url)) as broker, pytest.raises(kind, match=message):
        broker.publish("metrics", [batch(1, 1)])


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A server that greets as a broker does, and gives one answer to everything else; without one it hangs up."""
    import socket

    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    while data := connection.recv(65536):
                        greeting = data.count(b"SETINFO")
                        connection.sendall(b"+OK\r\n" * greeting if greeting else answer)
                        if not greeting and not answer:
                            break

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(timeout=5)
        listener.close()


# A broker that dies


def kill_server(folder: Path) -> None:
    """SIGKILL for the server of a data folder and for its supervisor."""
    state = json.loads((folder / "broker.state").read_text())
    for process in ("server", "supervisor"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(state[process], signal.SIGKILL)
    deadline = time.monotonic() + 10
    while EmbeddedBroker(folder).running():
        assert time.monotonic() < deadline, "the broker still answers"


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    server = EmbeddedBroker(tmp_path)
    try:
        yield server
    finally:
        server.purge()


@pytest.mark.long
def test_a_killed_broker_has_lost_nothing_that_it_acknowledged(own_server: EmbeddedBroker) -> None:
    broker = Broker(own_server.acquire)
    acknowledged = 0
    for turn in range(1, 6):
        enough = threading.Event()
        killer = threading.Thread(target=lambda: enough.wait() and kill_server(own_server.data_dir))  # noqa: B023
        killer.start()
        with contextlib.suppress(TransientError):
            while killer.is_alive():
                # A batch whose answer was lost may be there.
                newest = broker.newest("metrics")
                first = newest.last + 1 if isinstance(newest, Batch) else 1
                assert first > acknowledged
                broker.publish("metrics", [batch(first, 10)])
                acknowledged = first + 9
                if acknowledged >= 300 * turn:
                    enough.set()
        killer.join()
        # Whoever was not writing at that moment learns of it now.
        with contextlib.suppress(TransientError):
            broker.newest("metrics")
        found = [line for entry in broker.read("metrics", after=0, batches=10**6) for line in _lines(entry)]
        assert found == batch(1, len(found)).lines.splitlines()
        assert len(found) >= acknowledged >= 300 * turn


def _lines(entry: Batch | Foreign) -> list[bytes]:
    assert isinstance(entry, Batch)
    return entry.lines.splitlines()


def test_a_broker_that_was_killed_has_its_url_looked_up_again(own_server: EmbeddedBroker) -> None:
    broker = Broker(own_server.acquire)
    broker.publish("metrics", [batch(1, 3)])
    kill_server(own_server.data_dir)
    with pytest.raises(TransientError):
        broker.publish("metrics", [batch(4, 3)])
    broker.publish("metrics", [batch(4, 3)], newest=Position("files:a", 3))
    assert spans(broker) == [(1, 3), (4, 6)]


# Where it is


def test_the_platforms_broker_is_the_embedded_one_of_the_data_folder(data_dir: Path) -> None:
    try:
        broker = platform_broker()
        assert not EmbeddedBroker(data_dir).running()
        broker.publish("metrics", [batch(1, 3)])
        assert spans(broker) == [(1, 3)]
        assert spans(BrokerResource().broker) == [(1, 3)]
    finally:
        EmbeddedBroker(data_dir).purge()


def test_the_platforms_broker_is_the_one_of_the_setting(data_dir: Path, url: str, broker: Broker) -> None:
    broker.publish("metrics", [batch(1, 3)])
    prefix = broker.key("")
    assert spans(platform_broker(load_settings(etl_broker_url=url), prefix=prefix)) == [(1, 3)]
    resource = BrokerResource(url=url, prefix=prefix)
    assert spans(resource.broker) == [(1, 3)]
    assert resource.broker is resource.broker
    assert not (data_dir / "broker").exists()
