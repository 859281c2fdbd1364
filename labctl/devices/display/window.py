"""The window's process: ``python -m labctl.devices.display.window REQUEST``, with patterns in shared memory.

It owns one full-screen window and answers short messages, one JSON object a line: ``attach``, ``ping``, ``show``,
``close`` on standard input; ``monitor``, ``ready``, ``pong``, ``shown``, ``failed``, ``lost``, ``refused`` on standard
output. It needs nothing of the process that started it to keep or to change a pattern, and no answer in time: a parent
that is stopped or busy delays nothing. Only the end of standard input means that the parent is dead: then the screen
turns black and stays so (`holding`). It is the only module outside `labctl.gui` that uses Qt, and nothing imports it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PySide6.QtCore import QObject, QRect, Qt, QTimer, Signal, Slot
from PySide6.QtGui import (
    QBackingStore,
    QExposeEvent,
    QGuiApplication,
    QImage,
    QMouseEvent,
    QPainter,
    QRegion,
    QResizeEvent,
    QScreen,
    QSurface,
    QWindow,
)

from labctl.devices.display import holding
from labctl.devices.display.finding import MonitorInfo, choose, is_desktop
from labctl.devices.display.memory import attached
from labctl.errors import DeviceError, LabctlError

PARENT_EVERY_MS = 250
HOLD_EVERY_MS = 300
CLICKS_TO_LEAVE = 3
FORMATS = {1: QImage.Format.Format_Grayscale8, 4: QImage.Format.Format_RGB32}


class Pipe(QObject):
    """Messages from the parent, into Qt's thread; answers to it, from any thread."""

    arrived = Signal(str)
    ended = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        # What anything else prints must not mix with the answers.
        self._out = os.dup(1)
        os.dup2(2, 1)

    def listen(self) -> None:
        """Start reading. The thread is never joined: it may be blocked in a read for ever."""
        threading.Thread(target=self._read, name="messages", daemon=True).start()

    def say(self, event: str, **values: Any) -> None:
        """Answer; to nobody, where the parent is dead."""
        self.write(json.dumps({"event": event, **values}))

    def write(self, line: str) -> None:
        """Write one line."""
        with self._lock, contextlib.suppress(OSError):
            os.write(self._out, line.encode() + b"\n")

    def _read(self) -> None:
        # os.read, not a buffered reader: an interpreter that ends cannot take the latter's lock from this thread
        with contextlib.suppress(RuntimeError):  # Qt's side of the signals may have ended first
            rest = b""
            while more := _some():
                *lines, rest = (rest + more).split(b"\n")
                for line in lines:
                    self._pass_on(line)
            self.ended.emit()

    def _pass_on(self, line: bytes) -> None:
        message = json.loads(line)
        if message["do"] == "ping":
            self.say("pong", n=message["n"], at_ns=time.perf_counter_ns())
        else:
            self.arrived.emit(line.decode())


def _some() -> bytes:
    """What has come in; nothing once the parent has closed its end."""
    try:
        return os.read(0, 65536)
    except OSError:
        return b""


class PatternWindow(QWindow):
    """Full screen, frameless, on top, without a cursor; black until told otherwise.

    It draws into its backing store itself, so that a pattern is out when `show_pattern` returns.
    """

    def __init__(self, screen: QScreen) -> None:
        super().__init__(screen)
        self.platform = QGuiApplication.platformName()
        flags = (
            Qt.WindowType.FramelessWindowHint
            | Qt.WindowType.WindowStaysOnTopHint
            | Qt.WindowType.WindowDoesNotAcceptFocus
            | Qt.WindowType.NoDropShadowWindowHint
        )
        if self.platform == "xcb":  # no window manager may move, cover or decorate it
            flags |= Qt.WindowType.BypassWindowManagerHint
        self.setFlags(flags)
        self.setSurfaceType(QSurface.SurfaceType.RasterSurface)
        self.setTitle("labctl display")
        self.setCursor(Qt.CursorShape.BlankCursor)
        self.setScreen(screen)
        self.setGeometry(screen.geometry())
        self._store = QBackingStore(self)
        self._pattern = QImage(screen.size(), FORMATS[4])
        self._pattern.fill(Qt.GlobalColor.black)
        self.clicks = 0

    def open(self) -> None:
        """Put it on the screen."""
        if self.platform == "xcb":
            self.show()
        else:
            self.showFullScreen()

    def show_pattern(self, pattern: QImage) -> int:
        """Draw a pattern, and keep a copy of it for whenever the window system asks again.

        Returns
        -------
        int
            When the window system had it, ns of ``time.perf_counter_ns``.
        """
        # A gray level becomes three equal colours; no colour space is attached, so none is converted.
        self._pattern = pattern.convertToFormat(FORMATS[4])
        if self._pattern.constBits() == pattern.constBits():
            self._pattern = pattern.copy()
        return self._draw()

    def show_black(self) -> None:
        """Forget the pattern."""
        self._pattern.fill(Qt.GlobalColor.black)
        self._draw()

    def _draw(self) -> int:
        if self.isExposed():
            region = QRegion(QRect(0, 0, self.width(), self.height()))
            self._store.beginPaint(region)
            painter = QPainter(self._store.paintDevice())
            painter.setCompositionMode(QPainter.CompositionMode.CompositionMode_Source)
            painter.drawImage(0, 0, self._pattern)
            painter.end()
            self._store.endPaint()
            self._store.flush(region)
            self._reach_the_screen()
        return time.perf_counter_ns()

    def _reach_the_screen(self) -> None:
        if self.platform == "xcb":
            # Drawing is only queued until something has to be answered: reading one pixel back is.
            self.screen().grabWindow(self.winId(), 0, 0, 1, 1)
        elif sys.platform == "win32" and self.platform == "windows":
            import ctypes

            ctypes.windll.dwmapi.DwmFlush()  # returns when the desktop has been composed with it

    def exposeEvent(self, event: QExposeEvent) -> None:
        """Draw again what was hidden."""
        self._draw()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Follow the monitor."""
        self._store.resize(event.size())
        self._draw()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Count: somebody wants this screen back."""
        self.clicks += 1


class Patterns:
    """The parent's shared memory, as images."""

    def __init__(self, monitor: MonitorInfo, message: Mapping[str, Any]) -> None:
        self._width, self._height = monitor.width, monitor.height
        self._stride = int(message["stride"])
        self._format = FORMATS[int(message["bytes"])]
        self._memory = attached(str(message["memory"]))

    def image(self, slot: int) -> QImage:
        """The pattern in a slot; valid until the parent writes there again."""
        size = self._height * self._stride
        view = memoryview(self._memory.buf or b"")[slot * size : (slot + 1) * size]
        return QImage(view, self._width, self._height, self._stride, self._format)


class Server(QObject):
    """What the process does: one monitor, one window, one parent."""

    def __init__(self, pipe: Pipe, request: Mapping[str, Any]) -> None:
        super().__init__()
        self._pipe, self._request = pipe, request
        screens = QGuiApplication.screens()
        found = [described(screen) for screen in screens]
        refuse_wayland()
        self._monitor = choose(
            found, request["monitor"], allow_primary=request["allow_primary"], desktop=request["desktop"]
        )
        self._screen = next(s for s, info in zip(screens, found, strict=True) if info is self._monitor)
        self._geometry = self._screen.geometry()
        self._window: PatternWindow | None = None
        self._patterns: Patterns | None = None
        self._lost = self._ready = False
        self._held: Path | None = None
        self._held_until = 0.0
        self._parent = os.getppid()
        self._watch = QTimer(self)
        self._watch.timeout.connect(self._look_after_parent)
        pipe.arrived.connect(self._do)
        pipe.ended.connect(self._hold)
        QGuiApplication.instance().screenRemoved.connect(self._screen_removed)  # type: ignore[union-attr]
        self._screen.geometryChanged.connect(self._geometry_changed)
        if sys.platform != "win32":
            # A child that our parent forked may hold the pipe open after the parent's death; the parent's id tells.
            self._watch.start(PARENT_EVERY_MS)
        pipe.say("monitor", monitor=asdict(self._monitor))

    @Slot(str)
    def _do(self, line: str) -> None:
        message = json.loads(line)
        if self._held is not None:
            return
        if message["do"] == "show":
            self._show(int(message["n"]), int(message["slot"]))
        elif message["do"] == "attach":
            self._patterns = Patterns(self._monitor, message)
            self._window = PatternWindow(self._screen)
            self._window.open()
            self._say_ready()
        elif message["do"] == "close":
            self._leave()

    def _say_ready(self) -> None:
        """As soon as the window is up."""
        if self._window is not None and not self._window.isExposed():
            QTimer.singleShot(5, self._say_ready)
            return
        self._ready = True
        holding.relieve(self._monitor)
        self._pipe.say("ready")

    def _show(self, number: int, slot: int) -> None:
        if self._window is None or self._patterns is None or self._lost:
            self._pipe.say("failed", n=number, message="there is no window to show a pattern in: open the bench again")
            return
        at_ns = self._window.show_pattern(self._patterns.image(slot))
        if self._window.isExposed():
            self._pipe.say("shown", n=number, at_ns=at_ns)
        else:
            self._pipe.say("failed", n=number, message="its window is hidden: wake the monitor and unlock the screen")

    @Slot(QScreen)
    def _screen_removed(self, screen: QScreen) -> None:
        if screen is self._screen or self._screen not in QGuiApplication.screens():
            self._lose("its monitor has been unplugged or switched off: plug it in, then open the bench again")

    @Slot(QRect)
    def _geometry_changed(self, geometry: QRect) -> None:
        if geometry.size() != self._geometry.size():
            self._lose(
                f"its monitor has changed from {self._geometry.width()}x{self._geometry.height()} to "
                f"{geometry.width()}x{geometry.height()}: change it back, then open the bench again"
            )
        elif self._window is not None:
            self._window.setGeometry(geometry)

    def _lose(self, message: str) -> None:
        """No pattern counts any more; what the window system moves elsewhere must not be one."""
        self._lost = True
        if self._window is not None:
            self._window.show_black()
            self._window.hide()
        self._pipe.say("lost", message=message)

    @Slot()
    def _look_after_parent(self) -> None:
        if self._held is None:
            if os.getppid() != self._parent:
                self._hold()
            return
        wanted_back = self._window is not None and self._window.clicks >= CLICKS_TO_LEAVE
        if wanted_back or not self._held.exists():
            self._leave()
        elif time.monotonic() > self._held_until:
            self._held.unlink(missing_ok=True)
            self._leave()

    @Slot()
    def _hold(self) -> None:
        """The parent is dead: black, and stay."""
        if self._held is not None:
            return
        if self._window is None or self._lost:
            self._leave()
            return
        self._window.show_black()
        self._window.clicks = 0
        self._held = holding.take(self._monitor)
        seconds = holding.hold_s(
            self._request["hold_black_s"], desktop=is_desktop(self._monitor, self._request["desktop"])
        )
        self._held_until = time.monotonic() + seconds
        self._watch.start(HOLD_EVERY_MS)

    def _leave(self) -> None:
        self._watch.stop()
        if self._window is not None:
            self._window.destroy()
        QGuiApplication.quit()


def described(screen: QScreen) -> MonitorInfo:
    """A screen as a `MonitorInfo`."""
    area = screen.geometry()
    return MonitorInfo(
        name=screen.name(),
        manufacturer=screen.manufacturer(),
        model=screen.model(),
        serial=screen.serialNumber(),
        x=area.x(),
        y=area.y(),
        width=area.width(),
        height=area.height(),
        refresh_hz=round(screen.refreshRate(), 3),
        depth=screen.depth(),
        pixel_ratio=screen.devicePixelRatio(),
        primary=screen is QGuiApplication.primaryScreen(),
    )


def refuse_wayland() -> None:
    """A Wayland compositor may scale and colour-manage a window, and does not say."""
    if QGuiApplication.platformName().startswith("wayland") and "QT_QPA_PLATFORM" not in os.environ:
        raise DeviceError(
            "display: a Wayland session may scale or colour-correct patterns: log in to an Xorg session "
            "(or set QT_QPA_PLATFORM=wayland to use it all the same)"
        )


def keep_awake() -> None:
    """Windows: no screen saver and no sleeping monitor while this process lives. Elsewhere it is a system setting."""
    if sys.platform == "win32":
        import ctypes

        ctypes.windll.kernel32.SetThreadExecutionState(0x80000000 | 0x00000001 | 0x00000002)


def main(arguments: list[str]) -> int:
    """Run until told to close, or list the monitors."""
    pipe = Pipe()
    app = QGuiApplication([sys.argv[0]])
    app.setQuitOnLastWindowClosed(False)
    if arguments == ["--list"]:
        found = sorted(map(described, app.screens()), key=lambda monitor: not monitor.primary)
        pipe.write(json.dumps([asdict(monitor) for monitor in found]))
        return 0
    try:
        keep_awake()
        server = Server(pipe, json.loads(arguments[0]))
    except LabctlError as error:
        pipe.say("refused", kind=type(error).__name__, message=str(error))
        return 1
    pipe.listen()
    code = app.exec()
    del server
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
