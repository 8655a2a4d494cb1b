"""What was read, distilled, compared: results of the commands that a hospital begins with."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.text import Text

from meddistill.cli.layout import Document, fields, flat, listed, paragraph, percent, plain, table, title, took
from meddistill.cli.text.scoring import (
    METRICS,
    metric_cells,
    metric_name,
    print_counts,
    print_results,
    row_name,
    size_words,
)
from meddistill.runtime.words import duration, size

_DEMO_HEADERS = (
    *("images\na\nclass", "trained\non", *METRICS.values()),
    *("size", "times\nsmaller", "time\nto\nmake", "time\nto\ntrain"),
)
# Lists of ``methods`` that are not methods, and what the page calls them.
_BESIDE = {
    "coresets": "real images of patients, which are never written to a file (docs/bench.md)",
    "comparisons": "few labelled real images, and an encoder (docs/scarce-labels.md)",
}
LEGEND = """random: as many real images, drawn at random{draws}; all real: the training split.
Mean ± half of the 95 % interval over the seeds, on the test split.
Time to train: one network."""


def inspection(document: Document, console: Console) -> None:
    """The fingerprint, the problems, the plan, and what it will cost."""
    _fingerprint(document["fingerprint"], console)
    _problems(document.get("problems", ()), console)
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


def _problems(found: Sequence[Document], console: Console) -> None:
    """As the answer has them: errors first, then leaks, then warnings."""
    if found:
        title(console, "Problems")
    for problem in found:
        paragraph(console, f"{problem['level']}: {problem['message']}")


def distillation(document: Document, console: Console) -> None:
    """What was made, and how well one trains from it."""
    print_results(document.get("results"), console)
    console.print()
    _files(document, console)


def catalogue(document: Document, console: Console) -> None:
    """The methods: what each is, its family, what it learns, its cost and its source; what stands beside them."""
    _described(console, document["methods"])
    for name, heading in _BESIDE.items():
        if document.get(name):
            console.print()
            paragraph(console, f"Beside them in benchmarks: {heading}")
            _described(console, document[name])


def _described(console: Console, methods: Iterable[Document]) -> None:
    for method in methods:
        console.print(Text(method["name"], style="bold"))
        console.print(f"  {method['summary']}")
        for name in [name for name in ("family", "learns", "cost", "source") if name in method]:
            paragraph(console, f"  {name:<8}{plain(method[name]) or 'nothing'}")
        if method.get("contains_patients"):
            console.print("  holds   images of patients")


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
        "says what each row has others share. Mean ± half of the 95 % interval over the "
        f"{_repeated(document['results'])}, on the test split.",
    )
    console.print()
    ranked = [(one["method"], f"{100 * one['mean']:.1f}", one["best"], one["not_worse"]) for one in document["ranking"]]
    if len(ranked) > 1:
        table(console, ["method", "mean %", "best in", "not worse in"], ranked)
        console.print()
    listed(console, "file", document["files"])
    if document["missing"]:
        paragraph(console, f"{document['missing']} tasks are not done: the same command tries them again")


def _repeated(results: Iterable[Document]) -> str:
    count = max((one.get("distillations", 1) for one in results), default=1)
    return "seeds" if count == 1 else f"{count} distillations"


def _bench_rows(found: Iterable[Document]) -> list[tuple[str, ...]]:
    """A row for every cell, and a blank one before another network or number of images."""
    rows: list[tuple[str, ...]] = []
    place = None
    for one in found:
        count = f"{one['total_images']} in all" if "total_images" in one else str(one["images_per_class"] or "all")
        if place not in (None, place := (one["evaluation"], count)):
            rows.append(())
        scores = one["scores"]["test"]["as is"]
        mark = "†" if one["labelled_by_receiver"] else "*" * one["contains_patients"]
        figures = (percent(scores["balanced_accuracy"]), percent(scores["auroc"]), percent(one["gain"]))
        rows.append((count, one["method"] + mark, one["evaluation"], *figures))
    return rows


def _demo_row(count: str, row: Document) -> tuple[str, ...]:
    full = row["data"] == "full"
    factor = "–" if full or row.get("factor") is None else f"{row['factor']:,.0f}"
    times = (took(row, "making_seconds") or "–", took(row) or "–")
    return (count, row_name(row["data"]), *metric_cells(row), size(row["bytes"]), factor, *times)


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
    return metric_name(key).removesuffix(" %")


def _fingerprint(facts: Document, console: Console) -> None:
    counts: Document = facts.get("counts") or {}
    title(console, f"{facts.get('name', 'cohort')}")
    fields(console, flat({key: value for key, value in facts.items() if key not in ("name", "counts", "classes")}))
    classes = facts.get("classes") or sorted({name for split in counts.values() for name in split})
    console.print()
    print_counts(classes, counts, console)


def _files(document: Document, console: Console) -> None:
    fields(
        console,
        [
            ("package", document.get("package")),
            ("size", size_words(document)),
            ("preview", document.get("preview")),
            ("run", document.get("run")),
            ("canaries", _kept(document.get("canaries"))),
            ("time", took(document)),
        ],
    )


def _kept(canaries: str | None) -> str | None:
    return canaries and f"{canaries} (patients' images and secret coins: keep it in the house)"
