"""Every environment variable of the platform, in one typed object; nothing else reads `os.environ`.

A value comes from the environment, else from `local.env` in the data folder while the local servers that wrote it live
(`make up`), else from its default. Sources have no default. Real and simulated data never mix by accident: the
addresses of the simulators are left out as soon as a database is given by URL or a variable of that source is set.
"""

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from etl_assets.errors import ConfigurationError

LOCAL_ENV = "local.env"
LOCAL_LOCK = "local.lock"


def default_data_dir() -> Path:
    """The data folder when ETL_DATA_DIR is unset: that of DAGSTER_HOME if it is a home of ours, else `var/`.

    `var/` is in the checkout, or in the working directory where the package was installed without one.
    """
    home = os.environ.get("DAGSTER_HOME")
    if home and (Path(home).parent / LOCAL_ENV).is_file():
        return Path(home).parent.absolute()
    checkout = Path(__file__).resolve().parent.parent
    return (checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()) / "var"


def local_servers_live(data_dir: Path) -> bool:
    """Whether the process that wrote `local.env` still holds its lock: proof against a reused process id."""
    try:
        with (data_dir / LOCAL_LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            # Not by closing alone: a thread may have forked a child that shares the lock.
            fcntl.flock(lock, fcntl.LOCK_UN)
    except BlockingIOError:
        return True
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False  # none, or those of another user
    return False


def read_local_env(data_dir: Path) -> dict[str, str]:
    """The variables that the local servers offer, as they are in the file; empty when those servers are gone."""
    if not local_servers_live(data_dir):
        return {}
    try:
        lines = (data_dir / LOCAL_ENV).read_text().splitlines()
    except FileNotFoundError:
        return {}
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def simulated_sources(settings: "Settings") -> dict[str, str]:
    """The variables that name the simulated sources of the local servers; those of databases and brokers are left out."""
    offered = read_local_env(settings.etl_data_dir)
    return {name: value for name, value in offered.items() if not name.startswith("ETL_")}


def postgres_url(value: SecretStr | None) -> SecretStr | None:
    """A URL of a Postgres database, as it was given.

    Raises:
        ValueError: if it is of something else.
    """
    if value and not value.get_secret_value().startswith(("postgresql://", "postgres://")):
        raise ValueError("must begin with postgresql://")
    return value


def split(value: Any) -> Any:
    """The different parts of a comma-separated text."""
    if not isinstance(value, str):
        return value
    return tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))


class LocalServers(PydanticBaseSettingsSource):
    """Values of `local.env` that the environment and the caller leave open."""

    def __init__(self, settings_cls: type[BaseSettings], given: Mapping[str, Any]) -> None:
        super().__init__(settings_cls)
        self._given = given
        self._system: type[Settings] = settings_cls  # type: ignore[assignment]

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError("values are read in one go")

    def __call__(self) -> dict[str, Any]:
        given = {name.upper(): value for name, value in {**os.environ, **self._given}.items() if value}
        data_dir = given.get("ETL_DATA_DIR")
        offered = read_local_env(Path(data_dir).expanduser() if data_dir else default_data_dir())
        own = self._system.own_variables
        own = self._system.source_variables if own is None else own
        if "ETL_POSTGRES_URL" in given or not given.keys().isdisjoint(own):
            offered = {name: value for name, value in offered.items() if name not in self._system.source_variables}
        known = self.settings_cls.model_fields
        return {name.lower(): value for name, value in offered.items() if value and name.lower() in known}


class Settings(BaseSettings):
    """The settings of one process. Read with `load_settings`, which turns a bad value into a clear error.

    What may carry a secret is masked or left out where settings are shown: keys, and URLs with user and password.
    """

    # Variables that say where the source of the system is; the local servers offer them for its simulator.
    source_variables: ClassVar[tuple[str, ...]] = ()
    # Whoever gives one of these has a source or a store of their own: simulated data have no place beside them. By default
    # those of the source.
    own_variables: ClassVar[tuple[str, ...] | None] = None

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True)

    etl_data_dir: Path = Field(default_factory=default_data_dir, description="Data folder of this machine")
    etl_postgres_url: SecretStr | None = Field(None, description="Database; unset: embedded")
    etl_broker_url: SecretStr | None = Field(None, description="Redis or Valkey; unset: embedded")
    etl_storage_url: str | None = Field(None, repr=False, description="Root of the parquet layers; unset: data folder")
    etl_migrate: Literal["auto", "off"] = Field("auto", description="off: stop where a migration is missing")
    etl_executor: Literal["in_process", "multiprocess"] = Field("in_process", description="Where steps run")
    etl_alert_webhook_url: SecretStr | None = Field(None, description="Alerts are posted here; unset: log only")

    etl_repository_url: str | None = Field(
        None,
        repr=False,
        description="Where the code is to be read, for links from the UI; unset: files of this machine",
    )
    etl_repository_revision: str = Field("main", description="Branch, tag or commit that runs, for these links")

    etl_gateway_port: int = Field(5000, ge=0, le=65535, description="Port of the gateway; 0: any that is free")
    etl_gateway_token: SecretStr | None = Field(None, description="Bearer token of the gateway; unset: loopback only")
    etl_trigger_interval_s: float = Field(10, ge=0, le=86400, description="Least time between two triggers")
    dagster_graphql_url: str | None = Field(
        None, repr=False, description="GraphQL API of Dagster; unset: the gateway starts one"
    )

    @field_validator("etl_data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("etl_postgres_url")
    @classmethod
    def _postgres_scheme(cls, value: SecretStr | None) -> SecretStr | None:
        return postgres_url(value)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, LocalServers(settings_cls, init_settings()))

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the settings of this process.

        Args:
            overrides: fields that win over the environment, by field name.

        Raises:
            ConfigurationError: if a value is not valid; names the variable, never the value.
        """
        try:
            return cls(**overrides)
        except ValidationError as error:
            # A fault of two settings together has no location: its message names both.
            faults = "; ".join(
                ": ".join([*(str(n).upper() for n in fault["loc"][:1]), fault["msg"].removeprefix("Value error, ")])
                for fault in error.errors()
            )
            raise ConfigurationError(f"bad setting {faults}") from None

    @property
    def storage_url(self) -> str:
        """Root of the parquet layers: a folder or an fsspec URL."""
        return self.etl_storage_url or str(self.etl_data_dir / "lake")

    @property
    def reports_dir(self) -> Path:
        """Folder of the reports for people, one folder per system."""
        return self.etl_data_dir / "reports"

    def _never_with(self) -> list[str]:
        """The variables of databases beside which simulated data have no place."""
        own = self.own_variables or ()
        return ["ETL_POSTGRES_URL", *(name for name in own if name not in self.source_variables)]

    def required(self, field: str) -> str:
        """The value of a setting without which the caller cannot go on.

        Raises:
            ConfigurationError: if it is unset; names the variable and `make up`.
        """
        value = getattr(self, field)
        if value is None:
            raise ConfigurationError(
                f"{field.upper()} is not set: set it ({type(self).model_fields[field].description}),"
                " or start the local servers and simulators with `make up`"
                f" (they are not used together with {' or '.join(self._never_with())})"
            )
        return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def load_settings(**overrides: Any) -> Settings:
    """The settings that all systems share; as `Settings.load`."""
    return Settings.load(**overrides)
