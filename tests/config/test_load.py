"""A mistake in a bench file is one line that says where, what, and what to write instead."""

from __future__ import annotations

import re
import string
import tomllib
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from labctl.config import load_bench, parse_bench
from labctl.errors import ConfigError
from labctl.workspace import Workspace

GOOD = """\
[bench]
name = "table-3"

[optics]
wavelength_nm = 532
f1_mm = 200
f2_mm = 200.0

[slm]
driver = "slmsuite:holoeye.Holoeye"
settle_ms = 30

[slm.options]
anything = { goes = [1, "two"] }

[input]
driver = "display"
settle_ms = 20

[camera]
driver = "package.module:Class"
exposure_ms = 1.5

[instruments.laser]
driver = "visa"
role = "laser"
limits = { power_mw = [0, 20] }
"""


def problem(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_bench(text, "b.toml")
    return str(caught.value)


def damaged(old: str, new: str) -> str:
    assert old in GOOD
    return problem(GOOD.replace(old, new, 1))


def test_a_good_file_says_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "table-3.toml"
    path.write_text(GOOD, encoding="utf-8")
    config = load_bench(path)
    assert config.bench.name == "table-3"
    assert config.slm.options == {"anything": {"goes": [1, "two"]}}
    assert config.input is not None
    assert config.input.settle_ms == 20.0
    assert config.instruments["laser"].limits == {"power_mw": (0.0, 20.0)}
    assert config.path == path
    assert not config.simulated
    assert config.real


def test_a_bench_may_be_simulated_in_part() -> None:
    mixed = parse_bench(GOOD.replace('"package.module:Class"', '"simulated"'))
    assert mixed.simulated
    assert mixed.real
    assert not parse_bench(re.sub(r"driver = .*", 'driver = "simulated"', GOOD)).real


def test_the_digest_is_of_the_content_and_not_of_the_layout() -> None:
    laid_out_otherwise = "# a comment\n" + GOOD.replace("f1_mm = 200\n", "f1_mm    = 200.0 # mm\n")
    assert parse_bench(GOOD).digest() == parse_bench(laid_out_otherwise).digest()
    assert parse_bench(GOOD).digest() != parse_bench(GOOD.replace("532", "533")).digest()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("settle_ms = 30", "setle_ms = 30", "line 11: slm.setle_ms is not a key of a bench file: did you mean settle_ms?"),
        ("wavelength_nm = 532", "wavelength_um = 0.532", "line 5: optics.wavelength_um is not a key of a bench file: write wavelength_nm = 532"),
        ("settle_ms = 30", "settle_s = 0.03", "line 11: slm.settle_s is not a key of a bench file: write settle_ms = 30"),
        ("f1_mm = 200", "f1 = 200", "line 6: optics.f1 is not a key of a bench file: write f1_mm, in mm"),
        ("wavelength_nm = 532", "wavelength_nm = 0.532", "line 5: optics.wavelength_nm = 0.532: must be greater than 200 nm; 0.532 um would be 532"),
        ("settle_ms = 30\n", "", "line 9: slm.settle_ms is missing: add settle_ms = ... (ms) to [slm]"),
        ("[input]", "[inptu]", "line 16: inptu is not a table of a bench file: did you mean input?"),
        ("f1_mm = 200", 'f1_mm = "200"', "line 6: optics.f1_mm = '200': must be a valid number"),
        ("f1_mm = 200", "f1_mm = true", "line 6: optics.f1_mm = true: must be a valid number"),
        ("f1_mm = 200", "f1_mm = inf", "line 6: optics.f1_mm = inf: must be a finite number"),
        ("f1_mm = 200", "f1_mm = nan", "line 6: optics.f1_mm = nan: must be a finite number"),
        ("f1_mm = 200", "f1_mm = -200", "line 6: optics.f1_mm = -200: must be greater than 0 mm"),
        ("f1_mm = 200", "f1_mm = 200,0", "line 6, column 12: something follows the value that does not belong there (a number has a point, not a comma)"),
        ("f1_mm = 200", "f1_mm = 200\nf1_mm = 100", "the same key or table stands here twice"),
        ('"table-3"', '"table 3"', "line 2: bench.name = 'table 3': a name starts with a letter or digit"),
        ('"visa"', '"not a driver!"', 'a driver is a name ("simulated") or a class ("package.module:Class")'),
        ('role = "laser"', 'role = "lazer"', 'did you mean "laser"?'),
        ("[0, 20]", "[20, 0]", "the limits of power_mw must be [lowest, highest], not [20, 0]"),
        ("[0, 20]", "[20]", "must be two numbers, [lowest, highest]"),
        ('"display"', "display", "line 17, column 10: this value is not valid TOML: text needs quotes"),
        ("[camera]", "[camera", "line 20, column 8: Expected ']' at the end of a table declaration"),
        ('[instruments.laser]', "[instruments]\nlaser = 3\n[x]", "(and 1 more)"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place_and_its_cure(old: str, new: str, said: str) -> None:
    text = damaged(old, new)
    assert text.startswith("b.toml")
    assert said in text
    assert "\n" not in text


def test_a_missing_table_says_what_goes_into_it() -> None:
    start, end = GOOD.index("[camera]"), GOOD.index("[instruments")
    assert problem(GOOD[:start] + GOOD[end:]) == (
        "b.toml: the table [camera] is missing: add it, with driver, exposure_ms"
    )


def test_one_mistake_is_not_told_twice_and_others_are_counted() -> None:
    once = damaged("settle_ms = 30", "setle_ms = 30")
    assert "more" not in once
    both = problem(GOOD.replace("settle_ms = 30", "setle_ms = 30").replace("f1_mm = 200", "f1_mm = 0"))
    assert both.endswith("did you mean settle_ms? (and 1 more)")


def test_a_missing_bench_lists_those_there_are(workspace: Workspace) -> None:
    with pytest.raises(ConfigError, match=r"no bench 'sim4f' in .*did you mean sim-4f\?"):
        load_bench("sim4f")
    with pytest.raises(ConfigError, match=r"no bench 'zzz' in .*: the benches are .*sim-4f"):
        load_bench("zzz", workspace)


def test_every_shipped_bench_is_good(workspace: Workspace) -> None:
    assert "sim-4f" in workspace.bench_names()
    for name in workspace.bench_names():
        config = load_bench(name, workspace)
        assert config.bench.name == name
        assert config.path == workspace.benches / f"{name}.toml"


@pytest.mark.parametrize("given_", ["", "  ", "a\0b", "x" * 5000, "no/such/file.toml", "nothing.toml", Path("nothing")])
def test_what_names_no_bench_is_a_config_error(given_: str | Path, workspace: Workspace) -> None:
    with pytest.raises(ConfigError):
        load_bench(given_, workspace)


def test_a_folder_is_no_bench_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_bench(tmp_path)


def test_bytes_that_are_no_text_are_named_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    path.write_bytes(GOOD.encode().replace(b"532", b"532 # \xb5m", 1))
    with pytest.raises(ConfigError, match=r"b.toml, line 5: this is not UTF-8 text"):
        load_bench(path)


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load_bench(path).digest() == parse_bench(GOOD).digest()


@given(
    start=st.integers(0, len(GOOD)),
    length=st.integers(0, 40),
    put=st.text(st.sampled_from(string.printable + "µ\0\u2028\ud7ff"), max_size=30),
)
@example(start=0, length=len(GOOD), put="")
@example(start=60, length=0, put="a = " + "[" * 20)
def test_no_damage_to_a_file_gives_anything_but_a_config_error(start: int, length: int, put: str) -> None:
    check(GOOD[:start] + put + GOOD[start + length :])


@pytest.mark.parametrize(
    "value", ["[" * 5000, "{a=" * 5000, "9" * 5000, "1e999", "-inf", "0001-01-01", "1979-05-27T07:32:00Z", "''", "[[[]]]", "0x" + "f" * 5000]
)  # fmt: skip
@pytest.mark.parametrize("key", ["wavelength_nm", "f1_mm", "x"])
def test_no_strange_value_gives_anything_but_a_config_error(key: str, value: str) -> None:
    check(GOOD.replace("wavelength_nm = 532", f"{key} = {value}"))


VALUES = st.recursive(
    st.none().map(lambda _: 0) | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.sampled_from(["bench", "optics", "slm", "input", "camera", "instruments", "simulation", "safety", "x"]), VALUES
)
def test_no_content_in_any_table_gives_anything_but_a_config_error(table: str, content: object) -> None:
    import tomlkit

    whole = tomllib.loads(GOOD)
    whole[table] = content
    try:
        text = tomlkit.dumps(whole)
    except (ValueError, TypeError):  # TOML cannot say it
        return
    check(text)


def check(text: str) -> None:
    said = ""
    try:
        parse_bench(text, "b.toml")
    except ConfigError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < 600
