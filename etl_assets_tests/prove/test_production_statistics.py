"""A small repetition of the simulation study (docs/correlation-study.md): from raw records to verdicts, with known truth."""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from etl_assets.systems.production.contracts import READINGS

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NULL_SETS, PLANTED_SETS = 30, 8


@dataclass
class Study:
    """The benchmark's module, and what was found with it."""

    module: Any
    lines: list[str] = field(default_factory=list)

    def examined(self, name: str, sets: int) -> list[Any]:
        """What all methods say of some data sets of one scenario."""
        (scenario,) = (one for one in (*self.module.NULL, *self.module.EFFECTS) if one.name == name)
        return [self.module.examine(scenario, number) for number in range(sets)]

    def say(self, name: str, what: str, count: int, sets: int) -> None:
        self.lines.append(f"{name}: {what} in {count} of {sets}")


@pytest.fixture(scope="module")
def study() -> Iterator[Study]:
    """The study; what was found is printed at the end of the module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        study = Study(importlib.import_module("correlations"))
    yield study
    print(f"\nsimulated records, {'; '.join(study.lines)}")


def any_false(found: Any, product: int = 0, method: str = "ours") -> bool:
    """Whether a method claims in one of the readings what is not there."""
    return any(found[product, method, reading].false for reading in READINGS)


@pytest.mark.parametrize("name", ["AR(1), φ = 0.9", "bent trends + noise", "even counter with noise; lines"])
def test_trends_and_stationary_noise_give_no_more_false_discoveries_than_five_in_a_hundred(
    study: Study, name: str
) -> None:
    found = study.examined(name, NULL_SETS)
    false = sum(any_false(one) for one in found)
    study.say(name, "false discoveries", false, NULL_SETS)
    assert false <= stats.binom.ppf(0.95, NULL_SETS, 0.05)
    # Pearson's p on the same values is wrong nearly every time: there is something to resist.
    assert sum(any_false(one, method="pearson") for one in found) > 0.9 * NULL_SETS


@pytest.mark.parametrize("name", ["independent, r = 0.4", "rising output, lines, r = 0.4"])
def test_a_planted_effect_is_supported_also_beneath_a_trend(study: Study, name: str) -> None:
    found = study.examined(name, PLANTED_SETS)
    supported = sum(one[0, "ours", "per_work_order"].planted for one in found)
    study.say(name, "the effect found", supported, PLANTED_SETS)
    assert supported >= 0.9 * PLANTED_SETS
    assert sum(any_false(one, product=1) for one in found) <= stats.binom.ppf(0.95, PLANTED_SETS, 0.05)
    assert not any(one[0, "equal time", "per_work_order"].planted for one in found)
