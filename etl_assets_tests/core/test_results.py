"""`--json`: a result as one document on stdout, all else on stderr."""

import dataclasses
import json
from datetime import UTC, date, datetime
from pathlib import Path

import click
import numpy as np
import pytest
import typer

from etl_assets import cli
from etl_assets.core.results import Ended, as_document, with_json

# What prints no result: it serves until it is ended, or has lines of JSON of its own.
WITHOUT = ("dev", "gateway", "supervise", "simulate ", "ledger show", "quarantine list")


def commands(group: click.Group, path: str = "") -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        place = f"{path}{name}"
        found |= commands(command, f"{place} ") if hasattr(command, "commands") else {place: command}
    return found


def test_every_command_that_prints_a_result_prints_it_as_json_too() -> None:
    every = commands(typer.main.get_command(cli.app))  # type: ignore[arg-type]
    lacking = [
        name
        for name, command in every.items()
        if not any("--json" in option.opts for option in command.params) and not name.startswith(WITHOUT)
    ]
    assert len(every) > 25
    assert lacking == []


@dataclasses.dataclass(frozen=True)
class Result:
    day: date
    at: datetime
    rows: int
    share: float
    nothing: float
    file: Path
    by_day: dict[date, int]


def test_numbers_are_numbers_times_are_iso_and_what_is_no_number_is_null() -> None:
    at = datetime(2024, 5, 20, 12, tzinfo=UTC)
    result = Result(at.date(), at, np.int64(3), 0.5, float("nan"), Path("a/b"), {at.date(): 1})  # type: ignore[arg-type]
    assert json.loads(as_document([result])) == [
        {
            "day": "2024-05-20",
            "at": "2024-05-20T12:00:00Z",
            "rows": 3,
            "share": 0.5,
            "nothing": None,
            "file": "a/b",
            "by_day": {"2024-05-20": 1},
        }
    ]


@pytest.mark.parametrize("code", [0, 1])
def test_what_is_for_people_goes_to_stderr(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    @with_json
    def count(number: int = typer.Argument()) -> object:
        print(f"counted to {number}")
        if code:
            raise Ended(code, {"number": number})
        return {"number": number}

    app = typer.Typer()
    app.command()(count)
    for arguments, out, err in (
        (["3"], "counted to 3\n", ""),
        (["3", "--json"], '{\n  "number": 3\n}\n', "counted to 3\n"),
    ):
        assert (app(arguments, standalone_mode=False) or 0) == code
        assert capsys.readouterr() == (out, err)


def test_a_load_says_what_it_did_as_json(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["simulate", "experiments", str(data_dir / "files"), "--users", "3", "--experiments", "5"]) == 0
    capsys.readouterr()
    try:
        assert cli.run(["experiments", "load", str(data_dir / "files"), "--as-of", "2023-12-31", "--json"]) == 0
        printed = capsys.readouterr()
        done = json.loads(printed.out)
        assert done["as_of"] == "2023-12-31"
        assert {table["table"]: table["inserted"] for table in done["tables"]}["experiments.users"] == 3
        assert "experiments.users: 3 inserted" in printed.err
    finally:
        cli.run(["down", "--purge"])
