"""Where procmanctl looks for the daemon, and in which order."""

from __future__ import annotations

import pytest

from procman.cli import endpoint
from procman.errors import ConfigurationError


@pytest.fixture
def config(tmp_path):
    def write(text: str, name: str = "procman.toml") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def test_the_order(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(endpoint, "FILES", ("procman.toml", str(tmp_path / "etc.toml")))
    config('[procman]\ncontrol = "ipc:///etc"', "etc.toml")
    assert endpoint.find(None, None, {}) == "ipc:///etc"
    config('[procman]\ncontrol = "ipc:///here"')
    assert endpoint.find(None, None, {}) == "ipc:///here"
    environ = {"PROCMAN_CONFIG": config('[procman]\ncontrol = "ipc:///variable"', "variable.toml")}
    assert endpoint.find(None, None, environ) == "ipc:///variable"
    environ["PROCMAN_ENDPOINT"] = "ipc:///endpoint"
    assert endpoint.find(None, None, environ) == "ipc:///endpoint"
    option = config('[procman]\ncontrol = "ipc:///option"', "option.toml")
    assert endpoint.find(None, option, environ) == "ipc:///option"
    assert endpoint.find("ipc:///given", option, environ) == "ipc:///given"


def test_nothing_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(endpoint, "FILES", ("procman.toml",))
    with pytest.raises(ConfigurationError, match=r"give -c FILE or --endpoint EP \(there is no procman\.toml\)"):
        endpoint.find(None, None, {})


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("", "{dir}/var/control.sock"),
        ("[procman]\n", "{dir}/var/control.sock"),
        ('[procman]\nstate_dir = "run"', "{dir}/run/control.sock"),
        ('[procman]\nstate_dir = "/run/procman"', "/run/procman/control.sock"),
        ('[procman]\ncontrol = "ipc://var/c.sock"', "{dir}/var/c.sock"),
        ('[procman]\ncontrol = "ipc://./../c.sock"', "{parent}/c.sock"),
        ('[procman]\ncontrol = ["ipc:///a.sock", "ipc:///b.sock"]', "/a.sock"),
        ("[procman]\ncontrol = []", "{dir}/var/control.sock"),
        ('[procman]\nstate_dir = "${STATE:-/srv}"', "/srv/control.sock"),
    ],
)
def test_in_a_file(config, tmp_path, text, path):
    expected = path.format(dir=tmp_path, parent=tmp_path.parent)
    assert endpoint.in_file(config(text), {}) == f"ipc://{expected}"


def test_variables_of_the_environment(config):
    path = config('[procman]\nstate_dir = "${STATE}"')
    assert endpoint.in_file(path, {"STATE": "/somewhere"}) == "ipc:///somewhere/control.sock"


def test_the_rest_of_the_file_does_not_matter(config):
    text = '[procman]\nno_such_key = 1\n[database]\nurl = "${NOT_SET}"\n[pools.http]\nkind = 7\n'
    assert endpoint.in_file(config(text), {}).endswith("/var/control.sock")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("procman = 1", "procman: expected a table"),
        ("[procman]\ncontrol = 7", "procman.control: expected an endpoint"),
        ("[procman]\nstate_dir = 7", "procman.state_dir: expected a path"),
        ('[procman]\nstate_dir = "${NOT_SET}"', "procman.state_dir: "),
        ("[procman", "Expected ']'"),
        ("[procman]\nx = \udcff", "codec can't decode byte"),
    ],
)
def test_what_is_wrong_with_the_file(tmp_path, text, message):
    path = tmp_path / "procman.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigurationError) as caught:
        endpoint.in_file(str(path), {})
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigurationError, match="No such file or directory"):
        endpoint.find(None, str(tmp_path / "nothing.toml"), {})
