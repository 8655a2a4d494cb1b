"""Characters in an image are found where they can be read; tissue is none; what is too small is said to be."""

from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image, ImageDraw, ImageFont

import meddistill
from meddistill.audit import marks
from meddistill.audit.marks import Marked, longest_rows
from meddistill.audit.people import People
from meddistill.cohort.resize import resize_intensities

EMBEDDED = Path(meddistill.__file__).parent / "data" / "pneumoniamnist.npz"


def lungs(count, side, seed=0):
    """Chest X-rays ``(n, 1, S, S)``: enlarged, so that there are no marks but what is written on them."""
    with np.load(EMBEDDED) as file:
        rows = np.random.default_rng(seed).permutation(len(file["train_images"]))[:count]
        images = file["train_images"][rows, None].astype(np.float32) / 255
    return resize_intensities(images, side)


def written(image, text, height, at, shade=None):
    """The image ``(C, S, S)`` with ``text`` burned in, its letters ``height`` pixels high and anti-aliased.

    ``shade``: None for black or white, whichever is farther from what is there.
    """
    fine = 4
    plain = ImageFont.load_default(size=100).getbbox("H")
    font = ImageFont.load_default(size=100 * fine * height / (plain[3] - plain[1]))
    left, top, right, bottom = font.getbbox(text)
    side = image.shape[-1]
    assert at[0] * fine + right - left <= side * fine
    assert at[1] * fine + bottom - top <= side * fine
    mask = Image.new("L", (side * fine, side * fine))
    ImageDraw.Draw(mask).text((at[0] * fine - left, at[1] * fine - top), text, font=font, fill=255)
    inked = np.asarray(mask.resize((side, side), Image.Resampling.BILINEAR), np.float32) / 255
    if shade is None:
        shade = 1.0 if np.average(image.mean(0), weights=inked) < 0.5 else 0.0
    return (image * (1 - inked) + shade * inked).astype(np.float32)


@given(st.integers(0, 20), st.integers(0, 80), st.sampled_from([8, 10, 14]), st.sampled_from([0.0, 1.0]))
@settings(max_examples=25, deadline=None)
def test_a_line_of_text_is_found_wherever_it_stands_bright_or_dark(x, y, height, shade):
    image = np.full((1, 112, 112), 0.5, np.float32)
    assert longest_rows(written(image, "WARD-7", height, (x, y), shade)[None])[0] >= 4


@pytest.mark.parametrize("side", [64, 112])
def test_what_is_written_on_patients_images_is_found_and_hardly_anything_on_the_images_as_they_are(side):
    images = lungs(30, side)
    assert (longest_rows(images) > 0).sum() <= 1
    texts = [written(one, "ARE7", 7, (1, 4)) for one in images]
    assert (longest_rows(np.stack(texts)) > 0).mean() > 0.8


def test_an_image_is_judged_by_itself():
    images = lungs(20, 64)
    images[3] = written(images[3], "1975-03", 8, (2, 10))
    together = longest_rows(images)
    assert list(together) == [longest_rows(one[None])[0] for one in images]
    assert list(np.flatnonzero(together)) == [3]


def test_colour_noise_lines_and_blocks_are_no_characters():
    rng = np.random.default_rng(0)
    noise = rng.normal(0.5, 0.1, (10, 3, 64, 64)).astype(np.float32)
    image = np.full((1, 1, 64, 64), 0.2, np.float32)
    stripes, blocks, one = image.copy(), image.copy(), image.copy()
    stripes[..., 20:22, :] = stripes[..., 30:32, :] = 1
    for place in (10, 20, 30, 40):
        blocks[..., 20:28, place : place + 8] = 1
    one[0] = written(image[0], "L", 10, (5, 5), 1.0)  # a side marker is no row
    for nothing in (noise, image, stripes, blocks, one):
        assert not longest_rows(nothing).any()


def test_a_row_needs_three_characters_of_one_height_on_one_line():
    image = np.full((1, 64, 64), 0.2, np.float32)

    def row(*drawn):
        shown = image
        for text, height, at in drawn:
            shown = written(shown, text, height, at, 1.0)
        return longest_rows(shown[None])[0]

    assert row(("HAE", 8, (5, 20))) == 3
    assert row(("HA", 8, (5, 20))) == 0
    assert row(("HA", 8, (5, 20)), ("E", 8, (45, 20))) == 0  # too far
    assert row(("HA", 8, (5, 20)), ("E", 8, (19, 30))) == 0  # on another line
    assert row(("HA", 8, (5, 20)), ("E", 14, (20, 17))) == 0  # much higher


class Case:
    """As much of a case as this attack asks for."""

    def __init__(self, synthetic, members, control):
        self.package = type("Package", (), {"images": synthetic})()
        self.sides = {"members": members, "control": control}
        self.seed = 0

    def people(self, side):
        return self.sides[side]


def people(images):
    pixels = np.round(255 * images).astype(np.uint8)
    return People(pixels, 255, np.zeros(len(pixels), np.int64), np.arange(len(pixels)))


def found(case):
    prepared = marks.prepare(case)
    return marks.judge(*(marks.attack(prepared, side) for side in ("members", "control")), case)


def marked(images, places):
    shown = images.copy()
    for place in places:
        shown[place] = written(images[place], "BR4075", 10, (2, 28))
    return shown


def test_text_that_no_control_image_has_is_an_alarm_and_the_image_is_named():
    images, members, control = (lungs(count, 64, seed) for seed, count in enumerate((20, 60, 60)))
    finding = found(Case(marked(images, [4, 11]), people(marked(members, [0])), people(control)))
    assert finding.outcome == "alarm"
    assert finding.figures["images"] == [5, 12]  # by the numbers of the report
    assert "look at image 5, 12" in finding.warnings[0]
    assert finding.figures["longest_row"]["control"] == 0
    assert finding.figures["members"]["value"] == pytest.approx(1 / 60, abs=1e-5)
    assert (finding.main.value, finding.control.value) == (0.1, 0.0)
    assert finding.excess.low <= 0.1 <= finding.excess.high


def test_text_that_the_source_has_everywhere_does_not_make_text_in_the_package_pass():
    images, members, control = (lungs(count, 64, seed) for seed, count in enumerate((20, 60, 60)))
    every = [people(marked(one, range(60))) for one in (members, control)]
    assert found(Case(marked(images, [4]), *every)).outcome == "inconclusive"
    assert found(Case(images, *every)).outcome == "pass"


def test_far_more_synthetic_than_control_images_with_rows_of_the_same_length_are_an_alarm():
    case = Case(lungs(20, 64), None, None)
    few, none = np.zeros(300, np.int64), np.zeros(20, np.int64)
    few[:15] = 3
    for hits, outcome in ((0, "pass"), (1, "inconclusive"), (10, "alarm")):
        rows = none.copy()
        rows[:hits] = 3
        assert marks.judge(Marked(rows, few), Marked(rows, few), case).outcome == outcome


def test_a_package_whose_images_are_too_small_for_text_passes_and_says_that_none_could_be_read():
    images, members, control = (lungs(count, 28, seed) for seed, count in enumerate((20, 60, 60)))
    finding = found(Case(images, people(members), people(control)))
    assert finding.outcome == "pass"
    assert finding.warnings == (marks.SMALL.format(side=28, share=25),)
    large = found(Case(*(resize_intensities(images, 112), people(lungs(20, 112)), people(lungs(20, 112)))))
    assert large.warnings == (marks.LIMIT.format(share=6.25),)


def test_images_that_are_stored_small_are_compared_with_real_images_of_that_size():
    members, control = lungs(20, 112), marked(lungs(20, 112), range(20))
    finding = found(Case(lungs(10, 28), people(members), people(control)))
    assert finding.figures["side"] == 28
    assert finding.control.value == 0  # letters of ten pixels are three pixels high


def test_noise_in_which_letters_are_lost_is_told():
    rng = np.random.default_rng(0)
    images = lungs(10, 64)
    images[:4] += rng.normal(0, 0.1, images[:4].shape).astype(np.float32)
    finding = found(Case(images, people(lungs(20, 64)), people(lungs(20, 64))))
    assert marks.NOISY.format(count=4) in finding.warnings


def test_each_patient_is_looked_at_once():
    images = np.concatenate([lungs(20, 64), marked(lungs(20, 64), range(20))])
    twice = replace(people(images), patient=np.tile(np.arange(20), 2))
    finding = found(Case(lungs(10, 64), twice, twice))
    assert finding.control.value == 0


def test_what_looks_like_three_characters_counts_in_large_images_alone():
    for side, text, row in ((28, "HAE", 0), (28, "HAEB", 4), (64, "HAE", 3)):
        image = np.full((1, side, side), 0.2, np.float32)
        assert longest_rows(written(image, text, 7, (0, 4))[None])[0] == row, (side, text)
