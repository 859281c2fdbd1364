"""Taking exposures one after the other: reading out while the next one settles, and trying again what failed."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from labctl.bench.bench import Bench
from labctl.bench.frames import Frame, Taking
from labctl.errors import DeviceError

if TYPE_CHECKING:
    from labctl.bench.proof import Proof

log = logging.getLogger(__name__)
Gray = NDArray[np.unsignedinteger[Any]]
Answer = TypeVar("Answer")
LOOK_S = 0.1
"""While it rests before another try, a run looks so often whether it is to end, s."""
UNREAD = 2
"""Exposures that have been made and not been read out, at most: while one more is made, one may wait."""
SPARE = 4
"""Codes less than a proof has may be tried for one exposure: a panel that ignores them all must not come round."""
MARK = "+"
"""Between a pattern's token and its code, in the token of a stamped pattern."""


class Asked(Protocol):
    """An exposure as a procedure asks for it (`labctl.procedures.messages.Exposure`)."""

    @property
    def slm(self) -> Gray | None: ...

    @property
    def input(self) -> Gray | None: ...

    @property
    def exposure_s(self) -> float | None: ...

    @property
    def settle_s(self) -> float | None: ...

    @property
    def tag(self) -> Mapping[str, Any]: ...


class Watcher(Protocol):
    """Whoever drives a `Taker`."""

    def gate(self, before_waiting: Callable[[], None]) -> None:
        """Called before each exposure and each further try: waits while paused, raises where the run is to end."""
        ...

    def took(self, shot: Shot, frame: Frame) -> None:
        """A frame."""
        ...

    def trouble(self, error: DeviceError, what: str) -> None:
        """A device failed, or a proof did not agree; `what` is done about it."""
        ...

    def recovered(self) -> None:
        """What had failed works again."""
        ...


@dataclass(eq=False)
class Shot:
    """One exposure to take.

    Attributes
    ----------
    asked : Asked
    tokens : (str, str)
        Of its SLM and input pattern.
    place : any
        The driver's own; comes back with the frame.
    last : bool
        Whether the bench may be idle afterwards: its frame is then read out at once.
    number, repeats : int
        The frame's number once it is known, and how often the exposure had to be repeated.
    code : int
        Of the proof of pairing, as it was stamped last; -1 without one.
    """

    asked: Asked
    tokens: tuple[str, str]
    place: Any = None
    last: bool = False
    number: int | None = None
    repeats: int = 0
    code: int = -1


class Mismatch(DeviceError):
    """A frame shows other patterns than those it is paired with."""


@dataclass
class Taker:
    """Takes shots on a bench, on the thread that calls it. A frame reaches `watcher.took` in the order of the shots.

    Parameters
    ----------
    bench : Bench
    watcher : Watcher
    proof : Proof, optional
        Stamped into every exposure, and read back from every frame.

    Attributes
    ----------
    mismatches : int
        Frames that did not show their code.
    """

    bench: Bench
    watcher: Watcher
    proof: Proof | None = None
    mismatches: int = 0
    _open: deque[tuple[Shot, Taking]] = field(default_factory=deque)
    _stamped: tuple[str, Gray | None] = ("", None)
    _unopened: str = ""
    _code: int = -1

    def take(self, shot: Shot) -> None:
        """Take one exposure; the frame of the one before is read out on the way, or after, as it costs least.

        Raises
        ------
        DeviceError
            If a device fails for good, or the proof never agrees.
        SafetyError
            If an interlock trips or forbids the exposure.
        """
        self.watcher.gate(self.drain)
        try:
            self._advance(shot)
        except DeviceError as error:
            self._recover(error, [*(open_shot for open_shot, _ in self._open), shot])

    def drain(self) -> None:
        """Read out what is still to be read."""
        try:
            while self._open:
                self._finish()
        except DeviceError as error:
            self._recover(error, [open_shot for open_shot, _ in self._open])

    def drop(self) -> None:
        """Forget what is still to be read."""
        self._open.clear()
        self.bench.discard()

    def forget(self) -> None:
        """As `drop`, but the camera is not told: it hangs."""
        self._open.clear()

    def insist(self, device: str, call: Callable[[], Answer]) -> Answer:
        """Make a call to a device, again and again within the limits of the bench's recovery.

        Raises
        ------
        LabctlError
            What the last try raised.
        """
        try:
            return call()
        except DeviceError as error:
            failure = error
        tries = self._tries(device)
        for attempt in range(1, tries + 1):
            self._prepare(failure, attempt, device)
            try:
                answer = call()
            except DeviceError as error:
                failure = error
            else:
                self.watcher.recovered()
                return answer
        raise self._given_up(failure, tries)

    # -- without trouble ----------------------------------------------------------------------------------------------

    def _advance(self, shot: Shot) -> None:
        bench = self.bench
        self._show(shot)
        readout_s, begins = bench.facts.readout_s, max(bench.ready_at(shot.asked.settle_s), bench.clock.now())
        while self._open and self._open[0][1].exposed_at + readout_s <= begins:
            self._finish()  # it has been read out by the time that the next exposure can begin
        while len(self._open) >= UNREAD:
            self._finish()
        taking = bench.begin(
            shot.asked.exposure_s, tag=shot.asked.tag, number=shot.number, settle_s=shot.asked.settle_s
        )
        shot.number = taking.number
        self._open.append((shot, taking))
        while self._open and (shot.last or not bench.overlaps):
            self._finish()

    def _show(self, shot: Shot, *, again: bool = False) -> None:
        slm, shown, tokens = shot.asked.slm, shot.asked.input, shot.tokens
        if self.proof is not None:
            slm, shown, tokens = self._stamp(self.proof, shot)
        self.bench.show(slm=slm, input=shown, tokens=tokens, again=again)

    def _finish(self) -> None:
        """Read out the oldest; it stays where it is if that fails."""
        shot, taking = self._open[0]
        frame = self.bench.finish(taking)
        self._check(shot, frame)
        self._open.popleft()
        self._give(shot, frame)

    def _give(self, shot: Shot, frame: Frame) -> None:
        if self.proof is None and not shot.repeats:
            self.watcher.took(shot, frame)
            return
        self.watcher.took(shot, replace(_as_asked(frame), repeats=shot.repeats, proof=shot.code))

    # -- proof of pairing ---------------------------------------------------------------------------------------------

    def _stamp(self, proof: Proof, shot: Shot) -> tuple[Gray | None, Gray | None, tuple[str, str]]:
        # counted by stamps: whatever was shown last, an exposure that is being repeated too, carries another code
        number = self.bench.next_number if shot.number is None else shot.number
        self._code = (number if self._code < 0 else self._code + 1) % proof.size
        code = shot.code = self._code
        slm_token, input_token = shot.tokens
        slm, shown = proof.stamp(shot.asked.slm, shot.asked.input, code)
        if slm is not None and self._stamped[0] == slm_token:
            slm = self._stamped[1]
        elif slm is not None:
            self._stamped = slm_token, slm
        return slm, shown, (slm_token and f"{slm_token}{MARK}", input_token and f"{input_token}{MARK}{code}")

    def _check(self, shot: Shot, frame: Frame) -> None:
        if self.proof is None:
            return
        code = shot.code
        if not self.proof.agrees(replace(_as_asked(frame), proof=code), code):
            self.mismatches += 1
            raise Mismatch(
                f"camera: frame {frame.number} does not show the code {code} of its patterns: a panel was late, "
                "ignored a pattern, or the frame is an old one",
                device="camera",
            )

    # -- with trouble -------------------------------------------------------------------------------------------------

    def _tries(self, device: str) -> int:
        recovery = self.bench.recovery
        return recovery.retries + (recovery.reopens if self.bench.reopens(device) else 0)

    def _recover(self, failure: DeviceError, shots: list[Shot]) -> None:
        """Take these again, one by one and without overlap, until all are there or the limits are reached."""
        attempt = mismatches = 0
        shots = list(dict.fromkeys(shots))
        self._open.clear()
        while shots:
            limit = self._tries(failure.device)
            if isinstance(failure, Mismatch):
                codes = 0 if self.proof is None else self.proof.size - SPARE
                mismatches, limit = mismatches + 1, min(self.bench.recovery.mismatches, codes)
                self._prepare(failure, mismatches, "", limit=limit)
            else:
                attempt += 1
                self._prepare(failure, attempt, failure.device)
            try:
                while shots:
                    shot = shots[0]
                    shot.repeats += 1
                    self._show(shot, again=True)
                    taking = self.bench.begin(
                        shot.asked.exposure_s, tag=shot.asked.tag, number=shot.number, settle_s=shot.asked.settle_s
                    )
                    shot.number = taking.number
                    frame = self.bench.finish(taking)
                    self._check(shot, frame)
                    self._give(shot, frame)
                    shots.pop(0)
                    attempt = mismatches = 0
            except DeviceError as error:
                failure = error
        self.watcher.recovered()

    def _prepare(self, failure: DeviceError, attempt: int, device: str, *, limit: int | None = None) -> None:
        """Before one more try: rest, and open the device again once plain tries have not helped."""
        limit = self._tries(device) if limit is None else limit
        if not failure.passing or attempt > limit:
            raise self._given_up(failure, attempt - 1)
        reopening = bool(device) and attempt > self.bench.recovery.retries
        what = f"{'opening it again' if reopening else 'trying again'} ({attempt} of {limit})"
        self.watcher.trouble(failure, what)
        rest = self.bench.recovery.wait_s
        while rest > 0:
            self.watcher.gate(lambda: None)
            self.bench.clock.sleep(min(rest, LOOK_S))
            rest -= LOOK_S
        self.watcher.gate(lambda: None)
        self._unopened = ""
        try:
            self.bench.discard()
        except DeviceError as error:  # the try that follows fails too, and counts
            log.warning("%s", error)
        if not reopening:
            return
        try:
            self.bench.reopen(device)
        except DeviceError as error:  # as above
            log.warning("%s", error)
            self._unopened = str(error)

    def _given_up(self, failure: DeviceError, tries: int) -> DeviceError:
        if not tries:
            return failure
        again = f" (tried {tries + 1} times)"
        if self._unopened and self._unopened != str(failure):
            again += f"; opening it again failed: {self._unopened}"
        error = DeviceError(f"{failure}{again}", device=failure.device, passing=failure.passing)
        error.__cause__ = failure
        return error


def _as_asked(frame: Frame) -> Frame:
    """A frame with the tokens of the patterns as they were asked for, without the proof's stamp."""
    return replace(
        frame,
        slm=frame.slm.partition(MARK)[0],
        input=frame.input.partition(MARK)[0],
        slm_before=frame.slm_before.partition(MARK)[0],
    )
