"""``meddistill bench``: methods compared under one protocol."""

from pathlib import Path

from meddistill.cli.common import Answer, Count, Output
from meddistill.cli.text import making


def bench(
    grid: Path,
    /,
    *,
    out: Path,
    data: Path | None = None,
    subset: str | None = None,
    jobs: Count | None = None,
    device: str = "auto",
    output: Output = Output(),
) -> Answer:
    """Compare methods on cohorts, set sizes and networks, all under one protocol.

    The state is saved as it goes: after Ctrl-C or a crash the same command continues.

    Args:
        grid: What to compare, a TOML file such as those in recipes/.
        out: Folder for tables, pictures, sets and teachers (which were trained on patients' images: keep it inside).
        data: Folder that the grid's sources are in [default: the folder of the grid].
        subset: Part of the grid, as named in it.
        jobs: Processes [default: one for each core; on a GPU 1].
        device: auto, cpu, cuda, cuda:1, mps.
    """
    from meddistill import api

    result = api.bench(
        grid, out, data=data, subset=subset, jobs=jobs, device=device, progress=output.progress()
    ).as_dict()
    return Answer(result, making.benchmark, exit_code=2 if result["failed"] else 0)
