"""The root classes of CAMEO: what an event is at its broadest.

Source: P. A. Schrodt, *CAMEO: Conflict and Mediation Event Observations, Event and Actor Codebook*, version 1.1b3, Pennsylvania State
University 2012, with the names as the feed's own list of event codes has them (`CAMEO.eventcodes.txt`).
"""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

ROOT_CLASSES: Mapping[str, str] = {
    "01": "MAKE PUBLIC STATEMENT",
    "02": "APPEAL",
    "03": "EXPRESS INTENT TO COOPERATE",
    "04": "CONSULT",
    "05": "ENGAGE IN DIPLOMATIC COOPERATION",
    "06": "ENGAGE IN MATERIAL COOPERATION",
    "07": "PROVIDE AID",
    "08": "YIELD",
    "09": "INVESTIGATE",
    "10": "DEMAND",
    "11": "DISAPPROVE",
    "12": "REJECT",
    "13": "THREATEN",
    "14": "PROTEST",
    "15": "EXHIBIT FORCE POSTURE",
    "16": "REDUCE RELATIONS",
    "17": "COERCE",
    "18": "ASSAULT",
    "19": "FIGHT",
    "20": "USE UNCONVENTIONAL MASS VIOLENCE",
}


def root_names(codes: pa.ChunkedArray) -> pa.ChunkedArray:
    """The name of each root code, NULL where it is none of the twenty: `1` is not `01`."""
    places = pc.index_in(codes, value_set=pa.array(ROOT_CLASSES))
    return pc.take(pa.array(ROOT_CLASSES.values()), places)
