"""Fidelity and efficiency of the one-pass encoders on an ideal bench: 16 paired tiles, 1024 x 1024, 8 bit.

    python tests/benchmarks/encoders.py

Kernels: the shipped student's, and random ones. Prints Pearson r of the tiles against conv2d over 8 real images.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from labctl.learning.bundle import load_bundle
from labctl.learning.data import load
from labctl.optics.detection import Detection, tile_kernels
from labctl.optics.encoders import ENCODERS, EncoderSpec
from labctl.optics.fidelity import encoder_fidelity
from labctl.optics.geometry import Geometry, Plane
from labctl.optics.tiles import arrange

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Print the table."""
    geometry = Geometry(
        638e-9, 0.1, 0.075, Plane((1024, 1024), (8e-6,) * 2), Plane((256, 256), (8e-6,) * 2),
        Plane((1024, 1024), (5.5e-6,) * 2),
    )  # fmt: skip
    images = load("fashion-mnist", "test", limit=8).images
    banks = {
        "shipped student": load_bundle(ROOT / "models" / "fashion-mnist-sclc").student.fused_kernels().detach(),
        "random 7x7": torch.randn(8, 1, 7, 7, generator=torch.Generator().manual_seed(0)),
    }
    write = sys.stdout.write
    write(f"{'kernels':16} {'encoder':13} {'ceiling':>7} {'mean r':>8} {'worst r':>8} {'light':>6}\n")
    for name, kernels in banks.items():
        tiles = tile_kernels(kernels, Detection.PAIRED)
        layout = arrange(len(tiles), geometry, image=(28, 28), kernel=(7, 7))
        for encoder in ENCODERS:
            for ceiling in (0.6, 0.8, 1.0):
                found = encoder_fidelity(images, tiles, layout, geometry, EncoderSpec(encoder, ceiling))
                write(
                    f"{name:16} {encoder:13} {ceiling:7.1f} {found.mean:8.4f} {found.worst:8.4f} "
                    f"{100 * found.efficiency:5.0f}%\n"
                )
        gaps = ", ".join(f"{order} {gap:.2f}" for order, gap in layout.clearances().items())
        write(f"clearance of the tiles, in footprints (1 or more: none overlaps): {gaps}\n")


if __name__ == "__main__":
    main()
