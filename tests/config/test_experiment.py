"""Experiment files: what they multiply to, and one clear line for whatever is wrong with one."""

# ruff: noqa: E501 - a table of messages, one a line, reads best unwrapped

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.config.experiment import load_experiment, parse_experiment
from labctl.errors import ConfigError
from labctl.workspace import Workspace

GOOD = """
[experiment]
name = "night"
bench = "sim-4f"
tags = ["cold"]

[[step]]
procedure = "calibrate"

[[step]]
name = "ceilings"
procedure = "evaluate"
parameters = { images = 100 }
seeds = [0, 1]
repeats = 2
tags = ["figure-3"]
on_failure = "continue"

[step.sweep]
encoder = ["double-phase", "off-axis"]
ceiling = [0.6, 1.0]
"""


def test_steps_multiply_to_runs_in_order() -> None:
    runs = parse_experiment(GOOD).runs()
    assert len(runs) == 1 + 2 * 2 * 2 * 2
    assert [run.number for run in runs] == list(range(1, 18))
    first, second = runs[0], runs[1]
    assert (first.procedure, first.parameters, first.on_failure) == ("calibrate", {}, "stop")
    assert first.tags == ("cold", "experiment:night", "step:calibrate")
    assert second.parameters == {"images": 100, "encoder": "double-phase", "ceiling": 0.6, "seed": 0}
    assert second.sweep == {"encoder": "double-phase", "ceiling": 0.6, "seed": 0}
    assert second.on_failure == "continue"
    assert {"cold", "figure-3", "step:ceilings", "encoder=double-phase", "ceiling=0.6", "seed=0"} <= set(second.tags)
    assert [run.repeat for run in runs[1:5]] == [1, 2, 1, 2]
    assert [run.sweep["seed"] for run in runs[1:5]] == [0, 0, 1, 1]
    assert [run.sweep["encoder"] for run in runs[1::8]] == ["double-phase", "off-axis"]
    assert str(second) == "ceilings (encoder = double-phase, ceiling = 0.6, seed = 0), repeat 1"


HEAD = '[experiment]\nname = "night"\nbench = "sim-4f"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[experiment]\nname = "n"\n', "f.toml, line 1: experiment.bench is missing: add bench = ... to [experiment]"),
        (HEAD + "[[steps]]\nprocedure = 'dark'\n", "f.toml: steps is not a key of an experiment file: did you mean step?"),
        (HEAD, "f.toml: there is nothing to do: add a step, [[step]] with procedure = ..."),
        (HEAD + "[[step]]\nprocedur = 'dark'\n", "line 5: step.0.procedur is not a key of an experiment file: did you mean procedure?"),
        (HEAD + 'on_failure = "go on"\n[[step]]\nprocedure = "dark"\n', 'line 4: experiment.on_failure = \'go on\': must be "stop" or "continue"'),
        (HEAD + "[[step]]\nprocedure = 'dark'\nrepeats = 0\n", "line 6: step.0.repeats = 0: must be greater than or equal to 1"),
        (HEAD + "[[step]]\nprocedure = 'dark'\n[step.sweep]\nframes = []\n", "frames has no values: list at least one, frames = [...]"),
        (HEAD + "[[step]]\nprocedure = 'dark'\n[step.sweep]\nframes = 3\n", "step.0.sweep.frames = 3: must be a list, [...]"),
        (HEAD + "[[step]]\nprocedure = 'dark'\nparameters = { frames = 3 }\n[step.sweep]\nframes = [4]\n", "frames stands in parameters and in sweep: leave one of them out"),
        (HEAD + "[[step]]\nprocedure = 'evaluate'\nseeds = [1]\nparameters = { seed = 3 }\n", "seed stands among the parameters and there are seeds"),
        (HEAD + "tags = ['two words']\n[[step]]\nprocedure = 'dark'\n", "experiment.tags.0 = 'two words'"),
        (HEAD + "[[step]]\nprocedure = 'dark'\nrepeats = 20000\n", "the sweeps multiply to 10,001 runs, more than 10,000"),
        (HEAD + "[[step]\n", "f.toml, line 4"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_says_what_to_write(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_experiment(text, "f.toml")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_experiments_are_found_by_name_or_path(workspace: Workspace) -> None:
    by_name = load_experiment("encoders", workspace)
    assert by_name.path is not None
    assert load_experiment(by_name.path).experiment.name == "encoders"
    with pytest.raises(ConfigError, match=r"there is no experiment 'encoder' in .*: did you mean encoders"):
        load_experiment("encoder", workspace)
    with pytest.raises(ConfigError, match="there is no experiment file"):
        load_experiment(Path("nowhere.toml"), workspace)


def test_the_shipped_experiments_are_sound(workspace: Workspace) -> None:
    names = sorted(path.stem for path in (workspace.configs / "experiments").glob("*.toml"))
    assert names == ["encoders", "repeatability"]
    for name in names:
        assert load_experiment(name, workspace).experiment.name == name
    assert len(load_experiment("encoders", workspace).runs()) == 7
    assert len(load_experiment("repeatability", workspace).runs()) == 12
