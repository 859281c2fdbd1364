"""What a recorded run answered: its frames, readings and the choices at its prompts, served to its procedure once more.

Two uses. A run that was cut off is resumed: its procedure is fed what was recorded, until it asks for what was not, and
from there on the bench answers. A run is replayed with other analysis parameters: then there is no bench, and whatever
was not recorded is refused.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import h5py

from labctl.bench.frames import Frame
from labctl.errors import RunError
from labctl.runs import framefile
from labctl.runs.values import from_json, to_json

if TYPE_CHECKING:
    from labctl.procedures.messages import Exposure
    from labctl.runs.recorded import RecordedRun

Missing = Literal["live", "refuse"]
Setting = tuple[str, str]
WINDOW: Setting = ("camera", "window")
_NEVER_SET = object()


class Past:
    """The answers of a recorded run, each served once and in the order recorded.

    A frame answers an exposure if both patterns, exposure time and tag are equal, and if every setting that was noted
    with `note_set` had the same value when the frame was taken.

    Parameters
    ----------
    recorded : RecordedRun
    missing : "live" or "refuse"
        What happens when something was not recorded. With "live" the engine goes on with the bench, once every frame
        has been served; a miss before that means that the procedure has changed, and is an error. With "refuse" a miss
        is an error always.

    Attributes
    ----------
    remaining : int
        Frames not yet served.
    last : Frame or None
        Of the frames served, the one captured last.

    Raises
    ------
    RunError
        If the frames cannot be read, or are being written.
    """

    def __init__(self, recorded: RecordedRun, missing: Missing = "refuse") -> None:
        self.id = recorded.id
        self.missing = missing
        self.last: Frame | None = None
        self._last_row = -1
        self._default_s = recorded.intent.get("bench", {}).get("exposure_s")
        self._sensor = _sensor_shape(recorded)
        self._file: h5py.File | None = None
        self._rows: Any = ()
        self._tags: list[str] = []
        if (recorded.path / "frames.h5").exists():
            self._file = framefile.open_frames(recorded.path / "frames.h5")
            self._rows = framefile.rows_of(self._file)
            self._tags = [_canonical(json.loads(text)) for text in self._file["tags"].asstr()[: len(self._rows)]]
        self._served = [False] * len(self._rows)
        self.remaining = len(self._rows)
        self._left = defaultdict[int, int](int)  # frames not yet served, by batch
        self._by_place: dict[tuple[int, int], list[int]] = defaultdict(list)
        self._by_content: dict[tuple[str, str, float, str], deque[int]] = defaultdict(deque)
        self._by_kind: dict[tuple[float, str], list[int]] = defaultdict(list)
        for row, item in enumerate(self._rows):
            seconds, tag = float(item["exposure_s"]), self._tags[row]
            self._left[int(item["batch"])] += 1
            self._by_place[int(item["batch"]), int(item["position"])].append(row)
            self._by_content[item["slm"].decode(), item["input"].decode(), seconds, tag].append(row)
            self._by_kind[seconds, tag].append(row)
        self._readings: dict[Setting, deque[Any]] = defaultdict(deque)
        self._choices: dict[str, deque[str]] = defaultdict(deque)
        self._settings: dict[int, Mapping[Setting, Any]] = {}
        self._read_events(recorded.events)
        self._noted: dict[Setting, Any] = {}

    def take(self, batch: int, position: int, exposure: Exposure, slm: str, input: str) -> Frame | None:  # noqa: A002
        """The frame that answers an exposure.

        Parameters
        ----------
        batch, position : int
            Which `Measure` of the run, and which exposure of it. A frame recorded in this place is preferred; else one
            with the same content, wherever it was recorded.
        exposure : Exposure
        slm, input : str
            Tokens of the patterns that the exposure has in its place; "" for a panel that has been shown nothing yet,
            which fits any pattern.

        Returns
        -------
        Frame or None
            None if it was not recorded, and the bench is to take it.

        Raises
        ------
        RunError
            If it was not recorded though it should be, or its data do not fit their checksum.
        """
        seconds = self._default_s if exposure.exposure_s is None else exposure.exposure_s
        tag = _canonical(to_json(dict(exposure.tag)))
        alike = () if slm and input else self._by_kind.get((seconds, tag), ())
        for row in chain(self._by_place.get((batch, position), ()), self._unserved(slm, input, seconds, tag), alike):
            if not self._served[row] and not self._misfit(row, slm, input, seconds, tag):
                return self._serve(row, exposure)
        self._miss(batch, position, slm, input, seconds, tag)
        return None

    def reading(self, instrument: str, setting: str) -> tuple[bool, Any]:
        """Whether a reading was recorded, and its value; readings of one setting come in the order recorded.

        Raises
        ------
        RunError
            If it was not recorded though it should be.
        """
        found = self._readings.get((instrument, setting))
        if found:
            value = from_json(found.popleft())
            if isinstance(value, Mapping) and "$digest" in value:
                raise RunError(f"run {self.id} kept of a reading of {instrument}.{setting} its hash only")
            return True, value
        self._refuse(f"a reading of {instrument}.{setting}")
        return False, None

    def choice(self, text: str) -> str | None:
        """What was chosen at a prompt; None if nobody was asked.

        Raises
        ------
        RunError
            If nobody was asked though the frames that follow were recorded.
        """
        found = self._choices.get(text)
        if found:
            return found.popleft()
        self._refuse(f"an answer to '{text}'")
        return None

    def note_set(self, instrument: str, setting: str, value: Any) -> None:
        """Know that the procedure has set this: frames taken with another value do not answer it from now on."""
        self._noted[instrument, setting] = to_json(value)

    def close(self) -> None:
        """Release ``frames.h5``. Safe to call twice."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- finding

    def _unserved(self, slm: str, input: str, seconds: float, tag: str) -> Iterable[int]:  # noqa: A002
        """Frames of this content; those already served are dropped from the front, so that long runs stay fast."""
        rows = self._by_content.get((slm, input, seconds, tag), deque())
        while rows and self._served[rows[0]]:
            rows.popleft()
        return rows

    def _misfit(self, row: int, slm: str, input: str, seconds: float, tag: str) -> str:  # noqa: A002
        """In what a recorded frame differs from what is asked; "" in nothing."""
        item = self._rows[row]
        if self._tags[row] != tag:
            return f"was tagged {self._tags[row]}"
        if float(item["exposure_s"]) != seconds:
            return f"was exposed for {float(item['exposure_s']) * 1e3:.6g} ms, not {seconds * 1e3:.6g} ms"
        for what, token in (("slm", slm), ("input", input)):
            if token and item[what].decode() != token:
                return f"had another {'SLM' if what == 'slm' else 'input'} pattern"
        recorded = self._settings.get(int(item["batch"]))
        if recorded is None:  # the log of events is not whole
            return ""
        for key, value in self._noted.items():
            if recorded.get(key, _NEVER_SET) != value and not (key == WINDOW and self._is_window(row, value)):
                return f"was taken with another {key[0]}.{key[1]}"
        return ""

    def _is_window(self, row: int, value: Any) -> bool:
        """Whether a frame covers just this window of the camera."""
        rows, columns = (int(n) for n in self._rows[row]["stack"].decode().split("-")[0].split("x"))
        first, left = (int(n) for n in self._rows[row]["origin"])
        if value is None:
            return (first, left, rows, columns) == (0, 0, *self._sensor)
        return list(value) == [first, first + rows, left, left + columns]

    def _serve(self, row: int, exposure: Exposure) -> Frame:
        if self._file is None:
            raise RunError(f"the frames of run {self.id} were released already")
        frame = replace(framefile.frame_at(self._file, row, self._rows[row], check=True), tag=dict(exposure.tag))
        self._served[row] = True
        self.remaining -= 1
        self._left[int(self._rows[row]["batch"])] -= 1
        if row > self._last_row:
            self.last, self._last_row = frame, row
        return frame

    def _miss(self, batch: int, position: int, slm: str, input: str, seconds: float, tag: str) -> None:  # noqa: A002
        name = f"exposure {position} of batch {batch} {tag}"
        beside = [*self._by_place.get((batch, position), ()), *self._by_kind.get((seconds, tag), ())]
        why = next((why for row in beside if (why := self._misfit(row, slm, input, seconds, tag))), "")
        self._refuse(name, f" (the one recorded {why})" if why else "", batch)

    def _refuse(self, what: str, why: str = "", batch: int | None = None) -> None:
        """Nothing if the bench is to answer from here on."""
        if self.missing == "refuse":
            raise RunError(f"{what} was not recorded in run {self.id}{why}: replay can only analyse what was captured")
        left = self.remaining - (self._left[batch] if batch is not None else 0)
        if left:
            raise RunError(
                f"run {self.id} cannot be resumed: its procedure now wants {what}{why}, while {left} recorded frames "
                "are left that it wanted then; was labctl, the model or a calibration changed since?"
            )

    # -- the log of events

    def _read_events(self, events: Iterable[Mapping[str, Any]]) -> None:
        state: Mapping[Setting, Any] = {}
        ending = False
        for event in events:
            kind = event.get("kind")
            if kind in ("ending", "resumed"):  # between the two a procedure only cleaned up, which is not asked again
                ending = kind == "ending"
            if ending:
                continue
            match kind:
                case "set":
                    state = {**state, (event["instrument"], event["setting"]): event["value"]}
                case "measure":
                    self._settings.setdefault(int(event["batch"]), state)
                case "read":
                    self._readings[event["instrument"], event["setting"]].append(event["value"])
                case "prompt" if self.missing == "refuse" or event["choice"] != "abort":
                    self._choices[event["text"]].append(event["choice"])
                case _:
                    pass


def _canonical(tag: Any) -> str:
    return json.dumps(tag, sort_keys=True, ensure_ascii=False)


def _sensor_shape(recorded: RecordedRun) -> tuple[int, int]:
    geometry = from_json(recorded.intent.get("bench", {}).get("geometry") or {})
    shape = geometry.get("camera", {}).get("shape", (-1, -1))
    return int(shape[0]), int(shape[1])
