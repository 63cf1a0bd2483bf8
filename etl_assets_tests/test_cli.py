"""The command line as its user meets it: as a process, with its exit codes and its messages."""

import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit, urlunsplit

import psutil
import psycopg
import pytest

from etl_assets import cli
from etl_assets.core.embedded import EmbeddedPostgres
from etl_assets.errors import PlatformError
from etl_assets.local import doctor
from etl_assets.settings import LOCAL_LOCK, read_local_env

BIN = Path(sys.executable).parent


def run(*arguments: str, command: str = "etl-assets", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / command), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200", **environment},
        timeout=300,
        check=False,
    )


def processes_of(folder: Path) -> list[str]:
    """Command lines of the processes that name a folder, or work in it."""
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
            if process.pid != os.getpid() and (str(folder) in line or str(folder) in process.cwd()):
                found.append(line)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def until(condition: object, timeout_s: float = 60) -> bool:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def home(data_dir: Path) -> Iterator[Path]:
    """A data folder in which nothing is running afterwards."""
    yield data_dir
    cli.run(["down", "--purge"])


def test_the_version_is_shown_and_the_commands_stand_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert re.fullmatch(r"etl-assets \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)
    assert cli.run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f" {group} " in shown for group in (cli.LOCAL, cli.SYSTEMS, cli.KEPT, cli.MADE))
    assert "--debug" in shown


def test_a_mistyped_command_is_suggested_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctro"]) == 2
    assert capsys.readouterr().err.count("Did you mean 'doctor'?") == 1


@pytest.mark.long
def test_the_demo_materialises_everything_and_leaves_nothing_running(home: Path) -> None:
    ran = run("demo")
    assert ran.returncode == 0, ran.stderr
    assert "starting a database, a broker and the simulated sources" in ran.stderr
    assert "job turbines_job is done (5 of 5)" in ran.stderr
    for link in re.findall(r"file://\S+", ran.stdout):
        assert Path(unquote(urlsplit(link).path)).is_file()
    assert "next:\n" in ran.stdout
    assert f" {home}/lake/turbines/raw_turbine_signals\n" in ran.stdout
    for asset in ("raw_outages", "raw_site_info", "site_devices", "site_outages", "delivered_site_outages"):
        assert asset in ran.stdout
    assert re.search("outages/delivered_site_outages +159 ", ran.stdout)
    assert processes_of(home) == []


@pytest.mark.long
def test_after_up_dagster_needs_only_its_home(home: Path) -> None:
    assert run("up").returncode == 0
    assert "already running" in run("up").stdout
    selection = ("asset", "materialize", "-m", "etl_assets", "--select", "group:outages", "--partition", "kingfisher")
    ran = run(*selection, command="dagster", DAGSTER_HOME=str(home / "dagster"), ETL_DATA_DIR="")
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "kingfisher: 85 outages delivered" in ran.stderr
    assert run("down").stdout == "stopped\n"
    assert processes_of(home) == []


@pytest.mark.long
def test_up_starts_again_what_has_ended(home: Path) -> None:
    assert run("up").returncode == 0
    os.kill(json.loads((home / "postgres.state").read_text())["server"], signal.SIGKILL)
    assert until(lambda: not EmbeddedPostgres(home).lives())
    assert "started again, since postgres had ended" in run("up").stdout
    assert run("outages", "sync", "kingfisher").returncode == 0


@pytest.mark.long
def test_who_only_looks_whether_servers_run_does_not_keep_them_from_starting(home: Path) -> None:
    home.mkdir(parents=True, exist_ok=True)
    with (home / LOCAL_LOCK).open("a+") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        # Not what `up` does, which would take the look for a supervisor.
        with subprocess.Popen(
            [sys.executable, "-m", "etl_assets.cli", "supervise"], stderr=subprocess.PIPE, text=True, cwd="/"
        ) as supervisor:
            assert until(lambda: str(home / LOCAL_LOCK) in "".join(each.path for each in opened(supervisor.pid)))
            fcntl.flock(looking, fcntl.LOCK_UN)
            assert until(lambda: read_local_env(home), timeout_s=60)
            supervisor.terminate()
            assert supervisor.wait(30) == 0


def opened(pid: int) -> list[Any]:
    return psutil.Process(pid).open_files()


@pytest.mark.long
def test_a_killed_supervisor_takes_the_simulators_with_it_and_is_not_believed(home: Path) -> None:
    assert run("up").returncode == 0
    assert "OUTAGES_API_URL" in read_local_env(home)
    os.kill(int((home / LOCAL_LOCK).read_text()), signal.SIGKILL)
    assert until(lambda: read_local_env(home) == {})
    ran = run("outages", "sync", "kingfisher")
    assert ran.returncode == 2
    assert "OUTAGES_API_URL is not set" in ran.stderr
    assert "make up" in ran.stderr
    assert until(lambda: processes_of(home) == []), processes_of(home)


@pytest.mark.long
def test_a_script_starts_the_servers_that_it_needs_and_ends_them(home: Path) -> None:
    ran = run("outages", "sync", "norwich-pear-tree", "--simulate")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("norwich-pear-tree: 74 outages, 74 delivered")
    assert until(lambda: processes_of(home) == []), processes_of(home)


@pytest.mark.long
def test_the_demo_refuses_a_database_given_by_url(home: Path) -> None:
    ran = run("demo", ETL_POSTGRES_URL="postgresql://me:hidden@127.0.0.1:1/mine")
    assert ran.returncode == 2
    assert "--simulate" in ran.stderr
    assert "hidden" not in ran.stderr + ran.stdout


@pytest.mark.long
def test_without_a_database_for_the_turbines_that_of_the_platform_is_migrated_all_the_same(
    home: Path, empty_database_url: str, no_default_target: None
) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute("CREATE ROLE modest LOGIN PASSWORD 'modest-secret'")
        try:
            connection.execute(f"GRANT CREATE ON DATABASE {name} TO modest".encode())
            parts = urlsplit(empty_database_url)
            url = urlunsplit(parts._replace(netloc=f"modest:modest-secret@{parts.hostname}:{parts.port}"))
            ran = run("migrate", ETL_POSTGRES_URL=url)
        finally:
            connection.execute("DROP OWNED BY modest CASCADE; DROP ROLE modest")
    assert ran.returncode == 0, ran.stderr
    assert "the target database of the turbines is left out: there is no database alvo" in ran.stderr
    assert "TURBINES_TARGET_URL" in ran.stderr
    assert "modest-secret" not in ran.stderr


@pytest.mark.long
def test_simulators_are_not_used_with_a_database_given_by_url(home: Path, empty_database_url: str) -> None:
    assert run("up").returncode == 0
    ran = run("outages", "sync", "kingfisher", ETL_POSTGRES_URL=empty_database_url)
    assert ran.returncode == 2
    assert "OUTAGES_API_URL is not set" in ran.stderr


@pytest.mark.long
def test_an_empty_database_is_brought_to_shape_by_the_first_command(home: Path, empty_database_url: str) -> None:
    ran = run("outages", "sync", "kingfisher", "--simulate", ETL_POSTGRES_URL=empty_database_url)
    assert ran.returncode == 0, ran.stderr
    assert "85 delivered" in ran.stdout
    assert not (home / "postgres").exists()


@pytest.mark.long
def test_with_migrations_off_an_empty_database_stops_the_command(home: Path, empty_database_url: str) -> None:
    ran = run("outages", "sync", "kingfisher", "--simulate", ETL_POSTGRES_URL=empty_database_url, ETL_MIGRATE="off")
    assert ran.returncode == 1
    assert "run `etl-assets migrate`" in ran.stderr


@pytest.mark.long
def test_a_database_that_is_not_there_is_said_without_traceback_or_password(home: Path) -> None:
    ran = run("migrate", ETL_POSTGRES_URL="postgresql://me:hidden@127.0.0.1:1/mine")
    assert ran.returncode == 1
    assert "Connection refused" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "hidden" not in ran.stderr + ran.stdout


@pytest.mark.long
def test_a_wrong_setting_is_wrong_usage(home: Path) -> None:
    ran = run("doctor", ETL_EXECUTOR="fastest")
    assert ran.returncode == 2
    assert "ETL_EXECUTOR" in ran.stderr


def test_doctor_names_what_is_missing_and_makes_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVENTS_FEED_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("EXPERIMENTS_DIR", str(home / "nowhere"))
    assert cli.run(["doctor"]) == 1
    output = capsys.readouterr().out
    assert "ok      data folder: " in output
    assert "ok      database: embedded, not running" in output
    assert "ok      broker: embedded, not running" in output
    assert "failed  outages API: OUTAGES_API_URL is not set" in output
    assert "failed  production API: PRODUCTION_API_URL is not set" in output
    assert "failed  turbines API: TURBINES_API_URL is not set" in output
    assert "failed  events feed: events API, GET /lastupdate.txt: tried 2 times" in output
    assert "ok      target database: embedded, not running" in output
    assert f"failed  experiments files: {home / 'nowhere'} does not exist" in output
    assert not home.exists() or list(home.iterdir()) == []


def test_doctor_looks_at_the_systems_that_it_is_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor", "outages", "--json"]) == 1
    printed = capsys.readouterr()
    looked = {one["name"]: one["ok"] for one in json.loads(printed.out)["checks"]}
    assert looked["database"]
    assert not looked["outages API"]
    assert "events feed" not in looked
    assert "failed  outages API: " in printed.err
    assert cli.run(["doctor", "outagse"]) == 2
    assert "there is no system 'outagse': there are events, experiments, outages" in capsys.readouterr().err


def test_doctor_finds_a_full_disk_and_a_folder_that_may_not_be_written(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "LEAST_FREE_BYTES", 10**18)
    assert cli.run(["doctor", "experiments"]) == 1
    assert re.search(
        r"failed  data folder: the disk of \S+ is full .*: make room, or set ETL_DATA_DIR", capsys.readouterr().out
    )

    def refused(*_: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as read_only:
        read_only.setattr(os, "open", refused)
        cli.run(["doctor", "experiments"])
    assert "cannot be written to (Read-only file system): let this user write there" in capsys.readouterr().out
    a_file = home.parent / "a_file"
    a_file.touch()
    monkeypatch.setenv("ETL_DATA_DIR", str(a_file))
    cli.run(["doctor", "experiments"])
    assert f"failed  data folder: {a_file} is a file: set ETL_DATA_DIR to a folder" in capsys.readouterr().out


def test_doctor_looks_at_dagsters_database_and_the_webhook_and_shows_no_secret(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", "postgresql://me:hidden@127.0.0.1:1/dagster")
    monkeypatch.setenv("ETL_ALERT_WEBHOOK_URL", "http://127.0.0.1:1/hidden")
    assert cli.run(["doctor", "experiments"]) == 1
    printed = capsys.readouterr()
    assert "failed  Dagster's database: could not use the database of DAGSTER_POSTGRES_URL" in printed.out
    assert "failed  alert webhook: ETL_ALERT_WEBHOOK_URL cannot be reached (Connection refused)" in printed.out
    assert "hidden" not in printed.out + printed.err


class Answers(BaseHTTPRequestHandler):
    """Takes nothing but a POST, as webhooks do, and remembers what was asked."""

    asked: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.asked.append(self.command)
        self.send_error(405 if self.path == "/hook" else 404)

    def log_message(self, *_: object) -> None:
        pass


def test_doctor_posts_nothing_to_the_webhook(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever).start()
        for path, said in (
            ("hook", "ok      alert webhook: its host answers"),
            ("gone", "knows no such webhook (HTTP 404)"),
        ):
            monkeypatch.setenv("ETL_ALERT_WEBHOOK_URL", f"http://127.0.0.1:{server.server_port}/{path}")
            cli.run(["doctor", "experiments"])
            assert said in capsys.readouterr().out
        server.shutdown()
    assert set(Answers.asked) == {"HEAD"}


@pytest.mark.parametrize("asked", [["quarantine", "list"], ["doctor", "experiments"]])
def test_a_database_that_cannot_be_reached_is_said_with_the_variable(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: list[str]
) -> None:
    monkeypatch.setenv("ETL_POSTGRES_URL", "postgresql://me:hidden@127.0.0.1:1/mine")
    assert cli.run(asked) == 1
    printed = capsys.readouterr()
    assert "see whether ETL_POSTGRES_URL is right" in printed.out + printed.err
    assert "hidden" not in printed.out + printed.err


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full (No space left on device): make room on it"),
        (
            errno.EACCES,
            "cannot be used (Permission denied): let ETL_DATA_DIR name a folder that this process may write to",
        ),
        (errno.EROFS, "cannot be used (Read-only file system)"),
        (errno.EIO, "its disk fails (Input/output error): look into it"),
        (errno.EMFILE, "the system says: Too many open files; try again"),
    ],
)
def test_what_the_system_refuses_is_one_line_with_what_to_do(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, said: str
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "/data/a file")

    monkeypatch.setattr(cli, "app", failing)
    assert cli.run(["doctor"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: /data/a file cannot be ")
    assert said in line


@pytest.mark.long
def test_up_with_a_database_given_by_url_starts_no_simulators(home: Path, empty_database_url: str) -> None:
    for _ in range(2):
        ran = run("up", ETL_POSTGRES_URL=empty_database_url)
        assert ran.returncode == 0, ran.stderr
        assert "no simulators, since ETL_POSTGRES_URL names a database" in ran.stdout
    assert list(read_local_env(home)) == ["ETL_BROKER_URL"]


@pytest.mark.long
def test_a_path_that_dagster_would_cut_is_refused_before_anything_is_written_elsewhere(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    data_dir = tmp_path / "data?x"
    ran = run("up", ETL_DATA_DIR=str(data_dir))
    assert ran.returncode == 1
    assert (
        f"cuts the path of its SQLite files, {data_dir / 'dagster'}, at the question mark: set ETL_DATA_DIR"
        in ran.stderr
    )
    assert list(tmp_path.iterdir()) == [data_dir]
    assert not (data_dir / "postgres.log").exists()


STORAGE_URL = "memory2://user:hidden%2Fword@host/lake?token=hidden-token"


def test_doctor_shows_where_the_parquet_layers_are_without_what_is_secret(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVENTS_FEED_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("ETL_STORAGE_URL", STORAGE_URL)
    cli.run(["doctor"])
    output = capsys.readouterr()
    assert "parquet in memory2://***@host/lake?token=***\n" in output.out
    assert "hidden" not in output.out + output.err


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (STORAGE_URL, "memory2://***@host/lake?token=***"),
        ("user:hidden%2Fword@host/lake/x is gone (hidden/word)", "***@host/lake/x is gone (***)"),
        ("PUT https://key:hidden@elsewhere/?sig=hidden failed", "PUT https://***@elsewhere/?sig=*** failed"),
    ],
)
@pytest.mark.parametrize("kind", [PlatformError, ValueError])
def test_no_failure_shows_what_is_secret_in_a_setting(
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    said: str,
    shown: str,
    kind: type[Exception],
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise kind(said)

    monkeypatch.setenv("ETL_STORAGE_URL", STORAGE_URL)
    monkeypatch.setattr(cli, "app", failing)
    assert cli.run(["doctor"]) == 1
    assert shown in capsys.readouterr().err


@pytest.mark.long
def test_doctor_finds_everything_where_everything_is(home: Path) -> None:
    assert run("up").returncode == 0
    ran = run("doctor")
    assert ran.returncode == 0, ran.stdout
    assert "holds 0 records of metrics, 0 records of workorders" in ran.stdout
    assert re.search(
        r"^ok +production API: metrics from simulated:\S+, workorders from simulated:\S+$", ran.stdout, re.M
    )
    assert "ok      turbines API: rows of the first hour of 2024-05-20: the only turbine 60\n" in ran.stdout
    assert re.search(r"^ok +events feed: the newest file is \d{14}\.export\.CSV\.zip$", ran.stdout, re.M)


@pytest.mark.long
@pytest.mark.parametrize("url", ["redis://:hidden@127.0.0.1:1/0", "redis://:hidden@somewhere:port/0"])
def test_doctor_says_what_is_wrong_with_the_broker_and_goes_on(data_dir: Path, url: str) -> None:
    ran = run(
        "doctor",
        ETL_BROKER_URL=url,
        ETL_POSTGRES_URL="postgresql://127.0.0.1:1/none",
        EVENTS_FEED_URL="http://127.0.0.1:1",
    )
    assert ran.returncode == 1
    assert re.search(r"^failed  broker: .*ETL_BROKER_URL", ran.stdout, re.M)
    assert "failed  production API: " in ran.stdout
    assert "hidden" not in ran.stderr + ran.stdout


@pytest.mark.long
def test_a_port_that_is_taken_is_said_with_what_to_do(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = f"{taken.getsockname()[1]}"
        ran = run("simulate", "events", "--port", port)
    assert ran.returncode == 2
    assert (
        f"error: cannot serve on 127.0.0.1:{port} (Address already in use): choose another port by --port" in ran.stderr
    )
