"""docs/how-to/train.md says of every key of a recipe what it is, and its default."""

from __future__ import annotations

import re
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from labctl.learning.recipe import Recipe, parse_recipe

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "train.md"


def keys_of(model: type[BaseModel], before: str = "") -> Iterator[tuple[str, object]]:
    for name, field in model.model_fields.items():
        sections = [
            part
            for part in (field.annotation, *typing.get_args(field.annotation))
            if isinstance(part, type) and issubclass(part, BaseModel)
        ]
        if sections:
            yield from keys_of(sections[0], f"{before}{name}.")
        else:
            yield before + name, field.default


def test_the_guide_has_every_key_with_its_default() -> None:
    text = GUIDE.read_text(encoding="utf-8").partition("## Every key")[2]
    said = dict(re.findall(r"^\| `([a-z_.]+)` \| (.*?) \|", text, flags=re.MULTILINE))
    expected = {key: default for key, default in keys_of(Recipe) if not key.startswith("imported.")}
    assert said.keys() == expected.keys(), "docs/how-to/train.md: the table of keys is not the recipe's"
    for key, default in expected.items():
        if default is PydanticUndefined:
            assert said[key] == "required", key
        elif default is None:
            assert said[key] == "none", key
        else:
            value = tomllib.loads(f"value = {said[key].strip('`')}")["value"]
            assert (tuple(value) if isinstance(value, list) else value) == default, f"{key}: the guide says {said[key]}"


def test_the_example_of_the_guide_is_a_recipe() -> None:
    example = re.search(r"```toml\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert example is not None
    recipe = parse_recipe(example[1])
    assert recipe.student.kernel_sizes == (3, 3, 3) and len(recipe.student.seeds) == 3
