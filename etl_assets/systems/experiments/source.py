"""The folder with the three files: what they hold, and whether that is still the same."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from etl_assets.errors import ConfigurationError, TransientError
from etl_assets.systems.experiments.csv.files import COMPOUNDS, EXPERIMENTS, USERS, RejectedFile

if TYPE_CHECKING:
    from etl_assets.systems.experiments.transform import Loaded

FILES = (USERS, EXPERIMENTS, COMPOUNDS)


@dataclass(frozen=True)
class Content:
    """What was in the files at one moment.

    Attributes:
        digests: SHA-256 of each file, by its name.
        stamps: size, time of change and identity of each file, by which a later change shows.
    """

    digests: Mapping[str, str]
    stamps: Mapping[str, tuple[int, int, int]]

    @property
    def changed_at(self) -> float:
        """When the file that was changed last was changed, as Unix time in s."""
        return max(changed_ns for _, changed_ns, _ in self.stamps.values()) / 1e9

    @property
    def digest(self) -> str:
        """One digest for all three, whatever the files' times are."""
        together = "\n".join(f"{name} {self.digests[name]}" for name in sorted(self.digests))
        return hashlib.sha256(together.encode()).hexdigest()


@dataclass(frozen=True)
class ExperimentFolder:
    """`users.csv`, `user_experiments.csv` and `compounds.csv` in one folder."""

    path: Path

    def content(self) -> Content:
        """Digests of the files, each read once from end to end.

        Raises:
            RejectedFile: if one is missing or cannot be read; names it.
            TransientError: if one changes meanwhile.
        """
        before = self._stamps()
        digests = {file.name: _digest(self.path / file.name) for file in FILES}
        self._require(before)
        return Content(digests, before)

    def read(self) -> tuple["Loaded", Content]:
        """The rows of the three files, judged, and what the files were that they are from.

        Raises:
            RejectedFile: if a file is not what it has to be; names file and column.
            TransientError: if a file changes while it is read: it is being written.
        """
        from etl_assets.systems.experiments.csv.files import batches
        from etl_assets.systems.experiments.transform import loaded

        content = self.content()
        users, experiments, compounds = (batches(self.path / file.name, file) for file in FILES)
        rows = loaded(users, compounds, experiments)
        self._require(content.stamps)
        return rows, content

    def _stamps(self) -> dict[str, tuple[int, int, int]]:
        stamps = {}
        for path in (self.path / file.name for file in FILES):
            try:
                found = path.stat()
            except OSError as error:
                raise _rejected(self.path, path, error) from None
            stamps[path.name] = (found.st_size, found.st_mtime_ns, found.st_ino)
        return stamps

    def _require(self, before: Mapping[str, tuple[int, int, int]]) -> None:
        changed = [name for name, stamp in self._stamps().items() if stamp != before[name]]
        if changed:
            raise TransientError(
                f"{', '.join(changed)} in {self.path} changed while it was read, nothing was changed in the tables:"
                " load again when it is complete"
            )


def folder_at(path: Path) -> ExperimentFolder:
    """The folder at a path.

    Raises:
        ConfigurationError: if it is none.
    """
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be looked at: {error.strerror}") from None
    if not is_folder:
        what = "is a file" if exists else "does not exist"
        names = ", ".join(file.name for file in FILES)
        raise ConfigurationError(f"{path} {what}: give the folder with {names}, or set EXPERIMENTS_DIR to it")
    return ExperimentFolder(path)


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _rejected(path.parent, path, error) from None


def _rejected(folder: Path, path: Path, error: OSError) -> RejectedFile:
    if isinstance(error, FileNotFoundError):
        others = ", ".join(sorted(file.name for file in folder.iterdir())[:10]) if folder.is_dir() else "no such folder"
        return RejectedFile(f"{path} is missing (there is: {others or 'nothing'})")
    return RejectedFile(f"{path} cannot be read: {error.strerror}")
