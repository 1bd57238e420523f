"""A tiny model, plans of it for three devices, and what it is to answer."""

from __future__ import annotations

import numpy as np
import pytest

from edgevit.planning.plan_file import PlanFile
from edgevit.planning.plans import PlanOptions, plan
from edgevit.pruning.classwise import split_classes
from tests.pruning.patterns import learned, patterns

CLUSTER = """\
version: 1
networks:
  - {name: lan, bytes_per_second: 1.0e+9}
devices:
  - {name: w, count: 3, memory_bytes: 1.0e+9, macs_per_second: 1.0e+6, network: lan}
"""


def images(count: int, shape: tuple[int, ...] = (1, 3, 16, 16)) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, *shape), dtype=np.float32)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    path = tmp_path_factory.mktemp("cluster") / "cluster.yaml"
    path.write_text(CLUSTER)
    return path


@pytest.fixture(scope="session")
def make_plan(tiny_pt2, cluster, tmp_path_factory):
    """A plan of a mode, written into a folder where its pieces are kept from test to test."""
    folder = tmp_path_factory.mktemp("plans")

    def make(mode: str):
        path = folder / f"{mode}.yaml"
        if not path.exists():
            plan(tiny_pt2, devices=cluster, options=PlanOptions(mode=mode)).write(path)
        return path

    return make


@pytest.fixture(scope="session")
def pipeline(make_plan) -> PlanFile:
    return PlanFile.read(make_plan("pipeline"))


@pytest.fixture(scope="session")
def ensemble(tmp_path_factory, cluster):
    """A split in three parts on three devices."""
    folder = tmp_path_factory.mktemp("ensemble")
    data, classes = (values.numpy() for values in patterns(96, seed=2))
    split_classes(learned(), data, classes, parts=3, grouping="random", epochs=0, output=folder / "split")
    made = plan(folder / "split", devices=cluster, options=PlanOptions(mode="ensemble"))
    made.write(folder / "plan.yaml")
    return folder
