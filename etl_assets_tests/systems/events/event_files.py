"""Files of the feed as tests write them: rows of 61 fields, and archives, also those that no honest program writes."""

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from etl_assets.systems.events.files import member_name
from etl_assets.systems.events.format import RAW_COLUMNS
from etl_assets_tests.systems.events.raw_rows import INTERVAL

MEMBER = member_name(INTERVAL)
FIELDS = {
    "global_event_id": "817930293", "sql_date": "20180121", "month_year": "201801", "year": "2018",
    "fraction_date": "2018.0575", "actor1_code": "BUS", "actor1_name": "BUSINESS", "actor1_type1_code": "BUS",
    "is_root_event": "0", "event_code": "043", "event_base_code": "043", "event_root_code": "04", "quad_class": "1",
    "goldstein_scale": "2.8", "num_mentions": "8", "num_sources": "1", "num_articles": "8",
    "avg_tone": "-0.75872534142641", "actor1_geo_type": "0", "actor2_geo_type": "0", "action_geo_type": "3",
    "action_geo_full_name": "Lincoln, Nebraska, United States", "action_geo_country_code": "US",
    "action_geo_adm1_code": "USNE", "action_geo_adm2_code": "NE109", "action_geo_lat": "40.8",
    "action_geo_long": "-96.667", "action_geo_feature_id": "837279", "date_added": "20190121220000",
    "source_url": "https://example.com/report",
}  # fmt: skip


def fields(number: int = 0, **changed: str) -> list[str]:
    """The fields of a row; rows of other numbers have other ids."""
    values = {**FIELDS, "global_event_id": str(817930293 + number), **changed}
    return [values.get(name, "") for name in RAW_COLUMNS]


def row(number: int = 0, **changed: str) -> bytes:
    """A row as the file has it, with its line feed."""
    return "\t".join(fields(number, **changed)).encode() + b"\n"


def rows(count: int, *, first: int = 0) -> bytes:
    return b"".join(row(number) for number in range(first, first + count))


def member(
    name: str = MEMBER, *, method: int = zipfile.ZIP_DEFLATED, mode: int = stat.S_IFREG | 0o644
) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, (2019, 1, 21, 21, 50, 46))
    info.compress_type, info.external_attr = method, mode << 16
    return info


def archive(
    *members: tuple[zipfile.ZipInfo | str, bytes],
    comment: bytes = b"",
    into: Any = None,
    patched: Mapping[int, bytes] = {},
) -> bytes:
    """An archive of these members, in their order.

    Args:
        into: what is written to, if it cannot go back.
        patched: bytes to put at some places of it; places below 0 count from its end.
    """
    written = into or io.BytesIO()
    with zipfile.ZipFile(written, "w") as target:
        target.comment = comment
        for info, content in members:
            target.writestr(member(info) if isinstance(info, str) else info, content)
    data = bytearray(written.getvalue())
    for place, new in patched.items():
        start = place % len(data)
        data[start : start + len(new)] = new
    return bytes(data)


def large_archive(info: zipfile.ZipInfo, content: bytes, *, into: Any = None) -> bytes:
    """An archive of a member whose own header has its sizes in 64 bits; see `archive`."""
    written = into or io.BytesIO()
    with zipfile.ZipFile(written, "w") as target, target.open(info, "w", force_zip64=True) as opened:
        opened.write(content)
    return bytes(written.getvalue())


def loose_archive(blocks: Iterable[bytes]) -> bytes:
    """An archive whose deflated member is packed so badly that no bound on sizes or ratio stops it.

    Args:
        blocks: the content, one after another, so that nobody has to have all of it.
    """
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    packed, checksum, size = bytearray(), 0, 0
    for block in blocks:
        packed += packer.compress(block)
        checksum, size = zlib.crc32(block, checksum), size + len(block)
    packed += packer.flush()
    name, said = MEMBER.encode(), (20, 0, zipfile.ZIP_DEFLATED, 0, 0, checksum, len(packed), size, len(MEMBER), 0)
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", *said) + name
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, *said, 0, 0, 0, 0, 0) + name
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(entry), len(local) + len(packed), 0)
    return local + bytes(packed) + entry + end


class Pipe(io.RawIOBase):
    """What can only be written forward: sizes and checksum of a member then stand behind it."""

    def __init__(self) -> None:
        self._written = io.BytesIO()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._written.write(data)

    def getvalue(self) -> bytes:
        return self._written.getvalue()
