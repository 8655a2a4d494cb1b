"""Are classes told apart by a side, left or right? Mirrored images show no such thing, and are half of a training."""

import re
import unicodedata
from collections.abc import Sequence
from itertools import combinations

from meddistill.cohort.problems import Problem, problem
from meddistill.pipeline.plan import Plan

# Left and right as languages have them, and as they are written of eyes (OS, OD), of knees (L, R) and of a situs.
_PAIRS = """
left right, l r, lt rt, lhs rhs, links rechts, linke rechte, linker rechter, linkes rechtes, gauche droite,
gauche droit, izquierda derecha, izquierdo derecho, esquerda direita, esquerdo direito, sinistra destra,
sinistro destro, sx dx, os od, sinister dexter, sinistra dextra, sinistrum dextrum, sin dex, sin dx, levo dextro,
laevo dextro, levocardia dextrocardia, laevocardia dextrocardia, solitus inversus, venstre højre, venstre høyre,
vänster höger, vasen oikea, lewy prawy, lewa prawa, lewe prawe, levý pravý, levá pravá, bal jobb, sol sağ,
левый правый, левая правая, 左 右
"""
_OPPOSITE = frozenset(frozenset(pair.split()) for pair in _PAIRS.split(","))
_SIDES = frozenset().union(*_OPPOSITE)
_WORD = re.compile(r"[左右]|[^\W\d_左右]+|\d+|[^\w\s-]")
_HUMP = re.compile(r"(?<=[a-zà-ÿ])(?=[A-ZÀ-Þ])")  # kneeLeft
_SUFFIX = re.compile("(sided|seitig)$")


def mirrored_sides(plan: Plan, classes: Sequence[str]) -> tuple[Problem, ...]:
    """A warning where the plan mirrors images of classes that are named after the two sides."""
    remedy = (
        "If nothing else tells them apart, they cannot be learned so: give --no-flip (in a plan: flip = false), which "
        "every training from the package obeys as well."
    )
    return _warned(plan.flip, classes, remedy)


def received_sides(flip: bool, classes: Sequence[str]) -> tuple[Problem, ...]:
    """The same for whoever has packages whose images were, and are, mirrored: only the sender can mend that."""
    remedy = (
        "If nothing else tells them apart, the package does not teach them: ask its sender for one that was distilled "
        "with --no-flip."
    )
    return _warned(flip, classes, remedy)


def _warned(flip: bool, classes: Sequence[str], remedy: str) -> tuple[Problem, ...]:
    """``classes`` may be a stranger's: a thousand names make half a million pairs, so each is taken apart once."""
    taken_apart = {name: _words(name) for name in classes} if flip else {}
    sided = [(name, words) for name, words in taken_apart.items() if not _SIDES.isdisjoint(words)]
    named = [f"{one} and {other}" for (one, first), (other, second) in combinations(sided, 2) if _differ(first, second)]
    if not named:
        return ()
    what = "half of the images are mirrored in training, and by their names classes differ in the side"
    return (problem("mirrored-sides", "warning", what, named, remedy),)


def differ_by_side(one: str, other: str) -> bool:
    """Whether two names are the same but for left and right."""
    return _differ(_words(one), _words(other))


def _differ(first: Sequence[str], second: Sequence[str]) -> bool:
    if len(first) != len(second) or first == second:
        return False
    return all(one == other or frozenset((one, other)) in _OPPOSITE for one, other in zip(first, second, strict=True))


def _words(name: str) -> list[str]:
    split = _HUMP.sub(" ", unicodedata.normalize("NFC", name)).casefold()
    return [_SUFFIX.sub("", word) for word in _WORD.findall(split)]
