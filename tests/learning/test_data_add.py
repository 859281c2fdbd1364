"""Users' own images: folders by class, pairs of images and masks, arrays; what is wrong is refused without a trace."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from labctl.cli import data as data_cli
from labctl.errors import ConfigError, DataError
from labctl.learning.data import fetch_hint, find_sets, known_from, known_set, load, summary_of
from labctl.learning.sets.added import remove_set
from labctl.learning.sets.adding import add_set

from .conftest import write_fashion

RNG = np.random.default_rng(11)


@pytest.fixture(autouse=True)
def no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets of the person who runs the tests are not looked at."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.delenv("LABCTL_DATA", raising=False)


def picture(path: Path, values: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path, **options)  # type: ignore[arg-type]
    return path


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape)


@pytest.fixture
def by_class(tmp_path: Path) -> Path:
    """Ten beads and five cells, 12 x 16, in colour."""
    for name, count in (("cell", 5), ("bead", 10)):
        for index in range(count):
            picture(tmp_path / "mine" / name / f"{index}.png", noise(12, 16, 3))
    return tmp_path / "mine"


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Ten images, 12 x 16, with masks of three classes and 255."""
    for index in range(10):
        picture(tmp_path / "pairs" / "images" / f"{index}.png", noise(12, 16, 3))
        mask = np.repeat(np.array([0, 1, 2, 255]), 3)[:, None] * np.ones(16)
        picture(tmp_path / "pairs" / "masks" / f"{index}_mask.png", mask)
    return tmp_path / "pairs"


def refused(tmp_path: Path, path: Path, says: str, **options: object) -> None:
    """`path` cannot be added: one line that matches, and nothing is left in the collection."""
    base = tmp_path / "collection"
    with pytest.raises(DataError, match=says) as caught:
        add_set("x", path, data_dir=base, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert not base.exists() or not list(base.iterdir())


def test_a_folder_by_class_is_divided_by_chance_and_class(tmp_path: Path, by_class: Path) -> None:
    folder, record = add_set("mine", by_class, data_dir=tmp_path / "d", test_share=0.3, seed=1)
    assert record.classes == ("bead", "cell") and record.per_class == {"train": (7, 3), "test": (3, 2)}
    train, test = (load("mine", split, data_dir=tmp_path / "d") for split in ("train", "test"))  # type: ignore[arg-type]
    assert train.images.shape == (10, 3, 12, 16) and train.labels.tolist() == [0] * 7 + [1] * 3
    stored = {
        (image * 255).round().byte().numpy().transpose(1, 2, 0).tobytes() for image in (*train.images, *test.images)
    }
    assert stored == {np.asarray(Image.open(path)).tobytes() for path in by_class.rglob("*.png")}
    assert train.source == "added set" and train.task == "classification" and train.folder == folder
    assert train.sha256 == record.sha256["train"]
    again = add_set("again", by_class, data_dir=tmp_path / "d", test_share=0.3, seed=1)[1]
    other = add_set("other", by_class, data_dir=tmp_path / "d", test_share=0.3, seed=2)[1]
    assert again.sha256 == record.sha256 != other.sha256


def test_known_set_tells_shape_and_task_without_the_images(tmp_path: Path, by_class: Path) -> None:
    folder, _ = add_set("mine", by_class, size=(8, 6), grey=True, data_dir=tmp_path / "d")
    known = known_set("mine", tmp_path / "d")
    assert (known.shape, known.task, known.classes, known.full_counts) == (
        (1, 8, 6),
        "classification",
        ("bead", "cell"),
        (12, 3),
    )
    assert known_set("mine", folder) == known
    elsewhere = known_from(json.loads(json.dumps(summary_of(known))), origin="model")
    assert (elsewhere.shape, elsewhere.task, elsewhere.classes, elsewhere.counts) == (
        known.shape,
        known.task,
        known.classes,
        known.counts,
    )
    with pytest.raises(DataError, match="model: describes no image set"):
        known_from({"name": "mine"}, origin="model")


def test_added_sets_are_found_where_full_sets_belong(
    tmp_path: Path, by_class: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABCTL_DATA", str(tmp_path / "mydata"))
    add_set("mine", by_class)
    assert len(load("mine", "train", limit=4)) == 4
    assert [place.genuine for place in find_sets(verify=True) if place.name == "mine"] == [True]
    with pytest.raises(DataError, match="did you mean 'mine'"):
        load("mime", "train")
    with pytest.raises(DataError, match="no train images"):
        load("mine", "train", source="shipped")
    with pytest.raises(DataError, match="no official split 'validation'"):
        load("mine", "validation")
    assert remove_set("mine") == tmp_path / "mydata" / "mine"
    assert not list((tmp_path / "mydata").iterdir())
    with pytest.raises(DataError, match="no added set is called 'mine'"):
        remove_set("mine")
    with pytest.raises(DataError, match="known set"):
        remove_set("mnist")


def test_images_are_covered_and_cut_in_the_middle(tmp_path: Path) -> None:
    wide = np.zeros((8, 24))
    wide[:, 8:16] = 200
    for name in ("a", "b"):
        for index in range(2):
            picture(tmp_path / "m" / name / f"{index}.png", wide)
    add_set("m", tmp_path / "m", size=(4, 4), data_dir=tmp_path / "d")
    assert np.unique((load("m", "test", data_dir=tmp_path / "d").images * 255).round()).tolist() == [200]
    add_set("n", tmp_path / "m", size=(4, 12), data_dir=tmp_path / "d")
    image = load("n", "test", data_dir=tmp_path / "d").images[0, 0] * 255
    assert image[0].round().tolist() == [0] * 4 + [200] * 4 + [0] * 4


def test_every_kind_of_picture(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    grey = noise(6, 6)
    picture(folder / "a" / "grey.png", grey)
    Image.fromarray((grey * 257).astype(np.uint16)).save(folder / "a" / "deep.png")
    Image.fromarray(grey.astype(np.uint8)).convert("P").save(folder / "a" / "palette.gif")
    (folder / "b").mkdir()
    Image.fromarray((grey > 100).astype(np.uint8) * 255).convert("1").save(folder / "b" / "bits.png")
    clear = np.dstack([noise(6, 6, 3), np.zeros((6, 6))]).astype(np.uint8)
    Image.fromarray(clear).convert("LA").save(folder / "b" / "clear.png")
    picture(folder / "b" / "photo.jpg", grey)
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(folder / "b" / "turned.jpg", noise(6, 6), exif=turned)
    (folder / "b" / "notes.txt").write_text("not a picture", encoding="utf-8")
    (folder / "b" / ".hidden.png").write_text("nor this", encoding="utf-8")
    _, record = add_set("m", folder, data_dir=tmp_path / "d", test_share=0.01)
    assert record.shape == (1, 6, 6) and record.counts == {"train": 5, "test": 2}
    whole = [load("m", split, data_dir=tmp_path / "d") for split in ("train", "test")]  # type: ignore[arg-type]
    images = (np.concatenate([part.images for part in whole]) * 255).round().astype(int)
    assert sum((image[0] == grey).all() for image in images) == 3  # grey, deep and palette
    assert sum((image == 0).all() for image in images) == 1  # what is transparent is dark


def test_ready_splits_are_kept(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("val", 2), ("Test", 1)):
        for name in ("a", "b"):
            for index in range(count):
                picture(tmp_path / "m" / split / name / f"{index}.png", noise(5, 5))
    shared = tmp_path / "m" / "train" / "a" / "0.png"
    (tmp_path / "m" / "Test" / "a" / "0.png").write_bytes(shared.read_bytes())
    _, record = add_set("m", tmp_path / "m", data_dir=tmp_path / "d")
    assert record.counts == {"train": 6, "validation": 4, "test": 2}
    assert record.notes == ("1 of the test images are in the training images too: accuracy will be flattered",)
    assert len(load("m", "validation", data_dir=tmp_path / "d")) == 4


def test_pairs_give_labels_of_pixels(tmp_path: Path, pairs: Path) -> None:
    (pairs / "classes.txt").write_text("sky\nsea\nland\n", encoding="utf-8")
    _, record = add_set("mine", pairs, data_dir=tmp_path / "d", test_share=0.3)
    assert (record.task, record.shape, record.classes) == ("segmentation", (3, 12, 16), ("sky", "sea", "land"))
    assert record.per_class["test"] == (144, 144, 144)
    test = load("mine", "test", data_dir=tmp_path / "d")
    assert (
        test.labels.shape == (3, 12, 16) and test.labels[0, :, 0].tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [-100] * 3
    )
    small = add_set("small", pairs, data_dir=tmp_path / "d", size=(4, 4))[0]
    assert load("small", "train", data_dir=small).labels[0, :, 0].tolist() == [0, 1, 2, -100]


def test_segnets_folders_and_a_void_index(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for index in range(2):
            picture(tmp_path / "cv" / split / f"{index}.png", noise(4, 4, 3))
            picture(tmp_path / "cv" / f"{split}annot" / f"{index}.png", np.array([[0, 1, 2, 11]] * 4))
    _, record = add_set("cv", tmp_path / "cv", void=11, data_dir=tmp_path / "d")
    assert record.classes == ("0", "1", "2") and record.counts == {"train": 2, "validation": 2, "test": 2}
    assert load("cv", "test", data_dir=tmp_path / "d").labels[0, 0].tolist() == [0, 1, 2, -100]


@pytest.mark.parametrize("kind", ["classes.csv", "label_colors.txt"])
@pytest.mark.parametrize("palette", [False, True])
def test_masks_with_colours_and_a_table(tmp_path: Path, pairs: Path, kind: str, palette: bool) -> None:
    colours = np.array([[128, 0, 0], [0, 128, 0], [64, 64, 64], [0, 0, 0]], dtype=np.uint8)
    for path in (pairs / "masks").iterdir():
        indices = np.repeat(np.arange(4), 3)[:, None].repeat(16, 1)
        if palette:
            mask = Image.fromarray(indices.astype(np.uint8), "L").convert("P")
            mask.putpalette(colours.tobytes())
            mask.save(path)
        else:
            picture(path, colours[indices])
    names = ("roof", "grass", "road", "Void")
    if kind == "classes.csv":
        lines = ["name,r,g,b", *(f"{name},{r},{g},{b}" for name, (r, g, b) in zip(names, colours, strict=True))]
    else:
        lines = [f"{r} {g} {b}\t{name}" for name, (r, g, b) in zip(names, colours, strict=True)]
    (pairs / kind).write_text("\n".join(lines), encoding="utf-8")
    _, record = add_set("mine", pairs, data_dir=tmp_path / "d")
    assert record.classes == ("roof", "grass", "road")
    assert (
        load("mine", "test", data_dir=tmp_path / "d").labels[0, :, 5].tolist()
        == [0] * 3 + [1] * 3 + [2] * 3 + [-100] * 3
    )
    (pairs / kind).write_text("\n".join(lines[:-1]), encoding="utf-8")
    refused(tmp_path, pairs, r"_mask\.png: has the colour \(0, 0, 0\) at row 9, column 0")


@pytest.mark.parametrize("compress", [False, True])
def test_npz_idx_and_cifar_can_be_added(tmp_path: Path, compress: bool) -> None:
    arrays = {"x_train": noise(6, 8, 8, 3).astype(np.uint8), "y_train": np.arange(6) % 3}
    (np.savez_compressed if compress else np.savez)(tmp_path / "a.npz", **arrays, classes=np.array(["a", "b", "ü"]))  # type: ignore[operator]
    _, record = add_set("a", tmp_path / "a.npz", data_dir=tmp_path / "d", test_share=0.5)
    assert record.classes == ("a", "b", "ü") and record.counts == {"train": 3, "test": 3}
    _, record = add_set("small", tmp_path / "a.npz", data_dir=tmp_path / "d", test_share=0.5, size=(4, 4), grey=True)
    assert record.shape == (1, 4, 4)
    # what was added is an .npz of the same kind
    _, record = add_set("twice", tmp_path / "d" / "a" / "images.npz", data_dir=tmp_path / "d")
    assert record.sha256 == known_set("a", tmp_path / "d").digests
    _, record = add_set("idx", write_fashion(tmp_path / "idx", train=40, test=20), data_dir=tmp_path / "d")
    assert record.counts == {"train": 40, "test": 20} and record.kind == "IDX files"
    assert record.sha256["test"] == load("fashion-mnist", "test", data_dir=tmp_path / "idx").sha256


def test_npz_with_masks(tmp_path: Path) -> None:
    masks = (np.arange(4 * 6 * 6) % 3).reshape(4, 6, 6)
    masks[masks == 2] = 9
    np.savez(
        tmp_path / "a.npz",
        x_train=noise(4, 6, 6).astype(np.uint8),
        y_train=masks,
        x_test=noise(4, 6, 6).astype(np.uint8),
        y_test=masks,
    )
    add_set("a", tmp_path / "a.npz", void=9, size=(3, 3), data_dir=tmp_path / "d")
    assert load("a", "test", data_dir=tmp_path / "d").labels.unique().tolist() == [-100, 0, 1]


def test_what_is_wrong_with_a_folder_by_class(tmp_path: Path, by_class: Path) -> None:
    refused(tmp_path, tmp_path / "nowhere", "no such file or folder")
    refused(tmp_path, by_class, "expected more than 0", test_share=1.0)
    odd = picture(by_class / "cell" / "9.png", noise(13, 16))
    refused(tmp_path, by_class, r"cell.9\.png: is 13x16 pixels \(y x x\), 0\.png is 12x16; say one size")
    odd.write_bytes(b"GIF89a no picture at all")
    refused(tmp_path, by_class, r"9\.png: (is no picture|cannot be read)")
    odd.write_bytes((by_class / "cell" / "1.png").read_bytes()[:200])
    (by_class / "bead" / "3.png").write_bytes((by_class / "bead" / "4.png").read_bytes()[:-60])
    refused(
        tmp_path, by_class, r"bead.3\.png: cannot be read as a picture .* \(and 1 besides, the next is .*cell.9\.png\)"
    )
    for path in (odd, by_class / "bead" / "3.png"):
        path.unlink()
    (by_class / "empty").mkdir()
    refused(tmp_path, by_class, "empty: holds no picture")
    picture(by_class / "empty" / "one.png", noise(12, 16, 3))
    refused(tmp_path, by_class, "has one image of class 'empty' only")
    (by_class / "train").mkdir()
    refused(tmp_path, by_class, "has train but not both train and test")


def test_what_is_wrong_with_classes(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    refused(tmp_path, tmp_path / "m", "has neither folders of images by class")
    picture(tmp_path / "m" / "a" / "0.png", noise(4, 4))
    refused(tmp_path, tmp_path / "m", r"one class only \(a\)")
    for split, names in (("train", "ab"), ("test", "ac")):
        for name in names:
            picture(tmp_path / "n" / split / name / "0.png", noise(4, 4))
    refused(tmp_path, tmp_path / "n", "class 'b' is not in both test and train")
    np.savez(tmp_path / "a.npz", x_train=noise(4, 5, 5).astype(np.uint8), y_train=np.array([0, 0, 3, 3]))
    refused(tmp_path, tmp_path / "a.npz", r"class '1' \(label 1\) has no training image")
    np.savez(tmp_path / "a.npz", x_train=noise(4, 5, 5).astype(np.uint8), y_train=np.array([1, 1, 1, 1]))
    refused(tmp_path, tmp_path / "a.npz", "has one class only")
    names = {"classes": np.array(["only", "two"])}
    np.savez(tmp_path / "a.npz", x_train=noise(4, 5, 5).astype(np.uint8), y_train=np.array([0, 0, 2, 2]), **names)
    refused(tmp_path, tmp_path / "a.npz", "holds label 2, its 2 classes are 0 to 1")
    (tmp_path / "photos.zip").write_bytes(b"PK")
    refused(tmp_path, tmp_path / "photos.zip", "unpack an archive first")


def test_what_is_wrong_with_pairs(tmp_path: Path, pairs: Path) -> None:
    mask = pairs / "masks" / "3_mask.png"
    kept = mask.read_bytes()
    mask.unlink()
    refused(tmp_path, pairs, r"images.3\.png: has no mask masks/3\.png")
    picture(pairs / "masks" / "3.png", np.zeros((12, 15)))
    refused(tmp_path, pairs, r"3\.png: is 12x15 pixels \(y x x\), its image 3\.png is 12x16")
    (pairs / "masks" / "3.png").unlink()
    picture(pairs / "masks" / "3.jpg", np.zeros((12, 16)))
    refused(tmp_path, pairs, r"3\.jpg: this format changes labels")
    (pairs / "masks" / "3.jpg").unlink()
    mask.write_bytes(kept)
    lonely = picture(pairs / "masks" / "99.png", np.zeros((12, 16)))
    refused(tmp_path, pairs, r"99\.png: is a mask without an image")
    lonely.unlink()
    picture(mask, noise(12, 16, 3))
    refused(tmp_path, pairs, r"3_mask\.png: is a mask with colours; put a table")
    mask.write_bytes(kept)
    (pairs / "classes.txt").write_text("sky\nsea\n", encoding="utf-8")
    refused(tmp_path, pairs, r"_mask\.png: holds label 2, the 2 classes are 0 to 1 .*\(and 9 besides")
    (pairs / "classes.txt").write_text("sky\nsea\nsky\n", encoding="utf-8")
    refused(tmp_path, pairs, r"classes\.txt: names no class, one twice")
    (pairs / "classes.txt").unlink()
    (pairs / "classes.csv").write_text("name,r,g,b\nsky,1,2\n", encoding="utf-8")
    refused(tmp_path, pairs, r"classes\.csv: line 2 is no class with a colour")
    (pairs / "classes.csv").unlink()
    for path in (pairs / "masks").iterdir():
        picture(path, np.full((12, 16), 255) * (np.arange(16) > 7))
    refused(tmp_path, pairs, r"one class only.*255 is no class")


@pytest.mark.parametrize("name", ["mnist", "Mine", "a/b", "../x", "", ".x", "x.", "nul", "com1.png", "a b", "x" * 65])
def test_names_that_cannot_be(tmp_path: Path, by_class: Path, name: str) -> None:
    with pytest.raises(DataError, match="name of a"):
        add_set(name, by_class, data_dir=tmp_path / "d")


def test_a_name_that_is_taken(tmp_path: Path, by_class: Path) -> None:
    add_set("mine", by_class, data_dir=tmp_path / "d")
    with pytest.raises(DataError, match="is there already; choose another name, or `labctl data remove mine`"):
        add_set("mine", by_class, data_dir=tmp_path / "d")
    (tmp_path / "d" / "folder").mkdir()
    with pytest.raises(DataError, match="is no added set"):
        add_set("folder", by_class, data_dir=tmp_path / "d")


def test_ctrl_c_leaves_nothing(tmp_path: Path, by_class: Path) -> None:
    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add_set("mine", by_class, data_dir=tmp_path / "d", progress=interrupt)
    assert not list((tmp_path / "d").iterdir())


def test_a_set_that_was_changed_is_told(tmp_path: Path, by_class: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABCTL_DATA", str(tmp_path / "d"))
    folder, _ = add_set("mine", by_class)
    images = folder / "images.npz"
    content = bytearray(images.read_bytes())
    content[200] ^= 1
    images.write_bytes(content)
    with pytest.raises(DataError, match=r"changed after they were added|images\.npz: is truncated, damaged"):
        load("mine", "train")
    assert [place.genuine or place.problem for place in find_sets(verify=True) if place.name == "mine"] != [True]
    images.write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"has \d+ bytes, \d+ were written; remove mine and add it again"):
        known_set("mine")
    (folder / "set.json").write_text("{}", encoding="utf-8")
    (place,) = [place for place in find_sets() if place.name == "mine"]
    assert "set.json: is damaged" in place.problem
    assert "labctl data remove mine" in fetch_hint("mine")
    remove_set("mine")


def test_conversion_needs_memory_for_a_few_images_only(tmp_path: Path) -> None:
    images, one = 1500, 64 * 64 * 3
    np.savez(tmp_path / "a.npz", x_train=np.zeros((images, 64, 64, 3), dtype=np.uint8), y_train=np.arange(images) % 2)
    tracemalloc.start()
    add_set("a", tmp_path / "a.npz", data_dir=tmp_path / "d")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.4 * images * one  # bytes; as float32 it would be 4


def test_the_command_line(tmp_path: Path, by_class: Path) -> None:
    run, base = CliRunner(), ["--data-dir", str(tmp_path / "d")]
    shown = run.invoke(data_cli.app, ["add", "mine", str(by_class), "--size", "8x6", "--grey", *base])
    assert "folder of images by class, classification: 12 train, 3 test, 8x6 grey" in shown.output
    assert "0  bead  8 train, 2 test" in shown.output
    listed = run.invoke(data_cli.app, ["list", "--verify", *base])
    assert listed.exit_code == 0 and "mine  added set, 12 train, 3 test, genuine, in" in listed.output
    answer = json.loads(run.invoke(data_cli.app, ["add", "two", str(by_class), "--json", *base]).stdout)
    assert answer["shape"] == [3, 12, 16] and answer["folder"] == str(tmp_path / "d" / "two")
    assert "removed" in run.invoke(data_cli.app, ["remove", "two", *base]).output
    assert isinstance(
        run.invoke(data_cli.app, ["add", "x", str(by_class), "--size", "8by6", *base]).exception, ConfigError
    )
    # a copy of a public set that is not whole
    write_fashion(tmp_path / "d" / "fashion-mnist")
    listed = run.invoke(data_cli.app, ["list", "--verify", *base])
    assert "INCOMPLETE: the set has 60000 train, 10000 test), ALTERED" in listed.output
    assert isinstance(listed.exception, DataError) and "fashion-mnist" in str(listed.exception)
