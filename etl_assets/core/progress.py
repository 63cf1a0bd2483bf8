"""How far a command is: a bar with counts on a terminal, else a line for each part, on stderr. Functions that nobody watches show nothing."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextvars import ContextVar
from typing import TypeAlias, TypeVar

import click

T = TypeVar("T")
Done: TypeAlias = Callable[[object], None]
# What is done sooner needs no bar.
QUIET_S = 2.0
_watched: ContextVar[bool] = ContextVar("watched", default=False)


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """A person, or a log, is told how far what happens in here is."""
    token = _watched.set(True)
    try:
        yield
    finally:
        _watched.reset(token)


def progress(
    parts: Iterable[T], *, of: str, name: Callable[[T], object] = str, total: int | None = None
) -> Iterator[T]:
    """Give parts on, one after the other; each is done when the next one is asked for.

    Args:
        of: what a part is, in one word.
        name: of a part, for people.
        total: how many there are; by default that of a collection.
    """
    total = len(parts) if total is None and isinstance(parts, Collection) else total
    with counting(of=of, total=total) as done:
        for part in parts:
            yield part
            done(name(part))


@contextlib.contextmanager
def counting(*, of: str, total: int | None) -> Iterator[Done]:
    """Gives what is called with the name of each part when that is done, from any thread; as `progress`."""
    if not _watched.get():
        yield lambda _: None
        return
    began, lock, count = time.monotonic(), threading.Lock(), 0
    bar = click.progressbar(length=total or 0, label=f"{of}s", file=sys.stderr, show_pos=True)
    seen = sys.stderr.isatty()
    # The first part alone may take long.
    first = threading.Timer(QUIET_S, bar.render_progress)
    if seen:
        first.daemon = True
        first.start()

    def done(name: object) -> None:
        nonlocal count
        with lock:
            count += 1
            if time.monotonic() - began < QUIET_S:
                bar.pos = count
            elif seen:
                bar.label = f"{of} {name}"
                bar.update(count - bar.pos)
            else:
                shown = f"{count:,}" if total is None else f"{count:,} of {total:,}"
                print(f"{of} {name} is done ({shown})", file=sys.stderr, flush=True)

    try:
        yield done
    finally:
        first.cancel()
        if seen and time.monotonic() - began >= QUIET_S:
            bar.render_finish()
