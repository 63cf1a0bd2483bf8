"""`etl-assets outages …`: the system as a script."""

import contextlib
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import typer
from pydantic import SecretStr

from etl_assets.core.results import DRY_RUN, say_dry_run, with_json
from etl_assets.systems.outages.settings import OutagesSettings

if TYPE_CHECKING:
    from etl_assets.systems.outages.source import OutagesApi

app = typer.Typer(no_args_is_help=True)


def _instant(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no instant: give one like 2022-01-01T00:00:00Z") from None
    return instant.replace(tzinfo=instant.tzinfo or UTC)


@app.command()
@with_json
def sync(
    sites: list[str] = typer.Argument(help="Sites, as the API names them.", metavar="SITE..."),
    since: str | None = typer.Option(
        None, help="Outages that began from this instant (UTC unless it says otherwise) instead of 2022-01-01."
    ),
    simulate: bool = typer.Option(False, "--simulate", help="Ask a simulator instead of OUTAGES_API_URL."),
    dry_run: bool = DRY_RUN,
) -> object:
    """Fetch, map, store and deliver the outages of sites. A dry run sends nothing."""
    from etl_assets.core.servers import platform_database
    from etl_assets.systems.outages.script import sync_sites

    began_from = _instant(since)
    settings = OutagesSettings.load()
    done = []
    database = platform_database(settings)
    if dry_run:
        database = database.for_dry_run()
        say_dry_run()
    with _api(settings, simulate=simulate) as api:
        for result in sync_sites(sites, since=began_from, settings=settings, database=database, api=api):
            done.append(result)
            delivered = f"{result.delivered} delivered" if result.delivered else "nothing to deliver, no POST"
            if dry_run:
                delivered = f"{result.pending} would be delivered"
            newest = f", newest delivery {result.watermark:%Y-%m-%d %H:%M:%S} UTC" if result.watermark else ""
            print(f"{result.site}: {result.outages} outages, {delivered}{newest}")
            if result.new:
                said = "is new, nothing was stored of it before: see whether its name is right"
                print(f"{result.site}: {said}", file=sys.stderr)
    quarantined, flagged = sum(one.quarantined for one in done), sum(one.flagged for one in done)
    if quarantined or flagged:
        print(
            f"{quarantined} rows in quarantine, {flagged} loaded with a remark: see `etl-assets quarantine list`",
            file=sys.stderr,
        )
    return {"dry_run": dry_run, "sites": done}


@app.command()
@with_json
def add(sites: list[str] = typer.Argument(help="Sites, as the API names them.", metavar="SITE...")) -> object:
    """Add sites to the partitions of the Dagster instance at DAGSTER_HOME, as the sensor does with those of OUTAGES_SITES."""
    from etl_assets.core.dagster.instance import instance_at_home
    from etl_assets.systems.outages.assets import SITES_NAME
    from etl_assets.systems.outages.contracts import require_sites

    require_sites(sites)
    with instance_at_home() as instance:
        known = set(instance.get_dynamic_partitions(SITES_NAME))
        instance.add_dynamic_partitions(SITES_NAME, list(dict.fromkeys(sites)))
    for site in dict.fromkeys(sites):
        print(f"{site}: {'was there already' if site in known else 'added'}")
    return {"added": [site for site in dict.fromkeys(sites) if site not in known]}


@app.command()
@with_json
def disputed() -> object:
    """List the disputed deliveries, with their outages by place."""
    from etl_assets.core.servers import platform_database
    from etl_assets.systems.outages.delivery import disputed_deliveries

    found = disputed_deliveries(platform_database(OutagesSettings.load()))
    if not found:
        print("no delivery is disputed")
    for batch in found:
        print(f"{batch.batch_key[:12]} {batch.site_id}: {batch.response}")
        for place, row in enumerate(batch.rows, start=1):
            print(f"{place:>6}  {row['id']}  {row['name']}  {row['begin']}  {row['end']}")
    return {
        "deliveries": [
            {"key": batch.batch_key, "site": batch.site_id, "answer": batch.response, "outages": batch.rows}
            for batch in found
        ]
    }


@app.command()
@with_json
def settle(
    batch: str = typer.Argument(help="Beginning of the delivery's key."),
    taken: Literal["delivered", "pending"] = typer.Option(
        ..., "--as", help="delivered: the API took it; pending: it did not, send its outages again."
    ),
    others: list[int] = typer.Option(
        [],
        "--except",
        metavar="N",
        help="Place of an outage of which the other is true, as `disputed` lists them; repeat.",
    ),
) -> object:
    """Settle a disputed delivery as the API's owner says, in whole or outage by outage."""
    from etl_assets.core.servers import platform_database
    from etl_assets.systems.outages.delivery import settle_by_hand

    database = platform_database(OutagesSettings.load())
    settled, count = settle_by_hand(database, batch, delivered=taken == "delivered", others=others)
    now = "1 outage" if count == 1 else f"{count} outages"
    verb = "is" if count == 1 else "are"
    print(f"{now} of {settled.site_id} {verb} now delivered, {settled.outages - count} pending")
    return {"site": settled.site_id, "delivered": count, "pending": settled.outages - count}


@contextlib.contextmanager
def _api(settings: OutagesSettings, *, simulate: bool) -> "Iterator[OutagesApi]":
    from etl_assets.systems.outages.source import OutagesApi

    if not simulate:
        yield OutagesApi.from_settings(settings)
        return
    from etl_assets.systems.outages.local import simulated

    with simulated(settings) as offered:
        yield OutagesApi(offered["OUTAGES_API_URL"], SecretStr(offered["OUTAGES_API_KEY"]))
