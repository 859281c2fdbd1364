"""One place for spacing, small text styles and the few colours that carry meaning."""

from __future__ import annotations

from PySide6.QtCore import QEvent, Qt
from PySide6.QtGui import QColor, QFont, QFontDatabase, QGuiApplication, QPalette
from PySide6.QtWidgets import QBoxLayout, QLabel, QSizePolicy, QWidget

GAP = 8
TIGHT = 4
ICON = 20

# Distinct in light and dark, and for every common kind of colour blindness (Okabe and Ito's palette, adjusted).
_LEVELS = {
    "light": {"debug": "#757575", "info": "", "warning": "#a35b00", "error": "#b3261e", "critical": "#b3261e"},
    "dark": {"debug": "#9a9a9a", "info": "", "warning": "#f0b35a", "error": "#ff8a80", "critical": "#ff8a80"},
}
_PHASES = {"ready": "#2a9d64", "live": "#2a7fc4", "running": "#2a7fc4", "paused": "#d08a1d", "aborting": "#d08a1d"}

_PALETTES = {
    "light": {
        "window": "#efefef",
        "base": "#ffffff",
        "button": "#efefef",
        "text": "#1b1b1b",
        "faint": "#8c8c8c",
        "accent": "#308cc6",
    },
    "dark": {
        "window": "#26282b",
        "base": "#1c1e20",
        "button": "#33363a",
        "text": "#e4e4e4",
        "faint": "#7d8085",
        "accent": "#3a86c8",
    },
}

SCHEMES = {"system": Qt.ColorScheme.Unknown, "light": Qt.ColorScheme.Light, "dark": Qt.ColorScheme.Dark}


def is_dark(palette: QPalette) -> bool:
    """Whether the palette is a dark one."""
    return palette.color(QPalette.ColorRole.Window).lightness() < 128


def apply_appearance(name: str) -> None:
    """Follow the system, or be light or dark whatever it says; also on desktops that know no such thing."""
    QGuiApplication.setPalette(QPalette())
    QGuiApplication.styleHints().setColorScheme(SCHEMES.get(name, Qt.ColorScheme.Unknown))
    if name in _PALETTES and is_dark(QGuiApplication.palette()) != (name == "dark"):
        QGuiApplication.setPalette(_palette(**_PALETTES[name]))


def _palette(window: str, base: str, button: str, text: str, faint: str, accent: str) -> QPalette:
    palette = QPalette(QColor(button), QColor(window))
    role, group = QPalette.ColorRole, QPalette.ColorGroup
    for which in (role.WindowText, role.Text, role.ButtonText, role.ToolTipText):
        palette.setColor(which, QColor(text))
        palette.setColor(group.Disabled, which, QColor(faint))
    palette.setColor(role.PlaceholderText, QColor(faint))
    palette.setColor(role.Base, QColor(base))
    palette.setColor(role.AlternateBase, QColor(window))
    palette.setColor(role.ToolTipBase, QColor(base))
    palette.setColor(role.Highlight, QColor(accent))
    palette.setColor(role.HighlightedText, QColor("#ffffff"))
    palette.setColor(role.Link, QColor(accent))
    return palette


def level_colour(level: str, palette: QPalette) -> QColor:
    """The colour of a log level on this palette."""
    name = _LEVELS["dark" if is_dark(palette) else "light"].get(level, "")
    return QColor(name) if name else palette.color(QPalette.ColorRole.Text)


def phase_colour(word: str) -> str:
    """The colour of a phase's dot, by the word that the status bar shows."""
    return _PHASES.get(word, "#8a8a8a")


class Quiet(QLabel):
    """A label between the palette's full and placeholder strength, readable in light and dark, and following both."""

    def __init__(self, text: str = "", parent: QWidget | None = None) -> None:
        super().__init__(text, parent)
        self._soften()

    def changeEvent(self, event: QEvent) -> None:
        """Another palette: mix anew."""
        super().changeEvent(event)
        if event.type() in (QEvent.Type.PaletteChange, QEvent.Type.ApplicationPaletteChange):
            self._soften()

    def _soften(self) -> None:
        palette = QGuiApplication.palette()
        strong, back = palette.color(QPalette.ColorRole.WindowText), palette.color(QPalette.ColorRole.Window)
        mixed = QColor(
            round(0.68 * strong.red() + 0.32 * back.red()),
            round(0.68 * strong.green() + 0.32 * back.green()),
            round(0.68 * strong.blue() + 0.32 * back.blue()),
        )
        if self.palette().color(QPalette.ColorRole.WindowText) != mixed:  # setting it comes back here
            own = QPalette()
            own.setColor(QPalette.ColorRole.WindowText, mixed)
            self.setPalette(own)


def quiet(text: str = "") -> Quiet:
    """A caption: fainter, and never wider than its place."""
    label = Quiet(text)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
    return label


def mono() -> QFont:
    """The system's fixed-width font."""
    return QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont)


def sized(font: QFont, scale: float, *, bold: bool = False) -> QFont:
    """The font, larger or smaller."""
    result = QFont(font)
    result.setPointSizeF(font.pointSizeF() * scale)
    result.setBold(bold)
    return result


def pad(layout: QBoxLayout, *, margin: int = GAP, spacing: int = GAP) -> None:
    """The same air everywhere."""
    layout.setContentsMargins(margin, margin, margin, margin)
    layout.setSpacing(spacing)
