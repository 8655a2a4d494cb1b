"""Several packages as one training set: what is reconciled, what is refused, and that one alone stays what it was."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from meddistill.package.types import Card, CohortCounts, Images, Normalisation, Package, Recipe, Sizes, Software, Task
from meddistill.runtime.errors import InputError
from meddistill.teachers import images as teachers
from meddistill.train.combine import Part, combine, pooled
from meddistill.train.renaming import Renaming, read_renaming


def part(name: str, classes=("ill", "well"), *, size=8, channels=1, each=2, seed=0, made_from=10, **facts) -> Part:
    """A package of noise; ``facts``: ``intensity``, ``mean``, ``std``, ``network``, ``plan``, ``made_with``, a seed."""
    rng = np.random.default_rng([seed, *name.encode()])
    count = each * len(classes)
    card = Card(
        software=Software(name="meddistill", version="0.1.0"),
        task=Task(classes=classes, labels="soft"),
        images=Images(count=count, per_class=each, size=size, channels=channels),
        normalisation=Normalisation(
            mean=(facts.get("mean", 0.5),) * channels, std=(facts.get("std", 0.25),) * channels
        ),
        recipe=Recipe(
            method="mtt",
            seed=facts.get("made_with", 4),
            start="noise",
            network=facts.get("network", "convnet-d1-w8"),
            plan=facts.get("plan", {"fit": "pad", "leak": "drop"}),
        ),
        cohort=CohortCounts(counts="withheld" if made_from is None else {"train": dict.fromkeys(classes, made_from)}),
        contains_real_images=False,
        bytes=Sizes(cohort_train=1000),
    )
    if "intensity" in facts:
        card = replace(card, images=replace(card.images, intensity=facts["intensity"]))
    labels = rng.dirichlet(np.ones(len(classes)), count).astype(np.float32)
    pixels = rng.random((count, channels, size, size), np.float32)
    return Part(name, Package(images=pixels, labels=labels, step_sizes=np.ones(1, np.float32), card=card))


def test_one_package_comes_out_as_it_went_in():
    alone = part("a.mdz", plan={"fit": "stretch", "leak": "resplit"})
    found = combine([alone])
    assert found.images is alone.package.images
    assert found.labels is alone.package.labels
    assert (found.classes, found.network) == (("ill", "well"), "convnet-d1-w8")
    assert (found.normalisation.mean, found.normalisation.std) == ((0.5,), (0.25,))
    assert (found.fit, found.leak, found.seed, found.notes) == ("stretch", "resplit", 4, ())


def test_nothing_is_mirrored_where_one_package_tells_classes_apart_by_side():
    usual = {"fit": "pad", "leak": "drop"}
    mirrored, sided = part("a.mdz"), part("b.mdz", plan=usual | {"flip": False})
    other = part("c.mdz", plan=usual | {"flip": False})
    assert (combine([mirrored]).flip, combine([sided]).flip, combine([sided, other]).notes) == (True, False, ())
    found = combine([mirrored, sided, other])
    assert found.notes == ("no image is mirrored in training: left and right tell classes of b.mdz, c.mdz apart",)
    assert not found.flip and not found.without(1).flip


def test_sources_that_were_split_in_different_ways_leave_no_seed_to_split_them_again():
    first, same = part("a.mdz"), part("b.mdz")
    assert not combine([first, same]).mixed_splits
    other = combine([first, part("b.mdz", made_with=5)])
    assert (other.mixed_splits, other.leak) == (True, "drop")
    assert any("different seeds" in note for note in other.notes)
    for plans in (("drop", "resplit"), ("resplit", "drop")):  # whoever is first
        found = combine([part(f"{leak}.mdz", plan={"leak": leak}) for leak in plans])
        assert (found.mixed_splits, found.leak) == (True, "resplit")
    for told, mixed in (({}, True), ({"mixed_splits": True}, True), ({"mixed_splits": False}, False)):
        assert combine([part("merged.mdz", plan={"parts": 2, **told})]).mixed_splits == mixed


def test_classes_are_matched_by_name_whatever_their_order():
    first, second = part("a.mdz", ("ill", "well")), part("b.mdz", ("well", "ill"))
    found = combine([first, second])
    assert found.classes == ("ill", "well")
    assert np.array_equal(found.labels[:4], first.package.labels)
    assert np.array_equal(found.labels[4:], second.package.labels[:, ::-1])
    assert np.array_equal(found.images, np.concatenate([first.package.images, second.package.images]))
    assert found.notes == ()


def test_many_small_images_beside_one_large_are_refused_before_they_are_enlarged(monkeypatch):
    def stored(name: str, count: int, size: int) -> Part:
        """Pixels of one value, whatever their number: memory for none of them is taken."""
        made = part(name, each=1)
        images = replace(made.package.card.images, count=count, per_class=0, size=size)
        pixels = np.broadcast_to(np.float32(0.5), (count, 1, size, size))
        labels = np.full((count, 2), 0.5, np.float32)
        return Part(
            name, replace(made.package, images=pixels, labels=labels, card=replace(made.package.card, images=images))
        )

    many, large = stored("many.mdz", 65_536, 28), stored("large.mdz", 1, 1024)
    expected = r"68720525312 values \(many.mdz: 65536 of 28 x 28 pixels; large.mdz: 1 of 1024"
    with monkeypatch.context() as patched, pytest.raises(InputError, match=expected):
        patched.setattr("meddistill.train.combine.resize_intensities", lambda *_: pytest.fail("enlarged"))
        combine([many, large])
    alike = [stored(f"{name}.mdz", 2**17 // 4, 64) for name in "ab"]  # as large as a package may be, each
    assert len(combine(alike).shares) == 2


def test_the_union_of_classes_is_learned_and_told():
    found = combine([part("a.mdz", ("ill", "well")), part("b.mdz", ("well", "covid"))])
    assert found.classes == ("ill", "well", "covid")
    assert not found.labels[:4, 2].any()
    assert not found.labels[4:, 0].any()
    assert found.labels.sum(1) == pytest.approx(np.ones(8), abs=1e-6)
    assert any("a.mdz has no class covid" in note for note in found.notes)
    assert any("b.mdz has no class ill" in note for note in found.notes)


def test_images_get_the_largest_size_by_the_resize_rule_and_grey_becomes_colour():
    small, large = part("a.mdz", size=6), part("b.mdz", size=9, channels=3)
    found = combine([small, large])
    assert found.images.shape == (8, 3, 9, 9)
    plane = Image.fromarray(small.package.images[1, 0]).resize((9, 9), Image.Resampling.BILINEAR)
    for channel in range(3):
        assert np.array_equal(found.images[1, channel], np.asarray(plane))
    assert np.array_equal(found.images[4:], large.package.images)
    assert found.normalisation.mean == (0.5, 0.5, 0.5)
    assert any("a.mdz: images enlarged from 6 to 9 pixels" in note for note in found.notes)
    assert any("a.mdz: grey images used as colour ones" in note for note in found.notes)


@settings(max_examples=40)
@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 99),
)
def test_the_pooled_normalisation_is_that_of_all_images_together(counts, channels, seed):
    rng = np.random.default_rng(seed)
    cohorts = [rng.random((count, channels, 4, 4)) * rng.random() + rng.random() for count in counts]
    each = [
        teachers.Normalisation(tuple(images.mean((0, 2, 3)).tolist()), tuple(images.std((0, 2, 3)).tolist()))
        for images in cohorts
    ]
    together, found = np.concatenate(cohorts), pooled(each, counts)
    assert found.mean == pytest.approx(together.mean((0, 2, 3)), abs=1e-12)
    assert found.std == pytest.approx(together.std((0, 2, 3)), abs=1e-12)


def test_packages_weigh_by_what_they_were_made_from_unless_one_withholds_it():
    dark, bright = part("a.mdz", mean=0.2, std=0.1, made_from=30), part("b.mdz", mean=0.6, std=0.1, made_from=10)
    assert combine([dark, bright]).normalisation.mean == pytest.approx((0.3,))
    silent = part("b.mdz", mean=0.6, std=0.1, made_from=None)
    found = combine([dark, silent])
    assert found.normalisation.mean == pytest.approx((0.4,))
    assert found.normalisation.std == pytest.approx((np.sqrt(0.1**2 + 0.2**2),))
    assert any("all cohorts taken together" in note for note in found.notes)


def test_leaving_one_out_keeps_the_task_and_forgets_the_package():
    first, second, third = part("a.mdz", mean=0.2), part("b.mdz", ("ill", "covid")), part("c.mdz", size=9)
    rest = combine([first, second, third]).without(1)
    assert rest.classes == ("ill", "well", "covid")
    assert rest.size == 9
    assert np.array_equal(rest.images[4:], third.package.images)
    assert rest.normalisation == combine([first, third]).normalisation


def test_all_conflicts_are_listed_at_once():
    parts = [
        part("a.mdz", ("ill", "well")),
        part("b.mdz", ("ILL", "well"), intensity="0 is air and 1 is bone"),
        part("c.mdz", ("cat", "dog")),
    ]
    with pytest.raises(InputError) as caught:
        combine(parts)
    told = str(caught.value)
    for expected in ("0 is air and 1 is bone", "'ill' and 'ILL' differ in spelling", "c.mdz has no class in common"):
        assert expected in told
    assert told.count("--classes") == 2


def test_classes_that_one_package_tells_apart_stay_apart():
    signs = ("HER2+", "HER2-", "grade 1-2", "grade 12", "1.5", "15")
    assert combine([part("a.mdz", signs)]).classes == signs
    both = [part("a.mdz", ("ER", "Er", "x")), part("b.mdz", ("Er", "ER", "x"))]
    assert combine(both).classes == ("ER", "Er", "x")
    for name, other in (("COVID-19", "covid 19"), ("T_cell", "t-cell"), ("HER2 -", "HER2-"), ("naïve", "nai\u0308ve")):
        with pytest.raises(InputError, match="differ in spelling alone"):
            combine([part("a.mdz", (name, "x")), part("b.mdz", (other, "x"))])


def test_classes_that_no_model_file_could_hold_are_refused_before_training():
    parts = [part(f"{place}.mdz", ("ill", *(f"{place}-{name}" for name in range(510)))) for place in range(2)]
    with pytest.raises(InputError, match="1021 classes; expected 1 to 1000"):
        combine(parts)


def test_the_same_package_twice_is_refused():
    once = part("a.mdz")
    card = replace(once.package.card, digests={"tensors.safetensors": "0" * 64})
    same = replace(once.package, card=card)
    with pytest.raises(InputError, match=r"a.mdz and b.mdz hold the same images"):
        combine([Part("a.mdz", same), Part("b.mdz", same)])
    with pytest.raises(InputError, match=r"a.mdz is the name of 2 files"):
        combine([once, part("a.mdz", seed=1)])


def table(tmp_path, *lines) -> Renaming:
    path = tmp_path / "classes.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return read_renaming(path)


def test_a_mapping_renames_and_joins_classes(tmp_path):
    """One hospital tells two kinds of pneumonia apart, the other does not."""
    fine = part("east.mdz", ("bacterial", "viral", "NORMAL"))
    coarse = part("west.mdz", ("normal", "pneumonia"))
    renaming = table(
        tmp_path, "class;becomes;package", "bacterial;pneumonia;east", "viral;pneumonia;east.mdz", "NORMAL;normal;"
    )
    found = combine([fine, coarse], renaming)
    assert found.classes == ("pneumonia", "normal")
    assert found.labels[:6, 0] == pytest.approx(fine.package.labels[:, :2].sum(1))
    assert np.array_equal(found.labels[:6, 1], fine.package.labels[:, 2])
    assert np.array_equal(found.labels[6:], coarse.package.labels[:, ::-1])


def test_a_row_for_one_package_goes_before_one_for_all(tmp_path):
    renaming = table(tmp_path, "class,becomes,package", "a,x,", "a,y,one.mdz")
    assert renaming.names("one.mdz", ["a", "b"]) == ("y", "b")
    assert renaming.names("two.mdz", ["a", "b"]) == ("x", "b")


def test_rows_that_mean_nothing_are_refused(tmp_path):
    renaming = table(tmp_path, "class,becomes,package", "sick,ill,", "ill,well,c.mdz")
    with pytest.raises(InputError) as caught:
        combine([part("a.mdz"), part("b.mdz")], renaming)
    assert "classes.csv:2: no class 'sick' in any package" in str(caught.value)
    assert "classes.csv:3: there is no package 'c.mdz' among a.mdz, b.mdz" in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["class,to", "a,b"], "expected the columns class, becomes"),
        (["class,becomes"], "expected the columns class, becomes"),
        (["class,becomes", "a,", ",b"], "classes.csv:2.*\n.*classes.csv:3"),
        (["class,becomes", "a,b", "a,c"], "class 'a' is renamed more than once"),
        (["class,becomes", "a,scan_01.png"], "looks like a file name"),
    ],
)
def test_a_mapping_file_that_cannot_be_used(tmp_path, lines, expected):
    with pytest.raises(InputError, match=expected):
        table(tmp_path, *lines)


def test_a_mapping_file_that_cannot_be_read(tmp_path):
    (tmp_path / "bad.csv").write_bytes(b"class,becomes\n\xff\xfe,x\n")
    for name in ("bad.csv", "missing.csv"):
        with pytest.raises(InputError, match="cannot read the mapping file"):
            read_renaming(tmp_path / name)
