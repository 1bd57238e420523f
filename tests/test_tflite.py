import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgevit.errors import EdgevitError
from edgevit.files import sha256_of
from tests.tflite_models import ConvStage, Hybrid, program_of

pytest.importorskip("litert_torch")

from edgevit.export.tflite import (
    TfliteArtefact,
    count_operators,
    count_transposes,
    read_metadata,
    to_tflite,
)

LABELS = ("tench", "goldfish", "white shark", "tiger shark", "hammerhead")
TOLERANCES = {"fp32": 1e-5, "fp16": 5e-3}

# Transposes that may be left in a channels-last file: what attention over heads, patches and windows
# needs, by the numbers of blocks. Convolutional stages have none.
TRANSPOSES = {
    "deit_tiny_patch16_224": 2 * 12,  # qkv, and the heads brought back
    "mobilevit_xxs": 2 * 3 + 2 * 9,  # patches out and in; attention
    "mobilevitv2_050": 2 * 3,  # patches out and in
    "efficientformer_l1": 2 * 1,
    "efficientformerv2_s0": 4 * 5 + 2 * 4,  # q, k, v, heads back; the talking heads' convolutions
    "levit_128s": 4 * 11,  # q, k, v, heads back
    "edgenext_xx_small": 2 * 3,
    "fastvit_t8": 0,
    "tiny_vit_5m_224": 4 * 10 + 2 * 2,  # attention; windows out and in
    "swin_tiny_patch4_window7_224": 2 * 12 + 2 * 10 + 3,  # attention; windows; patch merging
}


def images_for(program, count=2):
    shape = (count, *program.card.preprocessing.input_shape)
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def relative_error(artefact, program):
    images = images_for(program)
    pairs = zip(artefact.run(images), program.run(images), strict=True)
    return max(float(np.abs(ours - theirs).max() / np.abs(theirs).max()) for ours, theirs in pairs)


@pytest.fixture(scope="module")
def program():
    return program_of(Hybrid(), labels=LABELS)


@pytest.fixture(scope="module")
def files(program, tmp_path_factory):
    """The hybrid in both layouts and precisions, with what `to_tflite` said of each."""
    folder = tmp_path_factory.mktemp("tflite")
    written = {}
    for precision, layout in (("fp32", "nchw"), ("fp16", "nchw"), ("fp32", "nhwc")):
        path = folder / f"{precision}-{layout}.tflite"
        written[precision, layout] = path, to_tflite(program, path, precision=precision, layout=layout)
    return written


@pytest.fixture
def exported(files):
    return files["fp32", "nhwc"][0]


@pytest.mark.parametrize("kind", [("fp32", "nchw"), ("fp16", "nchw"), ("fp32", "nhwc")], ids="-".join)
def test_the_file_computes_what_the_program_does(files, program, kind):
    artefact = TfliteArtefact.open(files[kind][0], threads=1)
    assert relative_error(artefact, program) <= TOLERANCES[kind[0]]


def test_run_takes_channels_first_whatever_the_file_does(files):
    first = TfliteArtefact.open(files["fp32", "nchw"][0])
    last = TfliteArtefact.open(files["fp32", "nhwc"][0])
    assert (first.layout, first.stored_inputs[0].shape) == ("nchw", (1, 3, 16, 24))
    assert (last.layout, last.stored_inputs[0].shape) == ("nhwc", (1, 16, 24, 3))
    assert first.inputs[0].shape == last.inputs[0].shape == (1, 3, 16, 24)


def test_channels_last_spares_one_transpose(files):
    assert count_transposes(files["fp32", "nhwc"][0]) == count_transposes(files["fp32", "nchw"][0]) - 1


def test_only_patches_and_attention_are_transposed(files):
    # Patches out and in, qkv, and the heads brought back: nothing between convolutions, and no expansion.
    operators = count_operators(files["fp32", "nhwc"][0])
    assert operators["TRANSPOSE"] == 4
    assert operators["BROADCAST_TO"] == 0


def test_a_convolutional_network_has_no_transpose(tmp_path):
    program = program_of(ConvStage())
    path = tmp_path / "conv.tflite"
    to_tflite(program, path, layout="nhwc")
    assert count_transposes(path) == 0
    assert relative_error(TfliteArtefact.open(path), program) <= TOLERANCES["fp32"]


def test_several_outputs_keep_their_order_and_names(tmp_path):
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.head = nn.Linear(4, 5)

        def forward(self, x):
            features = self.conv(x)
            return self.head(features.mean((2, 3))), features.flatten(1), features.mean(1)

    program = program_of(Two(), size=(6, 7))
    to_tflite(program, tmp_path / "two.tflite")
    artefact = TfliteArtefact.open(tmp_path / "two.tflite")
    assert [output.name for output in artefact.outputs] == ["logits", "output_1", "output_2"]
    assert relative_error(artefact, program) <= TOLERANCES["fp32"]


def test_what_is_said_of_the_file_is_so(files):
    path, info = files["fp32", "nhwc"]
    assert (info.format, info.precision, info.options) == (
        "tflite",
        "fp32",
        {"batch": 1, "layout": "nhwc", "transposes": 4},
    )
    assert (info.sha256, info.bytes) == (sha256_of(path), path.stat().st_size)
    assert [(tensor.name, tensor.shape, tensor.dtype) for tensor in (*info.inputs, *info.outputs)] == [
        ("image", (1, 16, 24, 3), "float32"),
        ("logits", (1, 5), "float32"),
    ]
    assert set(info.tools) == {"edgevit", "torch", "litert_torch", "ai_edge_litert"}


def test_the_file_carries_card_labels_and_normalisation(exported, program):
    artefact = TfliteArtefact.open(exported)
    assert artefact.card.model_copy(update={"steps": program.card.steps}) == program.card
    assert artefact.num_classes == 5
    metadata = read_metadata(exported)
    assert metadata == artefact.metadata
    assert metadata.labels == LABELS
    np.testing.assert_allclose(metadata.mean, [127.5, 102, 76.5], rtol=1e-6)
    np.testing.assert_allclose(metadata.std, [51, 76.5, 102], rtol=1e-6)


def test_the_signature_names_input_and_output(exported):
    interpreter = TfliteArtefact.open(exported).interpreter
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": ["image"], "outputs": ["logits"]}
    }


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A program whose bytes are nearly all weights, and its float32 file."""
    program = program_of(nn.Sequential(nn.Conv2d(3, 64, 3), nn.Flatten(), nn.Linear(1024, 40)), size=(6, 6))
    path = tmp_path_factory.mktemp("wide") / "wide.tflite"
    to_tflite(program, path)
    return program, path


def halved(source, path, change=None):
    """The file with float16 weights, after a change to its first large constant."""
    from edgevit.export.tflite.half import halve_weights
    from edgevit.export.tflite.model import parse, serialise

    model = parse(source.read_bytes())
    model.metadata = None
    if change is not None:
        large = next(
            buffer for buffer in model.buffers if buffer.data is not None and len(buffer.data) > 4096
        )
        values = np.frombuffer(bytes(large.data), dtype=np.float32).copy()
        change(values)
        large.data = np.frombuffer(values.tobytes(), dtype=np.uint8)
    halve_weights(model)
    path.write_bytes(serialise(model))
    return TfliteArtefact.open(path)


def test_float16_halves_the_weights_and_keeps_the_small_ones(wide, tmp_path):
    program, source = wide
    artefact = halved(source, tmp_path / "half.tflite")
    assert 0.45 < artefact.path.stat().st_size / source.stat().st_size < 0.6
    assert count_operators(artefact.path)["DEQUANTIZE"] == 2  # not the biases
    assert relative_error(artefact, program) <= TOLERANCES["fp16"]


@pytest.mark.parametrize("value", [1e6, np.inf, np.nan])
def test_weights_that_float16_cannot_hold_stay(wide, tmp_path, value):
    artefact = halved(wide[1], tmp_path / "half.tflite", lambda values: values.__setitem__(0, value))
    assert count_operators(artefact.path)["DEQUANTIZE"] == 1


QUIET = """
from pathlib import Path
import torch
from edgevit.export.tflite import to_tflite
from tests.tflite_models import program_of
program = program_of(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 4, 4), torch.nn.Flatten()), size=(4, 4))
print("begin", flush=True)
to_tflite(program, Path("a.tflite"))
"""


@pytest.mark.slow
def test_the_conversion_says_nothing(tmp_path):
    """In a process of its own, where nothing has loaded the converter yet."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "ignore", "-c", QUIET]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    assert done.stdout == "begin\n"
    # The interpreter's own line, from C++.
    assert [line for line in done.stderr.splitlines() if "XNNPACK" not in line] == []


@pytest.mark.parametrize(("option", "value"), [("precision", "fp61"), ("layout", "nwhc")])
def test_an_unknown_choice_is_refused_with_the_nearest(tmp_path, program, option, value):
    with pytest.raises(EdgevitError, match=rf"^--{option}: '{value}' is unknown; did you mean"):
        to_tflite(program, tmp_path / "a.tflite", **{option: value})
    assert not list(tmp_path.iterdir())


def test_a_graph_that_cannot_be_converted_is_refused_in_one_sentence(tmp_path):
    class Sorted(nn.Module):
        def forward(self, x):
            return torch.linalg.eigvalsh(x[:, 0]).float()

    program = program_of(Sorted(), size=(4, 4), name="sorted")
    with pytest.raises(EdgevitError, match=r"^sorted cannot be written as TFLite: [^\n]+$"):
        to_tflite(program, tmp_path / "a.tflite")


@pytest.mark.parametrize("keep", [0, 100, 0.5, -1])
def test_a_truncated_file_is_refused(exported, tmp_path, keep):
    content = exported.read_bytes()
    path = tmp_path / "short.tflite"
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(EdgevitError, match=r"short\.tflite is not a sound TFLite file"):
        TfliteArtefact.open(path)


def test_an_altered_weight_is_refused(exported, tmp_path):
    content = bytearray(exported.read_bytes())
    content[len(content) // 2] ^= 1
    path = tmp_path / "altered.tflite"
    path.write_bytes(content)
    with pytest.raises(EdgevitError, match="sha256 differs"):
        TfliteArtefact.open(path)


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "text.tflite"
    path.write_text("not a model")
    with pytest.raises(EdgevitError, match="identifier is not TFL3"):
        TfliteArtefact.open(path)


def test_a_file_of_another_tool_runs_without_a_card(exported, tmp_path):
    from edgevit.export.tflite.model import parse, serialise

    model = parse(exported.read_bytes())
    model.metadata = None
    path = tmp_path / "foreign.tflite"
    path.write_bytes(serialise(model))
    artefact = TfliteArtefact.open(path)
    assert (artefact.layout, artefact.metadata) == ("nhwc", None)
    with pytest.raises(EdgevitError, match="has no edgevit card"):
        _ = artefact.card


def from_timm(name):
    import timm

    torch.manual_seed(0)
    module = timm.create_model(name, pretrained=False).eval()
    return program_of(module, size=tuple(module.pretrained_cfg["input_size"][1:]), name=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSPOSES)
def test_models_of_the_field(tmp_path, name):
    from edgevit.graph.torchvision_shim import make_torchvision_importable

    make_torchvision_importable()
    pytest.importorskip("timm")
    program = from_timm(name)
    path = tmp_path / f"{name}.tflite"
    to_tflite(program, path, layout="nhwc")
    assert relative_error(TfliteArtefact.open(path), program) <= TOLERANCES["fp32"]
    assert count_transposes(path) <= TRANSPOSES[name]


RUNNER = """
import sys, numpy as np
from tflite_runtime.interpreter import Interpreter
model, images, out = sys.argv[1:]
interpreter = Interpreter(model_path=model)
interpreter.allocate_tensors()
interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.load(images))
interpreter.invoke()
np.save(out, interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
"""


@pytest.fixture(scope="session")
def older_runtime():
    """Python of an environment with the last tflite-runtime, which needs numpy 1, made once."""
    cache = (
        Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        / "edgevit-tests"
        / "tflite-runtime-2.14"
    )
    python = cache / "bin" / "python"
    if not (cache / "ready").exists():
        creator = shutil.which("python3.11") or sys.executable
        install = [str(python), "-m", "pip", "install", "-q", "tflite-runtime==2.14.0", "numpy<2"]
        for command in ([creator, "-m", "venv", "--clear", str(cache)], install):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"no environment with tflite-runtime: {done.stderr.strip().splitlines()[-1:]}")
        (cache / "ready").touch()
    return python


def run_older(python, path, stored, folder):
    """The first output of a file on tflite-runtime, for an input as the file stores it."""
    np.save(folder / "images.npy", np.ascontiguousarray(stored))
    script, out = folder / "run.py", folder / "out.npy"
    script.write_text(RUNNER)
    command = [str(python), str(script), str(path), str(folder / "images.npy"), str(out)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return np.load(out)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [("fp32", "nchw"), ("fp16", "nchw"), ("fp32", "nhwc")], ids="-".join)
def test_the_file_runs_on_the_last_tflite_runtime(files, program, older_runtime, tmp_path, kind):
    artefact = TfliteArtefact.open(files[kind][0])
    images = images_for(program, 1)
    stored = images if artefact.layout == "nchw" else images.transpose(0, 2, 3, 1)
    expected = artefact.run(images)[0]
    found = run_older(older_runtime, artefact.path, stored, tmp_path)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
