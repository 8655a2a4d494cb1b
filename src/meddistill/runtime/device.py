"""Where tensors live, and what is known of that place."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from meddistill.runtime.errors import InputError

if TYPE_CHECKING:
    import torch

# mallopt's parameters (malloc.h) and the values that keep large freed blocks in the process instead of handing every
# activation back to the kernel and faulting it in again: measured 12 to 15 % faster training steps on a CPU.
_MALLOPT = ((-3, 1 << 30), (-1, (1 << 31) - 1), (-2, 1 << 27))
# How a CPU's allocator, libraries of a GPU, and a GPU outside PyTorch's allocator say that there is no memory.
_NO_MEMORY = ("DefaultCPUAllocator", "not enough memory", "STATUS_ALLOC_FAILED", "CUDA error: out of memory")
_KINDS = ("cpu", "cuda", "mps")


def choose(name: str) -> torch.device:
    """The device of that name; ``auto`` is a CUDA device where there is one, else the CPU.

    Where it is a CUDA device the whole process computes as :func:`be_exact` says. Raises :class:`InputError` for an
    unknown or absent device.
    """
    device = _named(name)
    if device.type == "cuda":
        be_exact()
    return device


def be_exact() -> None:
    """Have CUDA compute float32 with all its bits, and choose cuDNN's kernels alike every time.

    By default convolutions round what they multiply to 10 bits of mantissa (TF32), which costs gradients most of their
    accuracy, and the kernels of some of their slopes add in any order. It costs speed; nothing is waited for, and
    nothing that has no ordered kernel is refused.
    """
    import torch

    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


@contextlib.contextmanager
def rounded_convolutions() -> Iterator[None]:
    """What runs inside may round what float32 convolutions multiply to TF32 on a GPU that has it; sums stay float32."""
    import torch

    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _named(name: str) -> torch.device:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in _KINDS:  # PyTorch has more, such as meta, on which nothing is computed
            raise InputError(f"device '{name}' is of a kind that is not supported: use cpu, cuda or auto")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device '{name}' cannot be used here ({_first_line(error)}): use cpu, cuda or auto") from None
    return device


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device; one that lies on the CPU goes to a CUDA device without anybody waiting for it.

    A CUDA device reads memory that is pinned by itself; PyTorch keeps the pinned copy until that is done.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocator, of a GPU or of a CPU, found no memory."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def give_back(device: torch.device) -> None:
    """Hand memory that the allocator holds for later back to the device."""
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()


def keep_freed_memory() -> None:
    """Tell glibc to reuse large blocks. For a process that this project owns: the setting is process-wide."""
    if sys.platform != "linux":
        return
    try:
        libc = ctypes.CDLL("libc.so.6")
        for parameter, value in _MALLOPT:
            libc.mallopt(parameter, value)
    except (OSError, AttributeError):  # another C library: nothing to tune
        return


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """What runs inside takes one thread of a CPU: its sums then do not depend on how many threads there are."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def as_one_process(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Where several processes may share the work of a CPU each takes one thread, and so does one that is alone."""
    return one_thread() if device.type == "cpu" else contextlib.nullcontext()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
