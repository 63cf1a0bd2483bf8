"""The files of the feed: one of each quarter of an hour in UTC, how it is named, and from the disk to the bytes of its one member.

Nothing is ever unpacked to a disk. What is verified is what is used: a file is read once, and size, MD5 and archive are those of
the bytes that were read.
"""

import contextlib
import hashlib
import io
import math
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

from etl_assets.errors import PermanentError

INTERVAL = timedelta(minutes=15)
# The feed began in 2015; what is named beyond these is a mistake, and near the end of the calendar no day follows.
YEARS = range(2015, 2100)

INSTANT = re.compile(r"[0-9]{14}")
NAME = re.compile(r"([0-9]{14})\.export\.csv\.zip", re.IGNORECASE | re.ASCII)
# What the feed has beside its files of events, or what becomes of one.
KIN = re.compile(
    r"[0-9]{14}(?P<translated>\.translation)?\.(?P<kind>export|mentions|gkg)\.csv(\.zip)?", re.IGNORECASE | re.ASCII
)
LEADS_AWAY = re.compile(r"[/\\]|^[A-Za-z]:|^\.{1,2}$")
REMEDY = "a file of events is named by its begin in UTC, like 20190121220000.export.CSV.zip"
LONGEST_QUOTE = 60

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
# Of bytes that nobody has said the MD5 of: one that is wrong makes any of this of a file.
PERHAPS_DAMAGED = f"{AGAIN}; if it stays so, no file of the feed is like that, ask whoever made it"

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


class FileRejected(PermanentError):
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


def instant(text: str) -> datetime:
    """An instant as the feed writes it, YYYYMMDDHHMMSS in UTC.

    Raises:
        ValueError: if it is written in another way, or none of the calendar.
    """
    if INSTANT.fullmatch(text):
        with contextlib.suppress(ValueError):
            return datetime.fromisoformat(f"{text[:8]}T{text[8:]}Z")
    raise ValueError("not an instant (YYYYMMDDHHMMSS)")


def interval_of(name: str) -> datetime:
    """When the interval begins that a file is named by, aware UTC.

    Raises:
        FileRejected: if the name is a path or none of a file of events (the feed has others beside them), or its instant is
            none of the calendar or not on a quarter of an hour.
    """
    if LEADS_AWAY.search(name):
        raise FileRejected(quoted(name), "is a path, not a name", REMEDY, "path")
    matched = NAME.fullmatch(name)
    if matched is None:
        raise _no_name(name)
    try:
        interval = instant(matched[1])
    except ValueError:
        raise FileRejected(name, "has no instant of the calendar in its name", REMEDY, "name") from None
    if interval.year not in YEARS:
        raise FileRejected(name, f"is of the year {interval.year}, which no file of the feed is of", REMEDY, "name")
    if not _on_a_quarter(interval):
        raise FileRejected(name, "has a name that is not on a quarter of an hour", REMEDY, "name")
    return interval


def _no_name(name: str) -> FileRejected:
    """The refusal of a name, which says what the file is where that can be told."""
    kin = KIN.fullmatch(name)
    if kin is None:
        return FileRejected(quoted(name), "is no name of a file of events", REMEDY, "name")
    kind = kin["kind"].lower()
    if kind != "export":
        what = "mentions" if kind == "mentions" else "the knowledge graph"
        return FileRejected(name, f"is a file of {what}, not of events", REMEDY, "name")
    if kin["translated"]:
        what = "is a translated file: events of the feed of other languages, which is another one"
        return FileRejected(name, what, "give the file without `.translation` in its name", "name")
    remedy = f"give the archive as the feed has it, {name}.zip, or pack it: zip {name}.zip {name}"
    return FileRejected(name, "is an unpacked file of events", remedy, "name")


def file_name(interval: datetime) -> str:
    """The file of an interval.

    Raises:
        ValueError: if the instant is naive or not on a quarter of an hour.
    """
    return f"{member_name(interval)}.zip"


def member_name(interval: datetime) -> str:
    """The one member of the file of an interval; raises as `file_name`."""
    begin = _begin(interval)
    # `%Y` does not fill up years before 1000.
    return f"{begin.year:04}{begin:%m%d%H%M%S}.export.CSV"


def quarters(first: datetime, last: datetime) -> Iterator[datetime]:
    """The intervals in [first, last), in UTC.

    Raises:
        ValueError: if one of the two is naive, the first is not on a quarter of an hour, or no file of the feed can be of its year.
    """
    begin, end = _begin(first), _in_utc(last)
    if begin.year not in YEARS:
        raise ValueError(f"{begin:%Y-%m-%dT%H:%MZ} is of the year {begin.year}, which no file of the feed is of")
    return (begin + number * INTERVAL for number in range(math.ceil((end - begin) / INTERVAL)))


def _in_utc(instant: datetime) -> datetime:
    if instant.tzinfo is None:
        raise ValueError(f"{instant} is naive: an interval begins at an instant in UTC")
    return instant.astimezone(UTC)


def _begin(instant: datetime) -> datetime:
    begin = _in_utc(instant)
    if not _on_a_quarter(begin):
        raise ValueError(f"{begin} is not on a quarter of an hour: no file is named by it")
    return begin


def _on_a_quarter(instant: datetime) -> bool:
    return instant.minute % 15 == 0 and instant.second == 0 and instant.microsecond == 0


def quoted(text: str) -> str:
    """Text of somebody else's making in quotes, on one line, and not too much of it."""
    return repr(text if len(text) <= LONGEST_QUOTE else f"{text[: LONGEST_QUOTE - 1]}…")


class Archive(NamedTuple):
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
    remedy = PERHAPS_DAMAGED if md5 is None else NONE_OF_THE_FEED
    return Archive(_unpacked(data, name, member_name(interval), remedy=remedy), len(data), found)


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


def _unpacked(data: bytes, name: str, member: str, *, remedy: str) -> bytes:
    """The content of the one member of an archive; no more is ever made of it than the directory says and the bounds allow.

    Args:
        remedy: what to do with an archive that is whole and none of the feed.
    """
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
        raise FileRejected(name, what, remedy, reason)
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
