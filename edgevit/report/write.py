"""Write a report: ``report.json`` for programs, ``report.html`` for people."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np

from edgevit.images import ImageFolder, decode
from edgevit.report.document import Report
from edgevit.report.html import render

JSON_FILE = "report.json"
HTML_FILE = "report.html"

_THUMBNAILS = 24
_THUMBNAIL_EDGE = 160


def write_report(report: Report, images: ImageFolder, folder: Path) -> None:
    """Write both files into `folder`; the page carries small copies of the images it shows."""
    thumbnails = {
        mistake.file: thumbnail(images.root / mistake.file) for mistake in report.mistakes[:_THUMBNAILS]
    }
    (folder / JSON_FILE).write_text(report.to_json(), encoding="utf-8")
    (folder / HTML_FILE).write_text(render(report, thumbnails), encoding="utf-8")


def thumbnail(path: Path) -> str:
    """A small JPEG copy of an image file, as a data URI."""
    import cv2

    image = decode(path)
    scale = _THUMBNAIL_EDGE / max(image.shape[:2])
    if scale < 1:
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(image[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 85])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")
