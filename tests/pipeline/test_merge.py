"""Merging: a package again, that trains as its parts do and says where it comes from."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.told import Told

from meddistill import api
from meddistill.package.quantise import LEVELS
from meddistill.package.read import read, verify
from meddistill.package.types import (
    Card,
    CohortCounts,
    Images,
    Normalisation,
    Package,
    Recipe,
    Sizes,
    Software,
    Task,
    Terms,
)
from meddistill.package.write import write
from meddistill.pipeline.receive import open_parts
from meddistill.runtime.errors import InputError


def part(path: Path, classes=("ill", "well"), *, low=0.0, mean=0.5, each=2, stored=None, **facts) -> Path:
    rng = np.random.default_rng([*path.name.encode()])
    count = each * len(classes)
    card = Card(
        software=Software(name="meddistill", version="0.1.0"),
        task=Task(classes=classes, labels=facts.get("labels", "soft")),
        images=Images(count=count, per_class=each, size=8, channels=1, stored=stored),
        normalisation=Normalisation(mean=(mean,), std=(0.25,)),
        recipe=Recipe(
            method="mtt",
            seed=facts.get("seed", 4),
            start=facts.get("start", "noise"),
            network="convnet-d1-w8",
            plan=facts.get("plan", {}),
        ),
        cohort=CohortCounts(counts=facts.get("counts", {"train": dict.fromkeys(classes, 30), "test": {"ill": 2}})),
        contains_real_images=facts.get("start") == "real",
        bytes=Sizes(cohort_train=None if facts.get("counts") == "withheld" else 1000),
        terms=facts.get("terms", Terms(licence="CC BY 4.0")),
    )
    labels = rng.dirichlet(np.ones(len(classes)), count).astype(np.float32)
    pixels = rng.uniform(low, 1, (count, 1, stored or 8, stored or 8)).astype(np.float32)
    write(path, Package(images=pixels, labels=labels, step_sizes=np.full(1, 0.1, np.float32), card=card))
    return path


def test_a_merged_package_is_its_parts_one_after_the_other(tmp_path):
    files = [part(tmp_path / "a.mdz"), part(tmp_path / "b.mdz", ("well", "ill"), low=-3, mean=0.3, each=3)]
    report = api.merge(files, tmp_path / "c.mdz").as_dict()
    merged, (first, second) = read(tmp_path / "c.mdz"), map(read, files)
    assert verify(tmp_path / "c.mdz").ok
    assert (report["images"], merged.card.images.count, merged.card.images.per_class) == (10, 10, 5)
    half_a_step = 4 / (LEVELS - 1) / 2 + 1e-4  # intensities go from -3 to 1
    assert np.abs(merged.images - np.concatenate([first.images, second.images])).max() <= half_a_step
    assert np.array_equal(merged.labels, np.concatenate([first.labels, second.labels[:, ::-1]]))
    assert merged.card.normalisation.mean == pytest.approx((0.4,))
    assert merged.card.cohort.counts == {"train": {"ill": 60, "well": 60}, "test": {"ill": 4}}
    assert merged.card.bytes.cohort_train == 2000
    assert merged.card.results is None
    assert merged.card.terms.licence == "CC BY 4.0"


def test_terms_are_said_once_and_cut_where_a_card_does_not_take_them(tmp_path):
    licence = "It may be used for teaching. " * 86  # 2494 characters, which a card takes
    said = (licence + "One", licence + "One", licence + "Two", "CC0")
    files = [part(tmp_path / f"{place}.mdz", terms=Terms(licence=text)) for place, text in enumerate(said)]
    report = api.merge([files[0], files[1], files[3]], tmp_path / "short.mdz")
    assert read(tmp_path / "short.mdz").card.terms.licence == f"parts 1, 2: {said[0]}; part 3: CC0"
    assert not any("terms" in note for note in report.reconciled)
    report = api.merge(files, tmp_path / "long.mdz")
    told = read(tmp_path / "long.mdz").card.terms.licence
    assert 3900 < len(told) <= 4000
    assert told.startswith("parts 1, 2: It may be used for teaching. It")
    assert told.endswith("; part 4: CC0")
    assert told.count(" (cut; that package has all); part") == 2
    assert any("terms.licence: longer together" in note for note in report.reconciled)
    many = [part(tmp_path / f"m{place}.mdz", terms=Terms(limits=f"{place} " + "x" * 3990)) for place in range(30)]
    api.merge(many, tmp_path / "many.mdz")
    assert read(tmp_path / "many.mdz").card.terms.limits.count("(cut;") == 30


def test_images_that_all_parts_store_small_stay_small(tmp_path):
    small = [part(tmp_path / f"{name}.mdz", stored=4) for name in "ab"]
    api.merge(small, tmp_path / "c.mdz")
    merged, parts = read(tmp_path / "c.mdz"), [read(file) for file in small]
    assert (merged.card.images.stored, merged.images.shape) == (4, (8, 1, 4, 4))
    assert np.abs(merged.images - np.concatenate([one.images for one in parts])).max() < 0.01
    api.merge([small[0], part(tmp_path / "d.mdz")], tmp_path / "e.mdz")
    mixed = read(tmp_path / "e.mdz")
    assert (mixed.card.images.stored, mixed.images.shape) == (None, (8, 1, 8, 8))
    assert np.abs(mixed.images[:4] - parts[0].enlarged).max() < 0.01


def test_parts_are_named_by_digest_and_not_by_file(tmp_path):
    files = [part(tmp_path / "mueller-hans.mdz"), part(tmp_path / "b.mdz", start="prototypes")]
    report = api.merge(files, tmp_path / "c.mdz").as_dict()
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    recipe = read(tmp_path / "c.mdz").card.recipe
    assert [recipe.plan[f"part.{place}.sha256"] for place in (1, 2)] == digests
    assert [entry["sha256"] for entry in report["parts"]] == digests
    assert (recipe.method, recipe.start, recipe.plan["parts"]) == ("merge", "prototypes", 2)
    assert b"mueller" not in (tmp_path / "c.mdz").read_bytes()


def test_the_worst_of_the_parts_is_told(tmp_path):
    """Real images, silence about counts, and terms of each sender survive merging."""
    real = part(tmp_path / "a.mdz", start="real", terms=Terms(limits="never alone"))
    silent = part(tmp_path / "b.mdz", counts="withheld", terms=Terms(licence="CC0"))
    api.merge([real, silent], tmp_path / "c.mdz")
    card = read(tmp_path / "c.mdz").card
    assert card.contains_real_images
    assert card.recipe.start == "real"
    assert card.cohort.counts == "withheld"
    assert card.terms.licence == "part 1: nothing stated; part 2: CC0"
    assert card.terms.limits == "part 1: never alone; part 2: nothing stated"


def test_merging_one_after_the_other_weighs_all_cohorts_alike(tmp_path):
    files = [part(tmp_path / f"{name}.mdz", mean=mean) for name, mean in (("a", 0.2), ("b", 0.4), ("c", 0.9))]
    api.merge(files[:2], tmp_path / "ab.mdz")
    api.merge([tmp_path / "ab.mdz", files[2]], tmp_path / "abc.mdz")
    assert read(tmp_path / "abc.mdz").card.normalisation.mean == pytest.approx((0.5,))


def test_classes_are_renamed_and_their_counts_with_them(tmp_path):
    fine = part(
        tmp_path / "a.mdz", ("viral", "bacterial", "well", "fine"), counts={"train": {"viral": 3, "bacterial": 4}}
    )
    coarse = part(tmp_path / "b.mdz", counts={"train": {"ill": 5, "well": 1}})
    (tmp_path / "map.csv").write_text("class,becomes\nviral,ill\nbacterial,ill\nfine,well\n")
    api.merge([fine, coarse], tmp_path / "c.mdz", classes=tmp_path / "map.csv")
    card = read(tmp_path / "c.mdz").card
    assert card.task.classes == ("ill", "well")
    assert card.cohort.counts == {"train": {"ill": 12, "well": 1}}
    assert card.images.per_class == 6


def test_classes_with_different_numbers_of_images_are_not_counted(tmp_path):
    files = [part(tmp_path / "a.mdz"), part(tmp_path / "b.mdz", ("well", "covid"), counts="withheld")]
    api.merge(files, tmp_path / "c.mdz")
    images = read(tmp_path / "c.mdz").card.images
    assert (images.count, images.per_class) == (8, 0)
    api.merge([tmp_path / "c.mdz", part(tmp_path / "d.mdz")], tmp_path / "e.mdz")
    assert read(tmp_path / "e.mdz").card.images.per_class == 0


def test_what_cannot_be_merged_is_refused_with_a_remedy(tmp_path):
    first = part(tmp_path / "a.mdz")
    with pytest.raises(InputError, match="1 package was given"):
        api.merge([first], tmp_path / "c.mdz")
    with pytest.raises(InputError, match="hold the same images"):
        api.merge([first, shutil.copy(first, tmp_path / "copy.mdz")], tmp_path / "c.mdz")
    assert not (tmp_path / "c.mdz").exists()


def test_a_package_that_canaries_were_planted_for_is_not_merged_and_whoever_trains_on_it_is_warned(tmp_path):
    sound, planted = part(tmp_path / "a.mdz"), part(tmp_path / "b.mdz", plan={"canaries": 100})
    with pytest.raises(InputError, match=r"b\.mdz: canaries"):
        api.merge([sound, planted], tmp_path / "c.mdz")
    heard = Told()
    assert [each.name for each in open_parts([sound, planted], heard)] == ["a.mdz", "b.mdz"]
    (warned,) = (text for text in heard.warnings if "canaries" in text)
    assert warned.startswith("b.mdz: ") and "not to be shared or used" in warned


def test_where_seeds_differ_no_split_that_a_seed_draws_is_scored(tmp_path, source):
    """The first package's seed would put images that went into the second one into its source's test split."""
    names = ("clear", "ill")
    files = [part(tmp_path / f"{seed}.mdz", names, seed=seed) for seed in (0, 1)]
    given = tmp_path / "given"
    for split in ("train", "val", "test"):
        shutil.copytree(source, given / split)
    for image in given.rglob("*.png"):  # a different third of the images in each split
        if int(image.stem[-1]) % 3 != ("train", "val", "test").index(image.parts[-3]):
            image.unlink()
    api.merge(files, tmp_path / "merged.mdz")
    for packages in (files, [tmp_path / "merged.mdz"]):
        with pytest.raises(InputError, match=r"differ in the seed.*splits of its own, or.*--test-split all"):
            api.train(packages, tmp_path / "none", test=source, seeds=1)
        assert not (tmp_path / "none").exists()
    api.train(files, tmp_path / "model.safetensors", seeds=1)
    with pytest.raises(InputError, match=r"differ in the seed"):
        api.evaluate(tmp_path / "model.safetensors", source)
    assert api.evaluate(tmp_path / "model.safetensors", source, split="all").images == 80
    assert 0 < api.evaluate(tmp_path / "model.safetensors", given).images < 80
    for audited in (tmp_path / "model.safetensors", tmp_path / "merged.mdz"):
        with pytest.raises(InputError, match=r"differ in the seed"):
            api.audit(audited, str(source))
