"""An archive of the feed is one plain member with the right name, whole and undamaged, or it is refused and leaves nothing."""

import gc
import gzip
import hashlib
import os
import random
import stat
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from etl_assets.systems.events.feed.archive import LARGEST_FILE_BYTES, verified
from etl_assets.systems.events.feed.member import GREATEST_RATIO, LARGEST_CONTENT_BYTES, SMALL_CONTENT_BYTES
from etl_assets.systems.events.feed.rejected import FileRefused
from etl_assets.systems.events.intervals import file_name
from etl_assets_tests.systems.events.event_files import MEMBER, Pipe, archive, large_archive, member, rows
from etl_assets_tests.systems.events.raw_rows import INTERVAL, SHARED_FILE, needs_shared_file

ROWS = rows(3)
GOOD = archive((MEMBER, ROWS))
NAME = file_name(INTERVAL)
END_OF_NOTHING = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0, 0, 0, 0, 0)
# Places in an archive of one member without comment, from its end.
END = -22
ENTRY = END - 46 - len(MEMBER)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder / NAME


def around(path: Path) -> list[Path]:
    """What is in the folder of a file and in the one above."""
    return sorted([*path.parent.iterdir(), *path.parent.parent.iterdir()])


def refusal(path: Path, data: bytes | None = None, *, size: int | None = None, md5: str | None = None) -> FileRefused:
    """Why a file is refused; nothing is in its folder afterwards, or in the one above, that was not there before."""
    if data is not None:
        path.write_bytes(data)
    before = around(path)
    with pytest.raises(FileRefused) as refused:
        verified(path, interval=INTERVAL, size=size, md5=md5)
    assert around(path) == before
    assert str(refused.value).startswith(f"{NAME}: ")
    return refused.value


def frugal_refusal(path: Path, *, peak_bytes: int) -> tuple[str, str]:
    """Reason and text of a refusal that never has more than these bytes, and leaves nothing.

    Of three times the least counts: what is done once is done then, and threads of other tests allocate as well.
    """
    peaks, lefts = [], []
    for _ in range(3):
        tracemalloc.start()
        try:
            refused = refusal(path)
            found = str(refused.reason), str(refused)
            del refused
            gc.collect()
            left, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        peaks.append(peak)
        lefts.append(left)
    assert min(peaks) < peak_bytes
    assert min(lefts) < 20_000
    return found


# What is taken


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("comment", [b"", b"a comment"])
@pytest.mark.parametrize("into", [None, Pipe])
def test_a_member_is_read_however_an_archive_is_written(
    path: Path, method: int, comment: bytes, into: Callable[[], Pipe] | None
) -> None:
    path.write_bytes(archive((member(method=method), ROWS), comment=comment, into=into and into()))
    assert verified(path, interval=INTERVAL).content == ROWS


def test_a_member_with_extra_fields_is_read(path: Path) -> None:
    info = member()
    info.extra, info.comment = struct.pack("<HHL", 0x5455, 4, 1548107446), b"of the member"
    path.write_bytes(archive((info, ROWS)))
    assert verified(path, interval=INTERVAL).content == ROWS


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_empty_member_is_an_interval_without_events(path: Path, method: int) -> None:
    path.write_bytes(archive((member(method=method), b"")))
    assert verified(path, interval=INTERVAL).content == b""


def test_size_and_md5_are_compared_with_those_of_the_whole_file(path: Path) -> None:
    path.write_bytes(GOOD)
    digest = hashlib.md5(GOOD).hexdigest()
    assert verified(path, interval=INTERVAL, size=len(GOOD), md5=digest.upper()).content == ROWS
    assert refusal(path, size=len(GOOD) + 1).reason == "size"
    wrong = refusal(path, size=len(GOOD), md5=hashlib.md5(ROWS).hexdigest())
    assert wrong.reason == "md5"
    assert digest in str(wrong)


def test_the_file_may_be_under_another_name(tmp_path: Path) -> None:
    (tmp_path / "download.part").write_bytes(GOOD)
    assert verified(tmp_path / "download.part", interval=INTERVAL).content == ROWS


@needs_shared_file
def test_the_real_file_is_read() -> None:
    digest = hashlib.md5(SHARED_FILE.read_bytes()).hexdigest()
    real = verified(SHARED_FILE, interval=INTERVAL, size=109_078, md5=digest).content
    assert len(real) == 658_880
    assert real.startswith(b"817930293\t20180121\t")


# Files that are none


def test_a_file_that_cannot_be_read_is_refused_by_its_path(tmp_path: Path, path: Path) -> None:
    assert refusal(path).reason == "unreadable"
    path.mkdir()
    assert "is a folder" in str(refusal(path))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "no regular file" in str(refusal(pipe))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(path: Path) -> None:
    path.write_bytes(GOOD)
    path.chmod(0)
    assert refusal(path).reason == "unreadable"


@pytest.mark.long
def test_a_file_larger_than_any_of_the_feed_is_not_even_read(path: Path) -> None:
    with path.open("wb") as sparse:
        sparse.truncate(LARGEST_FILE_BYTES + 1)
    reason, _ = frugal_refusal(path, peak_bytes=200_000)
    assert reason == "size"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no file here that grows while it is read")
def test_a_file_that_grows_while_it_is_read_is_refused() -> None:
    with pytest.raises(FileRefused) as refused:
        verified(Path("/proc/self/status"), interval=INTERVAL)
    assert refused.value.reason == "size"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "has no byte"),
        (b"<!DOCTYPE html>\n<html>", "it begins with '<!DOCTYPE html>"),
        (ROWS, "is no ZIP archive"),
        (gzip.compress(ROWS), "is no ZIP archive"),
        (GOOD[:200], "breaks off after 200 bytes"),
        (GOOD[:-1], "breaks off"),
        (GOOD[1:], "ZIP archive whose directory is not where"),
        (GOOD + b"\0", "1 bytes behind its end"),
        (b"\0" + GOOD, "directory is not where"),
        (archive((MEMBER, ROWS), comment=b"comment")[:-3], "an end that breaks off"),
        (archive((MEMBER, ROWS), patched={-len(GOOD) + 30 + len(MEMBER) + 20: b"\xff\xff"}), "is damaged"),
        (archive((member(method=0), ROWS), patched={200: b"?"}), "is damaged: its checksum"),
    ],
)
def test_what_is_no_archive_or_a_damaged_one_is_refused(path: Path, data: bytes, says: str) -> None:
    refused = refusal(path, data)
    assert refused.reason == "archive"
    assert says in str(refused)
    assert str(refused).endswith(": fetch it again from the feed")


def test_a_file_of_the_feed_that_is_too_large_is_to_be_reported(path: Path) -> None:
    path.write_bytes(b"")
    os.truncate(path, LARGEST_FILE_BYTES + 1)
    assert str(refusal(path)).endswith(
        ": see whether it is a file of the feed; if it is, report it, the bound is a fixed one of etl_assets"
    )


def test_an_archive_that_is_cut_anywhere_or_has_more_at_its_end_is_refused(path: Path) -> None:
    for length in range(0, len(GOOD), 3):
        assert refusal(path, GOOD[:length]).reason == "archive"
    for more in (b"\n", b"\0" * 100, GOOD, END_OF_NOTHING):
        assert refusal(path, GOOD + more).reason in ("archive", "members")


@pytest.mark.long
@pytest.mark.parametrize("flip", [0xFF, 0x01])
def test_a_changed_byte_anywhere_is_refused_or_changes_nothing(path: Path, flip: int) -> None:
    refused = 0
    for place in range(len(GOOD)):
        changed = bytearray(GOOD)
        changed[place] ^= flip
        path.write_bytes(changed)
        try:
            assert verified(path, interval=INTERVAL).content == ROWS
        except FileRefused:
            refused += 1
    assert refused > len(GOOD) - 30  # the others are times, versions, attributes and numbers of disks


@pytest.mark.parametrize(
    ("place", "new"), [(0, b"pk"), (ENTRY, b"pk"), (ENTRY + 42, b"\x01")], ids=["header", "directory", "offset"]
)
def test_header_and_directory_are_where_they_should_be(path: Path, place: int, new: bytes) -> None:
    assert refusal(path, archive((MEMBER, ROWS), patched={place: new})).reason == "archive"


OTHER = {
    "flags": (6, "<H", 8),
    "method": (8, "<H", 0),
    "checksum": (14, "<L", 7),
    "packed size": (18, "<L", 7),
    "size": (22, "<L", 7),
}
# By writers that cannot go back, the packed bytes are described behind them, and their own header has zeros.
STREAMED = archive((MEMBER, ROWS), into=Pipe())
LARGE, LARGE_STREAMED = large_archive(member(), ROWS), large_archive(member(), ROWS, into=Pipe())
# Where the sizes are in the own header of a member that has them in 64 bits.
SIZES_64 = 30 + len(MEMBER) + 4


def changed(data: bytes, place: int, new: bytes) -> bytes:
    return data[:place] + new + data[place + len(new) :]


@pytest.mark.parametrize("what", OTHER)
def test_a_member_whose_own_header_says_something_else_than_the_directory_is_refused(path: Path, what: str) -> None:
    place, form, value = OTHER[what]
    refused = refusal(path, changed(GOOD, place, struct.pack(form, value)))
    assert refused.reason == "archive"
    assert f"whose member has another {what} in its own header than in the directory" in str(refused)
    if what == "flags":
        assert refusal(path, changed(GOOD, place, b"\x01")).reason == "archive"
    else:
        assert refusal(path, changed(STREAMED, place, struct.pack(form, value))).reason == "archive"


def test_a_member_that_is_described_behind_may_have_its_description_in_its_own_header_too(path: Path) -> None:
    said = struct.pack("<LLL", zlib.crc32(ROWS), *struct.unpack_from("<LL", GOOD, 18))
    for start, end in ((0, 0), (0, 4), (4, 8), (8, 12), (0, 12)):
        path.write_bytes(changed(STREAMED, 14 + start, said[start:end]))
        assert verified(path, interval=INTERVAL).content == ROWS


@pytest.mark.parametrize("data", [LARGE, LARGE_STREAMED], ids=["", "streamed"])
def test_sizes_of_64_bits_in_the_header_of_the_member_are_those_of_the_directory(path: Path, data: bytes) -> None:
    assert data[18:26] == b"\xff" * 8
    path.write_bytes(data)
    assert verified(path, interval=INTERVAL).content == ROWS
    for place, what in ((SIZES_64, "size"), (SIZES_64 + 8, "packed size")):
        refused = refusal(path, changed(data, place, struct.pack("<Q", 2**33 + 7)))
        assert f"another {what} in its own header" in str(refused)
    assert "another packed size in its own header" in str(refusal(path, changed(data, SIZES_64 - 4, b"\x02")))
    assert refusal(path, changed(data, SIZES_64 - 2, b"\x08")).reason == "archive"


def test_other_extra_fields_may_stand_around_sizes_of_64_bits(path: Path) -> None:
    info = member()
    info.extra = struct.pack("<HHL", 0x5455, 4, 1548107446)
    data, place = large_archive(info, ROWS), SIZES_64 - 4
    other, sizes = data[place : place + 8], data[place + 8 : place + 28]
    assert sizes[:4] == b"\x01\0\x10\0"
    for extra in (other + sizes, sizes + other):
        path.write_bytes(changed(data, place, extra))
        assert verified(path, interval=INTERVAL).content == ROWS


def test_one_size_alone_may_be_in_64_bits(path: Path) -> None:
    size, packed = struct.unpack_from("<QQ", LARGE, SIZES_64)
    for kept, place in ((size, 18), (packed, 22)):
        extra = struct.pack("<HHQ", 1, 8, kept) + struct.pack("<HHL", 0x5455, 4, 0)
        data = changed(LARGE, place, struct.pack("<L", size + packed - kept))
        path.write_bytes(changed(data, SIZES_64 - 4, extra))
        assert verified(path, interval=INTERVAL).content == ROWS


@pytest.mark.parametrize("length", [1, 12, 16])
def test_bytes_between_the_member_and_the_directory_are_refused(path: Path, length: int) -> None:
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, END - ENTRY, len(GOOD) + ENTRY + length, 0)
    refused = refusal(path, GOOD[:ENTRY] + bytes(length) + GOOD[ENTRY:END] + end)
    assert "more in it than its member" in str(refused)


def test_a_member_that_reaches_into_the_directory_is_refused(path: Path) -> None:
    stored = archive((member(method=0), ROWS))
    reaching = ROWS + stored[ENTRY : ENTRY + 5]
    said = struct.pack("<LLL", zlib.crc32(reaching), len(reaching), len(reaching))
    data = stored[: ENTRY + 16] + said + stored[ENTRY + 28 :]
    assert "is not what its directory says" in str(refusal(path, data))


# Members


@pytest.mark.parametrize(
    "members",
    [
        [],
        [(MEMBER, ROWS), ("other.CSV", b"")],
        [("other.CSV", b""), (MEMBER, ROWS)],
        [(f"folder{n}/", b"") for n in range(3)],
    ],
)
def test_an_archive_has_exactly_one_member(path: Path, members: list[tuple[str, bytes]]) -> None:
    refused = refusal(path, archive(*members))
    assert refused.reason == "members"
    assert f"has {len(members)} members, not one" in str(refused)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(path: Path) -> None:
    assert refusal(path, archive((MEMBER, ROWS), (MEMBER, b"other"))).reason == "members"


def test_a_member_that_the_directory_does_not_name_is_found(path: Path) -> None:
    local = GOOD[:ENTRY]
    both = local + local + GOOD[ENTRY:]
    hidden = both[:END] + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, -END - ENTRY - 44, 2 * len(local), 0)
    assert "more in it than its member" in str(refusal(path, hidden))


def test_members_that_share_their_bytes_are_refused(path: Path) -> None:
    entry = GOOD[ENTRY:END]
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 2 * len(entry), len(GOOD) + ENTRY, 0)
    assert "more than one entry" in str(refusal(path, GOOD[:ENTRY] + 2 * entry + end))


@pytest.mark.parametrize(
    "name",
    [f"../{MEMBER}", f"../../etc/{MEMBER}", f"/tmp/{MEMBER}", f"a/{MEMBER}", f"..\\{MEMBER}", f"C:{MEMBER}", ".."],
)
def test_a_member_with_a_path_in_its_name_is_refused_and_leaves_nothing(path: Path, name: str) -> None:
    refused = refusal(path, archive((name, ROWS)))
    assert refused.reason == "path"
    assert "\n" not in str(refused)


@pytest.mark.parametrize("name", ["20190121221500.export.CSV", MEMBER.lower(), f"{MEMBER}.txt", f"{MEMBER}é"])
def test_a_member_with_another_name_is_refused(path: Path, name: str) -> None:
    assert refusal(path, archive((name, ROWS))).reason == "member"


def test_a_member_whose_name_goes_on_behind_a_nul_is_refused(path: Path) -> None:
    data = archive((f"{MEMBER}?txt", ROWS)).replace(b"?txt", b"\0txt")
    assert refusal(path, data).reason == "member"


def test_a_member_without_a_name_is_refused(path: Path) -> None:
    data = archive((MEMBER, ROWS), patched={ENTRY + 28: b"\0\0", END + 12: struct.pack("<L", 46)})
    assert refusal(path, data[: ENTRY + 46] + data[END:]).reason == "member"


def test_the_name_of_a_member_is_shown_on_one_line_and_not_all_of_a_long_one(path: Path) -> None:
    message = str(refusal(path, archive(("a\n" + "b" * 60_000, ROWS))))
    assert "'a\\nbbb" in message
    assert len(message) < 250


def test_a_member_that_has_another_name_in_its_own_header_is_refused(path: Path) -> None:
    refused = refusal(path, archive((MEMBER, ROWS), patched={30: b"9"}))
    assert "is not what its directory says" in str(refused)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFDIR, stat.S_IFCHR])
def test_a_link_or_a_device_is_refused(path: Path, kind: int) -> None:
    assert refusal(path, archive((member(mode=kind | 0o777), b"/etc/passwd"))).reason == "link"


@pytest.mark.parametrize("flag", [0x0001, 0x0041, 0x2000])
def test_an_encrypted_member_is_refused(path: Path, flag: int) -> None:
    flags = struct.pack("<H", flag)
    assert refusal(path, archive((MEMBER, ROWS), patched={6: flags, ENTRY + 8: flags})).reason == "encrypted"


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_method_other_than_deflate_is_refused(path: Path, method: int) -> None:
    refused = refusal(path, archive((member(method=method), ROWS)))
    assert refused.reason == "method"
    assert f"method {method};" in str(refused)


def test_a_member_of_patches_to_another_file_is_refused(path: Path) -> None:
    assert refusal(path, archive((MEMBER, ROWS), patched={ENTRY + 8: b"\x20"})).reason == "method"


@pytest.mark.parametrize("inner", [GOOD, archive(), gzip.compress(ROWS)])
def test_an_archive_in_an_archive_is_refused(path: Path, inner: bytes) -> None:
    assert refusal(path, archive((MEMBER, inner))).reason == "nested"


@pytest.mark.parametrize(
    "data",
    [
        archive(),
        archive(("other.CSV", ROWS)),
        archive((f"../{MEMBER}", ROWS)),
        archive((member(mode=stat.S_IFLNK | 0o777), b"/etc/passwd")),
        archive((MEMBER, ROWS), patched={6: b"\x01", ENTRY + 8: b"\x01"}),
        archive((member(method=zipfile.ZIP_BZIP2), ROWS)),
        archive((MEMBER, bytes(2 * SMALL_CONTENT_BYTES))),
        archive((MEMBER, GOOD)),
    ],
    ids=["members", "member", "path", "link", "encrypted", "method", "bomb", "nested"],
)
def test_what_no_file_of_the_feed_is_would_not_be_better_if_it_were_fetched_again(path: Path, data: bytes) -> None:
    says = ": no file of the feed is like that, see whether the address is the feed's, or ask whoever made the file"
    assert str(refusal(path, data)).endswith(says)


# Bombs


def lying(data: bytes, size: int) -> bytes:
    """The archive with another size in its header and in its directory."""
    entry = data.rfind(b"PK\x01\x02")
    said = struct.pack("<L", size)
    return data[:22] + said + data[26 : entry + 24] + said + data[entry + 28 :]


def test_a_bomb_is_refused_by_its_own_word_and_nothing_of_it_is_unpacked(path: Path) -> None:
    path.write_bytes(archive((MEMBER, bytes(4 * 2**20))))
    _, message = frugal_refusal(path, peak_bytes=200_000)
    assert "would become 4,194,304 bytes" in message


@pytest.mark.long
@pytest.mark.parametrize("said", [0, 1, 1000])
def test_a_bomb_that_says_it_is_small_is_given_up_one_byte_behind_what_it_says(path: Path, said: int) -> None:
    path.write_bytes(lying(archive((MEMBER, bytes(4 * 2**20))), said))
    reason, _ = frugal_refusal(path, peak_bytes=200_000)
    assert reason == "bomb"


def test_a_member_that_says_it_is_larger_than_it_is_is_refused(path: Path) -> None:
    refused = refusal(path, lying(GOOD, len(ROWS) + 1))
    assert refused.reason == "archive"
    assert f"becomes {len(ROWS):,} bytes of the {len(ROWS) + 1:,}" in str(refused)
    assert refusal(path, lying(archive((member(method=0), ROWS)), len(ROWS) - 1)).reason == "bomb"


def test_bytes_behind_the_end_of_the_packed_ones_are_refused(path: Path) -> None:
    packed = zlib.compress(ROWS, wbits=-zlib.MAX_WBITS) + b"more"
    stored = archive((member(method=0), packed))
    sizes = struct.pack("<LLL", zlib.crc32(ROWS), len(packed), len(ROWS))
    entry = stored.rfind(b"PK\x01\x02")
    deflated = stored[:8] + b"\x08\0" + stored[10:14] + sizes + stored[26 : entry + 10] + b"\x08\0"
    data = deflated + stored[entry + 12 : entry + 16] + sizes + stored[entry + 28 :]
    assert refusal(path, data).reason == "archive"


@pytest.mark.parametrize(("more", "taken"), [(0, True), (1, False)])
def test_a_small_archive_may_become_a_megabyte(path: Path, more: int, taken: bool) -> None:
    path.write_bytes(archive((MEMBER, b"1" * (SMALL_CONTENT_BYTES + more))))
    if taken:
        assert len(verified(path, interval=INTERVAL).content) == SMALL_CONTENT_BYTES
    else:
        assert refusal(path).reason == "bomb"


def test_a_larger_archive_may_become_a_hundred_times_as_large(path: Path) -> None:
    noise = random.Random(7).randbytes(30_000)
    taken = archive((MEMBER, noise + b"1" * 2_500_000))
    assert GREATEST_RATIO * len(taken) > 2_530_000
    path.write_bytes(taken)
    assert len(verified(path, interval=INTERVAL).content) == 2_530_000
    assert refusal(path, archive((MEMBER, noise[:15_000] + b"1" * 2_500_000))).reason == "bomb"


def test_no_archive_may_become_more_than_the_bound(path: Path) -> None:
    data = archive((member(method=0), bytes(LARGEST_CONTENT_BYTES // GREATEST_RATIO)))
    assert GREATEST_RATIO * len(data) > LARGEST_CONTENT_BYTES
    refused = refusal(path, lying(data, LARGEST_CONTENT_BYTES + 1))
    assert f"more than the {LARGEST_CONTENT_BYTES:,} that are unpacked" in str(refused)
