"""Pictures and masks from files, as small arrays of bytes.

Decoded by Pillow: it refuses a truncated file (OpenCV fills in what is missing) and keeps the indices of a mask with a
palette (OpenCV gives the palette's colours).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from labctl.errors import DataError

#: Files that are taken for pictures.
SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".pnm"))
#: Files that keep a mask's labels as they are.
MASK_SUFFIXES = SUFFIXES - {".jpg", ".jpeg", ".webp"}
_GREY = frozenset(("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L"))
_DEEP = frozenset(("I", "I;16", "I;16B", "I;16L"))
Size = tuple[int, int]


@dataclass(frozen=True)
class Header:
    """What a picture's header says: its size (y, x), and whether it has colours."""

    size: Size
    colour: bool


def is_picture(path: Path) -> bool:
    """Whether the name is that of a picture; hidden files are none."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The picture, upright; whatever can be wrong with a damaged one is a DataError that names it."""
    try:
        with warnings.catch_warnings():
            # a header that promises hundreds of megapixels is refused before they are allocated
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                yield picture
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: is no picture; take it out, or put the right file there") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: is too large a picture ({error}); make it smaller, or take it out") from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError) as error:
        # Pillow's decoders raise any of these on damaged files
        raise DataError(f"{path}: cannot be read as a picture ({error}); it is damaged, take it out") from error


def read_header(path: Path) -> Header:
    """Size and kind of a picture, without decoding it; DataError when it is none."""
    with _opened(path) as picture:
        columns, rows = picture.size
        # orientations 5 to 8 lie on their side; 0x0112 is Exif's number for it. Asking a PNG without it decodes the PNG
        if ("exif" in picture.info or picture.format == "TIFF") and picture.getexif().get(0x0112, 1) in (5, 6, 7, 8):
            rows, columns = columns, rows
        palette = picture.mode in ("P", "PA") and picture.palette is not None
        grey = picture.mode in _GREY or (palette and _is_grey(picture))
        return Header((rows, columns), not grey)


def _is_grey(picture: Image.Image) -> bool:
    colours = np.asarray(picture.getpalette("RGB") or [0, 0, 0], dtype=np.uint8).reshape(-1, 3)
    return bool((colours == colours[:, :1]).all())


def read_picture(path: Path, *, colour: bool, size: Size | None) -> NDArray[np.uint8]:
    """A picture as bytes.

    Parameters
    ----------
    colour
        Three channels (red, green, blue), or else one, by the luma of ITU-R 601.
    size
        (y, x) to fit it to, see `fit`; None keeps its own.

    Returns
    -------
    uint8 [y, x, channels]. 16 bits are divided by 257; what is transparent is dark; a photograph's orientation is
    applied.

    Raises
    ------
    DataError
        Truncated, damaged or no picture. Names the file.
    """
    with _opened(path) as picture:
        upright = ImageOps.exif_transpose(picture)
        if upright.mode in _DEEP:
            deep = np.asarray(upright).astype(np.int64)
            upright = Image.fromarray((deep.clip(0, 65535) // 257).astype(np.uint8))
        elif upright.mode == "F":
            raise DataError(f"{path}: holds floating-point values; save it with 8 or 16 bits per pixel")
        elif upright.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in upright.info:
            over = upright.convert("RGBA")
            ground = Image.new("RGBA", over.size, (0, 0, 0, 255))
            upright = Image.alpha_composite(ground, over)
        plain = upright.convert("RGB" if colour else "L")
        values = np.asarray(plain if size is None else fit(plain, size), dtype=np.uint8)
    return values if values.ndim == 3 else values[:, :, None]


def fit(picture: Image.Image, size: Size, *, nearest: bool = False) -> Image.Image:
    """Scale a picture so that it covers `size` (y, x), and cut off what is left over, equally on both sides.

    Reduced by the mean over areas, enlarged bilinearly; `nearest` takes the nearest pixel instead, for masks. Both see
    the same part of the picture.
    """
    rows, columns = size
    if picture.size == (columns, rows):
        return picture
    scale = max(columns / picture.width, rows / picture.height)
    method = Image.Resampling.BOX if scale <= 1 else Image.Resampling.BILINEAR
    if nearest:
        method = Image.Resampling.NEAREST
    return ImageOps.fit(picture, (columns, rows), method=method)


def read_mask(path: Path, size: Size | None) -> NDArray[np.uint8]:
    """A mask as it is stored.

    Parameters
    ----------
    size
        (y, x) to fit it to, by the nearest pixel; None keeps its own.

    Returns
    -------
    uint8 [y, x] for one with indices or grey values, uint8 [y, x, 3] for one with colours.

    Raises
    ------
    DataError
        Truncated, damaged, no picture, or values above 255.
    """
    with _opened(path) as picture:
        mask: Image.Image = picture
        if picture.mode in _DEEP:
            deep = np.asarray(picture)
            if deep.max(initial=0) > 255 or deep.min(initial=0) < 0:
                raise DataError(f"{path}: holds label {deep.max()}, labels are 0 to 255")
            mask = Image.fromarray(deep.astype(np.uint8))
        elif picture.mode in ("P", "PA"):
            # the indices, not the palette's colours
            mask = Image.fromarray(np.asarray(picture if picture.mode == "P" else picture.getchannel(0)))
        elif picture.mode == "1":
            mask = Image.fromarray(np.asarray(picture).astype(np.uint8))
        elif picture.mode not in ("L", "RGB"):
            mask = picture.convert("L" if picture.mode in ("LA", "La") else "RGB")
        values = np.asarray(mask if size is None else fit(mask, size, nearest=True), dtype=np.uint8)
    if values.ndim == 3 and bool((values == values[..., :1]).all()):
        return values[..., 0]
    return values


def palette_of(path: Path) -> NDArray[np.uint8] | None:
    """The palette uint8 [256, 3] of an indexed mask, or None for one that has none."""
    with _opened(path) as picture:
        if picture.mode != "P":
            return None
        colours = np.zeros((256, 3), dtype=np.uint8)
        held = np.asarray(picture.getpalette("RGB") or [], dtype=np.uint8).reshape(-1, 3)
        colours[: len(held)] = held
        return colours
