"""Text of the outside that is nested deeper than the stack is."""

import contextlib
import gc
from collections.abc import Iterator


class NestedTooDeeply(ValueError):
    """A text cannot be read for its depth."""


@contextlib.contextmanager
def bounded_nesting() -> Iterator[None]:
    """Read a text that may be nested too deeply.

    No garbage is collected meanwhile: at the end of the stack a finaliser fails, without a word and for good, and what it should
    have closed stays open.

    Raises:
        NestedTooDeeply: in place of RecursionError.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    except RecursionError:
        raise NestedTooDeeply("nested too deeply") from None
    finally:
        if collects:
            gc.enable()
