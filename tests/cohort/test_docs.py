"""docs/cohorts.md lists every problem code that the code can give, and no other."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_code_is_documented():
    files = [*(ROOT / "src/meddistill/cohort").glob("*.py"), ROOT / "src/meddistill/pipeline/sides.py"]
    source = "".join(path.read_text(encoding="utf-8") for path in files)
    given = set(
        re.findall(r'(?:problem\(|\w, )"([a-z]+(?:-[a-z]+)+|[a-z]+)", (?:"(?:error|leak|warning)"|level)', source)
    )
    given |= set(re.findall(r'faults\.\w+, "([a-z-]+)"', source))
    given |= set(re.findall(r'_across\(scan, \w+\(scan\), "([a-z-]+)"', source))
    given.add("one-class")
    table = (ROOT / "docs/cohorts.md").read_text(encoding="utf-8").split("## Problems")[1]
    documented = {
        code for cell in re.findall(r"^\| (`[^|]+) \|", table, re.M) for code in re.findall(r"`([a-z-]+)`", cell)
    }
    assert given == documented
