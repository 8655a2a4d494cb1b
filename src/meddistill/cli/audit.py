"""``meddistill audit``: what a package, or a model, tells about the patients that it was made from."""

from pathlib import Path

from meddistill.cli.common import Answer, Count, Flag, Output, Reading
from meddistill.cli.text import auditing


def audit(
    file: Path,
    /,
    *,
    members: str,
    control: str | None = None,
    out: Path | None = None,
    attach: Flag = False,
    canaries: Path | None = None,
    quick: Flag = False,
    references: int = 16,
    shadows: int = 0,
    shadow_iterations: Count | None = None,
    seed: int = 0,
    device: str = "auto",
    reading: Reading = Reading(),
    output: Output = Output(),
) -> Answer:
    """Attack a package, or a model, as its receiver might, and measure what it tells of the patients it was made from.

    Ends with 0 if all attacks pass, with 6 if one fails, 7 for an alarm, 8 if too little can be said.

    Args:
        file: The package (FILE.mdz), or a model: compressed (FILE.mdw) or as `meddistill train` wrote it.
        members: Source that it was made from, or trained on, as SOURCE or SOURCE:SPLIT [default split: train].
        control: Patients who had no part in it, alike [default: the members' source, split test].
        out: Where to write the report (JSON).
        attach: Put the report into the package, which must not be signed yet.
        canaries: Canaries of a package that was distilled with them (in its run folder): bounds epsilon from below.
        quick: Leave out the attack on membership; such an audit does not pass.
        references: Networks trained on other patients, for the attack on membership; an even number.
        shadows: Distil so many packages anew, each from half of all patients, for the strongest attack on membership.
        shadow_iterations: Make shadows with fewer iterations than the package had; nothing passes or fails by them.
        seed: Seed of all random draws.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    from meddistill import api

    found = api.audit(
        file,
        members,
        control,
        out=out,
        attached=attach,
        canaries=canaries,
        references=0 if quick else references,
        shadows=0 if quick else shadows,
        shadow_iterations=None if quick else shadow_iterations,
        seed=seed,
        device=device,
        options=reading.options(),
        progress=output.progress(),
    )
    return Answer(found.as_dict(), auditing.audit, found.exit_code)
