"""A student for other programs: its tensors as safetensors, or the whole of it as ONNX (image in, logits out).

Both hold the fused kernels, what light does, in the convention of `torch.nn.functional.conv2d`; the cascade that they
were trained as is left out.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d

import labctl
from labctl.errors import LabctlError, ModelError
from labctl.learning.bundle import Bundle
from labctl.learning.checkpoint import write_tensors
from labctl.optics.detection import Detection

Format = Literal["safetensors", "onnx"]
EQUAL = 1e-4
"""An exported network may differ by this part of the largest logit."""
OPSET = 18


class Deployable(nn.Module):
    """A student as one would write it plainly: a convolution with the fused kernels, detection, and the back end.

    Parameters
    ----------
    bundle : Bundle

    Raises
    ------
    ModelError
        Its front pools in the Fourier domain, which no convolution does.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        front = bundle.student.front
        if front.spectral_pool > 1:
            raise ModelError(
                f"model '{bundle.name}': its front pools in the Fourier domain, which is no convolution of the image; "
                "export it with --to safetensors"
            )
        kernels = bundle.student.fused_kernels().detach()
        self.channels, self.squared = kernels.shape[1], front.detection is Detection.INTENSITY
        if self.squared:  # one frame per channel, and only intensities add up
            kernels = kernels.transpose(0, 1).flatten(0, 1)[:, None]
        self.register_buffer("kernels", kernels.clone().contiguous())
        self.padding = kernels.shape[-1] // 2
        self.backend = bundle.student.backend

    def forward(self, images: Float[Tensor, "n channels y x"]) -> Tensor:
        """Logits of images from 0 to 1."""
        kernels = self.get_buffer("kernels")
        if not self.squared:
            logits: Tensor = self.backend(conv2d(images, kernels, padding=self.padding))
            return logits
        fields = conv2d(images, kernels, padding=self.padding, groups=self.channels)
        squared: Tensor = self.backend(fields.square().unflatten(1, (self.channels, -1)).sum(1))
        return squared


def conventions(bundle: Bundle) -> dict[str, str]:
    """What a reader of the tensors must know, as text by key."""
    front, backend = bundle.student.front, bundle.student.backend
    channels, (rows, columns) = front.in_channels, front.image
    kernel = front.kernel
    images = bundle.metrics.data.images() or bundle.recipe.images()
    structure = [str(layer) for layer in (backend.norm, getattr(backend, "pool", None)) if layer is not None]
    return {
        "format": "labctl student 1",
        "labctl": labctl.__version__,
        "name": bundle.name,
        "sha256": bundle.sha256,
        "input": f"float32 [n, {channels}, {rows}, {columns}] (y, x), row 0 at the top, 0 (dark) to 1; not normalised",
        "kernels": f"[maps, channels, y, x]; conv2d(images, kernels, padding={kernel // 2}), a cross-correlation",
        "detection": front.detection.value,
        "spectral_pool": str(front.spectral_pool),
        "backend": f"{type(backend).__name__}: {', '.join(structure)}; then fc1, fc2, ... with ReLU between them",
        "output": "logits, no softmax",
        "classes": json.dumps(list(images.classes)),
        "recipe": bundle.recipe.model_dump_json(exclude_defaults=True),
    }


def export_safetensors(bundle: Bundle, path: Path) -> Path:
    """Write the fused kernels (`kernels`) and the back end (`backend.*`), with `conventions` as metadata.

    Raises
    ------
    ModelError
        The disk refuses.
    """
    tensors = {"kernels": bundle.student.fused_kernels()}
    tensors |= {f"backend.{name}": tensor for name, tensor in bundle.student.backend.state_dict().items()}
    write_tensors(path, tensors, conventions(bundle))
    return path


def export_onnx(bundle: Bundle, path: Path) -> Path:
    """Write the whole student as an ONNX file: input `images` [n, channels, y, x], output `logits`, n free.

    Raises
    ------
    LabctlError
        The packages for it are not installed. Says the line that installs them.
    ModelError
        The student has no ONNX equal, or the disk refuses.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 (torch's exporter imports it, and says less when it is missing)
    except ImportError as error:
        raise LabctlError(
            f"ONNX needs a package that is not installed ({error.name}): pip install 'labctl[export]'"
        ) from error
    network = Deployable(bundle).eval()
    front = bundle.student.front
    example = torch.rand(2, front.in_channels, *front.image, generator=torch.Generator().manual_seed(0))
    with _quiet():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes={"images": {0: torch.export.Dim("n", min=1)}},
            verbose=False,
        )
    if program is None:
        raise ModelError(f"model '{bundle.name}': torch made no ONNX of it")
    model = program.model_proto
    model.producer_name, model.producer_version = "labctl", labctl.__version__
    onnx.helper.set_model_props(model, conventions(bundle))
    onnx.checker.check_model(model)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(model.SerializeToString())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ModelError(f"{path}: cannot be written ({error}); free some space or choose another place") from error
    return path


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports its steps on standard output, and the deprecations of its own parts."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def export(bundle: Bundle, to: Format, path: Path) -> Path:
    """Write `path` in one of the formats; see `export_safetensors` and `export_onnx`."""
    return export_onnx(bundle, path) if to == "onnx" else export_safetensors(bundle, path)
