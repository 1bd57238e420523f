"""Splitting by classes: from a classifier to a folder that answers, on patterns learned in seconds."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import edgevit
from edgevit.errors import EdgevitError
from edgevit.graph.program import Program
from edgevit.pruning import candidates, classwise, fusion
from edgevit.pruning.assignment import Device
from edgevit.pruning.classwise import split_classes, split_with
from edgevit.pruning.dataset import held_out
from edgevit.pruning.fusion import Fusion
from edgevit.pruning.heads import with_features
from edgevit.pruning.loop import TrainingOptions
from edgevit.pruning.options import SplitOptions
from edgevit.pruning.parts import (
    Budget,
    Material,
    Plan,
    costs_of,
    grouped,
    own_labels,
    packed,
    prune_part,
    train_part,
    unpacked,
)
from edgevit.pruning.split import CONTROL_FILE, FUSION, MANIFEST, Manifest, Split, read_split
from edgevit.quant.options import QuantizeOptions
from edgevit.quant.quantizing import quantize
from tests.pruning.helpers import classifier
from tests.pruning.patterns import LABELS, learned, patterns
from tests.pruning.test_heads import MeanOfTwo
from tests.quant.helpers import SHAPE
from tests.rewrites.helpers import program_of

IMAGES, CLASSES = (values.numpy() for values in patterns(420, seed=2))
FRESH, TRUE = (values.numpy() for values in patterns(240, seed=3))
MACS, BYTES = costs_of(learned())
WRITTEN = [CONTROL_FILE, FUSION, MANIFEST, "part-1.pt2", "part-2.pt2", "part-3.pt2"]
# Quick, and enough where it does not matter how good the parts are.
FEW, FEW_CLASSES = IMAGES[:96], CLASSES[:96]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three parts, for whatever only looks at them."""
    folder = tmp_path_factory.mktemp("split") / "three"
    split_classes(learned(), IMAGES, CLASSES, parts=3, output=folder)
    return folder


@pytest.fixture(scope="module")
def split(three: Path) -> Split:
    return read_split(three)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trained parts, made in one go by one process."""
    folder = tmp_path_factory.mktemp("split") / "two"
    quick(folder)
    return folder


@pytest.fixture
def copied(three: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(three, tmp_path / "copied"))


def quick(output: Path, **options) -> Manifest:
    """Two parts at random from few images, trained a little."""
    # Processes of their own would not see what a test puts in the place of a function.
    given = {"parts": 2, "grouping": "random", "epochs": 1, "workers": 1} | options
    return split_classes(learned(), FEW, FEW_CLASSES, output=output, **given).manifest


def far(part: Program, classes: tuple[int, ...]) -> float:
    """Mean divergence of a part's predictions from the whole's, in nats."""
    teacher = grouped(torch.from_numpy(learned().run(FRESH)[0]), classes).log_softmax(1)
    student = torch.from_numpy(part.run(FRESH)[0]).log_softmax(1)
    return float((teacher.exp() * (teacher - student)).sum(1).mean())


def accuracy(split: Split, missing: tuple[str, ...] = ()) -> float:
    return 100 * float((split.predict(FRESH, missing).argmax(1) == TRUE).mean())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MANIFEST}


class TestTheResult:
    def test_the_folder_holds_parts_a_fusion_and_a_manifest_and_nothing_is_left_beside_it(self, three):
        assert sorted(path.name for path in three.iterdir()) == WRITTEN
        assert list(three.parent.iterdir()) == [three]

    def test_the_fusion_is_nearly_as_good_as_the_whole(self, split):
        whole = 100 * float((learned().run(FRESH)[0].argmax(1) == TRUE).mean())
        assert whole > 90
        assert accuracy(split) > whole - 4
        assert split.manifest.fusion.accuracy > split.manifest.whole.accuracy - 4

    def test_a_part_that_is_missing_costs_its_classes_at_most(self, split):
        for part in split.manifest.parts:
            left = accuracy(split, (part.name,))
            assert left > accuracy(split) - 100 * len(part.classes) / len(LABELS) - 2

    def test_one_part_alone_still_gives_an_answer(self, split):
        assert split.predict(FRESH[:3], ("part-1", "part-3")).shape == (3, len(LABELS))

    def test_each_part_is_within_its_share(self, three, split):
        manifest = split.manifest
        for entry in manifest.parts:
            macs, size = costs_of(Program.load(three / entry.file))
            assert (macs, size) == (entry.macs, entry.bytes)
            assert macs <= manifest.whole.macs / 3
            assert size <= manifest.whole.bytes / 3

    def test_every_class_has_one_part(self, split):
        classes = [label for part in split.manifest.parts for label in part.classes]
        assert sorted(classes) == list(range(len(LABELS)))
        assert {len(part.classes) for part in split.manifest.parts} == {2}

    def test_a_part_tells_its_classes_apart_and_says_that_others_are_not_its_own(self, split):
        for entry, program in zip(split.manifest.parts, split.parts, strict=True):
            assert program.card.labels == (*(LABELS[label] for label in entry.classes), "other")
            found = program.run(FRESH)[0].argmax(1)
            assert float((found == own_labels(TRUE, entry.classes)).mean()) > 0.8
            assert entry.accuracy > 80

    def test_the_control_is_one_model_in_eight_bits_that_costs_no_more(self, three, split):
        manifest = split.manifest
        control = Program.load(three / CONTROL_FILE)
        assert control.num_classes == len(LABELS)
        assert control.card.steps[-1].name == "quantize"
        macs, size = costs_of(control)
        assert (manifest.control.macs, manifest.control.bytes) == (macs, size)
        largest = max(split.parts, key=lambda part: costs_of(part)[0])
        # Its classifier has more rows; no row reads more than the whole's features.
        assert macs <= costs_of(largest)[0] + len(LABELS) * with_features(learned()).output_shapes[-1][-1]
        assert size <= max(part.bytes for part in manifest.parts)
        ours = 100 * float((control.run(FRESH)[0].argmax(1) == TRUE).mean())
        assert manifest.control.accuracy == pytest.approx(ours, abs=15)
        assert ours > 100 / len(LABELS) + 15

    def test_what_is_sent_is_the_features_as_float32(self, split):
        for entry, program in zip(split.manifest.parts, split.parts, strict=True):
            assert entry.bytes_sent == program.run(FRESH[:1])[-1].nbytes

    def test_accuracies_are_of_the_images_held_out(self, split):
        held = split.manifest.options.held_out
        assert split.manifest.options.images + held == len(IMAGES)
        for value in (split.manifest.whole.accuracy, split.manifest.fusion.accuracy):
            assert value * held / 100 == pytest.approx(round(value * held / 100))

    def test_both_groupings_were_compared_and_the_better_one_was_taken(self, split):
        compared = split.manifest.compared
        assert set(compared) == {"random", "confusion"}
        assert compared[split.manifest.grouping] == max(compared.values())

    def test_a_part_is_a_program_like_any_other(self, three):
        inspected = edgevit.inspect(three / "part-1.pt2")
        assert set(inspected.output_shapes) == {"logits", "features"}
        assert inspected.card.name == "patterns part-1"


class TestOptions:
    def test_one_part_has_all_classes_and_nothing_can_be_missing(self, tmp_path):
        manifest = quick(tmp_path / "out", parts=1, grouping="best")
        (part,) = manifest.parts
        assert part.classes == tuple(range(len(LABELS)))
        assert part.accuracy_without is None
        assert part.macs <= manifest.whole.macs / 2
        assert manifest.compared is None
        with pytest.raises(EdgevitError, match="features: every part is missing"):
            read_split(tmp_path / "out").predict(FRESH, ("part-1",))

    def test_parts_may_have_the_share_that_is_given(self, tmp_path):
        manifest = quick(tmp_path / "out", keep=0.25, grouping="confusion", epochs=0)
        assert (manifest.grouping, manifest.compared) == ("confusion", None)
        for part in manifest.parts:
            assert part.macs <= manifest.whole.macs / 4
            assert part.bytes <= manifest.whole.bytes / 4

    def test_training_brings_a_part_nearer_to_the_whole(self):
        small = Budget(MACS // 6, BYTES // 6, "", "")
        plan = Plan("part-1", (0, 3), small, 256, TrainingOptions(epochs=6, lr=1e-3), "cpu")
        teacher, features = with_features(learned()).run(IMAGES)
        material = Material(
            packed(learned(), "whole"), IMAGES, CLASSES, teacher, features, np.arange(len(IMAGES))
        )
        pruned = prune_part(plan, material)
        trained = train_part(pruned, None, plan, material)
        assert far(unpacked(trained), plan.classes) < 0.8 * far(unpacked(pruned), plan.classes)
        steps = [step.name for step in unpacked(trained).card.steps]
        assert steps[-3:] == ["with_classes", "prune", "train"]

    def test_the_same_seed_gives_the_same_bytes(self, two, tmp_path):
        quick(tmp_path / "again")
        assert contents(tmp_path / "again") == contents(two)
        assert (tmp_path / "again" / MANIFEST).read_text() == (two / MANIFEST).read_text()

    def test_processes_give_the_bytes_that_one_gives(self, two, tmp_path):
        quick(tmp_path / "out", workers=2)
        assert contents(tmp_path / "out") == contents(two)

    def test_images_may_be_float16_in_a_mapped_file(self, two, tmp_path):
        np.save(tmp_path / "images.npy", FEW.astype(np.float16))
        mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
        given = {"parts": 2, "grouping": "random", "epochs": 1}
        split_classes(learned(), mapped, FEW_CLASSES.tolist(), output=tmp_path / "a", **given)
        assert contents(tmp_path / "a") == contents(two)


class TestDevices:
    def device(self, name: str, *, memory: float = 1.0, **budgets: float):
        return Device(name, 1e9, int(memory * BYTES), **budgets)

    def test_a_part_for_each_device_with_room_for_it(self, tmp_path):
        path = tmp_path / "devices.yaml"
        latency = f"energy_macs: {MACS}, latency_seconds: {0.2 * MACS / 1e9}"
        path.write_text(
            "version: 1\ndevices:\n"
            f"  - {{name: big, macs_per_second: 3.0e+9, memory_bytes: {BYTES}}}\n"
            f"  - {{name: small, macs_per_second: 1.0e+9, memory_bytes: {int(0.3 * BYTES)}, {latency}}}\n"
        )
        manifest = quick(tmp_path / "out", parts=None, devices=path, epochs=0)
        big, small = manifest.parts
        assert 0.3 * BYTES < big.bytes <= 0.5 * BYTES
        assert small.bytes <= 0.3 * BYTES
        assert small.macs <= 0.2 * MACS
        placement = manifest.placement
        assert placement.latency == max(placement.seconds.values()) <= manifest.greedy.latency
        assert set(placement.seconds) == {"big", "small"}
        assert list(placement.device_of) == ["part-1", "part-2"]

    @pytest.mark.parametrize(
        ("limit", "sentence"),
        [
            ({"memory": 0.01}, r"--devices: a: memory_bytes: part-1 may have \d+ bytes; pruned as far as"),
            (
                {"energy_macs": MACS // 1000},
                r"--devices: a: energy_macs: part-1 may have \d+ multiply-accumulates; pruned",
            ),
            (
                {"latency_seconds": 0.001 * MACS / 1e9},
                r"--devices: a: latency_seconds: part-1 may have \d+ multiply-accumulates; pruned",
            ),
        ],
    )
    def test_a_budget_that_cannot_be_met_is_named_with_what_is_lacking(self, tmp_path, limit, sentence):
        devices = (self.device("a", **limit), self.device("b"))
        with pytest.raises(EdgevitError, match=sentence) as caught:
            quick(tmp_path / "out", parts=None, devices=devices)
        allowed, needed, lacking = (
            int(number.replace(",", ""))
            for number in re.findall(r"\b\d[\d,]*\b(?![-:])", str(caught.value))[-3:]
        )
        assert lacking == needed - allowed

    def test_where_an_estimate_was_too_low_a_part_is_cut_again(self, tmp_path, monkeypatch):
        from edgevit.pruning import parts

        tried = []

        def dearer(program: Program) -> tuple[int, int]:
            macs, size = costs_of(program)
            tried.append(size)
            return macs, round(1.15 * size)

        monkeypatch.setattr(parts, "costs_of", dearer)
        manifest = quick(tmp_path / "out", keep=0.5, epochs=0)
        assert len(tried) > len(manifest.parts)
        assert all(1.15 * part.bytes <= 0.5 * manifest.whole.bytes for part in manifest.parts)


class TestReading:
    def test_a_manifest_is_read_as_it_was_written(self, three, tmp_path):
        manifest = Manifest.read(three / MANIFEST)
        manifest.write(tmp_path / MANIFEST)
        assert Manifest.read(tmp_path / MANIFEST) == manifest
        assert (tmp_path / MANIFEST).read_bytes() == (three / MANIFEST).read_bytes()

    def change(self, folder: Path, **values) -> None:
        path = folder / MANIFEST
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    @pytest.mark.parametrize(
        ("values", "sentence"),
        [
            ({"version": 2}, "is a manifest of version 2; this edgevit reads version 1"),
            ({"clases": 3}, 'clases: unknown key; did you mean "classes"'),
            ({"classes": 0}, "classes: must be at least 1, not 0"),
            ({"parts": []}, "parts: must have at least one entry"),
            ({"classes": 7}, r"fuses features of widths .* into 6 classes, the parts give .* for 7"),
        ],
    )
    def test_a_manifest_that_is_wrong_is_refused(self, copied, values, sentence):
        self.change(copied, **values)
        with pytest.raises(EdgevitError, match=sentence):
            read_split(copied)

    def test_a_file_outside_the_folder_is_refused(self, copied):
        parts = json.loads((copied / MANIFEST).read_text())["parts"]
        self.change(copied, parts=[parts[0] | {"file": "../part-1.pt2"}, *parts[1:]])
        with pytest.raises(EdgevitError, match=r"parts\[0\]\.file"):
            read_split(copied)

    def test_what_is_no_json_is_refused(self, copied):
        (copied / MANIFEST).write_text("{")
        with pytest.raises(EdgevitError, match=r"manifest\.json is damaged: it is not JSON"):
            read_split(copied)

    def test_an_altered_part_is_refused(self, copied):
        shutil.copy(copied / "part-2.pt2", copied / "part-1.pt2")
        with pytest.raises(EdgevitError, match=r"part-1\.pt2 was altered or is damaged"):
            read_split(copied)

    def test_a_missing_file_is_named(self, copied):
        (copied / FUSION).unlink()
        with pytest.raises(EdgevitError, match=r"fusion\.safetensors does not exist"):
            read_split(copied)

    def test_what_is_no_folder_is_refused(self, tmp_path):
        with pytest.raises(
            EdgevitError, match="is no folder; give the one that `edgevit split-classes` wrote"
        ):
            read_split(tmp_path / "nowhere")

    def test_a_part_that_there_is_not_cannot_be_missing(self, split):
        with pytest.raises(EdgevitError, match="missing: 'part-4' is no part of the split; did you mean"):
            split.predict(FRESH, ("part-4",))


def quantized() -> Program:
    options = vars(QuantizeOptions(precision="w8a8", method="minmax", placement="layers"))
    return quantize(learned(), FEW[:32], **options).program


def refused(output: Path, sentence: str, *, program: Program | None = None, data=None, **options) -> None:
    images, labels = data or (FEW, FEW_CLASSES)
    with pytest.raises(EdgevitError, match=sentence) as caught:
        split_classes(program or learned(), images, labels, output=output, **({"parts": 2} | options))
    assert "\n" not in str(caught.value)
    assert not list(output.parent.iterdir())


class TestMistakes:
    """Each gives one sentence and leaves nothing behind."""

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"parts": 7}, "--parts: 7 sub-models of patterns, which tells 6 classes apart; 1 to 6 are"),
            ({"parts": 0}, "--parts: 0 sub-models; one at least is needed"),
            ({"parts": None}, "give either --parts N or --devices FILE"),
            ({"devices": [Device("a", 1.0, 1)]}, "give either --parts N or --devices FILE"),
            ({"parts": None, "devices": []}, "--devices: 0 are given; 1 to 14 can be used"),
            ({"keep": 1.0}, "--keep: 1 is no share; give a number between 0 and 1"),
            (
                {"keep": 0.01},
                r"--keep 0\.01: part-1 may have [\d,]+ bytes; pruned as far as it can be it has",
            ),
            ({"grouping": "confusing"}, "--grouping: 'confusing' is unknown; did you mean \"confusion\""),
            ({"epochs": -1}, "epochs: must be at least 0, not -1"),
            ({"torch_device": "tpu"}, "--torch-device: 'tpu' is unknown"),
            ({"parallel": "spark"}, "--parallel: 'spark' is unknown; known: local, ray"),
            ({"workers": 0}, "--workers: 0 processes; one at least is needed"),
        ],
    )
    def test_an_option_that_cannot_be(self, tmp_path, options, sentence):
        refused(tmp_path / "out", sentence, **options)

    def test_a_class_without_images(self, tmp_path):
        some = CLASSES != 2
        sentence = r"--data: class 2 \(checks\) has no image among the 350 that are used; two at least"
        refused(tmp_path / "out", sentence, data=(IMAGES[some], CLASSES[some]))

    def test_a_class_with_one_image(self, tmp_path):
        some = (CLASSES != 2) | (np.arange(len(CLASSES)) == 2)
        sentence = r"--data: class 2 \(checks\) has one image among the 351"
        refused(tmp_path / "out", sentence, data=(IMAGES[some], CLASSES[some]))

    def test_labels_of_other_classes(self, tmp_path):
        refused(
            tmp_path / "out",
            "labels: they go from 1 to 6; patterns tells 6 classes",
            data=(FEW, FEW_CLASSES + 1),
        )

    def test_images_of_another_size(self, tmp_path):
        small = FEW[:, :, :8]
        refused(
            tmp_path / "out", r"patterns takes \(n, 3, 16, 16\), and one label", data=(small, FEW_CLASSES)
        )

    def test_too_few_images_to_prune_with(self, tmp_path):
        refused(
            tmp_path / "out",
            "12 images to prune patterns part-1 with: give 16",
            data=(FEW[:18], FEW_CLASSES[:18]),
        )

    def test_a_quantized_program(self, tmp_path):
        refused(tmp_path / "out", "patterns is quantized: prune the float Program", program=quantized())

    def test_a_program_with_a_fixed_batch(self, tmp_path):
        refused(tmp_path / "out", "captured for a batch of 1", program=learned().with_batch(1))

    def test_a_classifier_that_is_no_linear_layer(self, tmp_path):
        program = program_of(MeanOfTwo(), SHAPE)
        refused(tmp_path / "out", "not by one linear layer", program=program)

    def test_a_program_that_gives_features_already(self, tmp_path):
        refused(tmp_path / "out", "has an output named features already", program=with_features(learned()))

    def test_a_class_called_other(self, tmp_path):
        program = classifier("net")
        card = program.card.model_copy(update={"labels": ("cat", "other", "dog", "frog")})
        refused(
            tmp_path / "out", 'a class of model is called "other"', program=Program(program.exported, card)
        )

    def test_an_output_that_is_there(self, tmp_path, three):
        with pytest.raises(EdgevitError, match=r"manifest\.json exists already; .* pass --force"):
            split_classes(learned(), FEW, FEW_CLASSES, parts=2, output=three)

    def test_force_replaces_it_and_what_belonged_to_it(self, copied):
        (copied / "notes.txt").write_text("mine")
        for name in ("report.html", "report.json"):
            (copied / name).write_text("of the split that is replaced")
        quick(copied, force=True)
        names = sorted(path.name for path in copied.iterdir())
        assert names == [CONTROL_FILE, FUSION, MANIFEST, "notes.txt", "part-1.pt2", "part-2.pt2"]
        assert len(read_split(copied).parts) == 2


class StoppedError(Exception):
    """Somebody pressed Ctrl-C."""


class TestGoingOn:
    def stopped(self, monkeypatch, output: Path, after: int) -> None:
        """The same call, stopped when so many parts are finished."""
        original = candidates.Workplace.keep
        kept = []

        def keep(self, name, data):
            original(self, name, data)
            kept.append(name)
            if len(kept) == after:
                raise StoppedError

        with monkeypatch.context() as patch, pytest.raises(StoppedError):
            patch.setattr(candidates.Workplace, "keep", keep)
            quick(output)

    def made(self, monkeypatch, output: Path) -> list[str]:
        """Call again; which parts were made."""
        names = []
        original = candidates.Workplace.keep

        def keep(self, name, data):
            names.append(name)
            original(self, name, data)

        with monkeypatch.context() as patch:
            patch.setattr(candidates.Workplace, "keep", keep)
            quick(output)
        return names

    @pytest.mark.parametrize("after", [1, 3, 5])
    def test_finished_parts_are_not_made_again(self, monkeypatch, two, tmp_path, after):
        self.stopped(monkeypatch, tmp_path / "out", after)
        assert not (tmp_path / "out").exists()
        names = self.made(monkeypatch, tmp_path / "out")
        assert len(names) == 7 - after
        assert contents(tmp_path / "out") == contents(two)
        assert not (tmp_path / "out.partial").exists()

    def test_another_run_does_not_go_on_from_them(self, monkeypatch, tmp_path):
        self.stopped(monkeypatch, tmp_path / "out", 1)
        for other in ({"seed": 1}, {"keep": 0.3}, {"epochs": 2}, {"grouping": "confusion"}, {"parts": 3}):
            with pytest.raises(EdgevitError, match=r"out\.partial was left by a split of another model"):
                quick(tmp_path / "out", **other)
        assert (tmp_path / "out.partial").exists()

    def test_how_many_processes_work_decides_nothing(self):
        one, two = (SplitOptions(parts=2, workers=count) for count in (1, 2))
        assert one.decisive == two.decisive

    def test_a_folder_of_somebody_else_is_never_deleted(self, tmp_path):
        (tmp_path / "out.partial").mkdir()
        (tmp_path / "out.partial" / "notes.txt").write_text("mine")
        with pytest.raises(EdgevitError, match="is no split in progress; move it away"):
            quick(tmp_path / "out")
        assert (tmp_path / "out.partial" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(("epochs", "times"), [(1, 3), (0, 1)])
def test_a_fusion_learns_from_changed_images_where_its_parts_do(tmp_path, monkeypatch, epochs, times):
    given = {}

    def train_fusion(features, labels, *, classes, teacher, options):
        given.update(features=features, labels=labels, teacher=teacher, epochs=options.epochs)
        return fusion.train_fusion(features, labels, classes=classes, teacher=teacher, options=options)

    monkeypatch.setattr(candidates, "train_fusion", train_fusion)
    options = SplitOptions(parts=2, grouping="random", epochs=epochs, flip=True, workers=1)
    result = split_with(learned(), FEW, FEW_CLASSES, tmp_path / "out", options)
    count = result.manifest.options.images
    assert [len(part) for part in given["features"]] == [times * count] * 2
    assert given["epochs"] == -(-20 // times)
    places = held_out(FEW_CLASSES, options.held_out, options.seed)[0]
    assert given["labels"].tolist() == FEW_CLASSES[places].tolist() * times
    # The whole sees the images that the parts do, kept as float16: each as it is, or mirrored.
    plain, mirrored = (
        torch.from_numpy(learned().run(np.ascontiguousarray(images))[0])
        for images in (FEW[places], FEW[places][..., ::-1])
    )
    for view in given["teacher"].split(count)[1:]:
        alike = [(view - known).abs().amax(1) < 0.05 for known in (plain, mirrored)]
        assert bool((alike[0] | alike[1]).all())
        assert not bool(alike[0].all())


def test_the_teacher_of_a_part_adds_up_the_probabilities_of_the_others():
    logits = torch.randn(5, 6)
    found, whole = grouped(logits, (1, 4)).softmax(1), logits.softmax(1)
    assert torch.allclose(found[:, :2], whole[:, [1, 4]])
    assert torch.allclose(found[:, 2], whole[:, [0, 2, 3, 5]].sum(1))
    assert torch.equal(grouped(logits, range(6)), logits)


def test_options_say_what_is_kept():
    assert [SplitOptions(parts=count).share for count in (1, 2, 4)] == [0.5, 0.5, 0.25]
    assert SplitOptions(parts=4, keep=0.4).share == 0.4


def test_the_functions_are_public():
    assert edgevit.split_classes is classwise.split_classes
    assert edgevit.read_split is read_split


def test_a_fusion_is_a_file_of_its_own(three):
    assert Fusion.load(three / FUSION).classes == len(LABELS)
