"""The Program: an exported graph and its card, saved together in one ``.pt2`` file."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.export import Dim, ExportedProgram

from edgevit.errors import EdgevitError
from edgevit.files import check_output, existing_file, staged_file
from edgevit.graph.archive import check_archive
from edgevit.graph.card import Card
from edgevit.graph.fixed_batch import with_fixed_batch

Array = npt.NDArray[np.float32]

_CARD_FILE = "edgevit_card.json"
# Images run at once where the graph's batch is dynamic: enough to fill the cores, small in memory.
_RUN_BATCH = 32


def batch_dim() -> Dim:
    """The dynamic batch dimension of every Program."""
    return Dim("batch", min=1, max=1024)


@dataclass(frozen=True, eq=False)
class Program:
    """A ``torch.export`` graph with its card.

    The graph takes one float32 tensor (batch, channels, height, width), prepared as
    ``card.preprocessing`` says, and returns the tensors that ``card.outputs`` names, the first being
    (batch, classes) logits. Programs are values: a step on one gives another.
    """

    exported: ExportedProgram
    card: Card

    runtime = "torch"

    def __post_init__(self) -> None:
        found = len(self.exported.graph_signature.user_outputs)
        if found != len(self.card.outputs):
            raise EdgevitError(
                f"the graph of {self.card.name} has {found} outputs, its card names {len(self.card.outputs)}"
            )

    @cached_property
    def module(self) -> torch.nn.Module:
        """The graph as a module, weights shared."""
        return self.exported.module(check_guards=False)

    @property
    def graph(self) -> torch.fx.Graph:
        """The ATen graph."""
        graph: torch.fx.Graph = self.exported.graph
        return graph

    @cached_property
    def input_shape(self) -> tuple[int | torch.SymInt, ...]:
        """Shape of the input, the first dimension symbolic where the batch is dynamic."""
        names = self.exported.graph_signature.user_inputs
        if len(names) != 1:
            raise EdgevitError(
                f"the graph of {self.card.name} has {len(names)} inputs; one image is expected"
            )
        node = next(node for node in self.graph.nodes if node.name == names[0])
        return tuple(node.meta["val"].shape)

    @property
    def batch(self) -> int | None:
        """The graph's fixed batch size, or None where it is dynamic."""
        first = self.input_shape[0]
        return first if isinstance(first, int) else None

    @cached_property
    def output_shapes(self) -> tuple[tuple[int | torch.SymInt, ...], ...]:
        """Shapes of the outputs."""
        output = next(node for node in self.graph.nodes if node.op == "output")
        results = output.args[0][-len(self.card.outputs) :]
        return tuple(tuple(node.meta["val"].shape) for node in results)

    @property
    def num_classes(self) -> int:
        """Classes that the first output tells apart."""
        return int(self.output_shapes[0][-1])

    @property
    def parameter_count(self) -> int:
        """Trainable values; a parameter that modules share is counted once."""
        # An export has such a parameter under the name that each module gives it.
        return sum({tensor.data_ptr(): tensor.numel() for tensor in self.exported.parameters()}.values())

    def run(self, images: Array) -> list[Array]:
        """Run prepared images, any number of them, without gradients.

        Args:
            images: (n, channels, height, width) float32.

        Returns:
            One array per output, the first dimension n.
        """

        def run_batch(batch: Array) -> list[Array]:
            results = self.module(torch.from_numpy(np.ascontiguousarray(batch)))
            results = results if isinstance(results, tuple | list) else (results,)
            return [result.numpy() for result in results]

        with torch.no_grad():
            return run_in_batches(run_batch, images, self.batch or _RUN_BATCH, fixed=self.batch is not None)

    def with_batch(self, batch: int) -> Program:
        """The same program for exactly `batch` images: shape arithmetic on the batch becomes constants."""
        if self.batch == batch:
            return self
        if self.batch is not None:
            raise EdgevitError(
                f"{self.card.name} was captured for a batch of {self.batch} and cannot be made {batch}"
            )
        fixed = with_fixed_batch(self.exported, batch)
        if fixed is None:
            example = torch.zeros(batch, *(int(size) for size in self.input_shape[1:]))
            fixed = export_module(self.module, example, dynamic_batch=False)
        return Program(fixed, self.card)

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write graph, weights and card to one ``.pt2`` file, whole or not at all.

        Raises:
            EdgevitError: when the file exists and `force` is false, or cannot be written.
        """
        path = Path(path)
        if path.suffix != ".pt2":
            raise EdgevitError(f"{path}: a program is saved as .pt2")
        check_output(path, force=force)
        with staged_file(path) as staged:
            torch.export.save(
                self.exported, staged, extra_files={_CARD_FILE: self.card.model_dump_json(indent=1)}
            )
        return path

    @classmethod
    def load(cls, path: str | Path) -> Program:
        """Read a ``.pt2`` file that `save` wrote. Nothing is unpickled and no code in it can run.

        Raises:
            EdgevitError: when it is missing, damaged, holds anything but an ATen graph and its
                tensors, or has no card.
        """
        path = existing_file(path, "program")
        extra = {_CARD_FILE: ""}
        exported = read_exported(path, extra)
        if not extra[_CARD_FILE]:
            raise EdgevitError(
                f"{path} has no card: it was saved by torch.export, not by edgevit; make one with "
                f"`edgevit capture {path} --input-size .. --mean .. --std .. -o OUT.pt2`"
            )
        return cls(exported, Card.from_json(extra[_CARD_FILE], str(path)))


def read_exported(path: Path, extra_files: dict[str, str] | None = None) -> ExportedProgram:
    """The exported graph in a ``.pt2`` file, after `check_archive`; `extra_files` is filled in place."""
    # Declares the operators of quantizers, which the archive may call.
    importlib.import_module("torch.ao.quantization.fx._decomposed")
    with path.open("rb") as stream:
        check_archive(stream, str(path))
        try:
            # The very bytes that were checked: the file is not opened a second time.
            return torch.export.load(stream, extra_files=extra_files)
        except (RuntimeError, ValueError, KeyError, TypeError, AssertionError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise EdgevitError(f"{path} could not be read by torch {torch.__version__}: {reason}") from error


def export_module(module: torch.nn.Module, example: torch.Tensor, *, dynamic_batch: bool) -> ExportedProgram:
    """`torch.export` of a module that takes one tensor, without the paths of the exporting machine."""
    shapes = ({0: batch_dim()},) if dynamic_batch else None
    exported = torch.export.export(module, (example,), dynamic_shapes=shapes)
    for node in exported.graph.nodes:
        node.meta.pop("stack_trace", None)
    return exported


def run_in_batches(
    run: Callable[[Array], list[Array]], images: Array, batch: int, *, fixed: bool
) -> list[Array]:
    """Run `images` through a function of at most (or, when `fixed`, exactly) `batch` at a time.

    A last batch that is too small for a fixed size is filled by repeating its last image, whose
    surplus answers are dropped.
    """
    if len(images) == 0:
        raise ValueError("no images to run")
    results: list[list[Array]] = []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        count = len(part)
        if fixed and count < batch:
            part = np.concatenate([part, np.repeat(part[-1:], batch - count, axis=0)])
        results.append([output[:count] for output in run(part)])
    return [np.concatenate(outputs) for outputs in zip(*results, strict=True)]
