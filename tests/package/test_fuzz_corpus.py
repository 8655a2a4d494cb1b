"""What the fuzzer kept is read without an exception, quickly, in little memory; and its seeds are sound."""

import importlib.util
import time
import tracemalloc
from pathlib import Path
from types import ModuleType

import pytest

FUZZ = Path(__file__).parents[2] / "fuzz"


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    spec = importlib.util.spec_from_file_location("read_package", FUZZ / "read_package.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_corpus(fuzz: ModuleType) -> None:
    files = sorted(path for path in (FUZZ / "corpus").iterdir())
    assert len(files) >= 80
    for path in files:
        data = path.read_bytes()
        start = time.perf_counter()
        fuzz.examine(data)
        assert time.perf_counter() - start < 1, path.name
        tracemalloc.start()
        fuzz.examine(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 32 * 2**20, path.name


def test_the_seeds_are_sound(fuzz: ModuleType) -> None:
    """Otherwise the fuzzer would never come past the first door."""
    for name, data in fuzz.seeds().items():
        door = data[0]
        if door == 0:
            assert fuzz._examine(fuzz.package_file(data))[0].ok, name
        elif door > 7 and fuzz.NAMES[door - 8] != "croissant.json":  # whose digests are those of a whole package
            assert not fuzz.member_problems(fuzz.NAMES[door - 8], data[1:]), name
