"""Plans to be emitted: a pipeline across whose cuts several tensors pass, replicas, an ensemble."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from edgevit.graph.cutting import find_cuts
from edgevit.planning.plans import PlanOptions, plan
from edgevit.runtime.emit import EmitOptions, emit
from tests.conftest import SHARED
from tests.pruning.patterns import learned


@pytest.fixture(scope="session")
def braided(cluster, tmp_path_factory) -> Path:
    """A pipeline in whose middle stage a tensor goes in and, untouched, out again beside others."""
    folder = tmp_path_factory.mktemp("braided")
    learned().save(folder / "patterns.pt2")
    written = plan(folder / "patterns.pt2", devices=cluster, options=PlanOptions(mode="pipeline"))
    cuts = find_cuts(learned()).cuts
    names = [{tensor.name for tensor in cut.tensors} for cut in cuts]
    first, second = next(
        (i, j)
        for i, j in itertools.combinations(range(len(cuts)), 2)
        if names[i] & names[j] and len(names[i]) > 1 and len(names[j]) > 1 and names[i] != names[j]
    )
    ends = [(0, first), (first + 1, second), (second + 1, len(cuts))]
    tasks = tuple(
        task.model_copy(update={"first": a, "last": b})
        for task, (a, b) in zip(written.plan.tasks, ends, strict=True)
    )
    entry = written.plan.model_copy(update={"tasks": tasks})
    written.model_copy(update={"plan": entry, "alternatives": (), "losses": ()}).write(folder / "plan.yaml")
    return folder / "plan.yaml"


@pytest.fixture(scope="session")
def emitted(tmp_path_factory):
    """What is emitted of a plan, in a folder of its own; once for each plan, target and options."""
    made: dict[object, Path] = {}

    def make(path: Path, target: str, **options) -> Path:
        key = (path, target, repr(options))
        if key not in made:
            made[key] = tmp_path_factory.mktemp(target) / "out"
            emit(path, target, made[key], EmitOptions(**options))
        return made[key]

    return make


@pytest.fixture(scope="session")
def published() -> Path:
    """A folder with schemas as their projects publish them; CONTRIBUTING says which."""
    folder = Path(os.environ.get("EDGEVIT_SCHEMAS") or SHARED / "schemas")
    if not folder.is_dir():
        pytest.skip(
            "there are no published schemas: EDGEVIT_SCHEMAS names no folder, ../shared/schemas is none"
        )
    return folder
