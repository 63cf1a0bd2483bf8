"""Versions of slices in files: which one counts, how long others are kept, what is swept, and the copies for readers from outside."""

import errno
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from etl_assets.core.contracts import Contract, column
from etl_assets.core.database.connections import Database
from etl_assets.core.slices import copies, files
from etl_assets.core.slices.copies import mend, write_manifest
from etl_assets.core.slices.files import OF_COMMIT, ParquetRoot
from etl_assets.core.slices.lock import locked
from etl_assets.core.slices.parquet import read_parquet, write_parquet
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.sweeping import sweep
from etl_assets.core.slices.writing import Write
from etl_assets.errors import ContractError, PermanentError, TransientError
from etl_assets_tests.core.slices.conformance import rows
from etl_assets_tests.core.slices.files import the_file
from etl_assets_tests.core.slices.readings import readings
from etl_assets_tests.core.slices.tables import execute

Versions = readings("parquet", "versions", versions_kept=2)
BySite = readings("parquet", "by_name", partition_by="site")
TABLE = Slice(Versions)


@pytest.fixture
def root(tmp_path: Path) -> ParquetRoot:
    return ParquetRoot(f"{tmp_path}/lake")


def put(root: ParquetRoot, database: Database, value: float) -> str:
    """A version of the table; gives its commit."""
    (outcome,) = write_parquet(root, database, rows(value), [TABLE], Write("snapshot"))
    return outcome.commit_id


def values(root: ParquetRoot, database: Database, **options: Any) -> list[float]:
    found: list[float] = read_parquet(root, database, [TABLE], **options)["value"].to_pylist()
    return found


def names(root: ParquetRoot) -> set[str]:
    """The files of commits in the folder of the table."""
    return {path.name for path in Path(root.folder(TABLE)).iterdir() if OF_COMMIT.fullmatch(path.name)}


def test_the_commit_decides_which_file_counts_whatever_the_clock_says(
    database: Database, root: ParquetRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(root, database, 1.0)
    os.utime(the_file(database, root.url, TABLE), (2e9, 2e9))
    later = datetime.now(UTC) + timedelta(days=365)
    execute(database, f"UPDATE etl.ledger SET committed_at = '{later}'")
    put(root, database, 2.0)
    assert values(root, database) == [2.0]


def test_a_version_is_read_as_of_its_commit_until_it_is_given_up_for_a_day(
    database: Database, root: ParquetRoot
) -> None:
    first, second, third, fourth = (put(root, database, float(value)) for value in range(4))
    assert [values(root, database, as_of=commit) for commit in (first, fourth)] == [[0.0], [3.0]]
    execute(database, "UPDATE etl.ledger SET committed_at = committed_at - interval '2 days'")
    put(root, database, 4.0)
    assert names(root) >= {f"{commit}.parquet" for commit in (third, fourth)}
    assert f"{first}.parquet" not in names(root)
    with pytest.raises(PermanentError, match=f"as of {first} is not kept any more: its contract says how many"):
        values(root, database, as_of=first)
    with pytest.raises(PermanentError, match=r"plant.versions has no commit nobody's: see `etl-assets ledger show"):
        values(root, database, as_of="nobody's")
    with pytest.raises(ContractError, match="a commit is of one slice: 2 are asked for"):
        read_parquet(root, database, [Slice(BySite, "a"), Slice(BySite, "b")], as_of=second)


def test_what_no_commit_names_is_swept_and_what_has_another_name_is_not(database: Database, root: ParquetRoot) -> None:
    put(root, database, 1.0)
    kept = names(root)
    folder = Path(root.folder(TABLE))
    strange = {"notes.txt", "data.parquet.bak", f"{'a' * 31}.parquet", f".{'b' * 32}.tmp"}
    for name in strange | {f"{'a' * 32}.parquet", f".copy-{'c' * 32}.tmp"}:
        (folder / name).write_bytes(b"PAR1")
    assert sweep(database, root, [Versions, BySite]).files == 2
    assert {path.name for path in folder.iterdir()} == kept | strange | {"data.parquet"}
    assert values(root, database) == [1.0]


def test_the_file_of_a_writer_at_work_is_not_swept(
    database: Database, root: ParquetRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept: list[Any] = []
    write_table = files.write_table

    def writes(*args: Any) -> None:
        write_table(*args)
        with pytest.MonkeyPatch.context() as hasty:
            hasty.setattr("etl_assets.core.slices.lock.LOCK_TIMEOUT", timedelta(milliseconds=50))
            hasty.setattr("etl_assets.core.slices.lock.LOOKED_AT_EVERY_S", 0.02)
            with pytest.raises(TransientError, match="another writer has held the lock of plant.versions"):
                sweep(Database(database.url), root, [Versions])
        swept.append(names(root))

    monkeypatch.setattr("etl_assets.core.slices.parquet.write_table", writes)
    commit = put(root, database, 1.0)
    assert swept == [{f"{commit}.parquet"}]
    assert values(root, database) == [1.0]


@pytest.mark.parametrize("name", ["lake[12]", "lake*", "lake?", "la{k}e", "ünï çode"])
def test_no_path_is_a_pattern(database: Database, tmp_path: Path, name: str) -> None:
    neighbour, root = ParquetRoot(f"{tmp_path}/lake1"), ParquetRoot(f"{tmp_path}/{name}")
    other = Path(neighbour.folder(TABLE)) / f"{'a' * 32}.parquet"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"of somebody else")
    for value in (1.0, 2.0):
        put(root, database, value)
    sweep(database, root, [Versions])
    assert values(root, database) == [2.0]
    assert other.read_bytes() == b"of somebody else"


@pytest.mark.parametrize("length", [60, 300, 3000])
def test_a_partition_may_have_a_long_name(database: Database, root: ParquetRoot, length: int) -> None:
    for begin in ("ä", "ö"):
        name = begin * length
        slice_ = Slice(BySite, name, {"site": name})
        write_parquet(root, database, rows(1.0, site=name), [slice_], Write("partition"))
        assert read_parquet(root, database, [slice_])["site"].to_pylist() == [name]


@pytest.mark.parametrize(
    ("code", "failure", "said"),
    [
        (errno.ENOSPC, TransientError, "the disk is full .*: make room on it"),
        (errno.EIO, TransientError, "its disk fails"),
        (errno.EROFS, PermanentError, "let ETL_STORAGE_URL name a folder that this process may write to"),
    ],
)
def test_a_disk_that_does_not_take_a_file_is_a_failure_of_ours_and_leaves_what_stood(
    database: Database, root: ParquetRoot, monkeypatch: pytest.MonkeyPatch, code: int, failure: Any, said: str
) -> None:
    put(root, database, 1.0)
    before = names(root)
    with monkeypatch.context() as broken:
        broken.setattr("etl_assets.core.slices.session.ATTEMPTS", 1)

        def full(*_: object, **__: object) -> None:
            raise OSError(code, os.strerror(code))

        broken.setattr(pq, "write_table", full)
        with pytest.raises(failure, match=said):
            put(root, database, 2.0)
    assert (values(root, database), names(root)) == ([1.0], before)


def test_a_copy_for_others_follows_and_is_put_right(database: Database, root: ParquetRoot) -> None:
    put(root, database, 1.0)
    copy = Path(root.folder(TABLE)) / "data.parquet"
    put(root, database, 2.0)
    assert pq.ParquetFile(copy).read()["value"].to_pylist() == [2.0]
    for broken in (b"half of", None):
        copy.unlink() if broken is None else copy.write_bytes(broken)
        assert mend(root, database, Versions) == 1
        assert pq.ParquetFile(copy).read()["value"].to_pylist() == [2.0]
    assert mend(root, database, Versions) == 0


def test_a_writer_who_puts_an_older_copy_in_its_place_sees_that_the_head_has_moved(
    database: Database, root: ParquetRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = copies.publish
    monkeypatch.setattr("etl_assets.core.slices.parquet.publish", lambda *_: None)
    put(root, database, 1.0)
    with locked(database, [TABLE]) as lock:
        head, looked = lock.head, []

        def slow(slice_: Slice) -> Any:
            if not looked:
                looked.append(head(slice_))
                execute(database, f"SELECT pg_terminate_backend({lock.pid})")
                put(root, database, 2.0)
                return looked[0]
            return copies._head(database, slice_)

        monkeypatch.setattr(lock, "head", slow)
        publish(root, lock, TABLE)
    assert pq.ParquetFile(Path(root.folder(TABLE)) / "data.parquet").read()["value"].to_pylist() == [2.0]


def test_the_manifest_names_the_file_of_each_slice(database: Database, root: ParquetRoot) -> None:
    slices = [Slice(BySite, site, {"site": site}) for site in ("a", "b")]
    for slice_ in slices:
        write_parquet(root, database, rows(1.0, site=slice_.name), [slice_], Write("partition"))
    write_manifest(root, database, BySite)
    folder = Path(root.folder(Slice(BySite)))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["table"] == "plant.by_name"
    assert [folder / entry["file"] for entry in manifest["slices"]] == [
        the_file(database, root.url, slice_) for slice_ in slices
    ]


class Widened(Contract):
    """A table that has got a column."""

    id: int = column("Identity")
    remark: str | None = column("Came later")

    class Config:
        table = "plant.widened"
        store = "parquet"
        key = ("id",)


def test_a_column_that_came_later_is_null_in_older_files(database: Database, root: ParquetRoot) -> None:
    table = Slice(Widened)
    write_parquet(root, database, pd.DataFrame({"id": [1], "remark": ["x"]}), [table], Write("replace"))
    path = the_file(database, root.url, table)
    written = pq.ParquetFile(path).read()
    pq.write_table(written.drop_columns(["remark"]), path)
    assert read_parquet(root, database, [table]).to_pylist() == [{"id": 1, "remark": None}]
    pq.write_table(written.drop_columns(["id"]), path)
    with pytest.raises(ContractError, match="has no column id: materialise it again"):
        read_parquet(root, database, [table])
