"""Triton's model repositories, read by its own definition of them and carried out with ONNX Runtime."""

from __future__ import annotations

import collections

import numpy as np
import pytest

pytest.importorskip("zenoh")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
pytest.importorskip("tritonclient.grpc")

from google.protobuf import text_format
from onnxruntime import InferenceSession
from tritonclient.grpc import model_config_pb2 as config_pb2

from edgevit.errors import EdgevitError
from edgevit.planning.plan_file import PlanFile
from edgevit.pruning.split import read_split
from edgevit.runtime.emit import EmitOptions, emit
from edgevit.runtime.emit.pbtxt import Word, write_message
from tests.pruning.patterns import learned
from tests.runtime.conftest import images


def config_of(folder, name):
    """A model's configuration; an unknown field or a wrong type does not parse."""
    return text_format.Parse((folder / name / "config.pbtxt").read_text(), config_pb2.ModelConfig())


class Repository:
    """A repository as a server sees it."""

    def __init__(self, folder):
        self.folder = folder
        self.configs = {path.name: config_of(folder, path.name) for path in folder.iterdir()}
        for name, config in self.configs.items():
            assert config.name == name
            assert (folder / name / "1").is_dir()

    def session(self, name):
        return InferenceSession(self.folder / name / "1" / "model.onnx", providers=["CPUExecutionProvider"])

    def check_model(self, name):
        """A configuration says of inputs and outputs what the file does."""
        config, session = self.configs[name], self.session(name)
        assert (config.platform, config.max_batch_size) == ("onnxruntime_onnx", 0)
        for entries, arguments in (
            (config.input, session.get_inputs()),
            (config.output, session.get_outputs()),
        ):
            assert [(e.name, list(e.dims)) for e in entries] == [(a.name, a.shape) for a in arguments]
            assert {e.data_type for e in entries} == {config_pb2.TYPE_FP32}
            assert {a.type for a in arguments} == {"tensor(float)"}

    def check_ensemble(self, name):
        """The rules that a server loads an ensemble by."""
        ensemble = self.configs[name]
        shapes = {entry.name: (entry.data_type, tuple(entry.dims)) for entry in ensemble.input}
        used, made = set(), collections.Counter(entry.name for entry in ensemble.input)
        for step in ensemble.ensemble_scheduling.step:
            config = self.configs[step.model_name]
            inputs = {entry.name: (entry.data_type, tuple(entry.dims)) for entry in config.input}
            outputs = {entry.name: (entry.data_type, tuple(entry.dims)) for entry in config.output}
            assert step.input_map.keys() == inputs.keys()
            assert {*step.output_map} <= outputs.keys()
            for key, tensor in step.input_map.items():
                assert shapes[tensor] == inputs[key]
            used |= {*step.input_map.values()}
            made.update(step.output_map.values())
            shapes |= {tensor: outputs[key] for key, tensor in step.output_map.items()}
        results = {entry.name: (entry.data_type, tuple(entry.dims)) for entry in ensemble.output}
        assert {*made.values()} == {1}
        assert made.keys() == used | results.keys()
        assert all(shapes[tensor] == shape for tensor, shape in results.items())

    def infer(self, name, image):
        """Outputs of an ensemble for one request."""
        ensemble = self.configs[name]
        known = {ensemble.input[0].name: image}
        for step in ensemble.ensemble_scheduling.step:
            session = self.session(step.model_name)
            given = {key: known[tensor] for key, tensor in step.input_map.items()}
            results = session.run([*step.output_map], given)
            known |= dict(zip(step.output_map.values(), results, strict=True))
        return [known[entry.name] for entry in ensemble.output]


def test_a_pipeline_is_an_ensemble_of_its_stages(braided, emitted):
    repository = Repository(emitted(braided, "triton"))
    assert sorted(repository.configs) == ["patterns", *(f"patterns-stage-{i}" for i in range(3))]
    for stage in range(3):
        repository.check_model(f"patterns-stage-{stage}")
    repository.check_ensemble("patterns")
    steps = repository.configs["patterns"].ensemble_scheduling.step
    # Several tensors cross, and one of them passes the stage in the middle by.
    assert len(steps[2].input_map) > len(steps[1].output_map)
    for image in images(5):
        (found,) = repository.infer("patterns", image)
        np.testing.assert_allclose(found, learned().run(image)[0], atol=1e-5)


def test_an_ensemble_has_its_parts_and_their_fusion(ensemble, emitted):
    folder = emitted(ensemble, "triton", name="patterns")
    repository = Repository(folder)
    models = ["patterns-fusion", *(f"patterns-part-{i}" for i in range(3))]
    assert sorted(repository.configs) == ["patterns", *models]
    for name in models:
        repository.check_model(name)
    repository.check_ensemble("patterns")
    split = read_split(ensemble.parent / "split")
    for image in images(5, (1, *split.parts[0].input_shape[1:])):
        (found,) = repository.infer("patterns", image)
        np.testing.assert_allclose(found, split.predict(image), atol=1e-4)


def test_a_plan_of_one_device_is_one_model(make_plan, emitted):
    repository = Repository(emitted(make_plan("single"), "triton"))
    assert [*repository.configs] == ["tiny"]
    repository.check_model("tiny")


def test_replicas_are_no_repository(make_plan, tmp_path):
    with pytest.raises(EdgevitError, match="replicas are one on each device"):
        emit(make_plan("replicas"), "triton", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_stage_that_triton_has_no_backend_for_is_refused(make_plan, tmp_path):
    pytest.importorskip("litert_torch")
    path = make_plan("pipeline")
    written = PlanFile.read(path)
    first, *others = written.plan.tasks
    tasks = (first.model_copy(update={"format": "tflite"}), *others)
    entry = written.plan.model_copy(update={"tasks": tasks})
    mixed = path.with_name("mixed.yaml")
    written.model_copy(update={"plan": entry}).write(mixed)
    with pytest.raises(EdgevitError, match="w-1 runs tflite, which Triton has no backend for"):
        emit(mixed, "triton", tmp_path / "out", EmitOptions())


def test_text_of_messages_is_read_as_it_was_meant():
    name = 'say "hi"\\ ä\n{}'
    text = write_message({"name": name, "input": [{"data_type": Word("TYPE_INT8"), "dims": [1, -1]}]})
    read = text_format.Parse(text, config_pb2.ModelConfig())
    assert read.name == name
    assert (read.input[0].data_type, [*read.input[0].dims]) == (config_pb2.TYPE_INT8, [1, -1])
