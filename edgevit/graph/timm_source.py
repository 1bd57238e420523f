"""Models by name from timm."""

from __future__ import annotations

from typing import Any

import torch

from edgevit import extras
from edgevit.errors import EdgevitError, closest
from edgevit.graph.card import Preprocessing
from edgevit.graph.choices import Choices, Source, given_weights, refine
from edgevit.graph.hub import first_line, no_download, quiet_hub
from edgevit.graph.torchvision_shim import make_torchvision_importable


def load_timm(name: str, choices: Choices) -> Source:
    """The timm model `name`, with published weights unless the user's choices say otherwise.

    Raises:
        EdgevitError: when timm has no such model, cannot build it so, or its weights cannot be had.
        MissingDependencyError: when timm is not installed.
    """
    make_torchvision_importable()
    timm = extras.load("timm", "timm", f"timm:{name}")
    if not timm.is_model(name):
        raise EdgevitError(f"timm:{name}: timm has no such model; {closest(name, timm.list_models())}")
    pretrained = choices.weights is None
    config = _timm_config(timm, name, pretrained=pretrained)
    options: dict[str, Any] = {}
    if choices.num_classes is not None:
        options["num_classes"] = choices.num_classes
    if choices.input_size is not None and config.fixed_input_size:
        options["img_size"] = choices.input_size
    try:
        with quiet_hub():
            module = timm.create_model(name, pretrained=pretrained, **options)
    except OSError as error:
        raise EdgevitError(no_download(f"timm:{name}")) from error
    except (RuntimeError, TypeError, AssertionError, ValueError) as error:
        raise EdgevitError(f"timm:{name} cannot be built with these options: {first_line(error)}") from error
    weights, sha = given_weights(module, choices, otherwise=f"timm hub: {config.hf_hub_id or config.url}")
    return Source(
        name=name,
        module=module,
        preprocessing=_timm_preprocessing(timm, name, module, choices),
        weights=weights,
        weights_sha256=sha,
        labels=choices.labels or (_timm_labels(timm, module) if pretrained else None),
        licence=config.license if pretrained else None,
    )


def _timm_config(timm: Any, name: str, *, pretrained: bool) -> Any:
    config = timm.models.get_pretrained_cfg(name)
    if config is None:
        raise EdgevitError(f"timm:{name}: timm has no pretrained configuration for it")
    if pretrained and not config.has_weights:
        raise EdgevitError(f"timm:{name} has no published weights; pass --weights FILE")
    return config


def _timm_preprocessing(timm: Any, name: str, module: torch.nn.Module, choices: Choices) -> Preprocessing:
    config = timm.data.resolve_model_data_config(module)
    if config["crop_mode"] not in ("center", "squash"):
        raise EdgevitError(
            f"timm:{name} uses the crop mode {config['crop_mode']!r}, which is not supported; capture it "
            "from a function of your own and say --input-size, --resize, --mean and --std"
        )
    base = Preprocessing.cropped(
        choices.input_size or tuple(config["input_size"][1:]),
        crop_fraction=config["crop_pct"],
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
    if config["crop_mode"] == "squash" and isinstance(base.resize_to, int):
        base = base.model_copy(update={"resize_to": (base.resize_to, base.resize_to)})
    return refine(base, choices)


def _timm_labels(timm: Any, module: torch.nn.Module) -> tuple[str, ...] | None:
    """Class names of the ImageNet subset that published timm weights were trained on."""
    subset = timm.data.infer_imagenet_subset(module)
    return tuple(timm.data.ImageNetInfo(subset).label_descriptions()) if subset else None
