"""Ctrl-C, and the polite request to end of batch systems and containers (SIGTERM), both as KeyboardInterrupt.

Python drops an exception that is raised while a destructor or the callback of a weak reference runs, and with it a
Ctrl-C that comes at that moment, but for a traceback. The request is therefore remembered, made again when a stage next
advances, and nothing is shown of the first.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

_asked = threading.Event()


@contextlib.contextmanager
def heeded() -> Iterator[None]:
    """Within, both signals raise KeyboardInterrupt; but not Ctrl-C where whoever started the program has it ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        numbers.append(signal.SIGINT)
    before = {number: signal.signal(number, _interrupt) for number in numbers}
    shown, sys.unraisablehook = sys.unraisablehook, _dropped
    try:
        yield
    finally:
        sys.unraisablehook = shown
        for number, handler in before.items():
            signal.signal(number, handler)
        _asked.clear()


def again() -> None:
    """Raise KeyboardInterrupt if it was asked for and is not under way."""
    if _asked.is_set():
        _asked.clear()
        raise KeyboardInterrupt


def _dropped(error: "sys.UnraisableHookArgs") -> None:
    if error.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(error)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    _asked.set()
    raise KeyboardInterrupt
