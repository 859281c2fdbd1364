"""The recipe: strict, and its messages help."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.errors import ConfigError
from labctl.learning.recipe import load_recipe, parse_recipe

from .conftest import TINY_RECIPE


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (TINY_RECIPE.replace("maps = 2", "mapps = 2"), "unknown key 'student.mapps'; did you mean 'maps'"),
        (TINY_RECIPE.replace("hidden = 8", "hiden = 8"), "'student.backend.hiden'; did you mean 'hidden'"),
        (TINY_RECIPE.replace("[robustness]", "[robust]"), "'robust'; did you mean 'robustness'"),
        (TINY_RECIPE.replace('name = "tiny"', ""), "key 'name' is missing"),
        (TINY_RECIPE.replace("maps = 2", "maps = 0"), "student.maps: .*greater than or equal to 1.*got 0"),
        (TINY_RECIPE.replace("maps = 2", 'maps = "two"'), "student.maps: .*integer"),
        (TINY_RECIPE.replace("[3, 3]", "[3, 4]"), "odd sizes"),
        (TINY_RECIPE.replace('name = "fashion-mnist"', 'name = "fashion"'), "did you mean 'fashion-mnist'"),
        (TINY_RECIPE.replace("gain = 0.1", "gain = 2"), "robustness.gain"),
        ("name = ", "no valid TOML"),
        ('name = "../out"', "name"),
    ],
)
def test_bad_recipes_name_the_file_the_key_and_the_nearest(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=says) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_an_absent_or_binary_recipe_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(tmp_path / "absent.toml")
    (tmp_path / "bin.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(tmp_path / "bin.toml")


def test_hash_depends_on_what_is_said_not_on_how() -> None:
    plain = parse_recipe('name = "a"')
    assert plain.sha256 == parse_recipe('# a comment\nname = "a"\nnotes = "b"\n[student]\nmaps = 8\n').sha256
    assert plain.sha256 != parse_recipe('name = "a"\n[student]\nmaps = 9\n').sha256
