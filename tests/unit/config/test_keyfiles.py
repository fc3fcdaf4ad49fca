"""Files of keys: made for their owner alone, and refused when anybody else could have read them."""

from __future__ import annotations

import os
import stat

import pytest

from procman.config import keyfiles
from procman.config.keyfiles import Keys
from procman.errors import ConfigurationError

# The pair of the example in zmq_curve(7).
PUBLIC, SECRET = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID", "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs"
SERVER = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "some.keys")


@pytest.mark.parametrize("server", [None, SERVER])
def test_what_is_written_reads_back_and_is_nobody_elses(path, server):
    before = os.umask(0)
    try:
        keyfiles.write(path, Keys(public=PUBLIC, secret=SECRET, server=server))
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert keyfiles.read(path) == Keys(public=PUBLIC, secret=SECRET, server=server)


def test_new_keys_are_never_the_same_and_never_look_like_variables():
    made = [keyfiles.generate() for _ in range(200)]
    assert len({keys.public for keys in made}) == 200
    assert all(keyfiles.is_key(keys.public) and keyfiles.is_key(keys.secret) for keys in made)
    assert not any("${" in keys.public for keys in made)


def test_a_secret_is_not_shown_by_accident():
    assert SECRET not in repr(Keys(public=PUBLIC, secret=SECRET))


def test_nothing_is_written_over(path):
    keyfiles.write(path, keyfiles.generate())
    with pytest.raises(ConfigurationError, match="File exists"):
        keyfiles.write(path, keyfiles.generate())
    os.symlink("elsewhere", f"{path}.link")
    with pytest.raises(ConfigurationError):
        keyfiles.write(f"{path}.link", keyfiles.generate())
    assert not os.path.exists(os.path.join(os.path.dirname(path), "elsewhere"))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o660])
def test_a_file_that_others_may_use_is_refused(path, mode):
    keyfiles.write(path, keyfiles.generate())
    os.chmod(path, mode)
    with pytest.raises(ConfigurationError, match=f"its mode is {mode:04o}; expected 0600"):
        keyfiles.read(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_somebody_else_is_refused(path):
    keyfiles.write(path, keyfiles.generate())
    os.chown(path, 65534, 65534)
    with pytest.raises(ConfigurationError, match="belongs to somebody else"):
        keyfiles.read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "public_key is not a key"),
        (f'public_key = "{PUBLIC}"', "secret_key is not a key"),
        (f'public_key = "{PUBLIC}"\nsecret_key = "{SECRET[:-1]}"', "secret_key is not a key"),
        (f'public_key = "{PUBLIC}"\nsecret_key = 7', "secret_key is not a key"),
        (f'public_key = "{SERVER}"\nsecret_key = "{SECRET}"', "public_key does not belong to secret_key"),
        (f'public_key = "{PUBLIC}"\nsecret_key = "{SECRET}"\nserver_key = "x"', "server_key is not a key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "is not a file of keys"),
        ("schlüssel", "is not a file of keys"),
    ],
)
def test_what_is_no_file_of_keys_is_refused_without_showing_it(path, text, message):
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, 0o600)
    with pytest.raises(ConfigurationError, match=message) as caught:
        keyfiles.read(path)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("text", ["", "x" * 39, "x" * 41, "#" * 40, " " * 40, "é" * 40])
def test_what_is_no_key(text):
    assert not keyfiles.is_key(text)


def test_no_file_no_keys(path, tmp_path):
    with pytest.raises(ConfigurationError, match="No such file"):
        keyfiles.read(path)
    with pytest.raises(ConfigurationError, match="Is a directory"):
        keyfiles.read(str(tmp_path))
