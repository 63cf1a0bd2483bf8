"""What is made of the code for people and tests, a file per system: pages of tables and settings, snapshots of the definitions.

python -m etl_assets.local.generated          writes the files (`make docs`)
python -m etl_assets.local.generated --check  says which are not as they should be (`make check`)
"""

import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import dagster as dg
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from etl_assets.core import registry
from etl_assets.core.contracts.dictionary import page
from etl_assets.core.dagster.contract_types import quiet
from etl_assets.core.slices.tables import CORE_TABLES
from etl_assets.definitions import platform_definitions
from etl_assets.local.new_system import CHECKOUT
from etl_assets.settings import Settings

DICTIONARY = CHECKOUT / "docs" / "dictionary"
TESTS = CHECKOUT / "etl_assets_tests"
SNAPSHOT = "definitions.txt"


def generated() -> Mapping[Path, str]:
    """By path, the text of each generated file of the systems in this checkout, and of the core."""
    own = [system for system in registry.systems() if system.folder.is_relative_to(CHECKOUT)]
    files = {DICTIONARY / "core.md": page("core", CORE_TABLES) + settings_table(Settings.model_fields)}
    for owner in registry.owners():
        if owner.name == "gateway" or owner in own:
            kind: type[Settings] = owner.part("settings", "SETTINGS", Settings)
            fields = {name: field for name, field in kind.model_fields.items() if name not in Settings.model_fields}
            files[DICTIONARY / f"{owner.name}.md"] = page(owner.name, owner.contracts) + settings_table(fields)
    definitions = platform_definitions()
    for system in own:
        files[TESTS / "systems" / system.name / SNAPSHOT] = _text(definitions, system.name, of_system(system))
    others = of_all(definitions) - set().union(*(of_system(system) for system in registry.systems()))
    files[TESTS / SNAPSHOT] = _text(definitions, "", others)
    return files


def settings_table(fields: Mapping[str, FieldInfo]) -> str:
    """The environment variables that are fields of settings, as Markdown; empty where there are none."""
    if not fields:
        return ""
    rows = [f"| `{name.upper()}` | {_meaning(field)} | {_default(field)} |" for name, field in fields.items()]
    return "\n".join(["", "## Settings", "", "| variable | meaning | default |", "|---|---|---|", *rows, ""])


def _meaning(field: FieldInfo) -> str:
    return f"{field.description}; secret" if "SecretStr" in str(field.annotation) else str(field.description)


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is None or value is PydanticUndefined or value == ():
        return ""
    return f"`{','.join(map(str, value))}`" if isinstance(value, tuple) else f"`{value}`"


def of_system(system: registry.System) -> set[str]:
    """The names of jobs, schedules and sensors that a system defines."""
    with quiet():
        return of_all(importlib.import_module(system.package).defs())


def of_all(definitions: dg.Definitions) -> set[str]:
    """The names of jobs, schedules and sensors in some definitions."""
    return {
        each.name for each in (*(definitions.jobs or ()), *(definitions.schedules or ()), *(definitions.sensors or ()))
    }


def _text(definitions: dg.Definitions, group: str, names: set[str]) -> str:
    return "".join(f"{line}\n" for line in lines(definitions, group, names))


def lines(definitions: dg.Definitions, group: str, names: set[str]) -> Iterator[str]:
    """What is defined, one thing a line.

    Args:
        group: the asset group whose assets and checks are wanted.
        names: the jobs, schedules and sensors that are wanted.
    """
    with quiet():
        repository = definitions.get_repository_def()
    graph = repository.asset_graph
    keys = {key for key in graph.get_all_asset_keys() if graph.get(key).group_name == group}
    for key in sorted(keys):
        node = graph.get(key)
        parents = ", ".join(sorted(parent.to_user_string() for parent in node.parent_keys)) or "nothing"
        partitions = type(node.partitions_def).__name__ if node.partitions_def else "no partitions"
        yield f"asset {key.to_user_string()} ({node.group_name}, {partitions}) from {parents}"
    for check in sorted(graph.asset_check_keys):
        if check.asset_key in keys:
            yield f"check {check.name} of {check.asset_key.to_user_string()}"
    for job in sorted(repository.get_all_jobs(), key=lambda job: job.name):
        if job.name in names:
            yield f"job {job.name}"
    for schedule in sorted(repository.schedule_defs, key=lambda schedule: schedule.name):
        if schedule.name in names:
            yield f"schedule {schedule.name} {schedule.cron_schedule} {schedule.default_status.value}"
    for sensor in sorted(repository.sensor_defs, key=lambda sensor: sensor.name):
        if sensor.name in names:
            yield f"sensor {sensor.name} {sensor.default_status.value}"


def out_of_date() -> list[Path]:
    """The generated files that are not as they should be, and pages of the dictionary that nothing generates."""
    files = generated()
    extra = set(DICTIONARY.glob("*.md")) - files.keys()
    return sorted(
        extra | {path for path, text in files.items() if not path.is_file() or path.read_text("utf-8") != text}
    )


def main(arguments: list[str]) -> int:
    """Write the files, or with `--check` name those that are out of date; gives the exit code."""
    stale = out_of_date()
    if "--check" in arguments:
        for path in stale:
            print(f"{path.relative_to(CHECKOUT)} is out of date: make docs", file=sys.stderr)
        return 1 if stale else 0
    files = generated()
    for path in stale:
        if path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[path], encoding="utf-8")
        else:
            path.unlink()
        print(f"{path.relative_to(CHECKOUT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
