"""Training through a Program's graph: it learns, it repeats itself, and it goes on where it was stopped."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from edgevit.errors import EdgevitError
from edgevit.graph.axes import find_axes
from edgevit.graph.program import Program
from edgevit.graph.rewrites import prepare_for_export
from edgevit.graph.slicing import slice_axis
from edgevit.pruning import steps, training
from edgevit.pruning.augmentation import augmented
from edgevit.pruning.heads import weights_of_classifier, with_classes, with_features
from edgevit.pruning.loop import TrainingOptions
from edgevit.pruning.steps import chunks_of, generator_of, rate
from edgevit.pruning.training import train
from tests.pruning.helpers import CLASSES, MODULES, classifier
from tests.quant.helpers import SHAPE, images, logits, seeded
from tests.rewrites.helpers import program_of

PROGRAMS = {name: classifier(name) for name in MODULES}
NET = PROGRAMS["net"]
FEW = TrainingOptions(epochs=3, batch=8, lr=1e-2)

every = pytest.mark.parametrize("name", MODULES)


def toy(count: int = 256, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise in which one of four quarters, the class, is bright."""
    labels = torch.arange(count) % CLASSES
    found = 0.3 * images(count, seed=seed)
    for image, label in zip(found, labels.tolist(), strict=True):
        image[:, 4 * (label // 2) :, 4 * (label % 2) :][:, :4, :4] += torch.tensor([2.0, -1.0, 1.0])[
            :, None, None
        ]
    return found, labels


class Quarters(nn.Module):
    """Small, and able to tell where something is."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8)
        self.hidden, self.head = nn.Linear(32, 16), nn.Linear(16, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.hidden(self.norm(self.stem(image)).relu().flatten(1)).relu())


QUARTERS = program_of(seeded(Quarters), SHAPE)


def accuracy(program: Program, data: tuple[torch.Tensor, torch.Tensor]) -> float:
    return float((logits(program, data[0]).argmax(1) == data[1]).float().mean())


def divergence(program: Program, teacher: torch.Tensor, data: torch.Tensor) -> float:
    student = logits(program, data).log_softmax(-1)
    return float(
        nn.functional.kl_div(student, teacher.log_softmax(-1), reduction="batchmean", log_target=True)
    )


def assert_same_bits(left: Program, right: Program) -> None:
    assert left.exported.state_dict.keys() == right.exported.state_dict.keys()
    for path, value in left.exported.state_dict.items():
        assert torch.equal(value, right.exported.state_dict[path]), path


@pytest.mark.parametrize("program", [QUARTERS, prepare_for_export(QUARTERS)], ids=["as it is", "folded"])
def test_a_separable_task_is_learned(program):
    trained = train(program, *toy(), options=TrainingOptions(epochs=15, batch=32, lr=1e-2))
    fresh = toy(100, seed=1)
    assert accuracy(program, fresh) < 0.6
    assert accuracy(trained, fresh) > 0.95


def test_it_is_learned_with_all_options_on():
    options = TrainingOptions(epochs=15, batch=32, lr=1e-2, label_smoothing=0.1, crop_padding=1, warm_up=0.3)
    assert accuracy(train(QUARTERS, *toy(), options=options), toy(100, seed=1)) > 0.95


def test_a_teacher_alone_is_followed():
    data, labels = toy()
    teacher = logits(
        train(QUARTERS, data, labels, options=TrainingOptions(epochs=15, batch=32, lr=1e-2)), data
    )
    wrong = (labels + 1) % CLASSES
    options = TrainingOptions(epochs=15, batch=32, lr=1e-2, alpha=1.0)
    student = train(QUARTERS, data, wrong, teacher=teacher, options=options)
    assert divergence(student, teacher, data) < 0.1 * divergence(QUARTERS, teacher, data)
    assert accuracy(student, (data, labels)) > 0.95


def test_with_alpha_0_the_teacher_says_nothing():
    data, labels = toy(64)
    options = TrainingOptions(epochs=2, alpha=0.0)
    teacher = torch.randn(64, CLASSES)
    told = train(NET, data, labels, teacher=teacher, options=options)
    assert_same_bits(told, train(NET, data, labels, options=options))


def features_of(program: Program, data: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(with_features(program).run(data.numpy())[-1])


def unexplained(program: Program, wanted: torch.Tensor, data: torch.Tensor) -> float:
    """Of the variance of features, what no linear map from a program's own gives."""
    own = features_of(program, data)
    own = torch.cat([own, torch.ones(len(own), 1)], dim=1)
    wanted = wanted - wanted.mean(0)
    left = wanted - own @ torch.linalg.lstsq(own, wanted, driver="gelsd").solution
    return float(left.square().sum() / wanted.square().sum())


def test_features_of_a_teacher_are_followed_where_labels_and_logits_say_nothing():
    data, labels = toy()
    teacher = train(QUARTERS, data, labels, options=TrainingOptions(epochs=15, batch=32, lr=1e-2))
    wanted = features_of(teacher, data)
    torch.manual_seed(7)
    start = program_of(Quarters(), SHAPE)
    given = {"labels": torch.zeros_like(labels), "teacher": torch.zeros(len(data), CLASSES)}
    options = TrainingOptions(epochs=10, batch=32, lr=1e-2, alpha=1.0, beta=10.0)
    told = train(start, data, features=wanted, options=options, **given)
    untold = train(start, data, options=options, **given)
    assert unexplained(told, wanted, data) < 0.5 * unexplained(untold, wanted, data)
    assert told.card.outputs == start.card.outputs
    assert told.card.steps[-1].options["features"] is True


def answered(program: Program, wanted: torch.Tensor, data: torch.Tensor) -> float:
    """For how many images a linear map of a program's features finds the class that a teacher finds."""
    own = features_of(program, data)
    own = torch.cat([own, torch.ones(len(own), 1)], dim=1)
    found = own @ torch.linalg.lstsq(own, wanted, driver="gelsd").solution
    return float((found.argmax(1) == wanted.argmax(1)).float().mean())


def test_features_learn_to_answer_as_the_classifier_of_a_teacher_does():
    data, labels = toy()
    teacher = train(QUARTERS, data, labels, options=TrainingOptions(epochs=15, batch=32, lr=1e-2))
    wanted, logits = features_of(teacher, data), torch.from_numpy(teacher.run(data.numpy())[0])
    torch.manual_seed(7)
    start = program_of(Quarters(), SHAPE)
    given = {"labels": torch.zeros_like(labels), "teacher": torch.zeros(len(data), CLASSES)}
    options = TrainingOptions(epochs=10, batch=32, lr=1e-2, alpha=1.0, beta=0.0, gamma=5.0)
    told, untold = (
        train(start, data, features=wanted, classifier=classifier, options=options, **given)
        for classifier in (weights_of_classifier(teacher), None)
    )
    assert answered(told, logits, data) > answered(untold, logits, data) + 0.1
    assert told.card.steps[-1].options["classifier"] is True


def test_a_classifier_of_normalised_features_answers_as_it_did():
    features, weight, bias = torch.randn(20, 5) * 3 + 1, torch.randn(4, 5), torch.randn(4)
    features[:, 2] = 7.0
    made = training._Data.of(torch.zeros(20, 1), torch.zeros(20), None, features, (weight, bias))
    assert torch.allclose(
        made.features @ made.weight.T + made.bias, features @ weight.T + bias, atol=1e-4, rtol=1e-4
    )


def test_with_beta_0_features_say_nothing():
    data, labels = toy(64)
    told = train(
        NET, data, labels, features=torch.randn(64, 5), options=TrainingOptions(epochs=2, beta=0.0, clip=1e9)
    )
    untold = train(NET, data, labels, options=TrainingOptions(epochs=2, clip=1e9))
    for path, value in told.exported.state_dict.items():
        assert torch.allclose(value, untold.exported.state_dict[path], atol=1e-6), path


@pytest.mark.parametrize("count", [20, 5000])
def test_the_map_starts_as_the_regression_on_images_from_all_over(count):
    data, labels = toy(count)
    own = features_of(NET, data)
    # Another map holds for the second half of the images.
    wanted = torch.cat([own[: count // 2] @ torch.ones(own.shape[1], 2), torch.zeros(count - count // 2, 2)])
    made = training._Data(data, labels, None, wanted, None, None)
    found = training._Training(NET, made, TrainingOptions(batch=8), "cpu")._map
    given = own @ found["features.weight"].T + found["features.bias"]
    assert float(given.mean()) == pytest.approx(float(wanted.mean()), abs=0.1 * float(wanted.abs().mean()))


def test_a_feature_that_never_changes_is_no_harm():
    data, labels = toy(32)
    wanted = torch.cat([torch.ones(32, 1), torch.randn(32, 3)], dim=1)
    found = train(NET, data, labels, features=wanted, options=FEW)
    assert all(bool(torch.isfinite(value).all()) for value in found.exported.state_dict.values())


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_is_the_one_that_is_documented(temperature):
    student, teacher = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0, 1])
    options = TrainingOptions(alpha=0.3, temperature=temperature)
    target = (teacher / temperature).softmax(-1)
    kl = (target * (target.log() - (student / temperature).softmax(-1).log())).sum(1).mean()
    by_labels = -student.softmax(-1)[torch.arange(5), labels].log().mean()
    expected = 0.3 * temperature**2 * kl + 0.7 * by_labels
    assert float(steps.loss_of(student, labels, teacher, options)) == pytest.approx(float(expected))


@every
def test_every_classifier_can_be_trained_saved_and_loaded(tmp_path, name):
    program = with_features(with_classes(PROGRAMS[name], [0, 2]))
    trained = train(program, *toy_of(3), options=FEW)
    assert trained.card.outputs == program.card.outputs
    assert trained.parameter_count == program.parameter_count
    changed = {path for path, value in program.exported.named_parameters() if not_equal(trained, path, value)}
    assert changed == {path for path, _ in program.exported.named_parameters()}
    loaded = Program.load(trained.save(tmp_path / "a.pt2"))
    assert loaded.card == trained.card
    assert_same_bits(loaded, trained)


def toy_of(classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    data, labels = toy(32)
    return data, labels % classes


def not_equal(program: Program, path: str, value: torch.Tensor) -> bool:
    return not torch.equal(program.exported.state_dict[path], value)


def test_a_weight_that_two_layers_share_stays_one_weight():
    program, data = PROGRAMS["token"], toy(32)
    trained = train(program, *data, options=FEW)
    shared = [node.args[1] for node in trained.graph.nodes if node.target is torch.ops.aten.linear.default]
    assert shared[0] is shared[-1] is not shared[1]
    assert trained.parameter_count == program.parameter_count
    assert not torch.equal(logits(trained, data[0]), logits(program, data[0]))


def test_a_sliced_program_can_be_trained():
    axis = next(axis for axis in find_axes(QUARTERS) if axis.fixed is None)
    sliced = slice_axis(QUARTERS, axis, range(axis.size // 2))
    assert train(sliced, *toy(32), options=FEW).parameter_count == sliced.parameter_count


def test_buffers_and_the_given_program_stay_as_they_were():
    before = {path: value.clone() for path, value in QUARTERS.exported.state_dict.items()}
    trained = train(QUARTERS, *toy(32), options=FEW)
    assert all(torch.equal(QUARTERS.exported.state_dict[path], value) for path, value in before.items())
    assert torch.equal(trained.exported.state_dict["norm.running_mean"], before["norm.running_mean"])


def test_the_card_says_how_it_was_trained():
    step = train(NET, *toy(32), teacher=torch.zeros(32, CLASSES), options=FEW).card.steps[-1]
    assert step.name == "train"
    assert (step.options["epochs"], step.options["lr"], step.options["images"]) == (3, 1e-2, 32)
    assert step.options["teacher"] is True
    assert step.measured["seconds"] >= 0
    assert 0 < step.measured["loss"] < 10


def test_no_epochs_change_nothing():
    assert train(NET, *toy(8), options=TrainingOptions(epochs=0)) is NET


@every
def test_the_same_seed_gives_the_same_bits(name):
    options = TrainingOptions(epochs=2, batch=8, flip=True, crop_padding=2, seed=5)
    first, second = (train(PROGRAMS[name], *toy(32), options=options) for _ in range(2))
    assert_same_bits(first, second)


def test_another_seed_gives_others():
    first, second = (train(NET, *toy(32), options=TrainingOptions(batch=8, seed=seed)) for seed in (0, 1))
    with pytest.raises(AssertionError):
        assert_same_bits(first, second)


class StoppedError(Exception):
    """Somebody pressed Ctrl-C."""


def interrupted(monkeypatch, path, epochs: int, **changes) -> None:
    """The same run, stopped within the epoch behind so many others."""
    original = training.Loop._epoch

    def stop(self, epoch):
        loss = original(self, epoch)
        if epoch == epochs:
            raise StoppedError
        return loss

    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(training.Loop, "_epoch", stop)
        run(path, **changes)


OPTIONS = {"epochs": 4, "batch": 8, "lr": 1e-2, "flip": True, "crop_padding": 1}


def run(path=None, *, program: Program = NET, data=None, teacher=None, features=None, **changes) -> Program:
    options = TrainingOptions(**(OPTIONS | changes))
    return train(
        program, *(data or toy(32)), teacher=teacher, features=features, options=options, checkpoint=path
    )


@every
def test_a_run_that_goes_on_gives_the_bits_of_one_that_never_stopped(monkeypatch, tmp_path, name):
    path, program = tmp_path / "a.checkpoint", PROGRAMS[name]
    whole = run(program=program)
    for epochs in (1, 3):
        interrupted(monkeypatch, path, epochs, program=program)
        assert path.exists()
        found = run(path, program=program)
        assert_same_bits(found, whole)
        assert found.card.steps[-1].measured["loss"] == whole.card.steps[-1].measured["loss"]
        assert not path.exists()


def test_the_map_of_features_goes_on_as_well(monkeypatch, tmp_path):
    path, features = tmp_path / "a.checkpoint", torch.randn(32, 5, generator=torch.manual_seed(0))
    interrupted(monkeypatch, path, 2, features=features)
    assert_same_bits(run(path, features=features), run(features=features))


def test_a_run_can_be_interrupted_again_and_again(monkeypatch, tmp_path):
    path = tmp_path / "a.checkpoint"
    for epochs in (1, 2, 3):
        interrupted(monkeypatch, path, epochs)
    assert_same_bits(run(path), run())


def test_finished_epochs_are_not_repeated(monkeypatch, tmp_path):
    path, epochs = tmp_path / "a.checkpoint", []
    interrupted(monkeypatch, path, 2)
    original = training.Loop._epoch

    def note(self, epoch):
        epochs.append(epoch)
        return original(self, epoch)

    monkeypatch.setattr(training.Loop, "_epoch", note)
    run(path)
    assert epochs == [2, 3]


def test_the_file_of_another_run_is_refused_and_kept(monkeypatch, tmp_path):
    path = tmp_path / "a.checkpoint"
    interrupted(monkeypatch, path, 1)
    others = [
        {"seed": 1},
        {"lr": 1e-3},
        {"program": QUARTERS},
        {"data": toy(32, seed=1)},
        {"teacher": torch.zeros(32, CLASSES)},
        {"features": torch.randn(32, 2)},
    ]
    for other in others:
        with pytest.raises(EdgevitError, match=r"a\.checkpoint was left by a training of another model"):
            run(path, **other)
    assert path.exists()


def spoil_with_text(path):
    path.write_text("notes")


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-10])


def put_other_tensors(path):
    save_file({"a": torch.zeros(1)}, path)


def put_a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("spoil", [spoil_with_text, cut_short, put_other_tensors, put_a_folder])
def test_a_damaged_file_is_refused_in_one_sentence(monkeypatch, tmp_path, spoil):
    path = tmp_path / "a.checkpoint"
    interrupted(monkeypatch, path, 1)
    spoil(path)
    with pytest.raises(EdgevitError, match=r"a\.checkpoint is no training in progress; delete it$"):
        run(path)


def test_a_loss_that_is_no_number_ends_it_in_one_sentence(tmp_path):
    data, labels = toy(32)
    sentence = (
        r"^lr: in epoch 1 the loss was no number any more \(NaN or infinity\); take .* below 0\.01, or images"
    )
    with pytest.raises(EdgevitError, match=sentence):
        train(NET, data * 1e38, labels, options=FEW, checkpoint=tmp_path / "a.checkpoint")
    assert not (tmp_path / "a.checkpoint").exists()


NO_IMAGES = torch.zeros(0, *SHAPE), torch.zeros(0, dtype=torch.int64)


@pytest.mark.parametrize(
    ("data", "teacher", "sentence"),
    [
        (NO_IMAGES, None, "images: there are none; training needs one at least"),
        (
            (torch.zeros(2, 3, 4, 4), torch.zeros(2).long()),
            None,
            r"images: each is \(3, 4, 4\), model takes \(3, 8, 8\)",
        ),
        (
            (images(2), torch.tensor([0, 4])),
            None,
            r"labels: image 1 has the label 4, .* 4 classes \(0 to 3\)",
        ),
        ((images(2), torch.tensor([-1, 0])), None, "labels: image 0 has the label -1"),
        (
            (images(2), torch.tensor([0])),
            None,
            r"labels: they are \(1,\) torch.int64; one int64 for each of 2",
        ),
        ((images(2), torch.zeros(2)), None, r"labels: they are \(2,\) torch.float32"),
        (
            (images(2), torch.tensor([0, 1])),
            torch.zeros(2, 3),
            r"teacher: its logits are \(2, 3\), not \(2, 4\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(data, teacher, sentence):
    with pytest.raises(EdgevitError, match=f"^{sentence}"):
        train(NET, *data, teacher=teacher)


@pytest.mark.parametrize("shape", [(7, 3), (8,)])
def test_features_that_do_not_fit_are_refused(shape):
    with pytest.raises(EdgevitError, match=r"^features: they are .*; \(8, width\) are needed"):
        train(NET, *toy(8), features=torch.zeros(shape))


@pytest.mark.parametrize(
    ("features", "classifier", "message"),
    [
        (None, (torch.zeros(3, 5), torch.zeros(3)), "^classifier: a teacher's is of use with its features"),
        (torch.zeros(8, 5), (torch.zeros(3, 4), torch.zeros(3)), r"^classifier: .*\(classes, 5\)"),
        (torch.zeros(8, 5), (torch.zeros(3, 5), torch.zeros(4)), r"^classifier: .*\(classes, 5\)"),
    ],
)
def test_a_classifier_that_does_not_fit_is_refused(features, classifier, message):
    with pytest.raises(EdgevitError, match=message):
        train(NET, *toy(8), features=features, classifier=classifier)


@pytest.mark.parametrize(
    ("option", "value", "right"),
    [
        ("beta", -1.0, "at least 0"),
        ("epochs", -1, "at least 0"),
        ("batch", 0, "at least 1"),
        ("lr", 0.0, "above 0 and at most 1"),
        ("lr", 1e30, "above 0 and at most 1"),
        ("lr", math.nan, "above 0 and at most 1"),
        ("weight_decay", -0.1, "at least 0"),
        ("warm_up", 1.0, "at least 0 and below 1"),
        ("alpha", 1.5, "0 to 1"),
        ("temperature", 0.0, "above 0"),
        ("label_smoothing", 1.0, "at least 0 and below 1"),
        ("clip", 0.0, "above 0"),
        ("crop_padding", -1, "at least 0"),
        ("seed", -1, "at least 0"),
    ],
)
def test_an_option_that_cannot_be_is_refused(option, value, right):
    with pytest.raises(EdgevitError, match=re.escape(f"{option}: must be {right}, not {value}")):
        TrainingOptions(**{option: value})


def test_an_unknown_precision_is_refused():
    with pytest.raises(EdgevitError, match="^precision: 'float16' is unknown; did you mean"):
        TrainingOptions(precision="float16")


def test_bfloat16_learns_as_well_and_keeps_weights_in_float32():
    options = TrainingOptions(epochs=15, batch=32, lr=1e-2, precision="bfloat16")
    found = train(QUARTERS, *toy(), options=options)
    assert all(value.dtype == torch.float32 for value in found.exported.state_dict.values())
    assert accuracy(found, toy(100, seed=1)) > 0.95
    wide = train(QUARTERS, *toy(), options=replace(options, precision="float32"))
    assert found.card.steps[-1].measured["loss"] != wide.card.steps[-1].measured["loss"]


def test_an_unknown_device_is_refused():
    with pytest.raises(EdgevitError, match="--torch-device: 'gpu' is unknown"):
        train(NET, *toy(8), torch_device="gpu")


def test_a_fixed_batch_is_trained_in_batches_of_its_size():
    fixed = NET.with_batch(4)
    for features in (None, torch.randn(10, 5)):
        found = train(fixed, *toy(10), features=features, options=TrainingOptions(epochs=1, batch=4))
        assert found.batch == 4
    for count, batch in ((10, 8), (3, 4)):
        with pytest.raises(EdgevitError, match="batch: model was captured for a batch of 4; train with that"):
            train(fixed, *toy(count), options=TrainingOptions(epochs=1, batch=batch))


def test_images_of_half_precision_are_trained_on_in_full():
    data, labels = toy(16)
    half = data.half()
    options = TrainingOptions(epochs=1, batch=8)
    assert_same_bits(
        train(NET, half, labels, options=options), train(NET, half.float(), labels, options=options)
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
def test_a_gpu_gives_back_a_program_of_the_processor():
    found = train(
        QUARTERS, *toy(), options=TrainingOptions(epochs=15, batch=32, lr=1e-2), torch_device="cuda"
    )
    assert {str(value.device) for value in found.exported.state_dict.values()} == {"cpu"}
    assert accuracy(found, toy(100, seed=1)) > 0.95


@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 5))
def test_an_epoch_shows_each_image_once_at_most_in_full_batches(count, batch, epoch):
    chunks = [chunk.tolist() for chunk in chunks_of(count, batch, generator_of(0, epoch))]
    seen = [index for chunk in chunks for index in chunk]
    assert len(set(seen)) == len(seen) == (count - count % batch if count >= batch else count)
    assert {len(chunk) for chunk in chunks} == {min(batch, count)}


@given(st.floats(0, 0.99), st.floats(0, 1), st.floats(0, 1))
def test_the_rate_rises_to_its_highest_and_falls_to_nothing(warm_up, one, other):
    earlier, later = sorted((one, other))
    assert 0 <= rate(one, warm_up) <= 1
    if later <= warm_up:
        assert rate(earlier, warm_up) <= rate(later, warm_up)
    if earlier >= warm_up:
        assert rate(earlier, warm_up) >= rate(later, warm_up)
    assert rate(warm_up, warm_up) == 1
    assert rate(1.0, warm_up) == pytest.approx(0, abs=1e-12)


def test_without_options_images_are_left_as_they_are():
    given_images = images(4)
    assert augmented(given_images, flip=False, crop_padding=0, generator=generator_of(0, 0)) is given_images


@given(st.integers(0, 50))
def test_a_flipped_image_is_mirrored_and_no_other(seed):
    batch = images(16)
    found = augmented(batch, flip=True, crop_padding=0, generator=generator_of(seed, 0))
    mirrored = [torch.equal(one, other.flip(-1)) for one, other in zip(found, batch, strict=True)]
    kept = [torch.equal(one, other) for one, other in zip(found, batch, strict=True)]
    assert all(one != other for one, other in zip(mirrored, kept, strict=True))
    assert 0 < sum(mirrored) < 16


def test_a_crop_is_a_window_of_the_image_with_zeros_around_it():
    batch = images(64)
    found = augmented(batch, flip=False, crop_padding=2, generator=generator_of(0, 0))
    windows = nn.functional.pad(batch, (2,) * 4).unfold(2, 8, 1).unfold(3, 8, 1)
    same = (windows == found[:, :, None, None]).all(5).all(4).all(1)
    corners = {tuple(place) for _, *place in torch.nonzero(same).tolist()}
    assert (same.sum(dim=(1, 2)) == 1).all()
    assert len(corners) > 15
