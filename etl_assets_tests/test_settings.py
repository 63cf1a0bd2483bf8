"""Where settings come from, what wins, and what is never shown."""

import fcntl
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pydantic
import pytest

from etl_assets import settings as module
from etl_assets.errors import ConfigurationError
from etl_assets.settings import LOCAL_ENV, LOCAL_LOCK, default_data_dir, load_settings, local_servers_live
from etl_assets.systems.outages.settings import OutagesSettings
from etl_assets.systems.turbines.settings import TurbinesSettings

SIMULATORS = {"OUTAGES_API_URL": "http://127.0.0.1:5001", "OUTAGES_API_KEY": "simulated"}
SECRET = "hunter2"
LocalServers = Callable[..., None]


@pytest.fixture
def local_servers(data_dir: Path) -> Iterator[LocalServers]:
    """Writes `local.env` in a data folder; the servers that it names live until the end of the test."""
    held = []

    def start(folder: Path = data_dir, **variables: str) -> None:
        lines = ["# written by `make up`", "", *(f"{name}={value}" for name, value in variables.items())]
        (folder / LOCAL_ENV).write_text("\n".join(lines))
        held.append((folder / LOCAL_LOCK).open("wb"))
        fcntl.flock(held[-1], fcntl.LOCK_EX)

    yield start
    for lock in held:
        lock.close()


def test_without_variables_sources_are_unset_and_everything_else_has_its_default(data_dir: Path) -> None:
    settings = OutagesSettings.load()

    assert settings.etl_data_dir == data_dir
    assert settings.outages_api_url is None
    assert settings.outages_api_key is None
    assert settings.etl_postgres_url is None
    assert (settings.etl_migrate, settings.etl_executor) == ("auto", "in_process")
    assert settings.outages_sites == ("norwich-pear-tree", "kingfisher")
    assert settings.storage_url == str(data_dir / "lake")


def test_a_required_setting_that_is_unset_is_named_with_what_to_do(data_dir: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^OUTAGES_API_URL is not set: .*`make up`"):
        OutagesSettings.load().required("outages_api_url")


def test_required_gives_the_plain_value_of_a_secret(data_dir: Path) -> None:
    assert OutagesSettings.load(outages_api_key=SECRET).required("outages_api_key") == SECRET


def test_local_env_gives_what_the_environment_leaves_open(
    local_servers: LocalServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_servers(
        **SIMULATORS, ETL_BROKER_URL="redis://local", ETL_EXECUTOR="multiprocess", UNKNOWN="x", ETL_STORAGE_URL=""
    )
    monkeypatch.setenv("ETL_EXECUTOR", "in_process")

    settings = OutagesSettings.load()

    assert settings.outages_api_url == SIMULATORS["OUTAGES_API_URL"]
    assert settings.required("outages_api_key") == SIMULATORS["OUTAGES_API_KEY"]
    assert settings.required("etl_broker_url") == "redis://local"
    assert settings.etl_executor == "in_process"
    assert settings.etl_storage_url is None


def test_overrides_win_over_everything(local_servers: LocalServers, monkeypatch: pytest.MonkeyPatch) -> None:
    local_servers(ETL_BROKER_URL="redis://local")
    monkeypatch.setenv("ETL_BROKER_URL", "redis://environment")

    assert load_settings().required("etl_broker_url") == "redis://environment"
    assert load_settings(etl_broker_url="redis://override").required("etl_broker_url") == "redis://override"


def test_an_empty_variable_counts_as_unset(local_servers: LocalServers, monkeypatch: pytest.MonkeyPatch) -> None:
    local_servers(**SIMULATORS)
    for name in ("ETL_POSTGRES_URL", "OUTAGES_API_URL", "OUTAGES_API_KEY", "OUTAGES_SITES", "ETL_MIGRATE"):
        monkeypatch.setenv(name, "")

    settings = OutagesSettings.load()

    assert settings.etl_postgres_url is None
    assert settings.outages_api_url == SIMULATORS["OUTAGES_API_URL"]
    assert settings.outages_sites == ("norwich-pear-tree", "kingfisher")
    assert settings.etl_migrate == "auto"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ETL_POSTGRES_URL", "postgresql://server/db"),
        ("etl_postgres_url", "postgresql://server/db"),
        ("OUTAGES_API_URL", "https://api.example"),
        ("OUTAGES_API_KEY", "key"),
    ],
)
def test_simulated_sources_are_left_out_beside_real_ones(
    local_servers: LocalServers, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    local_servers(**SIMULATORS, ETL_BROKER_URL="redis://local")
    monkeypatch.setenv(name, value)

    settings = OutagesSettings.load()

    simulated = {settings.outages_api_url, settings.outages_api_key and settings.outages_api_key.get_secret_value()}
    assert simulated.isdisjoint(SIMULATORS.values())
    assert settings.required("etl_broker_url") == "redis://local"


@pytest.mark.parametrize(
    ("name", "value", "simulated"),
    [
        ("TURBINES_TARGET_URL", "postgresql://server/mine", False),
        ("TURBINES_API_URL", "https://api.example", False),
        ("TURBINES_END_DATE", "2024-05-21", True),
        ("TURBINES_START_DATE", "2024-05-21", True),
    ],
)
def test_simulated_turbines_never_meet_a_source_or_a_target_that_was_given(
    local_servers: LocalServers, monkeypatch: pytest.MonkeyPatch, name: str, value: str, simulated: bool
) -> None:
    offered = {"TURBINES_START_DATE": "2024-05-20", "TURBINES_END_DATE": "2024-05-29"}
    local_servers(TURBINES_API_URL="http://simulated", **offered)
    monkeypatch.setenv(name, value)

    settings = TurbinesSettings.load()

    assert (settings.turbines_api_url == "http://simulated") is simulated
    expected = date.fromisoformat({**offered, name: value}["TURBINES_END_DATE"]) if simulated else None
    assert settings.turbines_end_date == expected


def test_simulated_sources_are_left_out_also_where_the_caller_gives_the_database(local_servers: LocalServers) -> None:
    local_servers(**SIMULATORS)

    assert OutagesSettings.load().outages_api_url == SIMULATORS["OUTAGES_API_URL"]
    assert OutagesSettings.load(etl_postgres_url="postgresql://server/db").outages_api_url is None
    assert OutagesSettings.load(outages_api_key="key").outages_api_url is None


def test_local_env_is_that_of_the_data_folder_in_use(
    local_servers: LocalServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    local_servers(other, **SIMULATORS)

    assert OutagesSettings.load().outages_api_url is None
    assert OutagesSettings.load(etl_data_dir=other).outages_api_url == SIMULATORS["OUTAGES_API_URL"]
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ETL_DATA_DIR", "~/other")
    assert OutagesSettings.load().outages_api_url == SIMULATORS["OUTAGES_API_URL"]
    assert OutagesSettings.load().etl_data_dir == other


def test_local_env_counts_only_while_the_process_that_wrote_it_lives(data_dir: Path) -> None:
    (data_dir / LOCAL_ENV).write_text("OUTAGES_API_URL=http://gone\n")
    assert OutagesSettings.load().outages_api_url is None  # no lock file at all
    hold = "import fcntl, sys; lock = open(sys.argv[1], 'wb'); fcntl.flock(lock, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"

    with subprocess.Popen(
        [sys.executable, "-c", hold, str(data_dir / LOCAL_LOCK)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert OutagesSettings.load().outages_api_url == "http://gone"
        holder.kill()

    assert (data_dir / LOCAL_LOCK).exists()
    assert not local_servers_live(data_dir)
    assert OutagesSettings.load().outages_api_url is None


def test_asking_whether_the_servers_live_takes_no_lock_from_them(data_dir: Path, local_servers: LocalServers) -> None:
    (data_dir / LOCAL_LOCK).touch()
    assert not local_servers_live(data_dir)

    local_servers(**SIMULATORS)  # would block for ever if the question had kept the lock

    assert local_servers_live(data_dir)
    assert not local_servers_live(data_dir / "nowhere")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ETL_POSTGRES_URL", f"mysql://me:{SECRET}@server", "must begin with postgresql://"),
        ("ETL_MIGRATE", f"maybe-{SECRET}", "'auto' or 'off'"),
        ("ETL_EXECUTOR", f"{SECRET}", "'in_process' or 'multiprocess'"),
        ("OUTAGES_SITES", " , ", "at least one site"),
    ],
)
def test_a_bad_value_names_its_variable_and_is_not_shown(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError) as raised:
        OutagesSettings.load()

    assert f"bad setting {name}: " in str(raised.value)
    assert said in str(raised.value)
    assert SECRET not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


def test_all_bad_values_are_named_at_once(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETL_MIGRATE", "maybe")
    monkeypatch.setenv("ETL_EXECUTOR", "elsewhere")

    with pytest.raises(ConfigurationError, match=r"ETL_MIGRATE: .*; ETL_EXECUTOR: "):
        load_settings()


def test_secrets_are_never_shown(data_dir: Path) -> None:
    settings = OutagesSettings.load(
        etl_postgres_url=f"postgresql://me:{SECRET}@server/db",
        etl_broker_url=f"redis://:{SECRET}@server",
        etl_storage_url=f"s3://key:{SECRET}@bucket",
        etl_alert_webhook_url=f"https://hooks.example/{SECRET}",
        outages_api_url=f"https://me:{SECRET}@api.example",
        outages_api_key=SECRET,
    )

    assert SECRET not in repr(settings)
    assert SECRET not in str(settings)
    assert settings.required("etl_storage_url") == f"s3://key:{SECRET}@bucket"


def test_settings_do_not_change(data_dir: Path) -> None:
    with pytest.raises(pydantic.ValidationError):
        load_settings().etl_migrate = "off"


@pytest.mark.parametrize(
    ("value", "sites"), [("a", ("a",)), (" a, b ,,a ", ("a", "b")), ("b,a", ("b", "a")), ("a b", ("a b",))]
)
def test_a_list_is_split_at_commas_keeps_its_order_and_drops_repeats(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, value: str, sites: tuple[str, ...]
) -> None:
    monkeypatch.setenv("OUTAGES_SITES", value)

    assert OutagesSettings.load().outages_sites == sites


def test_a_relative_data_folder_is_that_of_the_working_directory(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ETL_DATA_DIR", "here")

    assert load_settings().etl_data_dir == tmp_path / "here"


def test_the_data_folder_is_that_of_a_dagster_home_of_ours(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ETL_DATA_DIR")
    monkeypatch.chdir(tmp_path)
    checkout = Path(module.__file__).parents[1]
    for home in (str(data_dir / "dagster"), "data/dagster"):
        monkeypatch.setenv("DAGSTER_HOME", home)
        assert default_data_dir() == checkout / "var"  # a home of somebody else

    (data_dir / LOCAL_ENV).write_text("")
    for home in (str(data_dir / "dagster"), "data/dagster"):
        monkeypatch.setenv("DAGSTER_HOME", home)
        assert load_settings().etl_data_dir == data_dir


def test_installed_without_a_checkout_the_data_folder_is_in_the_working_directory(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ETL_DATA_DIR")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "site-packages" / "etl_assets" / "settings.py"))

    assert default_data_dir() == tmp_path / "var"


def test_the_settings_of_the_turbines(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TurbinesSettings.load()
    assert (settings.turbines, settings.turbines_zone, settings.turbines_end_date) == ((), "UTC", None)
    assert settings.turbines_start_date == date(2024, 5, 20)

    monkeypatch.setenv("TURBINES", " T01, T02,,T01 ")
    monkeypatch.setenv("TURBINES_TARGET_URL", f"postgresql://user:{SECRET}@host/alvo")
    settings = TurbinesSettings.load()
    assert settings.turbines == ("T01", "T02")
    assert SECRET not in repr(settings)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"TURBINES_ZONE": "Lisbon"}, "TURBINES_ZONE: .*must be a name like UTC or Europe/Lisbon"),
        ({"TURBINES_START_DATE": "20.05.2024"}, "TURBINES_START_DATE: "),
        ({"TURBINES_END_DATE": "2024-05-19"}, "TURBINES_END_DATE is before TURBINES_START_DATE"),
        ({"TURBINES_TARGET_URL": f"mysql://{SECRET}@host"}, "TURBINES_TARGET_URL: .*must begin with postgresql://"),
    ],
)
def test_bad_settings_of_the_turbines_are_named(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=message) as refused:
        TurbinesSettings.load()
    assert SECRET not in str(refused.value)
