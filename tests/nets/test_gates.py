"""What is worked out of the first block's maps: operators as PyTorch wants them, and a GPU's kernels without a GPU."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from meddistill.nets import gates
from meddistill.runtime.streams import stream

TRITON = pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton, which the extra 'dev' brings on Linux")


def noise(name, *shape):
    return torch.randn(*shape, generator=stream(0, name))


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("sides", [(5, 4), (2, 3)])
def test_operators_put_out_what_a_compiler_is_told(exact, sides):
    """Shapes, dtypes and layouts."""
    images, weight, along = noise("images", 2, 3, 1, *sides), noise("weight", 2, 9, 5), noise("along", 2, 9, 5)
    factor, threshold, moves = noise("factor", 2, 3, 5), noise("threshold", 2, 3, 5), noise("moves", 2, 3, 5)
    slope, rest = noise("slope", 3, 10, *(side // 2 for side in sides)), noise("rest", 2, 3, 10, 9)
    gate = (images, weight, factor, threshold)
    for operator, arguments in (
        (gates.moments, (images,)),
        (gates.ahead, gate),
        (gates.along, (images, weight, along, factor, threshold, moves, moves, exact)),
        (gates.sums, (*gate, slope, exact)),
        (gates.onto, (images, weight, along, factor, threshold, moves, slope, slope, rest, exact)),
    ):
        torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


@TRITON
def test_kernels_are_the_plain_functions():
    """In Triton's interpreter, in a process of its own: it must be told before Triton is imported."""
    file = Path(__file__).with_name("interpreted.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    told = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=told, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


@TRITON
@pytest.mark.parametrize(("card", "channels"), [(80, 3), (90, 1)], ids=["of 2020, colour", "of 2022, grey"])
def test_kernels_are_compiled_for_cards_without_one(card, channels, monkeypatch, tmp_path):
    """As for bfloat16; and there are registers enough."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from meddistill.nets import gates_triton

    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # says nothing of a default that is to change
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    launched = dict[str, object]()

    class Recorded:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            def launch(*arguments, **constants):
                launched[self.kernel.__name__] = (self.kernel, arguments, constants)

            return launch

    for name in [name for name in vars(gates_triton) if name.endswith("_kernel")]:
        monkeypatch.setattr(gates_triton, name, Recorded(getattr(gates_triton, name)))
    numbers, half = 9 * channels, torch.bfloat16
    images, weight = torch.ones(2, 3, channels, 8, 8), torch.ones(2, numbers, 128)
    planes, low = torch.ones(2, 3, 128), torch.ones(3, 256, 4, 4, dtype=half)
    gates_triton.moments(images)
    gates_triton.ahead(images, weight, planes, planes)
    gates_triton.along(images, weight, weight, *4 * (planes,), False)
    gates_triton.sums(images, weight, planes, planes, low, False)
    gates_triton.onto(images, weight, weight, *3 * (planes,), low, low, torch.ones(2, 3, numbers + 1, numbers), False)
    assert len(launched) == 5
    kinds = {torch.float32: "*fp32", half: "*bf16"}
    for kernel, arguments, constants in launched.values():
        places = iter(kernel.arg_names)
        signature = {next(places): kinds[one.dtype] if isinstance(one, torch.Tensor) else "i32" for one in arguments}
        signature |= dict.fromkeys(constants, "constexpr")
        made = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", card, 32))
        (tmp_path / "kernel").write_bytes(made.asm["cubin"])
        asked = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(tmp_path / "kernel")]
        used = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
        assert re.search(r"REG:\d+ STACK:0 ", used), (kernel.__name__, used)
