"""The runtimes: each opens an artefact on fixed noise, and says what it was asked for and what it gave."""

from __future__ import annotations

import importlib.metadata
import re
import time
from typing import Any, Callable  # noqa: UP035 - devices in the field run older Pythons

from .litert_library import BUILT_IN, OLDEST, XNNPACK, LibraryError, ProfiledModel
from .operators import CHAIN, OnnxSession, Runner, litert_operators, onnx_operators, opencv_operators
from .views import chain_of_views

# LiteRT's name for what a delegate took.
_DELEGATE_NODE = "DELEGATE"

# Of inputs that are no float32, by ONNX Runtime's name for their type.
_ONNX_TYPES = {
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int16)": "int16",
    "tensor(uint16)": "uint16",
}


def clock_of(threads: int) -> Callable[[], int]:
    """Nanoseconds; on one thread those of the thread, without what other programs do to it."""
    return time.thread_time_ns if threads == 1 else time.perf_counter_ns


class RefusedError(Exception):
    """Something was asked for that this device cannot do."""


class Model:
    """An artefact that is open.

    Attributes:
        run: runs it once.
        facts: what runs it.
        operators: times its operators, in a session of its own, once nothing else is to be measured; may
            be given something that takes turns with them.
    """

    def __init__(self, run: Runner, facts: dict[str, Any], operators: Callable[..., dict[str, Any]]) -> None:
        self.run, self.facts, self.operators = run, facts, operators


def open_onnxruntime(options: dict[str, Any], threads: int) -> Model:
    """An ONNX file in ONNX Runtime."""
    import onnxruntime

    provider = _provider(options["delegate"] or "cpu", onnxruntime.get_available_providers())
    providers: list[Any] = [provider]
    if provider == "XnnpackExecutionProvider":
        # It has threads of its own.
        providers = [(provider, {"intra_op_num_threads": str(threads)})]
    if provider != "CPUExecutionProvider":
        providers.append("CPUExecutionProvider")

    def session(model: Any = options["artefact"], **settings: Any) -> Any:
        choices = onnxruntime.SessionOptions()
        choices.log_severity_level = 3
        choices.intra_op_num_threads = threads
        for name, value in settings.items():
            setattr(choices, name, value)
        return onnxruntime.InferenceSession(model, choices, providers=providers)

    opened = session()
    # A stage of a model takes several tensors; the first is what is said of it.
    shapes = {
        argument.name: [size if isinstance(size, int) else 1 for size in argument.shape]
        for argument in opened.get_inputs()
    }
    feed = {
        argument.name: _noise(shapes[argument.name], _ONNX_TYPES.get(argument.type, "float32"))
        for argument in opened.get_inputs()
    }
    shape = next(iter(shapes.values()))
    got = opened.get_providers()
    facts = {
        "runtime": "onnxruntime " + onnxruntime.__version__,
        "requested": provider,
        "delegate": got[0],
        "input_shape": shape,
        # Only a run with its profiler says which operators a provider took.
        "placed": None,
    }

    def chain(**settings: Any) -> OnnxSession:
        # As written: optimised, it would be one node.
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        opened_chain = session(chain_of_views(CHAIN), graph_optimization_level=level, **settings)
        return OnnxSession(opened_chain, {"x": _noise([1])})

    def operators(pace: Runner | None = None) -> dict[str, Any]:
        return onnx_operators(
            OnnxSession(opened, feed),
            lambda **settings: OnnxSession(session(**settings), feed),
            chain,
            clock_of(threads),
            pace,
        )

    return Model(lambda: opened.run(None, feed), facts, operators)


def _provider(asked: str, available: list[str]) -> str:
    """The execution provider of a name, which may be short for it: ``xnnpack``."""
    by_name = {name.lower(): name for name in available}
    by_name.update({name.lower().replace("executionprovider", ""): name for name in available})
    if asked.lower() not in by_name:
        raise RefusedError(
            f"--delegate: the device's ONNX Runtime has no {asked}; it has {', '.join(sorted(available))}"
        )
    return by_name[asked.lower()]


def open_litert(options: dict[str, Any], threads: int) -> Model:
    """A TFLite file in LiteRT, or in its predecessor where a device has only that."""
    try:
        from ai_edge_litert import interpreter as litert

        name = "ai-edge-litert"
    except ImportError:
        from tflite_runtime import interpreter as litert

        name = "tflite-runtime"
    asked = options["delegate"] or "xnnpack"
    choices: dict[str, Any] = {}
    if asked == "none":
        choices["experimental_op_resolver_type"] = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    elif asked != "xnnpack":
        choices["experimental_delegates"] = [_delegate(litert, asked)]
    interpreter = litert.Interpreter(model_path=options["artefact"], num_threads=threads, **choices)
    interpreter.allocate_tensors()
    given = interpreter.get_input_details()
    shape = [int(size) for size in given[0]["shape"]]
    for details in given:
        interpreter.set_tensor(details["index"], _noise(details["shape"], details["dtype"]))
    requested = {"xnnpack": XNNPACK, "none": BUILT_IN}.get(asked, asked)
    nodes = interpreter._get_ops_details()  # noqa: SLF001 - it has no public name
    facts = {
        "runtime": name + " " + importlib.metadata.version(name),
        "requested": requested,
        "delegate": requested,
        "input_shape": shape,
        "placed": placed_by(nodes, requested),
    }

    def operators(pace: Runner | None = None) -> dict[str, Any]:
        reason = _no_operator_times(name, asked)
        if reason is not None:
            return {"reason": reason}
        try:
            profiled = ProfiledModel(options["artefact"], threads, asked == "xnnpack", _noise)
        except LibraryError as error:
            return {"reason": str(error)}
        timed = litert_operators(interpreter.invoke, profiled, clock_of(threads), pace)
        return {**timed, "parts": parts_of(nodes)}

    return Model(interpreter.invoke, facts, operators)


def _no_operator_times(name: str, delegate: str) -> str | None:
    """Why operators are not timed; None where they are."""
    if delegate not in ("xnnpack", "none"):
        return "a delegate from a file does not say how long its operators take"
    oldest = ".".join(map(str, OLDEST))
    release = importlib.metadata.version(name)
    if name != "ai-edge-litert" or tuple(map(int, re.findall(r"\d+", release)[:3])) < OLDEST:
        return f"{name} {release} has no profiler; ai-edge-litert {oldest} and later have"
    return None


def _delegate(litert: Any, library: str) -> Any:
    try:
        return litert.load_delegate(library)
    except (ValueError, OSError) as error:
        raise RefusedError(
            f"--delegate {library}: the device cannot load it ({str(error).strip() or 'no reason given'}); "
            "xnnpack, none, or the path of a delegate's library on the device"
        ) from error


def placed_by(nodes: list[dict[str, Any]], delegate: str) -> dict[str, dict[str, int]]:
    """Operators by kind, under what runs them."""
    own = [node for node in nodes if node["op_name"] != _DELEGATE_NODE]
    taken = {place for part in parts_of(nodes) for place in part}
    placed: dict[str, dict[str, int]] = {}
    for node in own:
        kinds = placed.setdefault(delegate if node["index"] in taken else BUILT_IN, {})
        kinds[node["op_name"]] = kinds.get(node["op_name"], 0) + 1
    return placed


def parts_of(nodes: list[dict[str, Any]]) -> list[list[int]]:
    """Places of the operators that a delegate took, for each of its own nodes in the order they run.

    Its nodes stand behind the operators that they replaced, which are still listed: those between a node's
    inputs and its outputs.
    """
    own = [node for node in nodes if node["op_name"] != _DELEGATE_NODE]
    makers = {int(value): node for node in own for value in node["outputs"]}
    return [sorted(_between(node, makers)) for node in nodes if node["op_name"] == _DELEGATE_NODE]


def _between(delegate: dict[str, Any], makers: dict[int, dict[str, Any]]) -> set[int]:
    """Operators that lead from a delegate's inputs to its outputs."""
    given, wanted = {*map(int, delegate["inputs"])}, [*map(int, delegate["outputs"])]
    found: set[int] = set()
    while wanted:
        value = wanted.pop()
        maker = makers.get(value)
        if maker is not None and value not in given and maker["index"] not in found:
            found.add(maker["index"])
            wanted += [int(each) for each in maker["inputs"]]
    return found


def open_opencv(options: dict[str, Any], threads: int) -> Model:
    """An ONNX file in OpenCV's dnn, which does not say what the input is to be."""
    import cv2

    if options["delegate"] not in (None, "cpu"):
        raise RefusedError(f"--delegate {options['delegate']}: OpenCV's dnn is run on the cpu alone")
    cv2.setNumThreads(threads)
    net = cv2.dnn.readNetFromONNX(options["artefact"])
    names = net.getUnconnectedOutLayersNames()
    shape = options["input_shape"]
    net.setInput(_noise(shape))
    facts = {
        "runtime": "OpenCV dnn " + cv2.__version__,
        "requested": "CPU",
        "delegate": "CPU",
        "input_shape": shape,
        "placed": None,
    }
    return Model(lambda: net.forward(names), facts, lambda: opencv_operators(cv2, net, names))


def _noise(shape: Any, dtype: Any = "float32") -> Any:
    """Fixed values of a shape; integers within the range of eight bits."""
    import numpy as np

    source = np.random.default_rng(0)
    if np.issubdtype(np.dtype(dtype), np.integer):
        return source.integers(0, 128, size=shape).astype(dtype)
    return source.standard_normal(shape).astype(dtype)


RUNTIMES: dict[str, Callable[[dict[str, Any], int], Model]] = {
    "onnxruntime": open_onnxruntime,
    "litert": open_litert,
    "opencv": open_opencv,
}
