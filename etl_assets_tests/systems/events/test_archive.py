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
from collections.abc import Callable
from pathlib import Path

import pytest

from etl_assets.systems.events.files import (
    GREATEST_RATIO,
    LARGEST_CONTENT_BYTES,
    LARGEST_FILE_BYTES,
    SMALL_CONTENT_BYTES,
    FileRejected,
    file_name,
    verified,
)
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


def refusal(path: Path, data: bytes | None = None, *, size: int | None = None, md5: str | None = None) -> FileRejected:
    """Why a file is refused; nothing is in its folder afterwards, or in the one above, that was not there before."""
    if data is not None:
        path.write_bytes(data)
    before = around(path)
    with pytest.raises(FileRejected) as refused:
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
    with pytest.raises(FileRejected) as refused:
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
        (archive((MEMBER, ROWS), patched={-len(GOOD) + 30 + len(MEMBER) + 20: b"\xff\xff"}), "is damaged"),
        (archive((member(method=0), ROWS), patched={200: b"?"}), "Bad CRC-32"),
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


def test_an_archive_that_is_cut_anywhere_is_refused(path: Path) -> None:
    for length in range(0, len(GOOD), 3):
        assert refusal(path, GOOD[:length]).reason == "archive"


def test_what_the_directory_does_not_name_is_passed_over(path: Path) -> None:
    hidden = archive(("other.CSV", b"hidden"))[:-22]
    for data in (GOOD + b"\0" * 100, b"\0" + GOOD, hidden + GOOD):
        path.write_bytes(data)
        assert verified(path, interval=INTERVAL).content == ROWS
    assert refusal(path, GOOD + END_OF_NOTHING).reason == "members"


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
        except FileRejected:
            refused += 1
    assert refused > len(GOOD) // 2


@pytest.mark.parametrize(
    ("place", "new"), [(0, b"pk"), (ENTRY, b"pk"), (ENTRY + 42, b"\x01")], ids=["header", "directory", "offset"]
)
def test_header_and_directory_are_where_they_should_be(path: Path, place: int, new: bytes) -> None:
    assert refusal(path, archive((MEMBER, ROWS), patched={place: new})).reason == "archive"


@pytest.mark.parametrize("into", [None, Pipe])
def test_sizes_may_be_in_64_bits(path: Path, into: Callable[[], Pipe] | None) -> None:
    path.write_bytes(large_archive(member(), ROWS, into=into and into()))
    assert verified(path, interval=INTERVAL).content == ROWS


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
    assert refused.reason == "archive"


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
    assert str(refusal(path, data, md5=hashlib.md5(data).hexdigest())).endswith(says)


def test_a_file_in_which_one_bit_is_wrong_is_to_be_fetched_again_or_is_as_it_was(path: Path) -> None:
    said = []
    for place in range(len(GOOD)):
        for bit in (0, 5, 7):
            changed = GOOD[:place] + bytes([GOOD[place] ^ 1 << bit]) + GOOD[place + 1 :]
            path.write_bytes(changed)
            try:
                assert verified(path, interval=INTERVAL).content == ROWS
            except FileRejected as refused:
                said.append(str(refused))
    assert [text for text in said if "fetch it again from the feed" not in text] == []


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
def test_a_bomb_that_says_it_is_small_is_given_up_behind_what_it_says(path: Path, said: int) -> None:
    path.write_bytes(lying(archive((MEMBER, bytes(4 * 2**20))), said))
    reason, _ = frugal_refusal(path, peak_bytes=200_000)
    assert reason == "archive"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("more", [-1, 1])
def test_a_member_that_is_not_as_large_as_it_says_is_refused(path: Path, method: int, more: int) -> None:
    data = archive((member(method=method), ROWS))
    assert refusal(path, lying(data, len(ROWS) + more)).reason == "archive"


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
