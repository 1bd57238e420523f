"""Packages that were cut, altered or forged are refused in one sentence, before anything is run."""

import contextlib
import json
import shutil
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("coremltools")

import coremltools as ct

from edgevit.errors import EdgevitError
from edgevit.export.mil import load_package
from edgevit.export.mil.package import seal_package
from edgevit.export.mil.quiet import quiet_coremltools
from tests.coreml_helpers import save_mil

WEIGHT = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)
MODEL, WEIGHTS = "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_mil(
        tmp_path_factory.mktemp("saved") / "model.mlpackage",
        lambda mb, variables: {"y": mb.linear(x=variables["x"], weight=WEIGHT)},
        {"x": np.zeros((2, 8), np.float32)},
    )


@pytest.fixture
def package(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model.mlpackage")


def edit_manifest(package, change):
    manifest = package / "Manifest.json"
    content = json.loads(manifest.read_text())
    change(content)
    manifest.write_text(json.dumps(content))


def redirect(package, path):
    """Make the manifest name another path for the specification."""

    def change(content):
        content["itemInfoEntries"][content["rootModelIdentifier"]]["path"] = path

    edit_manifest(package, change)


def edit_spec(package, change):
    spec = ct.proto.Model_pb2.Model()
    spec.ParseFromString((package / MODEL).read_bytes())
    blob = next(
        value.blobFileValue
        for function in spec.mlProgram.functions.values()
        for block in function.block_specializations.values()
        for operation in block.operations
        for value in operation.attributes.values()
        if value.WhichOneof("value") == "blobFileValue"
    )
    change(spec, blob)
    (package / MODEL).write_bytes(spec.SerializeToString())


def truncate(path, size):
    path.write_bytes(path.read_bytes()[:size])


def refusal(package):
    with pytest.raises(EdgevitError) as caught:
        load_package(package)
    message = str(caught.value)
    assert str(package) in message
    assert "\n" not in message
    return message


def test_an_untouched_package_is_read(package):
    x = np.random.default_rng(1).standard_normal((2, 8)).astype(np.float32)
    np.testing.assert_allclose(load_package(package).evaluate({"x": x})["y"], x @ WEIGHT.T, rtol=1e-5)


def test_a_file_is_no_package(tmp_path):
    path = tmp_path / "model.mlpackage"
    path.write_bytes(b"zip")
    assert "is not a Core ML package" in refusal(path)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"itemInfoEntries": {"a": 1}, "rootModelIdentifier": "a"}', "\x00"]
)
def test_a_manifest_that_is_none_is_refused(package, content):
    (package / "Manifest.json").write_text(content)
    assert "is not the manifest" in refusal(package)


def test_a_missing_manifest_is_refused(package):
    (package / "Manifest.json").unlink()
    assert "Manifest.json cannot be read" in refusal(package)


@pytest.mark.parametrize(
    "path", ["../../secret", "/etc/passwd", "com.apple.CoreML/../../../x", "a\\..\\b", ""]
)
def test_a_manifest_that_points_outside_is_refused(package, path):
    redirect(package, path)
    assert "outside the package" in refusal(package)


def test_a_manifest_that_points_nowhere_is_refused(package):
    redirect(package, "com.apple.CoreML/other.mlmodel")
    assert "is missing" in refusal(package)


def test_a_manifest_that_points_at_a_folder_is_refused(package):
    redirect(package, "com.apple.CoreML")
    assert "is no file" in refusal(package)


@pytest.mark.parametrize("linked", [MODEL, WEIGHTS, "Data/com.apple.CoreML/weights"])
def test_a_symbolic_link_in_a_package_is_refused(package, tmp_path, linked):
    target = tmp_path / "elsewhere"
    (package / linked).rename(target)
    (package / linked).symlink_to(target)
    assert "symbolic link" in refusal(package)


def test_a_truncated_specification_is_refused(package):
    truncate(package / MODEL, 200)
    refusal(package)


def test_a_specification_that_is_something_else_is_refused(package):
    (package / MODEL).write_bytes(b"\xff" * 100)
    assert "is not a Core ML specification" in refusal(package)


def test_a_model_that_is_no_ml_program_is_refused(package):
    (package / MODEL).write_bytes(ct.proto.Model_pb2.Model().SerializeToString())
    assert "an ML Program is needed" in refusal(package)


def test_a_missing_weights_file_is_refused(package):
    (package / WEIGHTS).unlink()
    assert "weight.bin is missing" in refusal(package)


@pytest.mark.parametrize("size", [0, 10, 63])
def test_a_weights_file_without_a_header_is_refused(package, size):
    truncate(package / WEIGHTS, size)
    assert "is not a Core ML weights file" in refusal(package)


def test_a_truncated_weights_file_is_refused(package):
    truncate(package / WEIGHTS, (package / WEIGHTS).stat().st_size - 40)
    assert "no whole weight" in refusal(package)


@pytest.mark.parametrize("offset", [10**6, 2**63 - 1])
def test_an_offset_outside_the_weights_is_refused(package, offset):
    edit_spec(package, lambda _, blob: setattr(blob, "offset", offset))
    assert f"at byte {offset}" in refusal(package)


def test_an_offset_between_weights_is_refused(package):
    edit_spec(package, lambda _, blob: setattr(blob, "offset", 128))
    assert "no whole weight" in refusal(package)


def test_a_weight_longer_than_its_file_is_refused(package):
    content = bytearray((package / WEIGHTS).read_bytes())
    struct.pack_into("<Q", content, 64 + 8, 2**62)
    (package / WEIGHTS).write_bytes(content)
    assert "no whole weight" in refusal(package)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "@model_path/weights/..", "@model_path/weights/../../x", "@model_path/x"]
)
def test_weights_outside_the_package_are_refused(package, name):
    edit_spec(package, lambda _, blob: setattr(blob, "fileName", name))
    assert "outside its weights folder" in refusal(package)


def test_a_declared_type_that_does_not_follow_is_refused(package):
    def lie(spec, _):
        for function in spec.mlProgram.functions.values():
            for block in function.block_specializations.values():
                linear = next(operation for operation in block.operations if operation.type == "linear")
                linear.outputs[0].type.tensorType.dimensions[1].constant.size = 99

    edit_spec(package, lie)
    assert "cannot be read as an ML Program" in refusal(package)


@pytest.mark.parametrize("size", range(50, 900, 75))
def test_no_truncation_of_the_specification_leads_anywhere_else(package, size):
    content = (package / MODEL).read_bytes()
    truncate(package / MODEL, len(content) * size // 1000)
    refusal(package)


@pytest.fixture
def sealed(package):
    seal_package(package)
    return package


def test_a_sealed_package_is_read_by_everyone(sealed):
    x = np.random.default_rng(1).standard_normal((2, 8)).astype(np.float32)
    np.testing.assert_allclose(load_package(sealed).evaluate({"x": x})["y"], x @ WEIGHT.T, rtol=1e-5)
    with quiet_coremltools():
        theirs = ct.models.MLModel(str(sealed), skip_model_load=True)
    assert set(theirs.user_defined_metadata) >= {"edgevit.sha256"}


@given(file=st.sampled_from([MODEL, WEIGHTS]), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_flipped_bit_leads_anywhere_else(sealed, file, place, bit):
    whole = (sealed / file).read_bytes()
    altered = bytearray(whole)
    altered[int(place * len(whole))] ^= 1 << bit
    (sealed / file).write_bytes(altered)
    try:
        # Between what is sealed and the digest stands the seal's key: spoilt, it is no seal, or no protobuf.
        if file == WEIGHTS or altered[:-100] != whole[:-100] or altered[-64:] != whole[-64:]:
            refusal(sealed)
        else:
            with contextlib.suppress(EdgevitError):
                assert load_package(sealed).outputs[0].name == "y"
    finally:
        (sealed / file).write_bytes(whole)


def test_a_package_saved_again_by_another_tool_is_read(sealed, tmp_path):
    with quiet_coremltools():
        model = ct.models.MLModel(str(sealed), skip_model_load=True)
        model.author = "someone else"
        model.save(str(tmp_path / "again.mlpackage"))
    assert load_package(tmp_path / "again.mlpackage").outputs[0].name == "y"
