"""What a command did, for people or, with `--json`, for programs.

A command that is decorated with `with_json` prints lines for people and returns its result. With `--json` the result is all that goes to stdout,
as one JSON document; the lines go to stderr.
"""

import contextlib
import functools
import inspect
import sys
import typing
from collections.abc import Callable
from typing import Any

import typer

from etl_assets.redaction import public_urls

OPTION = typer.Option(False, "--json", help="Print the result as one JSON document on stdout; all else goes to stderr.")

DRY_RUN = typer.Option(
    False, "--dry-run", help="Fetch, judge and compare as ever, say what would change, and change nothing."
)


def say_dry_run() -> None:
    """One line for people that what they read is what would be."""
    print("dry run: nothing was changed, this is what would be", file=sys.stderr)


class Ended(typer.Exit):
    """The end of a command that has a result and is no success."""

    def __init__(self, code: int, result: object) -> None:
        super().__init__(code)
        self.result = result


def with_json(command: Callable[..., object]) -> Callable[..., None]:
    """Give a command the option `--json`."""
    parameters = inspect.signature(command).parameters
    assert "as_json" not in parameters

    @functools.wraps(command)
    def run(*args: Any, as_json: bool = False, **kwargs: Any) -> None:
        if not as_json:
            command(*args, **kwargs)
            return
        with contextlib.redirect_stdout(sys.stderr):
            try:
                result, ended = command(*args, **kwargs), None
            except Ended as error:
                result, ended = error.result, error
        print(as_document(result))
        if ended:
            raise ended

    option = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=OPTION, annotation=bool)
    vars(run)["__signature__"] = inspect.Signature([*parameters.values(), option])
    run.__annotations__ = {**typing.get_type_hints(command), "as_json": bool}
    return run


def as_document(result: object) -> str:
    """A result as JSON: dataclasses and mappings as objects, numbers as numbers, times as ISO 8601, what is no number as null."""
    import pydantic_core

    return pydantic_core.to_json(result, indent=2, inf_nan_mode="null", fallback=_plain).decode()


def _plain(value: Any) -> object:
    """What numpy and pandas have as Python has it; what is nothing else as text."""
    return value.item() if hasattr(value, "item") else public_urls(str(value))
