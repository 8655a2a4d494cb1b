"""Every limit of the format, as a number. ``FORMAT.md`` quotes this file and a test compares the two."""

FORMAT_VERSION = 1

MIB = 2**20

MAX_MEMBERS = 16
MAX_NAME = 32  # characters of a member's name
MAX_CARD_BYTES = 1 * MIB
MAX_TENSORS_BYTES = 129 * MIB
MAX_README_BYTES = 256 * 2**10
MAX_CROISSANT_BYTES = 1 * MIB
MAX_PREVIEW_BYTES = 8 * MIB
MAX_AUDIT_BYTES = 256 * 2**10
MAX_SIGNATURE_BYTES = 16 * 2**10
MAX_FILE_BYTES = 140 * MIB
MAX_RATIO = 32  # times that a deflated member may grow when it is unpacked

MAX_JSON_DEPTH = 8  # brackets inside brackets
MAX_JSON_NUMBER = 32  # characters of one number
MAX_INTEGER = 2**53 - 1

MAX_TENSOR_HEADER_BYTES = 4096
MAX_IMAGES = 65_536
MAX_SIZE = 1024  # pixels of one side
MAX_PIXELS = 2**27  # values in all images together
MAX_STEP_SIZES = 4096
MIN_STEP_SIZE = 1e-12
MAX_STEP_SIZE = 1e6
MAX_INTENSITY = 8.0  # of an image, both ways; 0 is black, 1 is white
MIN_STD = 1e-6  # of a normalisation; its mean and deviation are no larger than an intensity
MAX_TOP = 9.0  # of offset + largest number * scale
INTENSITY_UNIT = 2.0**-19  # scale and offset are whole multiples of it, so float32 arithmetic on them is exact
MIN_SCALE = 2.0**-10
LABEL_SUM_TOLERANCE = 1e-4

MAX_CLASSES = 1000
MAX_CLASS_NAME = 100
MAX_SHORT = 100  # method, network, software, protocol, intensity, plan entries
MAX_TEXT = 4000  # each of the four terms, and each text under privacy
MAX_PLAN_ENTRIES = 128
MAX_SEEDS = 1000
MAX_SCORE_SPAN = 6.0  # an interval may reach this far outside 0..1, no further: Student's t of two seeds does
SCORE_TOLERANCE = 1e-3  # between a stated mean and the mean of its seeds
MIN_EPSILON = 1e-6
MAX_EPSILON = 1e6
MAX_LOOKS = 64  # of a history of noised looks at patients, and things outside of it

MAX_PREVIEW_SIDE = 8192
MAX_PREVIEW_PIXELS = 2**24

MAX_PROBLEMS = 100  # listed of one file


def limits_problems(count: int, channels: int, size: int, classes: int) -> list[str]:
    """Why ``count`` images of ``channels`` and ``size`` pixels a side for ``classes`` do not fit into a package.

    Call it before hours of work. Empty if they fit.
    """
    checks = (
        (count <= MAX_IMAGES, f"{count} images; a package holds at most {MAX_IMAGES}: ask for fewer a class"),
        (
            size <= MAX_SIZE,
            f"images of {size} pixels a side; a package holds at most {MAX_SIZE}: choose a smaller size",
        ),
        (classes <= MAX_CLASSES, f"{classes} classes; a package holds at most {MAX_CLASSES}: join some"),
        (channels in (1, 3), f"{channels} channels; a package holds images of 1 or 3"),
        (
            count * channels * size**2 <= MAX_PIXELS,
            f"{count * channels * size**2} pixel values in all; a package holds at most {MAX_PIXELS}: "
            "ask for fewer images a class, a smaller size or, in a plan, a lower formation",
        ),
        (
            _tensor_bytes(count, channels, size, classes) <= MAX_TENSORS_BYTES,
            f"images and labels take {_tensor_bytes(count, channels, size, classes)} bytes; a package holds at most "
            f"{MAX_TENSORS_BYTES}: ask for fewer images a class",
        ),
    )
    return [problem for fits, problem in checks if not fits]


def _tensor_bytes(count: int, channels: int, size: int, classes: int) -> int:
    """Images at a byte a value, labels and the most that the rest may take."""
    rest = 8 + MAX_TENSOR_HEADER_BYTES + 4 * (2 * channels + MAX_STEP_SIZES)
    return count * (channels * size**2 + 4 * classes) + rest
