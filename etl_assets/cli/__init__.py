"""The command `etl-assets`: the platform without an orchestrator, and its local life.

Exit codes: 0 done (also with rows in quarantine, which one line on stderr says), 1 failed, 2 wrong usage or refused
input. No traceback without `--debug`.
"""

import contextlib
import logging
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import NoReturn

import click
import typer

from etl_assets.cli import gateway, ledger, quarantine
from etl_assets.core import registry
from etl_assets.core.progress import watched
from etl_assets.errors import ConfigurationError, PlatformError, of_system
from etl_assets.local import background, demo, doctor, migrations, new_system
from etl_assets.redaction import hidden, public_urls
from etl_assets.settings import load_settings

SHORTEST_SECRET = 8

app = typer.Typer(
    name="etl-assets",
    help="A Dagster asset platform for operational data.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
LOCAL, SYSTEMS, KEPT, MADE = "On one machine", "Systems", "What is stored", "What you make"


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"etl-assets {version('etl-assets')}")
        raise typer.Exit()


@app.callback()
def root(
    _version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version and end."
    ),
    _debug: bool = typer.Option(False, "--debug", help="Let exceptions through with their traceback, log everything."),
) -> None:
    """A Dagster asset platform for operational data."""


simulate = typer.Typer(no_args_is_help=True, help="Simulated sources: APIs in the foreground, or files.")
app.command("up", rich_help_panel=LOCAL)(background.up)
app.command("down", rich_help_panel=LOCAL)(background.down)
app.command("supervise", hidden=True)(background.supervise)
app.command("demo", rich_help_panel=LOCAL)(demo.demo_command)
app.command("dev", rich_help_panel=LOCAL)(demo.dev_command)
app.command("doctor", rich_help_panel=LOCAL)(doctor.doctor)
app.command("migrate", rich_help_panel=KEPT)(migrations.migrate)
app.add_typer(migrations.migrations, name="migrations", rich_help_panel=MADE)
app.command("new-system", rich_help_panel=MADE)(new_system.new_system)
app.command("gateway", rich_help_panel=SYSTEMS)(gateway.gateway)
app.add_typer(
    quarantine.app,
    name="quarantine",
    help="Rows that broke their contract, and rows with a remark.",
    rich_help_panel=KEPT,
)
app.add_typer(ledger.app, name="ledger", help="What was written when, from what, by whom.", rich_help_panel=KEPT)
app.add_typer(simulate, name="simulate", rich_help_panel=LOCAL)
for system in registry.systems():
    if commands := system.part("commands", "app"):
        app.add_typer(commands, name=system.name, help=system.summary, rich_help_panel=SYSTEMS)
    for name, command in system.part("commands", "ALONE", {}).items():
        app.command(name, rich_help_panel=SYSTEMS)(command)
    if served := system.part("local", "simulate"):
        simulate.command(system.name)(served)


def main() -> NoReturn:
    """Run the command line of this process."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    if not debug:
        # Dagster's remarks on its own surface are not for who runs a command.
        warnings.filterwarnings("ignore", message=".* is currently in (beta|preview)")
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s %(message)s")
    sys.exit(run(arguments, debug=debug))


def run(arguments: list[str], *, debug: bool = False) -> int:
    """Run a command line and give its exit code.

    Args:
        debug: let unexpected exceptions through, with their traceback.
    """
    for fault in registry.faults():
        print(f"warning: {fault}", file=sys.stderr)
    try:
        with watched():
            code = app(_expanded(arguments), prog_name="etl-assets", standalone_mode=False)
    except click.exceptions.Abort:
        return 130
    except click.ClickException as error:
        if "Did you mean" in error.message:
            # Both libraries suggest what may be meant, and one of them has done so.
            vars(error)["possibilities"] = None
        error.show()
        return 2
    except (PlatformError, OSError) as error:
        if debug:
            raise
        failure = of_system(error) if isinstance(error, OSError) else error
        print(f"error: {_public(str(failure))}", file=sys.stderr)
        return 2 if isinstance(failure, ConfigurationError) else 1
    except MemoryError:
        if debug:
            raise
        print(
            "error: there is not enough memory; what was committed stays, the rest changed nothing: load less at once, or give it more",
            file=sys.stderr,
        )
        return 1
    except Exception as error:
        if debug:
            raise
        print(f"error: unexpected {type(error).__name__}: {_public(str(error))} (--debug shows where)", file=sys.stderr)
        return 1
    return code if isinstance(code, int) else 0


def _public(text: str) -> str:
    """A failure's text as others may see it: libraries quote the URLs and keys that the settings gave them."""
    with contextlib.suppress(PlatformError):  # of settings that cannot be read the failure speaks itself
        secrets = registry.secrets(load_settings())
        # A short one may be any word of a message: whoever has used it hides it.
        text = hidden(text, (secret for secret in secrets if len(secret) >= SHORTEST_SECRET))
    return public_urls(text)


def _expanded(arguments: list[str]) -> list[str]:
    """The command line as the parser wants it, where a system takes options with an open number of values."""
    for known in registry.systems():
        if arguments[:1] == [known.name]:
            expand: Callable[[list[str]], list[str]] | None = known.part("commands", "expanded")
            return expand(arguments) if expand else arguments
    return arguments
