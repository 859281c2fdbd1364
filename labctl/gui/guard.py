"""Qt callbacks that cannot hurt Qt: whatever one raises ends in the log, and so in the log panel."""

from __future__ import annotations

import functools
import inspect
import logging
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from PySide6.QtCore import QMessageLogContext, QtMsgType, Slot, qInstallMessageHandler

from labctl.errors import LabctlError

log = logging.getLogger(__name__)
qt_log = logging.getLogger("labctl.qt")
Method = TypeVar("Method", bound=Callable[..., Any])


def report(error: BaseException, where: str) -> None:
    """One line for what a user can act on; a traceback for a defect."""
    if isinstance(error, LabctlError):
        log.error("%s", error)
    else:
        log.error("%s: %s: %s", where, type(error).__name__, error, exc_info=error)


def guarded(*types: type) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Decorate a method as a Qt slot whose exceptions are logged.

    Parameters
    ----------
    *types : type
        The slot's signature, as for `PySide6.QtCore.Slot`. A signal that sends more arguments than the method takes is
        cut to what it takes.
    """

    def decorate(method: Callable[..., Any]) -> Callable[..., None]:
        takes = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in inspect.signature(method).parameters.values())

        def call(*args: Any) -> None:
            try:
                method(*args)
            except Exception as error:
                report(error, method.__qualname__)

        slot = _with_arity(call, takes)
        slot.__name__, slot.__qualname__, slot.__doc__ = method.__name__, method.__qualname__, method.__doc__
        wrapped: Callable[..., None] = Slot(*types)(slot)
        return wrapped

    return decorate


def _with_arity(call: Callable[..., None], takes: int) -> Callable[..., None]:
    """`call` with so many named arguments, self included: PySide counts them to choose what a signal sends."""

    def none(self: Any) -> None:
        call(self)

    def one(self: Any, first: Any) -> None:
        call(self, first)

    def two(self: Any, first: Any, second: Any) -> None:
        call(self, first, second)

    choices: dict[int, Callable[..., None]] = {1: none, 2: one, 3: two}
    return choices[takes]


def guarded_event(method: Method) -> Method:
    """Decorate an event handler (``closeEvent``, ``paintEvent`` ...): exceptions are logged, the event goes on."""

    @functools.wraps(method)
    def handler(*args: Any) -> Any:
        try:
            return method(*args)
        except Exception as error:
            report(error, method.__qualname__)
            return None

    return handler  # type: ignore[return-value]


def install_hooks() -> Callable[[], None]:
    """Send what escapes every other net (hooks of Python, threads and Qt) to the log.

    Returns
    -------
    callable
        Puts the former hooks back.
    """
    former = sys.excepthook, threading.excepthook

    def on_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            former[0](kind, error, trace)
        else:
            report(error, "unexpected")

    def on_thread_error(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            report(args.exc_value, f"thread {args.thread.name if args.thread else '?'}")

    def restore() -> None:
        sys.excepthook, threading.excepthook = former
        qInstallMessageHandler(None)

    sys.excepthook, threading.excepthook = on_error, on_thread_error
    qInstallMessageHandler(_on_qt_message)
    return restore


_LEVELS = {
    QtMsgType.QtDebugMsg: logging.DEBUG,
    QtMsgType.QtInfoMsg: logging.DEBUG,
    QtMsgType.QtWarningMsg: logging.WARNING,
    QtMsgType.QtCriticalMsg: logging.ERROR,
    QtMsgType.QtFatalMsg: logging.CRITICAL,
}


def _on_qt_message(kind: QtMsgType, _context: QMessageLogContext, text: str | None) -> None:
    qt_log.log(_LEVELS.get(kind, logging.WARNING), "%s", text)
