"""The command `etl-assets`: the platform without an orchestrator, and its local life.

Exit codes: 0 done (also with rows in quarantine, which one line on stderr says), 1 failed, 2 wrong usage or refused
input. No traceback without `--debug`.
"""

import logging
import sys
from typing import NoReturn

import click
import typer

from etl_assets.cli import gateway, quarantine, simulate
from etl_assets.errors import ConfigurationError, PlatformError
from etl_assets.local import background as local
from etl_assets.local import demo
from etl_assets.local import doctor as maintenance
from etl_assets.systems.events import commands as events
from etl_assets.systems.experiments import commands as experiments
from etl_assets.systems.outages import commands as outages
from etl_assets.systems.production import commands as production
from etl_assets.systems.turbines import commands as turbines

app = typer.Typer(
    name="etl-assets",
    help="A Dagster asset platform for operational data.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
local.register(app)
demo.register(app)
maintenance.register(app)
app.add_typer(quarantine.app, name="quarantine", help="Rows that broke their contract, and rows with a remark.")
app.add_typer(simulate.app, name="simulate", help="Simulated sources: APIs in the foreground, or files.")
app.add_typer(outages.app, name="outages", help="Outages of sites: fetch, map, store, deliver.")
app.add_typer(production.app, name="production")
app.add_typer(experiments.app, name="experiments")
app.add_typer(turbines.app, name="turbines")
app.add_typer(events.app, name="events")
app.command("relay")(production.relay)
app.command("gateway")(gateway.gateway)


def main() -> NoReturn:
    """Run the command line of this process."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s %(message)s")
    sys.exit(run(arguments, debug=debug))


def run(arguments: list[str], *, debug: bool = False) -> int:
    """Run a command line and give its exit code.

    Args:
        debug: let unexpected exceptions through, with their traceback.
    """
    if arguments[:2] == ["turbines", "load"]:
        arguments = turbines.expanded(arguments)
    try:
        code = app(arguments, prog_name="etl-assets", standalone_mode=False)
    except click.exceptions.Abort:
        return 130
    except click.ClickException as error:
        error.show()
        return 2
    except PlatformError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigurationError) else 1
    except Exception as error:
        if debug:
            raise
        print(f"error: unexpected {type(error).__name__}: {error} (--debug shows where)", file=sys.stderr)
        return 1
    return code if isinstance(code, int) else 0
