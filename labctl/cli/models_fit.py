"""Which bundles fit which benches: said by `labctl models show --bench` and by `labctl bench check`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labctl.bench.facts import BenchFacts
    from labctl.learning.bundle import Bundle
    from labctl.workspace import Workspace


def facts_of_bench(name: str, *, yes: bool = False) -> BenchFacts:
    """What is known of a bench: of real devices from its last run, else from opening it; nothing is shown or lit."""
    from labctl.cli.session import opened_as
    from labctl.config import load_bench
    from labctl.runs.dry import known_facts
    from labctl.workspace import find

    workspace = find()
    config = load_bench(name, workspace)
    known = known_facts(config, workspace.runs) if config.real else None
    if known is not None:
        return known
    with opened_as(config, workspace, yes=yes) as bench:
        return bench.facts


def fit_of(bundle: Bundle, facts: BenchFacts) -> dict[str, Any]:
    """Whether a bundle fits a bench, what it takes there, and what keeps it from it or costs accuracy."""
    from labctl.learning.fits import requirements, tiles_per_frame
    from labctl.procedures.patterns import misfits

    needs, found = requirements(bundle), misfits(bundle, facts)
    held = tiles_per_frame(needs, facts.geometry)
    return {
        "model": bundle.name,
        "bench": facts.name,
        "fits": not any(misfit.prevents for misfit in found),
        "misfits": [misfit.text for misfit in found if misfit.prevents],
        "costs": [misfit.text for misfit in found if not misfit.prevents],
        "tiles_per_frame": held,
        "captures_per_image": needs.captures(held),
        "needs": needs.lines(),
    }


def fit_lines(fit: dict[str, Any]) -> list[str]:
    """For people, a line each."""
    if not fit["fits"]:
        return [f"does not fit bench '{fit['bench']}': {text}" for text in fit["misfits"]]
    captures = fit["captures_per_image"]
    line = (
        f"fits bench '{fit['bench']}': {captures} capture{'s' if captures > 1 else ''} per image, "
        f"a frame holds {fit['tiles_per_frame']} of its tiles"
    )
    return [line, *(f"but {text}" for text in fit["costs"])]


def fits_of_models(facts: BenchFacts, workspace: Workspace) -> list[dict[str, Any]]:
    """`fit_of` for every sound bundle of the workspace."""
    from labctl.errors import ModelError
    from labctl.learning.bundle import list_bundles, load_bundle

    fits = []
    for path in list_bundles(workspace.models):
        try:
            fits.append(fit_of(load_bundle(path), facts))
        except ModelError:
            continue  # `labctl models list` says what is wrong with it
    return fits
