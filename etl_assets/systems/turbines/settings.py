"""The environment variables of the turbines system."""

import math
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Annotated, Any, ClassVar, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import NoDecode

from etl_assets.settings import Settings, postgres_url, split
from etl_assets.systems.turbines.contracts import SIGNALS


def _known_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):  # the last for a folder of zones, such as Europe
        raise ValueError("must be a name like UTC or Europe/Lisbon") from None
    return value


def _values_by_signal(given: Any) -> Any:
    """`-999, wind_direction=9999` as values by signal."""
    if not isinstance(given, str):
        return given
    found: dict[str, set[float]] = {name: set() for name in SIGNALS}
    for part in split(given):
        name, equals, text = part.rpartition("=")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or (equals and name.strip() not in SIGNALS):
            raise ValueError(
                f"{part!r} must be a number, or a signal and a number, like -999 or wind_direction=9999; signals are"
                f" {', '.join(SIGNALS)}"
            )
        for signal in [name.strip()] if equals else SIGNALS:
            found[signal].add(value)
    return {name: tuple(sorted(values)) for name, values in found.items() if values}


class TurbinesSettings(Settings):
    """Settings of one process that runs the turbines system."""

    source_variables: ClassVar[tuple[str, ...]] = ("TURBINES_API_URL", "TURBINES_START_DATE", "TURBINES_END_DATE")
    own_variables: ClassVar[tuple[str, ...] | None] = ("TURBINES_API_URL", "TURBINES_TARGET_URL")

    turbines_api_url: str | None = Field(None, repr=False, description="Base URL of the API of 1-minute signals")
    turbines_target_url: Annotated[SecretStr | None, AfterValidator(postgres_url)] = Field(
        None, description="Database of the 10-minute statistics; unset: `alvo`, beside the platform's"
    )
    turbines: Annotated[tuple[str, ...], NoDecode, BeforeValidator(split)] = Field(
        (), description="Turbines to ask for, comma-separated; unset: the source has one and knows no names"
    )
    turbines_zone: Annotated[str, AfterValidator(_known_zone)] = Field(
        "UTC", description="Zone of the source's timestamps, a name like Europe/Lisbon"
    )
    turbines_label: Literal["begin", "end"] = Field(
        "begin", description="Whether the source labels a minute by its begin or by its end"
    )
    turbines_no_value: Annotated[Mapping[str, tuple[float, ...]], NoDecode, BeforeValidator(_values_by_signal)] = Field(
        {},
        description="Values that stand for none, comma-separated, of all signals or of one: `-999, wind_direction=9999`",
    )
    turbines_name_field: str = Field(
        "turbine", min_length=1, description="Field in which a row of the source names its turbine, where it does"
    )
    turbines_start_date: date = Field(date(2024, 5, 20), description="First day of the statistics")
    turbines_end_date: date | None = Field(None, description="Last day of the statistics; unset: yesterday")

    @property
    def late(self) -> timedelta:
        """How much later than a minute begins its row is labelled."""
        return timedelta(minutes=self.turbines_label == "end")

    @model_validator(mode="after")
    def _end_after_start(self) -> Self:
        if self.turbines_end_date is not None and self.turbines_end_date < self.turbines_start_date:
            raise ValueError("TURBINES_END_DATE is before TURBINES_START_DATE")
        return self


SETTINGS = TurbinesSettings
