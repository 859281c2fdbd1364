"""A proof of pairing for the runs of an engine: learnt in a run of its own, just before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labctl.bench.proof import DotProof
from labctl.errors import ConfigError
from labctl.procedures.evaluate import Evaluate, uncalibrated
from labctl.procedures.messages import Procedure
from labctl.procedures.patterns import compile_model
from labctl.procedures.proof import LearnProof, marks_for, probes_for
from labctl.runs.engine import Engine

PROBES = 4
"""Training images that are shown while it is learnt, besides white."""


def prove(engine: Engine, procedure: Procedure[Any], *, provenance: Mapping[str, Any] | None = None) -> DotProof:
    """Learn a proof of pairing for what a procedure is going to show, and have the engine ask it of every frame.

    Parameters
    ----------
    engine : Engine
    procedure : Procedure
        So far an `Evaluate`: for others, run a `LearnProof` with marks of your own.
    provenance : mapping, optional
        The procedure's; goes into the learning run's record too, but for the recipe, which would make the procedure.

    Raises
    ------
    ConfigError
        If the procedure is none that marks are known for, or its model takes several patterns.
    ModelError
        If there is no room for the marks.
    CalibrationError
        If the dots cannot be seen, or not be told from other light.
    """
    if not isinstance(procedure, Evaluate):
        raise ConfigError(f"a proof of pairing is offered for 'evaluate' so far, not for '{procedure.name}'")
    bench, task = engine.bench, procedure.task
    facts = bench.facts if procedure.calibrated else uncalibrated(bench.facts)
    patterns = compile_model(
        task.kernels, facts, image=task.image, detection=task.detection, encoder=procedure.encoder,
        calibrated=procedure.calibrated, corrected=procedure.corrected,
    )  # fmt: skip
    if len(patterns) > 1:
        raise ConfigError(
            f"model '{task.model}' takes {len(patterns)} patterns: a proof of pairing is offered for models of one "
            "so far"
        )
    (deployment,) = patterns
    marks = marks_for(deployment, facts)
    learn = LearnProof(marks, deployment.pattern, probes_for(deployment, facts, task.train.images[:PROBES, 0].numpy()))
    engine.proof = None
    known = {key: value for key, value in (provenance or {}).items() if key != "recipe"}
    engine.proof = DotProof(marks, engine.run(learn, provenance=known))
    return engine.proof
