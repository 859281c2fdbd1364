"""The procedures that can be prepared by name: the command line, the window, experiment files and a second pass over a
recorded run all choose from these. An installed package adds its own under the entry point group ``labctl.procedures``.
"""

from __future__ import annotations

import datetime as dt
import difflib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from labctl.config.problems import describe, one_line
from labctl.errors import ConfigError, ModelError, RunError

if TYPE_CHECKING:
    from labctl.config.schema import BenchConfig
    from labctl.procedures.messages import Procedure
    from labctl.runs.recorded import RecordedRun
    from labctl.workspace import Workspace

log = logging.getLogger(__name__)
GROUP = "labctl.procedures"
EncoderName = Literal["double-phase", "off-axis", "phase-only"]
WatchPolicy = Literal["off", "log", "correct", "recalibrate"]
Positive = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Prepared:
    """A procedure ready to run, and what its run's record says of where it came from.

    Attributes
    ----------
    procedure : Procedure
    provenance : dict
        ``config`` (the full bench file), ``models`` and ``data`` (name to hash), ``seeds``, and ``recipe``: the name
        and all parameters, from which `prepare_again` makes the same once more. JSON values only.
    """

    procedure: Procedure[Any]
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Offer:
    """A procedure that can be prepared by name.

    Attributes
    ----------
    name, summary : str
    parameters : type
        A pydantic model, strict, with unknown keys forbidden; its fields carry descriptions.
    build : callable
        ``(parameters, workspace, config) -> Prepared``; imports what is slow. `prepare` adds ``config`` and ``recipe``
        to the provenance.
    """

    name: str
    summary: str
    parameters: type[BaseModel]
    build: Callable[[Any, Workspace, BenchConfig], Prepared]


class Parameters(BaseModel):
    """Parameters of a procedure: strict about keys and types, frozen once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class AlignParameters(Parameters):
    only: Annotated[
        list[Literal["light", "slm", "focus", "input", "camera", "beam"]], Field(description="Steps to do; none: all.")
    ] = []


class DarkParameters(Parameters):
    frames: Annotated[int, Field(ge=2, description="Frames at each of two exposure times.")] = 6
    ratio: Annotated[float, Field(gt=1, description="Longer over shorter exposure time.")] = 20.0


class GainParameters(Parameters):
    levels: Annotated[int, Field(ge=2, description="Exposure times, two frames at each.")] = 8
    side_px: Annotated[int, Field(ge=1, description="Side of the white square, panel pixels.")] = 56


class RegistrationParameters(Parameters):
    span_px: Annotated[int, Field(ge=8, description="Side of the lit square that is used, panel pixels.")] = 80
    dots: Annotated[int, Field(ge=3, description="Dots per side of the grid.")] = 7
    dot_px: Annotated[int, Field(ge=0, description="Side of a dot, panel pixels; 0 chooses it.")] = 0
    carrier: Annotated[float, Field(gt=0, lt=0.5, description="Largest carrier, cycles per SLM pixel.")] = 0.16
    limit_px: Annotated[float, Field(gt=0, description="Largest residual accepted, camera pixels rms.")] = 0.5


class FourierCentreParameters(Parameters):
    search_px: Annotated[int, Field(ge=1, description="Half the range that is searched, SLM pixels.")] = 60
    side_px: Annotated[int, Field(ge=1, description="Side of the white square, panel pixels.")] = 56
    points: Annotated[int, Field(ge=3, description="Knife edges in each of four scans.")] = 9


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


class CalibrateParameters(Parameters):
    only: Annotated[tuple[str, ...], Field(strict=False, description="These kinds, and what they need.")] = ()
    everything: Annotated[bool, Field(description="All of them, whatever the records are.")] = False
    as_of: str = Field(default_factory=_now, description="Time to which the age of records is counted.")


class NoParameters(Parameters):
    """As it is: none."""


class ModelParameters(Parameters):
    """What every procedure that shows a model on a bench has in common."""

    model: Annotated[str, Field(min_length=1, description="Model bundle, by name.")] = "fashion-mnist-sclc"
    images: Annotated[Positive, Field(description="Test images to capture.")] = 1000
    train: Annotated[int, Field(ge=4, description="Training images, for exposure and gain.")] = 40
    seed: Annotated[int, Field(ge=0, description="Which images are drawn, and how the back end is refitted.")] = 0
    encoder: Annotated[EncoderName, Field(description="How complex masks become phase.")] = "double-phase"
    ceiling: Annotated[float, Field(ge=0.05, le=1, description="Modulus shown as full depth, of the largest.")] = 0.8


class EvaluateParameters(ModelParameters):
    calibrated: Annotated[bool, Field(description="Use the bench's calibrations, or trust the bench file.")] = True
    corrected: Annotated[
        bool | None, Field(description="Make the masks through the bench's twin; absent: where it has one.")
    ] = None
    watch: Annotated[WatchPolicy, Field(description="What is done about a bench that changes meanwhile.")] = "off"
    watch_every: Annotated[Positive, Field(description="Frames between two check exposures.")] = 100


class DemoParameters(ModelParameters):
    images: Annotated[Positive, Field(description="Test images to capture, twice.")] = 500
    train: Annotated[int, Field(ge=4, description="Training images, for exposure, gain and refitting.")] = 500


def offered() -> dict[str, Offer]:
    """Every procedure that can be prepared, by name: labctl's own first, then those of installed packages.

    A package whose entry point cannot be imported, or gives no `Offer`, is left out with a warning.
    """
    found = {offer.name: offer for offer in BUILT_IN}
    found |= _calibrations(found)
    for point in entry_points(group=GROUP):
        try:
            offer = _load(point)
        except ConfigError as error:
            log.warning("%s", error)
            continue
        if offer.name in found:
            log.warning("the procedure '%s' of %s is left out: there is one of this name", offer.name, point.value)
            continue
        found[offer.name] = offer
    return found


def prepare(name: str, parameters: Mapping[str, Any], workspace: Workspace, config: BenchConfig) -> Prepared:
    """Check a procedure's parameters, load what it needs, and note where all of it came from.

    Parameters
    ----------
    name : str
        One of `offered`.
    parameters : mapping
        Those that differ from their defaults.
    workspace : Workspace
        Where models are.
    config : BenchConfig
        The bench that it will run on.

    Raises
    ------
    ConfigError
        If there is no such procedure or parameter, or a value is out of range: one line that says what there is.
    ModelError, DataError
        If the model or its images are not there.
    """
    offer = find(name)
    checked = check(offer, parameters)
    made = offer.build(checked, workspace, config)
    recipe = {"procedure": offer.name, "parameters": checked.model_dump(mode="json")}
    seeds = {"world": config.simulation.seed if config.simulation else None}
    known = {"config": config.model_dump(mode="json"), "models": {}, "data": {}, **made.provenance, "recipe": recipe}
    return replace(made, provenance=known | {"seeds": seeds | dict(known.get("seeds", {}))})


def find(name: str) -> Offer:
    """The procedure of this name.

    Raises
    ------
    ConfigError
        If there is none; the nearest name is suggested.
    """
    for offer in BUILT_IN:  # no need to import what installed packages offer
        if offer.name == name:
            return offer
    there = offered()
    if name in there:
        return there[name]
    for point in entry_points(group=GROUP, name=name):
        _load(point)
    near = difflib.get_close_matches(name, there, 1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(there)}"
    raise ConfigError(one_line(f"no procedure is called '{name}': {hint}"))


def check(offer: Offer, parameters: Mapping[str, Any]) -> BaseModel:
    """The parameters of a procedure, complete with their defaults.

    Raises
    ------
    ConfigError
        The first thing that is wrong with them, in one line.
    """
    try:
        return offer.parameters.model_validate(dict(parameters))
    except ValidationError as error:
        problems = describe(error, offer.parameters, f"the procedure '{offer.name}'")
        text = problems[0].text.replace(" to [the file]", "")
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        text = text if f"'{offer.name}'" in text else f"{offer.name}: {text}"
        raise ConfigError(one_line(text + more)) from error


def prepare_again(
    recorded: RecordedRun,
    workspace: Workspace,
    config: BenchConfig,
    /,
    *,
    allow_changed: bool = False,
    **changes: Any,
) -> Prepared:
    """The procedure of a recorded run once more, from the recipe in its ``run.json``.

    Parameters
    ----------
    recorded : RecordedRun
    config : BenchConfig
        The bench that it will run on, or that it ran on.
    allow_changed : bool
        Go on, with a line in the log, where a model or its images are not what they were.
    **changes
        Parameters to change.

    Raises
    ------
    RunError
        If the run was recorded without a recipe.
    ConfigError
        If a change is not among the procedure's parameters, or out of range.
    ModelError
        If a model or its images have changed since.
    """
    provenance = recorded.intent.get("provenance", {})
    recipe = provenance.get("recipe")
    if not isinstance(recipe, Mapping) or "procedure" not in recipe:
        raise RunError(
            f"run {recorded.id} was recorded without a recipe, so its procedure cannot be made again: "
            "runs that labctl's commands, window or experiment files start have one"
        )
    made = prepare(recipe["procedure"], {**recipe.get("parameters", {}), **changes}, workspace, config)
    for kind, what in (("models", "model"), ("data", "images of")):
        if kind == "data" and changes:  # fewer images, or others, have another hash, and were asked for
            continue
        then = provenance.get(kind, {})
        for name, digest in made.provenance.get(kind, {}).items():
            if name not in then or then[name] == digest:
                continue
            text = f"the {what} '{name}' changed since run {recorded.id} ({then[name][:12]} then, {digest[:12]} now)"
            if not allow_changed:
                raise ModelError(f"{text}: put the old one back, or allow the change")
            log.warning("%s", text)
    return made


def _load(point: EntryPoint) -> Offer:
    try:
        offer = point.load()
    except Exception as error:  # whatever a foreign module does when it is imported
        raise ConfigError(
            one_line(f"the procedure '{point.name}' is registered but cannot be imported from {point.value}: {error}")
        ) from error
    if not isinstance(offer, Offer):
        raise ConfigError(
            f"the procedure '{point.name}' is registered as {point.value}, which is no labctl.runs.offers.Offer"
        )
    return offer


def _calibration(class_name: str, parameters: BaseModel, _workspace: Workspace, _config: BenchConfig) -> Prepared:
    from labctl.procedures import calibrations

    return Prepared(getattr(calibrations, class_name)(**parameters.model_dump()))


def _check(_parameters: BaseModel, _workspace: Workspace, _config: BenchConfig) -> Prepared:
    from labctl.procedures.calibrations.check import Check

    return Prepared(Check())


def _single(kind: str, _parameters: BaseModel, _workspace: Workspace, _config: BenchConfig) -> Prepared:
    from labctl.procedures.calibrations.graph import registry

    return Prepared(registry()[kind])


def _calibrations(known: Mapping[str, Offer]) -> dict[str, Offer]:
    """Every other calibration of `labctl.procedures.calibrations.graph`, with its defaults."""
    from labctl.procedures.calibrations.graph import registry

    return {
        kind: Offer(
            kind, (step.__doc__ or f"The calibration {kind}.").split("\n")[0], NoParameters, partial(_single, kind)
        )
        for kind, step in registry().items()
        if kind not in known
    }


def _align(parameters: AlignParameters, _workspace: Workspace, _config: BenchConfig) -> Prepared:
    from labctl.procedures.align import Align

    return Prepared(Align(tuple(parameters.only)))


def _evaluate(parameters: EvaluateParameters, workspace: Workspace, _config: BenchConfig) -> Prepared:
    from labctl.optics.encoders import EncoderSpec
    from labctl.procedures.evaluate import Evaluate
    from labctl.procedures.watch import Watch
    from labctl.runs.preparing import prepare_task, provenance

    p = parameters
    task = prepare_task(p.model, workspace.models, images=p.images, train=p.train, seed=p.seed)
    watch = Watch(p.watch, p.watch_every)
    procedure = Evaluate(task, p.calibrated, p.corrected, EncoderSpec(p.encoder, p.ceiling), watch)
    return Prepared(procedure, provenance(task, seed=p.seed))


def _demo(parameters: DemoParameters, workspace: Workspace, _config: BenchConfig) -> Prepared:
    from labctl.optics.encoders import EncoderSpec
    from labctl.procedures.demo import Demo
    from labctl.runs.preparing import prepare_task, provenance

    p = parameters
    task = prepare_task(p.model, workspace.models, images=p.images, train=p.train, seed=p.seed)
    return Prepared(Demo(task, EncoderSpec(p.encoder, p.ceiling), p.seed), provenance(task, seed=p.seed))


BUILT_IN = (
    Offer(
        "calibrate", "Measure the calibrations that are missing, stale or out of limits, in order.",
        CalibrateParameters, partial(_calibration, "Calibrate"),
    ),
    Offer("check", "Whether the bench still is what its records say.", NoParameters, _check),
    Offer(
        "evaluate", "Show a model on the bench as it is calibrated, and count its right answers.", EvaluateParameters,
        _evaluate,
    ),
    Offer("align", "Find the light, centre SLM and input, square and focus the camera.", AlignParameters, _align),
    Offer("demo", "Calibrate, deploy, capture test images, refit, and compare.", DemoParameters, _demo),
    Offer("dark", "What the camera reads without light.", DarkParameters, partial(_calibration, "Dark")),
    Offer(
        "registration", "Where each input pixel falls on the camera, and how far a carrier moves it.",
        RegistrationParameters, partial(_calibration, "Registration"),
    ),
    Offer("gain", "How many photo-electrons make a count.", GainParameters, partial(_calibration, "Gain")),
    Offer(
        "fourier-centre", "Where the zero spatial frequency falls on the SLM; needs a registration.",
        FourierCentreParameters, partial(_calibration, "FourierCentre"),
    ),
)  # fmt: skip
