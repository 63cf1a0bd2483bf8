"""A file of the feed, from disk to the bytes of its one member, in memory: nothing is ever unpacked to a disk.

What is verified is what is used: the file is read once, and size, MD5 and archive are those of the bytes that were read.
"""

import hashlib
import io
import os
import re
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from etl_assets.systems.events.files import LEADS_AWAY, FileRejected, Reason, file_name, member_name, quoted

# Real files have about 100 kB. This is a hundred times as much, and little enough to hold in memory.
LARGEST_FILE_BYTES = 16 * 2**20
# A real file of 0.1 MB becomes 0.66 MB, large ones 2 MB. A hundred thousand events are about 40 MB.
LARGEST_CONTENT_BYTES = 64 * 2**20
# Real files: 6. What deflate can do at most, and what bombs are made of: 1,032.
GREATEST_RATIO = 100
# What any archive may become, however well it is packed: repeated rows of a test pack far better than real ones.
SMALL_CONTENT_BYTES = 2**20

ENCRYPTED = 0x0001 | 0x0040 | 0x2000  # the old way, the strong way, a masked directory
PATCHED = 0x0020
PACKED_AGAIN = re.compile(rb"PK\x03\x04|PK\x05\x06|\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|\x28\xb5\x2f\xfd")
# With these `zipfile` and `zlib` answer to what is no archive, or a damaged one.
DAMAGED = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, OverflowError, ValueError, RuntimeError
)  # fmt: skip

# What another download may cure, and what it cannot.
AGAIN = "fetch it again from the feed"
NONE_OF_THE_FEED = (
    "no file of the feed is like that, see whether the address is the feed's, or ask whoever made the file"
)


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
        FileRejected: if it cannot be read, is not what the feed says, or is anything but an archive of that one member.
    """
    name = file_name(interval)
    data = _read(path, name, size)
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if md5 is not None and found != md5.strip().lower():
        raise FileRejected(name, f"has the MD5 {found}, the feed says {md5.strip().lower()}", AGAIN, "md5")
    return Archive(_unpacked(data, name, member_name(interval)), len(data), found)


def too_large(name: str, counted: str) -> FileRejected:
    """The refusal of a file by its length alone, in words like `20 bytes`."""
    remedy = "see whether it is a file of the feed; if it is, report it, the bound is a fixed one of etl_assets"
    return FileRejected(name, f"has {counted}", remedy, "size")


def _read(path: Path, name: str, size: int | None) -> bytes:
    """All bytes of a file; one that is too large or not as large as expected is not read to its end."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # to open a pipe would wait for ever
            what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
            raise FileRejected(name, f"{path} is {what}", "give the archive itself", "unreadable")
        with path.open("rb") as file:
            length = os.fstat(file.fileno()).st_size
            if size is not None and length != size:
                raise FileRejected(name, f"has {length:,} bytes, the feed says {size:,}", AGAIN, "size")
            if length > LARGEST_FILE_BYTES:
                raise too_large(name, f"{length:,} bytes, more than the {LARGEST_FILE_BYTES:,} that are read")
            data = file.read(length + 1)
    except FileNotFoundError:
        raise FileRejected(name, f"{path} is missing", "put the file there, or fetch it", "unreadable") from None
    except OSError as error:
        remedy = "make it readable for this process"
        raise FileRejected(name, f"{path} cannot be read ({error.strerror})", remedy, "unreadable") from None
    if len(data) != length:
        raise FileRejected(name, f"{path} changed while it was read", "wait until it is complete", "size")
    return data


def _unpacked(data: bytes, name: str, member: str) -> bytes:
    """The content of the one member of an archive; no more is ever made of it than the directory says and the bounds allow."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            fault = _fault(members, member, len(data))
            content = b"" if fault else _content(archive, members[0])
    except DAMAGED as error:
        raise FileRejected(name, _damage(data, error), AGAIN, "archive") from None
    if PACKED_AGAIN.match(content):
        fault = ("nested", "has another archive in it")
    if fault:
        reason, what = fault
        raise FileRejected(name, what, NONE_OF_THE_FEED, reason)
    return content


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with archive.open(member) as opened:
        # Asked for all of it, `zipfile` would unpack more than the directory says before it looks.
        content = opened.read(member.file_size + 1)
    if len(content) != member.file_size:
        raise zipfile.BadZipFile(f"{len(content):,} bytes of the {member.file_size:,} that it says")
    return content


def _fault(members: list[zipfile.ZipInfo], expected: str, length: int) -> tuple[Reason, str] | None:
    """Why an archive of this length, with these members, is no file of the feed, if it is none."""
    if len(members) != 1:
        return "members", f"has {len(members):,} members, not one"
    member = members[0]
    name, kind = member.orig_filename, member.external_attr >> 16
    if LEADS_AWAY.search(name):
        return "path", f"has a member with a path in its name, {quoted(name)}"
    if name != expected:
        return "member", f"has the member {quoted(name)}, not {expected}"
    if stat.S_IFMT(kind) not in (0, stat.S_IFREG):
        return "link", f"has a link or a device for its member, mode {kind:o}"
    if member.flag_bits & ENCRYPTED:
        return "encrypted", "has an encrypted member, which no file of the feed has"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & PATCHED:
        return "method", f"is packed by method {member.compress_type}; files of the feed are deflated"
    bound = min(LARGEST_CONTENT_BYTES, max(SMALL_CONTENT_BYTES, GREATEST_RATIO * length))
    if member.file_size > bound:
        what = f"would become {member.file_size:,} bytes from {length:,}, more than the {bound:,} that are unpacked"
        return "bomb", what
    return None


def _damage(data: bytes, error: Exception) -> str:
    """What is wrong with bytes that are no archive, or a damaged one."""
    if not data:
        return "has no byte"
    if data.startswith(b"PK"):
        return f"is a ZIP archive that breaks off after {len(data):,} bytes, or is damaged ({error})"
    return f"is no ZIP archive, it begins with {quoted(data[:40].decode('utf-8', 'backslashreplace'))}"
