"""Validate the ``croissant.json`` of packages with MLCommons' own mlcroissant (248 MB, hence not in the tests).

    pip install -c constraints.txt -e '.[croissant]' && python .ci/check_croissant.py [FILE.mdz …]

Without files it makes one. Fails on errors of the validator; what it only recommends is printed.
"""

import importlib.util
import sys
import tempfile
import zipfile
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Validate every file, and read the class names back."""
    import mlcroissant

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [Path(word) for word in sys.argv[1:]] or [example(folder / "example.mdz")]
        for place, file in enumerate(files):
            unpacked = folder / str(place)
            with zipfile.ZipFile(file) as package:
                package.extractall(unpacked)
            dataset = mlcroissant.Dataset(unpacked / "croissant.json")  # raises for errors
            assert dataset.metadata is not None
            found = list(dataset.records("classes"))
            assert found, "no classes"
            print(
                f"{file.name}: valid, {len(found)} classes; recommended: {len(dataset.metadata.issues.warnings)} fields"
            )


def example(path: Path) -> Path:
    """The small signed package that the fuzzer starts from."""
    from meddistill.package import container

    path.write_bytes(container.pack(fuzz().sound()))
    return path


def fuzz() -> ModuleType:
    """The module in ``fuzz/``."""
    spec = importlib.util.spec_from_file_location("read_package", ROOT / "fuzz" / "read_package.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
