"""Write scikit-learn's bundled handwritten digits as PNG files, one folder per class.

Usage: python examples/digits/write_images.py FOLDER

The 1,797 images of 8x8 pixels come with the scikit-learn package (UCI's "Optical Recognition of
Handwritten Digits", test part), so nothing is downloaded. Every fifth image is for testing, the others
are for training and calibration: FOLDER/train and FOLDER/test.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from sklearn.datasets import load_digits


def write_images(folder: Path) -> None:
    """Write train/ and test/; does nothing where they are complete already."""
    digits = load_digits()
    if sum(1 for _ in folder.glob("*/*/*.png")) == len(digits.images):
        return
    for index, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        part = "test" if index % 5 == 0 else "train"
        path = folder / part / str(label) / f"{index:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Grey levels 0 to 16; dark ink on light paper would be 16 - level, the data set's own way is kept.
        cv2.imwrite(str(path), np.round(image * (255 / 16)).astype(np.uint8))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write_images(Path(sys.argv[1]))
