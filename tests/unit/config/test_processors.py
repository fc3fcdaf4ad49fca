"""Cores that may be used, under CPU quotas of control groups; the files are made up."""

from __future__ import annotations

import os

import pytest

from procman.config.processors import usable_cores
from procman.config.values import Given
from procman.config.words import Workers

V2 = "30 23 0:26 {root} {mount} rw,nosuid - cgroup2 cgroup2 rw\n"
V1 = (
    "31 23 0:27 {root} {mount} rw - cgroup cgroup rw,cpu,cpuacct\n"
    "32 23 0:28 / /elsewhere rw - cgroup cgroup rw,memory\n"
)


@pytest.fixture
def machine(tmp_path):
    """Makes a process's view of its groups; returns the cores it may use out of 8."""

    def cores(group, mounts, quotas, root="/"):
        proc = tmp_path / "proc"
        proc.mkdir()
        (proc / "cgroup").write_text(group)
        (proc / "mountinfo").write_text(mounts.format(root=root, mount=tmp_path / "cg"))
        for name, text in quotas.items():
            file = tmp_path / "cg" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return usable_cores(str(proc), affinity=8)

    return cores


def test_no_quota(machine):
    assert machine("0::/shop\n", V2, {"shop/cpu.max": "max 100000\n"}) == 8


@pytest.mark.parametrize(
    ("quota", "cores"), [("50000 100000", 1), ("150000 100000", 2), ("400000 100000", 4), ("9900000 100000", 8)]
)
def test_a_quota_of_version_2(machine, quota, cores):
    assert machine("0::/shop\n", V2, {"shop/cpu.max": f"{quota}\n"}) == cores


def test_the_smallest_quota_on_the_way_up_counts(machine):
    quotas = {"a/b/c/cpu.max": "max 100000\n", "a/b/cpu.max": "700000 100000\n", "a/cpu.max": "300000 100000\n"}
    assert machine("0::/a/b/c\n", V2, quotas) == 3


def test_a_container_with_a_cgroup_namespace(machine):
    assert machine("0::/\n", V2, {"cpu.max": "200000 100000\n"}) == 2


def test_a_container_that_sees_its_group_by_the_path_of_the_host(machine):
    quotas = {"cpu.cfs_quota_us": "250000\n", "cpu.cfs_period_us": "100000\n"}
    assert machine("3:cpu,cpuacct:/docker/abc\n0::/\n", V1, quotas, root="/docker/abc") == 3


@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("100000", 2)])
def test_a_quota_of_version_1(machine, quota, cores):
    quotas = {"shop/cpu.cfs_quota_us": f"{quota}\n", "shop/cpu.cfs_period_us": "50000\n"}
    assert machine("3:cpuacct,cpu:/shop\n", V1, quotas) == cores


def test_no_proc_at_all(tmp_path):
    assert usable_cores(str(tmp_path), affinity=3) == 3


def test_this_machine():
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))


def test_auto_is_two_per_core_and_one():
    assert Workers().read(Given("auto", ("workers",), "/")) == 2 * usable_cores() + 1
