"""Folders of images: found, decoded with OpenCV, prepared as a model's card says, and labelled."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from edgevit.errors import EdgevitError, closest
from edgevit.graph.card import Preprocessing
from edgevit.progress import track
from edgevit.resampling import Image, resize

OnBadImage = Literal["fail", "skip"]
ON_BAD_IMAGE: tuple[str, ...] = get_args(OnBadImage)

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
_LABELS_FILE = "labels.csv"


class BadImageError(EdgevitError):
    """A file that should be an image and is not."""


@dataclass(frozen=True)
class ImageFolder:
    """Image files, with a class for each where the folder says so.

    Attributes:
        root: the folder.
        files: image files in a fixed order.
        labels: the class index of each file, or None for a folder without classes.
        classes: how class indices were read from the folder, in words.
    """

    root: Path
    files: tuple[Path, ...]
    labels: tuple[int, ...] | None
    classes: str

    def __len__(self) -> int:
        return len(self.files)

    def require_labels(self) -> tuple[int, ...]:
        """The class indices.

        Raises:
            EdgevitError: when the folder gives none.
        """
        if self.labels is None:
            raise EdgevitError(
                f"--data: {self.root} has no labels; put the images in one folder per class, or add a "
                f"{_LABELS_FILE} with the columns file,label"
            )
        return self.labels

    def sample(self, count: int, seed: int = 0) -> ImageFolder:
        """`count` images chosen at random (all of them where there are fewer), in folder order."""
        if count >= len(self):
            return self
        return self._of(sorted(np.random.default_rng(seed).choice(len(self), size=count, replace=False)))

    def without(self, other: ImageFolder) -> ImageFolder:
        """The images that another selection of the same folder does not have; there may be none."""
        taken = set(other.files)
        return self._of([index for index, file in enumerate(self.files) if file not in taken])

    def _of(self, chosen: Sequence[int]) -> ImageFolder:
        return replace(
            self,
            files=tuple(self.files[index] for index in chosen),
            labels=None if self.labels is None else tuple(self.labels[index] for index in chosen),
        )


def open_folder(
    root: str | Path, *, num_classes: int | None = None, class_names: Sequence[str] | None = None
) -> ImageFolder:
    """Find the images of a folder and their classes.

    The folder holds ``labels.csv`` with the columns ``file,label`` (a class index or a class name), or
    one folder per class, or images alone. Class folders are matched to the model's classes by name
    where `class_names` has them all; by number where every name is a number; and otherwise by sorted
    order, which needs exactly one folder per class.

    Args:
        root: the folder.
        num_classes: classes of the model the images are for; None checks nothing.
        class_names: their names in order, where known.

    Raises:
        EdgevitError: when there are no images, or the classes do not fit the model's.
    """
    root = Path(root)
    if not root.is_dir():
        problem = "is a file; a folder of images is needed" if root.exists() else "does not exist"
        raise EdgevitError(f"--data: {root} {problem}")
    if (root / _LABELS_FILE).is_file():
        return _from_csv(root, num_classes, class_names)
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    found = {folder: _images_in(folder, recursive=True) for folder in folders}
    direct = _images_in(root, recursive=False)
    if direct and not any(found.values()):
        return ImageFolder(root, tuple(direct), None, "no classes")
    if direct:
        raise EdgevitError(
            f"--data: {root} holds images beside class folders; move {direct[0].name} into one"
        )
    if not any(found.values()):
        raise EdgevitError(
            f"--data: {root} holds no images ({', '.join(sorted(suffix[1:] for suffix in SUFFIXES))})"
        )
    return _from_class_folders(root, found, num_classes, class_names)


def _images_in(folder: Path, *, recursive: bool) -> list[Path]:
    entries = folder.rglob("*") if recursive else folder.iterdir()
    return sorted(
        entry
        for entry in entries
        if entry.suffix.lower() in SUFFIXES and not entry.name.startswith(".") and entry.is_file()
    )


def _from_class_folders(
    root: Path,
    found: dict[Path, list[Path]],
    num_classes: int | None,
    class_names: Sequence[str] | None,
) -> ImageFolder:
    names = [folder.name for folder in found]
    indices, classes = _class_indices(root, names, num_classes, class_names)
    pairs = [(file, index) for files, index in zip(found.values(), indices, strict=True) for file in files]
    _check_range(root, [index for _, index in pairs], num_classes)
    return ImageFolder(root, tuple(file for file, _ in pairs), tuple(index for _, index in pairs), classes)


def _class_indices(
    root: Path, names: list[str], num_classes: int | None, class_names: Sequence[str] | None
) -> tuple[list[int], str]:
    known = list(class_names or [])
    if known and all(name in known for name in names):
        return [known.index(name) for name in names], "class folders matched by name"
    if all(name.isascii() and name.isdigit() for name in names):
        return [int(name) for name in names], "class folders matched by number"
    if known and any(name in known for name in names):
        stranger = next(name for name in names if name not in known)
        raise EdgevitError(
            f"--data: the folder {root / stranger} is not one of the model's classes; "
            f"{closest(stranger, known)}"
        )
    if num_classes is not None and len(names) != num_classes:
        raise EdgevitError(
            f"--data: {root} has {len(names)} class folders, the model tells {num_classes} classes apart; "
            "name the folders like the model's labels, or by class index"
        )
    return list(range(len(names))), "class folders matched by sorted order"


def _from_csv(root: Path, num_classes: int | None, class_names: Sequence[str] | None) -> ImageFolder:
    path = root / _LABELS_FILE
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            if not {"file", "label"} <= set(reader.fieldnames or ()):
                raise EdgevitError(f"{path}: its first line must name the columns file,label")
            rows = [(reader.line_num, row["file"], row["label"]) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise EdgevitError(f"{path} is not a UTF-8 CSV file: {error}") from error
    if not rows:
        raise EdgevitError(f"{path} lists no images")
    files = tuple(_listed_file(root, path, line, name) for line, name, _ in rows)
    labels = tuple(_listed_label(path, line, label, class_names) for line, _, label in rows)
    _check_range(path, labels, num_classes)
    return ImageFolder(root, files, labels, f"classes from {_LABELS_FILE}")


def _listed_file(root: Path, path: Path, line: int, name: str | None) -> Path:
    if not name:
        raise EdgevitError(f"{path}: line {line} names no file")
    file = root / name
    if not file.resolve().is_relative_to(root.resolve()):
        raise EdgevitError(f"{path}: line {line} points outside the folder: {name}")
    if not file.is_file():
        raise EdgevitError(f"{path}: line {line} lists {name}, which is not there")
    return file


def _listed_label(path: Path, line: int, label: str | None, class_names: Sequence[str] | None) -> int:
    label = (label or "").strip()
    if label.isascii() and label.isdigit():
        return int(label)
    if class_names and label in class_names:
        return list(class_names).index(label)
    hint = closest(label, class_names) if class_names else "a class index is needed: the model has no labels"
    raise EdgevitError(f"{path}: line {line} has the label {label!r}, which is not a class; {hint}")


def _check_range(origin: Path, labels: Sequence[int], num_classes: int | None) -> None:
    if num_classes is not None and max(labels) >= num_classes:
        raise EdgevitError(
            f"{origin}: it has the class {max(labels)}, the model tells {num_classes} classes apart "
            f"(0 to {num_classes - 1})"
        )


def decode(path: Path, *, channels: int = 3) -> Image:
    """Decode one image file, turned upright as its EXIF orientation says.

    Returns:
        (height, width, channels) uint8, RGB, or grey where `channels` is 1.

    Raises:
        BadImageError: when the file is empty, truncated or not an image.
    """
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise BadImageError(f"{path} cannot be read: {error.strerror}") from error
    return decode_bytes(data, str(path), channels=channels)


def decode_bytes(data: npt.NDArray[np.uint8], name: str, *, channels: int = 3) -> Image:
    """Decode the content of an image file, as `decode` does.

    Args:
        data: (n,) uint8.
        name: what it is called in errors.
        channels: 3, or 1 for grey.

    Raises:
        BadImageError: when it is empty, truncated, not an image, or one of too many pixels for OpenCV.
    """
    import cv2

    if data.size == 0:
        raise BadImageError(f"{name} is empty (0 bytes)")
    # Refused files are reported by us, in one sentence.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        image = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise BadImageError(f"{name} has more pixels than OpenCV decodes") from error
    if image is None:
        raise BadImageError(f"{name} is not an image, or is damaged (its content, not its name, decides)")
    decoded: Image = image[:, :, None] if channels == 1 else np.ascontiguousarray(image[:, :, ::-1])
    return decoded


def prepare(image: Image, preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """Resize, crop, scale and normalise a decoded image.

    Args:
        image: (height, width, channels) uint8.
        preprocessing: the model card's.

    Returns:
        (channels, height, width) float32.
    """
    image = _centre_crop(_resized(image, preprocessing), *preprocessing.input_size)
    mean = np.asarray(preprocessing.mean, dtype=np.float32)
    std = np.asarray(preprocessing.std, dtype=np.float32)
    normalised = (image.astype(np.float32) / np.float32(255.0) - mean) / std
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))


def _resized(image: Image, preprocessing: Preprocessing) -> Image:
    height, width = image.shape[:2]
    match preprocessing.resize_to:
        case None:
            return image
        case int(edge):
            # As torchvision's Resize and timm do: the long edge is truncated, not rounded.
            short, long = min(height, width), max(height, width)
            other = int(edge * long / short)
            height, width = (edge, other) if height <= width else (other, edge)
        case (height, width):
            pass
    if image.shape[:2] == (height, width):
        return image
    if not preprocessing.interpolation.startswith("opencv-"):
        return resize(image, height, width, preprocessing.interpolation)
    import cv2

    flags = {
        "opencv-linear": cv2.INTER_LINEAR,
        "opencv-cubic": cv2.INTER_CUBIC,
        "opencv-area": cv2.INTER_AREA,
    }
    resized: Image = cv2.resize(image, (width, height), interpolation=flags[preprocessing.interpolation])
    # OpenCV drops the last dimension of grey images.
    return resized.reshape(height, width, image.shape[2])


def _centre_crop(image: Image, height: int, width: int) -> Image:
    """Crop to the centre; where the image is smaller, pad with black, as torchvision does."""
    pad_rows, pad_columns = max(height - image.shape[0], 0), max(width - image.shape[1], 0)
    if pad_rows or pad_columns:
        rows = (pad_rows // 2, pad_rows - pad_rows // 2)
        columns = (pad_columns // 2, pad_columns - pad_columns // 2)
        image = np.pad(image, (rows, columns, (0, 0)))
    top = round((image.shape[0] - height) / 2)
    left = round((image.shape[1] - width) / 2)
    return image[top : top + height, left : left + width]


@dataclass(frozen=True)
class Batch:
    """Prepared images: (n, channels, height, width) float32, their indices in the folder, their classes."""

    images: npt.NDArray[np.float32]
    indices: tuple[int, ...]
    labels: tuple[int, ...] | None


@dataclass
class ImageReader:
    """Prepared images of a folder in batches; iterate it as often as needed.

    Attributes:
        folder: where the images are.
        preprocessing: how they are prepared.
        batch: images in a batch.
        on_bad_image: "fail" raises on the first unusable file, "skip" lists it in `skipped`.
        skipped: what was left out in the last pass, each with its reason.
    """

    folder: ImageFolder
    preprocessing: Preprocessing
    batch: int = 32
    on_bad_image: OnBadImage = "fail"
    description: str = "reading images"
    skipped: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.on_bad_image not in ON_BAD_IMAGE:
            raise EdgevitError(
                f"--on-bad-image: {self.on_bad_image!r}; {closest(self.on_bad_image, ON_BAD_IMAGE)}"
            )
        if self.preprocessing.frames is not None:
            raise EdgevitError(
                f"--data: {self.folder.root} holds images, and the model takes clips of "
                f"{self.preprocessing.frames} frames; verify it on noise, without --data"
            )

    def __iter__(self) -> Iterator[Batch]:
        self.skipped.clear()
        images: list[npt.NDArray[np.float32]] = []
        indices: list[int] = []
        for index, file in enumerate(track(self.folder.files, self.description, len(self.folder))):
            try:
                images.append(prepare(decode(file, channels=self.preprocessing.channels), self.preprocessing))
            except BadImageError as error:
                if self.on_bad_image == "fail":
                    raise BadImageError(
                        f"{error}; pass --on-bad-image skip to leave such files out"
                    ) from error
                self.skipped.append(str(error))
                continue
            indices.append(index)
            if len(images) == self.batch:
                yield self._batch(images, indices)
                images, indices = [], []
        if images:
            yield self._batch(images, indices)

    def _batch(self, images: list[npt.NDArray[np.float32]], indices: list[int]) -> Batch:
        labels = self.folder.labels
        return Batch(
            images=np.stack(images),
            indices=tuple(indices),
            labels=None if labels is None else tuple(labels[index] for index in indices),
        )

    def read_all(self) -> npt.NDArray[np.float32]:
        """Every image at once: (n, channels, height, width) float32.

        Raises:
            EdgevitError: when no image could be used.
        """
        batches = [batch.images for batch in self]
        if not batches:
            raise EdgevitError(
                f"--data: none of the {len(self.folder)} images in {self.folder.root} could be used"
            )
        return np.concatenate(batches)
