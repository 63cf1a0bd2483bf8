"""Prefetching: the next element is made while the current one is used."""

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Made = TypeVar("Made")
END = object()


def prefetched(made: Iterator[Made]) -> Generator[Made]:
    """The elements of an iterator, each made in a thread while the one before is used; never more than one before it is wanted.

    What the iterator raises is raised in its place, after the elements before it. Whoever closes this waits for the element
    that is being made, which then is lost.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as beside:
        coming = beside.submit(next, made, END)
        while (ready := coming.result()) is not END:
            coming = beside.submit(next, made, END)
            yield ready  # type: ignore[misc]
