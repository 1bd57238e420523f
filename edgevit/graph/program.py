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
Shape = tuple[int | torch.SymInt, ...]

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
    (batch, classes) logits. A stage of such a graph (`edgevit.graph.stages`) takes and gives whatever
    tensors its card names, each with the batch in front. Programs are values: a step on one gives another.
    """

    exported: ExportedProgram
    card: Card

    runtime = "torch"

    def __post_init__(self) -> None:
        signature = self.exported.graph_signature
        for kind, found, named in (
            ("inputs", signature.user_inputs, self.card.inputs),
            ("outputs", signature.user_outputs, self.card.outputs),
        ):
            if len(found) != len(named):
                raise EdgevitError(
                    f"the graph of {self.card.name} has {len(found)} {kind}, its card names {len(named)}"
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

    @property
    def inputs(self) -> tuple[torch.fx.Node, ...]:
        """The placeholders of what the graph takes, in the order of ``card.inputs``."""
        placeholders = {node.name: node for node in self.graph.find_nodes(op="placeholder")}
        return tuple(placeholders[str(name)] for name in self.exported.graph_signature.user_inputs)

    @cached_property
    def input_shapes(self) -> tuple[Shape, ...]:
        """Shapes of the inputs, the first dimension symbolic where the batch is dynamic."""
        return tuple(tuple(node.meta["val"].shape) for node in self.inputs)

    @property
    def input_shape(self) -> Shape:
        """Shape of the one input.

        Raises:
            EdgevitError: when the program is a stage that takes several.
        """
        if len(self.input_shapes) != 1:
            raise EdgevitError(
                f"{self.card.name} takes {len(self.input_shapes)} tensors ({', '.join(self.card.inputs)}); "
                "one image is expected"
            )
        return self.input_shapes[0]

    @property
    def batch(self) -> int | None:
        """The graph's fixed batch size, or None where it is dynamic."""
        first = self.input_shapes[0][0]
        return first if isinstance(first, int) else None

    @cached_property
    def output_shapes(self) -> tuple[Shape, ...]:
        """Shapes of the outputs."""
        output = next(node for node in self.graph.nodes if node.op == "output")
        results = output.args[0][-len(self.card.outputs) :]
        return tuple(tuple(node.meta["val"].shape) for node in results)

    @property
    def num_classes(self) -> int:
        """Classes that the first output tells apart.

        Raises:
            EdgevitError: when the program is a stage of a model.
        """
        self.card.check_whole()
        return int(self.output_shapes[0][-1])

    @property
    def parameter_count(self) -> int:
        """Trainable values; a parameter that modules share is counted once."""
        # An export has such a parameter under the name that each module gives it.
        return sum({tensor.data_ptr(): tensor.numel() for tensor in self.exported.parameters()}.values())

    def run(self, *inputs: Array) -> list[Array]:
        """Run prepared images, any number of them, without gradients.

        Args:
            inputs: (n, channels, height, width) float32; of a stage, every tensor that ``card.inputs``
                names, (n, ..), of its dtype.

        Returns:
            One array per output, the first dimension n.
        """

        def run_batch(*batch: Array) -> list[Array]:
            results = self.module(*(torch.from_numpy(np.ascontiguousarray(part)) for part in batch))
            results = results if isinstance(results, tuple | list) else (results,)
            return [result.numpy() for result in results]

        with torch.no_grad():
            return run_in_batches(
                run_batch, *inputs, batch=self.batch or _RUN_BATCH, fixed=self.batch is not None
            )

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
            fixed = export_module(self.module, *self.example(batch), dynamic_batch=False)
        return Program(fixed, self.card)

    def example(self, batch: int) -> tuple[torch.Tensor, ...]:
        """Inputs of zeros."""
        values = (node.meta["val"] for node in self.inputs)
        return tuple(torch.zeros(batch, *map(int, value.shape[1:]), dtype=value.dtype) for value in values)

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


def export_module(module: torch.nn.Module, *example: torch.Tensor, dynamic_batch: bool) -> ExportedProgram:
    """`torch.export` of a module that takes tensors, without the paths of the exporting machine."""
    shapes = tuple({0: batch_dim()} for _ in example) if dynamic_batch else None
    exported = torch.export.export(module, example, dynamic_shapes=shapes)
    for node in exported.graph.nodes:
        node.meta.pop("stack_trace", None)
    return exported


def run_in_batches(run: Callable[..., list[Array]], *inputs: Array, batch: int, fixed: bool) -> list[Array]:
    """Run inputs through a function of at most (or, when `fixed`, exactly) `batch` at a time.

    A last batch that is too small for a fixed size is filled by repeating its last image, whose
    surplus answers are dropped.
    """
    total = len(inputs[0])
    if total == 0:
        raise ValueError("no images to run")
    results: list[list[Array]] = []
    for start in range(0, total, batch):
        count = min(batch, total - start)
        parts = [array[start : start + count] for array in inputs]
        if fixed and count < batch:
            parts = [np.concatenate([part, np.repeat(part[-1:], batch - count, axis=0)]) for part in parts]
        results.append([output[:count] for output in run(*parts)])
    return [np.concatenate(outputs) for outputs in zip(*results, strict=True)]
