"""Small packages built op by op, and models whose every branch counts."""

import numpy as np
import torch
from torch import nn

from edgevit.export.mil.quiet import quiet_coremltools
from edgevit.graph.capture import capture


def save_mil(path, build, inputs, *, ios=18, half=False):
    """A package with one function: `build(mb, variables)` gives its outputs by name.

    Args:
        path: the package to write.
        build: makes the ops with coremltools' builder, from the inputs by name.
        inputs: arrays by name; floats are declared fp32, or fp16 if `half`, integers int32.
        ios: the version whose ops are used.
        half: whether float inputs are fp16.
    """
    with quiet_coremltools():
        import coremltools as ct
        from coremltools.converters.mil import Builder
        from coremltools.converters.mil.mil import Function, Program, types

        floating = types.fp16 if half else types.fp32
        specs = {
            name: Builder.TensorSpec(
                shape=array.shape, dtype=floating if array.dtype.kind == "f" else types.int32
            )
            for name, array in inputs.items()
        }
        program = Program()
        target = getattr(ct.target, f"iOS{ios}")
        with Function(specs, opset_version=target) as function:
            results = build(Builder, function.inputs)
            function.set_outputs([Builder.identity(x=value, name=name) for name, value in results.items()])
        program.add_function("main", function)
        # No passes: the ops have to be in the file as they were written here.
        model = ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=target,
            pass_pipeline=ct.PassPipeline.EMPTY,
            skip_model_load=True,
        )
        model.save(str(path))
    return path


def lively(model, seed=0):
    """The model with random norms and branch scales: zero-initialised ones would hide whole branches."""
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor, centre=0.0):
        return centre + 0.1 * torch.randn(tensor.shape, generator=generator)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.running_mean.copy_(noise(module.running_mean))
                module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
        for name, parameter in model.named_parameters():
            scales = any(word in name for word in ("gamma", "layer_scale", ".ls", "scale"))
            if parameter.ndim <= 1 or scales:
                parameter.copy_(noise(parameter, 1.0 if scales or name.endswith("weight") else 0.0))
    return model.eval()


class TinyHybrid(nn.Module):
    """A convolutional stem, one transformer block over its pixels, a classifier: seconds to convert."""

    def __init__(self, channels=3, classes=5, width=16, heads=2):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, 2, 1), nn.BatchNorm2d(width), nn.SiLU(), nn.MaxPool2d(2)
        )
        self.norm = nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width))
        self.head = nn.Linear(width, classes)
        self.heads = heads

    def forward(self, image):
        x = self.stem(image).flatten(2).transpose(1, 2)
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, tokens, 3, self.heads, width // self.heads)
        attended = nn.functional.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4))
        x = x + self.out(attended.transpose(1, 2).reshape(batch, tokens, width))
        x = x + self.mlp(x)
        return self.head(x.mean(1))


IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def tiny_program(*, labels=("ant", "bee", "cat", "dog", "elk"), channels=3, **preprocessing):
    """A captured `TinyHybrid` for 32x32 images."""
    torch.manual_seed(0)
    return capture(
        lively(TinyHybrid(channels)),
        name="tiny",
        input_size=(32, 32),
        labels=labels,
        **(preprocessing or IMAGENET),
    )


def prepared(program, count=2, seed=0):
    """Prepared noise images for a program."""
    shape = (count, *program.card.preprocessing.input_shape)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def rel(actual, expected):
    """Largest difference over largest value."""
    return float(np.abs(actual - expected).max() / np.abs(expected).max())
