"""Cases: arithmetic, activations, reductions."""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from tests.coreml_cases import case, floats, plain, torched

SHAPE = (2, 3, 4, 5)
BROADCAST = ((2, 3, 4), (3, 1))

BINARY = [
    plain(name, function, *BROADCAST)
    for name, function in {
        "add": np.add,
        "sub": np.subtract,
        "mul": np.multiply,
        "real_div": np.divide,
        "floor_div": np.floor_divide,
        "mod": np.mod,
        "maximum": np.maximum,
        "minimum": np.minimum,
        "equal": np.equal,
        "not_equal": np.not_equal,
        "greater": np.greater,
        "greater_equal": np.greater_equal,
        "less": np.less,
        "less_equal": np.less_equal,
    }.items()
] + [plain("pow", np.power, *BROADCAST, low=0.5)]

LOGICAL = [
    case(
        name,
        [floats(3, 4), floats(3, 4)],
        lambda mb, x, y, name=name: getattr(mb, name)(x=mb.greater(x=x, y=0.0), y=mb.greater(x=y, y=0.0)),
        lambda x, y, function=function: function(x > 0, y > 0),
    )
    for name, function in {
        "logical_and": np.logical_and,
        "logical_or": np.logical_or,
        "logical_xor": np.logical_xor,
    }.items()
]

UNARY = [
    plain(name, function, SHAPE)
    for name, function in {
        "identity": np.copy,
        "abs": np.abs,
        "atan": np.arctan,
        "ceil": np.ceil,
        "cos": np.cos,
        "cosh": np.cosh,
        "erf": torched(torch.erf),
        "exp": np.exp,
        "exp2": np.exp2,
        "floor": np.floor,
        "round": np.round,
        "sign": np.sign,
        "sin": np.sin,
        "sinh": np.sinh,
        "square": np.square,
        "tan": np.tan,
        "tanh": np.tanh,
        "relu": lambda x: np.maximum(x, 0),
        "relu6": lambda x: np.clip(x, 0, 6),
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "silu": lambda x: x / (1 + np.exp(-x)),
        "softplus": lambda x: np.log1p(np.exp(x)),
        "softsign": lambda x: x / (1 + np.abs(x)),
    }.items()
] + [
    plain("sqrt", np.sqrt, SHAPE, low=0.1),
    plain("log", np.log, SHAPE, low=0.1),
    plain("log", lambda x: np.log(x + 0.5), SHAPE, low=0.1, epsilon=0.5),
    plain("rsqrt", lambda x: 1 / np.sqrt(x + 0.25), SHAPE, low=0.1, epsilon=0.25),
    plain("inverse", lambda x: 1 / (x + 0.5), SHAPE, low=0.1, epsilon=0.5),
    plain("clip", lambda x: np.clip(x, -0.5, 0.25), SHAPE, alpha=-0.5, beta=0.25),
    plain("threshold", lambda x: np.maximum(x, 0.25), SHAPE, alpha=0.25),
    plain("elu", lambda x: np.where(x > 0, x, 0.5 * np.expm1(x)), SHAPE, alpha=0.5),
    plain("leaky_relu", lambda x: np.where(x > 0, x, 0.1 * x), SHAPE, alpha=0.1),
    plain("scaled_tanh", lambda x: 2 * np.tanh(0.5 * x), SHAPE, alpha=2.0, beta=0.5),
    plain("sigmoid_hard", lambda x: np.clip(0.2 * x + 0.5, 0, 1), SHAPE, alpha=0.2, beta=0.5),
    plain("linear_activation", lambda x: 2 * x - 1, SHAPE, alpha=2.0, beta=-1.0),
    plain("thresholded_relu", lambda x: np.where(x >= -0.5, x, 0), SHAPE, alpha=-0.5),
    plain("clamped_relu", lambda x: np.minimum(np.where(x > 0, x, 0.1 * x), 1), SHAPE, alpha=0.1, beta=1.0),
    plain("gelu", torched(F.gelu), SHAPE, mode="EXACT"),
    plain("gelu", torched(lambda x: F.gelu(x, approximate="tanh")), SHAPE, mode="TANH_APPROXIMATION"),
    plain("gelu", lambda x: x / (1 + np.exp(-1.702 * x)), SHAPE, mode="SIGMOID_APPROXIMATION"),
    plain("softmax", lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True), SHAPE, axis=1),
    plain(
        "softplus_parametric",
        lambda x: 0.5 * np.log1p(np.exp(2 * x)),
        SHAPE,
        alpha=np.float32([0.5] * 3),
        beta=np.float32([2] * 3),
    ),
    plain("prelu", lambda x: np.where(x > 0, x, x * np.float32(0.25)), SHAPE, alpha=np.float32([0.25] * 3)),
    case("acos", [floats(5)], lambda mb, x: mb.acos(x=mb.sin(x=x)), lambda x: np.arccos(np.sin(x))),
    case("asin", [floats(5)], lambda mb, x: mb.asin(x=mb.sin(x=x)), lambda x: np.arcsin(np.sin(x))),
    case("atanh", [floats(5)], lambda mb, x: mb.atanh(x=mb.tanh(x=x)), lambda x: x),
    case("logical_not", [floats(5)], lambda mb, x: mb.logical_not(x=mb.less(x=x, y=0.0)), lambda x: x >= 0),
    case(
        "select",
        [floats(2, 3), floats(2, 3)],
        lambda mb, x, y: mb.select(cond=mb.greater(x=x, y=y), a=x, b=y),
        np.maximum,
    ),
    case(
        "cast-int32",
        [floats(9) * 3],
        lambda mb, x: mb.cast(x=x, dtype="int32"),
        lambda x: np.trunc(x).astype(np.int32),
    ),
    case("cast-bool", [np.float32([0, 1, -2])], lambda mb, x: mb.cast(x=x, dtype="bool"), lambda x: x != 0),
    case(
        "cast-fp16-and-back",
        [floats(9)],
        lambda mb, x: mb.cast(x=mb.cast(x=x, dtype="fp16"), dtype="fp32"),
        lambda x: x.astype(np.float16).astype(np.float32),
    ),
]

REDUCTIONS = [
    plain(name, lambda x, function=function: function(x), SHAPE, axes=[1, -1], keep_dims=keep)
    for keep in (False, True)
    for name, function in {
        "reduce_mean": lambda x, keep=keep: x.mean((1, 3), keepdims=keep),
        "reduce_sum": lambda x, keep=keep: x.sum((1, 3), keepdims=keep),
        "reduce_max": lambda x, keep=keep: x.max((1, 3), keepdims=keep),
        "reduce_min": lambda x, keep=keep: x.min((1, 3), keepdims=keep),
        "reduce_prod": lambda x, keep=keep: x.prod((1, 3), keepdims=keep),
        "reduce_l1_norm": lambda x, keep=keep: np.abs(x).sum((1, 3), keepdims=keep),
        "reduce_l2_norm": lambda x, keep=keep: np.sqrt(np.square(x).sum((1, 3), keepdims=keep)),
        "reduce_sum_square": lambda x, keep=keep: np.square(x).sum((1, 3), keepdims=keep),
        "reduce_log_sum_exp": lambda x, keep=keep: np.log(np.exp(x).sum((1, 3), keepdims=keep)),
    }.items()
] + [
    plain("reduce_log_sum", lambda x: np.log(x.sum(2)), SHAPE, low=0.1, axes=[2]),
    plain("reduce_mean", lambda x: x.mean(), SHAPE),
    plain("reduce_argmax", lambda x: x.argmax(2).astype(np.int32), SHAPE, axis=2),
    plain(
        "reduce_argmin", lambda x: x.argmin(1, keepdims=True).astype(np.int32), SHAPE, axis=1, keep_dims=True
    ),
    plain("cumsum", lambda x: x.cumsum(1), SHAPE, axis=1),
    plain(
        "cumsum",
        lambda x: x[:, ::-1].cumsum(1)[:, ::-1] - x,
        SHAPE,
        axis=1,
        reverse=True,
        exclusive=True,
    ),
]

CASES = [*BINARY, *LOGICAL, *UNARY, *REDUCTIONS]
