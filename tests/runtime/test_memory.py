"""Memory that may still be taken is that of the machine, or what is left of the tightest limit around this process."""

import sys

import pytest

from meddistill.runtime.memory import available

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems are not asked")
MACHINE = 64 << 30


def written(folder, groups, told):
    """A system of 64 GiB whose control groups have these files; ``told``: the groups that the process is in."""
    files = {"proc/meminfo": f"MemTotal: 1 kB\nMemAvailable: {MACHINE >> 10} kB\n", "proc/self/cgroup": told}
    for name, text in (files | groups).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def new(folder, limit, current, cached=0):
    stat = f"anon 5\ninactive_file {cached}\nactive_file 7\n"
    names = zip(("max", "current", "stat"), (f"{limit}\n", f"{current}\n", stat), strict=True)
    return {f"sys/fs/cgroup{folder}/memory.{name}": text for name, text in names}


def old(folder, limit, current, cached=0):
    stat = f"inactive_file 1\ntotal_inactive_file {cached}\n"
    names = zip(("limit_in_bytes", "usage_in_bytes", "stat"), (f"{limit}\n", f"{current}\n", stat), strict=True)
    return {f"sys/fs/cgroup/memory{folder}/memory.{name}": text for name, text in names}


def test_this_machine_has_some():
    assert available() > 0


@pytest.mark.parametrize(
    ("groups", "told", "expected"),
    [
        ({}, "0::/\n", MACHINE),
        (new("", 1000, 300), "0::/\n", 700),  # a container
        (new("", 1000, 300, cached=200), "0::/\n", 900),
        (new("", 1000, 300), "0::/docker/its-name-outside\n", 700),
        (new("/slurm/job", "max", 5), "0::/slurm/job\n", MACHINE),
        (new("/slurm/job", 800, 500) | new("/slurm", 2000, 1900), "0::/slurm/job\n", 100),  # the tightest of all
        (new("/other", 10, 5), "0::/slurm/job\n", MACHINE),
        (new("", 1000, 1500), "0::/\n", 0),
        (old("/job", 5000, 1000, cached=500), "4:memory:/job\n3:cpu:/elsewhere\n0::/\n", 4500),
        (old("", 5000, 1000), "4:memory:/docker/its-name-outside\n", 4000),
        (old("", 2**63 - 4096, 1000), "4:memory:/\n", MACHINE),  # how version 1 says that there is none
    ],
)
def test_a_limit_around_the_process_counts(tmp_path, groups, told, expected):
    assert available(written(tmp_path, groups, told)) == expected


def test_without_control_groups_the_machine_counts(tmp_path):
    (written(tmp_path, {}, "") / "proc/self/cgroup").unlink()
    assert available(tmp_path) == MACHINE
