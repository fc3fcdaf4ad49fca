"""Where keys and values stand, in examples and in documents made at random whose places are known."""

from __future__ import annotations

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from procman.config.positions import Positions

TEXT = """\
# comment with [brackets] and = signs
title = "a # no comment"  # a comment
dotted.'key'."with \\u0065scape" = 1

[pools.http]   # header
kind="http"
bind = [ "a", [ 'b' ],   # items
  { x = 1, y.z = [2] },
]
text = \"\"\"
[not.a.header]
key = \\\"\"\" value \"\"\"\"\"
literal = '''
''it's'''''
after = 1979-05-27 07:32:00

  [ "pools" . 'cron' ]
  kind = "cron"

[[list]]
a = 1
[list.sub]
b = 2
[[list]]
a = 3
[[list.inner]]
[[list.inner]]
c = 4
[pools]
x = 5
"""


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        (("title",), (2, 1), (2, 9)),
        (("dotted",), (3, 1), (3, 1)),
        (("dotted", "key"), (3, 8), (3, 8)),
        (("dotted", "key", "with escape"), (3, 14), (3, 35)),
        (("pools", "http"), (5, 8), (5, 1)),
        (("pools", "http", "kind"), (6, 1), (6, 6)),
        (("pools", "http", "bind"), (7, 1), (7, 8)),
        (("pools", "http", "bind", 0), (7, 10), (7, 10)),
        (("pools", "http", "bind", 1), (7, 15), (7, 15)),
        (("pools", "http", "bind", 1, 0), (7, 17), (7, 17)),
        (("pools", "http", "bind", 2), (8, 3), (8, 3)),
        (("pools", "http", "bind", 2, "x"), (8, 5), (8, 9)),
        (("pools", "http", "bind", 2, "y", "z"), (8, 14), (8, 18)),
        (("pools", "http", "bind", 2, "y", "z", 0), (8, 19), (8, 19)),
        (("pools", "http", "text"), (10, 1), (10, 8)),
        (("pools", "http", "literal"), (13, 1), (13, 11)),
        (("pools", "http", "after"), (15, 1), (15, 9)),
        (("pools", "cron"), (17, 15), (17, 3)),
        (("pools", "cron", "kind"), (18, 3), (18, 10)),
        (("list",), (20, 3), (20, 1)),
        (("list", 0), (20, 3), (20, 1)),
        (("list", 0, "a"), (21, 1), (21, 5)),
        (("list", 0, "sub"), (22, 7), (22, 1)),
        (("list", 0, "sub", "b"), (23, 1), (23, 5)),
        (("list", 1), (24, 3), (24, 1)),
        (("list", 1, "a"), (25, 1), (25, 5)),
        (("list", 1, "inner", 1, "c"), (28, 1), (28, 5)),
        (("pools",), (29, 2), (29, 1)),
        (("pools", "x"), (30, 1), (30, 5)),
        # What is not there: the nearest that is.
        (("pools", "http", "nothing", "here"), (5, 1), (5, 1)),
        (("nothing",), (1, 1), (1, 1)),
        ((), (1, 1), (1, 1)),
    ],
)
def test_places(path, key, value):
    positions = Positions(TEXT)
    assert (positions.of_key(path), positions.of_value(path)) == (key, value)


def test_the_example_is_toml():
    assert tomli.loads(TEXT)["list"][1]["inner"][1] == {"c": 4}


def test_windows_newlines_count_once():
    positions = Positions('a = """\r\nx"""\r\nb = 1\r\n')
    assert positions.of_value(("b",)) == (3, 5)


def test_nesting_beyond_reason_is_refused():
    with pytest.raises(RecursionError):
        Positions("a = " + "[" * 100 + "]" * 100)


# -- documents made at random -------------------------------------------------------------------------------------

NAMES = ["a", "b-1", "_", "42", "with space", "quo'te", 'dou"ble', "do.t", "é", "", "tab\t", "#", "[x]", "="]
SCALARS = [
    "1",
    "0x1f",
    "1_000.5e-3",
    "true",
    "inf",
    "1979-05-27T07:32:00Z",
    "1979-05-27 07:32:00.5",
    "07:32:00",
    '""',
    '"a\\"] # = }"',
    "'it\\'",
    '"""a\n[b]\n"quoted" \\""" c"""',
    '"""two more quotes"""""',
    "'''x\n]'' '''''",
    '"""\\\\"""',
    "''''one quote first'''",
    '"é🙂"',
]


class Writer:
    """Writes TOML and notes where it has put each key and value."""

    def __init__(self, draw):
        self.draw = draw
        self.text = ""
        self.keys = {}
        self.values = {}

    def blank(self, *, lines):
        choices = ["", " ", "\t "] + (["\n", " # comment ]}\n ", "\n\n"] if lines else [])
        self.text += self.draw(st.sampled_from(choices))

    def key(self, name):
        styles = ['"' + "".join(f"\\u{ord(one):04x}" for one in name) + '"']
        styles += [f'"{name}"'] if not set('"\\\t') & set(name) else []
        styles += [f"'{name}'"] if "'" not in name else []
        styles += [name] * 3 if name and all(one.isascii() and (one.isalnum() or one in "-_") for one in name) else []
        self.text += self.draw(st.sampled_from(styles))

    def pair(self, table, name, depth, *, lines):
        path = table
        for part in self.draw(st.sampled_from([[name], [name], [name, "x"], [name, "x", "y z"]])):
            if path != table:
                self.blank(lines=False)
                self.text += "."
                self.blank(lines=False)
            path = (*path, part)
            self.keys[path] = self.values[path] = len(self.text)
            self.key(part)
        self.blank(lines=False)
        self.text += "="
        self.blank(lines=False)
        self.value(path, depth, lines=lines)

    def value(self, path, depth, *, lines):
        self.values[path] = len(self.text)
        kind = self.draw(st.sampled_from(["scalar", "scalar", "array", "table"] if depth else ["scalar"]))
        if kind == "scalar":
            self.text += self.draw(st.sampled_from(SCALARS))
        elif kind == "array":
            self.text += "["
            count = self.draw(st.integers(0, 3))
            for index in range(count):
                self.blank(lines=True)
                self.keys[*path, index] = len(self.text)
                self.value((*path, index), depth - 1, lines=True)
                self.blank(lines=True)
                self.text += "," if index < count - 1 or self.draw(st.booleans()) else ""
            self.blank(lines=True)
            self.text += "]"
        else:
            self.text += "{"
            names = self.draw(st.lists(st.sampled_from(NAMES), max_size=3, unique=True))
            for index, name in enumerate(names):
                self.text += "," if index else ""
                self.blank(lines=False)
                self.pair(path, name, depth - 1, lines=False)
                self.blank(lines=False)
            self.text += "}"

    def pairs(self, table):
        for name in self.draw(st.lists(st.sampled_from(NAMES), max_size=4, unique=True)):
            self.blank(lines=True)
            self.pair(table, name, 3, lines=True)
            self.blank(lines=False)
            self.text += self.draw(st.sampled_from(["\n", " # comment = [x]\n"]))

    def header(self, name, depth):
        """``[name]``, or ``[name.sub]`` which implies its parent."""
        start = len(self.text)
        self.text += "["
        path = ()
        for part in [name, *["sub", "deep"][:depth]]:
            self.text += " . " if path else " "
            path = (*path, part)
            self.keys[path], self.values[path] = len(self.text), start
            self.key(part)
        self.text += " ]\n"
        self.pairs(path)

    def array_of_tables(self, name):
        for index in range(self.draw(st.integers(1, 3))):
            start = len(self.text)
            self.text += "[["
            self.keys.setdefault((name,), len(self.text))
            self.values.setdefault((name,), start)
            self.keys[name, index], self.values[name, index] = len(self.text), start
            self.key(name)
            self.text += "]]\n"
            self.pairs((name, index))


@st.composite
def documents(draw):
    writer = Writer(draw)
    writer.pairs(())
    for number in range(draw(st.integers(0, 4))):
        if draw(st.booleans()):
            writer.header(f"table {number}", draw(st.integers(0, 2)))
        else:
            writer.array_of_tables(f"list {number}")
    return writer


def every_path(value, path=()):
    if path:
        yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from every_path(item, (*path, key))


@given(documents())
def test_places_in_documents_made_at_random(document):
    parsed = tomli.loads(document.text)
    assert set(every_path(parsed)) == set(document.values)
    positions = Positions(document.text)
    for path in document.values:
        assert positions.of_key(path) == place(document.text, document.keys[path])
        assert positions.of_value(path) == place(document.text, document.values[path])


def place(text, offset):
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)
