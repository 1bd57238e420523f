"""What of an ONNX file is refused before ONNX Runtime reads it: altered, truncated, or reaching outside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.errors import EdgevitError
from edgevit.export.metadata import CARD_KEY
from edgevit.export.onnx import OnnxArtefact
from edgevit.export.onnx.check import check_file
from edgevit.export.seal import KEY as SEAL_KEY
from edgevit.profiling import profile

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SEAL_SIZE = 84


@pytest.fixture(scope="module")
def whole(tiny_onnx) -> bytes:
    return tiny_onnx.read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("check") / "model.onnx"


def refused(content: bytes, path: Path) -> bool:
    path.write_bytes(content)
    try:
        check_file(path)
    except EdgevitError:
        return True
    return False


def altered(content: bytes, position: int, byte: int) -> bytes:
    return content[:position] + bytes([byte]) + content[position + 1 :]


def test_an_unaltered_file_is_accepted(whole, scratch):
    assert not refused(whole, scratch)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_byte_that_changed_anywhere_is_noticed(whole, scratch, data):
    position = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[position]))
    assert refused(altered(whole, position, byte), scratch)


@pytest.mark.parametrize("place", range(1, SEAL_SIZE + 1))
def test_no_byte_of_the_seal_itself_may_change(whole, scratch, place):
    position = len(whole) - place
    # Its first byte says which of the model's fields it is: try them all.
    others = range(256) if place == SEAL_SIZE else [whole[position] ^ (1 << bit) for bit in range(8)]
    for byte in others:
        assert byte == whole[position] or refused(altered(whole, position, byte), scratch), byte


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_truncated_file_is_noticed(whole, scratch, data):
    assert refused(whole[: data.draw(st.integers(0, len(whole) - 1))], scratch)


def test_a_file_cut_between_two_fields_is_noticed(whole, scratch):
    # Each of these is a sound ONNX model: what is gone are lists at its end.
    model = onnx.load_model_from_string(whole)
    while model.metadata_props:
        del model.metadata_props[-1]
        prefix = model.SerializeToString()
        assert whole.startswith(prefix)
        assert refused(prefix, scratch)


def test_bytes_behind_the_seal_are_noticed(whole, scratch):
    # One more metadata entry, as protobuf would read it.
    entry = onnx.StringStringEntryProto(key="a", value="b").SerializeToString()
    assert refused(whole + bytes([14 << 3 | 2, len(entry)]) + entry + b"\x00", scratch)


def test_the_seal_is_an_ordinary_metadata_entry(whole):
    entries = onnx.load_model_from_string(whole).metadata_props
    assert [entry.key for entry in entries] == [CARD_KEY, SEAL_KEY]


def test_a_file_that_another_tool_wrote_anew_is_accepted_where_the_seal_is_dropped(whole, scratch):
    model = onnx.load_model_from_string(whole)
    model.graph.node[0].name = "renamed"
    assert refused(model.SerializeToString(), scratch)
    model.doc_string = ""
    del model.metadata_props[-1]
    scratch.write_bytes(model.SerializeToString())
    assert OnnxArtefact.open(scratch).card.name == "tiny"


@pytest.mark.parametrize("content", [b"", b"\x08\x07", b"no model", b"\xff" * 100, bytes(50)])
def test_what_is_no_model_is_refused_in_a_sentence(content, tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    with pytest.raises(EdgevitError, match=r"a\.onnx is not a sound ONNX file \(damaged or truncated\)"):
        OnnxArtefact.open(path)


def external(path: Path, location: str, **numbers: object) -> None:
    """A model that keeps its one weight, 4 float32 values, in another file."""
    weight = onnx.TensorProto(
        name="weight", data_type=onnx.TensorProto.FLOAT, dims=[4], data_location=onnx.TensorProto.EXTERNAL
    )
    for key, value in {"location": location, **numbers}.items():
        weight.external_data.add(key=key, value=str(value))
    onnx_types = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4])
        for name in ("image", "logits")
    ]
    node = onnx.helper.make_node("Add", ["image", "weight"], ["logits"])
    graph = onnx.helper.make_graph([node], "g", onnx_types[:1], onnx_types[1:], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    path.write_bytes(model.SerializeToString())


@pytest.fixture
def package(tmp_path) -> Path:
    """A folder for a model, beside a file that is none of its business."""
    (tmp_path / "secret").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    (tmp_path / "package").mkdir()
    return tmp_path / "package"


def test_weights_in_a_file_beside_it_are_read(package):
    (package / "weights").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    external(package / "a.onnx", "weights", offset=0, length=16)
    assert OnnxArtefact.open(package / "a.onnx").run(np.zeros((1, 4), np.float32))[0].tolist() == [
        [0, 1, 2, 3]
    ]


@pytest.mark.parametrize(
    "location", ["../secret", "a/../../secret", r"..\secret", "/etc/hostname", "C:\\secret", "C:secret", ""]
)
def test_weights_outside_its_folder_are_refused(package, location):
    external(package / "a.onnx", location)
    with pytest.raises(EdgevitError, match=r"a\.onnx keeps weight in .*, which is not a file in its folder"):
        OnnxArtefact.open(package / "a.onnx")


def test_a_link_that_leads_outside_is_refused(package):
    (package / "weights").symlink_to("../secret")
    external(package / "a.onnx", "weights")
    with pytest.raises(EdgevitError, match="a link that leads out of its folder"):
        OnnxArtefact.open(package / "a.onnx")


def test_missing_weights_are_refused(package):
    external(package / "a.onnx", "weights")
    with pytest.raises(EdgevitError, match="'weights', which is missing"):
        OnnxArtefact.open(package / "a.onnx")
    # The name that makes ONNX Runtime read its own memory.
    external(package / "a.onnx", "*/_ORT_MEM_ADDR_/*", offset=4096, length=16)
    with pytest.raises(EdgevitError, match="which is missing"):
        OnnxArtefact.open(package / "a.onnx")


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        ({"offset": 4, "length": 16}, "which is truncated: it ends before that tensor does"),
        ({"offset": -4, "length": 16}, "at offset '-4' and of length '16': not numbers"),
        ({"offset": "x", "length": 16}, "not numbers"),
    ],
)
def test_weights_that_are_not_all_there_are_refused(package, numbers, sentence):
    (package / "weights").write_bytes(bytes(16))
    external(package / "a.onnx", "weights", **numbers)
    with pytest.raises(EdgevitError, match=sentence):
        OnnxArtefact.open(package / "a.onnx")


def escaping() -> onnx.TensorProto:
    tensor = onnx.TensorProto(name="deep", data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret")
    return tensor


def in_attribute(model):
    model.graph.node.add().attribute.add().t.CopyFrom(escaping())


def in_list_of_tensors(model):
    model.graph.node.add().attribute.add().tensors.append(escaping())


def in_branch(model):
    model.graph.node.add().attribute.add().g.initializer.append(escaping())


def in_branch_of_branch(model):
    inner = model.graph.node.add().attribute.add().graphs.add().node.add()
    inner.attribute.add().g.initializer.append(escaping())


def in_function(model):
    model.functions.add().node.add().attribute.add().t.CopyFrom(escaping())


def in_sparse(model):
    model.graph.sparse_initializer.add().values.CopyFrom(escaping())


def in_sparse_attribute(model):
    model.graph.node.add().attribute.add().sparse_tensor.indices.CopyFrom(escaping())


@pytest.mark.parametrize(
    "hide",
    [
        in_attribute,
        in_list_of_tensors,
        in_branch,
        in_branch_of_branch,
        in_function,
        in_sparse,
        in_sparse_attribute,
    ],
)
def test_it_is_looked_for_wherever_a_tensor_may_stand(package, hide):
    external(package / "a.onnx", "weights")
    (package / "weights").write_bytes(bytes(16))
    model = onnx.load(package / "a.onnx", load_external_data=False)
    hide(model)
    (package / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(EdgevitError, match="keeps deep in '../secret'"):
        check_file(package / "a.onnx")


def test_profiling_looks_too(package):
    external(package / "a.onnx", "../secret")
    with pytest.raises(EdgevitError, match="not a file in its folder"):
        profile(package / "a.onnx")


def test_an_operator_that_nobody_registered_is_refused_in_a_sentence(tmp_path):
    external(tmp_path / "a.onnx", "weights")
    (tmp_path / "weights").write_bytes(bytes(16))
    model = onnx.load(tmp_path / "a.onnx")
    model.graph.node[0].domain = "nobody"
    model.opset_import.add(domain="nobody", version=1)
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(EdgevitError, match="that ONNX Runtime can load: .*nobody") as caught:
        OnnxArtefact.open(tmp_path / "a.onnx")
    assert "\n" not in str(caught.value)
