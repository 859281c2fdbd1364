"""Icons drawn from a few shapes in the palette's own colour, so that they fit light and dark and need no files."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QIcon, QPainter, QPalette, QPen, QPixmap, QPolygonF

SIZE = 64
RED, GREEN = QColor("#d1495b"), QColor("#2a9d64")


def _play(p: QPainter) -> None:
    p.setBrush(GREEN)
    p.setPen(Qt.PenStyle.NoPen)
    p.drawPolygon(QPolygonF([QPointF(18, 10), QPointF(18, 54), QPointF(54, 32)]))


def _pause(p: QPainter) -> None:
    p.setBrush(p.pen().color())
    p.setPen(Qt.PenStyle.NoPen)
    p.drawRoundedRect(QRectF(16, 12, 11, 40), 3, 3)
    p.drawRoundedRect(QRectF(37, 12, 11, 40), 3, 3)


def _stop(p: QPainter) -> None:
    p.setBrush(p.pen().color())
    p.setPen(Qt.PenStyle.NoPen)
    p.drawRoundedRect(QRectF(14, 14, 36, 36), 5, 5)


def _abort(p: QPainter) -> None:
    p.setBrush(RED)
    p.setPen(Qt.PenStyle.NoPen)
    p.drawRoundedRect(QRectF(14, 14, 36, 36), 5, 5)


def _live(p: QPainter) -> None:
    p.drawRoundedRect(QRectF(6, 18, 38, 28), 5, 5)
    p.drawPolygon(QPolygonF([QPointF(46, 30), QPointF(58, 21), QPointF(58, 43), QPointF(46, 34)]))


def _fit(p: QPainter) -> None:
    for x, y, dx, dy in ((8, 8, 1, 1), (56, 8, -1, 1), (8, 56, 1, -1), (56, 56, -1, -1)):
        p.drawPolyline(QPolygonF([QPointF(x + 14 * dx, y), QPointF(x, y), QPointF(x, y + 14 * dy)]))
    p.drawRect(QRectF(22, 22, 20, 20))


def _levels(p: QPainter) -> None:
    colour = p.pen().color()
    for x, height in ((10, 14), (22, 34), (34, 42), (46, 22)):
        p.fillRect(QRectF(x, 54 - height, 9, height), colour)


def _report(p: QPainter) -> None:
    p.drawRoundedRect(QRectF(14, 7, 36, 50), 4, 4)
    for y in (20, 31, 42):
        p.drawLine(QPointF(22, y), QPointF(42, y))


def _folder(p: QPainter) -> None:
    p.drawPolygon(
        QPolygonF([QPointF(7, 52), QPointF(7, 14), QPointF(25, 14), QPointF(31, 21), QPointF(57, 21), QPointF(57, 52)])
    )


def _reload(p: QPainter) -> None:
    p.drawArc(QRectF(12, 12, 40, 40), 60 * 16, 290 * 16)
    p.drawPolyline(QPolygonF([QPointF(40, 4), QPointF(43, 15), QPointF(32, 19)]))


_DRAWINGS: dict[str, Callable[[QPainter], None]] = {
    "play": _play,
    "pause": _pause,
    "stop": _stop,
    "abort": _abort,
    "live": _live,
    "fit": _fit,
    "levels": _levels,
    "report": _report,
    "folder": _folder,
    "reload": _reload,
}


def icon(name: str, palette: QPalette) -> QIcon:
    """The drawing `name` in the palette's text colour, faded where disabled."""
    result = QIcon()
    for mode, opacity in ((QIcon.Mode.Normal, 1.0), (QIcon.Mode.Disabled, 0.3)):
        pixmap = QPixmap(SIZE, SIZE)
        pixmap.fill(Qt.GlobalColor.transparent)
        painter = QPainter(pixmap)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setOpacity(opacity)
        pen = QPen(palette.color(QPalette.ColorGroup.Active, QPalette.ColorRole.ButtonText), 4.5)
        pen.setJoinStyle(Qt.PenJoinStyle.RoundJoin)
        pen.setCapStyle(Qt.PenCapStyle.RoundCap)
        painter.setPen(pen)
        _DRAWINGS[name](painter)
        painter.end()
        result.addPixmap(pixmap, mode)
    return result


def names() -> list[str]:
    """Every drawing."""
    return sorted(_DRAWINGS)
