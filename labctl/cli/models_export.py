"""`labctl models export`: a student for other programs."""

from __future__ import annotations

import json as json_module
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """`labctl.learning.exporting.Format`, known here without torch."""

    SAFETENSORS = "safetensors"
    ONNX = "onnx"


def export(
    name: Annotated[str, typer.Argument(help="Name of a bundle, or its folder.")],
    to: Annotated[Format, typer.Option("--to", help="Tensors alone, or the whole student: image in, logits out.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write; default: NAME.safetensors or NAME.onnx here.")
    ] = None,
    models_dir: Annotated[
        Path | None, typer.Option(help="Folder of the bundles; default: models/ of the workspace.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there already.")] = False,
    json: Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")] = False,
) -> None:
    """Write a student for other programs: its fused kernels and back end as safetensors, or all of it as ONNX."""
    from labctl.errors import ModelError
    from labctl.learning.bundle import find_bundle, load_bundle
    from labctl.learning.exporting import export as write
    from labctl.workspace import find

    folder = Path(name) if Path(name).is_dir() else models_dir or Path(find().models)
    bundle = load_bundle(find_bundle(name, folder))
    path = out or Path(f"{bundle.name}.{to.value}")
    if path.exists() and not force:
        raise ModelError(f"{path}: exists already; choose another with --out, or say --force")
    write(bundle, to.value, path)
    size = path.stat().st_size
    if json:
        typer.echo(json_module.dumps({"path": str(path), "format": to.value, "bytes": size, "sha256": bundle.sha256}))
        return
    typer.echo(f"{path}: {to.value}, {size / 1e6:.2f} MB, of model {bundle.name}")
