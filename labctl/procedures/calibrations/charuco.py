"""A ChArUco board on the input panel: a chessboard whose squares carry codes, so that every corner has a number.

Orientation and mirroring follow from one frame, without guessing which dot is which; it needs a panel with room.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from labctl.bench.facts import BenchFacts
from labctl.procedures.messages import Gray

SQUARES = 5
MODULES = 8
"""Width of a square, in the code's own modules: six of the marker, one of margin on each side."""
LEAST_MODULE_PX = 3
"""Panel pixels that a module needs to be read through a 4f bench."""
LEAST_PX = SQUARES * MODULES * LEAST_MODULE_PX
"""Smallest side of a board, panel pixels."""


def _board(module: int) -> cv2.aruco.CharucoBoard:
    return cv2.aruco.CharucoBoard(
        (SQUARES, SQUARES), float(MODULES * module), float((MODULES - 2) * module),
        cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_4X4_50),
    )  # fmt: skip


def board(facts: BenchFacts, span_px: int) -> tuple[Gray, NDArray[np.float64]]:
    """A board in the middle of the panel, at most `span_px` wide.

    Returns
    -------
    gray pattern
    corners : float array [corner, (row, column)]
        Where the inner corners are, panel pixels, by their number.
    """
    module = span_px // (SQUARES * MODULES)
    side = SQUARES * MODULES * module
    made = _board(module)
    picture = made.generateImage((side, side), marginSize=0, borderBits=1)
    shape, top = facts.geometry.input.shape, facts.input_levels - 1
    shown = np.zeros(shape, np.uint8 if facts.input_levels <= 256 else np.uint16)
    start = [(n - side) // 2 for n in shape]
    shown[start[0] : start[0] + side, start[1] : start[1] + side] = np.where(picture > 127, top, 0)
    corners = np.asarray(made.getChessboardCorners(), float)[:, 1::-1] - 0.5  # an edge lies between two pixels
    return shown, corners + np.asarray(start, float)


def find(picture: NDArray[np.float32], span_px: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The corners in a camera's picture [row, column], whichever way it is turned or mirrored.

    Returns
    -------
    numbers : int array [corner]
    seen : float array [corner, (row, column)], camera px
        Empty if no board is seen.
    """
    module = span_px // (SQUARES * MODULES)
    top = float(np.quantile(picture, 0.995))
    eight = (np.sqrt(np.clip(picture / max(top, 1e-6), 0, 1)) * 255).astype(np.uint8)
    best: tuple[NDArray[np.intp], NDArray[np.float64]] = np.empty(0, np.intp), np.empty((0, 2))
    for mirrored in (False, True):
        view = np.ascontiguousarray(eight[:, ::-1]) if mirrored else eight
        corners, numbers, *_ = cv2.aruco.CharucoDetector(_board(module)).detectBoard(view)
        if numbers is None or len(numbers) <= len(best[0]):
            continue
        place = np.asarray(corners, float).reshape(-1, 2)[:, ::-1].copy()
        if mirrored:
            place[:, 1] = picture.shape[1] - 1 - place[:, 1]
        best = np.asarray(numbers, np.intp).ravel(), place
    return best
