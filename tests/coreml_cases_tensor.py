"""Cases: shapes and indexing."""

import numpy as np
import torch.nn.functional as F  # noqa: N812

from tests.coreml_cases import case, floats, plain, torched

SHAPE = (2, 3, 4, 5)

TENSORS = [
    plain("reshape", lambda x: x.reshape(2, 3, 20, 1), SHAPE, shape=[0, 0, -1, 1]),
    case(
        "reshape-to-another-rank",
        [floats(*SHAPE)],
        lambda mb, x: mb.reshape(x=x, shape=[-1, 0]),
        lambda x: x.reshape(24, 5),
        ios=17,
    ),
    plain("transpose", lambda x: x.transpose(0, 3, 1, 2), SHAPE, perm=[0, -1, 1, 2]),
    plain("expand_dims", lambda x: x[:, None, :, None], (2, 3), axes=[1, -1]),
    plain("squeeze", lambda x: x.squeeze(1), (2, 1, 3, 1), axes=[1]),
    plain("squeeze", np.squeeze, (2, 1, 3, 1)),
    plain("tile", lambda x: np.tile(x, (2, 1, 3)), (2, 3, 2), reps=[2, 1, 3]),
    plain("reverse", lambda x: x[:, ::-1], (2, 3, 2), axes=[1]),
    plain("reverse", lambda x: x[::-1, ::-1], (2, 3)),
    plain(
        "pad",
        lambda x: np.pad(x, ((0, 0), (1, 2), (0, 3)), constant_values=7),
        (2, 3, 4),
        pad=[1, 2, 0, 3],
        mode="constant",
        constant_val=7.0,
    ),
    plain(
        "pad",
        lambda x: np.pad(x, ((0, 0), (2, 1), (3, 2)), "reflect"),
        (2, 3, 4),
        pad=[2, 1, 3, 2],
        mode="reflect",
    ),
    plain(
        "pad",
        lambda x: np.pad(x, ((0, 0), (2, 1), (0, 2)), "edge"),
        (2, 3, 4),
        pad=[2, 1, 0, 2],
        mode="replicate",
    ),
    plain("pixel_shuffle", torched(lambda x: F.pixel_shuffle(x, 2)), (1, 8, 3, 2), upscale_factor=2),
    plain(
        "pixel_unshuffle",
        torched(lambda x: F.pixel_unshuffle(x, 2)),
        (1, 2, 4, 6),
        downscale_factor=np.uint32(2),
    ),
    plain("band_part", lambda x: np.triu(np.tril(x, 2), -1), (5, 6), lower=1, upper=2),
    plain("band_part", np.tril, (5, 6), lower=-1, upper=0),
    case(
        "concat",
        [floats(2, 3), floats(2, 1)],
        lambda mb, x, y: mb.concat(values=(x, y), axis=-1),
        lambda x, y: np.concatenate([x, y], -1),
    ),
    case(
        "concat-interleaved",
        [floats(2, 3), floats(2, 3)],
        lambda mb, x, y: mb.concat(values=(x, y), axis=1, interleave=True),
        lambda x, y: np.stack([x, y], 2).reshape(2, 6),
    ),
    case(
        "stack",
        [floats(2, 3), floats(2, 3)],
        lambda mb, x, y: mb.stack(values=(x, y), axis=1),
        lambda x, y: np.stack([x, y], 1),
    ),
    case(
        "split",
        [floats(2, 6)],
        lambda mb, x: mb.split(x=x, num_splits=3, axis=1),
        lambda x: tuple(np.split(x, 3, 1)),
    ),
    case(
        "split-sizes",
        [floats(2, 6)],
        lambda mb, x: mb.split(x=x, split_sizes=[1, 5], axis=-1),
        lambda x: (x[:, :1], x[:, 1:]),
    ),
    case(
        "fill-shape",
        [floats(2, 3)],
        lambda mb, x: mb.fill(shape=mb.shape(x=x), value=0.5),
        lambda x: np.full_like(x, 0.5),
    ),
    case(
        "range_1d",
        [floats(7)],
        lambda mb, x: mb.add(x=x, y=mb.range_1d(start=1.0, end=8.0, step=1.0)),
        lambda x: x + np.arange(1, 8, dtype=np.float32),
    ),
]

INDICES = np.int32([[2, 0], [1, 1]])

INDEXING = [
    plain(
        "slice_by_index",
        lambda x: x[1, ::2, 3::-1, -2:],
        SHAPE,
        begin=[1, 0, 3, -2],
        end=[0, 3, 0, 0],
        stride=[1, 2, -1, 1],
        begin_mask=[False] * 4,
        end_mask=[False, True, True, True],
        squeeze_mask=[True, False, False, False],
    ),
    plain("slice_by_index", lambda x: x[0:2, 1:3, 1:-1, 2:4], SHAPE, begin=[0, 1, 1, 2], end=[2, 3, -1, 4]),
    plain("slice_by_size", lambda x: x[:, 1:3, 2:, -3:-1], SHAPE, begin=[0, 1, 2, -3], size=[-1, 2, -1, 2]),
    case(
        "gather",
        [floats(4, 3, 5)],
        lambda mb, x: mb.gather(x=x, indices=INDICES, axis=1),
        lambda x: x[:, INDICES],
    ),
    case(
        "gather-batched",
        [floats(2, 3, 5), INDICES],
        lambda mb, x, at: mb.gather(x=x, indices=at, axis=1, batch_dims=1),
        lambda x, at: np.stack([x[i, at[i]] for i in range(2)]),
    ),
    case(
        "gather_along_axis",
        [floats(2, 3), INDICES],
        lambda mb, x, at: mb.gather_along_axis(x=x, indices=at, axis=1),
        lambda x, at: np.take_along_axis(x, at, 1),
    ),
    case(
        "gather_nd",
        [floats(3, 2, 5), INDICES],
        lambda mb, x, at: mb.gather_nd(x=x, indices=at),
        lambda x, at: x[at[:, 0], at[:, 1]],
    ),
    case(
        "gather_nd-batched",
        [floats(2, 3, 2, 5), INDICES[None].repeat(2, 0)],
        lambda mb, x, at: mb.gather_nd(x=x, indices=at, batch_dims=1),
        lambda x, at: np.stack([x[i, at[i, :, 0], at[i, :, 1]] for i in range(2)]),
    ),
    case(
        "topk",
        [floats(2, 6)],
        lambda mb, x: mb.topk(x=x, k=3, axis=1),
        lambda x: (-np.sort(-x, 1)[:, :3], np.argsort(-x, 1)[:, :3].astype(np.int32)),
    ),
    plain("argsort", lambda x: np.argsort(x, 1).astype(np.int32), (2, 6), axis=1, ascending=True),
]


CASES = [*TENSORS, *INDEXING]
