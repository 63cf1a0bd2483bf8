"""A file of the feed, from disk to the bytes of its one member, in memory: nothing is ever unpacked to a disk.

What is verified is what is used: the file is read once, and size, MD5 and archive are those of the bytes that were read.
"""

import hashlib
import os
import stat
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from etl_assets.systems.events.feed.member import only_member
from etl_assets.systems.events.feed.rejected import FileRefused
from etl_assets.systems.events.intervals import file_name, member_name

# Real files have about 100 kB. This is room for one a hundred times as large, and little enough to hold in memory.
LARGEST_FILE_BYTES = 16 * 2**20
AGAIN = "fetch it again from the feed"


@dataclass(frozen=True)
class Archive:
    """A file of the feed that was verified.

    Attributes:
        content: the bytes of its one member, uncompressed.
        size, md5: of the archive itself.
    """

    content: bytes
    size: int
    md5: str


def verified(path: Path, *, interval: datetime, size: int | None = None, md5: str | None = None) -> Archive:
    """A file of the feed, with the bytes of its one member.

    A member without a byte is an interval without events. A file without a byte is none.

    Args:
        path: where the file is, under whatever name.
        interval: the interval that it is of, by which messages and the expected member are named.
        size: how many bytes the feed says that it has.
        md5: the MD5 digest that the feed says that it has, in hexadecimal.

    Raises:
        FileRefused: if it cannot be read, is not what the feed says, or is anything but an archive of that one member.
    """
    name = file_name(interval)
    data = _whole(path, name, size)
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if md5 is not None and found != md5.strip().lower():
        raise FileRefused(name, f"has the MD5 {found}, the feed says {md5.strip().lower()}", AGAIN, "md5")
    return Archive(only_member(data, name=name, member=member_name(interval)), len(data), found)


def _whole(path: Path, name: str, size: int | None) -> bytes:
    """All bytes of a file; one that is too large or not as large as expected is not read to its end."""
    try:
        there = path.stat()
        if not stat.S_ISREG(there.st_mode):  # to open a pipe would wait for ever
            what = "a folder" if stat.S_ISDIR(there.st_mode) else "no regular file"
            raise FileRefused(name, f"{path} is {what}", "give the archive itself", "unreadable")
        with path.open("rb") as file:
            length = os.fstat(file.fileno()).st_size
            _require_length(length, name, size)
            data = file.read(length + 1)
    except FileNotFoundError:
        raise FileRefused(name, f"{path} is missing", "put the file there, or fetch it", "unreadable") from None
    except OSError as error:
        remedy = "make it readable for this process"
        raise FileRefused(name, f"{path} cannot be read ({error.strerror})", remedy, "unreadable") from None
    if len(data) != length:
        raise FileRefused(name, f"{path} changed while it was read", "wait until it is complete", "size")
    return data


def _require_length(length: int, name: str, size: int | None) -> None:
    if size is not None and length != size:
        raise FileRefused(name, f"has {length:,} bytes, the feed says {size:,}", AGAIN, "size")
    if length > LARGEST_FILE_BYTES:
        raise too_large(name, f"{length:,} bytes, more than the {LARGEST_FILE_BYTES:,} that are read")


def too_large(name: str, counted: str) -> FileRefused:
    """The refusal of a file by its length alone, in words like `20 bytes`."""
    remedy = "see whether it is a file of the feed; if it is, report it, the bound is a fixed one of etl_assets"
    return FileRefused(name, f"has {counted}", remedy, "size")
