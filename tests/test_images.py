"""Folders of images: found, labelled, decoded, prepared."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgevit.errors import EdgevitError
from edgevit.graph.card import Preprocessing
from edgevit.graph.torchvision_shim import make_torchvision_importable
from edgevit.images import BadImageError, ImageReader, decode, open_folder, prepare
from tests.conftest import LABELS

PLAIN = Preprocessing(input_size=(16, 16), resize_to=16, mean=(0.0,) * 3, std=(1.0,) * 3)


def write(path: Path, image: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((8, 8, 3), 128, np.uint8) if image is None else image
    assert cv2.imwrite(str(path), image)
    return path


def test_class_folders_are_matched_by_name_whatever_their_order(image_folder):
    folder = open_folder(image_folder, num_classes=3, class_names=LABELS)
    assert len(folder) == 12
    for file, label in zip(folder.files, folder.require_labels(), strict=True):
        assert file.parent.name == LABELS[label]
    assert folder.classes == "class folders matched by name"


def test_class_folders_with_numbers_are_class_indices(tmp_path):
    for name in ("10", "2", "0"):
        write(tmp_path / name / "a.png")
    folder = open_folder(tmp_path, num_classes=11)
    assert dict(zip((f.parent.name for f in folder.files), folder.labels, strict=True)) == {
        "0": 0,
        "10": 10,
        "2": 2,
    }


def test_unknown_class_folders_are_matched_by_order_only_when_their_number_fits(tmp_path):
    for name in ("n01", "n02", "n03"):
        write(tmp_path / name / "a.png")
    folder = open_folder(tmp_path, num_classes=3, class_names=LABELS)
    assert folder.labels == (0, 1, 2)
    assert folder.classes == "class folders matched by sorted order"
    with pytest.raises(EdgevitError, match="has 3 class folders, the model tells 5 classes apart"):
        open_folder(tmp_path, num_classes=5)


def test_a_class_folder_that_is_nearly_a_label_is_refused(image_folder):
    (image_folder / "circle").rename(image_folder / "cirkle")
    with pytest.raises(
        EdgevitError, match=r'cirkle is not one of the model.s classes; did you mean "circle"'
    ):
        open_folder(image_folder, num_classes=3, class_names=LABELS)


def test_labels_csv_takes_indices_and_names(tmp_path):
    write(tmp_path / "one.png")
    write(tmp_path / "deep" / "two.png")
    (tmp_path / "labels.csv").write_text("file,label\none.png,2\ndeep/two.png,square\n")
    folder = open_folder(tmp_path, num_classes=3, class_names=LABELS)
    assert folder.labels == (2, 1)
    assert [file.name for file in folder.files] == ["one.png", "two.png"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name,class\na.png,1\n", "first line must name the columns file,label"),
        ("file,label\n", "lists no images"),
        ("file,label\na.png,9\n", "it has the class 9, the model tells 3 classes apart"),
        ("file,label\nb.png,1\n", "line 2 lists b.png, which is not there"),
        ("file,label\n../a.png,1\n", "line 2 points outside the folder"),
        ("file,label\na.png,oval\n", "line 2 has the label 'oval', which is not a class"),
        ("file,label\na.png\n", "line 2 has the label '', which is not a class"),
    ],
)
def test_a_wrong_labels_csv_is_refused_with_its_line(tmp_path, text, sentence):
    write(tmp_path / "data" / "a.png")
    write(tmp_path / "a.png")
    (tmp_path / "data" / "labels.csv").write_text(text)
    with pytest.raises(EdgevitError, match=sentence):
        open_folder(tmp_path / "data", num_classes=3, class_names=LABELS)


def test_a_folder_without_classes_has_no_labels(tmp_path):
    write(tmp_path / "a.png")
    folder = open_folder(tmp_path, num_classes=3)
    assert folder.labels is None
    with pytest.raises(EdgevitError, match="has no labels; put the images in one folder per class"):
        folder.require_labels()


def test_folders_that_hold_no_images_are_refused(tmp_path):
    with pytest.raises(EdgevitError, match="does not exist"):
        open_folder(tmp_path / "nowhere")
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    (tmp_path / "empty" / "notes.txt").write_text("hello")
    with pytest.raises(EdgevitError, match="holds no images"):
        open_folder(tmp_path / "empty")
    with pytest.raises(EdgevitError, match="is a file; a folder of images is needed"):
        open_folder(tmp_path / "empty" / "notes.txt")


def test_images_beside_class_folders_are_refused(image_folder):
    write(image_folder / "stray.png")
    with pytest.raises(EdgevitError, match=r"images beside class folders; move stray.png"):
        open_folder(image_folder)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_a_truncated_image_is_named(tmp_path, suffix):
    rng = np.random.default_rng(0)
    path = write(tmp_path / f"a.{suffix}", rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    whole = path.read_bytes()
    assert decode(path).shape == (64, 64, 3)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadImageError, match=rf"a\.{suffix} is not an image, or is damaged"):
        decode(path)


def test_empty_and_text_files_are_named(tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not a picture")
    with pytest.raises(BadImageError, match=r"empty\.jpg is empty"):
        decode(tmp_path / "empty.jpg")
    with pytest.raises(BadImageError, match=r"text\.jpg is not an image"):
        decode(tmp_path / "text.jpg")


def test_bad_images_fail_or_are_skipped_as_asked(image_folder):
    (image_folder / "circle" / "b.jpg").write_text("not a picture")
    folder = open_folder(image_folder, class_names=LABELS)
    with pytest.raises(BadImageError, match="pass --on-bad-image skip"):
        list(ImageReader(folder, PLAIN))
    reader = ImageReader(folder, PLAIN, batch=5, on_bad_image="skip")
    batches = list(reader)
    assert sum(len(batch.images) for batch in batches) == 12
    assert [folder.files[index].name for batch in batches for index in batch.indices].count("b.jpg") == 0
    assert len(reader.skipped) == 1
    assert "b.jpg" in reader.skipped[0]
    assert len(list(reader)) == 3, "a second pass gives the same"
    assert len(reader.skipped) == 1
    with pytest.raises(EdgevitError, match="--on-bad-image: .ignore.; known: fail, skip"):
        ImageReader(folder, PLAIN, on_bad_image="ignore")


def test_colours_are_rgb_and_scaled(tmp_path):
    blue_first = np.zeros((16, 16, 3), np.uint8)
    blue_first[:, :, 0] = 255
    prepared = prepare(decode(write(tmp_path / "a.png", blue_first)), PLAIN)
    assert prepared.shape == (3, 16, 16)
    assert prepared.dtype == np.float32
    assert prepared[2].min() == 1.0
    assert prepared[:2].max() == 0.0


def test_an_image_is_turned_upright_as_its_exif_says(tmp_path):
    image = np.zeros((4, 8, 3), np.uint8)
    _, jpeg = cv2.imencode(".jpg", image)
    # An APP1 segment whose one entry is Orientation = 6, "turn clockwise to see it upright".
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    segment = b"Exif\0\0" + tiff
    data = jpeg.tobytes()
    path = tmp_path / "a.jpg"
    path.write_bytes(data[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:])
    assert decode(path).shape == (8, 4, 3)


def test_the_short_edge_is_resized_and_the_centre_cropped():
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 40] = 255
    card = Preprocessing(input_size=(20, 20), resize_to=None, mean=(0.0,) * 3, std=(1.0,) * 3)
    prepared = prepare(image, card)
    assert prepared.shape == (3, 20, 20)
    assert prepared[0, :, 10].min() == 1.0
    resized = prepare(image, card.model_copy(update={"resize_to": 20}))
    assert resized.shape == (3, 20, 20)


def test_an_image_smaller_than_the_crop_is_padded_with_black():
    white = np.full((10, 10, 3), 255, np.uint8)
    card = Preprocessing(input_size=(16, 16), resize_to=None, mean=(0.0,) * 3, std=(1.0,) * 3)
    prepared = prepare(white, card)
    assert prepared[0, 3:13, 3:13].min() == 1.0
    assert prepared.sum() == 300.0


def test_it_agrees_with_the_evaluation_transform_of_timm(shared):
    """On real photographs, with the card of ViT-Tiny: at most the rounding of one grey level."""
    make_torchvision_importable()
    timm = pytest.importorskip("timm")
    from PIL import Image

    transform = timm.data.create_transform((3, 224, 224), interpolation="bicubic", crop_pct=0.9)
    card = Preprocessing.cropped(
        (224, 224),
        crop_fraction=0.9,
        interpolation="bicubic",
        mean=timm.data.IMAGENET_DEFAULT_MEAN,
        std=timm.data.IMAGENET_DEFAULT_STD,
    )
    for path in sorted((shared / "data" / "imagenet-calib").glob("*.JPEG"))[:10]:
        expected = transform(Image.open(path).convert("RGB")).numpy()
        difference = np.abs(prepare(decode(path), card) - expected)
        # JPEG decoders differ by a level here and there.
        assert difference.mean() < 2e-3
        assert difference.max() < 0.2


def test_a_sample_is_the_same_each_time_and_keeps_labels(image_folder):
    folder = open_folder(image_folder, class_names=LABELS)
    one, two = folder.sample(5), folder.sample(5)
    assert one == two
    assert len(one) == 5
    for file, label in zip(one.files, one.require_labels(), strict=True):
        assert file.parent.name == LABELS[label]
    assert folder.sample(100) is folder


def test_grey_networks_get_one_channel(tmp_path):
    path = write(tmp_path / "a.png")
    card = Preprocessing(input_size=(8, 8), resize_to=None, mean=(0.5,), std=(0.5,))
    assert prepare(decode(path, channels=1), card).shape == (1, 8, 8)


@pytest.mark.parametrize("name", ["opencv-linear", "opencv-cubic", "opencv-area"])
def test_opencv_interpolations_are_cv2s_own(name):
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    card = Preprocessing(
        input_size=(64, 64), resize_to=(64, 64), interpolation=name, mean=(0.0,) * 3, std=(1.0,) * 3
    )
    flag = {"opencv-linear": cv2.INTER_LINEAR, "opencv-cubic": cv2.INTER_CUBIC, "opencv-area": cv2.INTER_AREA}
    expected = cv2.resize(image, (64, 64), interpolation=flag[name]).transpose(2, 0, 1) / 255
    assert np.allclose(prepare(image, card), expected, atol=1e-6)
