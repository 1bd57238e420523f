"""How the cases for the reference evaluator's ops are written."""

from dataclasses import dataclass

import numpy as np
import torch

RNG = np.random.default_rng(0)


def floats(*shape, low=None):
    values = RNG.standard_normal(shape).astype(np.float32)
    return values if low is None else np.abs(values) + np.float32(low)


@dataclass(frozen=True)
class Case:
    """`build(mb, *variables)` in MIL against `expected(*arrays)`, on the same inputs."""

    name: str
    inputs: list
    build: object
    expected: object
    ios: int = 16


def case(name, inputs, build, expected, ios=16):
    return Case(name, inputs, build, expected, ios)


def torched(function):
    """A torch function as one of arrays."""

    def call(*arrays):
        result = function(*(torch.from_numpy(array) for array in arrays))
        return tuple(item.numpy() for item in result) if isinstance(result, tuple) else result.numpy()

    return call


def plain(name, function, *shapes, low=None, **options):
    """An op that takes x (and y) only, beside constant options."""
    names = ["x", "y"][: len(shapes)]

    def build(mb, *variables):
        return getattr(mb, name)(**dict(zip(names, variables, strict=True)), **options)

    label = "-".join([name, *(f"{key}={value}" for key, value in options.items())])
    return case(label, [floats(*shape, low=low) for shape in shapes], build, function)
