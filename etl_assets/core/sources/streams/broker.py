"""The broker: record streams in anything that speaks Redis streams (Redis 6.2 or newer, Valkey).

A stream is one Redis stream under `<prefix><name>`. An entry holds about a thousand records, and its ID is
`<sequence of the last record>-0`: the server itself refuses a batch that is there already. There are no consumer
groups: how far a reader has come is stored where its rows are. What errors mean is in `errors`, what runs on
the server in `publish.lua` and `trim.lua`: looking at a stream's end and acting on it must be one step.
"""

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from etl_assets.core.sources.streams.errors import failure_of
from etl_assets.errors import ConfigurationError, PlatformError, TransientError

if TYPE_CHECKING:
    import redis

# As the driver gives them: the ID, then the fields; nothing in place of the fields of an entry that was removed.
_Entries = Sequence[tuple[bytes, Mapping[bytes, bytes] | None]]

DEFAULT_PREFIX = "etl-assets:"
CONNECT_TIMEOUT_S = 5.0
COMMAND_TIMEOUT_S = 30.0
# Smallest after compression at more than ten times the rate of everything around it.
CODEC, LEVEL = "zstd", 1
# An entry of ours is smaller by orders of magnitude; one that claims more is not allowed to claim the memory.
MAX_ENTRY_BYTES = 1 << 30
_EPOCH = datetime.fromtimestamp(0, UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Batch:
    """Consecutive records of a stream: one entry.

    Attributes:
        first: sequence of the first record.
        count: how many records, with no sequence left out.
        source: what the records were read from (`X-Stream-Source`); "" when the API does not say.
        published_at: when the entry was made, by the broker's clock, which sets it whatever was given.
        lines: NDJSON as the API sent it: `count` lines, each with its end.
    """

    first: int
    count: int
    source: str
    published_at: datetime
    lines: bytes

    @property
    def last(self) -> int:
        """Sequence of the last record."""
        return self.first + self.count - 1


@dataclass(frozen=True)
class Foreign:
    """An entry that no relay of ours wrote, or that is damaged; what is not UTF-8 in it is escaped."""

    entry_id: str
    fields: Mapping[str, str]


@dataclass(frozen=True)
class Lag:
    """What waits above the committed position.

    Attributes:
        batches: entries, those that are not ours included.
        records: records in the batches of ours.
        seconds: age of the oldest waiting entry of ours by the broker's clock; 0 when nothing waits.
    """

    batches: int
    records: int
    seconds: float


@dataclass(frozen=True)
class Position:
    """How far a reader has come: everything up to and including `sequence` of `source`."""

    source: str
    sequence: int


class StreamMoved(PlatformError):
    """The stream does not end where the publisher thought: it must look again where it stands."""


class AlreadyPublished(StreamMoved):
    """The stream already holds a batch that reaches as far as this one, or farther."""


class Broker:
    """Streams on one server; safe to use from several threads.

    A failed connection is given up, and the next call asks for the URL again: an embedded server that was killed is
    started by that.

    Args:
        url: `redis://…` or `rediss://…`, or a function that gives it when it is needed (it may start a server).
        prefix: of the keys of all streams.
    """

    def __init__(self, url: str | Callable[[], str], *, prefix: str = DEFAULT_PREFIX) -> None:
        self._url = url
        self._prefix = prefix
        self._client: redis.Redis | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Broker({self._prefix!r})"

    def key(self, stream: str) -> str:
        """The key of a stream on the server: for messages and tools."""
        return self._prefix + stream

    def publish(
        self,
        stream: str,
        batches: Sequence[Batch],
        *,
        newest: Position | Literal["any"] | None = "any",
        anew: bool = False,
    ) -> None:
        """Append batches, in order, as one entry each.

        Args:
            stream: its name.
            batches: in the order of their sequences.
            newest: what the stream must end with for this to happen, None for no entry at all. A stream that was
                emptied or begun anew meanwhile would otherwise get a hole.
            anew: these batches take the place of everything that is there, in the same step.

        Raises:
            AlreadyPublished: if the stream reaches as far as a batch or farther; the batches before it are published.
            StreamMoved: if the stream does not end with `newest`; nothing is published.
            TransientError, PermanentError: as the server's answer is classified; after a TransientError the batches may
                be there or not.
        """
        if not batches:
            return
        arguments: list[bytes | str | int] = [*_expected(newest), "anew" if anew else "", len(batches)]
        for batch in batches:
            arguments += [batch.last, batch.first, batch.count, batch.source, CODEC, len(batch.lines)]
            arguments.append(_compressed(batch.lines))
        answer: bytes | None = self._call(
            f"publish to {stream}", lambda client: client.eval(_script("publish"), 1, self.key(stream), *arguments)
        )
        if answer is not None:
            raise _not_published(stream, batches, newest, answer.decode("utf-8", "backslashreplace"))

    def newest(self, stream: str) -> Batch | Foreign | None:
        """The last entry; None if the stream is empty or absent."""
        entries: _Entries = self._call(
            f"read the end of {stream}", lambda client: client.xrevrange(self.key(stream), count=1)
        )
        return _entry(*entries[0]) if entries else None

    def read(self, stream: str, *, after: int, batches: int) -> list[Batch | Foreign]:
        """The next entries, in order.

        Args:
            stream: its name.
            after: entries whose last sequence is above this; 0 for all.
            batches: how many at most.
        """
        entries: _Entries = self._call(
            f"read {stream}",
            lambda client: client.xrange(self.key(stream), min=f"({after}-0", max="+", count=batches),
        )
        return [_entry(*entry) for entry in entries]

    def trim(self, stream: str, *, committed: int, source: str | None = None) -> None:
        """Drop the entries at or below the committed position, except the newest: a relay reads there where it stands.

        Args:
            stream: its name.
            committed: last sequence whose row is stored.
            source: of that position; a stream that was begun anew from another source is left as it is. None: as it comes.
        """
        arguments = (committed + 1, "any" if source is None else "source", source or "")
        self._call(f"trim {stream}", lambda client: client.eval(_script("trim"), 1, self.key(stream), *arguments))

    def lag(self, stream: str, *, committed: int) -> Lag:
        """What waits above the committed position (0 for everything that is there)."""

        def measure(client: "redis.Redis") -> list[Any]:
            with client.pipeline(transaction=True) as pipeline:
                pipeline.xlen(self.key(stream))
                # After a trim that is at most the newest entry.
                pipeline.xrange(self.key(stream), max=f"{committed}-0")
                pipeline.xrange(self.key(stream), min=f"({committed}-0", count=1)
                pipeline.xrevrange(self.key(stream), min=f"({committed}-0", count=1)
                pipeline.time()
                return pipeline.execute()

        length, done, oldest, newest, (seconds, microseconds) = self._call(f"measure the lag of {stream}", measure)
        first, last = (_entry(*entries[0]) if entries else None for entries in (oldest, newest))
        age = timedelta()
        if isinstance(first, Batch):
            age = _EPOCH + timedelta(seconds=seconds, microseconds=microseconds) - first.published_at
        records = 0
        if isinstance(first, Batch) and isinstance(last, Batch):
            records = last.last - max(committed, first.first - 1)
        return Lag(length - len(done), records, max(0.0, age.total_seconds()))

    def held(self, stream: str) -> int:
        """Records in the entries that were not trimmed yet, from the sequences of the first and the last of them."""

        def ends(client: "redis.Redis") -> list[Any]:
            with client.pipeline(transaction=True) as pipeline:
                pipeline.xrange(self.key(stream), count=1)
                pipeline.xrevrange(self.key(stream), count=1)
                return pipeline.execute()

        entries = [_entry(*found[0]) for found in self._call(f"measure {stream}", ends) if found]
        batches = [entry for entry in entries if isinstance(entry, Batch)]
        return batches[-1].last - batches[0].first + 1 if batches else 0

    def entries(self, stream: str) -> int:
        """Entries that were not trimmed yet."""
        count: int = self._call(f"measure {stream}", lambda client: client.xlen(self.key(stream)))
        return count

    def delete(self, stream: str) -> None:
        """Remove a stream with everything in it; the next batch may begin with any sequence."""
        self._call(f"delete {stream}", lambda client: client.delete(self.key(stream)))

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _call(self, doing: str, command: "Callable[[redis.Redis], Any]") -> Any:
        client = self._connected()
        try:
            return command(client)
        except Exception as error:
            failure = failure_of(error, doing=doing, client=client)
            if failure is None:
                raise
        if isinstance(failure, TransientError):
            with self._lock:
                if self._client is client:
                    self._client = None
            # Those that other threads use right now are theirs to give up.
            client.connection_pool.disconnect(inuse_connections=False)
        raise failure

    def _connected(self) -> "redis.Redis":
        with self._lock:
            if self._client is None:
                self._client = _client(self._url if isinstance(self._url, str) else self._url())
            return self._client


@functools.cache
def _script(name: str) -> str:
    return Path(__file__).with_name(f"{name}.lua").read_text()


def _client(url: str) -> "redis.Redis":
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    try:
        client: redis.Redis = redis.Redis.from_url(
            url,
            protocol=2,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=COMMAND_TIMEOUT_S,
            socket_keepalive=True,
            # Its own retries would hide from a publisher that the server was away and may have forgotten something.
            retry=Retry(NoBackoff(), 0),
        )
    except (ValueError, TypeError):
        # Not quoted: a URL that does not parse may still carry a password.
        raise ConfigurationError(
            "the broker's URL is not of the form redis://user:password@host:port/0: correct ETL_BROKER_URL"
        ) from None
    return client


def _expected(newest: Position | Literal["any"] | None) -> tuple[str, str]:
    if newest == "any":
        return "any", ""
    return ("", "") if newest is None else (f"{newest.sequence}-0", newest.source)


def _not_published(
    stream: str, batches: Sequence[Batch], newest: Position | Literal["any"] | None, answer: str
) -> StreamMoved:
    """What the script's answer says: `refused` or `moved`, and the end of the stream."""
    what, _, end = answer.partition(" ")
    if what == "refused":
        return AlreadyPublished(
            f"the broker's stream {stream} ends with entry {end} and refuses a batch among {batches[0].first} to"
            f" {batches[-1].last}: another relay was faster; read where it stands"
        )
    wanted = f"sequence {newest.sequence} of {newest.source!r}" if isinstance(newest, Position) else "no entry"
    return StreamMoved(
        f"the broker's stream {stream} was to end with {wanted} and ends with {end or 'none'}: another process has written"
        " to it, or it was emptied; read where it stands"
    )


def _compressed(lines: bytes) -> Any:
    import pyarrow as pa

    return pa.Codec(CODEC, LEVEL).compress(lines, asbytes=True)


def _entry(entry_id: bytes, fields: Mapping[bytes, bytes] | None) -> Batch | Foreign:
    import pyarrow as pa

    fields = fields or {}
    try:
        size, count = int(fields[b"size"]), int(fields[b"count"])
        if fields[b"codec"] != CODEC.encode() or not 0 <= size <= MAX_ENTRY_BYTES or count < 1:
            raise ValueError("no entry of ours")
        lines = pa.Codec(CODEC).decompress(fields[b"lines"], decompressed_size=size, asbytes=True)
        published_at = _EPOCH + int(fields[b"at"]) * _MICROSECOND
        batch = Batch(int(fields[b"first"]), count, fields[b"source"].decode(), published_at, lines)
    except (KeyError, ValueError, OverflowError, OSError, pa.ArrowException):
        batch = None
    if batch is None or entry_id != b"%d-0" % batch.last:
        return Foreign(entry_id.decode(), {_text(name): _text(value) for name, value in fields.items()})
    return batch


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
