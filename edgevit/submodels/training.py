"""Train a Program so that the first units of its layers are networks by themselves.

MatFormer (Devvrit et al., arXiv 2310.07707): at each step the losses of a few granularities, each a share of
the units of every axis, either all of them or one that is drawn. Submodels between them, and those with
another share in each layer, come for nothing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from edgevit.errors import EdgevitError, closest
from edgevit.graph.axes import Dimensions, Role, stored_tensors
from edgevit.graph.card import Step
from edgevit.graph.devices import check_device, moved
from edgevit.graph.dimensions import Dim
from edgevit.graph.program import Program
from edgevit.graph.reads import readers_in_order
from edgevit.graph.rewrites import prepare_for_export
from edgevit.graph.rewrites.split_projections import split_projections
from edgevit.graph.slicing import slice_axes, sliced
from edgevit.graph.weights import digest
from edgevit.pruning.analysis import is_plain
from edgevit.pruning.checkpoint import Parameters, checkpoint_at
from edgevit.pruning.loop import Loop, TrainingOptions
from edgevit.pruning.prune import check_program, check_roles
from edgevit.pruning.steps import check_labels, distance
from edgevit.pruning.training import with_parameters
from edgevit.submodels.elastic import DEFAULT_ROLES, check_shares, widths_of
from edgevit.submodels.nesting import Nesting, with_nesting

Granularity = Literal["joint", "sampled"]

# MatFormer's S, M, L and XL.
SHARES: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class NestedOptions:
    """How a Program is trained to be nested.

    Attributes:
        shares: of the units of each axis, at which it is trained; all of them always is one.
        roles: of the axes that become nested.
        granularity: "joint" adds up the losses of all shares at each step, "sampled" takes one that is drawn.
        distil: share that the whole's own predictions have of the loss of narrower ones; the labels have the
            rest (Yu and Huang 2019, arXiv 1903.05134).

    Raises:
        EdgevitError: naming the first that cannot be.
    """

    shares: tuple[float, ...] = SHARES
    roles: tuple[Role, ...] = DEFAULT_ROLES
    granularity: Granularity = "joint"
    distil: float = 0.5

    def __post_init__(self) -> None:
        check_roles(self.roles)
        check_shares(self.shares)
        if not 0 <= self.distil <= 1:
            raise EdgevitError(f"distil: must be 0 to 1, not {self.distil:g}")
        if self.granularity not in get_args(Granularity):
            known = closest(self.granularity, get_args(Granularity))
            raise EdgevitError(f"granularity: {self.granularity!r} is unknown; {known}")


def train_nested(
    program: Program,
    images: Tensor,
    labels: Tensor,
    *,
    nested: NestedOptions | None = None,
    options: TrainingOptions | None = None,
    checkpoint: Path | None = None,
    torch_device: str = "cpu",
) -> Program:
    """Train every parameter of a Program, for several widths of it at once.

    The loss of the whole is its cross entropy; that of a narrower one, with temperature T::

        distil T^2 KL(softmax(whole / T) || softmax(logits / T)) + (1 - distil) cross entropy(logits, labels)

    where the whole is what it gave for the same images and learns nothing by it. Narrower ones run as smaller
    graphs on slices of the same parameters: a step costs what they cost. The same seed gives the same bits on
    one processor with one number of threads, whether or not the run was interrupted.

    Args:
        program: a float Program with a dynamic batch; it stays as it is.
        images: (n, channels, height, width), prepared as its card says, of any floating type.
        labels: (n,), the class of each image.
        nested: at which widths, and how.
        options: rates and lengths; `alpha`, `beta` and `gamma`, of a teacher, say nothing here.
        checkpoint: a file that is written after each epoch, and from which an interrupted run goes on; it is
            gone when the run ends.
        torch_device: "cpu" or "cuda".

    Returns:
        A nested Program, on the processor, with a step "train-nested" on its card.

    Raises:
        EdgevitError: when images, labels and program do not fit one another, no axis has such a role, the
            loss becomes infinite or NaN, or the checkpoint is of another run.
    """
    nested, options = nested or NestedOptions(), options or TrainingOptions()
    check_device(torch_device)
    check_program(program)
    data = _Data(images, labels)
    _check_data(program, data)
    prepared = split_projections(prepare_for_export(program))
    sizes = _axes(prepared, nested.roles)
    saved = None if checkpoint is None else checkpoint_at(checkpoint, _run_of(program, data, nested, options))
    training = _Training(prepared, data, nested, options, torch_device)
    progress = training.run(saved)
    given = json.loads(json.dumps({**asdict(nested), **asdict(options)}))
    measured = {"seconds": round(progress.seconds, 1), "losses": list(progress.losses[-1:])}
    step = Step(name="train-nested", options={**given, "images": len(images)}, measured=measured)
    original = Program(prepared.exported, program.card)
    nesting = Nesting({name: widths_of(size, nested.shares) for name, size in sizes.items()})
    trained = with_nesting(with_parameters(original, training.parameters, step), nesting)
    if saved is not None:
        saved.remove()
    return trained


@dataclass(frozen=True)
class _Data:
    """What is learned from.

    Attributes:
        images: (n, channels, height, width).
        labels: (n,).
    """

    images: Tensor
    labels: Tensor


class _Training(Loop):
    """The parameters of a graph, and the smaller graphs that read slices of them.

    Attributes:
        parameters: of the whole, by their path.
    """

    def __init__(
        self,
        program: Program,
        data: _Data,
        nested: NestedOptions,
        options: TrainingOptions,
        torch_device: str,
    ) -> None:
        copied = moved(program, torch_device)
        self.parameters: Parameters = {
            path: torch.nn.Parameter(value.detach().clone())
            for path, value in copied.exported.named_parameters()
            if value.is_floating_point()
        }
        names = set(_axes(program, nested.roles))
        shares = sorted({*nested.shares, 1.0})
        self._granularities = [_Granularity(program, names, share, torch_device) for share in shares]
        self._data, self._nested, self._device = data, nested, torch_device
        super().__init__(self.parameters, len(data.images), options)

    def loss(self, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """Of a batch, as `train_nested` says: the mean over granularities, or that of one."""
        images, labels = (
            values[chosen.to(values.device)].to(self._device)
            for values in (self._data.images, self._data.labels)
        )
        images = self.augmented(images.float(), generator)
        *narrow, whole = self._granularities
        sampled = self._nested.granularity == "sampled"
        if sampled:
            drawn = int(torch.randint(len(narrow) + 1, (1,), generator=generator))
            narrow = narrow[drawn : drawn + 1]
        # Of a narrower one that was drawn, the whole is a teacher that does not learn.
        learns = not (sampled and narrow)
        with self.arithmetic(self._device):
            with torch.set_grad_enabled(learns):
                expected = whole.run(self.parameters, images)
            losses = [self._narrow(one.run(self.parameters, images), expected, labels) for one in narrow]
            if learns:
                losses.append(self._by_labels(expected, labels))
        return torch.stack(losses).mean()

    def _by_labels(self, logits: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(logits, labels, label_smoothing=self._options.label_smoothing)

    def _narrow(self, logits: Tensor, expected: Tensor, labels: Tensor) -> Tensor:
        share, by_labels = self._nested.distil, self._by_labels(logits, labels)
        by_whole = distance(logits, expected.detach(), self._options.temperature)
        return share * by_whole + (1 - share) * by_labels


class _Granularity:
    """A share of the units of some axes: a smaller graph, run with slices of the whole's parameters."""

    def __init__(self, program: Program, names: Collection[str], share: float, torch_device: str) -> None:
        dimensions = Dimensions(program)
        leaves = {axis: leaf for axis, leaf in dimensions.axes().items() if axis.name in names}
        keep = {axis: range(widths_of(axis.size, (share,))[0]) for axis in leaves} if share < 1 else {}
        small = slice_axes(program, keep) if keep else program
        self._module = moved(small, torch_device).module
        self._choices: Mapping[Dim, Tensor] = {
            leaves[axis]: torch.tensor(list(units)) for axis, units in keep.items()
        }
        self._dims = {path: dimensions.of[node] for node, path, _ in stored_tensors(program)}

    def run(self, parameters: Parameters, images: Tensor) -> Tensor:
        """Logits (n, classes); what is cut of a parameter has no gradient."""
        own = {path: sliced(value, self._dims[path], self._choices) for path, value in parameters.items()}
        outputs = torch.func.functional_call(self._module, own, (images,))
        logits: Tensor = outputs[0] if isinstance(outputs, tuple | list) else outputs
        return logits


def _axes(program: Program, roles: Collection[Role]) -> dict[str, int]:
    """Name and size of the axes that can be nested, in the order of the network: those that layers read."""
    found = {
        axis.name: axis.size
        for axis, readings in readers_in_order(Dimensions(program))
        if axis.role in roles and all(map(is_plain, readings))
    }
    if not found:
        raise EdgevitError(f"{program.card.name} has no axis of role {' or '.join(roles)} that can be nested")
    return found


def _run_of(program: Program, data: _Data, nested: NestedOptions, options: TrainingOptions) -> str:
    """What identifies a run: its checkpoint is of use to no other."""
    given = json.dumps([asdict(nested), asdict(options)])
    return f"{digest(program.exported.state_dict.items())} {digest(vars(data).items())} {given}"


def _check_data(program: Program, data: _Data) -> None:
    if len(data.images) == 0:
        raise EdgevitError("images: there are none; training needs one at least")
    shape = tuple(program.input_shape[1:])
    if tuple(data.images.shape[1:]) != shape:
        raise EdgevitError(
            f"images: each is {tuple(data.images.shape[1:])}, {program.card.name} takes {shape}"
        )
    check_labels(data.labels, len(data.images), program.num_classes)
