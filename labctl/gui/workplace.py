"""What the window needs of the world outside it: bench files, models, opening a bench, and the jobs that it can start.

Everything heavy (torch, slmsuite) is imported where it is used, on the hardware thread, never before the first paint.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from labctl.workspace import Workspace, find

if TYPE_CHECKING:
    from labctl.bench.bench import Bench
    from labctl.config.schema import BenchConfig
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
    """A workspace on disk, and the bench files that were opened from it, as they were then, by their digest."""

    workspace: Workspace
    _opened: dict[str, BenchConfig] = field(default_factory=dict, repr=False, compare=False)

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

        config = load_bench(name, self.workspace)
        bench = open_bench(config, calibration_dir=self.workspace.calibration)
        self._opened[bench.facts.digest] = config
        return bench

    def demo(self, bench: str, model: str, images: int) -> Job:
        """The demo as a job."""
        from labctl.gui.jobs import demo

        return demo(self.workspace, self._config_of, model, images)

    def calibration(self) -> Job:
        """Every calibration of the open bench as a job."""
        from labctl.gui.jobs import calibrate

        return calibrate(self.workspace, self._config_of)

    def _config_of(self, bench: Bench) -> BenchConfig:
        return self._opened[bench.facts.digest]
