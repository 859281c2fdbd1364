"""Rules that no reviewer should have to look for: layers, what code may not contain, what stays hidden."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "labctl"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "_workspace" not in path.parts)
OPENING = "labctl.bench.opening"

FORBIDDEN_CALLS = {"print", "eval", "exec", "breakpoint", "input"}
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
MAY_SLEEP = {"labctl.clock"}
SLOW = {"torch", "torchmetrics", "slmsuite", "h5py", "matplotlib", "PySide6", "pyqtgraph", "cv2", "scipy"}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    return {name_of(path): ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in MODULES}


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every module that is imported anywhere in `tree`, with the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def test_layers_hold() -> None:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_forbidden_stands_in_the_code(trees: dict[str, ast.Module]) -> None:
    found = [f"{name}:{line}: {what}" for name, tree in trees.items() for what, line in offences(name, tree)]
    assert not found, "\n".join(found)


def offences(name: str, tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield "assert: raise an error that says what to do", node.lineno
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            yield "bare except", node.lineno
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in FORBIDDEN_CALLS:
                yield f"{called}()", node.lineno
            elif called == "time.sleep" and name not in MAY_SLEEP:
                yield "time.sleep: take a clock as an argument", node.lineno
            elif called == "torch.load" and not any(
                word.arg == "weights_only" and isinstance(word.value, ast.Constant) and word.value.value is True
                for word in node.keywords
            ):
                yield "torch.load without weights_only=True", node.lineno
    for module, line in imports(tree):
        if module.partition(".")[0] in FORBIDDEN_IMPORTS:
            yield f"import of {module}", line
        if module == "time.sleep" and name not in MAY_SLEEP:
            yield "time.sleep: take a clock as an argument", line


@pytest.mark.parametrize(
    "code",
    [
        "print(1)",
        "assert x",
        "import pickle",
        "from pickle import loads",
        "eval('1')",
        "import time\ntime.sleep(1)",
        "from time import sleep",
        "try:\n    x\nexcept:\n    pass",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
    ],
)
def test_the_look_for_forbidden_code_sees_it(code: str) -> None:
    assert list(offences("labctl.any", ast.parse(code)))


def test_every_module_says_what_it_is(trees: dict[str, ast.Module]) -> None:
    silent = [
        name
        for name, tree in trees.items()
        if not any(part.startswith("_") for part in name.split(".")[1:])
        and tree.body  # an empty __init__ only marks a package
        and not ast.get_docstring(tree)
    ]
    assert not silent, f"modules without a docstring: {silent}"


def test_the_truth_stays_hidden(trees: dict[str, ast.Module]) -> None:
    """Nobody may look up what calibration has to find out: only the opening of a bench meets the simulated world."""
    peeking = [
        f"{name}:{line}"
        for name, tree in trees.items()
        if not name.startswith("labctl.simulation") and name != OPENING
        for module, line in imports(tree)
        if module == "labctl.simulation" or module.startswith("labctl.simulation.")
    ]
    by_name = [
        f"{name}:{node.lineno}"
        for name, tree in trees.items()
        if not name.startswith("labctl.simulation") and name != OPENING
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.partition(":")[0].startswith("labctl.simulation.")
    ]
    assert not peeking + by_name, f"these reach into the simulated world: {sorted({*peeking, *by_name})}"


def test_the_overview_imports_nothing_slow() -> None:
    code = (
        "import sys\nfrom labctl.cli.main import run\ncode = run(['--help'])\n"
        f"slow = sorted(set(sys.modules) & {SLOW!r})\n"
        "sys.exit(f'--help imports {slow}' if slow else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Usage: labctl" in done.stdout
