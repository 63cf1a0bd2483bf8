"""The graph as a whole: nothing undescribed, nothing mistyped, nothing that changed without being meant."""

import subprocess
import sys
import textwrap
from pathlib import Path

import dagster as dg
import pytest

from etl_assets.core import registry
from etl_assets.core.dagster.contract_types import NO_CONTRACT, ContractType
from etl_assets.definitions import platform_definitions
from etl_assets.local import generated


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return platform_definitions()


@pytest.fixture(scope="module")
def assets(definitions: dg.Definitions) -> list[dg.AssetsDefinition]:
    return [asset for asset in definitions.assets or () if isinstance(asset, dg.AssetsDefinition)]


def test_the_definitions_and_the_tables_are_those_that_were_meant() -> None:
    assert len(generated.generated()) >= 12
    assert generated.out_of_date() == [], "if the change is meant: make docs"


def test_every_asset_is_described(assets: list[dg.AssetsDefinition]) -> None:
    assert len(assets) >= 5
    for asset in assets:
        for spec in asset.specs:
            name = spec.key.to_user_string()
            assert spec.group_name, name
            assert spec.owners, name
            assert spec.kinds, name
            assert spec.description, name
            assert spec.metadata.get("dagster/column_schema") or spec.metadata.get(NO_CONTRACT), name
            reference = spec.metadata["dagster/code_references"].code_references[0]
            body = Path(reference.file_path).read_text().splitlines()[reference.line_number - 1 :]
            assert any(line.startswith(f"def {asset.op.name.rpartition('__')[2]}(") for line in body[:20]), (
                name,
                reference,
            )


def test_an_input_has_the_contract_of_the_asset_that_it_comes_from(assets: list[dg.AssetsDefinition]) -> None:
    produced = {spec.key: spec.metadata.get("dagster/table_name") for asset in assets for spec in asset.specs}
    edges = [
        (asset.keys_by_input_name[given.name], given.dagster_type)
        for asset in assets
        for given in asset.op.input_defs
        if not given.dagster_type.is_nothing
    ]
    assert len(edges) >= 3
    for key, wanted in edges:
        assert isinstance(wanted, ContractType), key
        assert wanted.contract.config.table == produced[key], key


def test_every_contract_of_a_system_names_the_schema_of_that_system() -> None:
    assert len(registry.systems()) >= 5
    for owner in registry.owners():
        assert {c.schema_name() for c in owner.contracts if c.config.database == "platform"} <= {owner.name}
        # The target database is the user's own.
        assert {c.schema_name() for c in owner.contracts if c.config.database == "target"} <= {"public"}


def test_loading_the_definitions_does_no_io_and_imports_nothing_heavy(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        import dagster
        allowed = [Path(p).resolve() for p in (*sys.path, sys.prefix, sys.base_prefix) if p]
        package = Path(sys.argv[1])
        seen = []
        def watch(event, arguments):
            if event.startswith(("socket.connect", "socket.bind", "subprocess.Popen", "os.fork")):
                seen.append((event, arguments))
            if event == "open" and isinstance(arguments[0], (str, bytes)):
                path = Path(str(arguments[0])).absolute()
                if not any(path.is_relative_to(folder) for folder in allowed):
                    seen.append((event, str(path)))
                elif str(arguments[1]) not in ("r", "rb", "None"):
                    seen.append((event, str(path), arguments[1]))
        sys.dont_write_bytecode = True
        sys.addaudithook(watch)
        import etl_assets
        etl_assets.defs().get_repository_def()
        # The system's zone database is no input of ours.
        outside = [s for s in seen if s[0] != "open" or not ("/proc/" in s[1] or "/zoneinfo/" in s[1])]
        heavy = [m for m in ("scipy", "alembic", "adbc_driver_postgresql", "requests", "redis", "uvicorn") if m in sys.modules]
        print(outside, heavy)
        """
    )
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(Path(__file__).parent.parent / "etl_assets")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert ran.stdout.strip() == "[] []"


def test_a_transform_is_imported_without_dagster() -> None:
    script = "import sys, etl_assets.systems.outages.transform, etl_assets.systems.turbines.statistics; print('dagster' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
