"""A function that is compiled at its first call where a compiler is at hand, and stays as it is where none is."""

import logging
import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch

_log = logging.getLogger(__name__)


# Seconds, roughly, that compiling a step takes on one core of a CPU, and the share of its time that is then saved.
COMPILE_SECONDS, SAVED_SHARE = 80.0, 0.05


def pays(seconds_ahead: float) -> bool:
    """Whether steps that would take so long as they are earn the time of compiling them back."""
    return SAVED_SHARE * seconds_ahead > COMPILE_SECONDS


class Compiled:
    """``function`` compiled, or as it is where that is not possible.

    Compiling is left to the first call. When it fails there, ``function`` is called as it is from then on. Why steps
    are not compiled goes to the log and into ``failed``.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._chosen: Callable[..., Any] | None = None
        self.failed: str | None = None

    def __call__(self, *arguments: Any) -> Any:
        """What ``function`` would return."""
        if self._chosen is not None:
            return self._chosen(*arguments)
        tensors = (one for one in arguments if isinstance(one, torch.Tensor))
        if not has_compiler(next(tensors).device):
            return self._give_up("there is no compiler", arguments)
        return self._first_call(arguments)

    def _give_up(self, reason: str, arguments: tuple[Any, ...]) -> Any:
        _log.warning("steps are not compiled: %s", reason)
        self.failed, self._chosen = reason, self._function
        return self._function(*arguments)

    def _first_call(self, arguments: tuple[Any, ...]) -> Any:
        compiled = torch.compile(self._function, dynamic=False)
        try:
            found = compiled(*arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler may raise: the function as it is is as good, only slower
            return self._give_up(str(error).splitlines()[0] if str(error) else type(error).__name__, arguments)
        self._chosen = compiled
        return found


def has_compiler(device: torch.device) -> bool:
    """Whether ``torch.compile`` can work for that device: a C++ compiler for a CPU, Triton for a GPU."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++")), None)
    if compiler is None or shutil.which(compiler) is None:
        return False
    return device.type == "cpu" or find_spec("triton") is not None
