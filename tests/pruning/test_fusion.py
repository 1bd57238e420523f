"""The fusion of sub-models: it knows what its parts know, and what is left of that when one is missing."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from edgevit.errors import EdgevitError
from edgevit.graph.program import export_module
from edgevit.pruning.fusion import Fusion, FusionNetwork, FusionOptions, _present, train_fusion
from edgevit.pruning.steps import generator_of

CLASSES = 4
WIDTHS = (6, 10)
FEW = FusionOptions(hidden=16, epochs=2)

Data = tuple[list[torch.Tensor], torch.Tensor]


def halves(count: int = 400, *, seed: int = 0) -> Data:
    """Two parts of which each knows two classes, and of the others that they are none of its own."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    features = []
    for part, width in enumerate(WIDTHS):
        prototypes = 3 * torch.eye(3, width)
        own = torch.where(labels // 2 == part, labels % 2, 2)
        features.append(prototypes[own] + 0.3 * torch.randn(count, width, generator=generator))
    return features, labels


@pytest.fixture(scope="module")
def fusion() -> Fusion:
    features, labels = halves()
    return train_fusion(features, labels, classes=CLASSES)


def hits(fusion: Fusion, present: tuple[bool, bool]) -> tuple[torch.Tensor, torch.Tensor]:
    """Which fresh images are recognised, and their labels."""
    features, labels = halves(seed=1)
    given = [part if there else None for part, there in zip(features, present, strict=True)]
    return fusion.predict(given).argmax(1) == labels, labels


def test_together_the_parts_know_all_classes(fusion):
    right, _ = hits(fusion, (True, True))
    assert float(right.float().mean()) > 0.95


@pytest.mark.parametrize("there", [0, 1])
def test_with_one_part_missing_what_the_other_knows_is_left(fusion, there):
    right, labels = hits(fusion, (there == 0, there == 1))
    known = labels // 2 == there
    assert float(right[known].float().mean()) > 0.95
    assert 0.3 < float(right[~known].float().mean()) < 0.7, "between two classes it can but guess"


def one_plain_and_one_hidden(seed: int) -> Data:
    """Two parts that know both classes: one says which, of the other it is whether two numbers agree."""
    generator = torch.Generator().manual_seed(seed)
    signs = 2.0 * torch.randint(2, (400, 2), generator=generator) - 1
    labels = (signs[:, 0] == signs[:, 1]).long()
    noise = 0.4 * torch.randn(2, 400, 4, generator=generator)
    return [noise[0] + 4 * torch.eye(2, 4)[labels], noise[1] + torch.cat([signs, 0 * signs], dim=1)], labels


def test_without_parts_left_out_in_training_a_loss_costs_more():
    features, labels = one_plain_and_one_hidden(0)
    bold, careful = (
        train_fusion(features, labels, classes=2, options=FusionOptions(drop=drop, epochs=10))
        for drop in (0.0, 0.25)
    )
    features, labels = one_plain_and_one_hidden(1)

    def without_the_plain_one(fusion: Fusion) -> float:
        return float((fusion.predict([None, features[1]]).argmax(1) == labels).float().mean())

    assert without_the_plain_one(careful) > without_the_plain_one(bold) + 0.03


def test_what_stands_for_a_missing_part_does_not_matter(fusion):
    features, _ = halves(10)
    joined = fusion.joined([features[0], None])
    assert joined.shape == (10, sum(WIDTHS) + 2)
    assert joined[:, -2:].tolist() == [[1.0, 0.0]] * 10
    other = joined.clone()
    other[:, WIDTHS[0] : -2] = features[1]
    with torch.no_grad():
        assert torch.equal(fusion.network(joined), fusion.network(other))
        other[:, -1] = 1.0
        assert not torch.equal(fusion.network(joined), fusion.network(other))


def test_a_single_part_is_fused_too():
    features, labels = halves()
    found = train_fusion(features[:1], labels, classes=CLASSES, options=FEW)
    assert found.widths == (6,)
    assert found.predict(features[:1]).shape == (400, CLASSES)


def test_the_same_seed_gives_the_same_bits_and_leaves_other_randomness_alone():
    features, labels = halves(64)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, second = (train_fusion(features, labels, classes=CLASSES, options=FEW) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    other = train_fusion(
        features, labels, classes=CLASSES, options=FusionOptions(hidden=16, epochs=2, seed=1)
    )
    assert same(first, second)
    assert not same(first, other)


def same(left: Fusion, right: Fusion) -> bool:
    states = left.network.state_dict(), right.network.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][k], states[1][k]) for k in states[0]
    )


@given(st.integers(1, 20), st.integers(1, 6), st.floats(0, 0.99), st.integers(0, 100))
def test_one_part_always_stays(count, parts, drop, seed):
    present = _present(count, parts, drop, generator_of(seed, 0))
    assert present.shape == (count, parts)
    assert set(present.unique().tolist()) <= {0.0, 1.0}
    assert (present.sum(1) >= 1).all()


def test_so_many_are_left_out_as_was_asked():
    present = _present(10_000, 8, 0.25, generator_of(0, 0))
    assert float(present.mean()) == pytest.approx(0.75, abs=0.01)
    assert (_present(100, 3, 0.0, generator_of(0, 0)) == 1).all()


def test_it_can_be_exported_as_a_module_of_one_tensor(fusion):
    features, _ = halves(7)
    joined = fusion.joined(features)
    exported = export_module(fusion.network, joined, dynamic_batch=True)
    again = torch.cat([joined, joined])
    assert torch.allclose(exported.module()(again), fusion.network(again), atol=1e-6)


def test_saving_and_loading_keeps_every_bit(fusion, tmp_path):
    path = fusion.save(tmp_path / "fusion.safetensors")
    loaded = Fusion.load(path)
    assert (loaded.widths, loaded.classes) == (WIDTHS, CLASSES)
    assert same(loaded, fusion)
    features, _ = halves(9)
    assert torch.allclose(loaded.predict(features), fusion.predict(features), atol=1e-6)
    assert not any(value.requires_grad for value in loaded.network.parameters())


def test_an_existing_file_is_kept_unless_forced(fusion, tmp_path):
    path = tmp_path / "fusion.safetensors"
    path.write_bytes(b"mine")
    with pytest.raises(EdgevitError, match=r"fusion\.safetensors exists already; .* --force"):
        fusion.save(path)
    assert path.read_bytes() == b"mine"
    fusion.save(path, force=True)
    assert Fusion.load(path).widths == WIDTHS


def test_only_safetensors_are_written(fusion, tmp_path):
    with pytest.raises(EdgevitError, match=r"a fusion is saved as \.safetensors"):
        fusion.save(tmp_path / "fusion.pt2")


def rewritten(path, changes=None, tensors=None, *, metadata=None) -> None:
    """The file with other sizes or tensors in it."""
    header = {"version": 1, "widths": WIDTHS, "hidden": 256, "classes": CLASSES} | (changes or {})
    metadata = {"edgevit_fusion": json.dumps(header)} if metadata is None else metadata
    save_file(load_file(path) | (tensors or {}), path, metadata=metadata)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda path: path.write_text("notes"), "is not a valid safetensors file, or is truncated"),
        (lambda path: path.write_bytes(path.read_bytes()[:-7]), "is not a valid safetensors file"),
        (lambda path: rewritten(path, metadata={}), "is no fusion: edgevit saved no sizes in it"),
        (
            lambda path: rewritten(path, metadata={"edgevit_fusion": "{"}),
            "is damaged: its sizes are not JSON",
        ),
        (lambda path: rewritten(path, metadata={"edgevit_fusion": "[]"}), "is a fusion of version None"),
        (
            lambda path: rewritten(path, {"version": 2}),
            "is a fusion of version 2; this edgevit reads version 1",
        ),
        (
            lambda path: rewritten(path, {"hiden": 3}),
            r'its sizes are not valid: hiden: .* did you mean "hidden"',
        ),
        (lambda path: rewritten(path, {"classes": 0}), "its sizes are not valid: classes: "),
        (lambda path: rewritten(path, {"widths": []}), "its sizes are not valid: widths: "),
        (lambda path: rewritten(path, {"hidden": 10**15}), r"is damaged: hidden\.weight is \(256, 16\), not"),
        (
            lambda path: rewritten(path, tensors={"more": torch.zeros(2)}),
            r"is damaged: more is \(2,\), not expected",
        ),
        (
            lambda path: rewritten(path, tensors={"head.bias": torch.full((4,), math.nan)}),
            r"is damaged: head\.bias is not all finite float32 numbers",
        ),
        (
            lambda path: rewritten(path, tensors={"head.bias": torch.zeros(4).half()}),
            r"is damaged: head\.bias is not all finite float32 numbers",
        ),
    ],
)
def test_a_damaged_file_is_refused_in_one_sentence(fusion, tmp_path, spoil, sentence):
    path = fusion.save(tmp_path / "fusion.safetensors")
    spoil(path)
    with pytest.raises(EdgevitError, match=rf"fusion\.safetensors:? {sentence}"):
        Fusion.load(path)


def test_a_file_that_lacks_a_tensor_is_refused(fusion, tmp_path):
    path = fusion.save(tmp_path / "fusion.safetensors")
    header = {"version": 1, "widths": WIDTHS, "hidden": 256, "classes": CLASSES}
    tensors = {name: value for name, value in load_file(path).items() if name != "head.bias"}
    save_file(tensors, path, metadata={"edgevit_fusion": json.dumps(header)})
    with pytest.raises(EdgevitError, match=r"is damaged: head\.bias is missing, not \(4,\)"):
        Fusion.load(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(EdgevitError, match="fusion: .* does not exist"):
        Fusion.load(tmp_path / "fusion.safetensors")


@pytest.mark.parametrize(
    ("features", "sentence"),
    [
        ([torch.zeros(3, 6)], "features: 1 parts are given, the fusion reads 2"),
        ([None, None], "features: every part is missing; one at least is needed"),
        ([torch.zeros(3, 6), torch.zeros(3, 9)], r"features: those of part 1 are \(3, 9\), not \(3, 10\)"),
        ([torch.zeros(3, 6), torch.zeros(2, 10)], r"features: those of part 1 are \(2, 10\), not \(3, 10\)"),
    ],
)
def test_features_of_another_shape_are_refused(fusion, features, sentence):
    with pytest.raises(EdgevitError, match=sentence):
        fusion.predict(features)


@pytest.mark.parametrize(
    ("features", "labels", "sentence"),
    [
        (
            [],
            torch.zeros(0).long(),
            "features: there are none; a fusion needs one part and one image at least",
        ),
        ([torch.zeros(0, 6)], torch.zeros(0).long(), "features: there are none"),
        ([torch.zeros(2, 6), torch.zeros(3, 6)], torch.zeros(2).long(), r"those of part 1 are \(3, 6\)"),
        (
            [torch.zeros(2, 6, 1)],
            torch.zeros(2).long(),
            r"those of part 0 are \(2, 6, 1\) torch.float32; \(2, w",
        ),
        ([torch.zeros(2, 6).half()], torch.zeros(2).long(), "torch.float16"),
        ([torch.full((2, 6), math.inf)], torch.zeros(2).long(), "features: some of part 0 are not numbers"),
        ([torch.zeros(2, 6)], torch.tensor([0, 4]), "labels: image 1 has the label 4"),
        ([torch.zeros(2, 6)], torch.tensor([0]), "labels: they are"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(features, labels, sentence):
    with pytest.raises(EdgevitError, match=sentence):
        train_fusion(features, labels, classes=CLASSES)


@pytest.mark.parametrize(
    ("option", "value", "right"),
    [
        ("hidden", 0, "at least 1"),
        ("drop", 1.0, "at least 0 and below 1"),
        ("epochs", 0, "at least 1"),
        ("batch", 0, "at least 1"),
        ("lr", 0.0, "above 0 and at most 1"),
        ("weight_decay", -1.0, "at least 0"),
        ("warm_up", 1.0, "at least 0 and below 1"),
        ("alpha", 1.5, "0 to 1"),
        ("temperature", 0.0, "above 0"),
        ("seed", -1, "at least 0"),
    ],
)
def test_an_option_that_cannot_be_is_refused(option, value, right):
    with pytest.raises(EdgevitError, match=rf"^{option}: must be {right}, not {value}$"):
        FusionOptions(**{option: value})


def test_it_learns_from_what_the_whole_says():
    features, labels = halves()
    # It takes each class for the next one.
    teacher = 5.0 * torch.eye(CLASSES)[(labels + 1) % CLASSES]
    fusion = train_fusion(
        features, labels, classes=CLASSES, teacher=teacher, options=FusionOptions(alpha=1.0)
    )
    features, labels = halves(seed=1)
    found = fusion.predict(features).argmax(1)
    assert float((found == (labels + 1) % CLASSES).float().mean()) > 0.95


def test_logits_of_the_whole_that_do_not_fit_are_refused():
    features, labels = halves(8)
    with pytest.raises(EdgevitError, match=r"^teacher: its logits are \(8, 3\), not \(8, 4\)$"):
        train_fusion(features, labels, classes=CLASSES, teacher=torch.zeros(8, 3))


def test_a_loss_that_is_no_number_ends_it_in_one_sentence():
    features, labels = halves(64)
    with pytest.raises(
        EdgevitError, match=r"^lr: the loss was no number any more .* below 0\.001, or features"
    ):
        train_fusion([part * 1e37 for part in features], labels, classes=CLASSES, options=FEW)


def test_the_network_says_which_widths_it_reads():
    assert FusionNetwork([3, 5], 4, 2)(torch.ones(1, 10)).shape == (1, 2)
