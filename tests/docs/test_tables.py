"""Figures in tables of the documentation are those of the committed records, to the last digit that is shown."""

import csv
import importlib.util
import json
import re
import sys

import numpy as np
import pytest
from pages import ROOT
from scipy.stats import t

RECORDS = ROOT / "benchmarks/records"
COHORTS = {"HAM10000": "ham10000", "PBC blood cells": "pbc_blood_64", "COVID-19 radiography": "covid_cxr3_112"}


def text_of(page):
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


def words_of(page, behind=""):
    """The text of a page, or what stands behind these words on it, without its line breaks."""
    text = text_of(page)
    return " ".join((text.split(behind)[1] if behind else text).split())


def table(page, begins):
    """The first table of a page behind these words: its headers and its rows, without emphasis."""
    text = text_of(page).split(begins)[1].replace("**", "").replace("−", "-")
    found = re.search(r"(^\|.*\n)+", text, re.MULTILINE)[0]
    headers, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in found.splitlines()]
    return headers, rows


def record(name):
    return json.loads((RECORDS / name).read_text())


def recorded(name):
    """Balanced accuracy of a record as a table shows it, by cohort, images a class and method."""
    return {place: shown(one.values()) for place, one in balanced(name, "images_per_class", "method").items()}


def balanced(name, *keys):
    """Balanced accuracy on test images of every line of a record, by cohort and these keys."""
    lines = map(json.loads, (RECORDS / name / "results.jsonl").read_text().splitlines())
    return {
        tuple(one[key] for key in ("cohort", *keys)): one["scores"]["test"]["as is"]["balanced_accuracy"]
        for one in lines
    }


def shown(figures, sign=""):
    mean, low, high = (100 * float(value) for value, _ in zip(figures, range(3), strict=False))
    return f"{mean:{sign}.1f} ± {(high - low) / 2:.1f}"


def differences(name):
    """To the reference, over all cells, by method."""
    rows = csv.DictReader((RECORDS / name / "paired.csv").read_text().splitlines())
    names = ("difference", "difference low", "difference high")
    return {row["method"]: shown((row[name] for name in names), "+") for row in rows if row["cohort"] == "all"}


def ahead(mine, theirs):
    """How far means over cells are apart, paired by seed; figures ``(cells, seeds)`` each."""
    points = 100 * (np.mean(mine, axis=0) - np.mean(theirs, axis=0))
    return f"{points.mean():+.1f} ± {t.ppf(0.975, len(points) - 1) * points.std(ddof=1) / len(points) ** 0.5:.1f}"


def method(cell):
    return "full" if cell == "all real images" else re.fullmatch(r"`([\w-]+)`(, real images)?", cell)[1]


def test_benchmarks_write_a_record_as_it_stands(tmp_path):
    shared = loaded("benchmarks/shared.py")
    assert shared.read_record(tmp_path / "none.json") == {}
    for kept in set(RECORDS.glob("*.json")) - {RECORDS / "teachers.json"}:  # which is set apart further
        shared.write_record(tmp_path / "new.json", shared.read_record(kept))
        assert (tmp_path / "new.json").read_bytes() == kept.read_bytes()


def test_the_table_of_the_ablation_is_its_record():
    kept, apart = recorded("bench_ablation"), differences("bench_ablation")
    _, rows = table("compared.md", "## What the parts add")
    assert {method(row[0]) for row in rows} == {name for _, _, name in kept} - {"random-soft"}
    for name, _, figures, difference in rows:
        assert figures == kept["pneumoniamnist", 1, method(name)]
        assert difference == apart.get(method(name), "").removeprefix("+")


ANEW = ", measured anew"


@pytest.mark.parametrize(
    ("heading", "name"),
    [
        ("The hour", "bench_hour"),
        ("Other cohorts", "bench_own"),
        ("Every method", "bench_peers"),
        ("Every method on other cohorts", "bench_peers_more"),
    ],
)
def test_a_table_of_the_benchmark_is_its_record(heading, name):
    (_, *headers, last), rows = table("compared.md", f"\n## {heading}\n")
    found, paired = recorded(name), differences(name)
    anew = [method(first.removesuffix(ANEW)) for first, *_ in rows if first.endswith(ANEW)]
    assert anew == (["progressive"] if name == "bench_hour" else [])
    for one in anew:
        found |= {place: figures for place, figures in recorded(f"bench_{one}").items() if place[2] == one}
        paired[one] = pairs(RECORDS / f"bench_{one}", one, "mtt", RECORDS / name)["all"]
    rows = [[first.removesuffix(ANEW), *rest] for first, *rest in rows]
    assert last == "difference to `mtt`"
    assert len(rows) >= 3
    for first, *cells, difference in rows:
        for header, cell in zip(headers, cells, strict=True):
            cohort = COHORTS.get(header, "pneumoniamnist")
            count = 1 if header in COHORTS else int(header.split()[0])
            place = (cohort, None if method(first) == "full" else count, method(first))
            assert cell == ("" if place[1] is None and header != headers[0] else found[place]), (first, header)
        assert difference == paired.get(method(first), ""), first


def methods_are_recorded(heading, name, cohorts, counts):
    """Under a heading every method of a record: figures by cohort and size, and the difference to the reference."""
    found, apart = recorded(name), differences(name)
    _, rows = table("compared.md", heading)
    assert {method(row[0]) for row in rows} == {one for _, _, one in found}
    for first, *cells, difference in rows:
        assert cells == [found[cohort, count, method(first)] for cohort in cohorts for count in counts], first
        assert difference == apart.get(method(first), ""), first
    return found, apart


@pytest.mark.parametrize(("count", "word"), [(5, "five"), (10, "ten")])
def test_the_tables_of_several_images_a_class_are_their_records(count, word):
    name, heading = f"bench_peers_{word}", f"\n### At {word} images a class\n"
    (_, *headers, _), _ = table("compared.md", heading)
    cohorts = [COHORTS.get(header, "pneumoniamnist") for header in headers]
    found, _ = methods_are_recorded(heading, name, cohorts, [count])
    told, means = words_of("compared.md", heading), balanced(name, "method")
    peers = {one for _, _, one in found} - {"meddistill", "random", "random-soft"}
    for cohort in cohorts:
        best = max(peers, key=lambda one: means[cohort, one]["mean"])
        ahead = pairs(RECORDS / name, "meddistill", best)[f"{cohort}, {count} a class, convnet-d3-w32"]
        assert ahead.startswith("+")
        assert re.search(rf"{re.escape(ahead.removeprefix('+'))} (points )?\(`{best}`\)", told), (cohort, best)
    nearest = max(peers, key=lambda one: sum(means[cohort, one]["mean"] for cohort in cohorts))
    ahead = pairs(RECORDS / name, "meddistill", nearest)["all"].removeprefix("+")
    assert f"average, `{nearest}`, {ahead}" in told


def test_progressive_matching_is_behind_at_ten_images_a_class_as_recorded():
    name, told = "bench_peers_ten", words_of("compared.md", "\n### At ten images a class\n")
    for cohort in ("pbc_blood_64", "ham10000"):
        behind = pairs(RECORDS / name, "progressive", "mtt")[f"{cohort}, 10 a class, convnet-d3-w32"]
        assert behind.removeprefix("-") in told


def test_the_table_of_the_fewest_images_is_its_record():
    kept = {place: shown(one.values()) for place, one in balanced("bench_fewest", "total_images", "method").items()}
    places = [(cohort, count) for cohort in ("pneumoniamnist", "ham10000") for count in (1, 2, 5)]
    _, rows = table("compared.md", "\n## The fewest images\n")
    assert {method(row[0]) for row in rows} == {name for _, _, name in kept}
    for first, *cells in rows:
        assert cells == [kept[(*place, method(first))] for place in places], first


def test_the_table_of_the_papers_claims_is_its_record():
    heading = "\n## What the papers claim, on other cohorts\n"
    methods_are_recorded(heading, "bench_claims", ("covid_cxr3_112", "pbc_blood_64", "ham10000"), (1, 2))
    ahead = [pairs(RECORDS / "bench_claims", "meddistill", name) for name in ("mtt", "pruned", "progressive")]
    least = (min(float(one[place].split()[0]) for one in ahead) for place in ahead[0] if place != "all")
    each = [f"{one:.1f}" for one in least]
    told = words_of("compared.md")
    assert f"it is {', '.join(each[:-1])} and {each[-1]} points, {sum(map(float, each)) / 6:.1f} on average" in told


def test_the_table_of_claims_from_real_images_is_its_record():
    cohorts = "pneumoniamnist", "covid_cxr3_112", "pbc_blood_64", "ham10000"
    heading = "\n### From real images, without a warm-up\n"
    _, apart = methods_are_recorded(heading, "bench_claims_cold", cohorts, (1, 2))
    told = words_of("compared.md").replace("−", "-")
    assert f"pruning is {apart['pruned-cold']} points from `mtt-cold`" in told
    assert f"progressive matching {apart['progressive-cold']}, and" in told
    warm = [
        pairs(RECORDS / "bench_claims", name, "mtt-cold", RECORDS / "bench_claims_cold")["all"]
        for name in ("mtt", "meddistill")
    ]
    assert f"`mtt` is {warm[0]} points from `mtt-cold`, and `meddistill` {warm[1]}" in told
    small = pairs(RECORDS / "bench_ablation", "progressive-small", "mtt")["all"]
    assert f"{small.removeprefix('+')} points over `mtt` at its bytes" in told


def pairs(*asked):
    return loaded("docs/tools/pairs.py").pairs(*asked)


def test_pairs_of_a_record_are_those_of_the_benchmark(tmp_path):
    for name, reference, several in (
        ("bench_hour", "mtt", 3),
        ("bench_own", "mtt", 3),
        ("bench_ablation", "meddistill", 1),
    ):
        apart = differences(name)
        assert len(apart) >= 5
        for one, difference in apart.items():
            found = pairs(RECORDS / name, one, reference)
            assert (found["all"], len(found)) == (difference, several + 1)
    lines = (RECORDS / "bench_ablation/results.jsonl").read_text().splitlines()
    (tmp_path / "results.jsonl").write_text("\n".join([*lines, *lines]))
    with pytest.raises(SystemExit, match="several networks"):
        pairs(tmp_path, "mtt", "meddistill")
    with pytest.raises(SystemExit, match="no cell in common"):
        pairs(RECORDS / "bench_ablation", "mtt", "ftd")


def test_differences_that_sentences_tell_are_those_of_the_records():
    page = words_of("compared.md", "## What the parts add").replace("−", "-")
    for one, other in (("mtt-small", "mtt"), ("pruned-small", "mtt-small"), ("progressive-small", "mtt-small")):
        assert pairs(RECORDS / "bench_ablation", one, other)["all"].lstrip("+-") in page
    page = words_of("compared.md", "## Every method on other cohorts")
    for one, other, cohort in (
        ("meddistill", "ftd", "covid_cxr3_112"),
        ("meddistill", "mct", "pbc_blood_64"),
        ("meddistill", "mct", "ham10000"),
        ("mct", "mtt", "pbc_blood_64"),
        ("mct", "mtt", "ham10000"),
        ("hop-tm", "mtt", "pbc_blood_64"),
        ("hop-tm", "mtt", "ham10000"),
        ("ftd", "mtt", "ham10000"),
    ):
        found = pairs(RECORDS / "bench_peers_more", one, other)[f"{cohort}, 1 a class, convnet-d3-w32"]
        assert found.removeprefix("+") in page, (one, other)
    told = words_of("methods.md")
    apart = differences("bench_hour"), differences("bench_own")
    anew = pairs(RECORDS / "bench_progressive", "progressive", "mtt", RECORDS / "bench_hour")["all"]
    assert f"{apart[0]['frepo'].lstrip('-')} and {anew.lstrip('-')} points behind it" in told
    assert f"`mtt-soft` is {apart[1]['mtt-soft'].lstrip('-')} points behind it" in told


def loaded(script):
    """A script of this project as a module."""
    spec = importlib.util.spec_from_file_location("script", ROOT / script)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look for their module, and benchmarks for what they share.
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend((ROOT / script).parent)
        patch.setitem(sys.modules, "script", module)
        spec.loader.exec_module(module)
        return module


def made(script, kept):
    """What the function ``table`` of a script of this project makes of a record."""
    return loaded(script).table(kept).strip()


def test_the_table_of_real_sets_is_its_record():
    found = made("benchmarks/real_sets.py", record("real_sets.json"))
    assert found in text_of("results.md")


def test_the_table_of_compressed_models_is_its_record():
    found = made("benchmarks/compress.py", record("compress.json"))
    assert found in text_of("compress.md")


def test_the_table_of_learning_rates_is_its_record():
    assert made("benchmarks/rates.py", record("rates.json")) in text_of("protocol.md")


@pytest.mark.parametrize("name", ["bench_scarce_pneumonia", "bench_scarce_covid"])
def test_a_table_of_scarce_labels_is_its_record(name):
    assert made("docs/tools/scarce.py", RECORDS / name) in text_of("scarce-labels.md")


def test_the_table_of_transfer_is_its_record():
    assert made("docs/tools/transfer.py", RECORDS / "bench_transfer") in text_of("compared.md")


def test_the_table_of_formations_is_its_record():
    kept = {place: shown(one.values()) for place, one in balanced("bench_formations", "method", "evaluation").items()}
    (_, *headers), rows = table("compared.md", "\n## How small the images should be\n")
    networks = {"ConvNet": "convnet-d3-w32", "ResNet-18, tutored": "resnet18-w16-tutored"}
    for cohort, network, *cells in rows:
        assert cells == [kept[COHORTS[cohort], method(one), networks[network]] for one in headers[1:]], cohort
    assert len(rows) == 6


def cells_are_recorded(heading, name, one, other, cells):
    """Under a heading: cohort, images a class, a figure for every method, how far two of them are apart."""
    kept, apart = recorded(name), pairs(RECORDS / name, one, other)
    (_, _, *headers, _), rows = table("compared.md", heading)
    for cohort, count, *figures, difference in rows:
        place = COHORTS.get(cohort, "pneumoniamnist"), int(count)
        assert figures == [kept[(*place, method(each))] for each in headers], place
        assert difference == apart[f"{place[0]}, {place[1]} a class, convnet-d3-w32"], place
    assert len(rows) == len(apart) - 1 == cells
    assert {one, other} <= set(map(method, headers))


def test_the_table_of_formations_of_more_images_is_its_record():
    names = "meddistill-16", "meddistill-4"
    cells_are_recorded("\n### With more images\n", "bench_formations_more", *names, 6)
    found = balanced("bench_formations_more", "images_per_class", "method")
    two = ([found[cohort, 2, name]["per_seed"] for cohort in COHORTS.values()] for name in names)
    assert f"{ahead(*two)} on average, surely on one" in words_of("compared.md")


def test_the_table_of_formations_at_28_pixels_is_its_record():
    record = RECORDS / "bench_formations_28"
    lines = [json.loads(line) for line in (record / "results.jsonl").read_text().splitlines()]
    kept = {(one["images_per_class"], one["evaluation"], one["method"]): one for one in lines}
    networks = {"ConvNet": "convnet-d3-w32", "ResNet-18, tutored": "resnet18-w16-tutored"}
    apart = pairs(record, "meddistill-9", "meddistill-4")
    (_, _, *headers, _), rows = table("compared.md", "\n### At 28 pixels\n")
    for count, network, *cells, difference in rows:
        place = int(count), networks[network]
        found = [kept[(*place, method(one))]["scores"]["test"]["as is"]["balanced_accuracy"] for one in headers]
        assert cells == [shown(one.values()) for one in found], place
        assert difference == apart[f"pneumoniamnist, {count} a class, {networks[network]}"], place
    assert len(rows) == len(apart) - 1 == 4
    told = words_of("compared.md", "### At 28 pixels")
    lost = {
        (count, name): shown(kept[count, "resnet18-w16-tutored", name]["drop"].values())
        for count in (1, 2)
        for name in ("meddistill-4", "meddistill-9")
    }
    for count, words in ((1, "points with four and {} with nine at one image a class,"), (2, "and {} at two")):
        assert f"{lost[count, 'meddistill-4']} {words.format(lost[count, 'meddistill-9'])}" in told
    assert f"{apart['all']} points over the four cells" in told


def test_the_table_of_batches_is_its_record():
    names = "meddistill", "meddistill-4"
    cells_are_recorded("\n## What larger batches add\n", "bench_batches", *names, 4)
    found, told = balanced("bench_batches", "method"), words_of("compared.md")
    small = tuple(COHORTS.values())
    every = (*small, "pneumoniamnist")

    def over(one, other, cohorts=small):
        return ahead(*([found[cohort, name]["per_seed"] for cohort in cohorts] for name in (one, other)))

    for words in (
        f"adds {over(*names)} points on the three sets",
        f"in about the time of small ones {over('meddistill-short', 'meddistill-4')}",
        f"`mtt-128` is {over('mtt-128', 'mtt')} points over `mtt`",
        f"{over('meddistill', 'random-soft')} points over as many random real images with soft labels",
        f"{over('meddistill', 'mtt', every)} points over `mtt` and {over('meddistill', 'mtt-128', every)} over",
    ):
        assert words in told, words


def test_the_table_of_longer_students_is_its_records():
    heading, places = "\n### Longer students\n", set()
    (_, _, *methods, _), rows = table("compared.md", heading)
    for title, count, *cells, apart in rows:
        name, place = "bench_progressive_steps" + "_ten" * (count == "10"), (COHORTS[title], int(count))
        found = recorded(name)
        assert cells == [found[(*place, method(one))] for one in methods]
        added = pairs(RECORDS / name, "progressive-90", "progressive")
        assert apart == added[f"{place[0]}, {count} a class, convnet-d3-w32"]
        places |= {(name, *place)}
    kept = {(name, *one[:2]) for name in {one[0] for one in places} for one in recorded(name)}
    assert places == kept
    few, ten = "bench_progressive_steps", "bench_progressive_steps_ten"
    told = words_of("compared.md", heading).replace("−", "-")
    over, behind = (pairs(RECORDS / name, "progressive-90", "mtt") for name in (few, ten))
    added = [pairs(RECORDS / name, "progressive-90", "progressive")["all"].removeprefix("+") for name in (few, ten)]
    met = over["ham10000, 1 a class, convnet-d3-w32"].removeprefix("+")
    for words in (
        f"by {added[0]} points over the four cells of one and two images a class and by {added[1]} at ten",
        f"stays behind `mtt` ({behind['all']})",
        f"From `mtt` they are {over['all']} points over the four cells",
        f"(one image a class of HAM10000, {met} points over `mtt`)",
    ):
        assert words in told, words


def test_the_table_of_smoothing_is_its_record():
    cells_are_recorded("\n## What smoothing adds\n", "bench_smooth", "meddistill-4-smooth", "meddistill-4", 12)
    assert "| `meddistill-4-smooth` to `meddistill-4` |" in text_of("compared.md")
    found, told = balanced("bench_smooth", "images_per_class", "method"), words_of("compared.md")
    small, every = tuple(COHORTS.values()), (*COHORTS.values(), "pneumoniamnist")

    def over(one, other, counts, cohorts=every):
        places = [(cohort, count) for cohort in cohorts for count in counts]
        return ahead(*([found[(*place, name)]["per_seed"] for place in places] for name in (one, other)))

    smooth, plain, real, sizes = "meddistill-4-smooth", "meddistill-4", "random-soft", (1, 2, 10)
    for words in (
        f"adds {over(smooth, plain, sizes)} points to `meddistill-4` and {over('mtt-smooth', 'mtt', sizes)} to `mtt`",
        f"gains {over(smooth, plain, [10], small)} points at ten images a class,",
        f"{over(smooth, plain, [2], small)} at two and {over(smooth, plain, [1], small)} at one",
        f"`meddistill-4` is {over(plain, 'mtt', [10])} points over `mtt` there",
        f"it is {over(plain, real, [10], small)} over those, with smoothing {over(smooth, real, [10], small)}",
        f"`meddistill-4` is {over(plain, 'mtt', sizes)} points on all twelve cells,",
        f"{over(plain, 'mtt', [1])} at one image a class and {over(plain, 'mtt', [2])} at two",
    ):
        assert words in told, words


def test_what_tutoring_adds_is_what_the_record_says():
    found = balanced("bench_transfer", "method", "evaluation")
    kept = {place: np.array(one["per_seed"]) for place, one in found.items()}
    told = words_of("compared.md").replace("−", "-")
    cohorts = ("pneumoniamnist", *COHORTS.values())

    def added(method, *places):
        networks = "resnet18-w16-tutored", "resnet18-w16"
        found = ahead(*([kept[one, method, network] for one in places] for network in networks))
        return found.removeprefix("+")

    blood, skin, every = (added("meddistill", *places) for places in (("pbc_blood_64",), ("ham10000",), cohorts))
    assert f"On blood cells that is {blood} and on HAM10000 {skin} points more than by itself; over the four" in told
    assert f"over the four sets {every}." in told
    assert f"{added('meddistill', 'pneumoniamnist').lstrip('-')} more than by itself" in told
    assert f"nothing for sets of `mtt` ({added('mtt', *cohorts)} over four sets)" in told


def test_the_table_of_audits_is_its_record():
    kept, page = record("audits.json"), words_of("audit.md")
    assert made("benchmarks/audits.py", kept) in text_of("audit.md")
    outcomes = [row["outcome"] for key, row in kept.items() if key.endswith(" prototypes")]
    assert "pass" not in outcomes
    said = {"inconclusive": "were inconclusive", "alarm": "raised an alarm"}
    counts = {1: "once", 2: "twice", 3: "three times", 4: "four times"}
    told = " ".join((ROOT / "README.md").read_text().split())
    for outcome, words in said.items():
        assert f"{words} {counts[outcomes.count(outcome)]}" in told
    assert "[none passed]" in told
    membership = next(one for one in kept["skin prototypes"]["findings"] if one["attack"] == "membership")
    for name in ("akiec", "mel"):
        area = membership["figures"]["by_class"][name]["area"]
        assert f"{area['value']:.2f} ({area['low']:.2f} to {area['high']:.2f})" in page


def test_the_table_of_audits_of_batches_is_its_record():
    kept, told = record("batches.json"), words_of("audit.md", "### Do larger batches tell more?")
    assert made("benchmarks/batches.py", kept) in text_of("audit.md")
    passes = [name.split(" ")[1] for name, row in kept.items() if row["outcome"] == "pass"]
    assert sorted(passes) == ["meddistill-4", "meddistill-4", "mtt", "mtt-128", "mtt-128"]
    assert "five of ten do, three with small batches and two with large ones" in told
    alarms = [row["findings"] for name, row in kept.items() if name.startswith("skin") and row["outcome"] == "alarm"]
    classes = [one["figures"]["by_class"]["akiec"] for row in alarms for one in row if one["attack"] == "membership"]
    assert [one["outcome"] for one in classes] == ["alarm"] * 3
    differences = re.findall(r"([+-][\d.]+) ± ([\d.]+) \|", told)
    assert len(differences) == 5
    highest = [float(mean) + float(half) for mean, half in differences]
    assert min(highest) > 0 > max(float(mean) - float(half) for mean, half in differences)
    nearer, _, membership, share, _ = highest
    for words in (
        f"+{nearer:.2f} in the order",
        f"+{membership:.3f} in the area",
        f"+{100 * share:.2f} % of the members",
    ):
        assert words in told


def test_the_table_of_roundings_is_its_record():
    assert made("benchmarks/rounding.py", record("rounding.json")["rows"]) in text_of("engine.md")


def test_the_table_of_readings_is_its_record():
    assert made("benchmarks/readings.py", record("readings.json")) in text_of("methods.md")


def test_the_table_of_shadows_is_its_record():
    kept, page = record("shadows.json"), words_of("audit.md")
    assert made("benchmarks/shadows.py", kept) in text_of("audit.md")
    groups = {
        side: one["patients"] for side, one in kept["default"]["groups"].items() if side in ("members", "control")
    }
    assert f"{groups['members']} of them members, {groups['control']} control" in page
    assert f"The whole audit took {kept['default']['seconds'] / 60:.0f} minutes" in page
    own = kept["default"]["shadows"]["figures"]["of_the_package"]
    areas = (
        own["online"]["area"],
        own["offline"]["area"],
        kept["default"]["membership"]["figures"]["scores"]["ratio"]["area"],
    )
    for one in areas:
        assert f"{one['value']:.2f} ({one['low']:.2f} to {one['high']:.2f})" in page


def test_the_table_of_written_letters_is_its_record():
    kept, page = record("marks.json"), text_of("audit.md")
    assert made("benchmarks/marks.py", kept) in page
    told = {"plain": "85 to 100 % are found without noise", "noisy": "75 to 100 % with it"}
    large = [one["letters"] for key, one in kept.items() if not key.endswith(" 28")]
    for way, words in told.items():
        found = [row["found"][way] / row["images"] for one in large for size, row in one.items() if int(size) >= 7]
        assert words.startswith(f"{100 * min(found):.0f} to {100 * max(found):.0f} %")
        assert words in page
    others = [one["unmarked"] for key, one in kept.items() if "Kermany" not in key]
    images, mistaken = (sum(one["images"] for one in others), sum(one["found"]["plain"] for one in others))
    assert f"Of the {images:,} images of the other sets, {mistaken} are" in page


def test_the_table_of_changed_copies_is_its_record():
    kept, page = record("transforms.json"), text_of("audit.md")
    assert made("benchmarks/transforms.py", kept) in page
    for one in kept.values():
        assert f"{one['changed']} members of {one['members']:,}" in page
        assert f"sets of {one['images_of_a_set']}" in page
        plain = [one["found"][change]["copies"] for change in PLAIN]
        assert min(plain) >= 0.9 * one["changed"]  # what the page says of them
        assert max(one["found"][change]["copies"] for change in UNSEEN) <= 0.1 * one["changed"]


PLAIN = ("none", "mirrored", "upside down", "turned by 90 degrees", "turned by 180 degrees", "inverted")
UNSEEN = (
    "turned by 30 degrees",
    "cut to 70 %",
    "blurred over 7 pixels",
    "halves of two side by side",
    "mosaic of four",
)


def test_the_table_of_storages_is_its_record():
    found = record("teachers.json")["cpu convnet-d3-w32"]
    names = {
        "float16 (not offered)": "float16, plain (not offered)",
        "bfloat16 (not offered)": "bfloat16, plain (not offered)",
    }
    _, rows = table("teachers.md", "median over segments of 1 and of 4 snapshots")
    assert len(rows) == 4
    for name, _, *cells in rows:
        kept = found["storage"][names.get(name, name.strip("`"))]
        ways = [f"{100 * kept[key]:.2g} %" for key in ("way_1", "way_4")]
        lengths = [f"{kept[key]:.1e}".replace("e-0", "e-") for key in ("distance_1", "distance_4")]
        assert cells == ways + lengths, name
    convex = [100 * found["storage"][f"convex{points}"]["way_4"] for points in (2, 3, 4)]
    assert f"{min(convex):.0f} to {max(convex):.0f} % of its length" in text_of("teachers.md")


def test_the_race_of_the_teachers_is_its_record():
    race, page = (
        record("teachers.json")["cpu convnet-d3-w32, quiet cores"]["race"],
        words_of("teachers.md"),
    )
    ways = ("at_once", "plainly", "one_after_another", "one_after_another_on_one_thread")
    for first, second in (race[way] for way in ways):
        assert f"{first:.1f} and {second:.1f} s" in page
    assert f"a ratio of {race['ratio']:.2f}" in page and f"{race['ratio_to_plainly']:.2f} times as long" in page


def test_the_table_of_quantised_images_is_its_record():
    kept = record("quantisation.json")
    sets = {"PneumoniaMNIST": "pneumonia", "COVID-19 radiography": "covid", "PBC blood cells": "blood"}
    headers, rows = table("package.md", "gain over float32, mean and 95 % interval")
    differences = kept["difference_to_float32_in_points"]
    assert [header.split(", ")[1] for header in headers[1:-1]] == [
        f"{differences[name]['6']['seeds']} pairs" for name in sets.values()
    ]
    assert [header.split(", ")[0] for header in headers[1:-1]] == list(sets)
    for bits, *cells, sizes in rows:
        key = bits.replace("float", "")
        assert sizes == ", ".join(str(kept["bytes"][name][key]) for name in sets.values())
        if bits != "float32":
            assert cells == [points(differences[name][key]["balanced_accuracy"]) for name in sets.values()]
    demo = differences["demo"]["6"]
    told = words_of("package.md")
    assert (
        f"{points(demo['balanced_accuracy'])} points of balanced accuracy, {points(demo['accuracy'])} of accuracy"
        in told
    )


def points(found):
    return f"{found['mean']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})"


def test_the_times_of_the_engine_are_its_record():
    """Over the yardstick's: on two threads medians of the wall's, on one the processor's."""
    kept = record("engine.json")
    alone = {
        10: kept["cpu batch 10 N 10 threads 1 adjoint bfloat16 full two-pass"]["ways"],
        40: kept["cpu batch 10 N 40 threads 1 adjoint bfloat16"]["ways"],
    }
    both = {steps: kept[f"cpu batch 10 N {steps} threads 2 adjoint bfloat16"]["ways"] for steps in (10, 40)}
    expected = [
        [f"{both[steps][way]['over_yardstick_median']:.2f}", f"{alone[steps][way]['over_yardstick_cpu']:.2f}"]
        for way in ("adjoint", "bfloat16")
        for steps in (10, 40)
    ]
    kept_all = kept["cpu batch 10 N 40 threads 2 adjoint-all-states bfloat16-all-states"]["ways"]["bfloat16-all-states"]
    _, rows = table("engine.md", "\n## Figures\n")
    assert [row[1:3] for row in rows] == [*expected, [f"{kept_all['over_yardstick_median']:.2f}", ""]]
    assert [re.findall(r"N = (\d+)", row[0]) for row in rows] == [["10"], ["40"], ["10"], ["40"], ["40"]]
    assert ["bfloat16" in row[0] for row in rows] == [False, False, True, True, True]


def test_the_times_of_the_engine_on_matrix_units_are_its_record():
    kept = record("engine.json")
    assert all("device" in one for one in kept.values() if isinstance(one, dict) and "ways" in one)
    found = [
        kept[f"cpu batch 10 N {steps} threads 2 adjoint bfloat16 compiled bfloat16-compiled"] for steps in (10, 40)
    ]
    found += [kept[f"cpu batch 64 N {steps} threads 2 adjoint bfloat16"] for steps in (10, 40)]
    assert all("Xeon" in one["device"] for one in found)
    over = [{way: f"{row['over_yardstick_median']:.2f}" for way, row in one["ways"].items()} for one in found]
    _, rows = table("engine.md", "three rounds, 2026-11-22:\n\n")
    ways = ("adjoint", "compiled", "bfloat16", "bfloat16-compiled")
    assert [row[1:5] for row in rows] == [[one.get(way, "") for one in over] for way in ways]
    assert min(one["ways"]["bfloat16"]["cosine_to_float64"] for one in found) >= 0.99979


def test_the_other_figures_of_the_engine_are_its_record():
    kept, page = record("engine.json"), words_of("engine.md")
    both = [kept[f"cpu batch 10 N {steps} threads 2 adjoint bfloat16"]["ways"] for steps in (10, 40)]
    steps = {name: one["cpu_min"] for name, one in kept["cpu variants batch 10 threads 1"]["seconds"].items()}
    memory = {one["way"]: one["megabytes"] for one in kept["cpu memory"]}
    small, large, plain = memory["adjoint"]["10"], memory["adjoint"]["80"], memory["yardstick"]["10"]
    bare = memory["adjoint-no-traces"]
    _, rows = table("engine.md", "faster matrix units, as below.\n\n")
    assert [row[1] for row in rows] == [
        ", ".join(f"{one['adjoint']['cosine_to_float64']:.5f}" for one in both),
        ", ".join(f"{one['bfloat16']['cosine_to_float64']:.5f}" for one in both),
        *(f"{steps[name] / steps['reverse']:.2f}" for name in ("written", "forward", "written bfloat16")),
        f"{large / small:.2f} ({small:.0f} MB, {large:.0f} MB; the yardstick at N = 10: {plain:.0f} MB)",
        f"{bare['80'] / bare['10']:.2f} ({bare['10']:.0f} MB, {bare['80']:.0f} MB)",
    ]
    alone = []
    for width in (128, 32):
        found = kept[f"cpu variants convnet-d3-w{width} batch 64 threads 1"]["seconds"]
        alone.append(
            f"{found['slopes written']['cpu_min'] / found['slopes automatic']['cpu_min']:.2f} at width {width}"
        )
    assert ", ".join(alone) in page
    shares = []
    for width, batch in ((32, 32), (128, 10)):
        found = kept[f"cpu variants convnet-d3-w{width} batch {batch} threads 1"]["seconds"]
        whole, traced = (found[name]["cpu_min"] for name in ("slopes and curvature", "slopes and curvature, traced"))
        shares.append(f"{traced / whole:.2f} times")
    assert f"{shares[0]} as long, at width 128 and batch 10 {shares[1]}" in page
    full, half = kept["cpu accuracy"]
    said = [
        f"{shown(one['balanced_accuracy'].values())} balanced accuracy and {shown(one['auroc'].values())} AUROC"
        for one in (half, full)
    ]
    assert said[0] in page
    assert said[1].replace(" balanced accuracy", "").replace(" AUROC", "") in page
    assert f"{half['making_seconds']:.0f} s against {full['making_seconds']:.0f} s" in page


WITH_KERNELS = ["compiled, with kernels", "compiled, with kernels, no step taken twice"]


def test_what_bounds_a_gpu_is_its_record():
    kept, page = record("counted.json"), words_of("engine.md")
    assert made("benchmarks/counted.py", kept) in text_of("engine.md")
    card = kept["card"]
    rates = ", ".join(f"{card[kind] / 1e12:.0f}" for kind in ("float32", "tf32"))
    assert f"{card['memory'] / 1e12:.1f} TB/s, {rates} and {card['bfloat16'] / 1e12:.0f} TFLOP/s" in page
    assert f"{card['launch'] * 1e6:.0f} µs a launch" in page
    enough = [(one["goal"].split(",")[0], one["enough"]) for one in kept["goals"] if one["enough"]]
    assert enough == [
        ("peak memory", ["any"]),
        ("segments a second over the yardstick", ["compiled, no step taken twice", *WITH_KERNELS]),
        ("the same", WITH_KERNELS),
        ("share of the bf16 matrix rate", WITH_KERNELS[1:]),
        ("10", ["step by step, with kernels", *WITH_KERNELS]),
        ("100 teachers × 50 epochs", ["compiled bfloat16, with kernels"]),
    ]
    plain, kernels = (
        kept["teachers"]["covid"][way]["bytes"] for way in ("bfloat16", "compiled bfloat16, with kernels")
    )
    assert f"in bfloat16 moves {kernels / plain:.2f} of the bytes at D5" in page
    without, at_once = (
        max(one["bytes"] / card["memory"], sum(one[kind] / card[kind] for kind in ("float32", "tf32")))
        for one in (kept["teachers"]["pneumonia"][way] for way in ("float32", "compiled float32, with kernels"))
    )
    assert f"with kernels they take {at_once / without:.2f} of the time that they take without" in page
    shares = []
    for recipe in ("d5-112", "d3-32"):
        plain, kernels = (kept[recipe]["ways"][way] for way in ("compiled", WITH_KERNELS[0]))
        shares.append(f"{kernels['bytes'] / plain['bytes']:.2f}")
    assert f"a compiled segment of D5 moves {shares[0]} of the bytes, one of D3 {shares[1]}" in page
    ratios = []
    for way in ("compiled", WITH_KERNELS[0]):
        one = kept["d5-112"]["ways"][way]
        busy = one["tf32"] / card["tf32"] + one["bfloat16"] / card["bfloat16"]
        ratios.append(one["bytes"] / card["memory"] / busy)
    assert 4 < ratios[0] < 5
    assert f"take {ratios[1]:.1f} times as long as the operations" in page


def test_the_table_of_the_exchange_is_its_record():
    kept, lines = record("exchange.json"), text_of("exchange.md").splitlines()
    script = loaded("examples/exchange_table.py")
    names = [name for name in kept if name not in ("test_images", "seeds")]
    assert len(names) == 6
    for name in names:
        assert (script.gain if name.endswith(" adds") else script.line)(name, kept[name]) in lines
    assert f"{kept['test_images']:,} joint test images" in text_of("exchange.md")


def test_the_table_of_private_packages_is_its_record():
    kept, page = record("private.json"), text_of("privacy.md")
    assert made("benchmarks/private.py", kept) in page
    noise = [cell["noise"] for cell in kept["cells"].values() if "noise" in cell]
    assert f"{min(noise):.0f} to {max(noise):.1f} % is noise" in page
    audited = [(float(key.split(" ")[2]), one) for key, one in kept["audited"].items()]
    assert all(max(one["package"], one["release"]) < epsilon for epsilon, one in audited)
