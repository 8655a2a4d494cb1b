"""Write the largest package that the format allows, read it in a fresh process, and print time and peak memory.

    .venv/bin/python benchmarks/reading.py

128 images of 1024×1024 pixels of noise, 2^27 values; noise hardly deflates, so that the file is the largest, too.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from meddistill.package.read import read
from meddistill.package.types import Card, CohortCounts, Images, Normalisation, Package, Recipe, Sizes, Software, Task
from meddistill.package.write import write

COUNT, SIDE = 128, 1024


def largest() -> Package:
    """Noise of two classes."""
    generator = np.random.default_rng(0)
    card = Card(
        software=Software(name="meddistill", version="0"),
        task=Task(classes=("ill", "well"), labels="hard"),
        images=Images(count=COUNT, per_class=COUNT // 2, size=SIDE, channels=1),
        normalisation=Normalisation(mean=(0.5,), std=(0.25,)),
        recipe=Recipe(method="mtt", seed=0, start="noise", network="convnet-d8-w32", plan={}),
        cohort=CohortCounts(counts="withheld"),
        contains_real_images=False,
        bytes=Sizes(cohort_train=None),
    )
    images = generator.random((COUNT, 1, SIDE, SIDE), np.float32)
    labels = np.repeat(np.eye(2, dtype=np.float32), COUNT // 2, axis=0)
    return Package(images=images, labels=labels, step_sizes=np.full(1, 0.1, np.float32), card=card)


def measure(path: Path) -> dict[str, float]:
    """Seconds and mebibytes of reading, in this process."""
    before, begun = peak_mib(), time.perf_counter()
    images = read(path).images
    seconds = time.perf_counter() - begun
    return {"values": images.size, "seconds": round(seconds, 1), "peak_mib": peak_mib(), "before_mib": before}


def peak_mib() -> int:
    """The most memory that this process has held. (``getrusage`` would count what its parent held before it.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Write here, read there."""
    if sys.argv[1:]:
        print(json.dumps(measure(Path(sys.argv[1]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "largest.mdz"
        begun = time.perf_counter()
        size = write(path, largest())
        print(f"written: {size / 2**20:.0f} MiB in {time.perf_counter() - begun:.0f} s")
        subprocess.run([sys.executable, __file__, str(path)], check=True)


if __name__ == "__main__":
    main()
