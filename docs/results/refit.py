"""Make the tables of docs/results/refit.md from a Fashion-MNIST bundle.

python docs/results/refit.py [BUNDLE]        default: models/fashion-mnist-sclc
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from labctl.learning.accounting import count_macs
from labctl.learning.backend import Backend
from labctl.learning.bundle import Bundle, load_bundle
from labctl.learning.data import load
from labctl.learning.refit import refit_backend, restandardised
from labctl.learning.scoring import count_correct, logits_of
from labctl.learning.student import Student

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def distorted(features: torch.Tensor, seed: int) -> torch.Tensor:
    """A crude bench: gains 0.6 to 1.4 and offsets of 0.3 rms per map, a 3x3 blur and 5 % noise."""
    generator = torch.Generator().manual_seed(seed)
    rms = features.square().mean().sqrt()
    gain = 0.6 + 0.8 * torch.rand(1, features.shape[1], 1, 1, generator=generator)
    offset = 0.3 * rms * torch.randn(1, features.shape[1], 1, 1, generator=generator)
    blurred = torch.nn.functional.avg_pool2d(features, 3, 1, padding=1)
    return gain * blurred + offset + 0.05 * rms * torch.randn(features.shape, generator=generator)


@torch.no_grad()
def _features(bundle: Bundle, images: torch.Tensor) -> torch.Tensor:
    return torch.cat([bundle.student.features(part) for part in torch.split(images, 500)])


def refit_rows(bundle: Bundle) -> list[str]:
    """Accuracy on 10,000 test images as delivered, re-estimated, and refitted on 500 or 100."""
    test = load("fashion-mnist", "test")
    delivered, backend = _features(bundle, test.images), bundle.student.backend

    def share(candidate: Backend, features: torch.Tensor) -> float:
        return 100 * count_correct(candidate, features, test.labels) / len(test)

    rows = []
    for name, bench in (("perfect", lambda x, _: x), ("distorted", distorted)):
        for count in (500, 100):
            columns: list[list[float]] = []
            for seed in (1, 2, 3):
                some = load("fashion-mnist", "train", source="shipped", limit=count, seed=seed)
                captured, shown = bench(_features(bundle, some.images), seed), bench(delivered, seed)
                refitted = refit_backend(
                    backend, captured, some.labels, logits_of(bundle.teacher, some.images), seed=seed
                )
                candidates = (backend, restandardised(backend, captured), refitted)
                columns.append([share(candidate, shown) for candidate in candidates])
            cells = " | ".join(
                f"{sum(values) / len(values):.1f} ({min(values):.1f} to {max(values):.1f})"
                for values in zip(*columns, strict=True)
            )
            rows.append(f"| {name} | {count} | {cells} |")
    return rows


def pool_rows(bundle: Bundle) -> list[str]:
    """Digital work of the shipped back end, and of one that pools more."""
    rows = []
    for pool in (2, 4):
        torch.manual_seed(0)
        student = Student(bundle.student.front, Backend(pool=pool, hidden=bundle.recipe.student.backend.hidden))
        macs = count_macs(student, bundle.teacher)
        rows.append(f"| {pool} | {macs.electronic:,} | {macs.collapsed:,} |")
    return rows


def main() -> None:
    bundle = load_bundle(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "models" / "fashion-mnist-sclc")
    lines = [
        "# Refitting the back end, and what optics must undercut",
        "",
        f"Made by `python docs/results/refit.py` from the bundle `{bundle.name}`, in simulation, without a bench.",
        "",
        "## Refitting the back end",
        "Test accuracy in % on features as a crude bench would deliver them: per map a gain of 0.6 to 1.4, an offset",
        "of 0.3 rms, a 3x3 blur, 5 % noise. Mean (lowest to highest) of three draws of the bench and of the captures,",
        "which come from the shipped training images.",
        "",
        "| features | captures | trained back end | new batch-norm statistics | refitted |",
        "|---|---|---|---|---|",
        *refit_rows(bundle),
        "",
        "## Does optics save digital work?",
        "A student that is linear up to its first fully connected layer folds into one matrix (`collapsed` in",
        "`labctl.learning.accounting`), so that is what the electronics left after the camera must undercut.",
        "",
        "| average pool | MACs left in electronics | folded, all digital |",
        "|---|---|---|",
        *pool_rows(bundle),
        "",
        "With a pool of 2 optics saves nothing against the folded network; a pool of 4 nearly halves the digital work.",
        "",
    ]
    (HERE / "refit.md").write_text("\n".join(lines), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
