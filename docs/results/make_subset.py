"""Make the Fashion-MNIST subset that labctl ships: 5,000 training and 1,000 test images, balanced over the classes.

    python docs/results/make_subset.py [DIR of the full set]

First come, first taken: the first 500 (100) images of every class in the official training (test) files, kept in the
order of the file. Written as gzip IDX files with no time stamp, so that making them again gives the same bytes.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np

from labctl.learning.data import SHIPPED, balanced_order, known_set, read_raw

COUNTS = {"train": 5000, "test": 1000}


def write_idx(path: Path, values: np.ndarray) -> None:
    """One gzip IDX file of unsigned bytes."""
    header = bytes([0, 0, 8, values.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in values.shape)
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes(), compresslevel=9, mtime=0))


def main() -> None:
    known = known_set("fashion-mnist")
    folder = SHIPPED / known.name
    folder.mkdir(parents=True, exist_ok=True)
    data_dir = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    for split, stem in (("train", "train"), ("test", "t10k")):
        images, labels, _, _ = read_raw(known.name, split, data_dir=data_dir, source="full")
        chosen = np.sort(balanced_order(labels, None)[: COUNTS[split]])
        write_idx(folder / f"{stem}-images-idx3-ubyte.gz", images[chosen, 0])
        write_idx(folder / f"{stem}-labels-idx1-ubyte.gz", labels[chosen])


if __name__ == "__main__":
    main()
