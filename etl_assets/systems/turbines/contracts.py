"""The tables that the turbines system owns, and the signals of a wind turbine that it knows.

Names of signals are those of IEC 61400-25-2: logical node and data object. Ranges are what a sensor or a turbine can give at all; a value
outside is a fault of the sensor or of the wire, and is flagged.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from etl_assets.core.contracts import Contract, Timestamp, column


@dataclass(frozen=True)
class SourceSignal:
    """One signal of the source.

    Attributes:
        unit: of its values.
        lowest, highest: what can be at all, in that unit.
        tag: logical node and data object of IEC 61400-25-2.
        meaning: for people.
        circular: degrees on the compass, of which 359 and 1 are neighbours.
        resting: values at which the signal may stand still for hours without being frozen.
        spelling: another one, by which some sources know it.
    """

    unit: str
    lowest: float
    highest: float
    tag: str
    meaning: str
    circular: bool = False
    resting: tuple[float, ...] = ()
    spelling: str = ""


SIGNALS: Mapping[str, SourceSignal] = {
    "wind_speed": SourceSignal("m/s", 0, 75, "WMET.HorWdSpd", "Wind speed at the nacelle", resting=(0.0,)),
    "power": SourceSignal("kW", -200, 20_000, "WTUR.W", "Active power of the turbine", resting=(0.0,)),
    "ambient_temperature": SourceSignal(
        "°C", -60, 60, "WMET.EnvTmp", "Temperature of the air outside", spelling="ambient_temprature"
    ),
    "wind_direction": SourceSignal("°", 0, 360, "WMET.HorWdDir", "Direction that the wind comes from", circular=True),
}
DEFAULT_COLUMNS = ("wind_speed", "power")
STATISTICS = ("mean", "min", "max", "std")
FLAGS = ("gap", "duplicate", "out_of_range", "frozen", "spike", "low_coverage")

TURBINE = "Turbine, as the source names it; empty for the only one of a source that knows none"
BIN = "Begin of the bin of ten minutes"


class RawTurbineSignals(Contract):
    """What the source answered for a day: a row per element, in order of time, those of one instant as they came."""

    turbine: str = column(TURBINE)
    position: int = column("Place among the rows of the turbine and day, from 0", ge=0)
    timestamp: Timestamp = column("Instant of the readings, IEC 61400-25 tag T")
    columns_asked: str = column("Columns that the source was asked for, separated by `;`", min_length=1)
    wind_speed: float | None = column("Wind speed at the nacelle, IEC 61400-25 tag WMET.HorWdSpd", unit="m/s")
    power: float | None = column("Active power, IEC 61400-25 tag WTUR.W", unit="kW")
    ambient_temperature: float | None = column(
        "Temperature of the air outside, IEC 61400-25 tag WMET.EnvTmp", unit="°C"
    )
    wind_direction: float | None = column(
        "Direction that the wind comes from, IEC 61400-25 tag WMET.HorWdDir", unit="°"
    )

    class Config:
        table = "turbines.raw_turbine_signals"
        store = "parquet"
        versions_kept = 3
        key = ("turbine", "timestamp", "position")
        partition_by = "timestamp"
        # A run asks for some columns, of some turbines.
        partial_loads = True
        may_be_empty = True


class Signal(Contract):
    """The signals that statistics are kept of: one row per turbine, source signal and statistic."""

    id: int = column("Identity of the signal in this database", ge=1)
    name: str = column("Source signal and statistic, like `wind_speed_mean`", min_length=1)
    turbine: str = column(TURBINE)

    class Config:
        table = "public.signal"
        database = "target"
        key = ("id",)
        may_be_empty = True


class Data(Contract):
    """The statistics: one row per bin of ten minutes and signal."""

    timestamp: Timestamp = column(BIN)
    signal_id: int = column("Signal, the id of table signal", ge=1)
    value: float | None = column(
        "Mean, least, greatest, or sample standard deviation (ddof 1) of the samples in the bin, in the unit of the"
        " source signal; NULL where it is not defined: the deviation of one sample"
    )

    class Config:
        table = "public.data"
        database = "target"
        key = ("timestamp", "signal_id")
        may_be_empty = True


class Bin(Contract):
    """What the statistics of a bin are made of: one row per bin of ten minutes, turbine and source signal."""

    timestamp: Timestamp = column(BIN)
    turbine: str = column(TURBINE)
    source_signal: str = column("Signal of the source, like `wind_speed`", min_length=1)
    n: int = column("Samples with a value", unit="samples", ge=1)
    coverage: float = column("Share of the ten minutes that have a sample", unit="1", gt=0)
    flags: str = column(
        "What is to be known of the samples, separated by `;`: gap, duplicate, out_of_range, frozen, spike, low_coverage;"
        " empty for nothing"
    )

    class Config:
        table = "public.bin"
        database = "target"
        key = ("timestamp", "turbine", "source_signal")
        may_be_empty = True


CONTRACTS = (RawTurbineSignals, Signal, Data, Bin)
