"""Run an ONNX file in OpenCV's dnn: a script for a process of its own, which OpenCV's C++ can take down.

Usage: python opencv_probe.py MODEL.onnx INPUTS.npz OUTPUTS.npz

Prints OpenCV's version, then runs; exits with 1 after printing OpenCV's error.
"""

from __future__ import annotations

import sys

import cv2
import numpy as np


def main(model: str, inputs: str, outputs: str) -> int:
    """Load, run once on the inputs by name, and save every output under the place it has in the file."""
    print(cv2.__version__, flush=True)  # noqa: T201
    try:
        net = cv2.dnn.readNetFromONNX(model)
        with np.load(inputs) as given:
            for name in given.files:
                net.setInput(given[name], name)
        results = net.forward(net.getUnconnectedOutLayersNames())
    except cv2.error as error:
        print(error)  # noqa: T201
        return 1
    np.savez(outputs, *results)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
