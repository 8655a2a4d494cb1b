"""Members who cannot be those that a package was made from are found out by the counts on its card."""

import pytest

from meddistill.audit.origin import Told, origin_of

CLASSES = ("normal", "pneumonia")
COUNTS = {"train": {"normal": 247, "pneumonia": 753}, "test": {"normal": 60}}


@pytest.mark.parametrize(
    ("found", "merged", "checked", "said"),
    [
        ((247, 753), False, "agree", ""),
        ((240, 743), False, "agree", ""),
        ((206, 594), False, "differ", "(594 of pneumonia for 753, 206 of normal for 247)"),
        ((753, 247), False, "differ", "the members have 1000 images, and the card tells of 1000"),
        ((307, 753), False, "differ", "give the training images (SOURCE:train)"),
        ((206, 594), True, "part", "whether the 800 of the members are among them was not checked"),
        ((306, 494), True, "differ", "306 of normal for 247"),
        ((247, 753), True, "agree", ""),
    ],
)
def test_counts_that_differ_are_told(found, merged, checked, said):
    origin = origin_of(found, CLASSES, Told(COUNTS, merged))
    assert origin.checked == checked and said in origin.said
    assert bool(origin.said) == (checked != "agree")


def test_what_is_not_told_is_not_checked_and_that_is_said():
    origin = origin_of((1, 2), CLASSES, Told(why="the card withholds its counts"))
    assert origin.checked == "no" and origin.said.startswith("the card withholds its counts: ")
