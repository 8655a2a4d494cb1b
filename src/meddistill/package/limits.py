"""Every limit of the format, as a number. ``FORMAT.md`` quotes this file and a test compares the two."""

FORMAT_VERSION = 1

MIB = 2**20

MAX_MEMBERS = 16
MAX_NAME = 32  # characters of a member's name
MAX_CARD_BYTES = 1 * MIB
MAX_TENSORS_BYTES = 129 * MIB
MAX_README_BYTES = 256 * 2**10
MAX_PREVIEW_BYTES = 8 * MIB
MAX_FILE_BYTES = 140 * MIB
MAX_DEFLATED_BYTES = 2**15  # of a text that is deflated; a longer one is stored

MAX_JSON_DEPTH = 8  # brackets inside brackets
MAX_JSON_NUMBER = 32  # characters of one number
MAX_INTEGER = 2**53 - 1

MAX_TENSOR_HEADER_BYTES = 4096
MAX_IMAGES = 65_536
MAX_SIZE = 1024  # pixels of one side
MAX_PIXELS = 2**27  # values in all images together
MAX_STEP_SIZES = 4096
MAX_STEP_SIZE = 1e6
MAX_INTENSITY = 8.0  # of an image, both ways; 0 is black, 1 is white
MAX_TOP = 9.0  # of offset + 255 * scale
INTENSITY_UNIT = 2.0**-19  # scale and offset are whole multiples of it, so float32 arithmetic on them is exact
MIN_SCALE = 2.0**-10
LABEL_SUM_TOLERANCE = 1e-4

MAX_CLASSES = 1000
MAX_CLASS_NAME = 100
MAX_SHORT = 100  # method, network, software, protocol, intensity, plan entries
MAX_TEXT = 4000  # each of the three terms
MAX_PLAN_ENTRIES = 128
MAX_SEEDS = 1000
MAX_SCORE_SPAN = 6.0  # an interval may reach this far outside 0..1, no further: Student's t of two seeds does
SCORE_TOLERANCE = 1e-3  # between a stated mean and the mean of its seeds

MAX_PREVIEW_SIDE = 8192
MAX_PREVIEW_PIXELS = 2**24

MAX_PROBLEMS = 100  # listed of one file
