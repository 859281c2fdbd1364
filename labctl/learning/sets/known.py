"""What is known of an image set without reading it: its shape, classes, splits, checksums and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Split = Literal["train", "validation", "test"]
Task = Literal["classification", "segmentation"]
Format = Literal["idx", "cifar10", "npz"]

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
#: Label of pixels that belong to no class; torch's `ignore_index`.
NO_CLASS = -100
#: The same in the uint8 arrays that files are decoded to.
VOID = 255
#: Name of the file of an added set, in its folder.
ADDED_FILE = "images.npz"


@dataclass(frozen=True)
class RemoteFile:
    """A file at a set's public address: its name there, its size in bytes, and its SHA-256 as published."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class KnownSet:
    """An image set that `load` can read: a public one in its original format, or one that a user has added.

    Attributes
    ----------
    shape
        (channels, y, x) of every image.
    full_counts
        Images in the (train, test) splits.
    hint
        One line that says how to get the full set.
    task
        "classification": one label per image. "segmentation": one per pixel.
    validation
        Images in the official validation split; 0 where the set has none.
    void
        Stored label of pixels that belong to no class, or None.
    parent
        The set whose files this one is drawn from, and the labels of it that are kept, in the order of `classes`.
    file
        Name of its file, where the format is "npz".
    digests
        SHA-256 of the decoded pixels and labels of each whole split, as `labctl.learning.sets.npz.digest_of` takes it.
        Those of the public sets were taken from copies that agree, file by file, with the checksums that are published
        for MNIST and Fashion-MNIST (unpacked) and for each batch of CIFAR-10's binary version; `camvid-small` has no
        published ones, so that its digests are those of the one file that exists.
    subset_digests
        The same for the subset that labctl ships.
    addresses, files
        Where the full set can be fetched: base addresses, tried in turn, and the files under each.
    added
        Whether a user added it.
    """

    name: str
    format: Format
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    full_counts: tuple[int, int]
    licence: str
    hint: str
    task: Task = "classification"
    validation: int = 0
    void: int | None = None
    parent: tuple[str, tuple[int, ...]] | None = None
    file: str = ADDED_FILE
    digests: dict[str, str] = field(default_factory=dict, hash=False)
    subset_digests: dict[str, str] = field(default_factory=dict, hash=False)
    addresses: tuple[str, ...] = ()
    files: tuple[RemoteFile, ...] = ()
    added: bool = False

    @property
    def splits(self) -> tuple[Split, ...]:
        """The official splits."""
        return SPLITS if self.validation else ("train", "test")

    @property
    def counts(self) -> dict[str, int]:
        """Images of each split of the whole set."""
        train, test = self.full_counts
        every = {"train": train, "validation": self.validation, "test": test}
        return {split: every[split] for split in self.splits}

    @property
    def folder_name(self) -> str:
        """The folder that holds its files in a collection of sets."""
        return self.parent[0] if self.parent else self.name


def _idx_files(*sizes_and_sums: tuple[int, str]) -> tuple[RemoteFile, ...]:
    names = [f"{stem}-{kind}-ubyte.gz" for stem in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    return tuple(RemoteFile(name, *both) for name, both in zip(names, sizes_and_sums, strict=True))


_FASHION = KnownSet(
    "fashion-mnist",
    "idx",
    (1, 28, 28),
    ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    (60000, 10000),
    "MIT",
    "run `labctl data fetch fashion-mnist`, or put the four files *-ubyte.gz listed at "
    "https://github.com/zalandoresearch/fashion-mnist into {folder}",
    digests={
        "train": "16d82e2b505296aa2b78bd5ea0992634f30419a4c97def7c907d154a35ac6157",
        "test": "9f1ec356a747bfe4ebab3cfb722d3694c9ca737e2570f6f90cf31d7b6fd689d4",
    },
    subset_digests={
        "train": "3e4733ae8450a2837c1f62ea9946542fde2197204feb158e5b790257ac34143a",
        "test": "22489d4842e74e85dc8dfa1e618d5c8b760cc913f0c941bf9aebbb0d0b933b9e",
    },
    addresses=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
    ),
    files=_idx_files(
        (26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
        (29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
        (4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
        (5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
    ),
)

_MNIST = KnownSet(
    "mnist",
    "idx",
    (1, 28, 28),
    tuple("0123456789"),
    (60000, 10000),
    "CC BY-SA 3.0",
    "run `labctl data fetch mnist`, or put the four files *-ubyte or *-ubyte.gz of "
    "https://yann.lecun.com/exdb/mnist into {folder}",
    digests={
        "train": "edc0d1098aa497be14ace79ddd5171e5a3dcf9c4d196c015389203eb3ba1f59b",
        "test": "c3f9adf9c66efb572b1f9326c3a511b45910c7173b97be66ceceeeeaef6b802b",
    },
    addresses=(
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        "https://storage.googleapis.com/cvdf-datasets/mnist",
        "http://yann.lecun.com/exdb/mnist",
    ),
    files=_idx_files(
        (9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
        (28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
        (1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        (4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
    ),
)

_CIFAR = KnownSet(
    "cifar10",
    "cifar10",
    (3, 32, 32),
    ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    (50000, 10000),
    "none stated by its authors",
    "run `labctl data fetch cifar10`, or unpack cifar-10-binary.tar.gz or cifar-10-python.tar.gz of "
    "https://www.cs.toronto.edu/~kriz/cifar.html into {folder}",
    digests={
        "train": "1e91790dbaf241617ca1f29a9aba08eb9a62df84cc90676b47edd05ad2ab3c94",
        "test": "9a4c74f5c8b6f2c4e13d3a1dfb43a5a8cda8a9da515e99fd620d2013a1a6287a",
    },
    addresses=("https://www.cs.toronto.edu/~kriz",),
    files=(
        RemoteFile(
            "cifar-10-binary.tar.gz", 170052171, "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
        ),
    ),
)

_CATS_DOGS = KnownSet(
    "cats-dogs",
    "cifar10",
    (3, 32, 32),
    ("cat", "dog"),
    (10000, 2000),
    _CIFAR.licence,
    "get cifar10, whose cats and dogs it is: " + _CIFAR.hint,
    parent=("cifar10", (3, 5)),
    digests={
        "train": "57184cf6eb048d562c3c99a39db563125e365259dd7d62b104fafdf869187562",
        "test": "2ac6c2eb08a9cd3120d843d9f4a285d9877f303351a1caac438ae6ce046d242a",
    },
)

_CAMVID = KnownSet(
    "camvid-small",
    "npz",
    (3, 120, 160),
    # the eleven classes of SegNet (Badrinarayanan et al., 2017) in its order, checked against pictures and masks
    (
        "Sky",
        "Building",
        "Pole",
        "Road",
        "Pavement",
        "Tree",
        "SignSymbol",
        "Fence",
        "Car",
        "Pedestrian",
        "Bicyclist",
    ),
    (367, 233),
    "research only (weights may be passed on, images not)",
    "put camvid_120x160.npz into {folder}; it has no public address, but `labctl data add` makes a set like it from "
    "CamVid's images and masks",
    task="segmentation",
    validation=101,
    void=11,
    file="camvid_120x160.npz",
    digests={
        "train": "a84d73adeb03c5a5045ae6cb85b2a9960e2aa6fcbe5f18cbed2218c9cd87c71f",
        "validation": "807eaea1616dd33bd3b27630aff5ce2b3e85e075fe37b06beca5b630d063fffc",
        "test": "f4ee1ebed0e430db672e3b3739274c39818aa3ee5c9f86d5610fd16b1aa69b84",
    },
)

KNOWN: dict[str, KnownSet] = {known.name: known for known in (_FASHION, _MNIST, _CIFAR, _CATS_DOGS, _CAMVID)}
