"""A training step on another device than the CPU, without one: torch's "meta" device has shapes and no values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from labctl.learning.arms import objective_of
from labctl.learning.backend import Backend
from labctl.learning.jitter import jittered
from labctl.learning.recipe import Arm, parse_recipe
from labctl.learning.sharing import JointBatchNorm, joint_norms, mine, whole
from labctl.learning.student import SpectralCascade, Student
from labctl.learning.transfer import FeatureHint
from labctl.optics.detection import Detection

RECIPE = """
name = "t"
[student]
batch = 4
[robustness]
gain = 0.1
offset = 0.1
noise = 0.1
[transfer]
kind = "{kind}"
"""


class Told:
    """What a teacher said of four images, on the CPU, as `Views` keeps it."""

    def at(self, epoch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return torch.zeros(4, 2, 12, 12, dtype=torch.uint8), torch.arange(4), torch.randn(4, 5), torch.randn(4, 6)

    def said(self, logits: Tensor, features: Tensor, chosen: Tensor) -> Tensor:
        return logits[chosen]

    def class_weights(self) -> Tensor:
        return torch.ones(5)


@pytest.mark.parametrize("detection", list(Detection))
@pytest.mark.parametrize("kernels", [(3, 3), (25,)])
@pytest.mark.parametrize(
    ("arm", "kind"), [("distilled", "features"), ("transfer", "features"), ("transfer", "tangent-kernel")]
)
def test_every_tensor_of_a_step_follows_the_model(
    arm: Arm, kind: str, kernels: tuple[int, ...], detection: Detection
) -> None:
    """Anything left on the CPU would meet a tensor of the other device, which torch refuses."""
    recipe = parse_recipe(RECIPE.format(kind=kind))
    front = SpectralCascade(3, 2, kernels, image=12, detection=detection)
    front.whiten(torch.rand(9, 2, 12, 12)) if len(kernels) > 1 else None
    student = Student(front, Backend(3, 12, 5, hidden=7, hidden_norm=True, after_detection="two-sided"))
    if kind == "features" and arm == "transfer":
        student.hint = FeatureHint(7, torch.randn(30, 6))
    student.to("meta")
    view, objective = objective_of(recipe, arm, Told())  # type: ignore[arg-type]
    view(0)
    chosen = torch.tensor([2, 0, 3, 1])
    loss = objective(student, torch.rand(4, 2, 12, 12, device="meta"), torch.arange(4).to("meta"), chosen)
    assert loss.device.type == "meta" and loss.shape == ()
    loss.backward()
    assert {p.grad.device.type for p in student.parameters() if p.grad is not None} == {"meta"}
    assert all(p.grad is not None for p in student.backend.parameters())


def test_a_cpu_tensor_among_others_is_refused() -> None:
    """What the test above rests on."""
    with pytest.raises(RuntimeError):
        torch.rand(3, device="meta") + torch.rand(3)


def test_one_process_shares_nothing() -> None:
    rows = torch.rand(3, 2)
    assert mine(rows) is rows and whole(rows, 3) is rows
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2))
    with joint_norms(model):
        assert type(model[0]) is torch.nn.BatchNorm1d


def test_joint_batch_norm_is_batch_norm() -> None:
    """In one process: values, gradients, running statistics, and weights that are the other's own."""
    for norm, shape in ((torch.nn.BatchNorm2d(3), (4, 3, 5, 5)), (torch.nn.BatchNorm1d(3, affine=False), (6, 3))):
        images = (torch.randn(shape) * 2 + 1).requires_grad_()
        torch.manual_seed(1)
        wanted = norm(images)
        expected = torch.autograd.grad(wanted.square().sin().sum(), images)[0]
        after = [value.clone() for value in norm.buffers()]
        norm.reset_running_stats()
        joint = JointBatchNorm(norm)
        found = joint(images)
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(torch.autograd.grad(found.square().sin().sum(), images)[0], expected)
        for value, other in zip(norm.buffers(), after, strict=True):
            torch.testing.assert_close(value, other)
        assert joint.eval()(images).shape == shape


def test_no_jitter_costs_nothing() -> None:
    recipe = parse_recipe('name = "t"')
    features = torch.rand(2, 3, 4, 4)
    assert jittered(features, recipe.robustness) is features
