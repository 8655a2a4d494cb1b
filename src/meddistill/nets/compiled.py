"""A function that is compiled at its first call where a compiler is at hand, and stays as it is where none is."""

import logging
import os
import shutil
import types
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import torch

from meddistill.runtime.device import is_out_of_memory

_log = logging.getLogger(__name__)


# Seconds that compiling a step took, about, and a core's operations a second (benchmarks/records/engine.json). The
# share of a CPU's time that is saved then, and the seconds that the launches of a step take on a GPU, are assumptions.
_COMPILE_SECONDS = 80.0
_SAVED_SHARE, _OPERATIONS_A_SECOND = 0.05, 5e10
_LAUNCHES_SECONDS = 1e-3


def pays(steps: int, operations: float, device: torch.device) -> bool:
    """Whether ``steps`` of so many ``operations`` each earn back the time that compiling them takes.

    It depends on the whole run, not on what is left of it, so that a run that is continued computes the same bytes.
    """
    saved = _SAVED_SHARE * operations / _OPERATIONS_A_SECOND if device.type == "cpu" else _LAUNCHES_SECONDS
    return steps * saved > _COMPILE_SECONDS


class Compiled:
    """``function`` compiled at its first call for every kind of arguments, or as it is from where that fails on.

    It becomes one graph or none. Why steps are not compiled goes to the log and into ``failed``. On a GPU the compiled
    function is captured, so that a call is one launch; what it returns holds until the next call.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._compiled: dict[tuple[object, ...], Callable[..., Any]] = {}
        self.failed: str | None = None

    def __call__(self, *arguments: Any) -> Any:
        """What ``function`` would return."""
        if self.failed is None:
            try:
                return self._ready(arguments)(*arguments)
            except Exception as error:  # whatever a compiler may raise: the function as it is is as good, only slower
                if is_out_of_memory(error):
                    raise
                self.failed = str(error).splitlines()[0] if str(error) else type(error).__name__
                _log.warning("steps are not compiled: %s", self.failed)
        return self._function(*arguments)

    def _ready(self, arguments: tuple[Any, ...]) -> Callable[..., Any]:
        leaves = tuple(_leaves(arguments))
        kind = tuple((one.shape, one.dtype, one.device) if isinstance(one, torch.Tensor) else one for one in leaves)
        if kind not in self._compiled:
            device = next(one.device for one in leaves if isinstance(one, torch.Tensor))
            if not has_compiler(device):
                raise RuntimeError("there is no compiler")
            mode = "reduce-overhead" if device.type == "cuda" else "default"
            own = _with_own_code(self._function)
            self._compiled[kind] = torch.compile(own, dynamic=False, fullgraph=True, mode=mode)
        return self._compiled[kind]


def _with_own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function as one whose code no other has.

    The compiler counts by code how often it compiled, and calls functions as they are once it did so eight times.
    """

    def call(*arguments: Any) -> Any:
        return function(*arguments)

    return types.FunctionType(call.__code__.replace(), call.__globals__, closure=call.__closure__)


def _leaves(arguments: tuple[Any, ...]) -> Iterator[Any]:
    """The arguments, tuples being opened."""
    for one in arguments:
        if isinstance(one, tuple):
            yield from _leaves(one)
        else:
            yield one


def has_compiler(device: torch.device) -> bool:
    """Whether ``torch.compile`` can work for that device: a C++ compiler for a CPU, Triton for a GPU."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++")), None)
    if compiler is None or shutil.which(compiler) is None:
        return False
    return device.type == "cpu" or find_spec("triton") is not None
