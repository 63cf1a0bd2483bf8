"""A fault in each of the rules of the one commit, for the model to find."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

from etl_assets.core.database.connections import Database
from etl_assets.core.slices import commit, heads, parquet, sweeping
from etl_assets.core.slices.files import OF_COMMIT, ParquetRoot, names_in
from etl_assets.core.slices.inputs import Inputs
from etl_assets_tests.core.slices.works import Works


def _newest_in_folder(root: ParquetRoot, slice_: Any, head: Any) -> str | None:
    filesystem, _ = root.filesystem()
    folder = root.folder(slice_)
    names = [name for name in names_in(filesystem, folder) if OF_COMMIT.fullmatch(name)]
    newest = max(names, key=lambda name: Path(f"{folder}/{name}").stat().st_mtime_ns, default=None)
    return newest and f"{folder}/{newest}"


def _by_clock(database: Database, slices: Sequence[Any]) -> Any:
    """The heads as the ledger has them, the newest by its clock."""
    found = {}
    with database.connect() as connection:
        for place in map(heads.key_of, slices):
            row = connection.execute(
                "SELECT commit_id, file, content_hash FROM etl.ledger WHERE asset = %s AND partition = %s"
                " ORDER BY committed_at DESC LIMIT 1",
                place,
            ).fetchone()
            found[place] = heads.Head(*row) if row else heads.NO_HEAD
    return found


def _ahead_of_lock(original: Callable[[Any], None]) -> Callable[[Any], None]:
    """A source that is asked before the lock."""

    def source(works: Any) -> None:
        works.asked = works.ask()
        original(works)

    return source


FAULTS: dict[str, Callable[[], Any]] = {
    "fence left out": lambda: mock.patch.object(commit, "_require_generations"),
    "look before lock": lambda: mock.patch.object(Works, "_source", _ahead_of_lock(Works._source)),
    "file before commit": lambda: mock.patch.object(parquet, "standing_file", _newest_in_folder),
    "order by clock": lambda: mock.patch.object(parquet, "heads_of", _by_clock),
    "sweep without lock": lambda: mock.patch.object(sweeping, "locked", return_value=nullcontext()),
    "inputs not checked": lambda: mock.patch.object(Inputs, "require_current"),
}
