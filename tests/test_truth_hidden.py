"""Nothing that calibrates, deploys or predicts may look up what the dice gave a simulated bench.

`test_architecture` holds imports of `labctl.simulation` in check. Here: what an import would not show (names put
together, relative imports, hidden attributes), and a world that notices when anyone outside the simulation touches it,
while the whole of calibrating, deploying, evaluating and fitting runs on it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from labctl.bench import Bench, open_bench
from labctl.config.load import parse_bench
from labctl.procedures.calibrations import Calibrate
from labctl.procedures.calibrations.graph import registry
from labctl.procedures.calibrations.twin import TwinFit
from labctl.procedures.evaluate import Evaluate
from labctl.runs.engine import Engine
from labctl.runs.preparing import prepare_task
from labctl.simulation import world as worlds

ROOT = Path(__file__).resolve().parents[1]
SIMULATION = "labctl.simulation"
OPENING = "labctl.bench.opening"
HIDDEN = {"_truth", "_effects", "_world", "_slm_tables", "_input_tables", "_pupil", "_sensor"}
SMALL = """
[bench]
name = "watched"
[optics]
wavelength_nm = 638
f1_mm = 100
f2_mm = 75
[slm]
driver = "simulated"
options = { resolution = [256, 256], pitch_um = 16.0 }
settle_ms = 150
[input]
driver = "simulated"
options = { resolution = [128, 128], pitch_um = 8.0 }
settle_ms = 5
[camera]
driver = "simulated"
options = { resolution = [288, 288], pitch_um = 10.0 }
exposure_ms = 1.0
[instruments.laser]
driver = "simulated"
role = "laser"
[simulation]
preset = "mild"
seed = 5
"""


# what the code says


def peeks(name: str, tree: ast.AST) -> Iterator[str]:
    """Ways to the world in a module that `name` says is not the simulation's."""
    package = name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
            for module in (node.module, *(alias.name for alias in node.names)):
                if f"{above}.{module}".startswith(SIMULATION):
                    yield f"{name}:{node.lineno}: relative import of the simulation"
        elif isinstance(node, ast.ImportFrom):
            if any(f"{node.module}.{alias.name}".startswith(SIMULATION) for alias in node.names):
                yield f"{name}:{node.lineno}: import of the simulation"
        elif isinstance(node, ast.Import):
            if any(alias.name.startswith(SIMULATION) for alias in node.names):
                yield f"{name}:{node.lineno}: import of the simulation"
        elif isinstance(node, ast.Attribute) and node.attr in HIDDEN:
            if not (isinstance(node.value, ast.Name) and node.value.id == "self"):
                yield f"{name}:{node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
            if text in HIDDEN or text == SIMULATION or text.startswith((f"{SIMULATION}.", f"{SIMULATION}:")):
                yield f"{name}:{node.lineno}: the name {text!r}"
        elif isinstance(node, ast.BinOp | ast.JoinedStr) and {"labctl", "simulation"} <= set(_words(node)):
            yield f"{name}:{node.lineno}: a name put together: {ast.unparse(node)[:60]}"


def _words(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield from part.value.split(".")


@pytest.mark.parametrize(
    "code",
    [
        "import labctl.simulation.world",
        "from labctl.simulation import world",
        "from labctl import simulation",
        "def f():\n    from labctl.simulation.effects import Truth",
        "from ..simulation import world",
        "from .. import simulation",
        "importlib.import_module('labctl.simulation')",
        "importlib.import_module('labctl.simulation.world')",
        "importlib.import_module('labctl.' + 'simulation')",
        "importlib.import_module(f'labctl.{\"simulation\"}.world')",
        "bench.device('slm').driver._world",
        "getattr(world, '_truth')",
        "world._truth.lut_bend",
    ],
)
def test_the_look_for_peeking_sees_it(code: str) -> None:
    assert list(peeks("labctl.procedures.any", ast.parse(code)))


def test_no_code_outside_scoring_reaches_for_the_world() -> None:
    found = []
    for path in sorted((ROOT / "labctl").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name.startswith(SIMULATION) or name == OPENING or "_workspace" in parts:
            continue
        found += peeks(name if parts[-1] != "__init__" else f"{name}.__init__", ast.parse(path.read_text("utf-8")))
    assert not found, "\n".join(found)


# what the code does


class Watched(worlds.World):
    """A world that lets nobody but the simulation touch anything of it."""

    seen: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        asking = str(sys._getframe(1).f_globals.get("__name__", "?"))
        if not name.startswith("__") and not asking.startswith(SIMULATION) and asking not in (__name__, OPENING):
            Watched.seen.append(f"{asking} reads {name}")
            raise AssertionError(f"{asking} reads the world's {name}")
        return super().__getattribute__(name)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(worlds, "World", Watched)
    Watched.seen = []
    bench = open_bench(parse_bench(SMALL))
    yield bench
    bench.close()


def test_the_watched_world_notices(watched: Bench) -> None:
    from labctl.procedures import exposing

    world = watched.device("slm").driver._world
    assert isinstance(world, Watched)
    look = FunctionType((lambda world: world._truth).__code__, {"__name__": exposing.__name__})
    with pytest.raises(AssertionError, match=r"labctl.procedures.exposing reads the world's _truth"):
        look(world)
    assert Watched.seen == ["labctl.procedures.exposing reads _truth"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_calibrating_deploying_evaluating_and_fitting_never_look_at_the_world(watched: Bench) -> None:
    """All kinds there are, one by one; a kind may refuse this coarse bench, but not for having looked."""
    engine = Engine(watched)
    kinds = [kind for kind in registry() if kind != "twin"]
    result = engine.run(Calibrate(only=tuple(kinds)))
    assert not Watched.seen
    measured = {record.kind for record in result.records}
    assert measured | set(result.refused) == set(kinds)
    assert {"dark", "registration", "gain", "fourier-centre"} <= measured, result.refused
    watched.with_calibrations({record.kind: record for record in result.records})
    fitted = engine.run(TwinFit(masks=2, inputs=2, held_out=2, on_axis=2, levels=2, fit_steps=6))  # poor, but fitted
    watched.with_calibrations({**watched.facts.calibrations, "twin": fitted})
    task = prepare_task("fashion-mnist-sclc", ROOT / "models", images=2, train=3)
    evaluation = engine.run(Evaluate(task, corrected=False))
    assert evaluation.arm.count == 2
    assert not Watched.seen
