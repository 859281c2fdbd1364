"""A student's training step against the same network written plainly in torch with `conv2d`.

    python tests/benchmarks/student_step.py [--repeats 7] [--threads 1 2] [--only NAME]

Ours is `labctl.learning.fit.fit` itself, one epoch of 20 batches with the loss of the arm "distilled", without the
checkpoint at its end. The plain one has a single `nn.Conv2d` in place of the front (also where ours is a cascade, fused
anew in every step), and the loop that one writes for it. Jitter off. Each repeat times one epoch of ours, then one of
the plain network; printed are the medians of CPU seconds (all threads) and of wall seconds per step, and the medians of
the ratios. CPU time is what other work on the machine disturbs least; with several threads it counts waiting, too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from labctl.learning import fit as fitting
from labctl.learning.arms import make_student, objective_of
from labctl.learning.backend import two_sided
from labctl.learning.recipe import Recipe, parse_recipe
from labctl.learning.scoring import as_images
from labctl.learning.splits import Splits

BATCHES = 20
RECIPES = {
    "mnist (8 maps, 3x3x3)": """
        name = "mnist"
        data.name = "mnist"
        [student]
        batch = 128
        kernel_sizes = [3, 3, 3]
    """,
    "fashion (8 maps, 3x3x3)": """
        name = "fashion"
        data.name = "fashion-mnist"
        [student]
        batch = 256
        kernel_sizes = [3, 3, 3]
        backend.hidden = 256
    """,
    "fashion (8 maps, 7x7)": """
        name = "fashion"
        data.name = "fashion-mnist"
        [student]
        batch = 256
        kernel_sizes = [7]
        backend.hidden = 256
    """,
    "cifar10 (16 maps, 3 channels, 7x7)": """
        name = "cifar10"
        data.name = "cifar10"
        [student]
        batch = 256
        maps = 16
        kernel_sizes = [7]
        whitened = true
        [student.backend]
        pool = 4
        hidden = 750
        after_detection = "two-sided"
        hidden_norm = true
    """,
}


class Plain(nn.Module):
    """The same network as one writes it down."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        section, options = recipe.student, recipe.student.backend
        channels, rows, columns = recipe.images().shape
        size = sum(section.kernel_sizes) - len(section.kernel_sizes) + 1
        self.conv = nn.Conv2d(channels, section.maps, size, padding=size // 2, bias=False)
        self.norm = nn.BatchNorm2d(section.maps)
        self.both = options.after_detection == "two-sided"
        self.pool = nn.AvgPool2d(options.pool)
        inputs = section.maps * (rows // options.pool) * (columns // options.pool) * (2 if self.both else 1)
        hidden = options.hidden if isinstance(options.hidden, int) else options.hidden[0]
        layers: list[nn.Module] = [nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 10)]
        if options.hidden_norm:
            layers = [nn.BatchNorm1d(inputs, affine=False), layers[0], nn.BatchNorm1d(hidden), *layers[1:]]
        self.head = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm(self.conv(images))
        return self.head(self.pool(two_sided(maps) if self.both else maps).flatten(1))


class Told:
    """In place of `Views`: made-up images with made-up logits of a teacher."""

    def __init__(self, recipe: Recipe) -> None:
        torch.manual_seed(0)
        count = BATCHES * recipe.student.batch
        self.pixels = torch.randint(0, 256, (count, *recipe.images().shape), dtype=torch.uint8)
        self.labels, self.logits = torch.arange(count) % 10, torch.randn(count, 10)

    def at(self, epoch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.pixels, self.labels, self.logits, torch.empty(0)

    def said(self, logits: Tensor, features: Tensor, chosen: Tensor) -> Tensor:
        return logits[chosen]

    def class_weights(self) -> None:
        return None


def ours(recipe: Recipe, told: Told) -> Callable[[], None]:
    """One epoch by `fit`."""
    data = Splits((told.pixels, told.labels), (told.pixels[:1], told.labels[:1]), None, None, None)  # type: ignore[arg-type]
    student = make_student(recipe, "", "distilled", 0, recipe.images(), data).to(memory_format=torch.channels_last)
    view, objective = objective_of(recipe, "distilled", told)  # type: ignore[arg-type]
    section = recipe.student.model_copy(update={"epochs": 1})
    nowhere = Path(tempfile.gettempdir(), "labctl-student-step-none")
    return lambda: fitting.fit(
        student, view, lambda model: 0.0, objective, section, seed=0, key="", checkpoint=nowhere
    ) and None  # fmt: skip


def plain(recipe: Recipe, told: Told) -> Callable[[], None]:
    """One epoch of a loop as one writes it."""
    network, section, temperature, alpha = Plain(recipe), recipe.student, 4.0, 0.9

    def epoch() -> None:
        network.train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
        for chosen in torch.split(torch.randperm(len(told.labels)), section.batch):
            logits = network(as_images(told.pixels[chosen]))
            soft = kl_div(
                log_softmax(logits / temperature, 1), log_softmax(told.logits[chosen] / temperature, 1),
                reduction="batchmean", log_target=True,
            )  # fmt: skip
            loss = alpha * temperature**2 * soft + (1 - alpha) * cross_entropy(logits, told.labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", default="", help="Networks whose name begins so.")
    asked = parser.parse_args()
    fitting.save_checkpoint = lambda *_: None
    write = sys.stdout.write
    write("medians per step: ours / plain, ms of CPU; ratio of CPU time, of wall time (bar: 1.3)\n")
    for threads in asked.threads:
        torch.set_num_threads(threads)
        for name, text in RECIPES.items():
            if not name.startswith(asked.only):
                continue
            recipe = parse_recipe("\n".join(line.strip() for line in text.splitlines()))
            told = Told(recipe)
            first, second = ours(recipe, told), plain(recipe, told)
            timed(first), timed(second)  # warm
            rows = [(*timed(first), *timed(second)) for _ in range(asked.repeats)]
            cpu, cpu_plain = (1000 * statistics.median(row[i] for row in rows) / BATCHES for i in (0, 2))
            by_cpu, by_wall = (statistics.median(row[i] / row[i + 2] for row in rows) for i in (0, 1))
            write(
                f"{name:36} {threads} thread{'s' * (threads > 1):1} {cpu:7.1f} /{cpu_plain:7.1f} ms "
                f"{by_cpu:6.2f} {by_wall:6.2f}\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
