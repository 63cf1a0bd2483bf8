"""A file of the feed that is not taken, whole, and why."""

from typing import Literal

from etl_assets.errors import PermanentError

Reason = Literal[
    "name",  # no name of a file of the feed
    "path",  # a name, of the file or of its member, that would lead somewhere
    "unreadable",  # missing, no regular file, or the system gives no bytes
    "size",  # not as large as the feed says, or too large for any file of the feed
    "md5",  # not the bytes that the feed says
    "archive",  # no ZIP archive, cut off, damaged, or with more in it than one member
    "members",  # none, or several
    "member",  # not the one that is expected
    "link",
    "encrypted",
    "method",  # neither stored nor deflated
    "bomb",  # becomes larger than any file of the feed, or than its archive can explain
    "nested",  # an archive in the archive
    "format",  # text in another layout: format 1.0, saved again by a spreadsheet, a web page
    "fields",  # most rows do not have the number of fields
    "encoding",  # most rows are not clean UTF-8
    "values",  # most rows have fields that cannot be read
]

SHOWN = 60


class FileRefused(PermanentError):
    """A file is not taken, and nothing of it.

    The text is `<name>: <what is wrong>: <what to do>`.

    Attributes:
        name: the file.
        reason: what is wrong, as one of a few words, to count and to decide by.
    """

    def __init__(self, name: str, what: str, remedy: str, reason: Reason) -> None:
        # All four are the arguments of the exception, so that it gets through a pool of processes.
        super().__init__(name, what, remedy, reason)
        self.name, self.reason = name, reason
        self._text = f"{name}: {what}: {remedy}"

    def __str__(self) -> str:
        return self._text


def shown(text: str) -> str:
    """Text of somebody else's making in quotes, on one line, and not too much of it."""
    return repr(text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…")
