"""Proof of pairing: a code in an unused part of the field says which patterns a frame was really exposed with.

Pairing by time trusts what devices say about time. A panel that swaps late, or silently ignores a write, says nothing;
a proof sees it in the light. Each exposure is given a number, `Proof.stamp` draws it into the patterns as a few dots,
and `Proof.agrees` reads it back from the frame.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from labctl.bench.frames import Frame
from labctl.bench.panels import token
from labctl.errors import CalibrationError

if TYPE_CHECKING:
    from labctl.optics.marks import Marks

Gray = NDArray[np.unsignedinteger[Any]]
ON, OFF = 0.7, 0.2
"""Least light of a dot that is on, and most of one that is off, over the typical light of those that are on."""
FAINTEST = 0.2
"""Typical light of the dots that are on, over what it was when the proof was learnt: below, there is none."""
SIGMAS = 40.0
"""Light of the faintest dot over its noise, at least: a threshold is then some six standard deviations away."""
KEPT = 4
"""SLM patterns that are remembered whole."""
REMEMBERED = 4096
"""SLM patterns whose marks are remembered."""


@runtime_checkable
class Proof(Protocol):
    """What the engine asks of a proof of pairing."""

    @property
    def size(self) -> int:
        """How many codes there are: exposure n carries code ``n % size``, so that neighbours always differ."""
        ...

    @property
    def window(self) -> tuple[int, int, int, int]:
        """Camera rows and columns (first row, end row, first column, end column) that every frame must hold."""
        ...

    def stamp(
        self, slm: Gray | None, input: Gray | None, code: int  # noqa: A002 - the bench file's word
    ) -> tuple[Gray | None, Gray | None]:  # fmt: skip
        """The same patterns with the code in them. New arrays: those given are never written to.

        The input carries `code`. The SLM's own mark does not follow `code`, or a slow SLM would have to change at every
        exposure: it depends on the pattern alone, and differs from that of the pattern stamped before it.

        Parameters
        ----------
        slm, input : gray patterns [row, column], or None
            None, for "leave it as it is", stays None.
        code : int
            From 0 to ``size - 1``.
        """
        ...

    def agrees(self, frame: Frame, code: int) -> bool:
        """Whether the frame shows this code in the input, and the mark of the SLM pattern that it is paired with.

        Raises
        ------
        CalibrationError
            If the frame cannot show it: its window leaves the dots out, or the exposure is too short for them.
        """
        ...


def widened(proof: Proof | None, instrument: str, setting: str, value: Any) -> Any:
    """What to set, so that a proof stays in view: a window of the camera grows to hold the proof's. Else, `value`.

    Parameters
    ----------
    proof : Proof or None
    instrument, setting, value
        As for `labctl.bench.Bench.set`.
    """
    if proof is None or (instrument, setting) != ("camera", "window") or value is None:
        return value
    (r0, r1, c0, c1), (p0, p1, q0, q1) = value, proof.window
    return min(r0, p0), max(r1, p1), min(c0, q0), max(c1, q1)


@dataclass(frozen=True, eq=False)
class Spots:
    """Where a camera sees the dots, and how bright: what `labctl.procedures.proof.LearnProof` measures.

    A spot is a few camera pixels; there is one for every mark of the SLM ("site"), every dot, and every copy of a dot.

    Attributes
    ----------
    pixels : int array [pixels, 2], camera pixels (row, column)
        Of all spots, one after another: sites slowest, copies fastest.
    starts : int array [sites * dots * copies]
        Where each spot's pixels begin.
    off, on : float array [sites, dots, copies], counts/s
        Mean light above dark with the dot off, and what it gains when the dot is on.
    dark : float, counts
    noise : float, counts
        Rms of a spot's mean from frame to frame, at worst.
    full_scale : int, counts
    crosstalk : float array [sites, dots, copies]
        Largest light seen in a spot whose dot was off, over what it would gain if on: of neighbours, images, other
        sites.
    """

    pixels: NDArray[np.intp]
    starts: NDArray[np.intp]
    off: NDArray[np.float64]
    on: NDArray[np.float64]
    dark: float
    noise: float
    full_scale: int
    crosstalk: NDArray[np.float64]

    @property
    def window(self) -> tuple[int, int, int, int]:
        """Camera rows and columns (first row, end row, first column, end column) that hold every spot."""
        low, high = self.pixels.min(0), self.pixels.max(0) + 1
        return int(low[0]), int(high[0]), int(low[1]), int(high[1])

    @property
    def shortest_s(self) -> float:
        """Shortest exposure at which the faintest dot stands out of the noise, s."""
        return SIGMAS * self.noise / float(self.on.min())

    def mean(self, frame: Frame) -> NDArray[np.float64]:
        """Mean counts of each spot [sites, dots, copies].

        Raises
        ------
        CalibrationError
            If the frame's window leaves spots out.
        """
        at = self.pixels - np.asarray(frame.origin)
        if (at < 0).any() or (at >= np.asarray(frame.data.shape)).any():
            r0, r1, c0, c1 = self.window
            raise CalibrationError(
                f"proof of pairing: the camera's window leaves out its dots, in rows {r0} to {r1} and columns {c0} to "
                f"{c1}: compile the deployment so that it includes them"
            )
        counts = frame.data[at[:, 0], at[:, 1]].astype(np.float64)
        size = np.diff(np.append(self.starts, len(counts)))
        return np.asarray((np.add.reduceat(counts, self.starts) / size).reshape(self.on.shape))

    def light(self, frame: Frame) -> NDArray[np.float64]:
        """Light of each spot [sites, dots, copies]: 0 as when its dot is off, 1 as when it is on.

        Raises
        ------
        CalibrationError
            If the frame cannot show the dots: out of its window, or exposed too briefly or too long.
        """
        mean, t = self.mean(frame), frame.exposure_s
        if t < self.shortest_s:
            raise CalibrationError(
                f"proof of pairing: {1e3 * t:.3g} ms is too short to see its dots, which need "
                f"{1e3 * self.shortest_s:.2g} ms: expose longer, or learn the proof again with more light"
            )
        off = self.dark + self.off * t
        on = np.minimum(off + self.on * t, self.full_scale)
        if (off > 0.7 * self.full_scale).any():
            raise CalibrationError(
                f"proof of pairing: at {1e3 * t:.3g} ms its dots are lost in light from elsewhere: expose less"
            )
        return np.asarray((mean - off) / (on - off))


@dataclass(frozen=True, eq=False)
class _Stamped:
    """An SLM pattern as it was given and as it was drawn, the tokens of both, and its site."""

    source: Gray
    drawn: Gray
    names: tuple[str, str]
    site: int


class DotProof:
    """A proof of pairing by dots: follows `Proof`.

    Parameters
    ----------
    marks : Marks
        What to draw.
    spots : Spots
        Where to see it.
    """

    def __init__(self, marks: Marks, spots: Spots) -> None:
        self.marks, self.spots = marks, spots
        self._lock = threading.Lock()
        self._stamped: deque[_Stamped] = deque(maxlen=KEPT)
        self._sites: OrderedDict[str, int] = OrderedDict()
        self._last = -1

    @property
    def size(self) -> int:
        """Words in the code book."""
        return len(self.marks.words)

    @property
    def window(self) -> tuple[int, int, int, int]:
        """What the camera must read at least: see `Spots.window`."""
        return self.spots.window

    def stamp(
        self, slm: Gray | None, input: Gray | None, code: int  # noqa: A002
    ) -> tuple[Gray | None, Gray | None]:  # fmt: skip
        """The same patterns with the code's dots, and with the SLM pattern's patches."""
        if input is not None:
            input = self.marks.on_input(input, self.marks.words[code])  # noqa: A001
        if slm is not None and self.marks.sites:
            slm = self._on_slm(slm)
        return slm, input

    def agrees(self, frame: Frame, code: int) -> bool:
        """Whether every copy of every dot is as the code says, where the SLM pattern puts it, and nowhere else.

        The frame may name its SLM pattern by the token of the stamped one, or of the one that was stamped.
        """
        site = 0
        if self.marks.sites:
            with self._lock:
                known = self._sites.get(frame.slm)
            if known is None:
                raise CalibrationError(
                    "proof of pairing: the frame is paired with an SLM pattern that was shown without its patches"
                )
            site = known
        light = self.spots.light(frame)
        due = np.zeros(light.shape, bool)
        due[site, self.marks.words[code]] = True
        level = float(np.median(light[due]))  # the laser drifts, or was set to another power
        if not level > FAINTEST:
            return False
        return bool(light[due].min() > ON * level and light[~due].max() < OFF * level)

    def _on_slm(self, pattern: Gray) -> Gray:
        """The pattern with its patches; the same array for the same pattern. Its site differs from that before it."""
        with self._lock:
            for ago, kept in enumerate(reversed(self._stamped)):
                if (ago == 0 or kept.site != self._last) and np.array_equal(kept.source, pattern):
                    del self._stamped[len(self._stamped) - 1 - ago]
                    break
            else:
                site = (self._last + 1) % len(self.marks.sites)
                drawn = self.marks.on_slm(pattern, site)
                drawn.flags.writeable = False
                kept = _Stamped(pattern.copy(), drawn, (token(pattern), token(drawn)), site)
            self._stamped.append(kept)
            self._last = kept.site
            for name in kept.names:
                self._sites[name] = kept.site
                self._sites.move_to_end(name)
            while len(self._sites) > REMEMBERED:
                self._sites.popitem(last=False)
            return kept.drawn
