"""Parquet files beyond what every IO manager does: snapshots, their end, and a writer that was killed."""

import random
from pathlib import Path

import pytest

from etl_assets.core.contracts import Contract, Id, column
from etl_assets.core.database.connections import Database
from etl_assets.core.slices import files
from etl_assets.core.slices.heads import heads_of
from etl_assets.core.slices.parquet import ParquetRoot, is_stored, read_parquet, stream_parquet, write_parquet
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.writing import Write
from etl_assets.errors import ConfigurationError, ContractError, PermanentError
from etl_assets_tests.core.slices.conformance import rows
from etl_assets_tests.core.slices.readings import readings

Snapshots = readings("parquet", "snapshots")


def snapshot(root: ParquetRoot, database: Database, value: float) -> None:
    write_parquet(root, database, rows(value), [Slice(Snapshots)], Write("snapshot"))


def test_no_partition_at_all_is_refused(database: Database, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="a range begins with the earlier one"):
        stream_parquet(ParquetRoot(f"{tmp_path}"), database, [])


def the_file(folder: Path) -> Path:
    """The one file of a commit in a folder."""
    (found,) = (path for path in folder.iterdir() if files.OF_COMMIT.fullmatch(path.name))
    return found


def damaged_end(data: bytes) -> bytes:
    """A footer in which some bytes are others."""
    length = int.from_bytes(data[-8:-4], "little")
    return data[: -8 - length] + b"\xee" * length + data[-8:]


DAMAGE = {
    "cut off": lambda data: data[: len(data) // 2],
    "no parquet": lambda _: b"something else",
    "empty": lambda _: b"",
    "end": damaged_end,
    "middle": lambda data: data[:4] + b"\xee" * 60 + data[64:],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named_with_what_to_do_and_is_replaced_by_the_next_write(
    database: Database, tmp_path: Path, damage: str
) -> None:
    root, table = ParquetRoot(str(tmp_path)), Slice(readings("parquet", "wholes"))
    write_parquet(root, database, rows(1.0), [table], Write("replace"))
    path = the_file(tmp_path / "plant/wholes")
    assert is_stored(root, database, [table]) == [True]
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(PermanentError, match=r"\.parquet is damaged, or no parquet file.*: materialise it again"):
        read_parquet(root, database, [table])
    assert is_stored(root, database, [table]) == [damage == "middle"]
    write_parquet(root, database, rows(2.0), [table], Write("replace"))
    assert read_parquet(root, database, [table])["value"].to_pylist() == [2.0]


def test_a_file_that_may_not_be_read_is_no_damage(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, table = ParquetRoot(str(tmp_path)), Slice(readings("parquet", "wholes"))
    write_parquet(root, database, rows(1.0), [table], Write("replace"))

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.pq, "ParquetFile", forbidden)
    for use in (lambda: read_parquet(root, database, [table]), lambda: is_stored(root, database, [table])):
        with pytest.raises(PermanentError, match="cannot be used \\(Permission denied\\): let ETL_STORAGE_URL"):
            use()


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def test_a_single_bit_that_is_another_is_damage_and_never_another_value(database: Database, tmp_path: Path) -> None:
    root, table = ParquetRoot(str(tmp_path)), Slice(readings("parquet", "wholes"))
    write_parquet(root, database, rows(*range(500)), [table], Write("replace"))
    path = the_file(tmp_path / "plant/wholes")
    there, data = read_parquet(root, database, [table]), path.read_bytes()
    end = len(data) - int.from_bytes(data[-8:-4], "little") - 8
    damaged = 0
    for at in random.Random(1).sample(range(4, end), 60):
        path.write_bytes(flipped(data, at))
        if files.is_whole(root.filesystem()[0], f"{path}"):
            assert read_parquet(root, database, [table]).equals(there)
        else:
            damaged += 1
            with pytest.raises(files.DamagedFile, match=r"\.parquet is damaged"):
                read_parquet(root, database, [table])
    assert damaged > 50


def test_a_damaged_file_is_replaced_by_the_very_rows_that_it_had(database: Database, tmp_path: Path) -> None:
    root, table = ParquetRoot(str(tmp_path)), Slice(readings("parquet", "wholes"))
    write_parquet(root, database, rows(1.0), [table], Write("replace"))
    path = the_file(tmp_path / "plant/wholes")
    path.write_bytes(DAMAGE["middle"](path.read_bytes()))
    (outcome,) = write_parquet(root, database, rows(1.0), [table], Write("replace"))
    assert outcome.change.unchanged == 1
    assert read_parquet(root, database, [table])["value"].to_pylist() == [1.0]


class Machines(Contract):
    """Machines, by numbers that were the ids of `Readings` once."""

    id: Id = column("Identity")

    class Config:
        table = "plant.whole"
        store = "parquet"
        key = ("id",)


def test_a_file_of_before_with_numbers_as_ids_is_read_as_their_text(database: Database, tmp_path: Path) -> None:
    root = ParquetRoot(f"{tmp_path}")
    write_parquet(root, database, rows(1.0, 2.0), [Slice(readings("parquet", "whole"))], Write("replace"))
    assert read_parquet(root, database, [Slice(Machines)]).to_pylist() == [{"id": "0"}, {"id": "1"}]


def test_a_write_of_the_same_rows_keeps_the_file_and_its_commit(database: Database, tmp_path: Path) -> None:
    root, table = ParquetRoot(str(tmp_path)), Slice(readings("parquet", "wholes"))
    found = []
    for _ in range(2):
        write_parquet(root, database, rows(1.0), [table], Write("replace"))
        found.append((the_file(tmp_path / "plant/wholes"), heads_of(database, [table])))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("url", "said"),
    [("nosuch://bucket/lake", "Protocol not known: nosuch"), ("s3://bucket/lake", "Install s3fs to access S3")],
)
def test_a_root_that_cannot_be_used_is_named_by_its_variable(url: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=f"ETL_STORAGE_URL cannot be used: {said}"):
        ParquetRoot(url).filesystem()


def test_a_file_in_the_place_of_the_root_is_named_with_what_to_do(database: Database, tmp_path: Path) -> None:
    (tmp_path / "lake").write_text("a file")
    with pytest.raises(PermanentError, match=r"lake/plant/\S+ cannot be used \(Not a directory\): let ETL_STORAGE_URL"):
        snapshot(ParquetRoot(str(tmp_path / "lake")), database, 1.0)
    with pytest.raises(PermanentError, match=r"lake/plant/snapshots cannot be used \(Not a directory\)"):
        is_stored(ParquetRoot(str(tmp_path / "lake")), database, [Slice(Snapshots)])
