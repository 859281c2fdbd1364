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
    collapsed
        The same student run digitally at its cheapest: up to the first fully connected layer it is one linear map of
        the pixels, so one matrix does. Optics saves digital work only where `electronic` is below this. For a student
        with a ReLU on its maps, which does not collapse, the same as `student`.
    """

    teacher: int
    student: int
    optical: int
    electronic: int
    collapsed: int

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
    student_all = optical + electronic
    pixels = front.in_channels * front.image**2
    matrix = pixels * backend.fc1.out_features + backend.fc2.weight.numel()
    collapsed = student_all if backend.relu_after_detection else min(student_all, matrix)
    return Macs(teacher_macs(teacher), student_all, optical, electronic, collapsed)
