"""``meddistill distill``: from a source of images to a package."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from meddistill.cli.common import LEAKS, Answer, Budget, Count, Fit, Flag, Output, Reading
from meddistill.cli.text import making

DP = Group("Differential privacy", sort_key=3)
DpNumber = Annotated[float | None, Parameter(group=DP)]
DpRoute = Annotated[Literal["statistics", "teachers"] | None, Parameter(group=DP)]
LeakFlag = Annotated[Flag, Parameter(group=LEAKS)]


def distill(
    source: Path,
    /,
    *,
    out: Path,
    images_per_class: Count | None = None,
    total_images: Count | None = None,
    method: str | None = None,
    size: Count | None = None,
    fit: Fit | None = None,
    no_flip: Flag = False,
    time: Budget = None,
    plan: Path | None = None,
    seed: int | None = None,
    device: str = "auto",
    run: Path | None = None,
    teachers: Path | None = None,
    start: str | None = None,
    start_images: Path | None = None,
    licence: str = "",
    terms: str = "",
    track: str = "",
    track_images: Flag = False,
    withhold_counts: Flag = False,
    withhold_results: Flag = False,
    fixed_normalisation: Flag = False,
    full_data: Flag = False,
    epsilon: DpNumber = None,
    delta: DpNumber = None,
    dp_route: DpRoute = None,
    canaries: Count | None = None,
    resplit: LeakFlag = False,
    drop_leak: LeakFlag = False,
    allow_leak: LeakFlag = False,
    reading: Reading = Reading(),
    output: Output = Output(),
) -> Answer:
    """Distil a source into a package of a few synthetic soft-label images.

    The state is saved as it goes: after Ctrl-C or a crash the same command continues.

    Args:
        source: Folder of class folders, folder of split and class folders, CSV file, or MedMNIST .npz.
        out: Package to write (FILE.mdz); an existing one is replaced once the new one is whole.
        images_per_class: Synthetic images a class [default: 10].
        total_images: Synthetic images in all, instead; with soft labels there may be fewer than classes.
        method: Method (see: meddistill methods) [default: meddistill].
        size: Side of the synthetic images in pixels [default: proposed from the images].
        fit: How images that are not square become so [default: crop].
        no_flip: Mirror no images, here and at receivers: for classes that only the side tells apart (left, right).
        time: Budget that the plan must fit, such as 90s, 5m or 1h30m.
        plan: Plan to follow, as `meddistill inspect` writes it.
        seed: Seed of all random draws [default: 0].
        device: auto, cpu, cuda, cuda:1, mps.
        run: Folder of the plan, event log and checkpoints [default: beside the package].
        teachers: Folder of trajectories to use or to fill, shared by runs on one cohort [default: in the run].
        start: Start images: noise, prototypes, or real (patients' images: marks the package).
        start_images: Start from these public images, of nobody in the source: a folder, CSV, .npz or package.
        licence: Licence that the package says it is under, as one line of text.
        terms: Terms of use that the package states, as one line of text.
        track: Draw the run for a tracker, too: tensorboard or mlflow, or NAME:FOLDER [default folder: in the run].
        track_images: Draw the synthetic images for TensorBoard as well.
        withhold_counts: Do not tell how many images the cohort has.
        withhold_results: Do not tell scores on the cohort's validation and test images; they stay in the run folder.
        fixed_normalisation: Normalise by fixed numbers; else the package tells the training images' mean and deviation.
        full_data: Measure networks trained on all training images, too (may take longer than the rest).
        epsilon: Make images and labels differentially private, for every named patient, else every image.
        delta: Its delta; below one over the number of patients, and better far below [default: 1e-5].
        dp_route: From noised statistics of the images, or from teachers trained under noise [default: statistics].
        canaries: Plant so many records, each by a coin, for `audit --canaries`; the package is not to be shared.
        resplit: Split the images anew, by patient and by identical images.
        drop_leak: Leave the leaking images out; those in the test split stay.
        allow_leak: Go on with the leak; figures on the test split are then too good.
    """
    from meddistill import api

    result = api.distill(
        source,
        out,
        images_per_class=images_per_class,
        total_images=total_images,
        method=method,
        size=size,
        fit=fit,
        flip=False if no_flip else None,  # left out, the plan file decides
        time_s=time,
        plan=plan,
        seed=seed,
        device=device,
        run=run,
        teachers=teachers,
        start=start,
        start_images=start_images,
        leak=_leak(resplit, drop_leak, allow_leak),
        licence=licence,
        terms=terms,
        track=track,
        track_images=track_images,
        withhold_counts=withhold_counts,
        withhold_results=withhold_results,
        fixed_normalisation=fixed_normalisation or None,  # left out, the plan file decides
        epsilon=epsilon,
        delta=delta,
        dp_route=dp_route,
        canaries=canaries or 0,
        full_data=full_data or None,  # left out, the plan file decides
        options=reading.options(),
        progress=output.progress(),
    )
    return Answer(result.as_dict(), making.distillation)


def _leak(resplit: bool, drop: bool, allow: bool) -> Literal["stop", "allow", "drop", "resplit"]:
    if resplit:
        return "resplit"
    if drop:
        return "drop"
    return "allow" if allow else "stop"
