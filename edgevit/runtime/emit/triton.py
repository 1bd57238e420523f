"""A Triton model repository: a model for each stage, and an ensemble that hands tensors from one to the next.

Formats: `model_config.proto` of https://github.com/triton-inference-server/common, and the documentation of
ensemble models in https://github.com/triton-inference-server/server. A tensor of an ensemble is made once and
is used, each input of a step is given, and sizes are those of the files, batch and all (`max_batch_size: 0`).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgevit.errors import EdgevitError
from edgevit.runtime.emit.fusion import write_fusion
from edgevit.runtime.emit.options import EmitOptions
from edgevit.runtime.emit.pbtxt import Word, write_message
from edgevit.runtime.emit.source import Source
from edgevit.runtime.models import EnsembleModel

_CONFIG, _FILE, _VERSION = "config.pbtxt", "model.onnx", "1"


@dataclass(frozen=True)
class Spec:
    """A tensor of a file.

    Attributes:
        name: in the file.
        datatype: as Triton calls it.
        dims: sizes, batch included; -1 where any is taken.
    """

    name: str
    datatype: str
    dims: tuple[int, ...]

    def entry(self, name: str | None = None) -> dict[str, object]:
        """As a model's configuration has it."""
        return {"name": name or self.name, "data_type": Word(self.datatype), "dims": list(self.dims)}


@dataclass(frozen=True)
class Model:
    """A model of the repository, and its place in the ensemble.

    Attributes:
        name: of the model.
        inputs: of its file.
        outputs: likewise.
        takes: tensors of the ensemble, by names of inputs.
        gives: likewise by names of those outputs that anyone needs.
    """

    name: str
    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]
    takes: Mapping[str, str]
    gives: Mapping[str, str]


def write(source: Source, folder: Path, options: EmitOptions) -> list[str]:  # noqa: ARG001
    """Write the repository.

    Raises:
        EdgevitError: for replicas, and for files that Triton has no backend for.
    """
    _check(source)
    lanes = source.layout.lanes
    if source.layout.every:
        models = _parts(source, folder)
    elif len(lanes[0].steps) == 1:
        _write_model(folder, source.name, lanes[0].steps[0].piece.path)
        return [_ONE_SERVER.format(folder=source.name)]
    else:
        models = _stages(source, folder)
    _write_ensemble(source, folder, models)
    return [_ONE_SERVER.format(folder=source.name)]


_ONE_SERVER = (
    "a repository is one server's: all of {folder} runs where `tritonserver --model-repository` does"
)


def _check(source: Source) -> None:
    if source.plan.plan.mode == "replicas":
        raise EdgevitError(
            f"{source.path}: a Triton repository is one server's, and replicas are one on each device; emit "
            "a plan of --mode single for each, with a balancer before them"
        )
    for task in source.plan.plan.tasks:
        if task.format != "onnx":
            raise EdgevitError(
                f"{source.path}: {task.device} runs {task.format}, which Triton has no backend for; plan "
                "with `format: onnx`"
            )


def _stages(source: Source, folder: Path) -> list[Model]:
    """A model for each step of a pipeline."""
    # The tensors of the ensemble by what stages call them.
    known = {name: name for name in source.model.card.inputs}
    steps = source.layout.lanes[0].steps
    models = []
    for place, step in enumerate(steps):
        name, last = f"{source.name}-stage-{place}", place == len(steps) - 1
        inputs, outputs = _write_model(folder, name, step.piece.path)
        needed = _needed(source, place)
        made = {tensor: tensor if last else f"{name}.{tensor}" for tensor in step.piece.gives}
        takes = {spec.name: known[tensor] for spec, tensor in zip(inputs, step.piece.takes, strict=True)}
        pairs = zip(outputs, step.piece.gives, strict=True)
        gives = {spec.name: made[tensor] for spec, tensor in pairs if last or tensor in needed}
        models.append(Model(name, inputs, outputs, takes, gives))
        known |= made
    return models


def _needed(source: Source, place: int) -> set[str]:
    """Tensors that later stages take."""
    return {name for step in source.layout.lanes[0].steps[place + 1 :] for name in step.piece.takes}


def _parts(source: Source, folder: Path) -> list[Model]:
    """A model for each part of an ensemble, and one that makes an answer of their features."""
    if not isinstance(source.model, EnsembleModel):
        raise EdgevitError(f"{source.path}: is of no class-wise split")
    image = source.model.card.inputs[0]
    models = []
    for lane in sorted(source.layout.lanes, key=lambda lane: lane.number):
        name, piece = f"{source.name}-part-{lane.number}", lane.steps[0].piece
        inputs, outputs = _write_model(folder, name, piece.path)
        features = {outputs[-1].name: f"{name}.features"}
        models.append(Model(name, inputs, outputs, {inputs[0].name: image}, features))
    taken = tuple(next(iter(model.gives.values())) for model in models)
    logits, name = source.model.card.outputs[0], f"{source.name}-fusion"
    path = folder / name / _VERSION / _FILE
    write_fusion(source.model.fusion, taken, logits, source.plan.items, path)
    inputs, outputs = _configure(folder, name, path)
    takes = {spec.name: spec.name for spec in inputs}
    return [*models, Model(name, inputs, outputs, takes, {logits: logits})]


def _write_model(folder: Path, name: str, path: Path) -> tuple[tuple[Spec, ...], tuple[Spec, ...]]:
    """A file as a model; its inputs and outputs."""
    placed = folder / name / _VERSION / _FILE
    placed.parent.mkdir(parents=True)
    shutil.copyfile(path, placed)
    return _configure(folder, name, placed)


def _configure(folder: Path, name: str, path: Path) -> tuple[tuple[Spec, ...], tuple[Spec, ...]]:
    inputs, outputs = specs_of(path)
    config = {
        "name": name,
        "platform": "onnxruntime_onnx",
        "max_batch_size": 0,
        "input": [spec.entry() for spec in inputs],
        "output": [spec.entry() for spec in outputs],
    }
    (folder / name / _CONFIG).write_text(write_message(config), encoding="utf-8")
    return inputs, outputs


def specs_of(path: Path) -> tuple[tuple[Spec, ...], tuple[Spec, ...]]:
    """Inputs and outputs of an ONNX file."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    held = {initializer.name for initializer in graph.initializer}
    inputs = tuple(_spec(value) for value in graph.input if value.name not in held)
    return inputs, tuple(_spec(value) for value in graph.output)


def _spec(value: object) -> Spec:
    import onnx

    kind = value.type.tensor_type  # type: ignore[attr-defined]
    dims = tuple(size.dim_value if size.HasField("dim_value") else -1 for size in kind.shape.dim)
    name: str = value.name  # type: ignore[attr-defined]
    word = onnx.TensorProto.DataType.Name(kind.elem_type)
    return Spec(name, f"TYPE_{_DATATYPES.get(word, word)}", dims)


# Where Triton's name is another than ONNX's.
_DATATYPES = {"FLOAT": "FP32", "FLOAT16": "FP16", "DOUBLE": "FP64"}


def _write_ensemble(source: Source, folder: Path, models: Sequence[Model]) -> None:
    taken = {tensor: spec for model in models for spec, tensor in _taken(model)}
    given = {tensor: spec for model in models for spec, tensor in _given(model)}
    card = source.model.card
    config = {
        "name": source.name,
        "platform": "ensemble",
        "max_batch_size": 0,
        "input": [taken[name].entry(name) for name in card.inputs],
        "output": [given[name].entry(name) for name in card.outputs],
        "ensemble_scheduling": {"step": [_step(model) for model in models]},
    }
    # Triton wants a version of an ensemble as well, though nothing is in it.
    (folder / source.name / _VERSION).mkdir(parents=True)
    (folder / source.name / _CONFIG).write_text(write_message(config), encoding="utf-8")


def _taken(model: Model) -> list[tuple[Spec, str]]:
    return [(spec, model.takes[spec.name]) for spec in model.inputs]


def _given(model: Model) -> list[tuple[Spec, str]]:
    return [(spec, model.gives[spec.name]) for spec in model.outputs if spec.name in model.gives]


def _step(model: Model) -> dict[str, object]:
    return {
        "model_name": model.name,
        "model_version": -1,
        "input_map": [{"key": key, "value": value} for key, value in model.takes.items()],
        "output_map": [{"key": key, "value": value} for key, value in model.gives.items()],
    }
