"""What a bench file may say of faults on demand: which fault, on which device, when, and for how long."""

from __future__ import annotations

import difflib
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, model_validator

EVERY = ("timeout", "hang", "disconnect", "stuck", "slow-close", "failing-close")
WRITES = ("write-fails", "write-ignored")
FRAMES = (
    "stale", "stale-restamped", "duplicated", "dropped", "torn", "wrong-shape", "wrong-dtype", "nan", "saturated",
    "dark",
)  # fmt: skip
FAULTS_OF = {
    "camera": (*EVERY, *FRAMES),
    "panel": (*EVERY, *WRITES, "late-swap"),
    "instrument": (*EVERY, *WRITES, "garbage", "dies"),
}
"""The faults that each kind of device can have."""
AT_CLOSING = ("slow-close", "failing-close")
NEED_DURATION = ("hang", "late-swap", "slow-close")
MAY_HAVE_DURATION = (*NEED_DURATION, "timeout", "disconnect", "dies")
CALLS_OF = {
    "camera": ("frame", "expose", "window", "flush", "open"),
    "panel": ("show", "blank", "open"),
    "instrument": ("set", "read", "make-safe", "open"),
}
"""The calls that an entry may single out; `open` is opening again during a run."""
OF_ANY_CALL = ("timeout", "hang", "disconnect", "stuck")
OF_WRITING = ("show", "blank", "set", "make-safe")

FaultName = Literal[
    "timeout", "hang", "disconnect", "stuck", "slow-close", "failing-close", "write-fails", "write-ignored",
    "late-swap", "stale", "stale-restamped", "duplicated", "dropped", "torn", "wrong-shape", "wrong-dtype", "nan",
    "saturated", "dark", "garbage", "dies",
]  # fmt: skip
CallName = Literal["frame", "expose", "window", "flush", "show", "blank", "set", "read", "make-safe", "open"]


class FaultEntry(BaseModel):
    """One fault of one device: at its calls of these numbers (from 1), at a rate per call, or once after so long.

    Counted are the frames of a camera, the patterns of a panel, the settings and readings of an instrument; with `call`
    those of that kind alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    device: str
    fault: FaultName
    call: CallName | None = None
    at: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False)] = ()
    rate: Annotated[float, Field(gt=0, le=1)] | None = None
    after_s: Annotated[float, Field(ge=0)] | None = None
    for_s: PositiveFloat | None = None

    @model_validator(mode="after")
    def _says_when(self) -> Self:
        ways = [name for name in ("at", "rate", "after_s") if getattr(self, name) not in ((), None)]
        if self.fault in AT_CLOSING and ways:
            raise ValueError(f"{self.fault} happens when the device is closed: leave out {ways[0]}")
        if self.fault not in AT_CLOSING and len(ways) != 1:
            given = f"not {' and '.join(ways)}" if ways else "one of them is needed"
            raise ValueError(
                f"say when {self.fault} happens, with at = [call, ...], rate = 0.01 or after_s = 20.0: {given}"
            )
        writing = self.fault in WRITES and self.call in OF_WRITING
        if self.call is not None and self.fault not in OF_ANY_CALL and not writing:
            raise ValueError(f"{self.fault} cannot happen at a call of its own choice: leave out call")
        if self.fault in NEED_DURATION and self.for_s is None:
            raise ValueError(f"say how long {self.fault} lasts: add for_s = 3.0 (seconds)")
        if self.fault not in MAY_HAVE_DURATION and self.for_s is not None:
            raise ValueError(f"{self.fault} has no duration: leave out for_s")
        return self

    def __str__(self) -> str:
        what = "call" if self.call is None else f"{self.call} call"
        when = f" at {what} {', '.join(map(str, self.at))}" if self.at else ""
        when += f" in {self.rate:g} of the {what}s" if self.rate is not None else ""
        when += f" after {self.after_s:g} s" if self.after_s is not None else ""
        return f"{self.device} {self.fault}{when}" + (f" for {self.for_s:g} s" if self.for_s is not None else "")


class FaultsSection(BaseModel):
    """Faults on demand, to rehearse with. The seed decides which calls a rate strikes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    seed: int = 0
    plan: Annotated[tuple[FaultEntry, ...], Field(strict=False)] = ()

    def check_devices(self, kinds: dict[str, str]) -> None:
        """Compare the plan with the bench's devices.

        Parameters
        ----------
        kinds : mapping of device name to "camera", "panel" or "instrument"

        Raises
        ------
        ValueError
            If there is no such device, or its kind cannot have the fault.
        """
        for entry in self.plan:
            if entry.device not in kinds:
                near = difflib.get_close_matches(entry.device, kinds, 1)
                hint = f"did you mean {near[0]}?" if near else f"the bench has {', '.join(kinds)}"
                raise ValueError(f"faults.plan: there is no device '{entry.device}': {hint}")
            kind = kinds[entry.device]
            if entry.fault not in FAULTS_OF[kind]:
                raise ValueError(
                    f"faults.plan: {entry.fault} is no fault of {entry.device}, which is "
                    f"{'an' if kind == 'instrument' else 'a'} {kind}: it may have {', '.join(FAULTS_OF[kind])}"
                )
            if entry.call is not None and entry.call not in CALLS_OF[kind]:
                raise ValueError(
                    f"faults.plan: {entry.device} has no call '{entry.call}': write one of {', '.join(CALLS_OF[kind])}"
                )
