"""Every environment variable of the platform, in one typed object; nothing else reads `os.environ`.

A value comes from the environment, else from `local.env` in the data folder while the local servers that wrote it live
(`make up`), else from its default. Sources have no default. Real and simulated data never mix by accident: the
addresses of the simulators are left out as soon as a database is given by URL or a variable of that source is set.
"""

import fcntl
import os
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from etl_assets.errors import ConfigurationError

LOCAL_ENV = "local.env"
LOCAL_LOCK = "local.lock"
# Variables that say where a source is; local.env offers them for its simulators.
SOURCE_VARIABLES = {
    "outages": ("OUTAGES_API_URL", "OUTAGES_API_KEY"),
    "production": ("PRODUCTION_API_URL",),
    "experiments": ("EXPERIMENTS_DIR",),
    "turbines": ("TURBINES_API_URL", "TURBINES_START_DATE", "TURBINES_END_DATE"),
    "events": ("EVENTS_FEED_URL", "EVENTS_START_DATE"),
}
# Whoever gives one of these has a source or a store of their own: simulated data have no place beside them.
OWN = {
    **SOURCE_VARIABLES,
    "turbines": ("TURBINES_API_URL", "TURBINES_TARGET_URL"),
    "events": ("EVENTS_FEED_URL",),
}


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


def _split(value: Any) -> Any:
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
        for system, variables in OWN.items():
            if "ETL_POSTGRES_URL" in given or not given.keys().isdisjoint(variables):
                offered = {name: value for name, value in offered.items() if name not in SOURCE_VARIABLES[system]}
        own = {*self._system.source_variables, *self._system.own_variables}
        if "ETL_POSTGRES_URL" in given or not own.isdisjoint(given):
            offered = {name: value for name, value in offered.items() if name not in self._system.source_variables}
        known = self.settings_cls.model_fields
        return {name.lower(): value for name, value in offered.items() if value and name.lower() in known}


class Settings(BaseSettings):
    """The settings of one process. Read with `load_settings`, which turns a bad value into a clear error.

    What may carry a secret is masked or left out where settings are shown: keys, and URLs with user and password.
    """

    # Variables that say where the source of the system is; the local servers offer them for its simulator.
    source_variables: ClassVar[tuple[str, ...]] = ()
    # Further variables that give a source or a store of one's own: simulated data have no place beside them.
    own_variables: ClassVar[tuple[str, ...]] = ()

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True)

    etl_data_dir: Path = Field(default_factory=default_data_dir, description="Data folder of this machine")
    etl_postgres_url: SecretStr | None = Field(None, description="Database; unset: embedded")
    etl_broker_url: SecretStr | None = Field(None, description="Redis or Valkey; unset: embedded")
    etl_storage_url: str | None = Field(None, repr=False, description="Root of the parquet layers; unset: data folder")
    etl_migrate: Literal["auto", "off"] = Field("auto", description="off: stop where a migration is missing")
    etl_executor: Literal["in_process", "multiprocess"] = Field("in_process", description="Where steps run")
    etl_alert_webhook_url: SecretStr | None = Field(None, description="Alerts are posted here; unset: log only")

    outages_api_url: str | None = Field(None, repr=False, description="Base URL of the outage API")
    outages_api_key: SecretStr | None = Field(None, description="Key of the outage API, sent as x-api-key")
    outages_sites: Annotated[tuple[str, ...], NoDecode] = Field(
        ("norwich-pear-tree", "kingfisher"), description="Sites to follow, comma-separated"
    )

    production_api_url: str | None = Field(None, repr=False, description="Base URL of the two production streams")
    production_metrics_file: Path | None = Field(None, description="File that our metrics API serves; unset: generated")
    production_workorders_file: Path | None = Field(
        None, description="File that our work order API serves; unset: generated"
    )

    experiments_dir: Path | None = Field(None, description="Folder with the three files of the experiments")

    events_feed_url: str = Field(
        "http://data.gdeltproject.org/gdeltv2", repr=False, description="Folder of the feed's lists and files"
    )
    events_us_rule: Literal["country_code", "bounding_box"] = Field(
        "country_code", description="Which events are US events"
    )
    events_us_country_codes: Annotated[tuple[str, ...], NoDecode] = Field(
        ("US",), description="Countries of US events, FIPS 10-4, comma-separated: RQ is Puerto Rico, GM Germany"
    )
    events_start_date: date = Field(
        date(2015, 2, 18),
        ge=date(2015, 1, 1),
        description="First day of the events, not before the year of the feed's first",
    )
    events_late_hours: int = Field(24, ge=1, le=720, description="So long after its interval the feed may bring a file")

    turbines_api_url: str | None = Field(None, repr=False, description="Base URL of the API of 1-minute signals")
    turbines_target_url: SecretStr | None = Field(
        None, description="Database of the 10-minute statistics; unset: `alvo`, beside the platform's"
    )
    turbines: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Turbines to ask for, comma-separated; unset: the source has one and knows no names"
    )
    turbines_zone: str = Field("UTC", description="Zone of the source's timestamps, a name like Europe/Lisbon")
    turbines_start_date: date = Field(date(2024, 5, 20), description="First day of the statistics")
    turbines_end_date: date | None = Field(None, description="Last day of the statistics; unset: yesterday")

    etl_gateway_port: int = Field(5000, ge=0, le=65535, description="Port of the gateway; 0: any that is free")
    etl_gateway_token: SecretStr | None = Field(None, description="Bearer token of the gateway; unset: loopback only")
    etl_trigger_interval_s: float = Field(10, ge=0, le=86400, description="Least time between two triggers")
    dagster_graphql_url: str | None = Field(
        None, repr=False, description="GraphQL API of Dagster; unset: the gateway starts one"
    )

    @field_validator("outages_sites", mode="before")
    @classmethod
    def _split_list(cls, value: Any) -> Any:
        value = _split(value)
        if not value:
            raise ValueError("must name at least one site")
        return value

    @field_validator("turbines", "events_us_country_codes", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        return _split(value)

    @field_validator("turbines_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError("must be a name like UTC or Europe/Lisbon") from None
        return value

    @model_validator(mode="after")
    def _end_after_start(self) -> "Settings":
        if self.turbines_end_date is not None and self.turbines_end_date < self.turbines_start_date:
            raise ValueError("TURBINES_END_DATE is before TURBINES_START_DATE")
        return self

    @field_validator("etl_data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("etl_postgres_url", "turbines_target_url")
    @classmethod
    def _postgres_scheme(cls, value: SecretStr | None) -> SecretStr | None:
        if value and not value.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("must begin with postgresql://")
        return value

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
                " (they are not used together with ETL_POSTGRES_URL or TURBINES_TARGET_URL)"
            )
        return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def load_settings(**overrides: Any) -> Settings:
    """The settings that all systems share; as `Settings.load`."""
    return Settings.load(**overrides)
