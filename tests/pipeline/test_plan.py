"""Plans: their file, their limits, and how they are fitted to images and to a time."""

import subprocess
import sys
from dataclasses import MISSING, fields, is_dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
import tomlkit
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from meddistill.distill.distance import Pruned
from meddistill.distill.methods import METHODS, Method, find
from meddistill.distill.segments import ContinuousSegments, Pace, ProgressiveSegments, WideningSegments
from meddistill.nets.convnet import parse
from meddistill.pipeline import estimate as estimates
from meddistill.pipeline.estimate import Costs, Shape, estimate, fit_to_time, measure_costs
from meddistill.pipeline.plan import (
    Evaluation,
    Matching,
    Plan,
    Privacy,
    SoftLabel,
    Teachers,
    as_needed,
    checked,
    default_depth,
    override,
    setting_names,
)
from meddistill.pipeline.plan_file import from_toml, read_plan, to_toml
from meddistill.pipeline.teach import learning_window
from meddistill.runtime.errors import InputError
from meddistill.runtime.streams import stream


def values_of(setting: Any) -> st.SearchStrategy[Any]:
    """What a field of a plan may hold."""
    rule, default = setting.metadata, setting.default
    if rule["of"]:
        return st.sampled_from(rule["of"]() if callable(rule["of"]) else rule["of"])
    if isinstance(default, bool):
        return st.booleans()
    if isinstance(default, str):
        return st.just(default)
    if isinstance(default, int):
        return st.integers(rule["low"], int(rule["high"]))
    return st.floats(rule["low"], rule["high"])


def parts(kind: type, **fixed: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    plain = {s.name: values_of(s) for s in fields(kind) if s.default is not MISSING}
    return st.builds(kind, **(plain | fixed))


plans = parts(
    Plan,
    size=st.integers(8, 1024),
    formation=st.integers(0, 1),  # higher ones need larger images, see below
    network=st.builds("convnet-d{}-w{}".format, st.integers(1, 3), st.integers(1, 128)),
    teachers=parts(
        Teachers, count=st.integers(1, 100), steps=st.integers(1000, 10_000), snapshot_every=st.integers(1, 10)
    ),
    matching=parts(
        Matching, segment=st.integers(1, 100), smoothing=st.integers(-1, 50), earliest_start=st.integers(-1, 0)
    ),
    soft_label=parts(SoftLabel, distilled_steps=st.integers(0, 1000), epochs=st.integers(1, 4)),
    evaluation=parts(Evaluation),
).filter(lambda plan: plan.teachers == as_needed(plan.teachers, find(plan.method)))


@settings(max_examples=60)
@given(plans)
def test_a_plan_survives_its_file(plan):
    assert from_toml(to_toml(plan), "here") == plan


@given(st.integers(2, 8), st.integers(8, 1024))
def test_small_images_are_as_many_and_as_small_as_the_formation_says(formation, size):
    plan = Plan(size=size, network="convnet-d2-w8", formation=formation, images_per_class=3)
    assert (plan.count(4), plan.asked(4), plan.stored_size) == (12 * formation**2, 12, size // formation)
    if plan.stored_size >= 8:
        assert checked(plan) == plan
    else:
        with pytest.raises(
            InputError, match=f"formation is {formation}, which leaves {size // formation} of {size} pixels"
        ):
            checked(plan)


def test_a_method_brings_its_formation_where_images_are_large_enough():
    assert Plan(method="meddistill", size=28).stored_size == 14
    assert Plan(method="meddistill", size=15).stored_size == 15
    assert Plan(method="meddistill", size=28, formation=1).stored_size == 28
    assert Plan(method="mtt-soft", size=28).stored_size == 28
    assert Plan(method="mtt-soft", size=28, formation=3, total_images=2).count(5) == 18


@pytest.mark.parametrize(
    ("size", "asked", "side"),
    [
        (32, {"images_per_class": 1}, 8),
        (32, {"images_per_class": 4}, 8),
        (32, {"images_per_class": 5}, 16),
        (64, {"images_per_class": 4}, 16),
        (64, {"images_per_class": 50}, 32),
        (128, {"images_per_class": 1}, 32),
        (129, {"images_per_class": 1}, 64),
        (31, {"images_per_class": 1}, 15),
        (16, {"images_per_class": 1}, 8),
        (32, {"total_images": 1}, 8),
        (32, {"total_images": 8}, 8),
        (32, {"total_images": 9}, 16),
    ],
)
def test_sixteen_images_take_the_place_of_one_where_few_are_asked_for_and_eight_pixels_are_left(size, asked, side):
    plan = Plan(size=size, **asked)
    assert plan.stored_size == side
    assert plan.count(3) == plan.asked(3) * (size // side) ** 2


def test_the_file_explains_its_settings():
    text = to_toml(Plan())
    assert "# A plan of meddistill. Edit it" in text
    lines = text.splitlines()
    for part in (Plan, Teachers, Matching, SoftLabel, Evaluation):
        for setting in fields(part):
            if setting.default is not MISSING and setting.metadata["doc"]:
                line = f"{setting.name} = {tomlkit.item(setting.default).as_string()} # {setting.metadata['doc']}"
                assert line in lines
    assert tomlkit.parse(text).unwrap() == Plan().as_dict()


def test_what_is_left_out_has_its_default():
    assert from_toml("", "here") == Plan()
    assert from_toml("[teachers]\ncount = 7", "here") == replace(Plan(), teachers=Teachers(count=7))
    assert from_toml("[matching]\nimage_rate = 1", "here").matching.image_rate == 1.0


def test_all_problems_are_listed_at_once():
    text = """
    imagse_per_class = 3
    images_per_class = 0
    size = "28"
    method = "magic"
    evaluation = 5
    [teachers]
    learning_rate = nan
    count = true
    steps = 10.0
    [matching]
    decay = 1
    optimiser = "sdg"
    image_rate = -1.0
    colour = "red"
    """
    with pytest.raises(InputError) as raised:
        from_toml(text, "plan.toml")
    heading, *problems = str(raised.value).splitlines()
    assert heading == "plan.toml cannot be used:"
    expected = {
        "imagse_per_class": "not a setting",
        "images_per_class": "1 to 10000",
        "size": "a whole number",
        "method": "meddistill",
        "evaluation": "a section",
        "teachers.learning_rate": "1e-08 to 100",
        "teachers.count": "a whole number",
        "teachers.steps": "a whole number",
        "matching.decay": "true or false",
        "matching.optimiser": "adam, sgd",
        "matching.image_rate": "0 to 1e+06",
        "matching.colour": "not a setting",
    }
    found = {line.split()[1]: line for line in problems}
    assert found.keys() == expected.keys()
    for name, words in expected.items():
        assert words in found[name]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[teachers]\nsteps = 30\nsnapshot_every = 10\n[matching]\nsegment = 4", "matching.segment is 4 snapshots"),
        ('size = 12\nnetwork = "convnet-d4-w8"', "at most 3"),
        ('network = "resnet"', "unknown network 'resnet'"),
        ("[teachers]\ncount = 0", "method meddistill needs teachers, but teachers.count is 0"),
        ('method = "soft-label"\n[soft_label]\nepochs = 500', "up to 5000 step sizes, .* at most 4096"),
        ("size = [", "not a TOML file"),
        (
            "[matching]\nearliest_start = 20\nlatest_start = 5",
            "earliest_start is 20, after matching.latest_start, which is 5",
        ),
        ("[matching]\nearliest_start = 33", "earliest_start is 33, but a segment of 4 snapshots can start at 32"),
    ],
)
def test_values_that_do_not_fit_each_other(text, expected):
    with pytest.raises(InputError, match=expected):
        from_toml(text, "plan.toml")


def test_a_plan_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_plan(tmp_path / "plan.toml")
    (tmp_path / "plan.toml").write_bytes(b"seed = 1 # \xff")
    with pytest.raises(InputError, match="not UTF-8"):
        read_plan(tmp_path / "plan.toml")


def test_depth_leaves_3_to_5_pixels():
    assert {size: default_depth(size) for size in (28, 64, 112, 224)} == {28: 3, 64: 4, 112: 5, 224: 6}
    for size in range(4, 1025):
        parse(f"convnet-d{default_depth(size)}-w8", channels=1, size=size, classes=2)
        assert size < 6 or 3 <= size / 2 ** default_depth(size) < 6


def test_another_size_brings_its_depth_and_keeps_the_width():
    plan = replace(Plan(), network="convnet-d3-w48")
    assert override(plan, size=112).network == "convnet-d5-w48"
    assert override(plan, size=30).network == "convnet-d3-w48"
    assert override(plan, size=112, network="convnet-d2-w8").network == "convnet-d2-w8"
    assert override(plan, size=None, seed=None) == plan
    with pytest.raises(InputError, match="size is 3: expected 4 to 1024"):
        override(plan, size=3)


def test_a_plan_from_code_is_checked_too():
    with pytest.raises(InputError, match=r"matching\.batch is -1"):
        checked(replace(Plan(), matching=Matching(batch=-1)))


def test_a_flat_plan_holds_every_setting():
    without = Matching(kernels=False, smoothing=1)
    flat = Plan(flip=False, fixed_normalisation=True, teachers=Teachers(count=9), matching=without).flat()
    assert flat["teachers.count"] == 9
    assert not any(isinstance(value, dict) or is_dataclass(value) for value in flat.values())
    assert (
        len(flat) == sum(len(fields(part)) for part in (Plan, Teachers, Matching, SoftLabel, Evaluation, Privacy)) - 5
    )


def test_a_card_knows_of_kernels_and_smoothing_only_where_they_are_not_as_ever():
    """As it was before there were any."""
    assert Plan(matching=Matching(kernels=False)).flat()["matching.kernels"] is False
    assert Plan(matching=Matching(smoothing=3)).flat()["matching.smoothing"] == 3
    assert not any("kernels" in name or "smoothing" in name for name in Plan().flat())
    assert {"matching.kernels", "matching.smoothing"} < setting_names()


@pytest.mark.parametrize(("steps", "most"), [(360, 18), (90, 4), (70, 3), (40, 2)])
def test_no_two_points_of_a_trajectory_are_the_mean_of_the_same_snapshots(monkeypatch, steps, most):
    monkeypatch.setitem(METHODS, "smooth", Method("smooth", "", "", smoothing=4))
    teachers = Teachers(steps=steps)
    assert Plan(method="smooth", teachers=teachers).smoothed == min(4, most)
    fine, far = (Plan(teachers=teachers, matching=Matching(smoothing=reach)) for reach in (most, most + 1))
    assert checked(fine) == fine
    with pytest.raises(InputError, match=rf"matching\.smoothing is {most + 1}, .* use at most {most}"):
        checked(far)


def test_where_there_are_no_teachers_nothing_is_smoothed():
    plan = override(Plan(matching=Matching(smoothing=4)), method="dm")
    assert plan.smoothed == 0
    assert "smoothing" not in plan.identity()["matching"]


def test_a_plan_says_the_smoothing_or_the_method_does(monkeypatch):
    monkeypatch.setitem(METHODS, "smooth", Method("smooth", "", "", smoothing=4))
    asked = {
        name: Plan(method=method, matching=Matching(smoothing=reach))
        for name, method, reach in (
            ("own", "smooth", -1),
            ("same", "smooth", 4),
            ("none", "smooth", 0),
            ("other", "mtt", -1),
            ("given", "mtt", 4),
        )
    }
    assert {name: plan.smoothed for name, plan in asked.items()} == {
        "own": 4,
        "same": 4,
        "none": 0,
        "other": 0,
        "given": 4,
    }
    assert asked["own"].identity() == asked["same"].identity() != asked["none"].identity()
    assert "smoothing" not in asked["none"].identity()["matching"]


def test_what_identifies_a_plan_has_the_formation_of_its_images():
    """Another version of a method may have another one of its own."""
    assert Plan(method="meddistill").identity()["formation"] == Plan(method="meddistill").flat()["formation"] == 2
    assert Plan(method="meddistill").identity() == Plan(method="meddistill", formation=2).identity()
    assert Plan(method="mtt").identity() == Plan(method="mtt", formation=1).identity()


def test_the_batch_that_is_told_of_so_many_classes_is_the_one_that_students_have():
    plan, own = Plan(size=32), Plan(size=32, matching=Matching(batch=7))
    assert plan.identity()["matching"]["batch"] == 0  # a digest knows of no classes
    for classes, batch in ((2, 32), (3, 48), (8, 128)):
        count = plan.count(classes)
        assert plan.flat(classes)["matching.batch"] == plan.in_force(classes)["matching"]["batch"] == batch
        assert plan.loop_plan((0, 9)).batch_of(count) == min(batch, count)
        assert own.flat(classes)["matching.batch"] == own.loop_plan((0, 9)).batch_of(count) == 7


@pytest.mark.parametrize(
    ("curve", "window"),
    [
        ({4: 0.5, 8: 0.6, 12: 0.88, 16: 0.9, 20: 0.9}, (8, 12)),  # 12 is within 0.04 of the best and above 0.8 of it
        ({4: 0.5, 8: 0.75, 12: 0.8, 16: 0.89, 20: 0.9}, (4, 16)),  # 8 is the first at four fifths: 4 comes before
        ({4: 0.9, 8: 0.9}, (0, 4)),  # as good as they get at once
        ({4: 0.3, 8: 0.9, 12: 0.5}, (4, 8)),  # the best in the middle
        ({10: 0.5}, (0, 10)),
    ],
)
def test_learning_window(curve, window):
    assert learning_window(curve) == window


def test_the_window_fills_only_starts_that_are_left_open():
    def starts(**asked: int) -> tuple[int, int]:
        segments = Plan(matching=Matching(**asked)).loop_plan((3, 9)).segments
        return segments.earliest_start, segments.latest_start

    assert starts() == (3, 9)
    assert starts(earliest_start=0) == (0, 9)
    assert starts(earliest_start=1, latest_start=5) == (1, 5)
    assert starts(earliest_start=20) == (20, 20)
    assert starts(latest_start=1) == (1, 1)
    assert starts(latest_start=1000) == (3, 32)


@given(
    st.integers(-1, 32),
    st.integers(-1, 60),
    st.tuples(st.integers(0, 36), st.integers(0, 36)).map(sorted).map(tuple),
    st.sampled_from(("mtt", "datm", "mct")),
    st.floats(0, 1),
)
def test_the_window_that_is_told_is_the_one_that_segments_start_in(earliest, latest, found, method, share):
    plan = replace(override(Plan(), method=method), matching=Matching(earliest_start=earliest, latest_start=latest))
    assume(not earliest > latest >= 0)
    first, last = checked(plan).window(found)
    assert plan.window((first, last)) == (first, last)
    assert 0 <= first <= last <= 32
    assert earliest in (-1, first)
    assert latest in (-1, last) or latest > 32
    drawn = {plan.loop_plan(found).segments.draw(1, 37, stream(0, n), share, Pace()).start for n in range(20)}
    assert first <= min(drawn) <= max(drawn) <= last


def test_estimate_adds_up_the_work():
    plan = Plan(teachers=Teachers(count=2, steps=100), matching=Matching(warm_up=10, iterations=20))
    costs = Costs(teacher_step=0.01, warm_up=0.1, iteration=0.5, evaluation=3, full=7)
    found = estimate(plan, costs, Shape(channels=1, classes=2, train=100, scored=50))
    assert found.stages == pytest.approx({"teaching": 2, "warming up": 1, "distilling": 10, "evaluating": 30})
    assert found.seconds == pytest.approx(43)
    full = replace(plan, evaluation=Evaluation(seeds=3, random_sets=0, full_data=True))
    assert estimate(full, costs, Shape(1, 2, 100, 50)).stages["evaluating"] == pytest.approx(3 * 3 + 3 * 7)


def test_without_a_system_that_tells_memory_there_is_an_estimate_of_time_alone(monkeypatch):
    """As on Windows: the module that asks the system is not there."""
    given = (Plan(), Costs(teacher_step=0.01, warm_up=0.1, iteration=0.5, evaluation=3, full=7), Shape(1, 2, 100, 50))
    whole = estimate(*given).as_dict()
    assert whole["memory_mb"] > 0
    monkeypatch.setitem(sys.modules, "resource", None)
    assert estimate(*given).as_dict() == whole | {"memory_mb": None}
    program = "import sys; sys.modules['resource'] = None; import meddistill.api, meddistill.pipeline.estimate"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_evaluating_takes_no_less_than_its_longest_network():
    plan = Plan(evaluation=Evaluation(seeds=2, random_sets=0, full_data=True))
    costs = Costs(teacher_step=0, warm_up=0, iteration=0, evaluation=3, full=7)
    taken = [
        estimate(plan, replace(costs, processes=processes), Shape(1, 2, 100, 50)).stages["evaluating"]
        for processes in (1, 2, 4, 64)
    ]
    assert taken[0] == 20
    assert taken == sorted(taken, reverse=True)
    assert taken[1] < 20 and taken[2] == taken[3] == 7
    nothing = replace(plan, evaluation=Evaluation(seeds=0))
    assert estimate(nothing, costs, Shape(1, 2, 100, 50)).stages["evaluating"] == 0


def test_the_memory_of_the_processes_that_help_is_counted():
    shape, costs = Shape(1, 2, 1_000_000, 0), Costs(0, 0, 0, 3, 7, helper_mb=500)
    plan = replace(Plan(), size=10, teachers=Teachers(count=3), evaluation=Evaluation(seeds=1, random_sets=0))
    alone = estimate(plan, costs, shape).memory_mb
    helped = [estimate(plan, replace(costs, processes=processes), shape).memory_mb for processes in (2, 3, 64)]
    assert helped == pytest.approx([alone + 600, alone + 1200, alone + 1200], abs=50)


def test_more_time_is_used_for_more_work():
    plan = replace(Plan(), size=8, network="convnet-d1-w32", images_per_class=1)
    shape = Shape(channels=1, classes=2, train=50, scored=20)
    (little, _), (much, _) = (fit_to_time(plan, seconds, shape, torch.device("cpu")) for seconds in (1.0, 3600.0))
    assert checked(little).network == "convnet-d1-w16"
    assert checked(much).network == "convnet-d1-w64"
    assert little.teachers.count < much.teachers.count <= 20
    assert little.matching.iterations < much.matching.iterations <= 20_000
    assert little.matching.warm_up <= much.matching.warm_up
    assert little.teachers.count >= 1
    assert little.matching.iterations >= 20
    for fitted in (little, much):  # all else is as it was
        same = replace(fitted, network=plan.network, teachers=plan.teachers, matching=plan.matching)
        assert same == plan


def test_a_network_that_is_made_narrower_keeps_its_norm_and_one_that_was_named_stays():
    plan = replace(Plan(), size=8, network="convnet-d1-w32-gn", images_per_class=1)
    shape = Shape(channels=1, classes=2, train=50, scored=20)
    narrow, _ = fit_to_time(plan, 1.0, shape, torch.device("cpu"))
    assert narrow.network == "convnet-d1-w16-gn"
    named, costs = fit_to_time(replace(plan, network="convnet-d1-w20"), 1.0, shape, torch.device("cpu"), named=True)
    assert named.network == "convnet-d1-w20"
    assert named.matching.iterations < plan.matching.iterations and costs.iteration > 0


def test_a_method_that_needs_flat_teachers_gets_them_or_says_so():
    for name in ("ftd", "datm", "hop-tm"):
        teachers = override(Plan(), method=name).teachers
        assert (teachers.optimiser, teachers.adaptive, teachers.rho, teachers.alpha) == ("gsam", True, 0.01, 0.3)
    flat = override(Plan(), teachers=replace(Plan().teachers, optimiser="sam"))
    assert override(flat, method="ftd").teachers == flat.teachers
    with pytest.raises(InputError, match=r"method ftd needs flat teachers.*optimiser is sgd.*gsam"):
        checked(replace(Plan(), method="ftd"))


def test_a_progressive_plan_grows_to_where_teachers_stop_improving():
    plan = override(Plan(), method="progressive")
    loop = plan.loop_plan((3, 12))
    assert loop.segments == ProgressiveSegments(plan.matching.segment, 12 + plan.matching.segment, 5)
    assert loop.mitigation is not None
    assert 0 < loop.mitigation.retrained < loop.mitigation.every < plan.matching.iterations
    assert override(Plan(), method="tesla").loop_plan((0, 8)).strategy == "two-pass"
    assert override(Plan(), method="pruned").loop_plan((0, 8)).distance == Pruned(0.1)


@pytest.mark.parametrize(
    ("start", "anew"),
    [("prototypes", "prototypes"), ("real", "prototypes"), ("noise", "noise"), ("public", "noise")],
)
def test_images_start_anew_from_nothing_that_the_card_does_not_say(start, anew):
    mitigation = override(Plan(), method="progressive", start=start).loop_plan((3, 12)).mitigation
    assert mitigation is not None
    assert mitigation.start == anew


@given(iterations=st.integers(1, 5000))
def test_images_that_start_anew_are_retrained_to_the_end_and_then_all_are_trained(iterations):
    plan = replace(override(Plan(), method="progressive"), matching=Matching(iterations=iterations))
    rule = plan.loop_plan((3, 12)).mitigation
    assert rule is not None
    checks = [matched for matched in range(iterations + 1) if rule.is_due(matched, iterations)]
    assert all(matched + rule.retrained < iterations for matched in checks)
    assert all(later - earlier > rule.retrained for earlier, later in pairwise(checks))
    assert bool(checks) == (iterations >= 4)


def test_a_method_is_not_planned_what_it_does_without():
    for name in ("dm", "dc", "dsa", "soft-label"):
        plan = override(Plan(), method=name)
        assert plan.teachers.count == 0
        assert (plan.matching.warm_up == 0) == (name != "soft-label")
        costs = Costs(teacher_step=0.0, warm_up=0.1, iteration=0.5, evaluation=3, full=7)
        assert estimate(plan, costs, Shape(1, 2, 100, 50)).stages["teaching"] == 0
    assert override(Plan(), method="ncfm").teachers.count == 4


def test_time_is_spent_on_iterations_where_there_are_no_teachers():
    plan = override(replace(Plan(), size=8, network="convnet-d1-w32", images_per_class=1), method="dm")
    little, much = (fit_to_time(plan, seconds, Shape(1, 2, 50, 20), torch.device("cpu"))[0] for seconds in (1, 3600))
    assert little.teachers.count == much.teachers.count == little.matching.warm_up == much.matching.warm_up == 0
    assert 20 <= little.matching.iterations < much.matching.iterations <= 20_000


@pytest.mark.parametrize("name", METHODS)
def test_the_cost_of_every_method_is_measured(name, monkeypatch):
    monkeypatch.setattr("meddistill.pipeline.estimate._REPEATS", 1)
    plan = override(replace(Plan(), size=8, network="convnet-d1-w8", images_per_class=1), method=name)
    matching = replace(plan.matching, real_images=8, student_steps=2, segments_at_once=1)
    plan = replace(plan, matching=matching, soft_label=replace(plan.soft_label, epochs=2))
    costs = measure_costs(plan, Shape(1, 2, 50, 20), torch.device("cpu"))
    assert min(costs.iteration, costs.warm_up, costs.evaluation, costs.full) > 0
    assert (costs.teacher_step > 0) == (plan.teachers.count > 0)


def test_batches_are_timed_as_large_as_the_run_has_them(monkeypatch):
    """Two steps are timed of ten; so few would usually have larger batches."""
    timed, real = [], estimates.student_batches

    def noting(*asked):
        found = real(*asked)
        timed.extend(len(batch.rows) for batch in found)
        return found

    monkeypatch.setattr(estimates, "student_batches", noting)
    monkeypatch.setattr(estimates, "_REPEATS", 1)
    plan = Plan(size=8, network="convnet-d1-w8", images_per_class=20)
    measure_costs(plan, Shape(1, 3, 50, 20), torch.device("cpu"))
    assert plan.loop_plan((0, 9)).batch_of(plan.count(3)) == max(timed) == 32


def test_images_in_all_take_the_place_of_images_per_class():
    assert override(Plan(), total_images=5).asked(3) == 5
    assert override(override(Plan(), total_images=5), images_per_class=2).asked(3) == 6
    plan = override(Plan(), method="soft-label", total_images=5)
    assert plan.step_sizes(3) == 3  # one image of a class, so one step, in each of three epochs
    assert override(plan, total_images=50).step_sizes(3) == 30
    assert replace(plan, soft_label=SoftLabel(distilled_steps=2, epochs=4)).step_sizes(3) == 8
    assert override(Plan(), total_images=5).step_sizes(3) == 1


def test_methods_bring_their_parts():
    datm = override(Plan(), method="datm").loop_plan((2, 8))
    assert datm.segments == WideningSegments(Plan().matching.segment, 5, 8, 2)
    assert (datm.taught_labels, datm.learn_labels, datm.highest_score) == (True, True, 1.1)
    mct = override(Plan(), method="mct")
    assert mct.teachers.storage == "convex2"
    assert mct.loop_plan((2, 8)).segments == ContinuousSegments(Plan().matching.segment, 8, 2)
    assert override(Plan(), teachers=Teachers(storage="convex3"), method="mct").teachers.storage == "convex3"
    assert override(Plan(), method="hop-tm").teachers.optimiser == "gsam"
    assert not override(Plan(), method="iadd").loop_plan((2, 8)).learn_labels
    averaged = {name for name in METHODS if METHODS[name].averaging}
    assert averaged == {"ftd", "att"}
    assert {override(Plan(), method=name).loop_plan((2, 8)).averaging for name in averaged} == {0.999}
    with pytest.raises(InputError, match=r"method mct needs convexified trajectories.*storage is float32.*convex2"):
        checked(replace(Plan(), method="mct"))
