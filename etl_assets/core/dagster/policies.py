"""What holds for every asset whose system says nothing else: its owner, and where its body is."""

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import dagster as dg

OWNER = "team:data-platform"
ROOT = Path(__file__).parents[3]


def with_policies(
    assets: Iterable[dg.AssetsDefinition], *, repository_url: str = "", revision: str = "main"
) -> list[dg.AssetsDefinition]:
    """The assets with an owner and a reference to the code of each.

    Args:
        repository_url: where the code is to be read (GitHub, GitLab, or what has the paths of one of them); without it references
            are paths of this machine. Code of other distributions is not in it, and stays a path.
        revision: branch, tag or commit that runs.
    """
    return [_linked(_with_policies(asset), repository_url, revision) for asset in assets]


def _with_policies(asset: dg.AssetsDefinition) -> dg.AssetsDefinition:
    references = dg.CodeReferencesMetadataValue(code_references=[body_of(asset)])

    def applied(spec: dg.AssetSpec) -> dg.AssetSpec:
        metadata = {"dagster/code_references": references, **spec.metadata}
        return spec.replace_attributes(owners=spec.owners or [OWNER], metadata=metadata)

    return asset.map_asset_specs(applied)


def body_of(asset: dg.AssetsDefinition) -> dg.LocalFileCodeReference:
    """The function that somebody wrote, below its decorators."""
    compute: Any = asset.op.compute_fn
    body = inspect.unwrap(getattr(compute, "decorated_fn", compute))
    return dg.LocalFileCodeReference(file_path=body.__code__.co_filename, line_number=body.__code__.co_firstlineno)


def _linked(asset: dg.AssetsDefinition, repository_url: str, revision: str) -> dg.AssetsDefinition:
    if not repository_url or not Path(body_of(asset).file_path).is_relative_to(ROOT):
        return asset
    platform: Literal["github", "gitlab"] = "gitlab" if "gitlab" in repository_url else "github"
    (linked,) = dg.link_code_references_to_git(
        [asset],
        git_url=_public(repository_url),
        git_branch=revision,
        file_path_mapping=dg.AnchorBasedFilePathMapping(ROOT, ""),
        platform=platform,
    )
    assert isinstance(linked, dg.AssetsDefinition)
    return linked


def _public(repository_url: str) -> str:
    """The address without credentials, as a browser wants it."""
    parts = urlsplit(repository_url)
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")
    return address.geturl().rstrip("/").removesuffix(".git")
