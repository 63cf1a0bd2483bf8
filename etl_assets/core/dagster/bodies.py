"""What surrounds the body of an asset or a check: what its failures mean, and the locks that are held while it asks a source."""

import contextlib
import functools
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import dagster as dg

from etl_assets.core.contracts import ByPartition
from etl_assets.core.dagster.automation import partition_range
from etl_assets.core.dagster.contract_types import MODE, ContractType, permanent_failures_stop
from etl_assets.core.dagster.io_managers import StoreIOManager, slices_of
from etl_assets.core.dagster.steps import asking, executing, output_contexts, step_of
from etl_assets.core.database.connections import Database
from etl_assets.core.slices.slice import Slice
from etl_assets.errors import ConfigurationError

START, END = partition_range("", "")
P = ParamSpec("P")
R = TypeVar("R")


def classified(body: Callable[P, R]) -> Callable[P, R]:
    """Decorate the body of an asset or check: permanent failures stop the retries, others are tried again.

    What asks a source for the tables that it stores is executed under their locks, and they are stored before these are given back.
    """
    if inspect.isgeneratorfunction(body):

        @functools.wraps(body)
        def events(*args: P.args, **kwargs: P.kwargs) -> Any:
            context = executing()
            with permanent_failures_stop():
                require_partitions(context)
            with permanent_failures_stop(), asking_for_outputs(context):
                yield from body(*args, **kwargs)

        return events

    by_partition = typing.get_origin(inspect.signature(body, eval_str=True).return_annotation) is ByPartition

    @functools.wraps(body)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        context = executing()
        with permanent_failures_stop():
            require_partitions(context)
            if by_partition or not (context and asked_outputs(context)):
                return body(*args, **kwargs)
        return stored_before_it_ends(body, context, args, kwargs)  # type: ignore[return-value]

    return run


def stored_before_it_ends(
    body: Callable[..., Any], context: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Iterator[Any]:
    """The outputs of a body, one after the other: Dagster stores each before it asks for the next, and so before the locks are given back."""
    with permanent_failures_stop(), asking_for_outputs(context):
        made = body(*args, **kwargs)
        outputs = made if isinstance(made, tuple) else (made,)
        yield from (one if isinstance(one, dg.Output) else dg.Output(one) for one in outputs)


def require_partitions(context: Any) -> None:
    """Refuse a run for a range that has no partition, which Dagster itself executes.

    Raises:
        ConfigurationError: if the later partition of the range comes first.
    """
    tags = context.run.tags if context else {}
    if START in tags and not context.partition_keys:
        raise ConfigurationError(
            f"the partitions {tags[START]}...{tags[END]} are none: a range begins with the earlier one,"
            f" {tags[END]}...{tags[START]}"
        )


@contextlib.contextmanager
def asking_for_outputs(context: Any) -> Iterator[None]:
    """Hold the locks of what a step that asks a source stores."""
    asked = asked_outputs(context) if context else None
    if not asked:
        yield
        return
    with asking(context, *asked):
        yield


def asked_outputs(context: Any) -> tuple[Database, list[Slice]] | None:
    """The slices that a step stores of what it asks a source for; None for one that loads inputs, appends, or stores by itself."""
    if step_of(context).inputs.slices:
        return None
    database, slices = None, list[Slice]()
    for manager, output in output_contexts(context):
        kind = output.dagster_type
        if not (isinstance(manager, StoreIOManager) and isinstance(kind, ContractType)):
            continue
        if (output.definition_metadata or {}).get(MODE) == "append":
            continue
        database = manager.postgres.database
        slices += slices_of(output, kind.contract)
    return (database, slices) if database else None
