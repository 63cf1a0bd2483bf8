"""The systems of the platform: found, not listed.

A system is a package with a `SYSTEM`. Packages below `etl_assets.systems` are found, and those that other distributions name in
the entry-point group `etl_assets.systems` (`weather = "my_package.weather"`). A system that cannot be imported, and the second of
two that have one name, is a sentence in `faults()` and keeps nobody else from loading.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from etl_assets.errors import ConfigurationError, ContractError
from etl_assets.redaction import secrets_of
from etl_assets.settings import Settings

if TYPE_CHECKING:
    from etl_assets.core.contracts import Contract

SYSTEMS = "etl_assets.systems"
# What is no system and has tables, settings and migrations of its own.
CORE, GATEWAY = "etl_assets.core", "etl_assets.gateway"
PLATFORM = "platform"
RESERVED = ("core", "gateway", "etl", "public", "simulate", "quarantine", "ledger", "migrations")


@dataclass(frozen=True)
class System:
    """What the core knows of a system: its name and its package. The rest is found in the modules of the package, where it has them.

    | module | what is taken from it |
    |---|---|
    | the package itself | `defs()`: assets, checks, jobs, schedules, sensors and resources |
    | `contracts` | `CONTRACTS`: the tables that it owns |
    | `settings` | `SETTINGS`: its environment variables, a subclass of `etl_assets.settings.Settings` |
    | `migrations/<database>/` | how the tables came to be, a history per database |
    | `databases` | `DATABASES`: by name, what gives a database beside the platform's |
    | `commands` | `app`: `etl-assets <system> …`; `ALONE`: by name, commands without the system's name |
    | `routes` | `router`: its part of the gateway |
    | `local` | `simulated(settings)`: its source on this machine, with the variables that name it; `simulate`: the command that serves it; `demo_runs(settings)`: by job, the tags of its run in the demo; `partitions(settings)`: dynamic partitions to begin with; `CHECKS`: by name, what the doctor looks at |
    | `replay` | `REPLAYS`: by table, how a row of the quarantine is read again |

    Attributes:
        name: the asset group, the schema in Postgres, the name of its command.
        package: the package, as `__name__` says it.
        summary: one sentence for the command's help.
    """

    name: str
    package: str
    summary: str

    def module(self, name: str) -> ModuleType | None:
        """A module of the system, None if it has none of that name."""
        path = f"{self.package}.{name}"
        return importlib.import_module(path) if importlib.util.find_spec(path) else None

    def part(self, module: str, attribute: str, default: Any = None) -> Any:
        """What a module of the system gives under a name, or the default."""
        return getattr(self.module(module), attribute, default)

    @property
    def folder(self) -> Path:
        """The folder of the package."""
        return Path(str(importlib.import_module(self.package).__file__)).parent

    def settings(self, given: Settings) -> Settings:
        """The settings of the system, for the data folder of settings that were read already."""
        kind: type[Settings] = self.part("settings", "SETTINGS", Settings)
        return kind.load(etl_data_dir=given.etl_data_dir)

    @property
    def contracts(self) -> "tuple[type[Contract], ...]":
        """The tables that the system owns."""
        return tuple(self.part("contracts", "CONTRACTS", ()))


@functools.cache
def _found() -> tuple[tuple[System, ...], tuple[str, ...]]:
    known: dict[str, System] = {}
    faults: list[str] = []
    for package, where in _packages():
        try:
            system = importlib.import_module(package).SYSTEM
            if not isinstance(system, System):
                raise TypeError(f"its SYSTEM is {type(system).__name__}, not a System")
        except Exception as error:
            faults.append(f"system {package} ({where}) cannot be loaded: {type(error).__name__}: {error}")
            continue
        if system.name in RESERVED or not system.name.isidentifier():
            faults.append(f"system {package} ({where}) is left out: it cannot be named {system.name!r}")
        elif system.name in known:
            other = known[system.name].package
            faults.append(f"system {package} ({where}) is left out: {other} is named {system.name!r} too")
        else:
            known[system.name] = system
    return tuple(known.values()), tuple(faults)


def _packages() -> Iterator[tuple[str, str]]:
    """Each package that may be a system, with where it was found."""
    below = importlib.import_module(SYSTEMS)
    for found in pkgutil.iter_modules(below.__path__):
        yield f"{SYSTEMS}.{found.name}", "below etl_assets/systems"
    for entry in sorted(importlib.metadata.entry_points(group=SYSTEMS), key=lambda entry: entry.value):
        named = f"entry point of {entry.dist.name}" if entry.dist else "entry point"
        yield entry.module, named


def systems() -> tuple[System, ...]:
    """All systems that can be loaded, those of this distribution first."""
    return _found()[0]


def faults() -> tuple[str, ...]:
    """Why packages that should be systems are left out, a sentence each."""
    return _found()[1]


def system(name: str) -> System:
    """The system of a name.

    Raises:
        ConfigurationError: if there is none; names those that there are.
    """
    for known in systems():
        if known.name == name:
            return known
    raise ConfigurationError(f"there is no system {name!r}: there are {', '.join(known.name for known in systems())}")


def secrets(settings: Settings) -> list[str]:
    """What nobody may be shown of these settings, and of those of all systems: keys, and what may be secret in a URL."""
    found: list[str] = []
    for each in (settings, *(known.settings(settings) for known in systems())):
        for name, value in vars(each).items():
            text = value.get_secret_value() if isinstance(value, SecretStr) else value
            found += [text] if isinstance(value, SecretStr) else []
            found += secrets_of(text) if name.endswith("_url") and text else []
    return found


def owners() -> tuple[System, ...]:
    """Whatever owns tables: the systems, and the gateway."""
    return (*systems(), System("gateway", GATEWAY, "The HTTP API."))


def contracts(database: str) -> "tuple[type[Contract], ...]":
    """The contracts of all tables of a database but ledger and quarantine, which each has."""
    return tuple(c for owner in owners() for c in owner.contracts if c.config.database == database)


def contract_of(table: str) -> "type[Contract]":
    """The contract of a table, `schema.table`.

    Raises:
        ContractError: if no system owns it.
    """
    known = {contract.config.table: contract for owner in owners() for contract in owner.contracts}
    if table not in known:
        raise ContractError(f"no system owns the table {table}; known are {', '.join(sorted(known))}")
    return known[table]


def owner_of(table: str) -> System | None:
    """Who owns a table, `schema.table`; None if nobody does."""
    owned = (owner for owner in owners() if any(contract.config.table == table for contract in owner.contracts))
    return next(owned, None)


def databases() -> Mapping[str, Callable[[], Any]]:
    """By name, what gives a database of the systems beside the platform's, by the settings of this process."""
    return {name: make for known in systems() for name, make in known.part("databases", "DATABASES", {}).items()}


@dataclass(frozen=True)
class History:
    """The migrations of one owner in one database.

    Attributes:
        name: of the owner; `core` has ledger and quarantine.
        folder: of the migrations, files `NNNN_subject.py`.
    """

    name: str
    folder: Path

    @property
    def revisions(self) -> Sequence[str]:
        """The numbers of all migrations, in order."""
        return sorted(path.name[:4] for path in self.folder.glob("[0-9][0-9][0-9][0-9]_*.py"))

    @property
    def head(self) -> str:
        """The number of the last migration: known by the names of files, without Alembic."""
        return self.revisions[-1]


@functools.cache
def histories(database: str) -> tuple[History, ...]:
    """The histories of a database, the core's first."""
    core = Path(str(importlib.import_module(f"{CORE}.migrations").__file__)).parent / "versions"
    found = [History("core", core)]
    for owner in owners():
        history = History(owner.name, owner.folder / "migrations" / database)
        if history.folder.is_dir() and history.revisions:
            found.append(history)
    return tuple(found)
