"""The production set-up, as far as it can be proven without a container engine.

Each service's command is started as a local process with just the environment that compose gives it; only addresses, ports
and folders are rewritten. What is observed is gathered once, and the tests look at it in any order.
"""

import contextlib
import functools
import json
import re
import shutil
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import dagster as dg
import psycopg
import pytest
import redis
import yaml
from dagster._core.instance.config import dagster_instance_config
from redis.backoff import NoBackoff
from redis.retry import Retry

from etl_assets.core.embedded import EmbeddedPostgres
from etl_assets.core.embedded import postgres as embedded_postgres
from etl_assets.core.embedded.binaries import find_binaries
from etl_assets.core.embedded.broker import broker_binary
from etl_assets.core.registry import histories, systems
from etl_assets.core.sources.streams.broker import Broker
from etl_assets.settings import Settings
from etl_assets.systems.production.contracts import STREAMS
from etl_assets.systems.turbines.databases import TARGET
from etl_assets_tests.ports import free_port

ROOT = Path(__file__).parent.parent
DOCKER = ROOT / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SIMULATORS = yaml.safe_load((DOCKER / "compose.simulators.yaml").read_text())
OURS = {name: service for name, service in COMPOSE["services"].items() if "build" in service}
DAGSTER = ("code-location", "webserver", "daemon")
SOURCES = ("outages-simulator", "production-api", "turbines-api", "events-feed")
# In the order of their start; the relay has no health check.
RUNNING = (*SOURCES, "relay", *DAGSTER, "gateway")
CHECKED = tuple(name for name in RUNNING if name != "relay")
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?+])([^}]*))?\}")
TIMEOUT_S = 60.0
GIVEN = {
    "POSTGRES_PASSWORD": "p0stgres",
    "ETL_POSTGRES_PASSWORD": "data5ecret",
    "DAGSTER_POSTGRES_PASSWORD": "dagster5ecret",
    "BROKER_PASSWORD": "broker5ecret",
    "OUTAGES_API_URL": "https://outages.invalid",
    "OUTAGES_API_KEY": "k3y",
    "PRODUCTION_API_URL": "https://production.invalid",
    "ETL_GATEWAY_TOKEN": "gateway5ecret",
}
FILES = ("PRODUCTION_METRICS_FILE", "PRODUCTION_WORKORDERS_FILE")
NO_SECRETS = {"OUTAGES_API_URL", "PRODUCTION_API_URL"}


def interpolated(value: Any, given: Mapping[str, str] = GIVEN) -> str:
    """A value of compose with the variables of `.env`; one that is needed and not given is an error."""

    def replacement(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if kind == "-":
            return given.get(name) or rest
        if kind == "+":
            return rest if given.get(name) else ""
        return given[name]

    return VARIABLE.sub(replacement, str(value))


@dataclass
class Observed:
    """What was seen of the services while they ran, and of their end."""

    migrated: tuple[int, str] = (-1, "")
    simulated_files: tuple[int, str] = (-1, "")
    revisions: dict[str, dict[str, str]] = field(default_factory=dict)
    healthy: dict[str, int] = field(default_factory=dict)
    server_info: dict[str, str] = field(default_factory=dict)
    repositories: list[dict[str, Any]] = field(default_factory=list)
    daemons: dict[str, bool] = field(default_factory=dict)
    limited: tuple[int, str] = (-1, "")
    waiting: dict[str, int] = field(default_factory=dict)
    run_status: str = ""
    ledger: list[tuple[str, int]] = field(default_factory=list)
    loaded: tuple[int, str] = (-1, "")
    turbine_days: list[str] = field(default_factory=list)
    output_of_run: bool = False
    without_token: int = 0
    triggered: tuple[int, Any] = (-1, None)
    triggered_again: tuple[int, Any] = (-1, None)
    triggered_run: dict[str, Any] = field(default_factory=dict)
    triggered_ledger: list[tuple[str, str, int]] = field(default_factory=list)
    features: tuple[int, Any] = (-1, None)
    exit_codes: dict[str, int] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)


class Host:
    """This machine in place of the containers: ports, folders, and the processes."""

    def __init__(self, folder: Path, *, postgres_port: int = 0, broker_port: int = 0) -> None:
        self.folder = folder
        self.ports = {name: free_port() for name in ("4000", "3000", "5000", "8000", "8001", "8002", "8003")}
        self.rewrites = {
            "@postgres:5432": f"@127.0.0.1:{postgres_port}",
            "@broker:6379": f"@127.0.0.1:{broker_port}",
            "http://outages-simulator:8001": f"http://127.0.0.1:{self.ports['8001']}",
            "http://production-api:8002": f"http://127.0.0.1:{self.ports['8002']}",
            "http://turbines-api:8000": f"http://127.0.0.1:{self.ports['8000']}",
            "http://events-feed:8003": f"http://127.0.0.1:{self.ports['8003']}",
            "http://webserver:3000": f"http://127.0.0.1:{self.ports['3000']}",
            "host: code-location": "host: 127.0.0.1",
            "port: 4000": f"port: {self.ports['4000']}",
            "127.0.0.1:3000": f"127.0.0.1:{self.ports['3000']}",
            "127.0.0.1:5000": f"127.0.0.1:{self.ports['5000']}",
            "'127.0.0.1', 8000": f"'127.0.0.1', {self.ports['8000']}",
            "'127.0.0.1', 8003": f"'127.0.0.1', {self.ports['8003']}",
            "'127.0.0.1', 8001": f"'127.0.0.1', {self.ports['8001']}",
            "'127.0.0.1', 8002": f"'127.0.0.1', {self.ports['8002']}",
            "/var/lib/etl-assets": str(folder / "data"),
            "/opt/dagster": str(folder / "home"),
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for part in ("data", "home"):
            (folder / part).mkdir()
        for name in ("dagster.yaml", "workspace.yaml"):
            (folder / "home" / name).write_text(self.local((DOCKER / name).read_text()))

    def local(self, text: str) -> str:
        """A text of the containers' world as it is here."""
        if text in self.ports:
            return str(self.ports[text])
        for there, here in self.rewrites.items():
            text = text.replace(there, here)
        return text

    def environment(self, service: dict[str, Any]) -> dict[str, str]:
        """The environment of the image, then that of the service; nothing of this process but where Python is."""
        image = re.findall(
            r"^(?:ENV)?\s+(\w+)=(\S+)", (DOCKER / "Dockerfile").read_text().split("FROM")[-1], re.MULTILINE
        )
        given = {
            **dict(image),
            **service.get("environment", {}),
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        }
        return {name: self.local(interpolated(value)) for name, value in given.items()}

    def start(self, name: str, service: dict[str, Any], command: list[str] | None = None) -> subprocess.Popen[bytes]:
        argv = [self.local(interpolated(part)) for part in command or service["command"]]
        environment = self.environment(service)
        argv[0] = shutil.which(argv[0], path=environment["PATH"]) or argv[0]
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(argv, env=environment, cwd=self.folder / "data", stdout=log, stderr=log)

    def ended(self, name: str, service: dict[str, Any], command: list[str] | None = None) -> tuple[int, str]:
        """Exit code and output of a command that ends by itself."""
        return self.start(name, service, command).wait(TIMEOUT_S), self.log(name)

    def healthcheck(self, name: str, service: dict[str, Any]) -> subprocess.Popen[bytes]:
        return self.start(f"{name}-health", service, service["healthcheck"]["test"][1:])

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def ask(self, path: str, query: str | None = None) -> Any:
        body = json.dumps({"query": query}).encode() if query else None
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports['3000']}{path}", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def ask_gateway(self, path: str, *, post: bool = False, token: str | None = None) -> tuple[int, Any]:
        """Status and JSON of the gateway's answer, whatever the status is."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = f"http://127.0.0.1:{self.ports['5000']}{path}"
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, headers=headers, method="POST" if post else "GET"), timeout=40
            ) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, json.load(refusal)

    def until(self, what: str, look: Callable[[], Any]) -> Any:
        """What `look` gives as soon as it is true."""
        end = time.monotonic() + TIMEOUT_S
        while time.monotonic() < end:
            for name, process in self.processes.items():
                if process.poll() is not None:
                    raise AssertionError(f"{name} ended with {process.returncode}:\n{self.log(name)[-3000:]}")
            with contextlib.suppress(OSError):
                if found := look():
                    return found
            time.sleep(0.1)
        raise AssertionError(f"{what} did not come in time:\n" + "\n".join(self.log(n)[-1500:] for n in self.processes))


def initialised(server_url: str) -> None:
    """Run the script that makes roles and databases, as the image of the database runs it."""
    parts = psycopg.conninfo.conninfo_to_dict(server_url)
    environment = {
        **{name: interpolated(value) for name, value in COMPOSE["services"]["postgres"]["environment"].items()},
        "PATH": f"{find_binaries(None).folder}:/usr/bin:/bin",
        "PGHOST": str(parts["host"]),
        "PGPORT": str(parts["port"]),
        "PGPASSWORD": str(parts["password"]),
    }
    subprocess.run([DOCKER / "postgres-init.sh"], env=environment, check=True, capture_output=True, timeout=TIMEOUT_S)
    subprocess.run(
        [*COMPOSE["services"]["postgres"]["healthcheck"]["test"][1:]], env=environment, check=True, timeout=TIMEOUT_S
    )


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """Every service started in the order of compose, a run launched in the UI and one by the gateway, and SIGTERM for all."""
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr(embedded_postgres, "USER", "postgres")
        patch.setattr(embedded_postgres, "DATABASE", "postgres")
        server = EmbeddedPostgres(tmp_path_factory.mktemp("production-postgres"))
        stack.callback(server.purge)
        stack.callback(server.release)
        url = server.acquire()
        initialised(url)
        broker_port = stack.enter_context(broker_of_compose(tmp_path_factory.mktemp("production-broker")))
        host = Host(
            tmp_path_factory.mktemp("production"),
            postgres_port=int(psycopg.conninfo.conninfo_to_dict(url)["port"] or 0),
            broker_port=broker_port,
        )
        stack.callback(lambda: [process.kill() for process in host.processes.values() if process.poll() is None])
        yield observe(host)


def of_a_trial() -> dict[str, dict[str, Any]]:
    """Our services as both files of compose together describe them."""
    services = {name: dict(service) for name, service in {**SIMULATORS["services"], **OURS}.items()}
    for name in OURS.keys() & SIMULATORS["services"].keys():
        own = SIMULATORS["services"][name]["environment"]
        services[name]["environment"] = {**services[name]["environment"], **own}
    return services


def observe(host: Host) -> Observed:
    seen = Observed()
    services = of_a_trial()
    seen.migrated = host.ended("migrate", services["migrate"])
    seen.simulated_files = host.ended("experiments-files", services["experiments-files"])
    data_url = host.environment(services["migrate"])["ETL_POSTGRES_URL"]
    for name in RUNNING:
        host.processes[name] = host.start(name, services[name])
    broker = Broker(host.environment(services["relay"])["ETL_BROKER_URL"])
    seen.waiting = {
        stream.name: host.until("the relay", functools.partial(broker.held, stream.name)) for stream in STREAMS
    }
    broker.close()
    seen.server_info = host.until("the webserver", lambda: host.ask("/server_info"))
    seen.limited = host.ended("limit", services["daemon"], POOL_LIMIT)
    launched = host.until("the code location", lambda: launch(host))
    status = STATUS.replace("RUN", launched)
    ended = ("SUCCESS", "FAILURE", "CANCELED")
    seen.run_status = host.until(
        "the run", lambda: one_of(host.ask("/graphql", status)["data"]["runOrError"]["status"], ended)
    )
    trigger(host, seen)
    seen.loaded = host.ended("load", services["code-location"], LOAD)
    seen.repositories = host.ask("/graphql", REPOSITORIES)["data"]["repositoriesOrError"]["nodes"]
    daemons = host.until("all heartbeats", lambda: all_required(host.ask("/graphql", DAEMONS)))
    seen.daemons = {daemon["daemonType"]: daemon["healthy"] for daemon in daemons}
    checks = {name: host.healthcheck(name, services[name]) for name in CHECKED}
    seen.healthy = {name: check.wait(TIMEOUT_S) for name, check in checks.items()}
    with psycopg.connect(data_url) as connection:
        seen.revisions["platform"] = revisions_of(connection)
        seen.ledger = connection.execute(
            "SELECT asset, sum(received)::int FROM etl.ledger WHERE run_id = %s GROUP BY 1 ORDER BY 1", [launched]
        ).fetchall()
        seen.triggered_ledger = connection.execute(
            "SELECT asset, partition, (inserted > 0)::int FROM etl.ledger WHERE run_id = %s ORDER BY 1",
            [seen.triggered_run["run_id"]],
        ).fetchall()
    with psycopg.connect(urlunsplit(urlsplit(data_url)._replace(path=f"/{TARGET}"))) as connection:
        seen.revisions["target"] = revisions_of(connection)
        seen.turbine_days = [
            day for (day,) in connection.execute("SELECT DISTINCT (timestamp AT TIME ZONE 'UTC')::date::text FROM bin")
        ]
    seen.output_of_run = any((host.folder / "data" / "compute_logs").glob(f"**/{launched}/**/*.err"))
    for process in host.processes.values():
        process.terminate()
    seen.exit_codes = {name: process.wait(TIMEOUT_S) for name, process in host.processes.items()}
    seen.logs = {name: host.log(name) for name in ("migrate", "experiments-files", *host.processes)}
    return seen


def revisions_of(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """By history of this version, the revision that a database has."""
    tables = connection.execute(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'etl' AND tablename LIKE '%\\_version'"
    )
    histories = [name.removesuffix("_version") for (name,) in tables.fetchall()]
    return {
        history: str(connection.execute(f"SELECT version_num FROM etl.{history}_version".encode()).fetchone()[0])  # type: ignore[index]
        for history in histories
        if history not in ("platform", "target")  # those of before
    }


def trigger(host: Host, seen: Observed) -> None:
    """The calls of somebody who has the token, and of somebody who has not."""
    token = GIVEN["ETL_GATEWAY_TOKEN"]
    seen.without_token, _ = host.until("the gateway", lambda: host.ask_gateway("/trigger-etl", post=True))
    host.until("its parts", lambda: host.ask_gateway("/readyz")[0] == 200)
    seen.triggered = host.ask_gateway("/trigger-etl", post=True, token=token)
    seen.triggered_again = host.ask_gateway("/trigger-etl", post=True, token=token)
    _, page = host.ask_gateway("/v1/runs?job=experiments_job", token=token)
    assert len(page["runs"]) == 1, (seen.triggered, seen.triggered_again, page)
    (run,) = page["runs"]
    seen.triggered_run = host.until("the triggered run", lambda: ended_run(host, run["run_id"], token))
    seen.features = host.ask_gateway(f"/v1/features/users?as_of={run['partition']}&limit=1000", token=token)


def ended_run(host: Host, run_id: str, token: str) -> dict[str, Any] | None:
    status, run = host.ask_gateway(f"/v1/runs/{run_id}?wait_s=30", token=token)
    return run if status == 200 and run["ended_at"] else None


EXPERIMENT_TABLES = ("users", "compounds", "user_experiments", "experiment_compounds")
LOAD = ["etl-assets", "turbines", "load", "2024-05-20"]
POOL_LIMIT = ["dagster", "instance", "concurrency", "set", "production_drain", "1"]
STATUS = '{ runOrError(runId: "RUN") { ... on Run { status } } }'
REPOSITORIES = (
    "{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } jobs { name } } } } }"
)
DAEMONS = "{ instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } } }"
LAUNCH = """mutation { launchRun(executionParams: {selector: {repositoryLocationName: "etl_assets",
    repositoryName: "__repository__", jobName: "__ASSET_JOB",
    assetSelection: [{path: ["outages", "raw_outages"]}, {path: ["production", "metrics"]}, {path: ["production", "workorders"]}], assetCheckSelection: []}, runConfigData: {}}) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""


def launch(host: Host) -> str | None:
    answer = host.ask("/graphql", LAUNCH)["data"]["launchRun"]
    return answer["run"]["runId"] if answer["__typename"] == "LaunchRunSuccess" else None


def one_of(value: str, wanted: tuple[str, ...]) -> str | None:
    return value if value in wanted else None


def all_required(answer: Any) -> list[dict[str, Any]] | None:
    statuses = answer["data"]["instance"]["daemonHealth"]["allDaemonStatuses"]
    required = [status for status in statuses if status["required"]]
    return required if all(status["healthy"] for status in required) else None


@pytest.mark.long
def test_migrate_brings_an_empty_database_to_head_as_an_ordinary_role(observed: Observed) -> None:
    assert observed.migrated[0] == 0, observed.migrated[1]
    assert observed.revisions == {
        database: {history.name: history.head for history in histories(database)} for database in ("platform", "target")
    }


@pytest.mark.long
def test_the_webserver_lists_the_definitions_of_the_shared_code_location(observed: Observed) -> None:
    assert observed.server_info["dagster_webserver_version"] == dg.__version__
    (repository,) = observed.repositories
    assert (repository["name"], repository["location"]["name"]) == ("__repository__", "etl_assets")
    assert "outages_job" in {job["name"] for job in repository["jobs"]}


@pytest.mark.long
def test_every_daemon_that_the_configuration_needs_is_alive(observed: Observed) -> None:
    assert {"SCHEDULER", "SENSOR", "QUEUED_RUN_COORDINATOR", "MONITORING", "EVENT_LOG_CONSUMER"} <= set(
        observed.daemons
    )
    assert set(observed.daemons.values()) == {True}


@pytest.mark.long
def test_a_run_launched_in_the_ui_goes_through_queue_and_code_location_into_the_database(observed: Observed) -> None:
    assert observed.run_status == "SUCCESS", observed.logs["code-location"][-3000:]
    assert [asset for asset, _ in observed.ledger] == [
        "outages.raw_outages",
        "production.metrics",
        "production.workorders",
    ]
    assert observed.output_of_run


@pytest.mark.long
def test_the_relay_brings_both_streams_to_the_broker_and_a_run_stores_them(observed: Observed) -> None:
    received = {asset.removeprefix("production."): rows for asset, rows in observed.ledger}
    for stream in STREAMS:
        assert 0 < observed.waiting[stream.name] <= received[stream.name]


@pytest.mark.long
def test_a_pool_gets_a_limit_of_its_own_by_the_command_of_the_operations_page(observed: Observed) -> None:
    assert observed.limited[0] == 0, observed.limited[1]
    assert " ".join(POOL_LIMIT) in (ROOT / "docs" / "operations.md").read_text()


@pytest.mark.long
def test_the_files_of_the_experiments_are_written_by_a_service_that_ends(observed: Observed) -> None:
    code, said = observed.simulated_files
    assert code == 0, said
    assert "users.csv: 200 rows without a fault" in said


@pytest.mark.long
def test_a_trigger_goes_through_gateway_webserver_queue_and_code_location_into_the_features(observed: Observed) -> None:
    assert observed.triggered == (200, {"message": "ETL process started"})
    run = observed.triggered_run
    assert (run["job"], run["status"]) == ("experiments_job", "SUCCESS"), observed.logs["code-location"][-3000:]
    stored = {asset: partition for asset, partition, inserted in observed.triggered_ledger if inserted}
    assert stored == {
        **dict.fromkeys((f"experiments.{table}" for table in EXPERIMENT_TABLES), ""),
        "experiments.user_features": run["partition"],
    }
    status, page = observed.features
    assert (status, page["as_of"], len(page["users"])) == (200, run["partition"], 200)


@pytest.mark.long
def test_a_second_trigger_at_once_starts_nothing(observed: Observed) -> None:
    assert observed.triggered_again == (400, {"message": "Trigger the API frequently, please try again later."})


@pytest.mark.long
def test_without_the_token_the_gateway_starts_nothing(observed: Observed) -> None:
    assert observed.without_token == 401


@pytest.mark.long
def test_a_day_of_the_turbines_goes_from_their_api_into_the_target_beside_the_data(observed: Observed) -> None:
    code, said = observed.loaded
    assert code == 0, said
    assert said.startswith("2024-05-20: 144 bins, 1,152 values (1,152 inserted")
    assert observed.turbine_days == ["2024-05-20"]


@pytest.mark.long
def test_every_healthcheck_of_a_running_service_passes(observed: Observed) -> None:
    assert observed.healthy == dict.fromkeys(CHECKED, 0)


@pytest.mark.long
def test_every_service_ends_by_itself_on_sigterm(observed: Observed) -> None:
    assert observed.exit_codes == dict.fromkeys(RUNNING, 0), observed.logs["relay"][-3000:]


@pytest.mark.long
def test_no_service_writes_a_secret_to_its_log(observed: Observed) -> None:
    secrets = [value for name, value in GIVEN.items() if name not in NO_SECRETS]
    leaks = [(name, secret) for name, log in observed.logs.items() for secret in secrets if secret in log]
    assert leaks == []


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


@contextlib.contextmanager
def broker_of_compose(folder: Path) -> Iterator[int]:
    """A broker with the configuration of compose; gives its port."""
    port = free_port()
    text = interpolated(COMPOSE["configs"]["broker"]["content"]).replace("/data", str(folder))
    (folder / "broker.conf").write_text(f"{text}port {port}\nbind 127.0.0.1\n")
    with (folder / "log").open("wb") as log:
        broker = subprocess.Popen([broker_binary(), folder / "broker.conf"], stdout=log, stderr=log, cwd=folder)
    try:
        with redis.Redis(port=port, password=GIVEN["BROKER_PASSWORD"], retry=Retry(NoBackoff(), 0)) as client:
            end = time.monotonic() + TIMEOUT_S
            while not answers(client) and time.monotonic() < end:
                time.sleep(0.02)
        yield port
    finally:
        broker.terminate()
        assert broker.wait(TIMEOUT_S) == 0


def test_the_broker_takes_its_configuration_and_refuses_whoever_has_no_password(tmp_path: Path) -> None:
    once = Retry(NoBackoff(), 0)
    with broker_of_compose(tmp_path) as port:
        with redis.Redis(port=port, password=GIVEN["BROKER_PASSWORD"], retry=once, decode_responses=True) as client:
            assert client.config_get("appendonly") == {"appendonly": "yes"}
            assert client.config_get("dir") == {"dir": str(tmp_path)}
        with redis.Redis(port=port, retry=once) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()


@pytest.mark.parametrize("folder", [ROOT, DOCKER], ids=["local", "production"])
def test_dagster_accepts_the_configuration_of_the_instance_and_no_unknown_key(folder: Path, tmp_path: Path) -> None:
    text = (folder / "dagster.yaml").read_text()
    (tmp_path / "dagster.yaml").write_text(text)
    configuration, _ = dagster_instance_config(str(tmp_path))
    assert configuration["telemetry"] == {"enabled": False}
    (tmp_path / "dagster.yaml").write_text(text + "\nrun_monitorring: {enabled: true}\n")
    with pytest.raises(dg.DagsterInvalidConfigError, match="run_monitorring"):
        dagster_instance_config(str(tmp_path))


def test_production_retries_runs_that_crashed_and_none_that_failed() -> None:
    retries = yaml.safe_load((DOCKER / "dagster.yaml").read_text())["run_retries"]
    assert retries == {"enabled": True, "max_retries": 2, "retry_on_asset_or_op_failure": False}


def variables_of(text: str) -> set[str]:
    return {match[1] for match in VARIABLE.finditer(text)}


def test_every_variable_of_compose_is_in_the_example_without_a_value() -> None:
    lines = (DOCKER / ".env.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    used = {name for file in DOCKER.glob("compose*.yaml") for name in variables_of(file.read_text())}
    assert set(example) == used
    assert set(example.values()) == {""}


def test_no_secret_has_a_default_and_each_says_what_it_is() -> None:
    for file in DOCKER.glob("compose*.yaml"):
        for name, kind, rest in VARIABLE.findall(file.read_text()):
            if re.search("PASSWORD|KEY|TOKEN|SECRET", name):
                assert (kind, bool(rest)) == ("?", True), f"{name} in {file.name}"


def test_every_variable_given_to_our_containers_is_one_that_somebody_reads() -> None:
    of_dagster = {
        "DAGSTER_HOME",
        "DAGSTER_EVENT_BATCH_SIZE",
        *re.findall(r"env: (\w+)", (DOCKER / "dagster.yaml").read_text()),
    }
    kinds = [Settings, *(system.part("settings", "SETTINGS", Settings) for system in systems())]
    known = {name.upper() for kind in kinds for name in kind.model_fields} | of_dagster
    services = {**OURS, **{f"{name} (simulated)": service for name, service in SIMULATORS["services"].items()}}
    unknown = {name: set(service.get("environment", {})) - known for name, service in services.items()}
    assert {name: variables for name, variables in unknown.items() if variables} == {}


def test_every_setting_is_in_the_table_of_the_operations_page() -> None:
    described = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE))
    assert {name.upper() for name in Settings.model_fields} - described == set()


def test_webserver_and_daemon_hold_no_secret_of_a_source_or_of_the_data() -> None:
    assert {name: list(OURS[name]["environment"]) for name in ("webserver", "daemon")} == {
        "webserver": ["DAGSTER_POSTGRES_URL"],
        "daemon": ["DAGSTER_POSTGRES_URL"],
    }


def test_the_gateway_holds_no_key_of_a_source_and_no_address_of_dagsters_database() -> None:
    assert set(OURS["gateway"]["environment"]) == {
        "ETL_POSTGRES_URL",
        "ETL_MIGRATE",
        "DAGSTER_GRAPHQL_URL",
        "ETL_GATEWAY_TOKEN",
        "ETL_GATEWAY_PORT",
        "ETL_TRIGGER_INTERVAL_S",
    }
    assert "volumes" not in OURS["gateway"]


def test_nobody_but_the_gateway_holds_its_token() -> None:
    services = {**COMPOSE["services"], **of_a_trial()}
    assert [name for name, service in services.items() if "ETL_GATEWAY_TOKEN" in str(service)] == ["gateway"]


def test_the_gateway_waits_for_migration_and_webserver_and_never_migrates() -> None:
    gateway = OURS["gateway"]
    waits = {name: needed["condition"] for name, needed in gateway["depends_on"].items()}
    assert waits == {"migrate": "service_completed_successfully", "webserver": "service_healthy"}
    assert gateway["environment"]["ETL_MIGRATE"] == "off"
    assert gateway["environment"]["DAGSTER_GRAPHQL_URL"] == "http://webserver:3000/graphql"


def test_dagster_starts_after_the_migration_and_stops_at_a_database_that_is_behind() -> None:
    waits = {name: OURS[name]["depends_on"]["migrate"]["condition"] for name in DAGSTER}
    assert waits == dict.fromkeys(DAGSTER, "service_completed_successfully")
    assert OURS["code-location"]["environment"]["ETL_MIGRATE"] == "off"


def test_the_relay_waits_for_migration_and_broker_and_is_started_again_when_it_ends() -> None:
    waits = {name: needed["condition"] for name, needed in OURS["relay"]["depends_on"].items()}
    assert waits == {
        "migrate": "service_completed_successfully",
        "postgres": "service_healthy",
        "broker": "service_healthy",
    }
    assert (OURS["relay"]["restart"], OURS["relay"]["environment"]["ETL_MIGRATE"]) == ("unless-stopped", "off")


def test_the_relay_holds_no_key_of_another_source_and_none_of_dagster() -> None:
    assert set(OURS["relay"]["environment"]) == {
        "ETL_POSTGRES_URL",
        "ETL_BROKER_URL",
        "PRODUCTION_API_URL",
        "ETL_MIGRATE",
    }


def test_no_service_has_the_health_check_that_the_image_gives_to_the_code_location() -> None:
    services = {**OURS, **{name: service for name, service in SIMULATORS["services"].items() if "build" in service}}
    assert set(SOURCES) < set(services)
    assert [name for name, service in services.items() if "healthcheck" not in service] == []


def test_only_ui_and_gateway_have_a_port_and_only_on_this_host() -> None:
    ports = {name: service["ports"] for name, service in of_a_trial().items() if "ports" in service}
    assert ports == {
        "webserver": ["127.0.0.1:${ETL_UI_PORT:-3000}:3000"],
        "gateway": ["127.0.0.1:${ETL_GATEWAY_PORT:-5000}:5000"],
    }
    assert [name for name, service in COMPOSE["services"].items() if "ports" in service] == list(ports)


def test_every_port_that_somebody_is_to_reach_is_in_the_image() -> None:
    (exposed,) = re.findall(r"^EXPOSE (.*)$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    published = {port.rsplit(":", 1)[1] for service in OURS.values() for port in service.get("ports", ())}
    (remote,) = yaml.safe_load((DOCKER / "workspace.yaml").read_text())["load_from"]
    assert set(exposed.split()) == published | {str(remote["grpc_server"]["port"])}
    assert OURS["gateway"]["environment"]["ETL_GATEWAY_PORT"] in published


def test_a_trial_has_volumes_of_its_own_and_never_asks_the_real_api() -> None:
    assert (COMPOSE["name"], SIMULATORS["name"]) == ("etl-assets", "etl-assets-trial")
    apis = {
        "OUTAGES_API_URL": "http://outages-simulator:8001",
        "PRODUCTION_API_URL": "http://production-api:8002",
        "TURBINES_API_URL": "http://turbines-api:8000",
        "EVENTS_FEED_URL": "http://events-feed:8003",
    }
    asked = {
        name: {variable: address for variable, address in service.get("environment", {}).items() if variable in apis}
        for name, service in of_a_trial().items()
    }
    assert {name: addresses for name, addresses in asked.items() if addresses} == {
        "code-location": apis,
        "relay": {"PRODUCTION_API_URL": apis["PRODUCTION_API_URL"]},
    }


def test_a_trial_never_writes_to_the_target_of_production() -> None:
    of_service = {name: service.get("environment", {}) for name, service in of_a_trial().items()}
    targets = {
        name: given["TURBINES_TARGET_URL"] for name, given in of_service.items() if "TURBINES_TARGET_URL" in given
    }
    assert targets == {"migrate": "", "code-location": ""}


@pytest.mark.parametrize("files", [True, False], ids=["files", "generated"])
def test_a_trial_streams_two_files_of_the_host_or_generated_data(files: bool) -> None:
    service = SIMULATORS["services"]["production-api"]
    given = {name: f"/home/me/{name}.json" for name in FILES} if files else dict.fromkeys(FILES, "")
    environment = {name: interpolated(service["environment"][name], given) for name in FILES}
    mounts = {mount["target"]: mount for mount in service["volumes"]}
    sources = {target: interpolated(mount["source"], given) for target, mount in mounts.items()}
    if files:
        assert {name: sources[path] for name, path in environment.items()} == given
    else:
        assert environment == given
        assert set(sources.values()) == {"/dev/null"}
    assert all(mount["read_only"] and not mount["bind"]["create_host_path"] for mount in mounts.values())


@pytest.mark.parametrize("folder", ["/srv/experiments", ""], ids=["folder", "none"])
def test_the_code_location_reads_the_folder_of_the_experiments_and_cannot_write_to_it(folder: str) -> None:
    service, given = OURS["code-location"], {"EXPERIMENTS_DIR": folder}
    (mount,) = [mount for mount in service["volumes"] if isinstance(mount, dict)]
    assert interpolated(mount["source"], given) == (folder or "/dev/null")
    assert interpolated(service["environment"]["EXPERIMENTS_DIR"], given) == (mount["target"] if folder else "")
    assert (mount["type"], mount["read_only"], mount["bind"]) == ("bind", True, {"create_host_path": False})


def test_a_trial_reads_the_files_that_it_has_written_itself_before() -> None:
    trial = of_a_trial()
    files, reader = trial["experiments-files"], trial["code-location"]
    written = reader["environment"]["EXPERIMENTS_DIR"]
    assert files["command"] == ["etl-assets", "simulate", "experiments", written, "--faults"]
    (volume,) = files["volumes"]
    assert volume in reader["volumes"]
    assert written.startswith(f"{volume.split(':')[1]}/")
    needed = SIMULATORS["services"]["code-location"]["depends_on"]["experiments-files"]
    assert needed == {"condition": "service_completed_successfully"}
    assert "restart" not in files  # once at each start: the same files every time


@pytest.mark.long
def test_the_production_api_of_a_trial_says_that_it_streams_the_files_that_are_mounted(tmp_path: Path) -> None:
    host = Host(tmp_path)
    service = dict(SIMULATORS["services"]["production-api"])
    for stream, name in zip(STREAMS, FILES, strict=True):
        (tmp_path / name).write_text(json.dumps([dict.fromkeys(stream.fields, 1)]))
        (mount,) = [mount for mount in service["volumes"] if name in mount["source"]]
        host.rewrites[mount["target"]] = str(tmp_path / name)
    given = {**GIVEN, **dict.fromkeys(FILES, "given")}
    service["environment"] = {name: interpolated(value, given) for name, value in service["environment"].items()}
    process = host.processes["api"] = host.start("api", service)
    try:
        said = host.until("the API", lambda: host.log("api"))
    finally:
        process.terminate()
    assert said.startswith("production streams of files:")
    assert process.wait(TIMEOUT_S) == 0


def test_all_files_name_the_same_module_and_location() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    (local,) = yaml.safe_load((ROOT / "workspace.yaml").read_text())["load_from"]
    (remote,) = yaml.safe_load((DOCKER / "workspace.yaml").read_text())["load_from"]
    modules = {project["dagster"]["module_name"], local["python_module"]["module_name"]}
    modules |= {local["python_module"]["location_name"], remote["grpc_server"]["location_name"]}
    modules |= {OURS["code-location"]["command"][-1]}
    assert modules == {"etl_assets"}


@pytest.mark.parametrize("file", sorted(ROOT.glob("requirements*.txt")), ids=lambda file: file.name)
def test_requirements_pin_every_package_with_hashes_and_name_no_host(file: Path) -> None:
    text = file.read_text()
    entries = [
        line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]
    loose = [entry[:60] for entry in entries if not re.match(r"[\w.\[\],-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", entry)]
    assert len(entries) > 40
    assert loose == []
    assert "://" not in text
    # Of options those that say how the lock was made, and the hashes: none that says from where.
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)) <= {
        "--hash",
        "--universal",
        "--generate-hashes",
        "--group",
    }


def test_the_image_installs_by_hash_runs_as_an_ordinary_user_and_holds_no_secret() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    final = text.split("FROM")[-1]
    assert "pip install --require-hashes --no-deps -r requirements.txt" in text
    assert "--no-deps --no-build-isolation ." in text
    assert re.findall(r"^USER (\w+)", final, re.MULTILINE) == ["etl"]
    assert json.loads(re.findall(r"^CMD (\[.*\])", final, re.MULTILINE)[0]) == OURS["code-location"]["command"]
    assert re.findall(r"PASSWORD|API_KEY|SECRET|TOKEN|\.env", text) == []


def test_everything_that_the_image_copies_is_let_through_and_nothing_else() -> None:
    copied = re.findall(r"^COPY (?!--from)(?:--\S+ )*(.*) \S+$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    rules = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    assert {rule[1:] for rule in rules if rule.startswith("!")} == sources
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert next(rule for rule in rules if not rule.startswith("#")) == "*"
