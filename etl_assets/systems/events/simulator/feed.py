"""The public feed of events as a simulator: an archive every fifteen minutes, and the lists that name them.

Beside the files of events the lists name two of other kinds for each interval, as the real ones do; those are not served. What
the feed may do other than promised are the quirks of its files. This module knows no HTTP; the routes are in
`events_app`.
"""

import hashlib
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import RLock
from typing import Any

from etl_assets.simulators.controls import Refusal
from etl_assets.simulators.faults import Faults
from etl_assets.systems.events.simulator.app import FILES, events_app
from etl_assets.systems.events.simulator.data import BEGINNING, INTERVAL, ROWS
from etl_assets.systems.events.simulator.files import Listed, Made, Quirks, archive, file_name, listed

__all__ = ["FILES", "EventsSimulator", "Quirks"]

_NAME = re.compile(r"(\d{14})\.export\.CSV\.zip")
_OTHER_KINDS = ("mentions.CSV", "gkg.csv")


class _Feed(Faults):
    """Faults in which all files are one call: a plan is not for the names of files."""

    def take(self, call: str) -> str:
        return super().take(FILES if call.endswith(".zip") else call)


class EventsSimulator:
    """The feed; `app` serves it, the methods steer it, also while it is served.

    The calls of its faults are `lastupdate.txt`, `masterfilelist.txt` and `files`.

    Args:
        first: begin of the first interval, aware, on a quarter of an hour.
        last: begin of the first interval that there is not yet; None: the feed goes on with the clock, and has an interval
            as soon as it is over.
        rows: events of each file.
        seed: gives the events and the faults; the same seed, the same bytes.
        clock: what time it is, for a feed that goes on.

    Attributes:
        ranges: whether a part of a file can be asked for.
        advertised_url: what addresses in the lists begin with; empty: as the feed was asked.
        broken_lines: lines that the master list has in its middle, each with its end.
        last_update_text: what `lastupdate.txt` says instead; None: what is so.
    """

    def __init__(
        self,
        first: datetime,
        last: datetime | None = None,
        *,
        rows: int = ROWS,
        seed: int = 0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.first, self.rows, self.seed = _begin(first), rows, seed
        self._configured_last = None if last is None else _begin(last)
        self._clock = clock
        self.faults = _Feed(seed=seed)
        self._lock = RLock()
        self.reset()
        self.app = events_app(self)

    def reset(self) -> None:
        """Back to the beginning: no faults, no quirks, no time gone by."""
        with self._lock:
            self.faults.clear()
            self.ranges = True
            self.advertised_url = ""
            self.broken_lines = ""
            self.last_update_text: str | None = None
            self._last = self._configured_last
            self._quirks: dict[datetime, Quirks] = {}

    # What the feed serves.

    def last_update(self, base_url: str) -> str:
        """The newest files, three lines; nothing if there is none."""
        if self.last_update_text is not None:
            return self.last_update_text
        end = self.end()
        while (end := end - INTERVAL) >= self.first:
            if self._is_listed(end):
                return self._lines(end, base_url)
        return ""

    def master_list(self, base_url: str) -> tuple[list[bytes], str]:
        """The lines of all files, those of an interval together, and the ETag of the whole."""
        intervals = self.intervals()
        lines = [self._lines(interval, base_url).encode() for interval in intervals if self._is_listed(interval)]
        lines.insert(len(lines) // 2, self.broken_lines.encode())
        return lines, _etag(b"".join(lines))

    def file(self, name: str) -> tuple[bytes, str]:
        """A file and its ETag.

        Raises:
            Refusal: 404, or what a withdrawn file is answered with.
        """
        matched = _NAME.fullmatch(name)
        interval = matched and _parsed(matched[1])
        if not interval or not self._is_served(interval):
            status = self._of(interval).withdrawn_as if interval else 404
            raise Refusal(status, f"there is no file {name[:100]!r}")
        made = self._made(interval)
        with self._lock:
            quirks = self._of(interval)
            if quirks.halves:
                self._quirks[interval] = quirks.model_copy(update={"halves": quirks.halves - 1})
        data = archive(made)
        data = data[: len(data) // 2] if quirks.halves else data
        return data, _etag(data)

    # What tests and the demo steer and inspect.

    def end(self) -> datetime:
        """Begin of the first interval that there is not yet."""
        if self._last is not None:
            return self._last
        now = self._clock()
        return max(self.first, now - (now - BEGINNING) % INTERVAL)

    def intervals(self) -> list[datetime]:
        """The intervals that there are, with those that are held."""
        return [self.first + number * INTERVAL for number in range((self.end() - self.first) // INTERVAL)]

    def advance(self, intervals: int = 1) -> datetime:
        """Lets time go on; gives the first interval that there is not yet.

        Raises:
            ValueError: if the feed goes on by itself.
        """
        with self._lock:
            if self._last is None or intervals < 0:
                raise ValueError(
                    f"by {intervals} intervals: time goes forward only, and by command only if the feed has an end"
                )
            self._last += intervals * INTERVAL
            return self._last

    def quirks(self) -> dict[datetime, Quirks]:
        """The files that are other than promised."""
        with self._lock:
            return {interval: quirks for interval, quirks in self._quirks.items() if quirks != Quirks()}

    def change(self, interval: datetime, **wanted: Any) -> Quirks:
        """Changes the quirks of a file, by the names of their fields; what is left out stays.

        Raises:
            ValueError: for an unknown quirk, or a value that it cannot have.
        """
        with self._lock:
            self._quirks[interval] = Quirks(**{**self._of(interval).model_dump(), **wanted})
            return self._quirks[interval]

    def restore(self, interval: datetime) -> None:
        """The file is as promised: a late one is there."""
        with self._lock:
            self._quirks.pop(interval, None)

    def republish(self, interval: datetime) -> Quirks:
        """Publishes a file again, under its name with another content, size and MD5."""
        with self._lock:
            return self.change(interval, version=self._of(interval).version + 1)

    def listed(self, interval: datetime) -> Listed:
        """Size and MD5 of a file, as the lists say them."""
        quirks, true = self._of(interval), listed(self._made(interval))
        return Listed(
            true.size if quirks.listed_size is None else quirks.listed_size,
            true.md5 if quirks.listed_md5 is None else quirks.listed_md5,
        )

    def archive(self, interval: datetime) -> bytes:
        """A whole file."""
        return archive(self._made(interval))

    def _of(self, interval: datetime) -> Quirks:
        return self._quirks.get(interval, Quirks())

    def _made(self, interval: datetime) -> Made:
        quirks = self._of(interval)
        return Made(interval, self.rows, self.seed, quirks.version, quirks.defect)

    def _is_listed(self, interval: datetime) -> bool:
        """Whether a file is there; a held one is not, and may come after this answer."""
        with self._lock:
            quirks = self._of(interval)
            if quirks.held and quirks.answers_until_there:
                left = quirks.answers_until_there - 1
                self.change(interval, held=left > 0, answers_until_there=left)
            return not quirks.held

    def _is_served(self, interval: datetime) -> bool:
        exists = self.first <= interval < self.end() and (interval - BEGINNING) % INTERVAL == timedelta(0)
        return exists and self._is_listed(interval) and not self._of(interval).withdrawn

    def _lines(self, interval: datetime, base_url: str) -> str:
        base, events = self.advertised_url or base_url, self.listed(interval)
        lines = [f"{events.size} {events.md5} {base}/{file_name(interval)}\n"]
        for kind in _OTHER_KINDS:
            name = file_name(interval, kind)
            digest = hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()
            lines.append(f"{100_000 + int(digest[:5], 16)} {digest} {base}/{name}\n")
        return "".join(lines)


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def _begin(instant: datetime) -> datetime:
    begin = instant.astimezone(UTC) if instant.tzinfo else instant
    if not begin.tzinfo or begin < BEGINNING or (begin - BEGINNING) % INTERVAL:
        raise ValueError(f"{instant} is no aware instant on a quarter of an hour since {BEGINNING}")
    return begin


def _parsed(text: str) -> datetime | None:
    try:
        return datetime.strptime(text if len(text) == 14 else "", "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None
