"""What may be a name or an id that comes from outside, and the order in which people look for it."""

import re

LONGEST_NAME = 200  # a partition of Dagster may have 255 bytes, and a folder is named by it
_DIGITS = re.compile(r"([0-9]+)")


def is_name(text: str) -> bool:
    """Whether a text can be shown, and told from others by whoever reads it: 1 to `LONGEST_NAME` characters that can be printed, not all blanks."""
    return bool(text.strip()) and len(text) <= LONGEST_NAME and text.isprintable()


def natural(text: str) -> tuple[list[str | int], str]:
    """The place of an id among others as people count: `2` before `10`, `spindle-2` before `spindle-10`; those that count alike by their text.

    >>> sorted(["10", "2", "spindle-10", "017", "17", "spindle-2"], key=natural)
    ['2', '10', '017', '17', 'spindle-2', 'spindle-10']
    """
    # Texts and numbers take turns, so that only like is compared with like.
    return [int(part) if at % 2 else part for at, part in enumerate(_DIGITS.split(text))], text
