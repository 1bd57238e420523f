"""Cases: convolution, pooling, resizing."""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from tests.coreml_cases import case, floats, plain, torched

IMAGE = (2, 4, 9, 8)
WEIGHT, DEPTHWISE, BIAS = floats(6, 4, 3, 2), floats(4, 1, 3, 3), floats(6)


def conv_case(name, build_options, reference, weight=WEIGHT, bias=BIAS):
    options = {"weight": weight, **({} if bias is None else {"bias": bias}), **build_options}
    return case(name, [floats(*IMAGE)], lambda mb, x: mb.conv(x=x, **options), torched(reference))


def padded_conv(pads, **options):
    return lambda x: F.conv2d(F.pad(x, pads), torch.from_numpy(WEIGHT), torch.from_numpy(BIAS), **options)


CONVOLUTIONS = [
    conv_case("conv-valid", {"pad_type": "valid"}, padded_conv((0, 0, 0, 0))),
    conv_case(
        "conv-custom-strided-dilated",
        {"pad_type": "custom", "pad": [1, 2, 0, 1], "strides": [2, 1], "dilations": [1, 2]},
        padded_conv((0, 1, 1, 2), stride=(2, 1), dilation=(1, 2)),
    ),
    conv_case("conv-same", {"pad_type": "same", "strides": [2, 2]}, padded_conv((0, 0, 1, 1), stride=2)),
    conv_case("conv-same_lower", {"pad_type": "same_lower"}, padded_conv((1, 0, 1, 1))),
    conv_case(
        "conv-depthwise",
        {"pad_type": "custom", "pad": [1, 1, 1, 1], "groups": 4},
        lambda x: F.conv2d(x, torch.from_numpy(DEPTHWISE), padding=1, groups=4),
        weight=DEPTHWISE,
        bias=None,
    ),
    case(
        "conv-1d",
        [floats(1, 4, 9)],
        lambda mb, x: mb.conv(x=x, weight=WEIGHT[:, :, 0], pad_type="valid"),
        torched(lambda x: F.conv1d(x, torch.from_numpy(WEIGHT[:, :, 0].copy()))),
    ),
    case(
        "conv_transpose",
        [floats(1, 6, 5, 4)],
        lambda mb, x: mb.conv_transpose(
            x=x, weight=WEIGHT, strides=[2, 2], pad_type="custom", pad=[1, 1, 0, 0], bias=floats(4) * 0
        ),
        torched(lambda x: F.conv_transpose2d(x, torch.from_numpy(WEIGHT), stride=2, padding=(1, 0))),
    ),
    case(
        "conv_transpose-output_shape",
        [floats(1, 6, 5, 4)],
        lambda mb, x: mb.conv_transpose(
            x=x,
            weight=WEIGHT,
            bias=BIAS[:4],
            strides=[2, 2],
            pad_type="custom",
            pad=[1, 0, 0, 0],
            output_shape=[1, 4, 10, 9],
        ),
        torched(
            lambda x: F.conv_transpose2d(
                x, torch.from_numpy(WEIGHT), torch.from_numpy(BIAS[:4]), stride=2, output_padding=(0, 1)
            )[:, :, 1:]
        ),
    ),
    plain(
        "max_pool",
        torched(lambda x: F.max_pool2d(x, 3, 2, 1)),
        IMAGE,
        kernel_sizes=[3, 3],
        strides=[2, 2],
        pad_type="custom",
        pad=[1, 1, 1, 1],
    ),
    plain(
        "max_pool",
        torched(lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True)),
        IMAGE,
        kernel_sizes=[3, 3],
        strides=[2, 2],
        pad_type="custom",
        pad=[1, 1, 1, 1],
        ceil_mode=True,
    ),
    plain(
        "avg_pool",
        torched(lambda x: F.avg_pool2d(x, 2, 2)),
        IMAGE,
        kernel_sizes=[2, 2],
        strides=[2, 2],
        pad_type="valid",
    ),
] + [
    plain(
        "avg_pool",
        torched(lambda x, e=exclude, c=ceil: F.avg_pool2d(x, 3, 2, 1, ceil_mode=c, count_include_pad=not e)),
        IMAGE,
        kernel_sizes=[3, 3],
        strides=[2, 2],
        pad_type="custom",
        pad=[1, 1, 1, 1],
        exclude_padding_from_average=exclude,
        ceil_mode=ceil,
    )
    for exclude in (False, True)
    for ceil in (False, True)
]


def interpolated(**options):
    return torched(lambda x: F.interpolate(x, **options))


def sampled(rows, columns):
    """Linear interpolation at the grid points that MIL's specification gives for a mode."""

    def call(x):
        for axis, points in ((2, rows), (3, columns)):
            places = np.arange(x.shape[axis])
            x = np.apply_along_axis(lambda line, at=points, on=places: np.interp(at, on, line), axis, x)
        return x.astype(np.float32)

    return call


RESIZED = (1, 2, 5, 6)

RESIZING = (
    [
        plain(
            "upsample_bilinear",
            interpolated(scale_factor=2, mode="bilinear", align_corners=corners),
            RESIZED,
            scale_factor_height=2,
            scale_factor_width=2,
            align_corners=corners,
        )
        for corners in (False, True)
    ]
    + [
        plain(
            "upsample_bilinear",
            interpolated(size=(7, 9), mode="bilinear", align_corners=False),
            RESIZED,
            scale_factor_height=1.4,
            scale_factor_width=1.5,
            align_corners=False,
            half_pixel_centers=True,
        ),
        plain(
            "resize_bilinear",
            interpolated(size=(7, 3), mode="bilinear", align_corners=False),
            RESIZED,
            target_size_height=7,
            target_size_width=3,
            sampling_mode="UNALIGN_CORNERS",
        ),
        plain(
            "resize_bilinear",
            interpolated(size=(7, 3), mode="bilinear", align_corners=True),
            RESIZED,
            target_size_height=7,
            target_size_width=3,
            sampling_mode="STRICT_ALIGN_CORNERS",
        ),
        plain(
            "upsample_nearest_neighbor",
            interpolated(scale_factor=2),
            RESIZED,
            scale_factor_height=2,
            scale_factor_width=2,
        ),
        plain(
            "resize_nearest_neighbor",
            interpolated(size=(7, 3)),
            RESIZED,
            target_size_height=7,
            target_size_width=3,
        ),
    ]
    + [
        plain(
            "resize_bilinear",
            sampled(rows, columns),
            (1, 2, 2, 6),
            target_size_height=3,
            target_size_width=len(columns),
            sampling_mode=mode,
        )
        for mode, rows, columns in (
            ("DEFAULT", [0, 2 / 3, 4 / 3], [0, 3]),
            ("OFFSET_CORNERS", [1 / 6, 3 / 6, 5 / 6], [1.25, 3.75]),
            ("ALIGN_CORNERS", [0, 0.5, 1], [2.5]),
        )
    ]
)

CASES = [*CONVOLUTIONS, *RESIZING]
