"""`etl-assets new-system NAME`: a working system as one folder, to be changed into one's own.

The templates are in `template/`: `$name`, `$NAME`, `$Title` and `$package` are replaced. What is generated of a system (its
migration, its snapshot, its page of the data dictionary) is made by the commands that make it for every system.
"""

import re
import subprocess
import sys
from pathlib import Path
from string import Template

import typer

from etl_assets.core import registry
from etl_assets.core.results import with_json
from etl_assets.errors import ConfigurationError, PlatformError
from etl_assets.local.migrations import formatted

CHECKOUT = Path(__file__).resolve().parents[2]
TEMPLATES = Path(__file__).with_name("template")
ENTRY_POINT = """\
[project]
name = "$name-assets"
version = "0.1.0"
dependencies = ["etl-assets"]

[project.entry-points."etl_assets.systems"]
$name = "$package"

[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[tool.hatch.build.targets.wheel]
packages = ["$package"]
"""


@with_json
def new_system(
    name: str = typer.Argument(help="Name of the system: its asset group, its schema, its command."),
    into: Path | None = typer.Option(
        None, metavar="DIR", help="Make a package of its own there, which is found by its entry point once installed."
    ),
) -> object:
    """Make a working system that fetches days from an API: a folder to change into your own."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{1,30}", name) or name in registry.RESERVED:
        raise ConfigurationError(f"{name!r} cannot be a system's name: give a short word like weather")
    if any(known.name == name for known in registry.systems()):
        raise ConfigurationError(f"there is a system {name} already")
    if into is None:
        package = f"etl_assets.systems.{name}"
        written = write(name, package, CHECKOUT / "etl_assets/systems" / name)
        written += write(name, package, CHECKOUT / "etl_assets_tests/systems" / name, templates="tests")
        _finish("-m", "etl_assets.cli", "migrations", "new", name)
        _finish("-W", "ignore", "-m", "etl_assets.local.generated")
    else:
        written = write(name, f"{name}_assets", into / f"{name}_assets")
        written += [into / "pyproject.toml"]
        written[-1].write_text(_filled(ENTRY_POINT, name, f"{name}_assets"), encoding="utf-8")
    formatted([path for path in written if path.suffix == ".py"])
    for path in written:
        print(path)
    if into is None:
        print(
            f"try it: make demo; etl-assets {name} load 2024-01-01 (with `make up`); pytest etl_assets_tests/systems/{name}"
        )
    else:
        print(f"install it (pip install -e {into}), then write its migration: etl-assets migrations new {name}")
    return {"written": written}


def write(name: str, package: str, folder: Path, *, templates: str = "system") -> list[Path]:
    """Write the folder of a system, or of its tests.

    Raises:
        ConfigurationError: if the folder is there already.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise ConfigurationError(f"{folder} is there already: choose another name") from None
    paths = []
    for template in sorted((TEMPLATES / templates).iterdir()):
        paths.append(folder / _filled(template.name.removesuffix(".txt"), name, package))
        paths[-1].write_text(_filled(template.read_text(encoding="utf-8"), name, package), encoding="utf-8")
    return paths


def _filled(text: str, name: str, package: str) -> str:
    title = "".join(part.capitalize() for part in name.split("_"))
    return Template(text).substitute(name=name, NAME=name.upper(), Title=title, package=package)


def _finish(*arguments: str) -> None:
    """Run a command in a process of its own, which finds the system that this one has just made."""
    ran = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=CHECKOUT, check=False)
    print(ran.stdout, end="")
    if ran.returncode:
        raise PlatformError(f"`{' '.join(arguments)}` failed: {ran.stderr.strip()[-1500:]}")
