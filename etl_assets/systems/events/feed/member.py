"""The one member of a ZIP archive, read strictly: the archive is that member and nothing else, byte by byte.

Python's `zipfile` reads whatever can be made sense of: it passes over bytes before, between and behind the members, hides
members that the directory does not name, and believes a directory of any length. Here the archive is header, data,
directory of one entry and end record, one behind the other from the first byte to the last; and what header and directory
both say of the member is the same. So there is only one way to read it.
"""

import re
import stat
import struct
import zlib
from dataclasses import dataclass
from typing import NamedTuple

from etl_assets.systems.events.feed.rejected import FileRefused, Reason, shown
from etl_assets.systems.events.intervals import LEADS_AWAY

# A real file of 0.1 MB becomes 0.66 MB, large ones 2 MB. A hundred thousand events are about 40 MB.
LARGEST_CONTENT_BYTES = 64 * 2**20
# Real files: 6. What deflate can do at most, and what bombs are made of: 1,032.
GREATEST_RATIO = 100
# What any archive may become, however well it is packed: repeated rows of a test pack far better than real ones.
SMALL_CONTENT_BYTES = 2**20

STORED, DEFLATED = 0, 8
ENCRYPTED = 0x0001 | 0x0040 | 0x2000  # the old way, the strong way, a masked directory
DESCRIBED_BEHIND = 0x0008  # checksum and sizes stand behind the data, by writers that cannot go back
PATCHED = 0x0020

LOCAL = struct.Struct("<4s5H3L2H")
ENTRY = struct.Struct("<4s6H3L5H2L")
END = struct.Struct("<4s4H2LH")
LOCAL_MARK, ENTRY_MARK, END_MARK, DESCRIPTOR_MARK = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x07\x08"
LONGEST_COMMENT = 2**16 - 1

# A size of 32 bits that is this one is in an extra field, in 64 bits, of the header of a member.
ELSEWHERE, EXTRA_64 = 2**32 - 1, 1

# What another download may cure, and what it cannot.
AGAIN = "fetch it again from the feed"
NONE_OF_THE_FEED = (
    "no file of the feed is like that, see whether the address is the feed's, or ask whoever made the file"
)

PACKED_AGAIN = re.compile(rb"PK\x03\x04|PK\x05\x06|\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|\x28\xb5\x2f\xfd")


class _Local(NamedTuple):
    """The header of a member, by the order of its fields."""

    mark: bytes
    needed: int
    flags: int
    method: int
    time: int
    date: int
    checksum: int
    packed: int
    size: int
    name_length: int
    extra_length: int


class _Entry(NamedTuple):
    """An entry of the directory, by the order of its fields."""

    mark: bytes
    made_by: int
    needed: int
    flags: int
    method: int
    time: int
    date: int
    checksum: int
    packed: int
    size: int
    name_length: int
    extra_length: int
    comment_length: int
    disk: int
    internal: int
    external: int
    offset: int


class _End(NamedTuple):
    """The end record, by the order of its fields."""

    mark: bytes
    disk: int
    directory_disk: int
    entries_here: int
    entries: int
    directory_length: int
    directory_start: int
    comment_length: int


@dataclass(frozen=True)
class _Archive:
    """The bytes of an archive, and its name in messages."""

    data: bytes
    name: str

    def refused(self, reason: Reason, what: str) -> FileRefused:
        return FileRefused(self.name, what, AGAIN if reason == "archive" else NONE_OF_THE_FEED, reason)


def only_member(data: bytes, *, name: str, member: str) -> bytes:
    """The content of the one member of an archive.

    Memory is bounded by `LARGEST_CONTENT_BYTES`, and by `GREATEST_RATIO` times the archive if that is more than a small file;
    one that says that it is smaller than it is, is given up one byte behind what it says.

    Args:
        data: the archive.
        name: its name in messages.
        member: the name that the member must have.

    Raises:
        FileRefused: if it is anything but a whole archive of one plain file with this name.
    """
    archive = _Archive(data, name)
    entry, entry_start = _entry(archive)
    name_start = entry_start + ENTRY.size
    entry_name = data[name_start : name_start + entry.name_length]
    _require_plain_file(archive, entry, entry_name, member)
    _require_bounded(archive, entry.size)
    content = _unpacked(archive, entry, _packed(archive, entry, entry_name, entry_start))
    if PACKED_AGAIN.match(content):
        raise archive.refused("nested", "has another archive in it")
    return content


def _entry(archive: _Archive) -> tuple[_Entry, int]:
    """The one entry of the directory, and where it begins."""
    data = archive.data
    at = data.rfind(END_MARK, max(0, len(data) - END.size - LONGEST_COMMENT))
    if at < 0 or len(data) - at < END.size:
        if data.startswith(LOCAL_MARK):
            raise archive.refused("archive", f"breaks off after {len(data):,} bytes, before the end of the archive")
        begins = f"is no ZIP archive, it begins with {shown(data[:40].decode('utf-8', 'backslashreplace'))}"
        raise archive.refused("archive", begins if data else "has no byte")
    end = _End._make(END.unpack_from(data, at))
    behind = len(data) - at - END.size - end.comment_length
    if behind:
        what = f"{behind:,} bytes behind its end" if behind > 0 else "an end that breaks off"
        raise archive.refused("archive", f"is a ZIP archive with {what}")
    if end.entries != 1:
        raise archive.refused("members", f"has {end.entries:,} members, not one")
    start = end.directory_start
    if start + end.directory_length != at or end.directory_length < ENTRY.size or end.entries_here != 1:
        raise archive.refused("archive", "is a ZIP archive whose directory is not where its end says")
    entry = _Entry._make(ENTRY.unpack_from(data, start))
    length = ENTRY.size + entry.name_length + entry.extra_length + entry.comment_length
    if entry.mark != ENTRY_MARK or length != end.directory_length:
        raise archive.refused("archive", "is a ZIP archive whose directory is damaged, or has more than one entry")
    return entry, start


def _require_plain_file(archive: _Archive, entry: _Entry, entry_name: bytes, member: str) -> None:
    text = entry_name.decode("utf-8", "backslashreplace")
    if LEADS_AWAY.search(text):
        raise archive.refused("path", f"has a member with a path in its name, {shown(text)}")
    if entry_name != member.encode():
        raise archive.refused("member", f"has the member {shown(text)}, not {member}")
    if stat.S_IFMT(entry.external >> 16) not in (0, stat.S_IFREG):
        raise archive.refused("link", f"has a link or a device for its member, mode {entry.external >> 16:o}")
    if entry.flags & ENCRYPTED:
        raise archive.refused("encrypted", "has an encrypted member, which no file of the feed has")
    if entry.method not in (STORED, DEFLATED) or entry.flags & PATCHED:
        raise archive.refused("method", f"is packed by method {entry.method}; files of the feed are deflated")


def _require_bounded(archive: _Archive, size: int) -> None:
    """The bound by which memory is limited is the archive's true length, which cannot lie."""
    bound = min(LARGEST_CONTENT_BYTES, max(SMALL_CONTENT_BYTES, GREATEST_RATIO * len(archive.data)))
    if size > bound:
        what = f"would become {size:,} bytes from {len(archive.data):,}, more than the {bound:,} that are unpacked"
        raise archive.refused("bomb", what)


def _packed(archive: _Archive, entry: _Entry, entry_name: bytes, directory_start: int) -> memoryview:
    """The packed bytes, which with their header, and what describes them behind, fill all that is before the directory."""
    data = archive.data
    if entry.offset or directory_start < LOCAL.size or not data.startswith(LOCAL_MARK):
        raise archive.refused("archive", "is a ZIP archive that does not begin with its member")
    local = _Local._make(LOCAL.unpack_from(data))
    extra_start = LOCAL.size + local.name_length
    start = extra_start + local.extra_length
    same = data[LOCAL.size : extra_start] == entry_name
    if not same or start + entry.packed > directory_start:
        raise archive.refused("archive", "is a ZIP archive whose member is not what its directory says")
    _require_same(archive, local, data[extra_start:start], entry)
    if data[start + entry.packed : directory_start] not in _descriptors(entry):
        raise archive.refused("archive", "is a ZIP archive with more in it than its member")
    return memoryview(data)[start : start + entry.packed]


def _require_same(archive: _Archive, local: _Local, extra: bytes, entry: _Entry) -> None:
    """What the header of a member says is what the directory says, or nothing where it is described behind."""
    size, packed = _sizes(local, extra)
    described = {
        "checksum": (local.checksum, entry.checksum),
        "packed size": (packed, entry.packed),
        "size": (size, entry.size),
    }
    unsaid = (0,) if entry.flags & DESCRIBED_BEHIND else ()
    differing = [what for what, (here, there) in described.items() if here != there and here not in unsaid]
    differing += ["flags"] * (local.flags != entry.flags) + ["method"] * (local.method != entry.method)
    if differing:
        what = f"whose member has another {differing[0]} in its own header than in the directory"
        raise archive.refused("archive", f"is a ZIP archive {what}")


def _sizes(local: _Local, extra: bytes) -> tuple[int, int]:
    """Size and packed size of a member by its own header, also where they are in 64 bits behind it."""
    sizes, at = [local.size, local.packed], 0
    while ELSEWHERE in sizes and at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == EXTRA_64 and 8 * sizes.count(ELSEWHERE) <= length <= len(extra) - at - 4:
            large = struct.unpack_from(f"<{length // 8}Q", extra, at + 4)
            if len(large) > 1:
                return large[0], large[1]
            # Both should be there; some writers have that one alone for which there is no room before.
            return (large[0], local.packed) if local.size == ELSEWHERE else (local.size, large[0])
        at += 4 + length
    return local.size, local.packed


def _descriptors(entry: _Entry) -> list[bytes]:
    """What may stand between the packed bytes and the directory."""
    if not entry.flags & DESCRIBED_BEHIND:
        return [b""]
    sizes = entry.checksum, entry.packed, entry.size
    return [mark + struct.pack(form, *sizes) for mark in (b"", DESCRIPTOR_MARK) for form in ("<LLL", "<LQQ")]


def _unpacked(archive: _Archive, entry: _Entry, packed: memoryview) -> bytes:
    """The content, as large as the directory says and with its checksum; not one byte more is ever made of it."""
    if entry.method == STORED:
        whole, content = True, bytes(packed)
    else:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            content = inflater.decompress(packed, entry.size + 1)
        except zlib.error as error:
            raise archive.refused("archive", f"is damaged ({error})") from None
        whole = inflater.eof and not inflater.unused_data
    if len(content) > entry.size:
        raise archive.refused("bomb", f"becomes more than the {entry.size:,} bytes that it says")
    if len(content) < entry.size or not whole:
        raise archive.refused("archive", f"becomes {len(content):,} bytes of the {entry.size:,} that it says")
    if zlib.crc32(content) != entry.checksum:
        raise archive.refused("archive", "is damaged: its checksum (CRC-32) is not that of its content")
    return content
