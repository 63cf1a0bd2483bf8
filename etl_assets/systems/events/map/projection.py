"""Where a place of the United States is in the picture: equal-area projections, one for each of four frames.

Alaska, Hawaii and Puerto Rico are far from the rest, so each has a frame of its own, at a scale of its own. Within a frame
areas are true: a crowd of points is as dense as the events are, wherever it is.

Snyder, J. P. (1987), Map Projections: A Working Manual, U.S. Geological Survey Professional Paper 1395, pages 98-103: the
formulas for the sphere, and the standard parallels for the states in one piece, for Alaska and for Hawaii. Those of Hawaii do
for Puerto Rico, which is at its latitude.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

EARTH_KM = 6371.0072  # radius of the sphere with the area of the ellipsoid
WIDTH, HEIGHT = 766.0, 486.0
PX_PER_KM = WIDTH / 4820


@dataclass(frozen=True)
class Albers:
    """An equal-area conic projection of the sphere of radius 1; angles in degrees, north and east positive."""

    parallels: tuple[float, float]
    latitude: float
    longitude: float

    def __call__(self, latitudes: Numbers, longitudes: Numbers) -> tuple[Numbers, Numbers]:
        """Places as x to the east and y to the north of the origin; across the date line on the shorter way."""
        first, second = np.radians(self.parallels)
        n = (np.sin(first) + np.sin(second)) / 2
        c = np.cos(first) ** 2 + 2 * n * np.sin(first)
        rho = np.sqrt(c - 2 * n * np.sin(np.radians(latitudes))) / n
        rho_of_origin = np.sqrt(c - 2 * n * np.sin(np.radians(self.latitude))) / n
        theta = n * np.radians((longitudes - self.longitude + 180) % 360 - 180)
        return rho * np.sin(theta), rho_of_origin - rho * np.cos(theta)


@dataclass(frozen=True)
class Frame:
    """A part of the picture with a projection of its own.

    Attributes:
        south, north, west, east: which places belong to it, in degrees; west may be beyond the date line.
        left, top, width, height: where it is in the picture, in pixels.
        centre: what is in its middle, in kilometres from the origin of the projection.
        scale: how much larger it is drawn than the largest frame.
    """

    name: str
    albers: Albers
    south: float
    north: float
    west: float
    east: float
    left: float
    top: float
    width: float
    height: float
    centre: tuple[float, float]
    scale: float = 1.0

    def has(self, latitudes: Numbers, longitudes: Numbers) -> npt.NDArray[np.bool_]:
        """Which places belong to it."""
        along = (longitudes - self.west) % 360 <= (self.east - self.west) % 360
        return np.asarray((latitudes >= self.south) & (latitudes <= self.north) & along)

    def covers(self, x: Numbers, y: Numbers) -> npt.NDArray[np.bool_]:
        """Which points of the picture are in it."""
        across, down = x - self.left, y - self.top
        return np.asarray((across >= 0) & (across <= self.width) & (down >= 0) & (down <= self.height))

    def points(self, latitudes: Numbers, longitudes: Numbers) -> tuple[Numbers, Numbers]:
        """Places as points of the picture, in pixels from its upper left corner."""
        x, y = self.albers(latitudes, longitudes)
        px = PX_PER_KM * self.scale
        return (
            self.left + self.width / 2 + (x * EARTH_KM - self.centre[0]) * px,
            self.top + self.height / 2 - (y * EARTH_KM - self.centre[1]) * px,
        )


MAINLAND = Frame(
    "United States", Albers((29.5, 45.5), 37.5, -96), 24.3, 49.5, -125.1, -66.8, 0, 0, WIDTH, HEIGHT, (-10, 50)
)  # fmt: skip
INSETS = (
    Frame("Alaska", Albers((55, 65), 50, -154), 51, 71.6, 172, -129.9, 0, 376, 194, 110, (-340, 1420), 0.325),
    Frame("Hawaii", Albers((8, 18), 13, -157), 18.7, 22.5, -160.6, -154.5, 198, 414, 112, 72, (-52, 846), 1.05),
    Frame("Puerto Rico", Albers((8, 18), 13, -66), 17.5, 18.7, -68.1, -64.3, 660, 432, 106, 54, (-22, 595), 1.55),
)
FRAMES = (*INSETS, MAINLAND)


def placed(latitudes: Numbers, longitudes: Numbers) -> tuple[Numbers, Numbers, npt.NDArray[np.int64]]:
    """Places as points of the picture, in pixels from its upper left corner, and the frame of each as its place in FRAMES.

    A place that is in no frame has -1 for it and NaN for a point.
    """
    x, y = np.full(len(latitudes), np.nan), np.full(len(latitudes), np.nan)
    frames = np.full(len(latitudes), -1, np.int64)
    for number, frame in enumerate(FRAMES):
        inside = frame.has(latitudes, longitudes)
        across, down = frame.points(latitudes[inside], longitudes[inside])
        seen = frame.covers(across, down)
        if frame is MAINLAND:
            # The insets lie over Mexico and the sea: what is under them cannot be seen.
            seen &= ~np.logical_or.reduce([inset.covers(across, down) for inset in INSETS])
        places = np.flatnonzero(inside)[seen]
        x[places], y[places], frames[places] = across[seen], down[seen], number
    return x, y, frames
