"""What a procedure gives the report: plain data, no drawing. Put one as field ``report`` of the procedure's result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from numpy.typing import NDArray

PictureKind = Literal["phase", "gray", "intensity", "signed", "amplitude"]


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture of the report.

    Attributes
    ----------
    name, caption : str
    kind : {"phase", "gray", "intensity", "signed", "amplitude"}
        Chooses colours and unit: rad on a cyclic map, gray level, counts, a signed quantity around zero, amplitude.
    data : array [row, column]
    group : str
        Pictures of one group stand side by side under this heading, in the order given.
    row : str
        Pictures of one group with the same row stand in one line, which carries this label: captured, predicted and
        difference of one map. "" lets them flow.
    unit : str
        Written at the colour bar; "" takes the kind's.
    limits : (low, high) or None
        Ends of the colours; None takes the data's. Give maps to be compared the same limits.
    """

    name: str
    caption: str
    kind: PictureKind
    data: NDArray[Any]
    group: str
    row: str = ""
    unit: str = ""
    limits: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Curve:
    """One curve; x and y are arrays [point]. Curves with the same two labels share one set of axes."""

    name: str
    x: NDArray[Any]
    y: NDArray[Any]
    xlabel: str
    ylabel: str


@dataclass(frozen=True, eq=False)
class ReportData:
    """The content of a report beyond what every run has.

    Attributes
    ----------
    title, summary : str
    table : sequence of rows
        Rows of the results table, column heading to cell. For a column ``NAME``, columns ``NAME low`` and ``NAME high``
        are drawn as its interval instead of on their own.
    confusion : mapping of name to counts [true class][predicted class]
    classes : sequence of str
    pictures : sequence of Picture
    curves : sequence of Curve
    """

    title: str
    summary: str
    table: Sequence[Mapping[str, str | float]] = ()
    confusion: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)
    classes: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    curves: Sequence[Curve] = ()
