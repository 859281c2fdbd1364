"""Drivers from other packages: the worked example of the documentation, installed and used as its reader would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from labctl.workspace import Workspace

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "labctl-driver-example"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the example is installed in, with the metadata that entry points are read from."""
    target = tmp_path_factory.mktemp("installed")
    run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation",
         "--disable-pip-version-check", "--target", str(target), str(EXAMPLE)],
    )  # fmt: skip
    assert list(target.glob("labctl_driver_example-*.dist-info/entry_points.txt"))
    return target


def run(command: list[str], target: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"PYTHONPATH": str(target)} if target else {})
    done = subprocess.run(
        command, env=environment, cwd=EXAMPLE, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        encoding="utf-8", errors="replace", check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_the_examples_own_tests_pass(installed: Path) -> None:
    done = run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "error",
         "-c", os.devnull, "--rootdir", str(EXAMPLE), str(EXAMPLE / "tests")],
        installed,
    )  # fmt: skip
    assert "6 passed" in done.stdout


@pytest.mark.slow
def test_its_bench_is_exercised_by_names_from_entry_points(installed: Path, workspace: Workspace) -> None:
    code = "import sys; from labctl.cli.main import run; sys.exit(run(sys.argv[1:]))"
    done = run(
        [sys.executable, "-c", code, "bench", "check", "./example.toml", "--yes", "--json", "--frames", "5"], installed
    )
    content = json.loads(done.stdout)
    rows = {(row["device"], row["what"]): row for row in content["devices"]}
    assert content["good"]
    assert rows["camera", "exposure"]["measured"] == pytest.approx(2.0)
    assert 20 < rows["camera", "frame rate"]["measured"] <= 500, "an exposure of 2 ms, and what the machine takes"
    assert rows["laser", "enabled"]["measured"] == 0


def test_package_and_class_need_no_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """``package.module:Class``, and the camera that names ``slm`` is given that object."""
    from labctl.bench import open_bench
    from labctl.config.load import parse_bench

    monkeypatch.syspath_prepend(str(EXAMPLE / "src"))
    text = (EXAMPLE / "example.toml").read_text(encoding="utf-8")
    for name, cls in (("slm", "SLM"), ("camera", "Camera"), ("laser", "Laser")):
        text = text.replace(f'"example-{name}"', f'"labctl_driver_example:Example{cls}"')
    bench = open_bench(parse_bench(text))
    try:
        assert bench.device("camera").driver.slm is bench.device("slm").driver
        assert bench.capture().data.shape == (300, 400)
    finally:
        bench.close()
        for module in [name for name in sys.modules if name.startswith("labctl_driver_example")]:
            del sys.modules[module]


def test_a_name_that_nobody_registered_is_refused_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    from labctl.devices import catalogue
    from labctl.errors import ConfigError

    points = [
        EntryPoint("my-slm", "labctl.devices.opencv:OpenCVCamera", "labctl.drivers"),
        EntryPoint("broken", "no_such_package:Driver", "labctl.drivers"),
    ]
    monkeypatch.setattr(catalogue, "entry_points", lambda group: points)
    assert catalogue.driver_class("my-slm", role="slm").__name__ == "OpenCVCamera"
    with pytest.raises(ConfigError, match="no driver is called 'my-slmm': did you mean 'my-slm'"):
        catalogue.driver_class("my-slmm", role="slm")
    with pytest.raises(ConfigError, match="'broken' is registered but cannot be imported: No module named"):
        catalogue.driver_class("broken", role="slm")
