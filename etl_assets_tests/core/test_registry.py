"""Systems are found, not listed: below `etl_assets.systems`, and by entry points of other distributions."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from etl_assets.cli import run
from etl_assets.core import registry
from etl_assets.errors import ConfigurationError
from etl_assets.local import new_system

SYSTEMS = Path(registry.__file__).parents[1] / "systems"


def installed(folder: Path, distribution: str, name: str, package: str) -> None:
    """A distribution that names a package as a system."""
    info = folder / f"{distribution}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[etl_assets.systems]\n{name} = {package}\n")


def package_of(folder: Path, package: str, text: str) -> None:
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text(text)


def in_a_process(code: str, path: Path) -> str:
    paths = os.pathsep.join((str(path), str(SYSTEMS.parents[1])))
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    return ran.stdout


def test_every_folder_below_systems_is_a_system() -> None:
    folders = {path.parent.name for path in SYSTEMS.glob("*/__init__.py")}

    assert {system.name for system in registry.systems()} == folders
    assert len(folders) >= 5
    assert registry.faults() == ()


def test_a_system_of_another_distribution_is_found_and_faulty_ones_keep_nobody_from_loading(tmp_path: Path) -> None:
    new_system.write("weather", "weather_assets", tmp_path / "weather_assets")
    installed(tmp_path, "weather_assets", "weather", "weather_assets")
    package_of(tmp_path, "a_broken", "1 / 0\n")
    installed(tmp_path, "a_broken", "broken", "a_broken")
    system = "from etl_assets.core.registry import System\nSYSTEM = System(name={!r}, package=__name__, summary='')\n"
    package_of(tmp_path, "b_second", system.format("outages"))
    installed(tmp_path, "b_second", "second", "b_second")
    package_of(tmp_path, "c_core", system.format("core"))
    installed(tmp_path, "c_core", "third", "c_core")
    package_of(tmp_path, "d_without", "")
    installed(tmp_path, "d_without", "fourth", "d_without")
    # One that is a system and cannot give its definitions.
    package_of(tmp_path, "e_later", system.format("later") + "def defs():\n    raise ValueError('no')\n")
    installed(tmp_path, "e_later", "fifth", "e_later")

    found = json.loads(
        in_a_process(
            "import json; from etl_assets.core import registry; from etl_assets.definitions import platform_definitions;"
            "names = [s.name for s in registry.systems()];"
            "groups = {spec.group_name for a in platform_definitions().assets for spec in a.specs};"
            "tables = [c.config.table for c in registry.contracts('platform')];"
            "print(json.dumps([names, registry.faults(), sorted(groups), tables]))",
            tmp_path,
        )
    )

    names, faults, groups, tables = found
    assert {"weather", "later", "outages"} <= set(names)
    assert faults == [
        "system a_broken (entry point of a_broken) cannot be loaded: ZeroDivisionError: division by zero",
        "system b_second (entry point of b_second) is left out: etl_assets.systems.outages is named 'outages' too",
        "system c_core (entry point of c_core) is left out: it cannot be named 'core'",
        "system d_without (entry point of d_without) cannot be loaded: AttributeError: module 'd_without' has no"
        " attribute 'SYSTEM'",
    ]
    assert {"weather", "outages", "turbines"} <= set(groups)
    assert "weather.readings" in tables


def test_a_system_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(ConfigurationError, match="there is no system 'weather': there are .*outages"):
        registry.system("weather")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("outages", "there is a system outages already"),
        ("Weather", "cannot be a system's name: give a short word like weather"),
        ("core", "cannot be a system's name"),
    ],
)
def test_a_new_system_needs_a_name_of_its_own(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["new-system", name]) == 2
    assert message in capsys.readouterr().err


def test_a_new_system_goes_into_a_package_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["new-system", "weather", "--into", str(tmp_path / "mine")]) == 0

    assert 'weather = "weather_assets"' in (tmp_path / "mine" / "pyproject.toml").read_text()
    assert (tmp_path / "mine" / "weather_assets" / "source.py").is_file()
    assert "etl-assets migrations new weather" in capsys.readouterr().out
    assert run(["new-system", "weather", "--into", str(tmp_path / "mine")]) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.long
def test_a_new_system_is_new_files_only_and_is_right_as_it_is_made(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    subprocess.run(["git", "clone", "-q", str(SYSTEMS.parents[1]), str(checkout)], check=True)
    if (checked := SYSTEMS.parents[1] / ".mypy_cache").is_dir():  # else all that is imported is read again
        shutil.copytree(checked, checkout / ".mypy_cache")
    env = {**os.environ, "PYTHONPATH": str(checkout), "ETL_DATA_DIR": str(tmp_path / "data")}

    def command(*arguments: str) -> str:
        ran = subprocess.run(
            [sys.executable, "-W", "ignore", *arguments],
            capture_output=True,
            text=True,
            cwd=checkout,
            env=env,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    command("-m", "etl_assets.cli", "new-system", "weather")

    status = subprocess.run(["git", "status", "--short"], capture_output=True, text=True, cwd=checkout, check=True)
    assert status.stdout.splitlines() == [
        "?? docs/dictionary/weather.md",
        "?? etl_assets/systems/weather/",
        "?? etl_assets_tests/systems/weather/",
    ]
    command("-m", "ruff", "check", ".")
    command("-m", "ruff", "format", "--check", ".")
    command("-m", "mypy")
    command("-m", "etl_assets.cli", "migrations", "check")
    command("-m", "etl_assets.local.generated", "--check")
    command("-m", "pytest", "-q", "-n", "0", "etl_assets_tests/systems/weather", "etl_assets_tests/test_definitions.py")
    assert "weather" in command("-m", "etl_assets.cli", "--help")
