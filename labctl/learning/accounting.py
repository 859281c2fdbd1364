"""Multiply-accumulates (MACs) per image: what the teacher costs, what optics takes over, what stays in electronics."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from torch import nn

from labctl.learning.student import Student
from labctl.learning.teacher import Teacher


@dataclass(frozen=True)
class Macs:
    """MACs for one image. Batch norm, pooling and ReLU are not counted, in any of the three.

    Attributes
    ----------
    teacher
        The whole teacher.
    student
        The whole student run digitally, its front as direct convolution with the fused kernels.
    optical
        Those that the bench does: fused kernels of K x K at every pixel of every map and channel.
    electronic
        Those left after the camera: student - optical.
    """

    teacher: int
    student: int
    optical: int
    electronic: int

    def as_dict(self) -> dict[str, int]:
        """For metrics.json."""
        return asdict(self)


def teacher_macs(teacher: Teacher) -> int:
    """Convolutions ("same" size) at their resolution, and the fully connected layer."""
    total, size = 0, teacher.image
    for module in teacher.blocks:
        if isinstance(module, nn.Conv2d):
            total += module.weight.numel() * size * size
        elif isinstance(module, nn.MaxPool2d):
            size //= 2
    return total + teacher.fc.weight.numel()


def count_macs(student: Student, teacher: Teacher) -> Macs:
    """Count both networks."""
    front, backend = student.front, student.backend
    optical = front.maps * front.in_channels * front.kernel**2 * front.image**2
    electronic = backend.fc1.weight.numel() + backend.fc2.weight.numel()
    return Macs(teacher_macs(teacher), optical + electronic, optical, electronic)
