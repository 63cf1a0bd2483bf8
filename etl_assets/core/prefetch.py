"""Two steps of a long way side by side: what comes next is made while what is there is used."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Made = TypeVar("Made")
END = object()


def one_ahead(made: Iterator[Made]) -> Iterator[Made]:
    """The elements of an iterator, each made in a thread while the one before is used; never more than one ahead.

    What the iterator raises is raised in its place, after the elements before it. Whoever closes this waits for the element
    that is being made, which then is lost.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as beside:
        coming = beside.submit(next, made, END)
        while (ready := coming.result()) is not END:
            coming = beside.submit(next, made, END)
            yield ready  # type: ignore[misc]
