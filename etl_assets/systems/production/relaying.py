"""From the streaming API to the broker. The relay remembers nothing: where it stands is what the broker's stream ends with.

Killed at any point it goes on from there, and of two relays at once the broker refuses the one that comes second.

Records go as they come. NDJSON in chunks of any size is cut into batches of consecutive records, without looking into them: of
each batch the first and the last sequence and the number of lines are checked together, which is all that a stream in order
needs. Only a batch that does not come out right is looked at line by line.
"""

import json
import logging
import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from etl_assets.core.sources.http.client import ApiRefused, Limits
from etl_assets.core.sources.http.stream import StreamInterrupted
from etl_assets.core.sources.nesting import bounded_nesting
from etl_assets.core.sources.streams.broker import Batch, Broker, Foreign, Position, StreamMoved
from etl_assets.errors import ConfigurationError, PermanentError, PlatformError, TransientError
from etl_assets.systems.production.contracts import Stream
from etl_assets.systems.production.source import ProductionApi, Records
from etl_assets.systems.production.tables import BEGINNING

_log = logging.getLogger(__name__)

# What such a source streamed can be read from it again, whatever was stored of it.
REPLAYABLE = ("simulated:", "files:")
# Records that wait in the broker at most: some hundred megabytes there.
BACKLOG = 5_000_000
# How long a record waits for its batch to fill up.
MAX_AGE_S = 1.0
BACKLOG_POLL_S = 0.2
BATCH_RECORDS = 1000
# Of long records fewer make a batch; a line that is longer than this is none of a record.
MAX_BATCH_BYTES = 16 * 1024 * 1024
_BEYOND_THE_END = 416
_SEQUENCE = re.compile(rb'\s*\{\s*"sequence"\s*:\s*(\d{1,18})\s*[,}]')
_EXCERPT_CHARS = 80


@dataclass(frozen=True)
class Relayed:
    """What a relay did.

    Attributes:
        stream: its name.
        source: what was read; "" if the API does not say.
        published: records that this relay added to the broker.
        position: sequence of the last record in the broker, or before it.
        backlog_full: whether it ended because too many records wait in the broker.
    """

    stream: str
    source: str
    published: int
    position: int
    backlog_full: bool


def relay(
    api: ProductionApi,
    broker: Broker,
    stream: Stream,
    *,
    committed: Callable[[], Position] = lambda: BEGINNING,
    follow: bool = False,
    stop: threading.Event | None = None,
    backlog: int = BACKLOG,
) -> Relayed:
    """Publish the records of a stream that the broker does not have yet, in batches.

    Args:
        api: where they come from; its limits say how long to go on without progress.
        broker: where they go.
        stream: which.
        committed: how far the table is; asked when the broker's stream is empty.
        follow: stay until `stop`, through every transient failure.
        stop: ends the relay after what has arrived is published.
        backlog: records in the broker that are not trimmed yet, from which on the relay waits (follow) or ends.

    Raises:
        TransientError: without progress for longer than the limits of the API allow; never with `follow`.
        PermanentError: the API refuses, reports an error, left records out, or streams something else than before.
    """
    stop = stop or threading.Event()
    backoff = Backoff(f"relay of {stream.name}", api.limits, endless=follow, stop=stop)
    return _Relay(api, broker, stream.name, committed, follow, stop, backlog, backoff).run()


def begins_anew(source: str) -> bool:
    """Whether records of another source may take the place of those of this one."""
    return source.startswith(REPLAYABLE)


class Backoff:
    """Pauses between attempts, capped and with full jitter; attempts and deadline count from the last progress.

    Args:
        what: what is tried, for messages.
        limits: attempts, delays and deadline.
        endless: go on for ever.
        stop: ends a pause.
        clock: for tests.
    """

    def __init__(
        self,
        what: str,
        limits: Limits,
        *,
        endless: bool,
        stop: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what
        self._limits = limits
        self._endless = endless
        self._stop = stop
        self._clock = clock
        self.progressed()

    def progressed(self) -> None:
        """Begin to count anew."""
        self._attempts = 0
        self._since = self._clock()

    def is_over(self) -> bool:
        """Whether there was no progress for longer than the deadline."""
        return not self._endless and self._clock() - self._since >= self._limits.deadline_s

    def pause(self, failure: PlatformError) -> None:
        """Wait before the next attempt; not shorter than the failure asks for.

        Raises:
            TransientError: if the attempts or the time are used up; says the failure.
        """
        self._attempts += 1
        # Beyond some exponent only the cap matters, and the power would overflow.
        ceiling = min(self._limits.max_delay_s, self._limits.base_delay_s * 2.0 ** min(self._attempts - 1, 60))
        wait_s = max(random.uniform(0.0, ceiling), getattr(failure, "retry_after_s", None) or 0.0)
        elapsed_s = self._clock() - self._since
        if not self._endless and (
            self._attempts >= self._limits.max_attempts or elapsed_s + wait_s >= self._limits.deadline_s
        ):
            times = "once" if self._attempts == 1 else f"{self._attempts} times"
            raise TransientError(
                f"{self._what}: tried {times} in {elapsed_s:.1f} s without progress (deadline"
                f" {self._limits.deadline_s:g} s), at last: {failure}"
            ) from failure
        _log.warning(
            "%s: %s; attempt %d without progress, again in %.2f s", self._what, failure, self._attempts, wait_s
        )
        self._stop.wait(wait_s)


@dataclass
class _Relay:
    """One relay under way.

    Attributes:
        seen: where the broker's stream, or the table, was found to be; another relay's progress counts too.
        newest: what the broker's stream ends with.
        position, source: from where the API is to go on, of what source (None: not known yet).
        anew: whether the next batch takes the place of what the broker has.
        spare: records that may be published before the broker is asked again how many wait.
    """

    api: ProductionApi
    broker: Broker
    name: str
    committed: Callable[[], Position]
    follow: bool
    stop: threading.Event
    backlog: int
    backoff: Backoff
    seen: Position | None = None
    newest: Position | None = None
    position: int = 0
    source: str | None = None
    anew: bool = False
    published: int = 0
    published_at: float = 0.0
    spare: int = 0
    full: bool = False

    def run(self) -> Relayed:
        while not self.stop.is_set():
            try:
                if self._round():
                    break
                self.backoff.pause(TransientError(f"the API ended the stream {self.name} although it is followed"))
            except (TransientError, StreamMoved) as error:
                self.backoff.pause(error)
        return Relayed(self.name, self.source or "", self.published, self.position, self.full)

    def _round(self) -> bool:
        """Go on where the broker's stream ends, until the answer's end; whether the relay is done with that."""
        self._look()
        if self._is_full():
            return True
        while True:
            try:
                with self.api.records(self.name, after=self.position, follow=self.follow) as records:
                    source = records.source
                    if self.source is None or source == self.source:
                        self.source = source
                        return self._publish_all(records, Lines(self.name, after=self.position, source=source))
            except ApiRefused as refusal:
                if refusal.status != _BEYOND_THE_END:
                    raise
                source = self._source_of_shorter(refusal)
            self._begin_anew(source)

    def _look(self) -> None:
        newest = self.broker.newest(self.name)
        if isinstance(newest, Foreign):
            raise TransientError(
                f"the broker's stream {self.broker.key(self.name)} ends with entry {newest.entry_id}, which no relay of"
                " ours wrote: find out who writes there; the next drain takes it to quarantine and clears the way"
            )
        self.newest = Position(newest.source, newest.last) if newest else None
        found = self.newest or self.committed()
        if found != self.seen:
            self.backoff.progressed()
        self.seen, self.position, self.anew = found, found.sequence, False
        self.source = found.source if found.sequence else None

    def _source_of_shorter(self, refusal: ApiRefused) -> str:
        """What the API streams in place of the source that had more records.

        Raises:
            PermanentError: if that is the same source.
        """
        with self.api.records(self.name, after=0, follow=False) as records:
            source = records.source
        if source == self.source or self.source is None:
            raise PermanentError(
                f"the API has fewer than the {self.position} records of {self.name} that were already read from"
                f" {_named(source)}: if it is meant to, `etl-assets production reset --yes` begins anew"
            ) from refusal
        return source

    def _begin_anew(self, source: str) -> None:
        """Read from the beginning of another source, if what is stored is of one that may be replaced."""
        assert self.source is not None
        if not begins_anew(self.source):
            raise ConfigurationError(
                f"{self.name} are to be read from {_named(source)}, while what is stored is from {_named(self.source)},"
                " which nobody could read again; nothing was changed: go on with that source (PRODUCTION_API_URL), give"
                " this one a place of its own (ETL_DATA_DIR, ETL_POSTGRES_URL, ETL_BROKER_URL), or begin anew with"
                " `etl-assets production reset --yes`"
            )
        _log.info("relay of %s: the API streams another source than %r: begun anew", self.name, self.source)
        self.position, self.source, self.anew = 0, None, True

    def _publish_all(self, records: Records, lines: "Lines") -> bool:
        self.published_at = time.monotonic()
        try:
            for chunk in records:
                self._publish(lines, lines.feed(chunk))
                if _is_quiet(chunk) or time.monotonic() - self.published_at > MAX_AGE_S:
                    self._publish(lines, lines.flush())
                if self.backoff.is_over():
                    raise TransientError(f"the API's stream {self.name} brings no complete record")
                if self._is_full() or self.stop.is_set():
                    break
            else:
                self._publish(lines, lines.end())
                return not self.follow
        except StreamInterrupted:
            # What came before the break is there.
            self._publish(lines, lines.flush())
            raise
        if self.stop.is_set():
            self._publish(lines, lines.flush())
        return True

    def _publish(self, lines: "Lines", batches: Sequence[Batch]) -> None:
        if batches:
            self.broker.publish(self.name, batches, newest=self.newest, anew=self.anew)
            self.position, self.anew = batches[-1].last, False
            self.newest = Position(self.source or "", self.position)
            count = sum(batch.count for batch in batches)
            self.published += count
            self.spare -= count
            self.published_at = time.monotonic()
            self.backoff.progressed()
        if lines.fault is not None:
            raise lines.fault

    def _is_full(self) -> bool:
        """Whether too many records wait in the broker; with `follow` it waits until they do not."""
        while self.spare <= 0:
            self.spare = self.backlog - self.broker.held(self.name)
            if self.spare <= 0:
                self.full = not self.follow
                if self.full or self.stop.wait(BACKLOG_POLL_S):
                    return True
        return False


def _is_quiet(chunk: bytes) -> bool:
    """Whether the API says with an empty line that there is nothing more for the moment."""
    return chunk.endswith(b"\n\n") or not chunk.strip()


def _named(source: str) -> str:
    return repr(source) if source else "a source without a name"


class Lines:
    """The lines of one answer.

    `fault` is set once what came cannot be right; what was given out before it is. Nothing is given out after it.

    Args:
        what: the stream's name, for messages.
        after: sequence that the records follow on; the API may repeat earlier ones, which are dropped.
        source: what they are read from.
    """

    def __init__(self, what: str, *, after: int, source: str = "") -> None:
        self.fault: PlatformError | None = None
        self._what = what
        self._source = source
        self._next = after + 1
        # Whole lines that are in no batch yet, without their ends, and what came of the next; together so many bytes.
        self._lines: list[bytes] = []
        self._rest = b""
        self._size = 0
        # Lines without a sequence, until the next that has one says whether they have a place in the stream.
        self._pending: list[bytes] = []

    def feed(self, chunk: bytes) -> list[Batch]:
        """Take in a chunk; the full batches that are complete with it."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        # Without the heartbeats: no record fits into a line of one byte.
        if min(map(len, lines), default=2) < 2:
            lines = [line for line in lines if line.strip()]
        self._lines += lines
        self._size += len(chunk)
        if self._size > MAX_BATCH_BYTES:
            if not self._lines and self.fault is None:
                self.fault = PermanentError(
                    f"the API's stream {self._what}: the line after sequence {self._next - 1} is longer than"
                    f" {MAX_BATCH_BYTES} bytes: check that PRODUCTION_API_URL names the streaming API"
                )
            return self.flush()
        return self._cut(len(self._lines) // BATCH_RECORDS * BATCH_RECORDS)

    def flush(self) -> list[Batch]:
        """The complete lines that wait for a full batch."""
        return self._cut(len(self._lines))

    def end(self) -> list[Batch]:
        """What is left at the end of the answer: a last line without an end counts if it is a whole record."""
        batches = self.flush()
        if self._rest.strip() and self.fault is None:
            if _document(self._rest) is None:
                self.fault = TransientError(
                    f"the API's stream {self._what} ended in the middle of the line after sequence {self._next - 1}"
                )
            else:
                batches += self._checked([self._rest])
        if self._pending and self.fault is None:
            self.fault = self._no_record(self._pending[0], self._next)
        return batches

    def _cut(self, total: int) -> list[Batch]:
        """So many lines in batches."""
        batches: list[Batch] = []
        for begin in range(0, total, BATCH_RECORDS):
            if self.fault is None:
                batches += self._checked(self._lines[begin : min(begin + BATCH_RECORDS, total)])
        if total:
            del self._lines[:total]
            self._size = sum(map(len, self._lines)) + len(self._rest)
        return batches

    def _checked(self, lines: list[bytes]) -> list[Batch]:
        last = self._next + len(lines) - 1
        if self._pending or _sequence_at_start(lines[0]) != self._next or _sequence_at_start(lines[-1]) != last:
            lines = self._in_order([*self._pending, *lines])
        if not lines:
            return []
        first, self._next = self._next, self._next + len(lines)
        return [Batch(first, len(lines), self._source, datetime.now(UTC), b"\n".join([*lines, b""]))]

    def _in_order(self, lines: list[bytes]) -> list[bytes]:
        """The lines up to the first fault, without the repeated ones; what has no sequence of its own is judged by its place."""
        kept, pending = list[bytes](), list[bytes]()
        for line in lines:
            sequence, following = _sequence(line), self._next + len(kept)
            if sequence is None:
                self.fault = self._reported(line, following)
                pending.append(line)
            elif sequence == following + len(pending):
                kept += [*pending, line]
                pending = []
            elif sequence > following:
                self.fault = self._hole(following, sequence)
            elif pending:
                self.fault = self._no_record(pending[0], following)
            if self.fault is not None:
                break
        self._pending = pending
        return kept

    def _hole(self, following: int, sequence: int) -> PlatformError:
        return PermanentError(
            f"the API's stream {self._what} goes from sequence {following - 1} to {sequence}: {following} to"
            f" {sequence - 1} are missing; everything before them is published. Ask those who run the API for them; the"
            " relay goes on as soon as it sends them"
        )

    def _reported(self, line: bytes, following: int) -> PlatformError | None:
        """What the API says of itself in place of a record, if it does."""
        document = _document(line)
        if not isinstance(document, dict) or not isinstance(document.get("error"), str):
            return None
        return PermanentError(
            f"the API's stream {self._what}, after sequence {following - 1}: the API says: {document['error']}"
        )

    def _no_record(self, line: bytes, following: int) -> PlatformError:
        excerpt = line.strip().decode("utf-8", "backslashreplace")
        excerpt = excerpt if len(excerpt) <= _EXCERPT_CHARS else excerpt[: _EXCERPT_CHARS - 1] + "…"
        return TransientError(
            f"the API's stream {self._what}, after sequence {following - 1}: a line that is no record: {excerpt}"
        )


def _sequence_at_start(line: bytes) -> int | None:
    match = _SEQUENCE.match(line)
    return int(match[1]) if match else None


def _sequence(line: bytes) -> int | None:
    """The sequence of a record, wherever in its line it stands."""
    found = _sequence_at_start(line)
    if found is None:
        document = _document(line)
        found = document.get("sequence") if isinstance(document, dict) else None
    return found if type(found) is int else None


def _document(text: bytes) -> Any:
    try:
        with bounded_nesting():
            return json.loads(text)
    except ValueError:
        return None
