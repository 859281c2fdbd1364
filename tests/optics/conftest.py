"""Benches and images for the optics tests."""

from __future__ import annotations

import pytest
import torch

from labctl.optics.geometry import Geometry, Plane


@pytest.fixture
def geometry() -> Geometry:
    """A 1024 x 1024 SLM in a 4f bench; lambda f1 / (N p_in) is no whole number of SLM pixels."""
    return Geometry(
        wavelength=638e-9,
        f1=0.1,
        f2=0.075,
        slm=Plane((1024, 1024), (8e-6, 8e-6)),
        input=Plane((256, 256), (8e-6, 8e-6)),
        camera=Plane((1024, 1024), (5.5e-6, 5.5e-6)),
    )


@pytest.fixture
def images() -> torch.Tensor:
    """Four non-negative 28 x 28 images [4, 1, 28, 28] with edges, flats and texture."""
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(4, 1, 7, 7, generator=generator)
    picture = torch.nn.functional.interpolate(coarse, size=28, mode="bicubic").clamp(0, 1)
    picture[:, :, 8:20, 9:19] += (torch.rand(4, 1, 12, 10, generator=generator) > 0.5).float()
    return (picture / picture.amax()).contiguous()
