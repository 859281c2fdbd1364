"""The report: one page, whole, with everything in it, for every way a run can end."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs_fakes import Pairs, Rig
from sample_report import Sample

from labctl.errors import Aborted, RunError
from labctl.procedures.report_data import Picture
from labctl.runs.engine import Engine
from labctl.runs.figures import draw_picture
from labctl.runs.report import results_table, write_report
from labctl.runs.store import RunStore

VOID = {"meta", "img", "br", "source", "link", "input", "hr"}


class Checker(HTMLParser):
    """Finds tags that do not close, and addresses outside the page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.outside += [v for k, v in attrs if k in ("src", "href", "srcset") and v and not v.startswith("data:")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(path: Path) -> str:
    page = path.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.outside == []
    assert "url(" not in page
    return page


def visible(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)))


def test_a_full_report_has_every_section(rig: Rig, runs_dir: Path) -> None:
    engine = Engine(rig.bench, store=RunStore(runs_dir))
    engine.run(Sample(), provenance={"config": {"bench": {"name": "fake"}}, "seeds": {"world": 7}})
    page = checked(write_report(engine.folder))
    text = visible(page)
    for section in ("Results", "Confusion", "Masks", "Captured against predicted", "Curves", "Calibration", "Log"):
        assert f"<h2>{section}</h2>" in page
    assert "SIMULATED BENCH" in text
    assert engine.run_id in text
    assert "First light" in text
    assert "0.861" in text
    assert "0.831 – 0.889" in text
    assert "accuracy low" not in text
    assert "Ankle boot" in text
    assert "count/e-" in text
    assert "residual_px 0.083" in text
    assert "64 × 64" in text
    assert "eleven input pixels are dark" in text
    assert "&#34;world&#34;: 7" in page
    pictures = re.findall(r'<img class="data[^"]*" src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 8 + 2 + 9
    assert Image.open(io.BytesIO(base64.b64decode(pictures[0]))).size == (128, 128)


def test_a_run_without_a_report_of_its_own_shows_its_frames(rig: Rig, runs_dir: Path) -> None:
    engine = Engine(rig.bench, store=RunStore(runs_dir))
    engine.run(Pairs())
    page = checked(write_report(engine.folder))
    assert "<h2>Frames</h2>" in page
    assert "<h2>SLM patterns</h2>" in page
    assert "pairing" in page


def test_a_run_that_did_not_finish_says_so(rig: Rig, runs_dir: Path) -> None:
    engine = Engine(rig.bench, store=RunStore(runs_dir))
    rig.camera.before_grab = lambda number: engine.abort() if number == 2 else None
    with pytest.raises(Aborted):
        engine.run(Pairs())
    page = checked(write_report(engine.folder))
    assert '<span class="badge aborted">aborted</span>' in page
    with RunStore(runs_dir).create(Pairs(), rig.bench) as folder:
        pass
    assert '<span class="badge cut">cut off</span>' in checked(write_report(folder.path))
    with pytest.raises(RunError, match="not a run folder"):
        write_report(runs_dir)


def test_text_of_a_procedure_cannot_break_the_page(rig: Rig, runs_dir: Path) -> None:
    engine = Engine(rig.bench, store=RunStore(runs_dir))
    engine.run(Pairs(name="<script>alert(1)</script>"))
    assert "<script" not in checked(write_report(engine.folder))


@pytest.mark.parametrize(
    ("kind", "data", "ends"),
    [
        ("phase", np.array([[-3.0, 3.0]]), ("−π", "0", "π")),
        ("phase", np.array([[0.0, 6.0]]), ("0", "π", "2π")),
        ("gray", np.array([[0, 7]], np.uint8), ("0", "128", "255")),
        ("signed", np.array([[-1.0, 4.0]]), ("−4", "0", "4")),
        ("intensity", np.full((2, 2), np.nan), ("0", "0.5", "1")),
        ("intensity", np.zeros((2, 2), np.uint16), ("0", "0.5", "1")),
        ("amplitude", np.array([[3 + 4j]]), ("0", "2.5", "5")),
        ("signed", np.zeros((3, 3)), ("−1", "0", "1")),
    ],
)  # fmt: skip
def test_colour_bars_say_what_the_colours_mean(kind: str, data: np.ndarray, ends: tuple[str, str, str]) -> None:
    drawn = draw_picture(Picture("p", "", kind, data, "g"))  # type: ignore[arg-type]
    assert (drawn.low, drawn.middle, drawn.high) == ends


def test_big_pictures_are_made_smaller() -> None:
    drawn = draw_picture(Picture("p", "", "intensity", np.ones((2100, 900), np.uint16), "g"))
    image = Image.open(io.BytesIO(base64.b64decode(drawn.image.split(",")[1])))
    assert image.size == (300, 700)
    assert "shown at 1/3" in drawn.size


def test_intervals_join_their_column() -> None:
    columns, rows = results_table([{"arm": "a", "r": 0.5, "r low": 0.4, "r high": 0.625}, {"arm": "b", "n": 1200}])
    assert columns == ["arm", "r", "n"]
    assert rows[0][1].interval == "0.4 – 0.625"
    assert rows[1][1].text == ""
    assert rows[1][2].text == "1,200"
