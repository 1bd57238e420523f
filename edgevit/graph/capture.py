"""Capture: a model from any source becomes a Program."""

from __future__ import annotations

import logging
import platform
from pathlib import Path

import torch
from pydantic import JsonValue

from edgevit.errors import EdgevitError
from edgevit.extras import version_of
from edgevit.files import existing_file, sha256_of
from edgevit.graph.card import Card, Preprocessing, Provenance, Step
from edgevit.graph.choices import Choices, Source, declared_preprocessing, read_labels, refine
from edgevit.graph.hub import first_line
from edgevit.graph.program import Program, export_module, read_exported
from edgevit.graph.sources import from_module, load_source

# The eager module and its graph run the same kernels; more than this is a capture gone wrong.
_CAPTURE_TOLERANCE = 1e-5


def capture(
    model: str | torch.nn.Module,
    *,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    input_size: tuple[int, int] | None = None,
    resize: int | tuple[int, int] | str | None = None,
    interpolation: str | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    labels: tuple[str, ...] | str | Path | None = None,
    frames: int | None = None,
    name: str | None = None,
) -> Program:
    """Capture a vision model as a Program.

    The batch dimension is dynamic where the model allows; where it does not, the graph is captured
    for one image and the step on the card says why. The graph's output is compared with the model's.

    Args:
        model: ``timm:NAME``, ``hf:ID_OR_DIR``, ``FILE.pt2``, ``package.module:factory``, or a module
            that takes (batch, channels, height, width) float32, or with `frames` (batch, frames,
            channels, height, width), and returns logits first.
        weights: safetensors or torch file, or ``"random"``; None uses the source's own.
        num_classes: size of the classifier, where the source can build another than its own.
        input_size: (height, width).
        resize: short edge, (height, width) or ``"none"``: the resize before the centre crop.
        interpolation: one of `edgevit.graph.card.INTERPOLATIONS`.
        mean: per-channel mean of images scaled to 0..1.
        std: per-channel standard deviation of the same.
        labels: class names in the order of the logits, or a file with one a line.
        frames: frames of a clip, for a video classifier; None for images.
        name: what to call it; None takes the source's name.

    Raises:
        EdgevitError: when the source cannot be used or the model cannot be exported.
    """
    choices = Choices(
        weights=weights,
        num_classes=num_classes,
        input_size=input_size,
        resize=resize,
        interpolation=interpolation,
        mean=mean,
        std=std,
        labels=read_labels(labels) if isinstance(labels, str | Path) else labels,
        frames=frames,
    )
    if isinstance(model, str) and model.endswith(".pt2"):
        return _recaptured(existing_file(model, "model"), choices, name)
    if isinstance(model, str):
        source, origin = load_source(model, choices), model
    else:
        if weights is not None:
            raise EdgevitError("weights: load them into the module before capturing it")
        source = from_module(model, name or type(model).__name__, choices)
        origin = f"{type(model).__module__}.{type(model).__qualname__}"
    return _captured(source, origin, name)


def _captured(source: Source, origin: str, name: str | None) -> Program:
    exported, dynamic, why = _export(source)
    measured: dict[str, JsonValue] = {"dynamic_batch": dynamic}
    if why:
        measured["static_because"] = why
    with torch.no_grad():
        image = torch.randn(1, *source.preprocessing.input_shape, generator=torch.Generator().manual_seed(0))
        expected = _outputs(source.module(image))
        actual = _outputs(exported.module(check_guards=False)(image))
    measured["max_abs"] = _agreement(expected, actual, source.name)
    card = Card(
        name=name or source.name,
        preprocessing=source.preprocessing,
        labels=source.labels,
        licence=source.licence,
        outputs=("logits", *(f"output_{index}" for index in range(1, len(actual)))),
        provenance=Provenance(
            source=origin,
            weights=source.weights,
            weights_sha256=source.weights_sha256,
            tools=_tools(),
        ),
        steps=(Step(name="capture", measured=measured),),
    )
    return _checked(Program(exported, card))


def _export(source: Source) -> tuple[torch.export.ExportedProgram, bool, str | None]:
    """The graph, whether its batch is dynamic, and if not, why."""
    shape = source.preprocessing.input_shape
    # torch.export reports a refused dynamic dimension through its logger as well as the error.
    logging.getLogger("torch.fx.experimental.symbolic_shapes").setLevel(logging.ERROR)
    try:
        return export_module(source.module, torch.zeros(2, *shape), dynamic_batch=True), True, None
    # torch.export raises whatever the traced model raises.
    except Exception as refusal:  # noqa: BLE001
        why = first_line(refusal)
    try:
        return export_module(source.module, torch.zeros(1, *shape), dynamic_batch=False), False, why
    except Exception as error:
        raise EdgevitError(
            f"{source.name} cannot be captured for a {'x'.join(map(str, shape))} image: {first_line(error)}"
        ) from error


def _outputs(result: object) -> tuple[torch.Tensor, ...]:
    results = tuple(result.values()) if isinstance(result, dict) else result
    results = results if isinstance(results, tuple | list) else (results,)
    if not results or not all(isinstance(item, torch.Tensor) for item in results):
        raise EdgevitError(
            f"the model returned {type(result).__name__}; logits, or a tuple of tensors, are needed"
        )
    return tuple(results)


def _agreement(expected: tuple[torch.Tensor, ...], actual: tuple[torch.Tensor, ...], name: str) -> float:
    worst = 0.0
    for ours, theirs in zip(actual, expected, strict=True):
        difference = (ours - theirs).abs().max().item()
        scale = theirs.abs().max().item()
        if not difference <= _CAPTURE_TOLERANCE * max(scale, 1e-6):
            raise EdgevitError(
                f"{name}: its exported graph differs from the model by {difference:.3g} on values up "
                f"to {scale:.3g}; the model is random, or depends on its input's values"
            )
        worst = max(worst, difference)
    return worst


def _recaptured(path: Path, choices: Choices, name: str | None) -> Program:
    """A saved graph with a new card, or the user's changes to the card it has."""
    if choices.weights is not None or choices.num_classes is not None:
        raise EdgevitError(f"{path} is a captured graph: --weights and --num-classes are fixed in it")
    extra = {"edgevit_card.json": ""}
    exported = read_exported(path, extra)
    if extra["edgevit_card.json"]:
        card = Card.from_json(extra["edgevit_card.json"], str(path))
        card.check_whole()
        changes = {"preprocessing": refine(card.preprocessing, choices)}
        card = card.model_copy(
            update={**changes, "labels": choices.labels or card.labels, "name": name or card.name}
        )
        program = Program(exported, card)
    else:
        program = Program(exported, _foreign_card(path, exported, choices, name))
    if choices.input_size not in (None, tuple(program.input_shape[-2:])):
        raise EdgevitError(
            f"{path} was captured for {program.input_shape[-2:]} images; --input-size cannot change it"
        )
    return _checked(program)


def _foreign_card(
    path: Path, exported: torch.export.ExportedProgram, choices: Choices, name: str | None
) -> Card:
    preprocessing: Preprocessing = declared_preprocessing(f"{path} has no card", choices)
    extra_outputs = len(exported.graph_signature.user_outputs) - 1
    return Card(
        name=name or path.stem,
        preprocessing=preprocessing,
        labels=choices.labels,
        outputs=("logits", *(f"output_{index}" for index in range(1, extra_outputs + 1))),
        provenance=Provenance(
            source=path.name, weights=path.name, weights_sha256=sha256_of(path), tools=_tools()
        ),
    )


def _checked(program: Program) -> Program:
    """The program, if its card fits its graph."""
    card, shape = program.card, program.input_shape
    if tuple(shape[1:]) != card.preprocessing.input_shape:
        raise EdgevitError(
            f"{card.name} takes {'x'.join(map(str, shape[1:]))} input, its preprocessing makes "
            f"{'x'.join(map(str, card.preprocessing.input_shape))}; set --input-size, --mean, --std and "
            "(for video) --frames to fit"
        )
    if len(program.output_shapes[0]) != 2:
        raise EdgevitError(
            f"{card.name}: its first output has {len(program.output_shapes[0])} dimensions; "
            "a classifier's logits have 2, (batch, classes)"
        )
    if card.labels is not None and len(card.labels) != program.num_classes:
        raise EdgevitError(
            f"--labels names {len(card.labels)} classes, {card.name} tells {program.num_classes} apart"
        )
    return program


def _tools() -> dict[str, str]:
    versions = {name: version_of(name) for name in ("edgevit", "torch", "timm", "transformers")}
    return {"python": platform.python_version()} | {name: v for name, v in versions.items() if v}
