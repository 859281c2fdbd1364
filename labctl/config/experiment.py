"""What an experiment file may say: a bench, procedures in order, what is swept, and what to do when one fails."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator

from labctl.config.load import as_config_error, parse_toml, read_text
from labctl.config.problems import Problem, describe, one_line
from labctl.config.schema import Section
from labctl.errors import ConfigError
from labctl.workspace import Workspace, find

MOST_RUNS = 10_000
OnFailure = Literal["stop", "continue"]
Tag = Annotated[str, Field(pattern=r"^[^\s,]{1,80}$")]
Tags = Annotated[tuple[Tag, ...], Field(strict=False)]


class AboutSection(Section):
    """The experiment as a whole."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    bench: Annotated[str, Field(min_length=1)]
    description: str = ""
    tags: Tags = ()
    on_failure: OnFailure = "stop"


class StepSection(Section):
    """One procedure, run once for each combination of what is swept."""

    procedure: Annotated[str, Field(min_length=1)]
    name: str = ""
    parameters: dict[str, Any] = {}
    sweep: dict[str, Annotated[tuple[Any, ...], Field(strict=False)]] = {}
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False)] = ()
    repeats: Annotated[int, Field(ge=1)] = 1
    tags: Tags = ()
    on_failure: OnFailure | None = None

    @field_validator("sweep")
    @classmethod
    def _sweeps_have_values(cls, sweep: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        for name, values in sweep.items():
            if not values:
                raise ValueError(f"{name} has no values: list at least one, {name} = [...]")
        return sweep

    @model_validator(mode="after")
    def _each_parameter_stands_once(self) -> Self:
        for name in self.sweep:
            if name in self.parameters:
                raise ValueError(f"{name} stands in parameters and in sweep: leave one of them out")
        if self.seeds and ("seed" in self.parameters or "seed" in self.sweep):
            raise ValueError("seed stands among the parameters and there are seeds: leave one of them out")
        return self

    @property
    def label(self) -> str:
        """What lists call it."""
        return self.name or self.procedure


@dataclass(frozen=True)
class PlannedRun:
    """One run of an experiment.

    Attributes
    ----------
    number : int
        From 1, in the order in which they are made.
    step : int
        Index of its step.
    label, procedure : str
    parameters : dict
        All that the file says.
    sweep : dict
        The part of them that distinguishes it from the step's other runs.
    repeat : int
        From 1.
    repeats : int
    tags : tuple of str
    on_failure : {"stop", "continue"}
    """

    number: int
    step: int
    label: str
    procedure: str
    parameters: dict[str, Any]
    sweep: dict[str, Any]
    repeat: int
    repeats: int
    tags: tuple[str, ...]
    on_failure: OnFailure

    def __str__(self) -> str:
        swept = ", ".join(f"{name} = {value}" for name, value in self.sweep.items())
        again = f"repeat {self.repeat}" if self.repeats > 1 else ""
        return f"{self.label}{f' ({swept})' if swept else ''}{f', {again}' if again else ''}"


class ExperimentConfig(Section):
    """One experiment file.

    Raises
    ------
    pydantic.ValidationError
        When a key is unknown or a value is not allowed; `load_experiment` turns it into one clear line.
    """

    experiment: AboutSection
    step: Annotated[tuple[StepSection, ...], Field(strict=False)]

    _path: Path | None = PrivateAttr(default=None)
    _text: str = PrivateAttr(default="")

    @model_validator(mode="after")
    def _has_a_sane_number_of_runs(self) -> Self:
        if not self.step:
            raise ValueError("there is nothing to do: add a step, [[step]] with procedure = ...")
        if (count := len(self.runs())) > MOST_RUNS:
            raise ValueError(f"the sweeps multiply to {count:,} runs, more than {MOST_RUNS:,}: sweep less at a time")
        return self

    @property
    def path(self) -> Path | None:
        """The file it was read from."""
        return self._path

    def runs(self) -> list[PlannedRun]:
        """Every run, in order: the last sweep of a step varies fastest, then seeds, then repeats."""
        planned: list[PlannedRun] = []
        for index, step in enumerate(self.step):
            swept: dict[str, tuple[Any, ...]] = dict(step.sweep)
            if step.seeds:
                swept["seed"] = step.seeds
            for values in itertools.product(*swept.values()):
                here = dict(zip(swept, values, strict=True))
                for repeat in range(1, step.repeats + 1):
                    planned.append(self._planned(len(planned) + 1, index, step, here, repeat))
                    if len(planned) > MOST_RUNS:
                        return planned
        return planned

    def fault(self, step: int, text: str) -> ConfigError:
        """What is wrong with a step, with file and line."""
        key = ("step", str(step))
        return as_config_error([Problem(key, f"step {step + 1}: {text}")], self._text, str(self._path or "experiment"))

    def _planned(self, number: int, index: int, step: StepSection, here: dict[str, Any], repeat: int) -> PlannedRun:
        tags = [*self.experiment.tags, *step.tags, f"experiment:{self.experiment.name}", f"step:{step.label}"]
        tags += [f"{name}={value}" for name, value in here.items()]
        return PlannedRun(
            number=number, step=index, label=step.label, procedure=step.procedure, parameters=step.parameters | here,
            sweep=here, repeat=repeat, repeats=step.repeats, tags=tuple(dict.fromkeys(map(_word, tags))),
            on_failure=step.on_failure or self.experiment.on_failure,
        )  # fmt: skip


def load_experiment(path_or_name: str | Path, workspace: Workspace | None = None) -> ExperimentConfig:
    """Read and check one experiment file; its procedures' parameters are checked where they are prepared.

    Parameters
    ----------
    path_or_name : str or Path
        An experiment of the workspace by name, or the path of a file.

    Raises
    ------
    ConfigError
        If there is no such file, or anything in it is wrong: one line with the file, the line where it is known, the
        key, what is wrong, and what to do about it.
    """
    path = experiment_path(path_or_name, workspace)
    text = read_text(path)
    config = parse_experiment(text, str(path))
    config._path, config._text = path.absolute(), text
    return config


def parse_experiment(text: str, source: str = "experiment file") -> ExperimentConfig:
    """Check the text of an experiment file; `source` names it in messages.

    Raises
    ------
    ConfigError
        As `load_experiment`.
    """
    content = parse_toml(text, source)
    content.setdefault("step", [])
    try:
        return ExperimentConfig.model_validate(content)
    except ValidationError as error:
        raise as_config_error(describe(error, ExperimentConfig, "an experiment file"), text, source) from error


def experiment_path(path_or_name: str | Path, workspace: Workspace | None = None) -> Path:
    """The file of an experiment that is given by name or path.

    Raises
    ------
    ConfigError
        If there is none; the message lists those that there are.
    """
    given = str(path_or_name)
    if isinstance(path_or_name, Path) or given.endswith(".toml") or "/" in given or "\\" in given:
        path = Path(given).expanduser()
        if path.is_file():
            return path
        raise ConfigError(one_line(f"there is no experiment file {path}"))
    folder = (workspace or find()).configs / "experiments"
    path = folder / f"{given}.toml"
    if path.is_file():
        return path
    names = sorted(known.stem for known in folder.glob("*.toml"))
    near = difflib.get_close_matches(given, names, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names) or 'none'}"
    raise ConfigError(one_line(f"there is no experiment '{given}' in {folder}: {hint}"))


def as_written(parameters: Mapping[str, Any]) -> str:
    """Parameters as a file would say them, for messages."""
    return ", ".join(f"{name} = {value!r}" for name, value in parameters.items())


def _word(tag: str) -> str:
    """A tag that is one word."""
    return re.sub(r"[\s,]+", "-", tag)[:80]
