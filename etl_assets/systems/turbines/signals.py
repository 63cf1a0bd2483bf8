"""The signals of a wind turbine that we know: unit, physical range, how they are averaged, and their name in the field.

Names are those of IEC 61400-25-2: logical node and data object. Ranges are what a sensor or a turbine can give at all; a value
outside is a fault of the sensor or of the wire, and is flagged.
"""

from collections.abc import Mapping
from dataclasses import dataclass


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
    """

    unit: str
    lowest: float
    highest: float
    tag: str
    meaning: str
    circular: bool = False
    resting: tuple[float, ...] = ()


SIGNALS: Mapping[str, SourceSignal] = {
    "wind_speed": SourceSignal("m/s", 0, 75, "WMET.HorWdSpd", "Wind speed at the nacelle", resting=(0.0,)),
    "power": SourceSignal("kW", -200, 20_000, "WTUR.W", "Active power of the turbine", resting=(0.0,)),
    "ambient_temperature": SourceSignal("°C", -60, 60, "WMET.EnvTmp", "Temperature of the air outside"),
    "wind_direction": SourceSignal("°", 0, 360, "WMET.HorWdDir", "Direction that the wind comes from", circular=True),
}
DEFAULT_COLUMNS = ("wind_speed", "power")
STATISTICS = ("mean", "min", "max", "std")
FLAGS = ("gap", "duplicate", "out_of_range", "frozen", "spike", "low_coverage")
