"""Which ONNX operators ONNX Runtime's CPU provider and OpenCV's dnn run, found by running ONNX's node tests.

    python benchmarks/onnx_operators.py onnxruntime|opencv

Every single-operator model of ``onnx.backend.test`` is tried twice: as it is, and with every input but
the first as a constant, which is how weights, axes and shapes lie in real models. Printed as JSON: for
each operator and type of its first input, which of the two ran and gave the expected outputs.
Measured facts of `export/placement/tables` come from here.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

# A node test that hangs or takes the process down says no.
SECONDS = 20
# Many node tests are for operators newer than any exporter writes.
OPSET = 20


def cases() -> list[Any]:
    from onnx.backend.test.loader import load_model_tests

    # Expanded ones show what an operator is made of; another operator's name is in them.
    return [case for case in load_model_tests(kind="node") if "_expanded" not in case.name]


def copied(model: Any, opset: int | None = None) -> Any:
    """A copy, declared for another version of the operators where one is given."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for entry in copy.opset_import if opset else ():
        if entry.domain == "":
            entry.version = min(entry.version, opset)
    return copy


def variants(case: Any) -> Iterator[tuple[str, Any, list[Any], list[Any]]]:
    """(as it is | constants, model, inputs, expected outputs)."""
    inputs, outputs = case.data_sets[0]
    model = case.model
    if len(model.graph.node) != 1 or not inputs or not all(isinstance(value, np.ndarray) for value in inputs):
        return
    yield "live", model, list(inputs), list(outputs)
    if len(inputs) > 1:
        fixed = copied(model)
        named = list(fixed.graph.input)
        fixed.graph.initializer.extend(
            numpy_helper.from_array(value, info.name)
            for info, value in zip(named[1:], inputs[1:], strict=True)
        )
        del fixed.graph.input[1:]
        yield "constant", fixed, [inputs[0]], list(outputs)


def run_onnxruntime(model: Any, inputs: list[Any]) -> list[Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [item.name for item in session.get_inputs()]
    results: list[Any] = session.run(None, dict(zip(names, inputs, strict=True)))
    return results


def run_opencv(model: Any, inputs: list[Any]) -> list[Any]:
    import cv2

    net = cv2.dnn.readNetFromONNX(np.frombuffer(model.SerializeToString(), np.uint8))
    for info, value in zip(model.graph.input, inputs, strict=True):
        net.setInput(value, info.name)
    return list(net.forward(net.getUnconnectedOutLayersNames()))


RUN = {"onnxruntime": run_onnxruntime, "opencv": run_opencv}


def outcome(runtime: str, model: Any, inputs: list[Any], expected: list[Any]) -> str:
    """Tried as the newest operators, which a runtime may not have yet, then as those that edgevit writes."""
    said = tried(runtime, model, inputs, expected)
    return said if said == "runs" else tried(runtime, copied(model, OPSET), inputs, expected)


def tried(runtime: str, model: Any, inputs: list[Any], expected: list[Any]) -> str:
    try:
        results = RUN[runtime](model, inputs)
    except Exception as error:  # noqa: BLE001
        return " ".join(str(error).split())[:160]
    for result, wanted in zip(results, expected, strict=False):
        same = np.shape(result) == np.shape(wanted) or np.size(result) == np.size(wanted)
        if not same or not np.allclose(
            np.asarray(result, dtype=np.float64).ravel(),
            np.asarray(wanted, dtype=np.float64).ravel(),
            rtol=1e-2,
            atol=1e-3,
            equal_nan=True,
        ):
            return "another result"
    return "runs"


def worker(runtime: str, start: int, connection: Any) -> None:
    for index, case in enumerate(cases()[start:], start):
        connection.send((index, "begin", None))
        for name, model, inputs, expected in variants(case):
            node = model.graph.node[0]
            kind = f"{node.domain}:{node.op_type}" if node.domain else node.op_type
            element = model.graph.input[0].type.tensor_type.elem_type
            dtype = TensorProto.DataType.Name(element).lower()
            connection.send((index, name, (kind, dtype, outcome(runtime, model, inputs, expected))))
    connection.send((-1, "done", None))


def main(runtime: str) -> None:
    found: dict[str, dict[str, dict[str, list[str]]]] = {}
    start, done = 0, False
    while not done:
        here, there = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("fork").Process(target=worker, args=(runtime, start, there))
        process.start()
        there.close()
        try:
            while here.poll(SECONDS):
                index, name, result = here.recv()
                done, start = name == "done", index + 1
                if result is not None:
                    kind, dtype, said = result
                    found.setdefault(kind, {}).setdefault(dtype, {}).setdefault(name, []).append(said)
        except EOFError:
            # The worker's end of the pipe closed: it is done, or the runtime took it down, and the next
            # worker goes on behind that test.
            if not done:
                print(f"{runtime} crashed in test {start - 1}", file=sys.stderr)
        process.kill()
        process.join()
    json.dump(found, sys.stdout, indent=1, sort_keys=True)


if __name__ == "__main__":
    main(sys.argv[1])
