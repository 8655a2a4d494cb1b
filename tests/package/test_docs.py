"""The documentation tells the truth: the snippet runs, and every limit is the one in the code."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from meddistill.nets.network import MAX_PARAMETERS
from meddistill.package import limits, members
from meddistill.package.read import read

ROOT = Path(__file__).parents[2]
FORMAT = (ROOT / "src/meddistill/package/FORMAT.md").read_text(encoding="utf-8")


def test_numpy_alone(sound: bytes, tmp_path: Path) -> None:
    text = (ROOT / "docs/package.md").read_text(encoding="utf-8")
    snippet = text.split("runs this snippet -->\n```python\n")[1].split("```")[0]
    assert "meddistill" not in snippet
    assert len([line for line in snippet.splitlines() if line and "import" not in line]) <= 10
    (tmp_path / "lungs.mdz").write_bytes(sound)
    save = """
np.savez("out.npz", images=images, labels=labels, steps=tensors["step_sizes"], mean=card["normalisation"]["mean"])"""
    subprocess.run([sys.executable, "-I", "-c", snippet + save], cwd=tmp_path, check=True, timeout=60)
    found, package = np.load(tmp_path / "out.npz"), read(tmp_path / "lungs.mdz")
    assert found["images"].dtype == np.float32
    np.testing.assert_array_equal(found["images"], package.images)
    np.testing.assert_array_equal(found["labels"], package.labels)
    np.testing.assert_array_equal(found["steps"], package.step_sizes)
    assert tuple(found["mean"]) == package.card.normalisation.mean


def test_the_specification_has_every_limit() -> None:
    quoted = {float(number) for number in re.findall(r"\*\*(-?[\d.]+)\*\*", FORMAT)}
    for name, value in vars(limits).items():
        if name.startswith("MAX_") and name != "MAX_SCORE_SPAN":
            assert float(value) in quoted, f"{name} = {value} is not in FORMAT.md"
    assert {limits.LABEL_SUM_TOLERANCE, limits.SCORE_TOLERANCE, MAX_PARAMETERS} <= quoted
    assert f"version {limits.FORMAT_VERSION}" in FORMAT
    assert limits.INTENSITY_UNIT == 2**-19
    assert limits.MIN_SCALE == 2**-10
    for name, size in members.MEMBERS.items():
        assert f"| `{name}` | **{size}** |" in FORMAT
