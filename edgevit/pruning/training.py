"""Train a Program on its own graph: by labels, a teacher's logits, its features, or all of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgevit.errors import EdgevitError
from edgevit.graph.card import Step
from edgevit.graph.devices import check_device, moved
from edgevit.graph.program import Program
from edgevit.graph.rewriting import Editor
from edgevit.graph.weights import digest
from edgevit.pruning.checkpoint import Parameters, checkpoint_at
from edgevit.pruning.heads import with_features
from edgevit.pruning.loop import Loop, TrainingOptions
from edgevit.pruning.steps import check_labels, distance, loss_of

# A weight (classes, width) and a bias (classes,).
Classifier = tuple[Tensor, Tensor]

# Of the map from features to a teacher's, which is learned and not kept.
_WEIGHT, _BIAS = "features.weight", "features.bias"
# Images that it is first fitted to, and its ridge relative to the mean square of a feature.
_FITTED, _RIDGE = 1024, 1e-2


@dataclass(frozen=True)
class _Data:
    """What is learned from.

    Attributes:
        images: (n, channels, height, width).
        labels: (n,).
        teacher: (n, classes), its logits; None without one.
        features: (n, width), its features, normalised; None for none.
        weight: (all of its classes, width), of its classifier for these; None for none.
        bias: (all of its classes,), likewise.
    """

    images: Tensor
    labels: Tensor
    teacher: Tensor | None
    features: Tensor | None
    weight: Tensor | None
    bias: Tensor | None

    @classmethod
    def of(
        cls,
        images: Tensor,
        labels: Tensor,
        teacher: Tensor | None,
        features: Tensor | None,
        classifier: Classifier | None,
    ) -> _Data:
        """From a teacher's features as they are, and its classifier of such."""
        if features is None:
            return cls(images, labels, teacher, None, None, None)
        features = features.float()
        mean, deviation = features.mean(dim=0), features.std(dim=0, correction=0)
        # One that never changes is 0.
        normalised = (features - mean) / torch.where(deviation > 0, deviation, 1.0)
        if classifier is None:
            return cls(images, labels, teacher, normalised, None, None)
        weight, bias = (value.to(features) for value in classifier)
        return cls(images, labels, teacher, normalised, weight * deviation, bias + weight @ mean)


def train(
    program: Program,
    images: Tensor,
    labels: Tensor,
    *,
    teacher: Tensor | None = None,
    features: Tensor | None = None,
    classifier: Classifier | None = None,
    options: TrainingOptions | None = None,
    checkpoint: Path | None = None,
    torch_device: str = "cpu",
) -> Program:
    """Train every parameter of a Program by gradient descent through its own graph.

    The loss of a batch is, with temperature T (Hinton et al., arXiv 1503.02531)::

        alpha T^2 KL(softmax(teacher / T) || softmax(logits / T)) + (1 - alpha) cross entropy(logits, labels)

    and, where the teacher's features are given, beta times the mean squared error of a linear map from the
    program's features to theirs, each brought to variance 1 (FitNets, Romero et al., arXiv 1412.6550). The
    map starts as the ridge regression of what is there before training, learns along and is thrown away.
    With the teacher's classifier as well, what it answers to mapped features is to be what it answers to its
    own: gamma times the divergence of the two, as above (SimKD, Chen et al., arXiv 2203.14001). So a program
    of some classes, or of none, learns to see what tells all of the teacher's apart.

    The graph is one of evaluation and is trained as it stands: statistics of batch norms are constants (or
    were folded into other layers), and what dropout there was is gone. An epoch leaves out the images that
    do not fill a batch, other ones each time. The same seed gives the same bits on one processor with one
    number of threads, whether or not the run was interrupted; kernels of a GPU may sum in another order.

    Args:
        program: any with a dynamic batch, or one of `options.batch` images; it stays as it is.
        images: (n, channels, height, width), prepared as its card says, of any floating type and on any
            device; batches become float32 on `torch_device`.
        labels: (n,), the class of each image, of those that the first output tells apart.
        teacher: (n, classes) logits to come close to, of the same classes; None learns from labels alone.
        features: (n, width), what the classifier of the teacher reads; None for none.
        classifier: of the teacher, which gives logits of all its classes for such features, its weight
            (all classes, width) and bias (all classes,); None for none.
        options: rates and lengths.
        checkpoint: a file that is written after each epoch, and from which an interrupted run goes on; it
            is gone when the run ends.
        torch_device: "cpu" or "cuda".

    Returns:
        The trained program, on the processor, with a step "train" on its card; the program itself where
        there are no epochs.

    Raises:
        EdgevitError: when images, labels, what is given of a teacher, options and program do not fit one
            another, the loss becomes infinite or NaN, or the checkpoint is of another run; with features,
            when the program has no classifier (`edgevit.pruning.heads.classifier_of`).
    """
    options = options or TrainingOptions()
    check_device(torch_device)
    _check_teacher(features, classifier, len(images))
    data = _Data.of(images, labels, teacher, features, classifier)
    _check_data(program, data, options)
    if options.epochs == 0:
        return program
    saved = None if checkpoint is None else checkpoint_at(checkpoint, _run_of(program, data, options))
    training = _Training(program, data, options, torch_device)
    progress = training.run(saved)
    step = Step(
        name="train",
        options={
            **asdict(options),
            "images": len(data.images),
            "teacher": data.teacher is not None,
            "features": data.features is not None,
            "classifier": data.weight is not None,
        },
        measured={"seconds": round(progress.seconds, 1), "loss": progress.losses[-1]},
    )
    trained = with_parameters(program, training.parameters, step)
    if saved is not None:
        saved.remove()
    return trained


class _Training(Loop):
    """The parameters of a graph, what changes them, and what they learn from.

    Attributes:
        parameters: by their path, copies of the program's.
    """

    def __init__(self, program: Program, data: _Data, options: TrainingOptions, torch_device: str) -> None:
        copied = moved(program if data.features is None else with_features(program), torch_device)
        self.parameters = {
            path: torch.nn.Parameter(value.detach().clone())
            for path, value in copied.exported.named_parameters()
            if value.is_floating_point()
        }
        self._module = copied.module
        self._data = data
        self._options = options
        self._device = torch_device
        self._map = {} if data.features is None else self._first_map(data.features)
        super().__init__(self.parameters | self._map, len(data.images), options)

    def loss(self, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """Of a batch, as `train` says."""
        images = self._taken(self._data.images, chosen).float()
        images = self.augmented(images, generator)
        labels = self._taken(self._data.labels, chosen)
        teacher = None if self._data.teacher is None else self._taken(self._data.teacher, chosen).float()
        with self.arithmetic(self._device):
            outputs = _several(torch.func.functional_call(self._module, dict(self.parameters), (images,)))
        outputs, options = tuple(output.float() for output in outputs), self._options
        loss = loss_of(outputs[0], labels, teacher, options, label_smoothing=options.label_smoothing)
        if self._data.features is not None:
            wanted = self._taken(self._data.features, chosen)
            loss = loss + self._loss_of_features(outputs[-1], wanted)
        return loss

    def _loss_of_features(self, own: Tensor, wanted: Tensor) -> Tensor:
        options, data = self._options, self._data
        found = functional.linear(own, self._map[_WEIGHT], self._map[_BIAS])
        loss = options.beta * functional.mse_loss(found, wanted)
        if data.weight is None or data.bias is None:
            return loss
        weight, bias = data.weight.to(self._device), data.bias.to(self._device)
        own_answers, answers = (functional.linear(features, weight, bias) for features in (found, wanted))
        return loss + options.gamma * distance(own_answers, answers, options.temperature)

    def _taken(self, values: Tensor, chosen: Tensor) -> Tensor:
        return values[chosen.to(values.device)].to(self._device)

    def _first_map(self, wanted: Tensor) -> Parameters:
        """The ridge regression of the teacher's features on the program's, before it is trained."""
        batch, count = self._options.batch, min(len(wanted), _FITTED)
        # Whole batches, which a fixed one needs, from all over the images, which may lie in an order.
        count = count - count % batch if count > batch else count
        places = torch.linspace(0, len(wanted) - 1, count).long()
        own = []
        with torch.no_grad():
            for chosen in torch.split(places, batch):
                images = self._taken(self._data.images, chosen).float()
                outputs = torch.func.functional_call(self._module, dict(self.parameters), (images,))
                own.append(_several(outputs)[-1].double())
        read = torch.cat(own)
        wanted = wanted[places.to(wanted.device)].to(read)
        offset, mean = read.mean(0), wanted.mean(0)
        square = (read - offset).T @ (read - offset)
        ridge = _RIDGE * square.diagonal().mean() * torch.eye(len(square)).to(square)
        weight = torch.linalg.solve(square + ridge, (read - offset).T @ (wanted - mean)).T
        found = {_WEIGHT: weight, _BIAS: mean - weight @ offset}
        return {name: torch.nn.Parameter(value.float()) for name, value in found.items()}


def _several(outputs: Any) -> tuple[Tensor, ...]:
    return tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)


def with_parameters(program: Program, parameters: Parameters, step: Step) -> Program:
    """The program with what was learned, on the processor, and a step on its card."""
    editor = Editor(program)
    for node in editor.graph.find_nodes(op="placeholder"):
        if editor.is_parameter(node) and editor.path(node) in parameters:
            editor.set_value(node, parameters[editor.path(node)].detach().cpu())
    return Program(editor.finish("train").exported, program.card.with_step(step))


def _run_of(program: Program, data: _Data, options: TrainingOptions) -> str:
    """What identifies a run: its checkpoint is of use to no other."""
    tensors = vars(data)
    given = digest((name, value) for name, value in tensors.items() if value is not None)
    return f"{digest(program.exported.state_dict.items())} {given} {json.dumps(asdict(options))}"


def _check_data(program: Program, data: _Data, options: TrainingOptions) -> None:
    name, count, classes = program.card.name, len(data.images), program.num_classes
    if count == 0:
        raise EdgevitError("images: there are none; training needs one at least")
    shape = tuple(program.input_shape[1:])
    if tuple(data.images.shape[1:]) != shape:
        raise EdgevitError(f"images: each is {tuple(data.images.shape[1:])}, {name} takes {shape}")
    if program.batch is not None and (options.batch != program.batch or count < program.batch):
        raise EdgevitError(
            f"batch: {name} was captured for a batch of {program.batch}; train with that and as many images "
            "at least, or capture it with a dynamic batch"
        )
    check_labels(data.labels, count, classes)
    if data.teacher is not None and tuple(data.teacher.shape) != (count, classes):
        raise EdgevitError(f"teacher: its logits are {tuple(data.teacher.shape)}, not {(count, classes)}")


def _check_teacher(features: Tensor | None, classifier: Classifier | None, count: int) -> None:
    if features is None:
        if classifier is not None:
            raise EdgevitError("classifier: a teacher's is of use with its features alone; give them as well")
        return
    if features.ndim != 2 or len(features) != count:
        raise EdgevitError(f"features: they are {tuple(features.shape)}; ({count}, width) are needed")
    if classifier is None:
        return
    weight, bias = classifier
    width = features.shape[1]
    if weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
        raise EdgevitError(
            f"classifier: its weight and bias are {tuple(weight.shape)} and {tuple(bias.shape)}; "
            f"(classes, {width}) and (classes,) are needed"
        )
