"""What the window needs of the world outside it: bench files, models, opening a bench, and the jobs that it can start.

Everything heavy (torch, slmsuite) is imported where it is used, on the hardware thread, never before the first paint.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from labctl.workspace import Workspace, find

if TYPE_CHECKING:
    from labctl.bench.bench import Bench
    from labctl.gui.session import Job


class Workplace(Protocol):
    """The world as the window sees it; a test brings its own."""

    @property
    def where(self) -> str:
        """For the log: where bench files and models are read from."""
        ...

    def benches(self) -> list[str]:
        """Names of the bench files."""
        ...

    def models(self) -> list[str]:
        """Names of the model bundles."""
        ...

    def open(self, name: str) -> Bench:
        """Open a bench by name; on the hardware thread.

        Raises
        ------
        LabctlError
        """
        ...

    def demo(self, bench: str, model: str, images: int) -> Job:
        """The demo as a job."""
        ...

    def calibration(self) -> Job:
        """Every calibration of the open bench as a job."""
        ...


@dataclass(frozen=True)
class RealWorkplace:
    """A workspace on disk."""

    workspace: Workspace

    @classmethod
    def find(cls, start: Path | None = None) -> RealWorkplace:
        """As `labctl.workspace.find`."""
        return cls(find(start))

    @property
    def where(self) -> str:
        """The workspace's folder."""
        return f"workspace {self.workspace.root}"

    def benches(self) -> list[str]:
        """Names of the bench files."""
        return self.workspace.bench_names()

    def models(self) -> list[str]:
        """Folders of ``models/`` that hold a recipe."""
        return sorted(path.parent.name for path in self.workspace.models.glob("*/recipe.toml"))

    def open(self, name: str) -> Bench:
        """Open a bench by name, with the calibrations that it has."""
        from labctl.bench.opening import open_bench  # slow: drivers and slmsuite
        from labctl.config import load_bench

        return open_bench(load_bench(name, self.workspace), calibration_dir=self.workspace.calibration)

    def demo(self, bench: str, model: str, images: int) -> Job:
        """The demo as a job."""
        from labctl.gui.jobs import demo

        return demo(self.workspace, bench, model, images)

    def calibration(self) -> Job:
        """Every calibration of the open bench as a job."""
        from labctl.gui.jobs import calibrate

        return calibrate(self.workspace)
