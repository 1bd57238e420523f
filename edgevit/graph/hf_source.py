"""Image and video classifiers of transformers, by hub id or from a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from edgevit import extras
from edgevit.errors import EdgevitError
from edgevit.graph.card import Preprocessing
from edgevit.graph.choices import Choices, Source, declared_preprocessing, given_weights, refine
from edgevit.graph.hub import first_line, no_download, quiet_hub
from edgevit.graph.torchvision_shim import make_torchvision_importable


class _LogitsOnly(torch.nn.Module):
    """A transformers classifier as a function of the image (or clip) alone, RGB in and logits out."""

    def __init__(self, model: torch.nn.Module, *, flip_channels: bool) -> None:
        super().__init__()
        self.model = model
        self.flip_channels = flip_channels

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        # Some cards (MobileViT) want BGR: turning the channels inside keeps RGB as the one convention.
        logits: torch.Tensor = self.model(pixel_values=image.flip(-3) if self.flip_channels else image).logits
        return logits


def load_hf(name: str, choices: Choices) -> Source:
    """The transformers classifier `name`, a hub id or a folder that `save_pretrained` wrote.

    No code of the model's repository is run.

    Raises:
        EdgevitError: when it is no image or video classifier, its files are incomplete or cannot be had.
        MissingDependencyError: when transformers is not installed.
    """
    make_torchvision_importable()
    transformers = extras.load("transformers", "hf", f"hf:{name}")
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise EdgevitError(f"hf:{name}: the folder has no config.json, so it is no transformers model")
    try:
        with quiet_hub():
            config = transformers.AutoConfig.from_pretrained(name)
            if choices.num_classes is not None:
                config.num_labels = choices.num_classes
            model = _hf_model(transformers, name, config, pretrained=choices.weights is None)
            processor = _hf_processor(transformers, name)
    except OSError as error:
        problem = f"the files in {name} are incomplete: {first_line(error)}"
        raise EdgevitError(
            f"hf:{name}: {problem}" if Path(name).is_dir() else no_download(f"hf:{name}")
        ) from error
    except (ValueError, KeyError, RuntimeError, TypeError) as error:
        raise EdgevitError(
            f"hf:{name} cannot be loaded as an image or video classifier: {first_line(error)}"
        ) from error
    weights, sha = given_weights(model, choices, otherwise=f"transformers hub: {name}")
    labels = tuple(str(config.id2label[index]) for index in range(config.num_labels))
    generic = all(label == f"LABEL_{index}" for index, label in enumerate(labels))
    return Source(
        name=Path(name).name,
        module=_LogitsOnly(model, flip_channels=bool(processor.get("do_flip_channel_order"))),
        preprocessing=_hf_preprocessing(
            name, config, processor, replace(choices, frames=choices.frames or _frames(transformers, config))
        ),
        weights=weights,
        weights_sha256=sha,
        labels=choices.labels or (None if generic else labels),
    )


def _hf_model(transformers: Any, name: str, config: Any, *, pretrained: bool) -> torch.nn.Module:
    video = _frames(transformers, config) is not None
    task = "VideoClassification" if video else "ImageClassification"
    classifier = getattr(transformers, f"AutoModelFor{task}")
    model: torch.nn.Module
    if pretrained:
        model, report = classifier.from_pretrained(name, config=config, output_loading_info=True)
        absent = sorted(report["missing_keys"])
        if absent:
            raise ValueError(f"its weights lack {', '.join(absent[:3])}; pass --weights FILE")
    else:
        model = classifier.from_config(config)
    return model


def _frames(transformers: Any, config: Any) -> int | None:
    """Frames of a clip, where the model is a video classifier."""
    video = type(config) in transformers.MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING
    return int(config.num_frames) if video else None


def _hf_processor(transformers: Any, name: str) -> Mapping[str, Any]:
    """The image processor's settings, or nothing where the model has none."""
    if Path(name).is_dir() and not (Path(name) / "preprocessor_config.json").is_file():
        return {}
    settings: Mapping[str, Any] = transformers.AutoImageProcessor.from_pretrained(name).to_dict()
    return settings


def _hf_preprocessing(
    name: str, config: Any, processor: Mapping[str, Any], choices: Choices
) -> Preprocessing:
    if not processor:
        return declared_preprocessing(f"hf:{name} has no preprocessor_config.json", choices)
    size = processor.get("size") or {}
    crop = processor.get("crop_size") if processor.get("do_center_crop") else None
    resize_to: int | tuple[int, int] | None
    if not processor.get("do_resize"):
        resize_to = None
    elif "shortest_edge" in size:
        # ConvNext-like processors enlarge the short edge so that the crop takes this share of it.
        share = processor.get("crop_pct")
        resize_to = int(size["shortest_edge"] / share) if share else int(size["shortest_edge"])
        crop = crop or ({"height": size["shortest_edge"], "width": size["shortest_edge"]} if share else None)
    elif {"height", "width"} <= set(size):
        resize_to = (size["height"], size["width"])
    else:
        raise EdgevitError(f"hf:{name} resizes by {dict(size)}; pass --input-size and --resize instead")
    own = crop or size
    height, width = own.get("height"), own.get("width")
    if height is None or width is None:
        height = width = config.image_size
    if choices.input_size is not None:
        resize_to = _scaled(resize_to, (height, width), choices.input_size)
        height, width = choices.input_size
    mean, std = _normalisation(processor)
    base = Preprocessing(
        input_size=(height, width),
        resize_to=resize_to,
        interpolation=_PIL_RESAMPLING[int(processor.get("resample", 3))],
        mean=mean,
        std=std,
    )
    return refine(base, choices)


def _normalisation(processor: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of images scaled to 0..1, whatever range the processor scales them to.

    ViViT's scales to -1..1 (`offset`) before it normalises.
    """
    normalises = processor.get("do_normalize")
    mean = processor["image_mean"] if normalises else (0.0, 0.0, 0.0)
    std = processor["image_std"] if normalises else (1.0, 1.0, 1.0)
    # round: 255 times a factor that is stored as 1/255 in decimal.
    scale = (
        round(255 * processor.get("rescale_factor", 1 / 255), 6) if processor.get("do_rescale", True) else 255
    )
    offset = 1.0 if processor.get("offset") else 0.0
    return tuple((value + offset) / scale for value in mean), tuple(value / scale for value in std)


# PIL.Image.Resampling, by number.
_PIL_RESAMPLING: dict[int, Any] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def _scaled(
    resize_to: int | tuple[int, int] | None, old: tuple[int, int], new: tuple[int, int]
) -> int | tuple[int, int] | None:
    """The resize that keeps the same share of the image in the crop at another input size."""
    match resize_to:
        case int(edge):
            return round(edge * min(new) / min(old))
        case (height, width):
            return (round(height * new[0] / old[0]), round(width * new[1] / old[1]))
        case None:
            return None
