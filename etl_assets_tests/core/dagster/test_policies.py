"""Policies of all assets: an owner, a reference to the code, slots of pools that come free."""

from pathlib import Path

import dagster as dg
import pytest

from etl_assets.core.dagster import policies
from etl_assets.core.dagster.contract_types import quiet
from etl_assets.core.dagster.policies import OWNER, with_policies

ROOT = Path(__file__).parents[3]
HERE = "etl_assets_tests/core/dagster/test_policies.py"


@dg.asset
def plain() -> None: ...


@dg.asset(owners=["team:finance"])
def owned() -> None: ...


def reference(asset: dg.AssetsDefinition) -> dg.LocalFileCodeReference | dg.UrlCodeReference:
    (found,) = asset.get_asset_spec().metadata["dagster/code_references"].code_references
    return found


def test_an_asset_has_the_owner_that_it_names_or_ours_and_a_path_to_its_body() -> None:
    with quiet():
        assets = with_policies([plain, owned])
    assert [list(asset.get_asset_spec().owners) for asset in assets] == [[OWNER], ["team:finance"]]
    found = reference(assets[0])
    assert isinstance(found, dg.LocalFileCodeReference)
    assert Path(found.file_path).read_text().splitlines()[(found.line_number or 0) :][0].startswith("def plain")


def test_with_a_repository_references_are_links_to_the_revision_that_runs_without_credentials() -> None:
    line = reference(with_policies([plain])[0]).line_number  # type: ignore[union-attr]
    for url, expected in {
        "https://github.com/acme/etl": f"https://github.com/acme/etl/tree/v1.2/{HERE}#L{line}",
        "https://me:s3cret@github.com/acme/etl.git/": f"https://github.com/acme/etl/tree/v1.2/{HERE}#L{line}",
        "https://git.acme.example/etl": f"https://git.acme.example/etl/tree/v1.2/{HERE}#L{line}",
        "https://gitlab.acme.example/etl": f"https://gitlab.acme.example/etl/-/tree/v1.2/{HERE}#L{line}",
    }.items():
        with quiet():
            found = reference(with_policies([plain], repository_url=url, revision="v1.2")[0])
        assert isinstance(found, dg.UrlCodeReference), url
        assert found.url == expected, url


def test_code_of_another_distribution_is_in_no_repository_of_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(policies, "ROOT", tmp_path)
    with quiet():
        found = reference(with_policies([plain], repository_url="https://github.com/acme/etl")[0])
    assert isinstance(found, dg.LocalFileCodeReference)


def test_the_local_instance_frees_the_slots_of_runs_that_ended(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_settings["free_slots_after_run_end_seconds"] == 60
