"""What the answer to a POST means to a batch: one table, by status.

| answer | nothing of the batch can have arrived before | an attempt may have arrived |
|---|---|---|
| 2xx but 207, whatever becomes of its body | delivered | delivered |
| 207: some of the outages were taken, or none | disputed | disputed |
| 409, with `OUTAGES_CONFLICT_MEANS=in_progress` | frozen, and arrived; disputed when that does not end | the same |
| 409, with `OUTAGES_CONFLICT_MEANS=delivered` | delivered | delivered |
| 413 | refused, and its outages go out in smaller batches; one alone stays refused | disputed |
| 401, 403, 404, 407, 307, 308: it is about us or the address, not about the payload | frozen | frozen |
| 408, 425, 429, 5xx, no answer | frozen | frozen |
| 405, 501, 505 and every other | refused | disputed |

Whether an attempt may have arrived the client says, attempt by attempt (`etl_assets.core.sources.http.outcomes`); its answer
to a success is one with a status of 2xx. Frozen is to be sent again, with the same key: where the API ignores keys, what may
have arrived is disputed instead. Nothing here opens a connection.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class Meaning:
    """What becomes of a batch with an answer; each is one of its kind, whatever it has in common with others.

    Attributes:
        clear: its state if nothing of it can have arrived before.
        unclear: its state if an attempt may have arrived.
    """

    clear: str
    unclear: str


TAKEN = Meaning("delivered", "delivered")
IN_PART = Meaning("disputed", "disputed")
IN_PROGRESS = Meaning("frozen", "frozen")
TOO_LARGE = Meaning("refused", "disputed")
NOT_ABOUT_THE_PAYLOAD = Meaning("frozen", "frozen")
LATER = Meaning("frozen", "frozen")
REFUSED = Meaning("refused", "disputed")

# A later row takes the place of an earlier one; no status is no answer.
ANSWERS: Mapping[int | None, Meaning] = {
    **dict.fromkeys(range(100, 600), REFUSED),
    **dict.fromkeys(range(200, 300), TAKEN),
    **dict.fromkeys(range(500, 600), LATER),
    **dict.fromkeys((501, 505), REFUSED),
    **dict.fromkeys((408, 425, 429, None), LATER),
    **dict.fromkeys((307, 308, 401, 403, 404, 407), NOT_ABOUT_THE_PAYLOAD),
    207: IN_PART,
    413: TOO_LARGE,
}
CONFLICTS: Mapping[str, Meaning] = {"in_progress": IN_PROGRESS, "delivered": TAKEN}


def meaning_of(status: int | None, *, conflict_means: str) -> Meaning:
    """The row of the table.

    Args:
        conflict_means: the setting `OUTAGES_CONFLICT_MEANS`.
    """
    return {**ANSWERS, 409: CONFLICTS[conflict_means]}.get(status, REFUSED)
