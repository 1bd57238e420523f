"""What is emitted for KServe: by its published schema, by its webhook's rules, and as its router acts."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("zenoh")
pytest.importorskip("aiohttp")
pytest.importorskip("onnxruntime")

from edgevit.cli.stage import command as stage_command
from edgevit.errors import EdgevitError
from edgevit.planning.plan_file import PlanFile
from edgevit.pruning.split import read_split
from edgevit.runtime.emit import EmitOptions, emit
from edgevit.runtime.emit.kserve import percentages
from edgevit.runtime.stage_door import StageDoor, StageOptions
from edgevit.runtime.stage_protocol import write_tensors
from tests.pruning.patterns import learned
from tests.runtime.conftest import images
from tests.runtime.emit.served import ANY, START, free_ports

SAFE = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
OPTIONS = {"image": "registry.example/edgevit:1", "storage": "pvc://models/digits/"}


def documents(folder: Path) -> tuple[dict[str, dict], dict | None]:
    """Services by name, and the graph; what every one of them needs is checked."""
    found = [*yaml.safe_load_all((folder / "kserve.yaml").read_text())]
    services = {each["metadata"]["name"]: each for each in found if each["kind"] == "InferenceService"}
    graphs = [each for each in found if each["kind"] == "InferenceGraph"]
    assert len(services) + len(graphs) == len(found)
    for name, service in services.items():
        assert service["apiVersion"] == "serving.kserve.io/v1beta1"
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
        (container,) = service["spec"]["predictor"]["containers"]
        assert container["name"] == "kserve-container"
        environment = {each["name"]: each["value"] for each in container["env"]}
        assert environment == {"STORAGE_URI": f"pvc://models/digits/{name}", "PROTOCOL": "v2"}
        assert len([*(folder / "models" / name).iterdir()]) == 1
    return services, graphs[0] if graphs else None


def check_graph(graph: dict, services: dict) -> None:
    """The rules that the webhook refuses a graph by, and that its targets are there."""
    assert graph["apiVersion"] == "serving.kserve.io/v1alpha1"
    nodes = graph["spec"]["nodes"]
    assert "root" in nodes
    for node in nodes.values():
        names = [step["name"] for step in node["steps"] if "name" in step]
        assert len(names) == len({*names})
        for step in node["steps"]:
            (target,) = {"nodeName", "serviceName", "serviceUrl"} & step.keys()
            assert step[target] in (nodes if target == "nodeName" else services)
        if node["routerType"] == "Splitter":
            assert sum(step["weight"] for step in node["steps"]) == 100


def stage_options(folder: Path, service: dict) -> StageOptions:
    """What the container of a service would run, read as the command reads it."""
    (container,) = service["spec"]["predictor"]["containers"]
    assert container["command"] == ["edgevit"]
    word, *words = in_folder(folder, service["metadata"]["name"], container["args"])
    assert word == "stage"
    said = stage_command.make_context("stage", words).params
    lists = [tuple(said[option].split(",")) for option in ("takes", "gives", "sends")]
    return StageOptions(Path(said["artefact"]), said["name"], *lists)


def in_folder(folder: Path, name: str, words: list[str]) -> list[str]:
    """With files where they were emitted, as a storage initializer would have brought them."""
    return [word.replace("/mnt/models", str(folder / "models" / name)) for word in words]


class Router:
    """KServe's router, as its source has it: a step gets the request, or the answer before, byte for byte."""

    def __init__(self, graph: dict, ask) -> None:
        self.nodes, self.ask = graph["spec"]["nodes"], ask

    def route(self, name: str, body: bytes) -> bytes:
        node = self.nodes[name]
        if node["routerType"] == "Sequence":
            answer = body
            for step in node["steps"]:
                answer = self.step(step, answer if step.get("data") == "$response" else body)
            return answer
        assert node["routerType"] == "Ensemble"
        return json.dumps(
            {step["name"]: json.loads(self.step(step, body)) for step in node["steps"]}
        ).encode()

    def step(self, step: dict, body: bytes) -> bytes:
        assert step["dependency"] == "Hard"
        return (
            self.route(step["nodeName"], body) if "nodeName" in step else self.ask(step["serviceName"], body)
        )


def request(image: np.ndarray) -> bytes:
    (tensor,) = write_tensors("", {"image": image})["outputs"]
    return json.dumps({"inputs": [tensor]}).encode()


def logits(body: bytes) -> np.ndarray:
    (tensor,) = json.loads(body)["outputs"]
    return np.array(tensor["data"], np.float32).reshape(tensor["shape"])


@pytest.fixture(scope="module")
def stages(braided, emitted):
    """Every stage of a pipeline in a process of its own, and their addresses."""
    folder = emitted(braided, "kserve", **OPTIONS)
    services, _ = documents(folder)
    processes, addresses = [], {}
    for name, service in services.items():
        port = str(free_ports(1)[0])
        words = in_folder(folder, name, service["spec"]["predictor"]["containers"][0]["args"])
        words = [{"8080": port, ANY: "127.0.0.1"}.get(word, word) for word in words]
        process = subprocess.Popen([sys.executable, "-c", START, *words], stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert f"serving {name} at http://127.0.0.1:{port}/v2" in process.stdout.readline()
        addresses[name] = f"http://127.0.0.1:{port}"
    yield addresses
    for process in processes:
        process.send_signal(signal.SIGTERM)
    assert [process.wait(20) for process in processes] == [0] * len(processes)


def post(address: str, name: str, body: bytes) -> bytes:
    with urllib.request.urlopen(f"{address}/v2/models/{name}/infer", data=body, timeout=20) as answer:  # noqa: S310
        return answer.read()


def test_a_pipeline_routed_as_kserve_does_answers_what_the_model_does(braided, emitted, stages):
    services, graph = documents(emitted(braided, "kserve", **OPTIONS))
    check_graph(graph, services)
    assert [*services] == [f"patterns-stage-{i}" for i in range(3)]
    nodes = [
        each["spec"]["predictor"]["nodeSelector"]["kubernetes.io/hostname"] for each in services.values()
    ]
    assert nodes == ["w-1", "w-2", "w-3"]
    router = Router(graph, lambda name, body: post(stages[name], name, body))
    for image in images(3):
        np.testing.assert_allclose(
            logits(router.route("root", request(image))), learned().run(image)[0], atol=1e-5
        )


@pytest.mark.parametrize(
    ("path", "body", "status", "sentence"),
    [
        ("/v2/models/patterns-stage-1/infer", b"{", 400, "the body is not JSON"),
        ("/v2/models/patterns-stage-1/infer", b"{}", 400, "neither inputs nor outputs"),
        ("/v2/models/patterns-stage-1/infer", b"[1]", 400, "neither inputs nor outputs"),
        ("/v2/models/patterns-stage-1/infer", b'{"inputs": [{"name": "add"}]}', 400, "inputs.0.shape"),
        (
            "/v2/models/patterns-stage-1/infer",
            b'{"inputs": [{"name": "add", "shape": [2], "datatype": "FP32", "data": [1]}]}',
            400,
            "add: 1 elements are not of shape [2]",
        ),
        (
            "/v2/models/patterns-stage-1/infer",
            b'{"inputs": [{"name": "add", "shape": [1], "datatype": "FP32", "data": [NaN]}]}',
            400,
            "the body is not JSON",
        ),
        (
            "/v2/models/patterns-stage-1/infer",
            b'{"inputs": [{"name": "add", "shape": [1], "datatype": "BYTES", "data": [1]}]}',
            400,
            "datatype 'BYTES'; known: FP32",
        ),
        (
            "/v2/models/patterns-stage-1/infer",
            b'{"inputs": [{"name": "z", "shape": [1], "datatype": "FP32", "data": ["x"]}]}',
            400,
            "z: its data are no FP32 numbers",
        ),
        (
            "/v2/models/patterns-stage-1/infer",
            b'{"inputs": [{"name": "z", "shape": [1], "datatype": "FP32", "data": [1]}]}',
            400,
            "is missing among the tensors: z",
        ),
        ("/v2/models/other/infer", b"{}", 404, "Not Found"),
    ],
)
def test_what_a_stage_refuses_is_one_sentence(stages, path, body, status, sentence):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(stages["patterns-stage-1"] + path, data=body, timeout=20)  # noqa: S310
    assert refused.value.code == status
    assert sentence in json.load(refused.value)["error"]
    with urllib.request.urlopen(stages["patterns-stage-1"] + "/v2/health/ready", timeout=20) as answer:  # noqa: S310
        assert answer.status == 200


def asked_here(folder: Path, services: dict):
    doors = {name: StageDoor(stage_options(folder, service)) for name, service in services.items()}
    return lambda name, body: doors[name]._answer(body)


def test_an_ensemble_routed_as_kserve_does_answers_what_the_split_does(ensemble, emitted):
    folder = emitted(ensemble, "kserve", name="patterns", **OPTIONS)
    services, graph = documents(folder)
    check_graph(graph, services)
    assert [*services] == [*(f"patterns-part-{i}" for i in range(3)), "patterns-fusion"]
    split = read_split(ensemble.parent / "split")
    router = Router(graph, asked_here(folder, services))
    for image in images(3, (1, *split.parts[0].input_shape[1:])):
        found = logits(router.route("root", request(image)))
        np.testing.assert_allclose(found, split.predict(image), atol=1e-4)


def test_replicas_are_split_by_their_shares(make_plan, emitted, tiny_program):
    folder = emitted(make_plan("replicas"), "kserve", **OPTIONS)
    services, graph = documents(folder)
    check_graph(graph, services)
    steps = graph["spec"]["nodes"]["root"]["steps"]
    assert [(step["serviceName"], step["weight"]) for step in steps] == [
        ("tiny-replica-0", 34), ("tiny-replica-1", 33), ("tiny-replica-2", 33),
    ]  # fmt: skip
    (image,) = images(1)
    found = logits(asked_here(folder, services)("tiny-replica-1", request(image)))
    np.testing.assert_allclose(found, tiny_program.run(image)[0], atol=1e-5)


def test_one_device_needs_no_graph(make_plan, emitted):
    services, graph = documents(emitted(make_plan("single"), "kserve", **OPTIONS))
    assert [*services] == ["tiny"]
    assert graph is None


@given(st.lists(st.floats(1e-3, 1), min_size=1, max_size=100))
def test_percentages_are_a_hundred_and_each_within_one_of_its_share(shares):
    found = percentages(shares)
    assert sum(found) == 100
    for share, percent in zip(shares, found, strict=True):
        assert abs(percent - 100 * share / sum(shares)) < 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": "My.Model"}, "the service cannot be called My.Model: Kubernetes takes a-z"),
        ({"name": "a" * 41}, "at most 40; say another --name"),
    ],
)
def test_a_name_that_kubernetes_refuses_is_refused(make_plan, tmp_path, options, sentence):
    with pytest.raises(EdgevitError, match=sentence):
        emit(make_plan("single"), "kserve", tmp_path / "out", EmitOptions(**OPTIONS, **options))
    assert not (tmp_path / "out").exists()


def test_a_device_that_can_be_no_node_is_refused(make_plan, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(make_plan("single").read_text().replace("w-1", "w-"))
    model = Path(PlanFile.read(make_plan("single")).model)
    with pytest.raises(EdgevitError, match="device w-: is no name of a node"):
        emit(path, "kserve", tmp_path / "out", EmitOptions(model=model, **OPTIONS))


def closed(schema: object) -> object:
    """A schema of the API server: a field that it does not know is refused, not dropped."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        made["type"] = ["integer", "string"]
    if "properties" in schema and "additionalProperties" not in schema:
        made["additionalProperties"] = False
    return made


@pytest.mark.parametrize("mode", ["single", "replicas", "braided", "ensemble"])
def test_it_is_valid_by_the_published_schemas(mode, request, make_plan, emitted, published):
    jsonschema = pytest.importorskip("jsonschema")
    path = request.getfixturevalue(mode) if mode in {"braided", "ensemble"} else make_plan(mode)
    options = OPTIONS | ({"name": "patterns"} if mode == "ensemble" else {})
    services, graph = documents(emitted(path, "kserve", **options))
    for kind, found in (
        ("inferenceservices", services.values()),
        ("inferencegraphs", [graph] if graph else []),
    ):
        file = published / f"serving.kserve.io_{kind}.yaml"
        definition = yaml.load(file.read_text(), Loader=SAFE)  # noqa: S506 - the safe one
        versions = {each["name"]: each for each in definition["spec"]["versions"]}
        for document in found:
            schema = versions[document["apiVersion"].split("/")[1]]["schema"]["openAPIV3Schema"]
            spec = closed(schema["properties"]["spec"])
            check = jsonschema.Draft202012Validator(spec)
            check.validate(document["spec"])
            assert not check.is_valid(document["spec"] | {"unheard": 1})
            assert {*document} <= {*schema["properties"]}
