"""``${NAME}`` in strings, and files of variables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procman.config.environment import UNKNOWN, Expanded, escape, expand, expand_document, read_env_file
from procman.config.problems import Code

ENVIRON = {"HOME": "/home/shop", "EMPTY": "", "BRACE": "a}b"}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("plain $HOME {x} $", "plain $HOME {x} $"),
        ("${HOME}", "/home/shop"),
        ("${HOME}/log/${HOME}", "/home/shop/log//home/shop"),
        ("${EMPTY}", ""),
        ("${EMPTY:-default}", "default"),
        ("${MISSING:-}", ""),
        ("${MISSING:-a:-b c}", "a:-b c"),
        ("${BRACE}", "a}b"),
        ("$${HOME}", "${HOME}"),
        ("$$${HOME}", "$${HOME}"),
        ("$$", "$$"),
    ],
)
def test_expansion(text, result):
    assert expand(text, ENVIRON) == result


def test_what_is_expanded_is_marked_and_nothing_else():
    assert isinstance(expand("${HOME}", ENVIRON), Expanded)
    assert not isinstance(expand("$${HOME}", ENVIRON), Expanded)


def test_what_comes_out_is_not_expanded_again():
    assert expand("${A}", {"A": "${B}", "B": "b"}) == "${B}"


@given(st.text("ab${}:-", max_size=20))
def test_escaping_is_undone_by_expansion(text):
    assert expand(escape(text), {}) == text


def test_a_document_is_expanded_everywhere_and_every_problem_is_told():
    problems = []
    document = {"a": ["${HOME}", {"b": "${NO}"}], "c": 1, "d": "${", "${HOME}": "key"}
    expanded = expand_document(document, ENVIRON, problems)
    assert expanded == {"a": ["/home/shop", {"b": UNKNOWN}], "c": 1, "d": UNKNOWN, "${HOME}": "key"}
    assert [(one.code, one.path) for one in problems] == [
        (Code.NO_VARIABLE, ("a", 1, "b")),
        (Code.BAD_EXPANSION, ("d",)),
    ]


def test_a_variable_that_is_not_utf8_is_told():
    problems = []
    assert expand_document({"a": "${RAW}"}, {"RAW": "\udcff"}, problems) == {"a": UNKNOWN}
    assert [one.message for one in problems] == ["the environment variable RAW is not UTF-8"]


def test_a_file_of_variables(tmp_path):
    file = tmp_path / "shop.env"
    file.write_text(
        '# comment\n; too\n\nA=1\nB = two words \nC=\'single $x "\'\nD="double \\" \\$ \\\\ \\n"\r\nE=\nF=a=b\n'
    )
    assert read_env_file(str(file)) == {
        "A": "1",
        "B": "two words",
        "C": 'single $x "',
        "D": 'double " $ \\ \\n',
        "E": "",
        "F": "a=b",
    }
