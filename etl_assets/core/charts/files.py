"""Pages as files: each appears whole or not at all, under a name that a file system takes."""

import hashlib
import os
import re
import uuid
from pathlib import Path

from etl_assets.errors import PermanentError

SAFE_NAME_LENGTH = 80


def safe_name(name: str) -> str:
    """A name as that of a file or folder: itself if that is harmless, else what is harmless of it and a hash."""
    harmless = re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:SAFE_NAME_LENGTH]
    if harmless == name and name:
        return name
    return f"{harmless.strip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".lstrip("-")


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name beside it, then rename it; folders are made.

    Raises:
        PermanentError: if it cannot be written.
    """
    try:
        _write(path, text)
    except OSError as error:
        raise PermanentError(f"cannot write {path} ({error.strerror or error})") from error


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
