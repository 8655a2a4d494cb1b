"""What rounding costs the gradient of an unrolled student: 1 − cosine of the image gradient to float64.

    python benchmarks/rounding.py

ConvNet-D3 width 128, 28×28, batch 10, N = 10, worst of the students asked for. Rounding is emulated: what a convolution
of values multiplies is rounded to the mantissa of bfloat16 (7 bits) or of TF32 (10 bits), in all blocks or in one;
tangents and cotangents are in bfloat16. The record is ``benchmarks/records/rounding.json``.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from engine import SMALL, cosine, learned_of, student_of
from shared import markdown, today, write_record
from torch import Tensor

from meddistill.distill.unroll import Rule, unroll
from meddistill.nets import curvature

RECORD = Path(__file__).parent / "records" / "rounding.json"
BATCH, STEPS = 10, 10
BFLOAT16, TF32 = 7, 10
Convolution = Callable[[Tensor, Tensor, int], Tensor]


def rounded(values: Tensor, bits: int) -> Tensor:
    """float32 to so many bits of mantissa, to nearest and to even."""
    lost = 23 - bits
    whole = values.view(torch.int32)
    whole = whole + (1 << (lost - 1)) - 1 + ((whole >> lost) & 1)
    return (whole & ~((1 << lost) - 1)).view(torch.float32)


def rounding(plain: Convolution, bits: int, blocks: tuple[int, ...]) -> Convolution:
    """A convolution whose values are rounded in those blocks of the network, which their size tells apart."""
    sides = {SMALL.size >> block for block in blocks}

    def convolve(maps: Tensor, weight: Tensor, networks: int) -> Tensor:
        if maps.dtype == torch.float32 and maps.shape[-1] in sides:
            maps, weight = rounded(maps, bits), rounded(weight, bits)
        return plain(maps, weight, networks)

    return convolve


def main() -> None:
    """Measure every row and keep the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", type=int, default=5, help="the worst of so many is shown")
    count = parser.parse_args().students
    torch.set_num_threads(1)
    plain, every = curvature._convolve, tuple(range(SMALL.depth))
    ways = {"tangents and cotangents alone": plain, "values to TF32": rounding(plain, TF32, every)}
    ways["values to bfloat16"] = rounding(plain, BFLOAT16, every)
    ways |= {f"values of block {block + 1} to bfloat16": rounding(plain, BFLOAT16, (block,)) for block in every}
    learned, wide = (learned_of(SMALL, 2 * BATCH, "cpu", dtype) for dtype in (torch.float32, torch.float64))
    found: dict[str, list[float]] = {name: [] for name in ways}
    for place in range(count):
        student, exact = (student_of(SMALL, BATCH, STEPS, "cpu", one.images.dtype, place) for one in (learned, wide))
        truth = unroll(SMALL, exact.start, wide, exact.batches, exact.score).gradient.images
        for name, way in ways.items():
            with patch.object(curvature, "_convolve", way):
                made = unroll(
                    SMALL, student.start, learned, student.batches, student.score, rule=Rule(precision="bfloat16")
                )
            found[name].append(1 - cosine(made.gradient.images, truth))
    rows = {name: {"worst": max(values), "each": values} for name, values in found.items()}
    write_record(RECORD, {"date": today(), "torch": torch.__version__, "rows": rows})
    print(table(rows))


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The record as Markdown."""
    return markdown(("rounded", "1 − cosine"), ((name, f"{row['worst']:.1e}") for name, row in rows.items()))


if __name__ == "__main__":
    main()
