"""A bank as fewer basis kernels: accuracy against tiles and captures. Makes docs/results/low_rank.md, .png, .json.

python docs/results/low_rank.py [BUNDLE ...]      default: fashion-mnist-sclc, and cifar10-sclc where it is there
python docs/results/low_rank.py --draw            only draw, from low_rank.json

What is measured of a bundle is kept in low_rank.json under the bundle's hash, and not measured again.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from labctl.errors import ModelError
from labctl.learning.bundle import Bundle, load_bundle
from labctl.learning.cost import optical_cost, plan_captures
from labctl.learning.data import ImageSet, load
from labctl.learning.figures import CPU, DMD
from labctl.learning.metrics import wilson
from labctl.learning.refit import refit_backend
from labctl.learning.scoring import logits_of
from labctl.learning.splits import resized
from labctl.optics.lowrank import LowRank, Split, Tiled, low_rank, patch_covariance

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUNDLES = ("fashion-mnist-sclc", "cifar10-sclc")
TEST, CAPTURES, PROBES, BATCH, EPOCHS = 1000, 500, 100, 100, 15
NOISE = (0.0, 0.0025, 0.005, 0.01, 0.02, 0.04)
"""Standard deviation of the noise on every tile's amplitude, as a part of the brightest amplitude that is read. Shot
noise of a full well of 10,000 electrons is 0.005: sqrt(n) has a standard deviation of 1/2, its full scale is 100."""
PER_FRAME = (8, 16, 32)
COLOURS = {"plain": "#777777", "images": "#0072b2", "refit": "#009e73", "pedestal": "#d55e00"}
Row = dict[str, Any]


def ranks(full: int) -> list[int]:
    """A dozen ranks up to the full one."""
    return sorted({r for r in (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 32, 48) if r < full} | {full})


class Study:
    """One bundle on its test images.

    Parameters
    ----------
    bundle : Bundle
        Of a student that is linear up to its maps.
    """

    def __init__(self, bundle: Bundle) -> None:
        if bundle.recipe.student.detection == "intensity":
            raise ModelError(f"{bundle.name} reads intensities: its maps are not linear in its kernels")
        name = bundle.recipe.data.name
        self.bundle, self.backend = bundle, bundle.student.backend
        self.bank = bundle.student.fused_kernels().detach()
        self.test = resized(load(name, "test", limit=TEST), bundle.recipe.data)
        self.train = resized(load(name, "train", limit=CAPTURES), bundle.recipe.data)
        size = (self.bank.shape[-2], self.bank.shape[-1])
        self.covariance = patch_covariance(self.train.images, size)
        self.full = min(self.bank.shape[0] * self.bank.shape[1], size[0] * size[1])

    def decompose(self, rank: int, *, weighed: bool = True) -> LowRank:
        """The best basis for the maps of the training images, or for the kernels."""
        return low_rank(self.bank, rank, covariance=self.covariance if weighed else None)

    def direct(self) -> Tiled:
        """The bank as it is deployed without this: each channel's kernels in pairs."""
        maps, channels = self.bank.shape[:2]
        eye = torch.eye(maps)
        mixing = torch.zeros(maps, channels, 2 * maps * channels)
        for channel in range(channels):
            own = slice(channel * 2 * maps, (channel + 1) * 2 * maps)
            mixing[:, channel, own] = torch.cat([eye, -eye], 1)
        pairs = [torch.cat([b.clamp(min=0), (-b).clamp(min=0)]) for b in self.bank.transpose(0, 1)]
        return Tiled(torch.cat(pairs), mixing)

    @torch.no_grad()
    def maps(self, tiled: Tiled, images: ImageSet, noise: float = 0.0) -> Tensor:
        """Maps of images, with noise on the amplitudes of the tiles that each channel is read from."""
        generator = torch.Generator().manual_seed(0)
        scale = tiled.scale()[:, None, None].clamp(min=1e-12)
        brightest = float((tiled.amplitudes(self.train.images[:PROBES]) / scale).max())
        found = []
        for part in torch.split(images.images, BATCH):
            read = tiled.amplitudes(part)
            if noise:
                read = read + noise * brightest * scale * torch.randn(read.shape, generator=generator)
            found.append(tiled.maps(read))
        return torch.cat(found)

    def correct(self, tiled: Tiled, noise: float = 0.0, *, refit: bool = False) -> int:
        """Right answers on the test images."""
        backend = self.backend
        if refit:
            teacher = logits_of(self.bundle.teacher, self.train.images)
            seen = self.maps(tiled, self.train, noise)
            backend = refit_backend(backend, seen, self.train.labels, teacher, epochs=EPOCHS)
        answers = logits_of(backend, self.maps(tiled, self.test, noise)).argmax(1)
        return int((answers == self.test.labels).sum())

    def measure(self) -> Row:
        """All that the figure shows."""
        plain, best = self.decompose(self.full, weighed=False), self.decompose(self.full)
        steps = ranks(self.full)
        rows = []
        for rank in steps:
            kernels, maps = self.decompose(rank, weighed=False), self.decompose(rank)
            rows.append({
                "rank": rank,
                "kept_kernels": kernels.kept, "kept_maps": maps.kept,
                "plain": self.correct(kernels.tiled()), "images": self.correct(maps.tiled()),
                "refit": self.correct(maps.tiled(), refit=True),
            })  # fmt: skip
        direct = self.direct()
        near = next((row["rank"] for row in rows if row["images"] >= rows[-1]["images"] - 0.005 * TEST), self.full)
        shown = {
            "bank as it is": direct,
            f"rank {self.full}, pairs": best.tiled(),
            f"rank {near}, pairs": self.decompose(near).tiled(),
            f"rank {near}, pedestal": self.decompose(near).tiled(Split.PEDESTAL),
            f"rank {self.full}, pedestal": best.tiled(Split.PEDESTAL),
        }
        noisy = {
            name: {
                "tiles": len(tiled.kernels), "noise_gain": float(tiled.noise_gain().mean()),
                "correct": [self.correct(tiled, noise) for noise in NOISE],
            }
            for name, tiled in shown.items()
        }  # fmt: skip
        noisy[f"rank {near}, pedestal"]["refit"] = [
            self.correct(shown[f"rank {near}, pedestal"], noise, refit=True) for noise in NOISE[1:]
        ]
        return {
            "name": self.bundle.name, "test": len(self.test), "shape": list(self.bank.shape), "full": self.full,
            "near": near, "values_kernels": plain.singular_values.tolist(),
            "values_maps": best.singular_values.tolist(), "ranks": rows, "noise": noisy,
            "image": list(self.test.images.shape[-2:]),
        }  # fmt: skip


def figure(found: list[Row], path: Path) -> None:
    """Energy left out, accuracy over tiles, accuracy over noise: a row for each bundle."""
    plt.rcParams.update({"font.size": 9, "axes.grid": True, "grid.alpha": 0.25})
    fig, axes = plt.subplots(len(found), 3, figsize=(13.5, 3.9 * len(found)), layout="constrained", squeeze=False)
    for row, study in zip(axes, found, strict=True):
        n, maps, channels = study["test"], study["shape"][0], study["shape"][1]
        steps = [entry["rank"] for entry in study["ranks"]]
        for key, colour, label in (("kernels", COLOURS["plain"], "of the kernels"),
                                   ("maps", COLOURS["images"], "of the maps of images")):  # fmt: skip
            left = [max(100 * (1 - entry[f"kept_{key}"]), 1e-6) for entry in study["ranks"]]
            row[0].semilogy(steps[:-1], left[:-1], "o-", ms=4, color=colour, label=label)
        row[0].set(xlabel="rank of the basis", ylabel="energy left out (%)")
        row[0].legend(title="least squared error", fontsize=8, title_fontsize=8)
        row[0].set_title(f"{study['name']}: {maps} maps, {channels} channel{'s' if channels > 1 else ''}", loc="left")
        for key, split, colour, style, label in (
            ("plain", Split.PAIRS, COLOURS["plain"], "o--", "basis for the kernels, pairs"),
            ("images", Split.PAIRS, COLOURS["images"], "s-", "basis for the maps, pairs"),
            ("images", Split.PEDESTAL, COLOURS["pedestal"], "^-", "basis for the maps, pedestal"),
            ("refit", Split.PAIRS, COLOURS["refit"], "v:", "pairs, back end refitted"),
        ):
            tiles = [split.tiles(rank) for rank in steps]
            row[1].plot(
                tiles, [100 * entry[key] / n for entry in study["ranks"]], style, ms=4, color=colour, label=label
            )
        full = 100 * study["noise"]["bank as it is"]["correct"][0] / n
        row[1].axhline(full, color="black", lw=1)
        row[1].plot(2 * maps * channels, full, "k*", ms=11, label=f"bank as it is: {2 * maps * channels} tiles")
        row[1].set(xlabel="tiles", ylabel="accuracy (%)", title="without noise")
        row[1].legend(fontsize=8, loc="lower right")
        at = range(len(NOISE))
        styles = ("*-", "s-", "s--", "^--", "^-")
        colours = ("black", COLOURS["images"], COLOURS["images"], COLOURS["pedestal"], COLOURS["pedestal"])
        for (name, entry), style, colour in zip(study["noise"].items(), styles, colours, strict=True):
            values = [100 * right / n for right in entry["correct"]]
            row[2].plot(at, values, style, ms=5, color=colour, label=f"{name}: {entry['tiles']} tiles")
            if "refit" in entry:
                again = [100 * right / n for right in entry["refit"]]
                row[2].plot(list(at)[1:], again, "v:", ms=5, color=COLOURS["refit"], label=f"{name}, refitted")
        row[2].set_xticks(list(at), [f"{100 * noise:g}" for noise in NOISE])
        row[2].set(xlabel="noise of amplitudes (% of the brightest)", ylabel="accuracy (%)", title="with noise")
        row[2].legend(fontsize=8, loc="lower left")
    fig.savefig(path, dpi=130)
    plt.close(fig)


def page(found: list[Row]) -> str:
    """The page, as Markdown."""
    lines = [
        "# Low rank: fewer basis masks, mixed in electronics", "",
        "Made by `python docs/results/low_rank.py` from `low_rank.json`; the mathematics stand in",
        f"`labctl/optics/lowrank.py`. {TEST} test images, no bench; the basis for the maps is weighed with patches of",
        f"{CAPTURES} training images, on which back ends are refitted too. Captures are of all channels, shown one",
        "after the other to one SLM pattern.", "",
        "![Energy left out, accuracy over tiles, and accuracy over noise](low_rank.png)", "",
    ]  # fmt: skip
    for study in found:
        lines += _study(study)
    return "\n".join(lines) + "\n"


def _share(right: int, n: int) -> str:
    low, high = wilson(right, n)
    return f"{100 * right / n:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _study(study: Row) -> list[str]:
    n, (maps, channels, ky, kx) = study["test"], study["shape"]
    frames = ", ".join(map(str, PER_FRAME))
    head = (
        f"| rank | tiles: pairs, pedestal | captures with {frames} tiles to a frame (pairs) | energy left out: "
        "kernels, maps (%) | basis for kernels, % | basis for maps, % | refitted, % |"
    )
    lines = [
        f"## {study['name']}", "",
        f"{maps} maps of {channels} channel{'s' if channels > 1 else ''}, {ky}x{kx} pixels: full rank {study['full']}. "
        f"As it is, the bank takes {2 * maps} tiles for each channel"
        + (", and the SLM changes between channels." if channels > 1 else "."), "",
        head,
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for entry in study["ranks"]:
        rank = entry["rank"]
        captures = ", ".join(str(channels * math.ceil(2 * rank / per)) for per in PER_FRAME)
        lines.append(
            f"| {rank} | {Split.PAIRS.tiles(rank)}, {Split.PEDESTAL.tiles(rank)} | {captures} | "
            f"{100 * (1 - entry['kept_kernels']):.2g}, {100 * (1 - entry['kept_maps']):.2g} | "
            f"{_share(entry['plain'], n)} | {_share(entry['images'], n)} | {_share(entry['refit'], n)} |"
        )
    captures = ", ".join(str(channels * math.ceil(2 * maps / per)) for per in PER_FRAME)
    lines.append(
        f"| bank as it is | {2 * maps} a channel | {captures} | 0, 0 | "
        f"{_share(study['noise']['bank as it is']['correct'][0], n)} | | |"
    )
    lines += [
        "", "With white noise on every tile's amplitude, in % of the brightest amplitude read (0.5 % is the shot noise",
        "of a full well of 10,000 electrons); *gain* is what unit noise becomes in a map, mean over maps:", "",
        "| shown | tiles | gain | " + " | ".join(f"{100 * noise:g} %" for noise in NOISE) + " |",
        "|---|---|---|" + "---|" * len(NOISE),
    ]  # fmt: skip
    for name, entry in study["noise"].items():
        cells = " | ".join(f"{100 * right / n:.1f}" for right in entry["correct"])
        lines.append(f"| {name} | {entry['tiles']} | {entry['noise_gain']:.2f} | {cells} |")
        if "refit" in entry:
            cells = " | ".join(f"{100 * right / n:.1f}" for right in entry["refit"])
            lines.append(f"| the same, refitted | | | | {cells} |")
    return [*lines, "", *_noise(study), "", *_time(study), ""]


def _noise(study: Row) -> list[str]:
    """What mixing does to noise, in words."""
    near, gain = study["near"], {name: entry["noise_gain"] for name, entry in study["noise"].items()}
    own, pairs, pedestal = gain["bank as it is"], gain[f"rank {near}, pairs"], gain[f"rank {near}, pedestal"]
    return [
        f"Mixing the basis read in pairs multiplies the bank's own noise by {pairs / own:.2f}. A pedestal needs about",
        f"half the tiles and multiplies it by {pedestal / own:.1f}: every map is then a small difference of bright",
        "tiles, whose brightest pixel also sets the exposure.",
    ]


def _time(study: Row) -> list[str]:
    """What it does to the time of one image, on the DMD bench."""
    maps, channels, ky, kx = study["shape"]
    size = (study["image"][0], study["image"][1])
    ways = {"bank as it is": plan_captures(DMD, image=size, kernel=(ky, kx), maps=maps, channels=channels)}
    for split in Split:
        tiles = split.tiles(study["near"])
        ways[f"rank {study['near']}, {split.value}"] = plan_captures(
            DMD, image=size, kernel=(ky, kx), maps=maps, channels=channels, tiles=tiles, shared=True
        )
    said = []
    for name, plan in ways.items():
        captures = f"{plan.captures} capture{'s' if plan.captures > 1 else ''}"
        patterns = f"{plan.patterns} SLM pattern{'s' if plan.patterns > 1 else ''}"
        said.append(f"{name}: {captures}, {patterns}, {1e3 * optical_cost(plan, DMD, 0, CPU).latency_s:.3g} ms")
    return [f"One image on the bench with a DMD (`labctl/learning/figures.py`): {'; '.join(said)}."]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundles", nargs="*", help="names in models/, or folders")
    parser.add_argument("--draw", action="store_true", help="measure nothing")
    asked = parser.parse_args()
    cache = HERE / "low_rank.json"
    kept: dict[str, Row] = json.loads(cache.read_text(encoding="utf-8")) if cache.exists() else {}
    folders = [ROOT / "models" / name if not Path(name).is_dir() else Path(name) for name in asked.bundles or BUNDLES]
    found = []
    for folder in folders:
        if not (folder / "student.safetensors").is_file() and not asked.bundles:
            continue
        bundle = load_bundle(folder)
        if bundle.sha256 not in kept and asked.draw:
            continue
        if bundle.sha256 not in kept:
            kept[bundle.sha256] = Study(bundle).measure()
            cache.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8", newline="\n")
        found.append(kept[bundle.sha256])
    figure(found, HERE / "low_rank.png")
    (HERE / "low_rank.md").write_text(page(found), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
