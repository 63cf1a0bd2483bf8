"""What a step of a run has looked at before it stores: the inputs that it loaded, and the locks that it took to ask a source."""

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from dagster._core.execution.plan.outputs import StepOutputHandle

from etl_assets.core.database.connections import Database
from etl_assets.core.slices.acceptance import ALL
from etl_assets.core.slices.inputs import Inputs
from etl_assets.core.slices.lock import Lock, locked
from etl_assets.core.slices.slice import Slice

# A tag of a run.
ALLOW_REJECTED = "etl_assets/allow_rejected"


@dataclass
class Step:
    """One attempt of a step.

    Attributes:
        inputs: what it has loaded; empty for one that asks a source.
        lock: held since before that was asked.
    """

    inputs: Inputs = field(default_factory=Inputs)
    lock: Lock | None = None


# By Dagster's context of the attempt, which its inputs, its body and its outputs share.
_STEPS: "weakref.WeakKeyDictionary[Any, Step]" = weakref.WeakKeyDictionary()


def step_of(context: Any) -> Step:
    """The attempt that a context of Dagster is of, of an input, an output or the body."""
    return _STEPS.setdefault(_step_context(context), Step())


def inputs_of(context: dg.AssetExecutionContext) -> Inputs:
    """What the step has loaded, for one that stores by itself."""
    return step_of(context).inputs


def inputs_of_load(context: dg.InputContext) -> Inputs:
    """What the step that loads an input has loaded; of one that is loaded outside of a step nobody asks."""
    with contextlib.suppress(dg.DagsterInvariantViolationError):
        return step_of(context).inputs
    return Inputs()


def goes_by_partition(context: dg.InputContext) -> bool:
    """Whether each partition of a step is derived from the partition of the same name of this input: the asset has no other mapping."""
    if not context.has_asset_partitions:
        return False
    step = _step_context(context)
    asset = step.job_def.asset_layer.get_assets_def_for_node(step.node_handle)
    unmapped = asset is not None and asset.get_partition_mapping(context.asset_key) is None
    return unmapped and asset.partitions_def == context.asset_partitions_def


def max_rejected_of(context: Any) -> float | None:
    """The share of rejected rows that whoever has started the run takes; None: what the contracts say."""
    return ALL if _step_context(context).run_tags.get(ALLOW_REJECTED) == "true" else None


def batch_of(context: dg.OutputContext, part: str) -> str:
    """The identity of what a step appends: the same in each retry of the step, and of its run."""
    run = context.step_context.dagster_run
    return "/".join((run.root_run_id or run.run_id, context.step_key, context.name, part))


def executing() -> Any:
    """Dagster's context of the body that is executed; None where it is called as a function."""
    with contextlib.suppress(dg.DagsterInvariantViolationError):
        return dg.OpExecutionContext.get()
    return None


@contextlib.contextmanager
def asking(context: Any, database: Database, slices: list[Slice]) -> Iterator[None]:
    """Hold the locks of what a step stores, from before its body asks a source until all of it is stored."""
    step = step_of(context)
    with locked(database, slices) as lock:
        step.lock = lock
        try:
            yield
        finally:
            step.lock = None


def output_contexts(context: Any) -> Iterator[tuple[Any, dg.OutputContext]]:
    """The IO manager and the context of each output of the step that is executed."""
    step = _step_context(context)
    for name in step.step.step_output_dict:
        handle = StepOutputHandle(step.step.key, name)
        yield step.get_io_manager(handle), step.get_output_context(handle)


def _step_context(context: Any) -> Any:
    if isinstance(context, dg.AssetExecutionContext):
        context = context.op_execution_context
    return context.get_step_execution_context() if isinstance(context, dg.OpExecutionContext) else context.step_context
