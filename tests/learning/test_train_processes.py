"""Training over several processes, and a training whose process is killed: slow, because processes start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from labctl.errors import ConfigError, DataError
from labctl.learning.data import load
from labctl.learning.placing import find_device
from labctl.learning.progress import DataRead, EpochDone
from labctl.learning.scoring import logits_of
from labctl.learning.train import TrainProgress, train

ARMS = 'arms = ["distilled", "transfer", "random"]'


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {f"{name} {key}": value for name in ("teacher", "student")
            for key, value in load_file(folder / f"{name}.safetensors").items()}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_make_the_network_of_one(tmp_path: Path, tiny_recipe: Path, tiny_data: Path) -> None:
    """Batches of 27 split unevenly, the last of an epoch has 25; batch norm, jitter and the tangent kernel see all."""
    text = tiny_recipe.read_text(encoding="utf-8").replace("batch = 40", "batch = 27")
    text = text.replace('arms = ["distilled", "undistilled"]', ARMS).replace("seeds = [0, 1]", "seeds = [0]")
    tiny_recipe.write_text(text + '[transfer]\nkind = "tangent-kernel"\n', encoding="utf-8")
    one = train(tiny_recipe, tmp_path / "one", data_dir=tiny_data, arms=True, device="cpu")
    seen: list[TrainProgress] = []
    told: list[object] = []
    two = train(
        tiny_recipe, tmp_path / "two", data_dir=tiny_data, arms=True, device="cpu", devices=2, progress=seen.append,
        watch=told.append,
    )  # fmt: skip
    # not weight by weight: a bias before a batch norm has no gradient but rounding, of which AdamW makes a whole step
    images = load("fashion-mnist", "test", data_dir=tiny_data).images
    for network in ("teacher", "student"):
        expected, found = (logits_of(getattr(bundle, network), images) for bundle in (one, two))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    for arm, measured in one.metrics.arms.items():
        curve = [loss for _, loss, _ in measured.runs[0].curve]
        assert [loss for _, loss, _ in two.metrics.arms[arm].runs[0].curve] == pytest.approx(curve, rel=1e-3), arm
    assert two.metrics.made_with["device"] == "2 x cpu"
    assert seen[-1].fraction == 1 and isinstance(told[0], DataRead)
    assert sum(isinstance(at, EpochDone) for at in told) == 2 + 3 * 3, "told once, not once for each process"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_end_when_told_to_and_one_goes_on(tmp_path: Path, tiny_recipe: Path, tiny_data: Path) -> None:
    class Enough(Exception):
        pass

    def stop(at: TrainProgress) -> None:
        if at.stage != "teacher":
            raise Enough

    with pytest.raises(Enough):
        train(tiny_recipe, tmp_path / "b", data_dir=tiny_data, device="cpu", devices=2, progress=stop)
    assert not (tmp_path / "b").exists()
    told: list[object] = []
    train(tiny_recipe, tmp_path / "b", data_dir=tiny_data, device="cpu", watch=told.append)
    restored = [at.stage for at in told if isinstance(at, EpochDone) and at.restored]
    assert restored[:2] == ["teacher", "teacher"]
    with pytest.raises(DataError):  # raised in the processes, and it is that very error here
        train(tiny_recipe, tmp_path / "c", data_dir=tmp_path / "nowhere", device="cpu", devices=2)


CHILD = """
import sys
from pathlib import Path
import torch
from labctl.learning import checkpoint
from labctl.learning.train import train

recipe, out, data, stage, epoch, where = sys.argv[1:]
torch.set_num_threads(1)
armed = False

def wait():
    print("here", flush=True)
    sys.stdin.readline()  # until killed

def progress(at):
    global armed
    if (at.stage, at.epoch) == (stage, int(epoch)):
        armed = True
        if where == "between":
            wait()

save = checkpoint.save_file
def half_written(tensors, path, metadata=None):
    save(tensors, path, metadata=metadata)
    if armed:
        Path(path).write_bytes(Path(path).read_bytes()[:100])
        wait()
checkpoint.save_file = half_written
train(Path(recipe), Path(out), data_dir=Path(data), progress=progress, arms=True, device="cpu")
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_process_goes_on_to_the_same_weights(tmp_path: Path, tiny_recipe: Path, tiny_data: Path) -> None:
    """Killed between batches of the teacher, within a variant's arm, and while a checkpoint was half on disk."""
    text = tiny_recipe.read_text(encoding="utf-8").replace("seeds = [0, 1]", "seeds = [0]")
    text += '[[student.variants]]\nname = "relu"\nafter_detection = "relu"\narms = ["random", "undistilled"]\n'
    tiny_recipe.write_text(text, encoding="utf-8")
    train(tiny_recipe, tmp_path / "whole", data_dir=tiny_data, arms=True, device="cpu")
    out = tmp_path / "killed"
    kills = (("teacher", 1, "between"), ("distilled seed 0", 1, "writing"), ("relu/random seed 0", 2, "between"))
    for stage, epoch, where in kills:
        command = [sys.executable, "-c", CHILD, str(tiny_recipe), str(out), str(tiny_data), stage, str(epoch), where]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, encoding="utf-8") as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            process.kill()
            assert line == "here\n", f"it did not come to {stage}"
        assert not out.exists()
    resumed = train(tiny_recipe, out, data_dir=tiny_data, arms=True, device="cpu")
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(weights(out)[name], value), name
    scores = json.loads((out / "metrics.json").read_text(encoding="utf-8"))["arms"]
    whole = json.loads((tmp_path / "whole" / "metrics.json").read_text(encoding="utf-8"))["arms"]
    for arm in resumed.metrics.arms:
        assert scores[arm]["runs"][0]["curve"] == whole[arm]["runs"][0]["curve"], arm


def test_devices_are_found_or_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("auto") == torch.device("cuda:0") and find_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ConfigError, match=r"'cuda:2': torch sees 2 GPU"):
        find_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"'cuda': torch .* sees no CUDA GPU here; say --device cpu"):
        find_device("cuda")
    for name in ("gpu", "cuda:x", "cpu:1"):
        with pytest.raises(ConfigError, match="say auto, cpu, cuda, cuda:1"):
            find_device(name)
