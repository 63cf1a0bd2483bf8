"""An outage is delivered once by its instants, however its times are spelled.

What was delivered, and what is to be, gets the key of today; open batches keep theirs, and their payload. Of delivered outages that
are one by the new identity the first stays, and the batch of the other says that it is left out.

Times are read by the parser of the contracts, imported and not copied: the keys must be those that the code of the day makes of the
same text. The hash is of this revision.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd
from alembic import op

from etl_assets.core.contracts.cast import cast_column
from etl_assets.core.contracts.contract import Column, Kind

revision = "0002"
down_revision = "0001"

Row = tuple[str, str, str, str]


def upgrade() -> None:
    connection = op.get_bind().connection.driver_connection
    sites = _locked_sites(connection)
    op.execute(
        "COMMENT ON COLUMN outages.delivered_site_outages.\"delivery_key\" IS 'Hash of site, device, name and the instants of begin and end'"
    )
    op.execute('ALTER TABLE outages.delivery_batches DROP CONSTRAINT "delivery_batches_state_isin"')
    op.execute('ALTER TABLE outages.delivery_batches ADD COLUMN "conflicts" bigint NOT NULL DEFAULT 0')
    op.execute('ALTER TABLE outages.delivery_batches ALTER COLUMN "conflicts" DROP DEFAULT')
    op.execute('ALTER TABLE outages.delivery_batches ADD COLUMN "left_out" bigint NOT NULL DEFAULT 0')
    op.execute('ALTER TABLE outages.delivery_batches ALTER COLUMN "left_out" DROP DEFAULT')
    op.execute(
        'ALTER TABLE outages.delivery_batches ADD CONSTRAINT "delivery_batches_conflicts_ge" CHECK ((conflicts >= 0))'
    )
    op.execute(
        'ALTER TABLE outages.delivery_batches ADD CONSTRAINT "delivery_batches_left_out_ge" CHECK ((left_out >= 0))'
    )
    op.execute(
        "ALTER TABLE outages.delivery_batches ADD CONSTRAINT \"delivery_batches_state_isin\" CHECK ((state = ANY (ARRAY['frozen'::text, 'delivered'::text, 'refused'::text, 'thawed'::text, 'disputed'::text])))"
    )
    op.execute(
        "COMMENT ON COLUMN outages.delivery_batches.\"batch_key\" IS 'Hash of site and payload: the Idempotency-Key of the POST'"
    )
    op.execute(
        "COMMENT ON COLUMN outages.delivery_batches.\"conflicts\" IS 'Calls in a row that ended with a 409 for a request in progress'"
    )
    op.execute(
        "COMMENT ON COLUMN outages.delivery_batches.\"left_out\" IS 'Outages of the batch that it does not stand for: settled as not taken, or delivered with another batch under another spelling [rows]'"
    )
    op.execute(
        "COMMENT ON COLUMN outages.delivery_batches.\"state\" IS 'frozen: to be sent; delivered: acknowledged; refused: not taken, its outages are free again; thawed: nothing of it arrived before the source changed; disputed: somebody must say which of its outages were taken'"
    )
    for site in sites:
        delivered = _delivered(connection, site)
        _open_batches(connection, site, delivered)
        _site_outages(connection, site)
    op.execute('ALTER TABLE outages.site_outages DROP CONSTRAINT "site_outages_pkey"')
    op.execute(
        'ALTER TABLE outages.site_outages ADD CONSTRAINT "site_outages_pkey" PRIMARY KEY (site_id, device_id, begin_at, end_at)'
    )
    op.execute(
        "COMMENT ON COLUMN outages.site_outages.\"delivery_key\" IS 'Hash of site, device, name and the instants of begin and end: what is delivered once'"
    )


def _locked_sites(connection: Any) -> list[str]:
    """All sites, when nobody sends for them any more: who is amid a POST would record it by the old identity."""
    found = connection.execute(
        "SELECT site_id, pg_advisory_xact_lock(hashtextextended('outages delivery ' || site_id, 0)) FROM ("
        " SELECT site_id FROM outages.site_outages UNION SELECT site_id FROM outages.delivery_batches"
        " UNION SELECT site_id FROM outages.delivered_site_outages ORDER BY 1) AS sites"
    ).fetchall()
    return [site for site, _ in found]


def _delivered(connection: Any, site: str) -> set[str]:
    """Give what was delivered its new keys, and return them."""
    rows = connection.execute(
        "SELECT delivery_key, batch_key, device_id, name, begin_text, end_text FROM outages.delivered_site_outages"
        " WHERE site_id = %s ORDER BY delivered_at, delivery_key",
        (site,),
    ).fetchall()
    renamed: dict[str, str] = {}
    twice: list[tuple[str, str]] = []
    for (old, batch, *_), new in zip(rows, _keys(site, [row[2:] for row in rows]), strict=True):
        # Times that nobody can read any more belong to no outage that could come again.
        new = new or old
        if new in renamed:
            twice.append((old, batch))
        else:
            renamed[new] = old
    with connection.cursor() as cursor:
        cursor.executemany("DELETE FROM outages.delivered_site_outages WHERE delivery_key = %s", [t[:1] for t in twice])
        cursor.executemany(
            "UPDATE outages.delivered_site_outages SET delivery_key = %s WHERE delivery_key = %s", list(renamed.items())
        )
        cursor.executemany(
            "UPDATE outages.delivery_batches SET left_out = left_out + %s WHERE batch_key = %s",
            [(count, batch) for batch, count in Counter(batch for _, batch in twice).items()],
        )
    return set(renamed)


def _open_batches(connection: Any, site: str, delivered: set[str]) -> None:
    """Let open batches say which of their outages were delivered before, or stand in them twice."""
    rows = connection.execute(
        "SELECT batch_key, body FROM outages.delivery_batches WHERE site_id = %s AND state IN ('frozen', 'disputed')",
        (site,),
    ).fetchall()
    for batch, body in rows:
        try:
            outages = [(row["id"], row["name"], row["begin"], row["end"]) for row in json.loads(body)]
        except (ValueError, TypeError, KeyError):
            continue  # no payload of ours: whoever put it there has to settle it
        keys = _keys(site, outages)
        connection.execute(
            "UPDATE outages.delivery_batches SET left_out = %s WHERE batch_key = %s",
            (len(keys) - len(set(keys) - delivered), batch),
        )


def _site_outages(connection: Any, site: str) -> None:
    """Keep the first spelling of each outage, and give it its new key."""
    connection.execute(
        "DELETE FROM outages.site_outages AS o USING (SELECT device_id, begin_text, end_text, row_number() OVER"
        " (PARTITION BY device_id, begin_at, end_at ORDER BY position, begin_text, end_text) AS number"
        " FROM outages.site_outages WHERE site_id = %(site)s) AS n WHERE o.site_id = %(site)s AND n.number > 1"
        " AND (o.device_id, o.begin_text, o.end_text) = (n.device_id, n.begin_text, n.end_text)",
        {"site": site},
    )
    rows = connection.execute(
        "SELECT device_id, begin_text, end_text, name, (extract(epoch FROM begin_at) * 1000000)::bigint,"
        " (extract(epoch FROM end_at) * 1000000)::bigint FROM outages.site_outages WHERE site_id = %s",
        (site,),
    ).fetchall()
    with connection.cursor() as cursor:
        cursor.executemany(
            "UPDATE outages.site_outages SET delivery_key = %s"
            " WHERE site_id = %s AND device_id = %s AND begin_text = %s AND end_text = %s",
            [
                (_key(site, device, begin, end, name), site, device, begin_text, end_text)
                for device, begin_text, end_text, name, begin, end in rows
            ],
        )


def _keys(site: str, rows: Sequence[Row]) -> list[str | None]:
    """The keys of outages: device, name, begin, end as text; None where a time cannot be read."""
    begins, ends = (_microseconds([row[at] for row in rows]) for at in (2, 3))
    return [
        None if begin is None or end is None else _key(site, device, begin, end, name)
        for (device, name, _, _), begin, end in zip(rows, begins, ends, strict=True)
    ]


def _microseconds(texts: Sequence[str]) -> list[int | None]:
    read = cast_column(pd.Series(texts, dtype=object), Column("Time of an outage", name="time", kind=Kind.TIMESTAMP))
    return read.values.cast("int64").to_pylist()


def _key(site: str, device: str, begin: int, end: int, name: str) -> str:
    return hashlib.sha256(json.dumps([site, device, begin, end, name]).encode()).hexdigest()
