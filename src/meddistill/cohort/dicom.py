"""DICOM files as pictures, through pydicom and its decoders (the extra ``dicom``).

Grey values go the way that the standard describes (PS3.3 C.11, PS3.4 N.2): stored value, modality look-up or rescale,
VOI look-up or window, then MONOCHROME1 is turned round, so that 0 is black and 1 is white. Of the header only what
groups pictures (patient, else study) is used, and it stays in memory: a cohort has no place for it.
"""

import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from meddistill.cohort.decode import MAX_BYTES, MAX_PIXELS, grey_if_equal
from meddistill.cohort.options import ReadOptions
from meddistill.cohort.types import Frame, NoPictureError, Picture
from meddistill.runtime.errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset

MAX_FRAMES = 10_000
MAX_INFLATED = 64 << 20  # bytes of a file of the deflated transfer syntax
# Columns of a CSV whose cells are found in headers.
KEYS = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID")
_DEFLATED = "1.2.840.10008.1.2.1.99"
_META_GROUP = 0x0002
_MAGIC_AT, _MAGIC = 128, b"DICM"
_BITS_OF_A_BYTE = 8
Values = npt.NDArray[np.float64]


def is_dicom(path: Path) -> bool:
    """Whether the file begins as DICOM files do."""
    try:
        with open(path, "rb") as file:
            file.seek(_MAGIC_AT)
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def dicom_frames(path: Path, options: ReadOptions) -> tuple[Frame, ...]:
    """The frames. Raises ``OSError``, ``ValueError`` (:class:`NoPictureError`), :class:`InputError` without pydicom."""
    header = read_header(path)
    if "Rows" not in header or "PhotometricInterpretation" not in header:
        raise NoPictureError("a DICOM file without pixels (a report, a directory, a plan)")
    with _explained():
        rows, columns, count = _whole(header, "Rows"), _whole(header, "Columns"), _frame_count(header)
        patient, no_window = _patient(header, path), _lacks_window(header)
        stands_in = _text(header, "PatientID") is None
        burned_in = str(header.get("BurnedInAnnotation", "")).strip().upper() == "YES"
        _require_low_bits(header)
    if rows * columns > MAX_PIXELS or not 1 <= count <= MAX_FRAMES:
        raise ValueError(f"{count} frames of {columns} × {rows} pixels: more than are read")
    return tuple(
        Frame(
            f" (frame {index + 1})" if count > 1 else "",
            partial(_load, path, index, options.window),
            partial(_size, columns, rows),
            patient,
            burned_in,
            no_window,
            stands_in,
        )
        for index in range(count)
    )


def keys_of(path: Path, keyword: str) -> str | None:
    """The header's value of one of ``KEYS``, or ``None`` where there is none or no readable header."""
    try:
        header = read_header(path)
        with _explained():
            return _text(header, keyword)
    except (OSError, ValueError):
        return None


def read_header(path: Path) -> "Dataset":
    """All but the pixels. Raises ``OSError`` or ``ValueError`` with the reason, :class:`InputError` without pydicom."""
    try:
        from pydicom import dcmread
        from pydicom.errors import InvalidDicomError
    except ImportError:
        raise InputError(f"{path} is DICOM: reading it needs pydicom: pip install 'meddistill[dicom]'") from None
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"the file is larger than {MAX_BYTES >> 20} MiB")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _require_small(path)
            return dcmread(path, stop_before_pixels=True)
    except OSError:
        raise
    except InvalidDicomError as error:
        raise ValueError(
            "no DICOM file, whatever its name says, or one without the preamble and the letters DICM that such files "
            "begin with: export it once more, as a DICOM file (PS3.10)"
        ) from error
    except Exception as error:  # whatever a broken file makes pydicom raise
        raise ValueError(_reason(error)) from error


def _require_small(path: Path) -> None:
    """A deflated file is inflated as a whole, even for its header: refuse one that would fill the memory."""
    from pydicom.filereader import read_dataset, read_file_meta_info, read_preamble

    if read_file_meta_info(path).get("TransferSyntaxUID") != _DEFLATED:
        return
    with open(path, "rb") as file:
        read_preamble(file, force=False)
        meta = read_dataset(file, is_implicit_VR=False, is_little_endian=True, stop_when=_behind_meta)
        packed = file.read()
    if meta.get("TransferSyntaxUID") != _DEFLATED:  # or what is inflated here is not what pydicom will inflate
        raise ValueError("its file meta information is not written as the standard has it")
    if len(zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, MAX_INFLATED + 1)) > MAX_INFLATED:
        raise ValueError(f"more than {MAX_INFLATED >> 20} MiB once inflated; save it without the deflated syntax")


def _behind_meta(tag: int, _vr: str | None, _length: int) -> bool:
    return tag >> 16 != _META_GROUP


@contextmanager
def _explained() -> Iterator[None]:
    """``ValueError`` with the reason, whatever a broken file makes pydicom and its decoders raise; no warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(_reason(error)) from error


def _size(width: int, height: int) -> tuple[int, int]:
    return width, height


def _whole(header: "Dataset", keyword: str) -> int:
    value = header.get(keyword)
    try:
        return int(value)
    except (TypeError, ValueError):
        found = "nothing" if value is None else repr(str(value)[:40])
        raise ValueError(f"its header has {found} as {keyword}, expected one whole number") from None


def _frame_count(header: "Dataset") -> int:
    text = str(header.get("NumberOfFrames") or 1)
    if not text.isdecimal():
        raise ValueError(f"the number of frames is {text[:20]!r}")
    return int(text)


def _patient(header: "Dataset", path: Path) -> str:
    """Pictures of one patient must not part; without an id those of one study, at least those of one file."""
    return _text(header, "PatientID") or _text(header, "StudyInstanceUID") or str(path)


def _text(header: "Dataset", keyword: str) -> str | None:
    return str(header.get(keyword) or "").strip() or None


def _require_low_bits(header: "Dataset") -> None:
    """PS3.5 8.1.1: pixel values take the lowest bits. Files from before that rule may have them elsewhere."""
    if header.get("HighBit") is None or header.get("BitsStored") is None:
        return
    high, bits = _whole(header, "HighBit"), _whole(header, "BitsStored")
    if high != bits - 1:
        raise ValueError(
            f"its HighBit is {high}, and {bits - 1} alone is read with {bits} BitsStored: convert it so that pixel "
            "values take the lowest bits"
        )


def _lacks_window(header: "Dataset") -> bool:
    if not str(header.PhotometricInterpretation).startswith("MONOCHROME"):
        return False
    deep = header.get("BitsStored") is not None and _whole(header, "BitsStored") > _BITS_OF_A_BYTE
    return deep and _voi(header, 0) is None and not header.get("VOILUTSequence")


def _load(path: Path, index: int, window: tuple[float, float] | None) -> Picture:
    """One frame. Raises ``ValueError`` with the reason."""
    header = read_header(path)
    with _explained():
        return _picture(path, header, index, window)


def _reason(error: Exception) -> str:
    return f"broken, cut short, or coded in a way that is not read: {str(error).strip() or type(error).__name__}"[:300]


def _picture(path: Path, header: "Dataset", index: int, window: tuple[float, float] | None) -> Picture:
    from pydicom import dcmread
    from pydicom.pixels import pixel_array

    # From a path only the frame itself is read, which does not work where the whole file is deflated.
    deflated = header.file_meta.get("TransferSyntaxUID") == _DEFLATED
    stored = pixel_array(dcmread(path) if deflated else path, index=index)  # colour comes as RGB, however it is stored
    kind = str(header.PhotometricInterpretation)
    if kind == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        return _colour(apply_color_lut(stored, header))
    if stored.ndim == 3:
        return _colour(stored, int(header.BitsStored))
    shown = _shown(stored, header, index, window)
    if kind == "MONOCHROME1":
        shown = 1 - shown
    shown[_padding(stored, header)] = 0
    deep = int(header.BitsStored) > _BITS_OF_A_BYTE
    pixels = np.rint(shown * (65535 if deep else 255)).astype(np.uint16 if deep else np.uint8)
    return Picture(pixels, f"grey {16 if deep else 8}-bit")


def _colour(pixels: npt.NDArray[Any], stored: int | None = None) -> Picture:
    """Colour at 8 bits, as colour of any source is."""
    bits = stored or pixels.dtype.itemsize * 8
    if bits > 2 * _BITS_OF_A_BYTE:
        raise ValueError(f"colour of {bits} bits a channel: 8 or 16 are read")
    reduced = pixels if bits <= _BITS_OF_A_BYTE else pixels >> (bits - _BITS_OF_A_BYTE)
    told = "" if bits <= _BITS_OF_A_BYTE else f" (stored with {bits})"
    return Picture(grey_if_equal(reduced.astype(np.uint8)), f"colour 8-bit{told}")


@dataclass(frozen=True)
class _Window:
    """Centre and width in values after the modality step, and the function between them."""

    centre: float
    width: float
    function: str


def _shown(stored: npt.NDArray[Any], header: "Dataset", index: int, window: tuple[float, float] | None) -> Values:
    """What a screen would show, from 0 to 1: the window asked for, else the file's look-up or window, else all."""
    values, low, high = _measured(stored, header, index)
    if window is None and header.get("VOILUTSequence"):  # present and empty is as good as absent
        return _looked_up(values, header.VOILUTSequence[0], little=header.original_encoding[1])
    chosen = _Window(*window, "LINEAR") if window is not None else _voi(header, index)
    if chosen is None:
        return np.clip((values - low) / (high - low), 0, 1)
    return _windowed(values, chosen)


def _looked_up(values: Values, item: "Dataset", *, little: bool) -> Values:
    """PS3.3 C.11.2.1.1: values below the first mapped one get the first entry, those above the last one the last."""
    count, first, bits = (int(number) for number in item.LUTDescriptor)
    data = item.LUTData
    if isinstance(data, bytes):
        wide = len(data) >= 2 * (count or 65536)
        data = np.frombuffer(data, ("<u2" if little else ">u2") if wide else np.uint8)
    entries = np.asarray(data, np.float64)
    places = np.clip(np.rint(values).astype(np.int64) - first, 0, len(entries) - 1)
    return np.clip(entries[places] / (2.0**bits - 1), 0, 1)


def _windowed(values: Values, window: _Window) -> Values:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3, with an output from 0 to 1."""
    centre, width = window.centre, window.width
    if window.function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700))))
    if window.function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if width <= 0:
        return (values > centre).astype(np.float64)
    return np.clip((values - centre) / width + 0.5, 0, 1)


def _measured(stored: npt.NDArray[Any], header: "Dataset", index: int) -> tuple[Values, float, float]:
    """Values after the modality step, and the lowest and highest that the file could hold."""
    if header.get("ModalityLUTSequence"):
        from pydicom.pixels import apply_modality_lut

        bits = int(header.ModalityLUTSequence[0].LUTDescriptor[2])
        return np.asarray(apply_modality_lut(stored, header), np.float64), 0.0, 2.0**bits - 1
    bits, signed = int(header.BitsStored), bool(header.get("PixelRepresentation", 0))
    slope = _number(header, index, "PixelValueTransformationSequence", "RescaleSlope")
    intercept = _number(header, index, "PixelValueTransformationSequence", "RescaleIntercept") or 0.0
    scale = slope or 1.0
    bounds = np.array([-(2.0 ** (bits - 1)) if signed else 0.0, 2.0 ** (bits - signed) - 1]) * scale + intercept
    return stored.astype(np.float64) * scale + intercept, float(bounds.min()), float(bounds.max())


def _voi(header: "Dataset", index: int) -> _Window | None:
    """The first window of the frame, if it is a possible one."""
    centre = _number(header, index, "FrameVOILUTSequence", "WindowCenter")
    width = _number(header, index, "FrameVOILUTSequence", "WindowWidth")
    function = str(_of_frame(header, index, "FrameVOILUTSequence", "VOILUTFunction") or "LINEAR").strip().upper()
    if centre is None or width is None or width < (1 if function == "LINEAR" else 1e-9):
        return None
    return _Window(centre, width, function)


def _number(header: "Dataset", index: int, sequence: str, keyword: str) -> float | None:
    value = _of_frame(header, index, sequence, keyword)
    first = value[0] if isinstance(value, (list, tuple)) or hasattr(value, "append") else value
    try:
        return None if first is None or str(first) == "" else float(first)
    except (TypeError, ValueError):
        return None


def _of_frame(header: "Dataset", index: int, sequence: str, keyword: str) -> Any:
    """An attribute of the image, or in an enhanced file of the frame or of all frames."""
    if keyword in header:
        return header.get(keyword)
    groups = [list(header.get("PerFrameFunctionalGroupsSequence") or [])[index : index + 1]]
    groups += [list(header.get("SharedFunctionalGroupsSequence") or [])[:1]]
    for group in (item for found in groups for item in found):
        for item in group.get(sequence) or []:
            if keyword in item:
                return item.get(keyword)
    return None


def _padding(stored: npt.NDArray[Any], header: "Dataset") -> npt.NDArray[np.bool_]:
    """Pixels outside of the picture proper: they become black, whatever value stands for them."""
    first = _stored_value(header, "PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, bool)
    last = _stored_value(header, "PixelPaddingRangeLimit")
    low, high = sorted((first, first if last is None else last))
    return np.asarray((stored >= low) & (stored <= high))


def _stored_value(header: "Dataset", keyword: str) -> int | None:
    """A value as pixels have it: some writers put a negative one down as the unsigned number of the same bits."""
    value, span = header.get(keyword), 1 << int(header.BitsAllocated)
    if not isinstance(value, int):
        return None
    return value - span if header.get("PixelRepresentation", 0) == 1 and value >= span // 2 else value
