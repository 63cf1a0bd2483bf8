"""From the streaming API to the broker. The relay remembers nothing: where it stands is what the broker's stream ends with.

Killed at any point it goes on from there, and of two relays at once the broker refuses the one that comes second.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from etl_assets.core.sources.http.client import ApiRefused, Limits
from etl_assets.core.sources.http.stream import StreamInterrupted
from etl_assets.core.sources.streams.broker import Batch, Broker, Foreign, Position, StreamMoved
from etl_assets.errors import ConfigurationError, PermanentError, PlatformError, TransientError
from etl_assets.systems.production.contracts import Stream
from etl_assets.systems.production.source import ProductionApi, Records
from etl_assets.systems.production.streaming.lines import Cut, Lines

_log = logging.getLogger(__name__)

# What such a source streamed can be read from it again, whatever was stored of it.
REPLAYABLE = ("simulated:", "files:")
# Records that wait in the broker at most: some hundred megabytes there.
BACKLOG = 5_000_000
BEGINNING = Position("", 0)
# How long a record waits for its batch to fill up.
MAX_AGE_S = 1.0
BACKLOG_POLL_S = 0.2
_BEYOND_THE_END = 416


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


class _OtherSource(Exception):
    """The API streams something else than what the broker has, and that may be replaced."""


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
        try:
            return self._copy()
        except _OtherSource:
            self._begin_anew()
        except ApiRefused as refusal:
            if refusal.status != _BEYOND_THE_END:
                raise
            self._judge_shorter(refusal)
            self._begin_anew()
        return self._copy()

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

    def _begin_anew(self) -> None:
        _log.info("relay of %s: the API streams another source than %r: begun anew", self.name, self.source)
        self.position, self.source, self.anew = 0, None, True

    def _judge_shorter(self, refusal: ApiRefused) -> None:
        """Returns if the API streams another source, which may be shorter.

        Raises:
            PermanentError: if the source is the same and yet has fewer records than it had.
        """
        with self.api.records(self.name, after=0, follow=False) as records:
            source = records.source
        if source == self.source or self.source is None:
            raise PermanentError(
                f"the API has fewer than the {self.position} records of {self.name} that were already read from"
                f" {_named(source)}: if it is meant to, `etl-assets production reset --yes` begins anew"
            ) from refusal
        self._check_replaceable(source)

    def _check_replaceable(self, source: str) -> None:
        assert self.source is not None
        if not begins_anew(self.source):
            raise ConfigurationError(
                f"{self.name} are to be read from {_named(source)}, while what is stored is from {_named(self.source)},"
                " which nobody could read again; nothing was changed: go on with that source (PRODUCTION_API_URL), give"
                " this one a place of its own (ETL_DATA_DIR, ETL_POSTGRES_URL, ETL_BROKER_URL), or begin anew with"
                " `etl-assets production reset --yes`"
            )

    def _copy(self) -> bool:
        with self.api.records(self.name, after=self.position, follow=self.follow) as records:
            if self.source is None:
                self.source = records.source
            elif records.source != self.source:
                self._check_replaceable(records.source)
                raise _OtherSource
            return self._publish_all(records, Lines(self.name, after=self.position))

    def _publish_all(self, records: Records, lines: Lines) -> bool:
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

    def _publish(self, lines: Lines, cuts: Sequence[Cut]) -> None:
        if cuts:
            source, now = self.source or "", datetime.now(UTC)
            batches = [Batch(cut.first, cut.count, source, now, cut.lines) for cut in cuts]
            self.broker.publish(self.name, batches, newest=self.newest, anew=self.anew)
            self.newest, self.anew = Position(source, batches[-1].last), False
            count = sum(batch.count for batch in batches)
            self.position, self.published, self.spare = (
                batches[-1].last,
                self.published + count,
                self.spare - count,
            )
            self.published_at = time.monotonic()
            self.backoff.progressed()
        if lines.fault is not None:
            raise lines.fault

    def _is_full(self) -> bool:
        """Whether too many records wait in the broker; with `follow` it waits until they do not."""
        while self.spare <= 0:
            self.spare = self.backlog - self.broker.held(self.name)
            if self.spare > 0:
                break
            if not self.follow:
                self.full = True
                return True
            if self.stop.wait(BACKLOG_POLL_S):
                return True
        return False


def _is_quiet(chunk: bytes) -> bool:
    """Whether the API says with an empty line that there is nothing more for the moment."""
    return chunk.endswith(b"\n\n") or not chunk.strip()


def _named(source: str) -> str:
    return repr(source) if source else "a source without a name"
