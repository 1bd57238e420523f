"""Cases: matrix products, attention, normalisations."""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from tests.coreml_cases import case, floats, plain, torched

MATRIX, ROW = floats(6, 5), floats(6)
GAMMA, BETA, MEAN, VARIANCE = floats(3), floats(3), floats(3), floats(3, low=0.5)

SHAPE = (2, 3, 4, 5)

PRODUCTS = [
    case(
        "linear",
        [floats(2, 4, 5)],
        lambda mb, x: mb.linear(x=x, weight=MATRIX, bias=ROW),
        lambda x: x @ MATRIX.T + ROW,
    ),
    plain("matmul", np.matmul, (2, 3, 4), (2, 4, 5)),
    plain("matmul", lambda x, y: x @ y.swapaxes(-1, -2), (2, 3, 4), (2, 5, 4), transpose_y=True),
    plain("matmul", lambda x, y: x.swapaxes(-1, -2) @ y, (2, 4, 3), (2, 4, 5), transpose_x=True),
    case(
        "einsum",
        [floats(2, 3, 4, 5), floats(2, 5, 4, 6)],
        lambda mb, x, y: mb.einsum(values=(x, y), equation="nchw,nwhu->nchu"),
        lambda x, y: np.einsum("nchw,nwhu->nchu", x, y),
    ),
]

NORMS = [
    case(
        "batch_norm",
        [floats(*SHAPE)],
        lambda mb, x: mb.batch_norm(x=x, mean=MEAN, variance=VARIANCE, gamma=GAMMA, beta=BETA, epsilon=1e-3),
        torched(lambda x: F.batch_norm(x, *map(torch.from_numpy, (MEAN, VARIANCE, GAMMA, BETA)), eps=1e-3)),
    ),
    case(
        "layer_norm-last",
        [floats(2, 4, 3)],
        lambda mb, x: mb.layer_norm(x=x, axes=[-1], gamma=GAMMA, beta=BETA, epsilon=1e-3),
        torched(lambda x: F.layer_norm(x, (3,), torch.from_numpy(GAMMA), torch.from_numpy(BETA), 1e-3)),
    ),
    case(
        "layer_norm-channels",
        [floats(*SHAPE)],
        lambda mb, x: mb.layer_norm(x=x, axes=[1], gamma=GAMMA, beta=BETA, epsilon=1e-3),
        torched(
            lambda x: F.layer_norm(
                x.movedim(1, -1), (3,), torch.from_numpy(GAMMA), torch.from_numpy(BETA), 1e-3
            ).movedim(-1, 1)
        ),
    ),
    case(
        "instance_norm",
        [floats(*SHAPE)],
        lambda mb, x: mb.instance_norm(x=x, gamma=GAMMA, beta=BETA, epsilon=1e-3),
        torched(
            lambda x: F.instance_norm(
                x, None, None, torch.from_numpy(GAMMA), torch.from_numpy(BETA), eps=1e-3
            )
        ),
    ),
    plain(
        "l2_norm",
        lambda x: x / np.sqrt(np.square(x).sum((1, 2, 3), keepdims=True) + 1e-3),
        SHAPE,
        epsilon=1e-3,
    ),
]

QUERY = (2, 3, 5, 4)
ATTENTION = [
    case(
        "scaled_dot_product_attention",
        [floats(*QUERY), floats(*QUERY), floats(*QUERY)],
        lambda mb, q, k, v: mb.scaled_dot_product_attention(query=q, key=k, value=v),
        torched(F.scaled_dot_product_attention),
        ios=18,
    ),
    case(
        "scaled_dot_product_attention-masked",
        [floats(*QUERY), floats(*QUERY), floats(*QUERY), floats(5, 5)],
        lambda mb, q, k, v, m: mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=m),
        torched(F.scaled_dot_product_attention),
        ios=18,
    ),
    case(
        "scaled_dot_product_attention-bool",
        [floats(*QUERY), floats(*QUERY), floats(*QUERY), floats(5, 5) + 1],
        lambda mb, q, k, v, m: mb.scaled_dot_product_attention(
            query=q, key=k, value=v, attn_mask=mb.greater(x=m, y=0.0)
        ),
        torched(lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m > 0)),
        ios=18,
    ),
]

CASES = [*PRODUCTS, *NORMS, *ATTENTION]
