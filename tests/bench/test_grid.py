"""Grids: what they say, what is wrong with them, and the recipes."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.bench.conftest import GRID

from meddistill.bench.grid import read_grid
from meddistill.bench.tasks import Layout, cells, tasks
from meddistill.distill.methods import DEFAULT_METHOD, METHODS
from meddistill.pretrain.ways import WAYS
from meddistill.runtime.errors import InputError

RECIPES = Path(__file__).parents[2] / "recipes"


def test_plans_are_the_grids_then_the_cohorts_then_the_methods():
    text = GRID + "[cohorts.stripes.plan.teachers]\nsteps = 12\n[methods.mtt-soft.teachers]\nsteps = 15\n"
    grid = read_grid(text, "grid.toml")
    [source] = grid.cohorts
    mtt, soft = (grid.plan_for(source, method, 2, "convnet-d2-w4", 1) for method in ("mtt", "mtt-soft"))
    assert (mtt.teachers.steps, soft.teachers.steps, mtt.teachers.count) == (12, 15, 2)
    assert (mtt.matching.iterations, soft.matching.iterations) == (2, 3)
    assert (mtt.method, mtt.images_per_class, mtt.size, mtt.network, mtt.seed) == ("mtt", 2, 10, "convnet-d2-w4", 1)
    assert mtt.evaluation.seeds == 0


def test_a_variant_is_its_method_with_that_methods_settings_and_then_its_own():
    text = GRID + "[methods.mtt-short]\nmethod = 'mtt'\nformation = 1\nmatching = { warm_up = 1 }\n"
    text = text.replace('"mtt-soft", "random"', '"mtt-soft", "mtt-short", "random"', 1)
    grid = read_grid(text, "grid.toml")
    [source] = grid.cohorts
    mtt, short = (grid.plan_for(source, method, 2, "convnet-d2-w4", 1) for method in ("mtt", "mtt-short"))
    assert short == replace(mtt, formation=1, matching=replace(mtt.matching, warm_up=1))
    found = [cell for cell in cells(grid) if cell.method == "mtt-short"]
    assert [(cell.made_by, cell.is_distilled, cell.has_soft_labels) for cell in found] == [("mtt", True, False)] * 4
    # A set is named after how it is made: who gives the same settings to the method itself finds it.
    same = text.replace("[methods.mtt.matching]\niterations = 2", "[methods.mtt]\nformation = 1")
    same = same.replace("matching = { warm_up = 1 }", "").replace(
        "[plan.matching]\nwarm_up = 2", "[plan.matching]\nwarm_up = 1"
    )
    same = same.replace("iterations = 3", "iterations = 2")
    [mine, other] = (
        {
            task.outcome
            for task in tasks(Layout(read_grid(each, "x"), Path("out"), "cpu"))
            if " mtt " in task.outcome.name
        }
        for each in (text, same)
    )
    assert len(mine - other) == len(mine) / 2
    assert other < mine


def test_what_is_not_mirrored_is_a_setting_of_plans_and_holds_for_rows_without_a_plan_too():
    text = GRID.replace('"random", "herding"', '"random", "byol", "herding"')
    usual, sided = (
        Layout(read_grid(each, "grid.toml"), Path("out"), "cpu")
        for each in (text, text.replace("[plan.teachers]", "[plan]\nflip = false\n[plan.teachers]"))
    )
    for layout, flip in ((usual, True), (sided, False)):
        found = list(cells(layout.grid))
        assert {cell.method for cell in found} >= {"mtt", "random", "byol", "herding", "full"}
        assert {layout.flip(cell) for cell in found} == {flip}
        assert {layout.encoder(cell, layout.seeds[0]).flip for cell in found if cell.has_encoder} <= {flip}
    assert not {task.outcome for task in tasks(usual)} & {task.outcome for task in tasks(sided)}
    own = read_grid(text + "[cohorts.stripes.plan]\nflip = false\n[methods.mtt]\nflip = true\n", "grid.toml")
    mixed = Layout(own, Path("out"), "cpu")
    assert {cell.method for cell in cells(own) if mixed.flip(cell)} == {"mtt"}


PRIVATE = """
[methods.dm]
start = "noise"
privacy = { epsilon = 8 }

[methods.noised]
method = "mtt"
start = "noise"
matching = { warm_up = 0 }
privacy = { epsilon = 8, route = "teachers" }
"""


def test_methods_under_differential_privacy_may_be_compared_and_get_no_teachers_without_noise():
    text = GRID.replace('"mtt", "mtt-soft", "random"', '"mtt", "noised", "dm", "random"', 1) + PRIVATE
    layout = Layout(read_grid(text, "grid.toml"), Path("out"), "cpu")
    made = {task.plan.privacy.epsilon: task for task in tasks(layout) if task.kind == "make"}
    assert set(made) == {0, 8}
    assert [need.parent.name for need in made[0].needs] == ["teachers"]
    assert made[8].needs == ()
    assert not any(task.plan.privacy.epsilon for task in tasks(layout) if task.kind == "teach")
    plan = layout.grid.plan_for(layout.grid.cohorts[0], "noised", 1, "convnet-d2-w4", 0)
    assert (plan.teachers.count, plan.evaluation.random_sets, plan.privacy.route) == (2, 0, "teachers")
    with pytest.raises(InputError, match=r"the plan of noised cannot be used:(.|\n)*start is prototypes"):
        read_grid(text.replace('start = "noise"\nmatching', "matching"), "grid.toml")


def test_a_cohort_may_have_its_own_matching_network_and_it_is_evaluated_with_that():
    text = GRID.replace("size = 10", 'size = 10\nmatching = ["convnet-d3-w4"]')
    text = text.replace('evaluation = ["convnet-d2-w4", ', 'evaluation = ["matching", ')
    found = {(cell.matching, cell.evaluation) for cell in cells(read_grid(text, "grid.toml")) if cell.method == "mtt"}
    assert found == {("convnet-d3-w4", "convnet-d3-w4"), ("convnet-d3-w4", "convnet-d1-w4")}


def test_a_subset_takes_the_place_of_what_it_names():
    grid, small = read_grid(GRID, "grid.toml"), read_grid(GRID, "grid.toml", "small")
    assert (small.images_per_class, small.methods, small.seeds) == ((1,), ("mtt", "random"), 2)
    layouts = [Layout(one, Path("out"), "cpu") for one in (grid, small)]
    many, few = ({task.outcome for task in tasks(layout)} for layout in layouts)
    assert few < many  # what a subset leaves, the whole grid finds


def test_every_method_stands_beside_random_images_with_its_labels_and_all_images():
    grid = read_grid(GRID, "grid.toml")
    found = {(cell.method, cell.images_per_class, cell.evaluation) for cell in cells(grid)}
    methods = {*grid.methods, "random-soft"}
    expected = {(m, count, net) for m in methods for count in (1, 2) for net in grid.evaluation}
    assert found == expected | {("full", 0, net) for net in grid.evaluation}


def test_a_changed_setting_is_another_outcome_and_other_settings_stay():
    before = Layout(read_grid(GRID, "grid.toml"), Path("out"), "cpu")
    changed = GRID.replace("[methods.mtt.matching]\niterations = 2", "[methods.mtt.matching]\niterations = 9")
    after = Layout(read_grid(changed, "grid.toml"), Path("out"), "cpu")
    differing = {task.outcome for task in tasks(before)} ^ {task.outcome for task in tasks(after)}
    assert {path.parent.name for path in differing} == {"sets", "scores"}
    assert all(" mtt " in path.name for path in differing)
    assert not {task.outcome for task in tasks(Layout(before.grid, Path("out"), "cuda"))} & {
        task.outcome for task in tasks(before)
    }


def test_tasks_come_after_what_they_need():
    every = tasks(Layout(read_grid(GRID, "grid.toml"), Path("out"), "cpu"))
    places = {task.outcome: place for place, task in enumerate(every)}
    assert len(places) == len(every)
    assert all(places[need] < places[task.outcome] for task in every for need in task.needs)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[grid]", "[gird]", "gird is not a section"),
        ("seeds = 2", "seeds = 0", "grid.seeds is 0: expected a whole number of 1 or more"),
        ("seeds = 2", "sedes = 3", "grid.sedes is not a setting"),
        ("images_per_class = [1, 2]", "images_per_class = [1, 1]", "expected a list"),
        ("images_per_class = [1, 2]", "images_per_class = []", "grid.images_per_class is empty"),
        ('"mtt", "mtt-soft"', '"mtt", "mtt-sfot"', "unknown method 'mtt-sfot'"),
        ('["mtt", "mtt-soft", "random", "herding", "k-center-soft"]', "[]", "grid.methods is empty"),
        ("seeds = 2", 'seeds = 2\nreference = "dm"', "grid.reference is 'dm'"),
        ("seeds = 2", 'seeds = 2\ncohorts = ["x"]', "unknown cohort 'x'"),
        ('"convnet-d1-w4"]', '"resnet19"]', "cohort stripes: unknown network 'resnet19'"),
        ('"convnet-d1-w4"]', '"resnet19-tutored"]', "cohort stripes: unknown network 'resnet19'"),
        (
            '"k-center-soft"]\nmatching = ["convnet-d2-w4"]\nevaluation = ["convnet-d2-w4", "convnet-d1-w4"]',
            '"skd"]\nevaluation = ["convnet-d1-w4-tutored"]',
            "grid.evaluation has convnet-d1-w4-tutored: rows of scarce real labels are not tutored",
        ),
        ('matching = ["convnet-d2-w4"]', 'matching = ["convnet-d2-w4-tutored"]', "unknown network"),
        ('matching = ["convnet-d2-w4"]', 'matching = ["resnet18-w2"]', "unknown network 'resnet18-w2'"),
        ('matching = ["convnet-d2-w4"]', 'matching = ["convnet-d2-w4-bn"]', "batch norm cannot be matched"),
        ("size = 10", "size = 0", "cohorts.stripes.size is missing"),
        ("size = 10", 'size = 10\nfit = "x"', "cohorts.stripes.fit is 'x'"),
        ("size = 10", "size = 10\nreading = {x = 1}", "cohorts.stripes.reading.x is not a setting"),
        ('source = "pictures"', "", "cohorts.stripes.source is missing"),
        ("warm_up = 2", "warm_up = -2", "matching.warm_up is -2"),
        ("[plan.matching]", "[plan.evaluation]\nseeds = 2\n[plan.matching]", "a plan says evaluation: the grid does"),
        ("[methods.mtt.", "[methods.tmt.", "methods.tmt"),
        ("[methods.mtt.", "[methods.x]\nmethod = 'tmt'\n[methods.mtt.", "methods.x.method is 'tmt': expected one of"),
        (
            "[methods.mtt.",
            "[methods.dm]\nmethod = 'mtt'\n[methods.mtt.",
            "[methods.dm] says method: dm is a row already",
        ),
        ("[methods.mtt.", "[methods.full]\nmethod = 'mtt'\n[methods.mtt.", "full is a row already"),
        ("[methods.mtt.", "[methods.A_b]\nmethod = 'mtt'\n[methods.mtt.", "a variant's name takes lower-case letters"),
        ("[methods.mtt.", "[methods.x]\nmethod = 'mtt'\nsize = 9\n[methods.mtt.", "a plan says size: the grid does"),
        ("[methods.mtt.", "[plan]\nmethod = 'mtt'\n[methods.mtt.", "a plan says method: the grid does"),
        ("[methods.mtt.", "[plan]\nfixed_normalisation = true\n[methods.mtt.", "a benchmark normalises all rows alike"),
        ("[subsets.small]", "[subsets.small]\nx = 1", "subsets.small.x is not a setting"),
        ("[subsets.small]", "[subsets]\nhour = 1\n[subsets.small]", "[subsets.hour] is not a section"),
        ("size = 10", "size = 10\nreading = 3", "cohorts.stripes.reading is 3: expected a section"),
        ("size = 10", "size = 10\nreading = {images = 3}", "cohorts.stripes.reading.images is 3"),
        ("size = 10", "size = 10\nreading = {skip_unreadable = 'yes'}", "reading.skip_unreadable is 'yes'"),
        ("size = 10", 'size = 10\nmatching = "x"', "cohorts.stripes.matching is 'x': expected a list of names"),
        ("cohorts.stripes", 'cohorts."../x"', "a cohort's name takes letters"),
        ("[grid]", "[grid", "is not a TOML file"),
    ],
)
def test_what_is_wrong_is_told(old, new, expected):
    assert old in GRID
    with pytest.raises(InputError) as raised:
        read_grid(GRID.replace(old, new, 1), "grid.toml")
    assert "grid.toml" in str(raised.value)
    assert expected in str(raised.value)


def test_all_problems_are_told_at_once_and_an_unknown_subset():
    with pytest.raises(InputError, match=r"grid.seeds(.|\n)*grid.seed is -1(.|\n)*size is missing"):
        read_grid(GRID.replace("seeds = 2", "seeds = 0\nseed = -1").replace("size = 10", ""), "grid.toml")
    with pytest.raises(InputError, match="no subset 'tiny': it has small"):
        read_grid(GRID, "grid.toml", "tiny")


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("scarce-*.toml")), ids=lambda path: path.stem)
def test_recipes_for_scarce_labels_have_all_rows_of_the_poster_on_its_cohorts(recipe):
    text = recipe.read_text(encoding="utf-8")
    grid = read_grid(text, recipe.name)
    assert grid.images_per_class == (1, 5, 10, 20)
    assert (grid.seeds, grid.full) == (5, True)
    ways = set(WAYS) - {"imagenet"}  # which needs a file
    assert {*ways, *(f"{way}-probe" for way in ways)} <= set(grid.methods)
    assert {DEFAULT_METHOD, "mtt-soft", "soft-label", "pruned", "progressive", "random"} <= set(grid.methods)
    assert grid.reference == DEFAULT_METHOD
    found = {name: read_grid(text, recipe.name, name) for name in ("pneumonia", "covid", "pneumonia-imagenet")}
    assert [one.cohorts[0].name for one in found.values()] == ["pneumoniamnist", "covid_cxr3_112", "pneumoniamnist"]
    assert "imagenet-probe" in found["pneumonia-imagenet"].methods


OLD = (
    *(
        "meddistill",
        "mtt",
        "pruned",
        "progressive",
        "mtt-soft",
        "tesla",
        "ftd",
        "att",
        "dc",
        "dsa",
        "dm",
        "ncfm",
        "frepo",
    ),
    *("random", "herding", "k-center"),
)
EVERY = ("pneumoniamnist", "covid_cxr3_112", "pbc_blood_64", "ham10000")
HOUR = ("meddistill", "mtt", "pruned", "progressive", "mtt-soft", "frepo", "random", "herding")
OWN = ("meddistill", "mtt", "mtt-soft", "frepo", "dm", "random")
CLAIMS = ("meddistill", "mtt", "pruned", "progressive", "random")
NETWORKS = ("convnet-d3-w32", "resnet18-w16", "resnet18-w16-tutored")


@pytest.mark.parametrize(
    ("recipe", "subset", "cohorts", "counts", "methods", "networks", "planned"),
    [
        ("cpu", "hour", EVERY[:1], (1, 2, 10), HOUR, ("convnet-d3-w32",), (28, 50)),
        ("cpu", "night", EVERY, (1, 2, 10), OLD, ("convnet-d3-w32",), (208, 384)),
        ("cpu", "own", EVERY[1:], (1,), OWN, ("convnet-d3-w32",), (21, 42)),
        ("cpu", "transfer", EVERY, (1,), ("meddistill", "mtt", "random"), NETWORKS, (48, 64)),
        ("cpu", "claims", EVERY[1:], (1, 2), CLAIMS, NETWORKS[:1], (36, 69)),
        ("gpu", "hour", EVERY, (1, 10), ("meddistill", "mtt", "mtt-soft", "random"), None, (220, 400)),
    ],
)
def test_subsets_that_have_been_carried_out_plan_what_they_always_have(
    recipe, subset, cohorts, counts, methods, networks, planned
):
    grid = read_grid((RECIPES / f"{recipe}.toml").read_text(encoding="utf-8"), recipe, subset)
    every = cells(grid)
    assert (len(every), len(tasks(Layout(grid, Path("out"), "cpu")))) == planned
    asked = {(one.source.name, one.images_per_class, one.method) for one in every if one.method in grid.methods}
    assert asked == {(cohort, count, method) for cohort in cohorts for count in counts for method in methods}
    assert networks is None or {one.evaluation for one in every} == set(networks)
    assert not any(grid.settings_of(method) for method in methods)
    assert grid.total_images == ()


@pytest.mark.parametrize("recipe", ["cpu", "gpu"])
def test_the_ablation_sets_the_default_beside_its_parts(recipe):
    text = (RECIPES / f"{recipe}.toml").read_text(encoding="utf-8")
    grid = read_grid(text, recipe, "ablation")
    assert grid.distillations >= 5
    [source] = [one for one in grid.cohorts if one.name == "pneumoniamnist"]
    matching = grid.matched_with(source)[0]
    plans = {name: grid.plan_for(source, name, 1, matching, 0) for name in grid.methods if name != "random"}
    assert {name: (plan.method, plan.formed) for name, plan in plans.items()} == {
        "meddistill": ("meddistill", 2),
        "mtt-soft": ("mtt-soft", 1),
        "mtt-small": ("mtt", 2),
        "pruned-small": ("pruned", 2),
        "progressive-small": ("progressive", 2),
        "mtt": ("mtt", 1),
    }
    # But for these two they are one plan, and look at the same teachers.
    alike = {replace(plan, method="mtt", formation=0) for plan in plans.values()}
    assert len(alike) == 1
    made = [task for task in tasks(Layout(grid, Path("out"), "cpu")) if task.kind == "make"]
    counts = len(grid.cohorts) * len(grid.images_per_class)
    assert len(made) == counts * len(plans) * grid.distillations
    fewest = read_grid(text, recipe, "fewest")
    assert {cell.amount for cell in cells(fewest)} == {"1 in all", "2 in all", "5 in all"}


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("[cg]pu.toml")), ids=lambda path: path.stem)
def test_recipes_are_grids_over_all_sizes_and_have_a_subset_for_an_hour(recipe):
    text = recipe.read_text(encoding="utf-8")
    grid = read_grid(text, recipe.name)
    assert grid.images_per_class == (1, 2, 5, 10, 20, 50)
    assert grid.seeds * grid.distillations == 5
    named = {"covid_cxr3_112", "ham10000", "pbc_blood_64", "pneumoniamnist"}
    assert {source.name for source in grid.cohorts} <= named
    assert set(METHODS) <= set(grid.methods)
    if "gpu" not in recipe.stem:
        assert set(cells(read_grid(text, recipe.name, "hour"))) < set(cells(grid))
