"""A model compiled for a bench: kernels -> masks -> tiles -> one gray pattern, and how its tiles are read.

A deployment is content-addressed: the same kernels, calibration and encoder give the same one. `Reader` turns camera
frames into maps in the units of ``conv2d(image, kernels)``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from labctl.bench.facts import BenchFacts
from labctl.bench.frames import Frame
from labctl.errors import CalibrationError, ModelError
from labctl.learning.fits import coherence_misfit
from labctl.optics.detection import Detection, maps_from_intensity, shown_amplitude, tile_kernels
from labctl.optics.encoders import EncoderSpec, gray_from_phase
from labctl.optics.sampling import REACH
from labctl.optics.tiles import Layout, arrange, slm_field
from labctl.procedures.correction import Correction, correct
from labctl.procedures.exposing import signal
from labctl.procedures.messages import Gray

SAMPLES = 3
"""Points per image pixel and axis at which the camera is read, over the middle `REACH` of it."""
MARGIN_PX = 30
"""Camera pixels read around the tiles."""


@dataclass(frozen=True, eq=False)
class Deployment:
    """One pattern that shows a whole kernel bank, and where to read it.

    Attributes
    ----------
    pattern : unsigned integer array [row, column]
        Gray levels for the SLM.
    phase : float32 array [row, column], rad
        The phase pattern it encodes.
    kernels : float tensor [tiles, ky, kx]
        What the tiles show.
    layout : Layout
    scale : float tensor [tiles]
        Digital amplitude per optical amplitude of each tile (relative between tiles).
    detection : Detection
    encoder : EncoderSpec
    centre : (row, column), SLM pixels
        Where the zero frequency was taken to fall.
    input_to_camera : float array [2, 3]
    carrier_to_camera : float array [2, 2]
    corner : (row, column), panel pixels
        Where the image's corner is shown.
    window : (first row, end row, first column, end column), camera pixels
        What must be read out.
    calibrated : bool
    digest : str
        Hash of all that determines the pattern and its reading.
    channel : int
        Of the image, that the panel shows with this pattern.
    first : int
        Map of the model that the first tile belongs to.
    correction : Correction or None
        What the twin knows of panel and camera; None where masks were made without it.
    """

    pattern: Gray
    phase: NDArray[np.float32]
    kernels: Float[Tensor, "tiles ky kx"]
    layout: Layout
    scale: Float[Tensor, " tiles"]
    detection: Detection
    encoder: EncoderSpec
    centre: tuple[float, float]
    input_to_camera: NDArray[np.float64]
    carrier_to_camera: NDArray[np.float64]
    corner: tuple[int, int]
    window: tuple[int, int, int, int]
    calibrated: bool
    digest: str
    channel: int = 0
    first: int = 0
    correction: Correction | None = None

    @property
    def maps(self) -> slice:
        """The maps of the model that its tiles are read as."""
        return slice(self.first, self.first + len(self.kernels) // self.detection.tiles_per_map)


def compile_deployment(
    kernels: Float[Tensor, "maps 1 ky kx"],
    facts: BenchFacts,
    *,
    image: tuple[int, int],
    detection: Detection = Detection.PAIRED,
    encoder: EncoderSpec | None = None,
    block: tuple[int, int] = (2, 2),
    calibrated: bool = True,
    corrected: bool | None = None,
    margin_px: int = MARGIN_PX,
    channel: int = 0,
    first: int = 0,
) -> Deployment:
    """Compile a kernel bank of one input channel into one pattern; `labctl.procedures.patterns` does whole models.

    Parameters
    ----------
    kernels : float tensor [maps, 1, ky, kx]
        Signed kernels in ``conv2d``'s convention.
    facts : BenchFacts
    image : (y, x), pixels
    block : (y, x)
        Panel pixels per image pixel.
    calibrated : bool
        Use the bench's registration and Fourier centre; False trusts the bench file, as an unaligned bench would.
    corrected : bool, optional
        Make the masks for the bench as its twin knows it: response of the SLM, aberrations, crosstalk, registration,
        response of input panel and camera. Default: where the bench has a `twin` record. Takes some ten seconds.
    margin_px : int
        Camera pixels read around the tiles.
    channel, first : int
        See `Deployment`.

    Raises
    ------
    ModelError
        If the model does not fit the bench.
    CalibrationError
        If `calibrated` and the bench has no such records, or they put tiles outside the camera.
    """
    geometry = facts.geometry
    if geometry.coherent is not detection.coherent:
        raise ModelError(coherence_misfit(detection, facts.name, geometry.coherent))
    encoder = encoder or EncoderSpec()
    tiles = tile_kernels(kernels.detach(), detection)
    layout = arrange(
        len(tiles), geometry, image=image, kernel=(tiles.shape[-2], tiles.shape[-1]), block=block,
        margin=(margin_px, margin_px),
    )  # fmt: skip
    if calibrated:
        registration = facts.calibration("registration")
        place, steer = registration["input_to_camera"], registration["carrier_to_camera"]
        centre = _centre(facts)
    else:
        place, steer = geometry.nominal_input_to_camera(), geometry.nominal_carrier_to_camera()
        centre = geometry.slm.centre
    row, column = ((geometry.input.shape[i] - image[i] * block[i]) // 2 for i in (0, 1))
    correction = None
    if corrected is None:
        corrected = calibrated and detection.coherent and "twin" in facts.calibrations
    if corrected:
        made = correct(tiles, layout, facts, corner=(row, column), encoder=encoder)
        phase, scale, correction = made.phase, made.scale, made.correction
        place, steer, centre = made.input_to_camera, made.carrier_to_camera, made.centre
    else:
        field, scale = slm_field(tiles, layout, geometry, centre=centre, compensate=detection.coherent)
        phase = encoder.encode(field)
    found = Deployment(
        pattern=gray_from_phase(phase, facts.slm_levels),
        phase=phase.numpy(),
        kernels=tiles,
        layout=layout,
        scale=scale,
        detection=detection,
        encoder=encoder,
        centre=centre,
        input_to_camera=np.asarray(place, float),
        carrier_to_camera=np.asarray(steer, float),
        corner=(row, column),
        window=(0, 0, 0, 0),
        calibrated=calibrated,
        digest="",
        channel=channel,
        first=first,
        correction=correction,
    )
    return replace(found, window=_window(found, facts, margin_px), digest=_digest(found, facts))


def _centre(facts: BenchFacts) -> tuple[float, float]:
    """Where the zero frequency falls; in incoherent light the squared response does not depend on it."""
    if not facts.geometry.coherent and "fourier-centre" not in facts.calibrations:
        return facts.geometry.slm.centre
    row, column = (float(v) for v in facts.calibration("fourier-centre")["centre"])
    return row, column


def read_points(deployment: Deployment, samples: int = 1) -> NDArray[np.float64]:
    """Where the camera sees the image's pixels in each tile.

    Parameters
    ----------
    samples : int
        Points per pixel and axis, spread evenly over the middle `REACH` of it.

    Returns
    -------
    float array [tiles, y, x, samples * samples, 2], camera pixels (row, column)
    """
    layout, block = deployment.layout, deployment.layout.block
    inside = ((np.arange(samples) + 0.5) / samples - 0.5) * REACH
    axes = [
        deployment.corner[i] + (np.arange(layout.image[i])[:, None] + inside[None]) * block[i] + (block[i] - 1) / 2
        for i in (0, 1)
    ]
    y, x = axes
    panel = np.stack(np.broadcast_arrays(y[:, None, :, None], x[None, :, None, :]), axis=-1).reshape(
        layout.image[0], layout.image[1], samples * samples, 2
    )
    here = panel @ deployment.input_to_camera[:, :2].T + deployment.input_to_camera[:, 2]
    moved = np.asarray(layout.carriers) @ deployment.carrier_to_camera.T
    return np.asarray(here[None] + moved[:, None, None, None])


def show_image(image: Float[Tensor, "y x"], facts: BenchFacts, deployment: Deployment) -> Gray:
    """The gray pattern for the input panel: the image's amplitude, each pixel a block, black around.

    Parameters
    ----------
    image : float tensor [y, x]
        One channel, from 0 to 1: the amplitude, or in incoherent light the intensity.
    """
    layout = deployment.layout
    levels = facts.input_levels - 1
    amplitude = shown_amplitude(image.clamp(0, 1), deployment.detection).numpy()
    correction = deployment.correction
    gray = amplitude * levels if correction is None else correction.gray(amplitude)
    blocks = np.rint(gray).repeat(layout.block[0], 0).repeat(layout.block[1], 1)
    shown = np.zeros(facts.geometry.input.shape, np.uint8 if levels < 256 else np.uint16)
    r, c = deployment.corner
    shown[r : r + blocks.shape[0], c : c + blocks.shape[1]] = blocks
    return shown


class Reader:
    """Reads the tiles of a deployment from camera frames.

    Parameters
    ----------
    deployment : Deployment
    facts : BenchFacts
    gain : float
        Digital amplitude per square root of a count per second, one for all tiles; `fit` sets it.
    """

    def __init__(self, deployment: Deployment, facts: BenchFacts, gain: float = 1.0) -> None:
        self.deployment, self.gain = deployment, gain
        self._facts = facts
        self._weights: scipy.sparse.csr_matrix | None = None
        self._frame: tuple[object, ...] = ()

    def intensity(self, frame: Frame) -> Float[Tensor, "tiles y x"]:
        """Counts per second above dark at each image pixel of each tile.

        A frame that says how far its picture has moved is read there, and one that says how bright it is made as bright
        as ever.
        """
        if self._weights is None or (frame.origin, frame.data.shape, frame.moved) != self._frame:
            self._weights = self._sampling(frame)
            self._frame = (frame.origin, frame.data.shape, frame.moved)
        # without dark records, only a constant can be taken off
        picture = signal(self._facts, frame)
        read = self._weights @ picture.ravel()
        shape = (len(self.deployment.kernels), *self.deployment.layout.image)
        found = torch.from_numpy((read / (frame.exposure_s * frame.light)).astype(np.float32).reshape(shape))
        correction = self.deployment.correction
        return found if correction is None else found / correction.response

    def maps(self, frame: Frame) -> Float[Tensor, "maps y x"]:
        """The maps `deployment.maps` of one channel, in the units of ``conv2d(image, kernels)`` (or of its square)."""
        return self.maps_of(self.intensity(frame))

    def maps_of(self, intensity: Float[Tensor, "*batch tiles y x"]) -> Float[Tensor, "*batch maps y x"]:
        """The same of what `intensity` gave."""
        deployment = self.deployment
        found = maps_from_intensity(intensity, deployment.scale * self.gain, deployment.detection)
        if (pedestal := self._pedestal()) is None:
            return found
        positive, negative = pedestal.chunk(2)
        return found - (positive - negative)[:, None, None]

    def _pedestal(self) -> Float[Tensor, " tiles"] | None:
        """What black adds to the tiles' amplitudes; None where it is none, or cannot be told from what is read."""
        deployment = self.deployment
        if deployment.correction is None or deployment.detection is not Detection.PAIRED:
            return None
        return deployment.correction.pedestal(deployment.kernels)

    def fit(self, intensity: Float[Tensor, "n tiles y x"], expected: Float[Tensor, "n tiles y x"]) -> Reader:
        """A reader whose gain makes captures as strong as expected amplitudes, on average over everything."""
        got = (intensity.clamp(min=0) * self.deployment.scale[:, None, None] ** 2).sum()
        if (pedestal := self._pedestal()) is not None:
            expected = expected + pedestal[:, None, None]
        if float(got) <= 0:
            raise CalibrationError(
                "no light where the tiles should be: calibrate the bench, and check laser and shutter"
            )
        reader = Reader(self.deployment, self._facts, float((expected.pow(2).sum() / got).sqrt()))
        reader._weights, reader._frame = self._weights, self._frame
        return reader

    def _sampling(self, frame: Frame) -> scipy.sparse.csr_matrix:
        """Bilinear weights of every read point, averaged over each image pixel."""
        points = read_points(self.deployment, SAMPLES)
        rows, columns = frame.data.shape
        flat = points.reshape(-1, SAMPLES * SAMPLES, 2) - np.asarray(frame.origin) + np.asarray(frame.moved)
        inside = np.clip(flat, 0, np.asarray([rows, columns]) - 1.001)
        low = np.floor(inside).astype(int)
        part = inside - low
        cells, weights = [], []
        for dy in (0, 1):
            for dx in (0, 1):
                cells.append((low[..., 0] + dy) * columns + low[..., 1] + dx)
                weights.append(
                    np.where(dy, part[..., 0], 1 - part[..., 0]) * np.where(dx, part[..., 1], 1 - part[..., 1])
                )
        column = np.concatenate(cells, axis=1)
        weight = np.concatenate(weights, axis=1) / SAMPLES**2
        row = np.repeat(np.arange(len(flat)), column.shape[1])
        return scipy.sparse.csr_matrix(
            (weight.ravel().astype(np.float32), (row, column.ravel())), shape=(len(flat), rows * columns)
        )


def _window(deployment: Deployment, facts: BenchFacts, margin: int) -> tuple[int, int, int, int]:
    """Camera rows and columns that hold every tile and a margin, clipped to the sensor."""
    points = read_points(deployment).reshape(-1, 2)
    shape = facts.geometry.camera.shape
    low, high = points.min(0), points.max(0)
    if (low < 0).any() or (high > np.asarray(shape) - 1).any():
        message = (
            f"tiles fall outside the camera: rows {low[0]:.0f} to {high[0]:.0f} of {shape[0]}, "
            f"columns {low[1]:.0f} to {high[1]:.0f} of {shape[1]}. Move or turn the camera so that it sees one side of "
            "the zero order"
        )
        raise (CalibrationError if deployment.calibrated else ModelError)(message)
    r0, c0 = (max(int(v) - margin, 0) for v in low)
    r1, c1 = (min(int(v) + margin + 2, n) for v, n in zip(high, shape, strict=True))
    return r0, r1, c0, c1


def _digest(deployment: Deployment, facts: BenchFacts) -> str:
    digest = hashlib.sha256(facts.digest.encode())
    for array in (
        deployment.pattern, deployment.kernels.numpy(), deployment.input_to_camera, deployment.carrier_to_camera,
    ):  # fmt: skip
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(repr((deployment.layout, deployment.detection, deployment.encoder, deployment.corner)).encode())
    if (correction := deployment.correction) is not None:
        for array in (correction.amplitude, correction.shade, correction.response.numpy()):
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(repr((correction.black, correction.white)).encode())
    if deployment.channel or deployment.first:
        digest.update(repr((deployment.channel, deployment.first)).encode())
    return digest.hexdigest()
