"""Compiled deployments on disk, content-addressed: the same model, calibration and encoder are the same folder."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

import cv2
import h5py
import numpy as np

from labctl.errors import RunError
from labctl.procedures.deployment import Deployment, read_points


def keep_deployment(folder: Path, deployment: Deployment) -> Path:
    """Write ``folder/DIGEST/``: ``pattern.png`` (gray levels for the SLM) and ``deployment.h5`` (all the rest).

    Returns
    -------
    Path
        The deployment's folder; one that is there already is left as it is.

    Raises
    ------
    RunError
        If it cannot be written; nothing half-written is left under the digest.
    """
    target = folder / deployment.digest[:16]
    if target.is_dir():
        return target
    part = folder / f"{target.name}.{uuid.uuid4().hex[:8]}.part"
    try:
        part.mkdir(parents=True)
        done, png = cv2.imencode(".png", deployment.pattern)
        if not done:
            raise RunError(f"the pattern could not be turned into a PNG for {part}")
        (part / "pattern.png").write_bytes(png.tobytes())
        with h5py.File(part / "deployment.h5", "w") as file:
            for name, value, unit in (
                ("pattern", deployment.pattern, "gray level"),
                ("phase", deployment.phase, "rad"),
                ("kernels", deployment.kernels.numpy(), "1"),
                ("scale", deployment.scale.numpy(), "digital amplitude per optical amplitude"),
                ("carriers", np.asarray(deployment.layout.carriers), "cycles per SLM px (y, x)"),
                ("read_points", read_points(deployment)[..., 0, :], "camera px (row, column)"),
                ("input_to_camera", deployment.input_to_camera, "camera px per input px, camera px"),
                ("carrier_to_camera", deployment.carrier_to_camera, "camera px per (cycle per SLM px)"),
            ):
                file.create_dataset(name, data=value).attrs["unit"] = unit
            if (correction := deployment.correction) is not None:
                for name, value, unit in (
                    ("input_amplitude", correction.amplitude, "amplitude of each gray level, white is 1"),
                    ("input_shade", correction.shade, "amplitude of white image pixels"),
                    ("response", correction.response.numpy(), "intensity read over intensity there"),
                ):
                    file.create_dataset(name, data=value).attrs["unit"] = unit
                file.attrs["shown_black_and_white"] = (correction.black, correction.white)
            file.attrs["digest"] = deployment.digest
            file.attrs["detection"] = deployment.detection.value
            file.attrs["encoder"] = f"{deployment.encoder.name}, ceiling {deployment.encoder.ceiling}"
            file.attrs["calibrated"] = deployment.calibrated
            file.attrs["channel"] = deployment.channel
            file.attrs["maps"] = (deployment.maps.start, deployment.maps.stop)
            file.attrs["window"] = deployment.window
            file.attrs["corner"] = deployment.corner
            file.attrs["block"] = deployment.layout.block
        os.replace(part, target)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise RunError(f"the deployment cannot be written to {folder}: {error}") from error
    return target
