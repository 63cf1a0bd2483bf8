"""The files of slices as they lie on the disk."""

from pathlib import Path

from etl_assets.core.database.connections import Database
from etl_assets.core.slices.files import COPY, ParquetRoot, standing_file
from etl_assets.core.slices.heads import NO_HEAD, heads_of, key_of
from etl_assets.core.slices.slice import Slice


def the_file(database: Database, root: str, slice_: Slice) -> Path:
    """The file that holds a slice; where its copy would be of one that was never stored."""
    head = heads_of(database, [slice_]).get(key_of(slice_), NO_HEAD)
    found = standing_file(ParquetRoot(root), slice_, head)
    return Path(found or f"{ParquetRoot(root).folder(slice_)}/{COPY}")
