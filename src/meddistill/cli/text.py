"""Results as text for an 80-column terminal. Every function takes the same document that ``--json`` prints."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from meddistill.cli.layout import (
    Document,
    fields,
    flat,
    listed,
    paragraph,
    percent,
    plain,
    share,
    table,
    title,
    took,
)
from meddistill.runtime.words import duration, size

METRICS = {"balanced_accuracy": "balanced\naccuracy %", "auroc": "\nAUROC %", "accuracy": "\naccuracy %"}
CALIBRATION = "expected_calibration_error"
ROWS = {"random": "random", "distilled": "distilled", "own": "own recipe", "full": "all real"}
_DEMO_HEADERS = (
    *("images\na\nclass", "trained\non", *METRICS.values()),
    *("size", "times\nsmaller", "time\nto\nmake", "time\nto\ntrain"),
)
LEGEND = """random: as many real images, drawn at random{draws}; all real: the training split.
Mean ± half of the 95 % interval over the seeds, on the test split.
Time to train: one network."""
_AUDITED = {
    "pass": "these attacks, at their strength here, found no more than the gates allow: a measurement, no proof",
    "inconclusive": "too little can be said: see what qualifies the figures",
    "alarm": "the package tells something about its patients, beyond chance; have it judged before it leaves",
    "fail": "the package tells too much about its patients; it should not leave",
}
_AUDITED_MODEL = _AUDITED | {
    "alarm": "these weights tell something about single patients, beyond chance; have it judged before they leave",
    "fail": "these weights tell too much about single patients; they should not leave",
}


def inspection(document: Document, console: Console) -> None:
    """The fingerprint, the problems, the plan, and what it will cost."""
    _fingerprint(document["fingerprint"], console)
    problems(document.get("problems", ()), console)
    estimate = document.get("estimate") or {}
    if document.get("plan"):
        title(console, "Plan")
        fields(console, flat(document["plan"]))
    if estimate:
        title(console, "Estimate for this machine")
        stages = [(f"  {name}", duration(seconds)) for name, seconds in (estimate.get("stages") or {}).items()]
        memory = estimate.get("memory_mb")
        told = None if memory is None else f"about {size(memory * 1e6)}"
        fields(console, [("time", duration(estimate["seconds"])), *stages, ("memory", told)])
    if document.get("plan_file"):
        console.print(f"\nThe plan is in {document['plan_file']}: edit it, then distil with --plan.", soft_wrap=True)


def problems(found: Iterable[Document], console: Console) -> None:
    """Errors first, then leaks, then warnings."""
    order = {"error": 0, "leak": 1, "warning": 2}
    ranked = sorted(found, key=lambda problem: order.get(problem["level"], 3))
    if ranked:
        title(console, "Problems")
    for problem in ranked:
        paragraph(console, f"{problem['level']}: {problem['message']}")


def distillation(document: Document, console: Console) -> None:
    """What was made, and how well one trains from it."""
    _results(document.get("results"), console)
    console.print()
    _files(document, console)


def training(document: Document, console: Console) -> None:
    """The model and, if a test source was given, its figures over all seeds."""
    measured = [(_metric(key), percent(document[key])) for key in METRICS if key in document]
    seeds = document.get("seeds")
    if measured:
        title(console, f"On {document.get('test_images')} real images, mean and 95 % interval of {seeds} seeds")
        fields(console, [*measured, ("calibration error %", percent(document.get(CALIBRATION)))])
        console.print()
    _contributions(document.get("packages", ()), console)
    fields(console, [("network", document.get("network")), ("model", document.get("model")), ("time", took(document))])


def _contributions(packages: Sequence[Document], console: Console) -> None:
    """What training lacked without each of several packages."""
    rows = [
        (Path(one["package"]).name, one["images"], *_metrics(one["without"])) for one in packages if "without" in one
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
    """One line an image: the likeliest class and all probabilities."""
    rows = [
        (one["image"], one["class"], *(f"{100 * share:.1f}" for share in one["probabilities"].values()))
        for one in document["predictions"]
    ]
    table(console, ["image", "class", *(f"{name} %" for name in document["classes"])], rows, left=2, whole=True)


def predictions_csv(document: Document, console: Console) -> None:
    """The same as comma-separated values."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["image", "class", *(f"p({name})" for name in document["classes"])])
    for one in document["predictions"]:
        writer.writerow([one["image"], one["class"], *(f"{share:.7g}" for share in one["probabilities"].values())])
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
    told = f"{size(before)} before, {size(after)} after: 1/{document['factor']:.0f}"
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
    return "calibration error %" if name == CALIBRATION else _metric(name)


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
    shares = [(_metric(key), share(document.get(key))) for key in METRICS]
    calibration = ("calibration error %", share(document.get(CALIBRATION)))
    fields(console, [("images", document.get("images")), *shares, calibration])
    rows = [(name, row["images"], share(row["recall"])) for name, row in document.get("per_class", {}).items()]
    console.print()
    table(console, ["class", "images", "recall %"], rows)


def shown(document: Document, console: Console) -> None:
    """A package, or a compressed model, which alone says what its weights have seen."""
    (compressed_model if "saw" in document else package)(document, console)


def compressed_model(document: Document, console: Console) -> None:
    """What a compressed model says of itself; and, loudly, whose images its weights have seen."""
    if document["warning"]:
        paragraph(console, f"warning: {document['warning']}")
        console.print()
    model = document["model"] or {}
    told = f"{size(document['original'])} before, {size(document['bytes'])} in the file: 1/{document['factor']:.0f}"
    takes = f"{model['channels']} × {model['size']} × {model['size']} intensities" if model else None
    fields(
        console,
        [
            ("kind", document["kind"]),
            ("network", model.get("network")),
            ("classes", model.get("classes")),
            ("takes", takes),
            ("trained on", document["saw"]),
            ("route", document["route"]),
            ("size", told),
            ("weights", document["stored"]),
            ("signature", _answer(document["answer"], document["signer"])),
        ],
    )


def package(document: Document, console: Console) -> None:
    """What a package says of itself; ``--json`` has the digests besides."""
    images, recipe = document["images"], document["recipe"]
    if document["contains_real_images"]:
        paragraph(console, "warning: distilling started from real images: treat this file as patients' data")
    if recipe["plan"].get("canaries"):
        paragraph(
            console, "warning: canaries were planted: this package was made to be audited, not to be shared or used"
        )
    stored = f" (stored with {images['stored']} × {images['stored']})" if images.get("stored") else ""
    size_of_one = f"{images['size']} × {images['size']} pixels{stored}"
    shape = f"{images['count']} of {size_of_one}, {images['channels']} channel(s)"
    software = " ".join(document["software"].values())
    made = (
        f"{recipe['method']}, start {recipe['start']}, network {recipe['network']}, seed {recipe['seed']}, {software}"
    )
    each = f", {images['per_class']} a class" if images["per_class"] else ""
    described = [("classes", document["task"]["classes"]), ("images", shape + each)]
    described += [("labels", document["task"]["labels"]), ("size", _sizes(document)), ("made by", made)]
    if document.get("answer"):
        described.append(("signature", _answer(document["answer"], document.get("signer"))))
    fields(console, described + [(name.replace("_", " "), told) for name, told in document["terms"].items() if told])
    if document.get("privacy"):
        _privacy(document["privacy"], console)
    title(console, "Plan")
    fields(console, flat(recipe["plan"]))
    if isinstance(document["cohort"]["counts"], Mapping):
        title(console, "Made from")
        _counts(document["task"]["classes"], document["cohort"]["counts"], console)
    _results((document.get("results") or {}).get("splits"), console)


def _privacy(privacy: Document, console: Console) -> None:
    """What is proved of the images and labels, how, and what it leaves out."""
    told = f"epsilon {privacy['epsilon']:g}, delta {privacy['delta']:g}, to add or remove one {privacy['unit']}"
    fields(console, [("differential privacy", told), ("accountant", privacy["accountant"])])
    for look in privacy["history"]:
        groups = f", in each of {look['groups']} groups" if look["groups"] > 1 else ""
        rate = f"rate {look['sampling_rate']:g}, noise {look['noise_multiplier']:.4g}"
        paragraph(console, f"accounted for: {look['mechanism']}, {look['steps']} times, {rate}{groups}")
    for one in privacy["outside"]:
        paragraph(console, f"not accounted for: {one}")


def reported(document: Document, console: Console) -> None:
    """The page and what it shows."""
    audit = None if document["audit"] is None else f"from {document['audit']}"
    shown = [(name, document[name]) for name in ("package", "run", "benchmark")]
    fields(console, [("report", document["out"]), ("size", size(document["bytes"])), *shown, ("audit", audit)])


def viewed(document: Document, console: Console) -> None:
    """What the viewer showed, once it has ended."""
    fields(console, [("viewer", f"ended, {document['address']}"), ("showed", document["subjects"] or None)])


def verification(document: Document, console: Console) -> None:
    """The answer, what is wrong, and the members that were checked."""
    paragraph(console, _answer(document["answer"], document.get("signer")))
    for problem in document["problems"]:
        paragraph(console, f"problem: {problem}")
    members = [(name, size(facts["bytes"]), facts["sha256"][:16]) for name, facts in document["members"].items()]
    if members:
        console.print()
        table(console, ["member", "size", "SHA-256 begins"], members)


def audit(document: Document, console: Console) -> None:
    """One row an attack, what qualifies it, the scores of membership one by one, and the outcome."""
    groups = document["groups"]
    counted = " and ".join(
        f"{groups[side]['patients']} {told} ({groups[side]['images']} images)"
        for side, told in (("members", "members"), ("control", "control patients"))
    )
    console.print(f"\n{counted}; counted by {groups['unit']}\n", soft_wrap=True)
    rows = [
        (one["attack"], *(_rate(one[name]) for name in ("main", "control", "baseline")), _excess(one), one["outcome"])
        for one in document["findings"]
    ]
    headers = ["attack", "members\n%", "control\n%", "guessing\n%", "excess %\n(95 % interval)", "outcome"]
    table(console, headers, rows, whole=True)
    console.print()
    for one in document["findings"]:
        _finding(one, console)
    console.print()
    words = _AUDITED_MODEL if "model" in document else _AUDITED
    paragraph(console, f"{document['outcome']}: {words[document['outcome']]}")


def key_pair(document: Document, console: Console) -> None:
    """The two files of a new key, and its fingerprint."""
    keys = [(name.replace("_", " "), document[name]) for name in ("private_key", "public_key", "fingerprint")]
    fields(console, keys)
    paragraph(console, "Keep the private key where only you can read it; give the public one to receivers.")


def signed(document: Document, console: Console) -> None:
    """The signed package and the key that signed it."""
    fields(console, [(name, document[name]) for name in ("package", "fingerprint")])


def trusted_keys(document: Document, console: Console) -> None:
    """Names and fingerprints."""
    known = document["trusted"]
    if known:
        table(console, ["trusted", "fingerprint"], list(known.items()), left=2, whole=True)
    else:
        paragraph(console, "No key is trusted yet: meddistill trust KEY.pub.pem --name NAME")
    fields(console, [("kept in", document["file"])])


def catalogue(document: Document, console: Console) -> None:
    """The methods: what each is, its family, what it learns, its cost and its source."""
    _described(console, document["methods"])
    if document.get("comparisons"):
        console.print()
        paragraph(
            console, "Beside them in benchmarks: few labelled real images, and an encoder (docs/scarce-labels.md)"
        )
        _described(console, document["comparisons"])


def _described(console: Console, methods: Iterable[Document]) -> None:
    for method in methods:
        console.print(Text(method["name"], style="bold"))
        console.print(f"  {method['summary']}")
        for name in [name for name in ("family", "learns", "cost", "source") if name in method]:
            paragraph(console, f"  {name:<8}{plain(method[name])}")


def demonstration(document: Document, console: Console) -> None:
    """The one table: trained on random, distilled and all real images, and what each costs; and what follows."""
    groups: dict[str, dict[str, Document]] = {}
    for row in sorted(document["rows"], key=lambda row: row["data"] == "full"):  # stable: the row to reach stands last
        count = "all" if row["data"] == "full" else str(row["images_per_class"])
        groups.setdefault(count, {})[row["data"]] = row
    lines = [[(), *(_demo_row(count, row) for row in rows.values())] for count, rows in groups.items()]
    console.print()
    table(console, _DEMO_HEADERS, [line for group in lines for line in group][1:], left=2, whole=True)
    sets = document.get("random_sets", 1)
    console.print("\n" + LEGEND.format(draws=f" (the mean of {sets} draws for each seed)" if sets > 1 else "") + "\n")
    for count, rows in groups.items():
        if {"random", "distilled"} <= rows.keys() and len(rows["distilled"]["auroc"]["per_seed"]) > 1:
            paragraph(console, _verdict(count, rows["random"], rows["distilled"]))
    console.print()
    listed(console, "package", document.get("packages", ()))
    listed(console, "preview", document.get("previews", ()))


def benchmark(document: Document, console: Console) -> None:
    """A table for every cohort, the methods in order, the files, and what is missing."""
    for cohort in dict.fromkeys(one["cohort"] for one in document["results"]):
        title(console, cohort)
        mine = [one for one in document["results"] if one["cohort"] == cohort]
        headers = ("images\na class", "method", "network", "balanced\naccuracy %", "\nAUROC %", "gain over\nrandom")
        table(console, headers, _bench_rows(mine), left=3, whole=True)
    console.print()
    paragraph(
        console,
        "* real images of patients; † an encoder, or none, and few labelled images of the receiver's own: results.md "
        "says what each row has others share. Mean ± half of the 95 % interval over the seeds, on the test split.",
    )
    console.print()
    ranked = [(one["method"], f"{100 * one['mean']:.1f}", one["best"], one["not_worse"]) for one in document["ranking"]]
    if len(ranked) > 1:
        table(console, ["method", "mean %", "best in", "not worse in"], ranked)
        console.print()
    listed(console, "file", document["files"])
    if document["missing"]:
        paragraph(console, f"{document['missing']} tasks are not done: the same command tries them again")


def _bench_rows(found: Iterable[Document]) -> list[tuple[str, ...]]:
    """A row for every cell, and a blank one before another network or number of images."""
    rows: list[tuple[str, ...]] = []
    place = None
    for one in found:
        if place not in (None, place := (one["evaluation"], one["images_per_class"])):
            rows.append(())
        scores = one["scores"]["test"]["as is"]
        mark = "†" if one["labelled_by_receiver"] else "*" * one["contains_patients"]
        figures = (percent(scores["balanced_accuracy"]), percent(scores["auroc"]), percent(one["gain"]))
        rows.append((str(one["images_per_class"] or "all"), one["method"] + mark, one["evaluation"], *figures))
    return rows


def _answer(answer: str, signer: Document | None) -> str:
    """What a verification's answer means for whoever holds the file."""
    facts = signer or {}
    return {
        "trusted": f"sound, signed by {facts.get('name')}, whom you trust ({facts.get('fingerprint')})",
        "stranger": f"sound, but signed by a key that you do not trust: {facts.get('fingerprint')}",
        "unsigned": "sound and unsigned: it is whole, as its card says; nobody vouches for who made it",
        "broken": "broken: do not use it; ask the sender for the file anew",
    }.get(answer, answer)


def _finding(found: Document, console: Console) -> None:
    """What an attack's row leaves out."""
    figures = found["figures"]
    if "copies" in figures:
        nearer = _area(figures["nearer_to_members"])
        paragraph(console, f"copies: {figures['copies']} of {figures['synthetic_images']} synthetic images")
        paragraph(console, f"copies: nearer to one member than to one control patient, {nearer}")
    if "epsilon_at_least" in figures:
        told = (
            "{right_guesses} of {guesses} guesses right; epsilon is at least {epsilon_at_least:.2f} at delta {delta:g}"
        )
        paragraph(console, f"canaries: {told.format(**figures)} (95 %)")
    for name, one in figures.get("scores", {}).items():
        paragraph(console, f"{found['attack']} by {name}: {_area(one['area'])}, {one['outcome']}")
    for warning in found["warnings"]:
        paragraph(console, f"{found['attack']}: {warning}")


def _area(found: Document) -> str:
    """An area under the ROC curve with its interval."""
    return f"area under the curve {found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def _rate(value: Any) -> str | None:
    """A share in per cent, of a figure with or without an interval."""
    share = value["value"] if isinstance(value, Mapping) else value
    return None if share is None else f"{100 * share:.1f}"


def _excess(found: Document) -> str | None:
    """The excess in per cent, with its interval."""
    one = found["excess"]
    return one and f"{_rate(one)} ({100 * one['low']:.1f} to {100 * one['high']:.1f})"


def _demo_row(count: str, row: Document) -> tuple[str, ...]:
    full = row["data"] == "full"
    factor = "–" if full or row.get("factor") is None else f"{row['factor']:,.0f}"
    times = (took(row, "making_seconds") or "–", took(row) or "–")
    return (count, _row(row["data"]), *_metrics(row), size(row["bytes"]), factor, *times)


def _verdict(count: str, random: Document, distilled: Document) -> str:
    """Whether distilled's intervals lie wholly above random's."""
    figures = [key for key in ("balanced_accuracy", "auroc") if key in random and key in distilled]
    above = [_figure(key) for key in figures if distilled[key]["low"] > random[key]["high"]]
    others = [_figure(key) for key in figures if distilled[key]["low"] <= random[key]["high"]]
    begin = f"{count} {'image' if count == '1' else 'images'} a class: the distilled interval"
    if not above:
        return f"{begin} does not lie wholly above the random one in {' or '.join(others)}."
    but = f", but not in {others[0]}" if others else ""
    return f"{begin} lies wholly above the random one in {' and '.join(above)}{but}."


def _figure(key: str) -> str:
    return _metric(key).removesuffix(" %")


def _fingerprint(facts: Document, console: Console) -> None:
    counts: Document = facts.get("counts") or {}
    title(console, f"{facts.get('name', 'cohort')}")
    fields(console, flat({key: value for key, value in facts.items() if key not in ("name", "counts", "classes")}))
    classes = facts.get("classes") or sorted({name for split in counts.values() for name in split})
    console.print()
    _counts(classes, counts, console)


def _counts(classes: Sequence[str], counts: Document, console: Console) -> None:
    rows = [[name, *(split.get(name, 0) for split in counts.values())] for name in classes]
    table(console, ["class", *counts], [*rows, ["total", *(sum(split.values()) for split in counts.values())]])


def _results(splits: Document | None, console: Console) -> None:
    for split, rows in (splits or {}).items():
        title(console, f"Trained on each, measured on the {split} split (mean ± half of the 95 % interval)")
        table(console, ["trained on", *METRICS.values()], [[_row(name), *_metrics(row)] for name, row in rows.items()])


def _sizes(document: Document) -> str:
    factor = document.get("factor")
    each = "" if document.get("bytes_per_class") is None else f", {size(document['bytes_per_class'])} a class"
    smaller = "" if factor is None else f", {factor:,.0f} times smaller than the training images"
    return f"{size(document['bytes'])}{each}{smaller}"


def _files(document: Document, console: Console) -> None:
    fields(
        console,
        [
            ("package", document.get("package")),
            ("size", _sizes(document)),
            ("preview", document.get("preview")),
            ("run", document.get("run")),
            ("canaries", _kept(document.get("canaries"))),
            ("time", took(document)),
        ],
    )


def _kept(canaries: str | None) -> str | None:
    return canaries and f"{canaries} (patients' images and secret coins: keep it in the house)"


def _metrics(row: Document) -> list[str]:
    return [percent(row.get(metric)) for metric in METRICS]


def _metric(key: str) -> str:
    return METRICS[key].replace("\n", " ").strip()


def _row(name: str) -> str:
    return ROWS.get(name, name)
