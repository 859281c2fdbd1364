"""Capturing many images on a bench that changes meanwhile: deployed again after a recalibration, none shown twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from labctl.bench.facts import BenchFacts
from labctl.bench.records import CalibrationRecord
from labctl.learning.backend import Backend
from labctl.learning.data import ImageSet
from labctl.procedures.calibrations import Calibrate
from labctl.procedures.calibrations.check import Check
from labctl.procedures.calibrations.graph import dependants, registry
from labctl.procedures.deployment import show_image
from labctl.procedures.evaluate import FOR_EXPOSURE, Captures, Deployed, Task, capture
from labctl.procedures.messages import Exposure, Log, Set, Steps
from labctl.procedures.watch import Drift, Drifted, Gathered, Watch, Watcher, watched


@dataclass(frozen=True, eq=False)
class WatchedCaptures:
    """Captures, and what happened on the way.

    Attributes
    ----------
    captures : Captures
    deployed : Deployed
        The last one.
    drift : tuple of Drift
        What each check exposure found.
    records : tuple of CalibrationRecord
        What was calibrated on the way.
    """

    captures: Captures
    deployed: Deployed
    drift: tuple[Drift, ...]
    records: tuple[CalibrationRecord, ...]


def capture_watched(
    task: Task,
    facts: BenchFacts,
    images: ImageSet,
    deploy_on: Callable[[BenchFacts], Steps[Deployed]],
    watch: Watch,
    *,
    label: str,
    backend: Backend | None = None,
) -> Steps[WatchedCaptures]:
    """Deploy and capture, under a watch.

    Parameters
    ----------
    deploy_on : callable
        Deploys the model on a bench with these facts.

    Raises
    ------
    Drifted
        If the bench has no calibrations, so that none can be taken anew.
    """
    gathered, drift, records = Gathered(), list[Drift](), dict[str, CalibrationRecord]()
    while True:
        deployed = yield from deploy_on(facts)
        watcher = Watcher(watch, check_exposure(task, facts, deployed), facts)
        count = gathered.count
        rest = replace(images, images=images.images[count:], labels=images.labels[count:]) if count else images
        steps = capture(task, facts, deployed, rest, label=label, backend=backend, onto=gathered)
        try:
            captures = yield from watched(steps, watcher)
            return WatchedCaptures(captures, deployed, (*drift, *watcher.found), tuple(records.values()))
        except Drifted as drifted:
            if not facts.calibrations:
                raise
            yield Log(f"{drifted}; after {gathered.count} images", "warning")
            found = yield from recalibrated(facts)
            records |= found
            facts = replace(facts, calibrations={**facts.calibrations, **found})
            drift += watcher.found


def check_exposure(task: Task, facts: BenchFacts, deployed: Deployed) -> Exposure:
    """What a watch exposes: the first pattern with the brightest image of those that set the exposure time."""
    part = deployed.parts[0]
    images = task.train.images[:FOR_EXPOSURE, part.deployment.channel]
    brightest = images[int(images.square().sum((1, 2)).argmax())]
    return Exposure(part.deployment.pattern, show_image(brightest, facts, part.deployment), part.exposure_s)


def recalibrated(facts: BenchFacts) -> Steps[dict[str, CalibrationRecord]]:
    """Measure again what a check says no longer holds, or where it finds nothing what moves: records by kind.

    A twin that was made from one of these is fitted again, because masks are made through it.
    """
    yield Set("camera", "window", None)
    checked = yield from Check().steps(facts)
    kinds = tuple(kind for kind in checked.redo if kind != "reference") or ("registration", "fourier-centre")
    if "twin" in facts.calibrations and "twin" in dependants(kinds, registry()):
        kinds = (*kinds, "twin")
    calibration = yield from Calibrate(only=kinds, strict=True).steps(facts)
    return {record.kind: record for record in calibration.records}
