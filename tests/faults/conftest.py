"""The tiny bench for every test here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's import mode leaves helper modules to be found by ourselves

from faults_benches import FaultyRig


@pytest.fixture(scope="session")
def rig() -> type[FaultyRig]:
    """The class: property tests make one for each example."""
    return FaultyRig
