"""A function that is compiled at its first call where a compiler is at hand, and stays as it is where none is."""

import logging
import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch

_log = logging.getLogger(__name__)


class Compiled:
    """``function`` compiled, or ``plain``, which computes the same, where that is not possible.

    Compiling is left to the first call. When it fails there, ``plain`` is called from then on: the reason goes to the
    log, and the result is the same but for rounding.
    """

    def __init__(self, function: Callable[..., Any], plain: Callable[..., Any]) -> None:
        self._function, self._plain = function, plain
        self._chosen: Callable[..., Any] | None = None

    def __call__(self, *arguments: Any) -> Any:
        """What ``function`` would return."""
        if self._chosen is not None:
            return self._chosen(*arguments)
        tensors = (one for one in arguments if isinstance(one, torch.Tensor))
        if not has_compiler(next(tensors).device):
            self._chosen = self._plain
            return self._plain(*arguments)
        return self._first_call(arguments)

    def _first_call(self, arguments: tuple[Any, ...]) -> Any:
        compiled = torch.compile(self._function, dynamic=False)
        try:
            found = compiled(*arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler may raise: the plain function is as good, only slower
            _log.warning("steps are not compiled: %s", str(error).splitlines()[0] if str(error) else type(error))
            self._chosen = self._plain
            return self._plain(*arguments)
        self._chosen = compiled
        return found


def has_compiler(device: torch.device) -> bool:
    """Whether ``torch.compile`` can work for that device: a C++ compiler for a CPU, Triton for a GPU."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++")), None)
    if compiler is None or shutil.which(compiler) is None:
        return False
    return device.type == "cpu" or find_spec("triton") is not None
