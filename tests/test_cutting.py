"""Cuts: where they are and what crosses, and that the stages together are the whole."""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgevit.cli import run
from edgevit.errors import EdgevitError
from edgevit.export import export
from edgevit.export.artefacts import open_artefact
from edgevit.export.evaluate import evaluate
from edgevit.export.verify import verify
from edgevit.graph.axes import find_axes
from edgevit.graph.capture import capture
from edgevit.graph.costs import count_macs
from edgevit.graph.cutting import Chain, Cut, find_cuts
from edgevit.graph.min_cut import cheapest_closed_set
from edgevit.graph.program import Program
from edgevit.graph.rewrites import prepare_for_export
from edgevit.graph.stages import run_stages, stages
from edgevit.profiling import profile
from edgevit.quant.calibration import Calibration
from tests.pruning.nets import Attention, Convolutions, Learned, Mixer
from tests.quant.helpers import SHAPE, Folded, Net, Tokens, images, prepared, seeded, started
from tests.rewrites.helpers import program_of
from tests.zoo import TIMM, example


class Block(Folded):
    """Two layers on windows in the batch, beside the windows."""

    def __init__(self) -> None:
        super().__init__()
        self.back = nn.Linear(8, 8)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        made = self.embed(image).permute(0, 2, 3, 1)
        windows = made.reshape(-1, 2, 2, 2, 2, 8).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 8)
        windows = windows + self.back(self.mix(windows).relu())
        return self.head(windows.reshape(-1, 16, 8).mean(1))


NETS: dict[str, Callable[[], nn.Module]] = {
    "attention": Attention,
    "spelled": functools.partial(Attention, spelled=True),
    "convolutions": Convolutions,
    "mixer": Mixer,
    "learned": Learned,
    "net": Net,
    "tokens": Tokens,
    "windows": Folded,
    "block": Block,
}
QUANTIZED = ("net", "tokens", "block", "attention")
# More images than run at once.
IMAGES = images(40).numpy()


@functools.cache
def program(name: str) -> Program:
    return prepared(seeded(NETS[name]))


@functools.cache
def quantized(name: str, placement: str = "full") -> Program:
    return started(program(name), placement).quantized


@pytest.mark.parametrize("name", ["attention", "block"])
def test_tokens_that_are_quantized_as_they_come_cross_as_they_are(name):
    whole = quantized(name, "dynamic")
    cuts = find_cuts(whole).cuts
    assert len(cuts) == len(find_cuts(program(name)).cuts)
    assert {tensor.dtype for cut in cuts for tensor in cut.tensors} == {"float32"}
    assert error(run_stages(stages(whole, cuts), IMAGES), whole.run(IMAGES)) <= 1e-6


@functools.cache
def chain(name: str, *, integers: bool = False) -> Chain:
    return find_cuts(quantized(name) if integers else program(name))


def error(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """The largest difference over the largest value of any output."""
    return max(
        float(np.abs(ours - theirs).max() / np.abs(theirs).max())
        for ours, theirs in zip(found, expected, strict=True)
    )


def some_of(cuts: tuple[Cut, ...]) -> st.SearchStrategy[list[Cut]]:
    return st.sets(st.sampled_from(range(len(cuts)))).map(lambda places: [cuts[at] for at in sorted(places)])


# Where cuts are.


@st.composite
def graphs(draw: st.DrawFn) -> tuple[dict[int, list[int]], dict[int, int], set[int], set[int]]:
    """Who reads whom, costs, and what must be before and behind, both closed."""
    size = draw(st.integers(2, 8))
    readers = {
        maker: [reader for reader in range(maker + 1, size) if draw(st.booleans())] for maker in range(size)
    }
    costs = {maker: draw(st.integers(1, 9)) for maker in range(size) if draw(st.integers(0, 6))}
    behind = _closed(readers, {size - 1, draw(st.integers(1, size - 1))})
    sources = {reader: [maker for maker in readers if reader in readers[maker]] for reader in range(size)}
    before = _closed(sources, {0, draw(st.sampled_from([n for n in range(size) if n not in behind] or [0]))})
    return readers, costs, before, behind


def _closed(following: dict[int, list[int]], start: set[int]) -> set[int]:
    found, pending = set(start), list(start)
    while pending:
        new = set(following[pending.pop()]) - found
        found |= new
        pending.extend(new)
    return found


@settings(max_examples=300, deadline=None)
@given(graphs())
def test_the_cheapest_closed_set_is_the_largest_of_those_found_by_trying_all(graph):
    readers, costs, before, behind = graph
    if before & behind:
        return
    free = sorted(readers.keys() - before - behind)
    tried: list[tuple[int, int, set[int]]] = []
    for taken in itertools.chain.from_iterable(
        itertools.combinations(free, count) for count in range(len(free) + 1)
    ):
        inside = before | {*taken}
        is_closed = all(maker in inside for maker in readers for reader in readers[maker] if reader in inside)
        crossing = [maker for maker in inside if any(reader not in inside for reader in readers[maker])]
        if is_closed and all(maker in costs for maker in crossing):
            tried.append((sum(costs[maker] for maker in crossing), -len(inside), inside))
    found = cheapest_closed_set(readers, costs, before, behind)
    if not tried:
        assert found is None
        return
    cost, _, largest = min(tried)
    assert found == (cost, largest)


def test_a_cut_lies_behind_every_layer_and_attention():
    cuts = chain("attention").cuts
    assert [cut.module for cut in cuts] == ["embed", "q", "k", "v", "", "out"]
    assert cuts[4].after == "scaled_dot_product_attention"
    stream, queries, values = 16 * 8, 16 * 10, 16 * 6
    assert [[math.prod(tensor.shape) for tensor in cut.tensors] for cut in cuts] == [
        [stream],
        [stream, queries],
        [stream, queries, queries],
        [stream, queries, queries, values],
        [stream, values],
        [8],
    ]


def test_what_is_no_arithmetic_goes_where_fewer_bytes_cross():
    """An activation with its layer, a mean before the cut, and a wider copy behind it."""

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix, self.head = nn.Conv2d(3, 4, 8), nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            token = self.embed(image).relu().flatten(2).transpose(1, 2)
            wide = token.expand(-1, 9, -1).cos()
            return self.head((wide + self.mix(wide)).sin().mean(1))

    first, second = find_cuts(prepared(Wide())).cuts
    assert [tensor.shape for tensor in first.tensors] in ([(4, 1)], [(1, 4)], [(4, 1, 1)])
    assert [tensor.name for tensor in second.tensors] == ["mean"]


def test_windows_cross_by_image():
    (first, _) = chain("windows").cuts
    assert [tensor.shape for tensor in first.tensors] == [(4, 4, 8)]


def test_batches_put_beside_one_another_do_not_cross():
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix, self.head = nn.Conv2d(3, 4, 8), nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            token = self.embed(image).flatten(1)
            pair = self.mix(torch.cat([token, token.cos()])).relu().unflatten(0, (2, -1))
            return self.head(pair[0] * pair[1])

    first, second = find_cuts(prepared(Beside())).cuts
    assert [tensor.name for tensor in first.tensors] == ["flatten"]
    assert [tensor.shape for tensor in second.tensors] == [(5,)]


def test_a_graph_that_writes_in_place_what_something_else_reads_is_refused():
    def write(image: torch.Tensor) -> torch.Tensor:
        kept = image.clone()
        kept[:, 0].mul_(2)
        return kept.flatten(1)

    with pytest.raises(EdgevitError, match="writes to a tensor that something else reads"):
        find_cuts(program_of(write, SHAPE))


@pytest.mark.parametrize("name", NETS)
def test_costs_of_segments_add_up_to_those_of_the_whole(name):
    whole, found = program(name), chain(name)
    assert len(found.segments) == len(found.cuts) + 1
    stored = sum(value.nbytes for value in whole.exported.state_dict.values())
    assert sum(segment.weight_bytes for segment in found.segments) >= stored
    assert [cut.macs for cut in found.cuts] == list(
        itertools.accumulate(segment.macs for segment in found.segments[:-1])
    )
    # What is computed from learned tokens alone counts wherever it is needed.
    assert sum(segment.macs for segment in found.segments) == count_macs(whole)


@pytest.mark.parametrize("name", NETS)
def test_activations_are_at_least_what_crosses_on_either_side(name):
    found = chain(name)
    for cut, before, behind in zip(found.cuts, found.segments, found.segments[1:], strict=False):
        assert cut.bytes <= min(before.activation_bytes, behind.activation_bytes)


def test_the_largest_activations_are_those_of_the_call_where_the_most_values_are_there():
    """The image and the stem's output; that once more beside the branch and the sum; what is left."""
    stem, mix, head = chain("net").segments
    image, feature = 3 * 8 * 8 * 4, 8 * 4 * 4 * 4
    assert stem.activation_bytes == image + feature
    assert mix.activation_bytes == 3 * feature
    assert head.activation_bytes == (8 + 4) * 4


def test_of_a_quantized_program_the_activations_are_integers():
    first, stem, mix, _ = chain("net", integers=True).segments
    image, feature = 3 * 8 * 8, 8 * 4 * 4
    assert first.activation_bytes == 4 * image + image
    assert stem.activation_bytes == image + feature
    assert mix.activation_bytes < 6 * feature


def test_bytes_are_those_of_the_precision_that_is_sent():
    (cut, _) = chain("net").cuts
    assert cut.bytes == cut.bytes_at("fp32") == 2 * cut.bytes_at("fp16") == 4 * cut.bytes_at("int8") == 512


# Stages.


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_stages_together_are_the_whole(data):
    name = data.draw(st.sampled_from(sorted(NETS)))
    cuts = data.draw(some_of(chain(name).cuts))
    parts = stages(program(name), cuts)
    assert len(parts) == len(cuts) + 1
    assert parts[0].card.inputs == ("image",)
    assert parts[-1].card.outputs == ("logits",)
    assert error(run_stages(parts, IMAGES), program(name).run(IMAGES)) <= 1e-6


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_stages_of_a_quantized_program_are_the_whole_to_the_bit(data):
    name = data.draw(st.sampled_from(QUANTIZED))
    cuts = data.draw(some_of(chain(name, integers=True).cuts))
    found = run_stages(stages(quantized(name), cuts), IMAGES)
    assert np.array_equal(found[0], quantized(name).run(IMAGES)[0])


@pytest.mark.parametrize("name", QUANTIZED)
def test_a_quantized_program_sends_its_own_integers(name):
    whole = quantized(name)
    grids = {
        (node.args[1], node.args[2])
        for node in whole.graph.nodes
        if str(node.target) == "quantized_decomposed.quantize_per_tensor.default"
    }
    cuts = chain(name, integers=True).cuts
    for cut in cuts:
        assert {tensor.dtype for tensor in cut.tensors} == {"int8"}
        assert {(tensor.scale, tensor.zero_point) for tensor in cut.tensors} <= grids
        assert cut.bytes == cut.bytes_at("fp32")
    for stage in stages(whole, cuts)[1:]:
        assert {node.meta["val"].dtype for node in stage.inputs} == {torch.int8}


def test_the_integers_of_the_image_are_worth_a_cut_and_the_image_is_not():
    assert chain("net").cuts[0].after == "conv2d"
    first = chain("net", integers=True).cuts[0]
    assert (first.after, first.macs, first.bytes) == (first.tensors[0].name, 0, math.prod(SHAPE))


def test_integers_that_are_read_as_floats_on_both_sides_cross_as_integers():
    """The residual stream, which a layer before the cut reads and a sum behind it."""
    behind = next(cut for cut in chain("tokens", integers=True).cuts if cut.module == "qkv")
    assert [tensor.dtype for tensor in behind.tensors] == ["int8", "int8"]


def test_what_is_left_float_in_a_quantized_program_crosses_beside_its_integers():
    whole = quantized("tokens", "layers")
    cuts = find_cuts(whole).cuts
    assert {tensor.dtype for cut in cuts for tensor in cut.tensors} == {"float32", "int8"}
    assert error(run_stages(stages(whole, cuts), IMAGES), whole.run(IMAGES)) <= 1e-6


def test_a_stage_says_which_it_is_and_the_last_has_the_labels(tiny_program):
    cuts = find_cuts(tiny_program).cuts
    parts = stages(tiny_program, cuts[:2])
    assert [part.card.steps[-1].options for part in parts] == [
        {"stage": number, "of": 3} for number in (1, 2, 3)
    ]
    assert [part.card.labels for part in parts] == [None, None, tiny_program.card.labels]
    assert all(part.card.provenance == tiny_program.card.provenance for part in parts)
    assert stages(tiny_program, []) == (tiny_program,)


@pytest.mark.parametrize("name", ["tokens", "block"])
@pytest.mark.parametrize("integers", [False, True])
def test_stages_are_saved_loaded_and_fixed_to_a_batch_as_programs_are(name, integers, tmp_path):
    whole = quantized(name) if integers else program(name)
    parts = stages(whole, chain(name, integers=integers).cuts)
    loaded = [Program.load(part.save(tmp_path / f"{number}.pt2")) for number, part in enumerate(parts)]
    assert [part.card for part in loaded] == [part.card for part in parts]
    assert {part.batch for part in loaded} == {None}
    expected = whole.run(IMAGES)
    assert error(run_stages(loaded, IMAGES), expected) <= 1e-6
    fixed = [part.with_batch(4) for part in loaded]
    assert {part.batch for part in fixed} == {4}
    assert error(run_stages(fixed, IMAGES), expected) <= 1e-6


@pytest.mark.parametrize("batch", [1, 2])
def test_a_program_of_a_fixed_batch_is_cut_too(batch):
    whole = program("attention").with_batch(batch)
    cuts = find_cuts(whole).cuts
    assert [cut.bytes for cut in cuts] == [cut.bytes for cut in chain("attention").cuts]
    parts = stages(whole, cuts)
    assert {part.batch for part in parts} == {batch}
    assert error(run_stages(parts, IMAGES), whole.run(IMAGES)) <= 1e-6


def test_an_output_that_is_made_early_comes_out_at_the_end():
    def both(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        made = layer(image).flatten(1)
        return head(made.cos()), made

    layer, head = nn.Conv2d(3, 4, 8), nn.Linear(4, 3)
    whole = program_of_two(both, layer, head)
    (cut,) = find_cuts(whole).cuts
    parts = stages(whole, [cut])
    assert parts[-1].card.outputs == ("logits", "features")
    assert error(run_stages(parts, IMAGES), whole.run(IMAGES)) <= 1e-6


def program_of_two(
    function: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]], *layers: nn.Module
) -> Program:
    """A program of two outputs."""
    from edgevit.graph.program import export_module
    from tests.rewrites.helpers import CARD, Function

    module = Function(function)
    module.layers = nn.ModuleList(layers)
    exported = export_module(module.eval(), example(SHAPE, 2), dynamic_batch=True)
    return Program(exported, CARD.model_copy(update={"outputs": ("logits", "features")}))


def test_stages_of_a_stage_are_stages_of_the_whole():
    cuts = chain("attention").cuts
    first, rest = stages(program("attention"), [cuts[0]])
    inner = find_cuts(rest).cuts
    parts = [first, *stages(rest, inner)]
    made = {"image": IMAGES}
    for part in parts:
        results = part.run(*(made[name] for name in part.card.inputs))
        made |= zip(part.card.outputs, results, strict=True)
    assert error([made["logits"]], program("attention").run(IMAGES)) <= 1e-6


def test_cuts_of_another_program_or_out_of_order_are_refused():
    cuts = chain("attention").cuts
    with pytest.raises(EdgevitError, match="is no tensor that model can be cut at"):
        stages(program("net"), cuts)
    for wrong in ([cuts[2], cuts[0]], [cuts[0], cuts[0]]):
        with pytest.raises(EdgevitError, match=r"stage 2 of 3 of model cannot be computed from what crosses"):
            stages(program("attention"), wrong)


# What a stage cannot be.


@pytest.fixture(scope="module")
def parts(tiny_program) -> tuple[Program, ...]:
    return stages(tiny_program, [find_cuts(tiny_program).cuts[1]])


def test_what_needs_images_and_logits_refuses_a_stage(parts, image_folder, tmp_path):
    sentence = r"this is stage . of 2 of it \(.*\), which does not take images and give logits; take"
    for part in parts:
        path = part.save(tmp_path / f"{part.card.inputs[0]}.pt2")
        for refused in (
            lambda part=part: part.num_classes,
            lambda part=part: evaluate(part, data=image_folder),
            lambda part=part: Calibration.of(part, IMAGES),
            lambda part=part: find_axes(part),
            lambda path=path: capture(str(path), name="other"),
        ):
            with pytest.raises(EdgevitError, match=sentence):
                refused()


def test_formats_and_options_that_are_not_for_stages_are_refused(tmp_path):
    part = stages(quantized("net"), chain("net", integers=True).cuts[:1])[1]
    for options, sentence in (
        ({"to": ["coreml"]}, r"--to coreml: model: this is stage 2 of 2 of it"),
        ({"to": ["tflite"], "integer_io": True}, r"--integer-io: model: this is stage 2 of 2 of it"),
    ):
        with pytest.raises(EdgevitError, match=sentence):
            export(part, output=tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()


# Files of stages.

FAST = [("onnx", "tokens", False), ("onnx", "block", True), ("tflite", "block", True)]
SLOW = [
    case
    for case in itertools.product(("onnx", "tflite"), (*QUANTIZED, "learned"), (False, True))
    if case not in FAST and not (case[1] == "learned" and case[2])
]


@pytest.mark.parametrize(
    ("to", "name", "integers"), [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
)
def test_files_of_stages_have_their_names_and_together_are_the_whole(to, name, integers, tmp_path):
    pytest.importorskip({"onnx": "onnxruntime", "tflite": "litert_torch"}[to])
    whole = quantized(name) if integers else program(name)
    made = {"image": IMAGES[:4]}
    for number, part in enumerate(stages(whole, chain(name, integers=integers).cuts[::2])):
        result = export(part, to=[to], output=tmp_path / str(number), strict=True)
        (written,) = result.artefacts
        for tensors, names, nodes in (
            (written.info.inputs, part.card.inputs, part.inputs),
            (written.info.outputs, part.card.outputs, part.graph.output_node().args[0]),
        ):
            assert tuple(tensor.name for tensor in tensors) == names
            floats = [tensor.dtype.startswith("float") for tensor in tensors]
            assert floats == [node.meta["val"].is_floating_point() for node in nodes]
        opened = open_artefact(written.path)
        assert opened.card.stage == part.card.stage
        if number == 1:
            assert profile(written.path, threads=1, runs=1, seconds=0, operators=False).runs
        with pytest.raises(EdgevitError, match="which does not take images and give logits"):
            _ = opened.num_classes
        made |= zip(names, opened.run(*(made[name] for name in part.card.inputs)), strict=True)
    tolerance = 2e-2 if integers else 1e-5
    assert error([made["logits"]], whole.run(IMAGES[:4])) <= tolerance


def test_a_file_of_another_stage_does_not_pass(parts, tmp_path):
    pytest.importorskip("onnxruntime")
    (written,) = export(parts[1], to=["onnx"], output=tmp_path / "out").artefacts
    with pytest.raises(EdgevitError, match="it was not made from this program"):
        verify(written.path, against=parts[0])
    with pytest.raises(EdgevitError, match="which does not take images and give logits"):
        verify(written.path, against=parts[1], data=tmp_path)


# The command line.


def test_inspect_prints_cuts_and_their_costs(tiny_pt2, tiny_program, capsys):
    assert run(["inspect", str(tiny_pt2), "--cuts"]) == 0
    cuts = find_cuts(tiny_program).cuts
    lines = capsys.readouterr().out.splitlines()
    at = next(place for place, line in enumerate(lines) if line.endswith("what crosses"))
    assert lines[at - 1].split()[:2] == ["cuts", f"{len(cuts)};"]
    for line, cut in zip(lines[at + 1 :], cuts, strict=True):
        assert line.split()[0] == f"{cut.bytes:,}"
        assert all(tensor.name in line for tensor in cut.tensors)
    assert "qkv, linear" in lines[at + 2]


def test_inspect_gives_cuts_and_segments_as_json(tiny_pt2, tiny_program, capsys):
    assert run(["inspect", str(tiny_pt2), "--cuts", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = find_cuts(tiny_program)
    assert [cut["bytes_at"]["fp16"] for cut in found["cuts"]] == [c.bytes_at("fp16") for c in expected.cuts]
    assert [cut["tensors"][0]["name"] for cut in found["cuts"]] == [c.tensors[0].name for c in expected.cuts]
    assert [segment["macs"] for segment in found["segments"]] == [s.macs for s in expected.segments]


def test_inspect_shows_what_a_stage_takes_and_gives(parts, tmp_path, capsys):
    path = parts[1].save(tmp_path / "second.pt2")
    assert run(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    (taken, *_) = parts[1].card.inputs
    for text in ("stage 2 of 2", "images  none", f"inputs  {taken} batchx", "logits batchx3"):
        assert text in shown


def test_cuts_are_of_programs(tiny_onnx, capsys):
    assert run(["inspect", str(tiny_onnx), "--cuts"]) == 2
    assert "--cuts: " in capsys.readouterr().err


# The models whose exports are compared across targets.


@pytest.mark.parametrize(
    "name", [name if name == "deit_tiny" else pytest.param(name, marks=pytest.mark.slow) for name in TIMM]
)
def test_the_stages_of_a_published_architecture_are_the_whole(name):
    pytest.importorskip("timm")
    module, shape = TIMM[name]()
    whole = prepare_for_export(program_of(module, shape))
    inputs = example(shape, 2, seed=7).numpy()
    expected, found = whole.run(inputs), find_cuts(whole)
    assert sum(segment.macs for segment in found.segments) == count_macs(whole)
    assert len(found.cuts) > 30
    generator = np.random.default_rng(0)
    places = [np.arange(len(found.cuts)), *(generator.choice(len(found.cuts), 2, False) for _ in range(3))]
    for chosen in places:
        parts = stages(whole, [found.cuts[place] for place in sorted(chosen)])
        assert error(run_stages(parts, inputs), expected) <= 1e-6
