"""Cases: quantised activations and compressed weights."""

import numpy as np

from tests.coreml_cases import RNG, case, floats

MATRIX = floats(6, 5)
QUANTISED = RNG.integers(-128, 128, (2, 3, 4)).astype(np.int8)
NIBBLES = RNG.integers(-8, 8, (4, 6)).astype(np.int8)
ZERO_POINTS, SCALES = np.int8([-3, 0, 5]), floats(3, low=0.1)
BLOCK_SCALES, BLOCK_OFFSETS = floats(2, 3, low=0.1), RNG.integers(-8, 8, (2, 3)).astype(np.int8)
TABLE, PLACES = floats(16), RNG.integers(0, 16, (5, 3)).astype(np.uint8)
MASK = RNG.integers(0, 2, (4, 6)).astype(bool)
STORED = floats(int(MASK.sum()))
TABLES, VECTORS = floats(2, 1, 4, 1), floats(1, 1, 4, 2)
PAIRS = RNG.integers(0, 4, (6, 2)).astype(np.uint8)


def with_weight(weight):
    """Add a weight that another op makes, so that what it made shows."""
    return lambda mb, x: mb.add(x=x, y=weight(mb))


def packed(values, bits):
    """Elements of `bits` bits in bytes, least significant bit first."""
    stream = (values.reshape(-1, 1) >> np.arange(bits)) & 1
    return np.packbits(stream.reshape(-1).astype(np.uint8), bitorder="little")


def small(values, dtype):
    from coremltools.converters.mil.mil import types

    return values.astype(types.nptype_from_builtin(types.string_to_builtin(dtype)))


CASES = [
    case(
        "quantize-uint8-and-dequantize",
        [floats(2, 3, 4)],
        lambda mb, x: mb.dequantize(
            input=mb.quantize(input=x, scale=0.01, zero_point=np.uint8(128), output_dtype="uint8"),
            scale=0.01,
            zero_point=np.uint8(128),
        ),
        lambda x: np.float32(0.01) * (np.clip(np.round(x / np.float32(0.01)) + 128, 0, 255) - 128),
        ios=17,
    ),
    case(
        "quantize-per-channel",
        [floats(2, 3, 4)],
        lambda mb, x: mb.cast(
            x=mb.quantize(input=x, scale=SCALES, zero_point=ZERO_POINTS, axis=1, output_dtype="int8"),
            dtype="int32",
        ),
        lambda x: np.clip(np.round(x / SCALES[:, None]) + ZERO_POINTS[:, None], -128, 127).astype(np.int32),
        ios=17,
    ),
    case(
        "dequantize-without-zero-point",
        [floats(2, 3, 4)],
        with_weight(lambda mb: mb.dequantize(input=QUANTISED, scale=SCALES, axis=1)),
        lambda x: x + QUANTISED * SCALES[:, None],
        ios=17,
    ),
    case(
        "constexpr_affine_dequantize",
        [floats(2, 3, 4)],
        with_weight(
            lambda mb: mb.constexpr_affine_dequantize(
                quantized_data=QUANTISED, zero_point=ZERO_POINTS, scale=SCALES, axis=1
            )
        ),
        lambda x: x + SCALES[:, None] * (QUANTISED.astype(np.float32) - ZERO_POINTS[:, None]),
    ),
    case(
        "constexpr_cast",
        [floats(5, 3)],
        with_weight(
            lambda mb: mb.constexpr_cast(source_val=MATRIX[:5, :3].astype(np.float16), output_dtype="fp32")
        ),
        lambda x: x + MATRIX[:5, :3].astype(np.float16).astype(np.float32),
    ),
    case(
        "constexpr_lut_to_dense",
        [floats(5, 3)],
        with_weight(
            lambda mb: mb.constexpr_lut_to_dense(
                indices=packed(PLACES, 4), lut=TABLE, shape=np.uint32([5, 3])
            )
        ),
        lambda x: x + TABLE[PLACES],
    ),
    case(
        "constexpr_sparse_to_dense",
        [floats(4, 6)],
        with_weight(
            lambda mb: mb.constexpr_sparse_to_dense(
                nonzero_data=STORED, mask=packed(MASK, 1), shape=np.uint32([4, 6])
            )
        ),
        lambda x: x + sparse(STORED),
    ),
    case(
        "constexpr_blockwise_shift_scale-int4",
        [floats(4, 6)],
        with_weight(
            lambda mb: mb.constexpr_blockwise_shift_scale(
                data=small(NIBBLES, "int4"), scale=BLOCK_SCALES, offset=small(BLOCK_OFFSETS, "int4")
            )
        ),
        lambda x: x + blocks(BLOCK_SCALES) * (NIBBLES - blocks(BLOCK_OFFSETS).astype(np.float32)),
        ios=18,
    ),
    case(
        "constexpr_blockwise_shift_scale-without-offset",
        [floats(4, 6)],
        with_weight(lambda mb: mb.constexpr_blockwise_shift_scale(data=NIBBLES, scale=BLOCK_SCALES)),
        lambda x: x + blocks(BLOCK_SCALES) * NIBBLES,
        ios=18,
    ),
    case(
        "constexpr_lut_to_dense-groups",
        [floats(6, 2)],
        with_weight(lambda mb: mb.constexpr_lut_to_dense(indices=small(PAIRS, "uint2"), lut=TABLES)),
        lambda x: x + np.concatenate([TABLES[0, 0, :, 0][PAIRS[:3]], TABLES[1, 0, :, 0][PAIRS[3:]]]),
        ios=18,
    ),
    case(
        "constexpr_lut_to_dense-vectors",
        [floats(12, 2)],
        with_weight(
            lambda mb: mb.constexpr_lut_to_dense(indices=small(PAIRS, "uint2"), lut=VECTORS, vector_axis=0)
        ),
        lambda x: x + VECTORS[0, 0][PAIRS].transpose(0, 2, 1).reshape(12, 2),
        ios=18,
    ),
    case(
        "constexpr_sparse_to_dense-unpacked",
        [floats(4, 6)],
        with_weight(lambda mb: mb.constexpr_sparse_to_dense(nonzero_data=STORED, mask=small(MASK, "uint1"))),
        lambda x: x + sparse(STORED),
        ios=18,
    ),
    case(
        "constexpr_lut_to_sparse",
        [floats(4, 6)],
        with_weight(lambda mb: sparse_chain(mb, "lut")),
        lambda x: x + sparse(VECTORS[0, 0, :, 0][np.arange(MASK.sum()) % 4]),
        ios=18,
    ),
    case(
        "constexpr_sparse_blockwise_shift_scale",
        [floats(4, 6)],
        with_weight(lambda mb: sparse_chain(mb, "scale")),
        lambda x: x + blocks(BLOCK_SCALES) * sparse(np.arange(MASK.sum(), dtype=np.float32)),
        ios=18,
    ),
]


def blocks(values):
    return values.repeat(2, 0).repeat(2, 1)


def sparse(values):
    dense = np.zeros(MASK.shape, np.float32)
    dense[MASK] = values
    return dense


def sparse_chain(mb, kind):
    mask, numbers = small(MASK, "uint1"), np.arange(MASK.sum())
    if kind == "lut":
        mask, values = mb.constexpr_lut_to_sparse(
            indices_mask=mask,
            indices_nonzero_data=small(numbers % 4, "uint2"),
            lut=VECTORS[..., :1],
        )
    else:
        mask, values = mb.constexpr_sparse_blockwise_shift_scale(
            data_mask=mask, nonzero_data=numbers.astype(np.int8), scale=BLOCK_SCALES
        )
    return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=mask)
