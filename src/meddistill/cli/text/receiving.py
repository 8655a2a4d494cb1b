"""What became of packages and models: results of the commands that a receiver uses."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from meddistill.cli.layout import Document, fields, paragraph, percent, share, table, title, took
from meddistill.cli.text.scoring import METRICS, metric_cells, metric_name
from meddistill.package.text import cell
from meddistill.runtime.words import size

CALIBRATION = "expected_calibration_error"


def training(document: Document, console: Console) -> None:
    """The model and, if a test source was given, its figures over all seeds."""
    measured = [(metric_name(key), percent(document[key])) for key in METRICS if key in document]
    seeds = document.get("seeds")
    if measured:
        of = "1 seed, which has no interval" if seeds == 1 else f"mean and 95 % interval of {seeds} seeds"
        title(console, f"On {document.get('test_images')} real images, {of}")
        fields(console, [*measured, ("calibration error %", percent(document.get(CALIBRATION)))])
        console.print()
    _contributions(document.get("packages", ()), console)
    told = [(key, document.get(key)) for key in ("network", "recipe", "model")]
    fields(console, [*told, ("time", took(document))])


def _contributions(packages: Sequence[Document], console: Console) -> None:
    """What training lacked without each of several packages."""
    rows = [
        (Path(one["package"]).name, one["images"], *metric_cells(one["without"]))
        for one in packages
        if "without" in one
    ]
    if rows:
        table(console, ["trained without", "its images", *METRICS.values()], rows)
        console.print()


def merging(document: Document, console: Console) -> None:
    """The merged package and its parts."""
    counts = [("classes", document["classes"]), ("images", document["images"])]
    fields(console, [("package", document["package"]), ("size", size(document["bytes"])), *counts])
    rows = [(part["package"], part["images"], part["sha256"][:16]) for part in document["parts"]]
    for note in document["reconciled"]:
        paragraph(console, f"note: {note}")
    console.print()
    table(console, ["part", "images", "SHA-256 begins"], rows)


def predictions(document: Document, console: Console) -> None:
    """One line an image: the likeliest class and all probabilities; and what was left out."""
    rows = [
        (one["image"], one["class"], *(f"{100 * share:.1f}" for share in one["probabilities"].values()))
        for one in document["predictions"]
    ]
    table(console, ["image", "class", *(f"{name} %" for name in document["classes"])], rows, left=2, whole=True)
    if document["left_out"]:
        console.print()
        table(
            console,
            ["left out", "because"],
            [(one["file"], one["problem"]) for one in document["left_out"]],
            left=2,
            whole=True,
        )


def predictions_csv(document: Document, console: Console) -> None:
    """The same as comma-separated values; of what was left out class and probabilities are empty."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["image", "class", *(f"p({name})" for name in document["classes"])])
    for one in document["predictions"]:
        writer.writerow(
            [cell(one["image"]), cell(one["class"]), *(f"{share:.7g}" for share in one["probabilities"].values())]
        )
    nothing = [""] * (1 + len(document["classes"]))
    writer.writerows([cell(one["file"]), *nothing] for one in document["left_out"])
    console.print(lines.getvalue(), end="", soft_wrap=True)


def exported_model(document: Document, console: Console) -> None:
    """The file, and what it takes and gives."""
    takes = " × ".join(map(str, document["input"]))
    fields(console, [("model", document["out"]), ("size", size(document["bytes"])), ("takes", f"intensities {takes}")])
    fields(console, [("gives", f"probabilities of {', '.join(document['classes'])}")])


def compression(document: Document, console: Console) -> None:
    """What was saved and what it cost; and, loudly, whose images the weights have seen."""
    if document["warning"]:
        paragraph(console, f"warning: {document['warning']}")
        console.print()
    before, after = document["bytes_before"], document["bytes_after"]
    told = f"{size(before)} before, {size(after)} after: 1/{document['factor']:.0f} of the file"
    described = [(name, document[name]) for name in ("model", "route", "network")]
    fields(console, [*described, ("size", told), ("time", took(document))])
    stages = document["stages"]
    if stages:
        console.print()
        rows = [
            [one["stage"], size(one["bytes"]), f"{previous['bytes'] / one['bytes']:.1f}"]
            for previous, one in zip([stages[0], *stages[:-1]], stages, strict=True)
        ]
        table(console, ["weights after", "size", "times\nsmaller"], rows)
    if document["scores"]:
        title(console, f"On {document['test_images']} test images (change with its 95 % interval, paired by image)")
        measured = [(_score_name(name), *_changed(one)) for name, one in document["scores"].items()]
        table(console, ["", "before", "after", "change"], measured)
    costs = [document["cost_before"], document["cost_after"]]
    seconds, held = (" before, ".join(shown) + " after" for shown in zip(*map(_cost, costs), strict=True))
    console.print()
    fields(console, [("time an image", seconds), ("memory in use", held)])


def _score_name(name: str) -> str:
    return "calibration error %" if name == CALIBRATION else metric_name(name)


def _changed(one: Document) -> tuple[str, ...]:
    change = f"{100 * one['change']:+.1f} ({100 * one['low']:+.1f} to {100 * one['high']:+.1f})"
    return f"{100 * one['before']:.1f}", f"{100 * one['after']:.1f}", change


def _cost(cost: Document) -> tuple[str, str]:
    return f"{1e3 * cost['seconds_an_image']:.2g} ms", size(cost["bytes"])


def exported(document: Document, console: Console) -> None:
    """Where the images are, and what 8 bits between black and white cost them."""
    fields(console, [("images", document["images"]), ("written to", document["out"])])
    paragraph(console, f"{document['clipped']:.1%} of all values lay outside black and white and were cut off")


def evaluation(document: Document, console: Console) -> None:
    """The figures of one model, and the recall of each class."""
    shares = [(metric_name(key), share(document.get(key))) for key in METRICS]
    calibration = ("calibration error %", share(document.get(CALIBRATION)))
    fields(console, [("images", document.get("images")), *shares, calibration])
    rows = [(name, row["images"], share(row["recall"])) for name, row in document.get("per_class", {}).items()]
    console.print()
    table(console, ["class", "images", "recall %"], rows)
