"""How N steps are cut into stretches, so that few states need be kept at once and no step is taken more than twice.

A stretch of L steps needs L states while the way back is in it, and every stretch before it keeps the state that it
begins with. The first begins with the start, which is there anyway. With room for c states the first stretch may thus
be c steps long, the next c − 1, and so on: J stretches hold J c − J (J − 1)/2 steps, and √(2N) states always suffice.
The last stretch is taken once, as it is still there when the way back begins; so the fewer stretches, the better.
"""


def stretches(steps: int, at_once: int, each: int = 1) -> list[tuple[int, int]]:
    """Where stretches begin and end, in order, for room for ``at_once`` states or for the least number that suffices.

    ``each``: what a beginning takes, in states: 2 where a momentum's buffer is kept beside it.
    """
    room = max(1, at_once)
    while sum(lengths := _lengths(steps, room, each)) < steps:
        room += 1
    parts, end = list[tuple[int, int]](), steps
    for length in reversed(lengths):
        parts.insert(0, (max(0, end - length), end))
        end -= length
    return parts


def taken_twice(parts: list[tuple[int, int]]) -> int:
    """How many steps are: in all stretches but the last, those that do not lead to the next one's beginning."""
    return sum(end - begin - 1 for begin, end in parts[:-1])


def untraced(parts: list[tuple[int, int]], traces: int) -> int:
    """How many steps leave no trace where there is room for so many at once, which the last steps of a stretch take.

    In all stretches but the last, the last step is not taken again. It leaves none, and has one's room.
    """
    again = [0 if place == len(parts) - 1 else 1 for place in range(len(parts))]
    left = (min(traces, end - begin) - one for (begin, end), one in zip(parts, again, strict=True))
    return sum(end - begin for begin, end in parts) - sum(max(0, one) for one in left)


def _lengths(steps: int, room: int, each: int) -> list[int]:
    """How long stretches may be, until they are long enough together or there is no room for another."""
    lengths = list[int]()
    while sum(lengths) < steps and (length := room - each * len(lengths)) > 0:
        lengths.append(length)
    return lengths
