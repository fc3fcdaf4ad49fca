"""Where in a TOML text each key and each value stands.

tomli tells values but not their places. This reads the text a second time, for nothing but places. Two rules:
tomli has accepted the text before, so this may assume valid TOML and checks nothing; and values are skipped, never
interpreted (keys are, because paths are made of them).

Paths are as in the document that tomli returns: ``("pools", "http", "bind", 0)``.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import TYPE_CHECKING

import tomli

if TYPE_CHECKING:
    from procman.config.problems import Path

# No configuration needs more, and what reads it after this may recurse.
_DEEPEST = 64

_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BARE_VALUE = re.compile(r"[^,\]}\n#]+")
_BASIC = re.compile(r'"(?:[^"\\]|\\.)*"')
_LITERAL = re.compile(r"'[^']*'")


class Positions:
    """Lines and columns, both counted from 1, of every key and value of a text that tomli has accepted.

    The place of a table is that of its header, ``{``, or of the key that implies it. Raises RecursionError for a text
    that is nested beyond reason.
    """

    def __init__(self, text: str) -> None:
        # As tomli does before it looks: TOML 1.0 counts CR LF as one newline.
        self._text = text.replace("\r\n", "\n")
        self._at = 0
        self._keys: dict[Path, int] = {}
        self._values: dict[Path, int] = {}
        self._arrays: dict[Path, int] = {}
        self._starts = [0, *(match.end() for match in re.finditer("\n", self._text))]
        self._document()

    def of_key(self, path: Path) -> tuple[int, int]:
        """Where the name of the key stands. A path that is not in the text: its nearest parent."""
        return self._place(path, self._keys if path in self._keys else self._values)

    def of_value(self, path: Path) -> tuple[int, int]:
        """Where the value begins. A path that is not in the text: its nearest parent, or the first line."""
        return self._place(path, self._values)

    def _place(self, path: Path, offsets: dict[Path, int]) -> tuple[int, int]:
        while path and path not in offsets:
            path = path[:-1]
            offsets = self._values
        offset = offsets.get(path, 0)
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1

    # -- statements ---------------------------------------------------------------------------------------

    def _document(self) -> None:
        table: Path = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip(_BLANK)

    def _header(self) -> Path:
        start = self._at
        is_array = self._text.startswith("[[", start)
        self._at += 2 if is_array else 1
        parts = self._dotted_key()
        self._skip(_SPACE)
        self._at += 2 if is_array else 1
        path: Path = ()
        for name, offset in parts[:-1]:
            path = self._within((*path, name))
            self._note(path, key=offset, value=start)
        name, offset = parts[-1]
        path = (*path, name)
        if path not in self._arrays:
            # Its own header is a better place for a table than a header of a sub-table that came before.
            self._keys[path] = offset
            self._values[path] = start
        if is_array:
            self._arrays[path] = self._arrays.get(path, -1) + 1
            path = self._within(path)
            self._note(path, key=offset, value=start)
        return path

    def _within(self, path: Path) -> Path:
        """An array of tables, named in a header, stands for its last table."""
        return (*path, self._arrays[path]) if path in self._arrays else path

    def _pair(self, table: Path) -> None:
        parts = self._dotted_key()
        self._skip(_SPACE)
        self._at += 1  # "="
        self._skip(_SPACE)
        path = table
        for name, offset in parts[:-1]:
            path = (*path, name)
            self._note(path, key=offset, value=offset)
        name, offset = parts[-1]
        path = (*path, name)
        self._note(path, key=offset, value=self._at)
        self._value(path)

    def _note(self, path: Path, *, key: int, value: int) -> None:
        if len(path) > _DEEPEST:
            raise RecursionError("tables or arrays are nested too deep")
        self._keys.setdefault(path, key)
        self._values.setdefault(path, value)

    # -- keys ---------------------------------------------------------------------------------------------

    def _dotted_key(self) -> list[tuple[str, int]]:
        parts = []
        while True:
            self._skip(_SPACE)
            start = self._at
            parts.append((self._simple_key(), start))
            self._skip(_SPACE)
            if not self._text.startswith(".", self._at):
                return parts
            self._at += 1

    def _simple_key(self) -> str:
        start = self._at
        match self._text[start]:
            case '"':
                self._skip(_BASIC)
                # Escapes are decoded by the parser that has accepted them.
                name: str = tomli.loads(f"key = {self._text[start : self._at]}")["key"]
                return name
            case "'":
                self._skip(_LITERAL)
                return self._text[start + 1 : self._at - 1]
            case _:
                self._skip(_BARE_KEY)
                return self._text[start : self._at]

    # -- values -------------------------------------------------------------------------------------------

    def _value(self, path: Path) -> None:
        text, at = self._text, self._at
        if text.startswith(('"""', "'''"), at):
            self._multiline_string(text[at] * 3)
        elif text[at] == '"':
            self._skip(_BASIC)
        elif text[at] == "'":
            self._skip(_LITERAL)
        elif text[at] == "[":
            self._array(path)
        elif text[at] == "{":
            self._inline_table(path)
        else:
            self._skip(_BARE_VALUE)

    def _multiline_string(self, quotes: str) -> None:
        text = self._text
        self._at += 3
        while not text.startswith(quotes, self._at):
            self._at += 2 if quotes == '"""' and text[self._at] == "\\" else 1
        self._at += 3
        # Up to two more quotes belong to the string: the last three are the end.
        for _ in range(2):
            if text.startswith(quotes[0], self._at):
                self._at += 1

    def _array(self, path: Path) -> None:
        self._at += 1
        index = 0
        while not self._closed("]"):
            item = (*path, index)
            self._note(item, key=self._at, value=self._at)
            self._value(item)
            index += 1
        self._at += 1

    def _inline_table(self, path: Path) -> None:
        self._at += 1
        while not self._closed("}"):
            self._pair(path)
        self._at += 1

    def _closed(self, bracket: str) -> bool:
        """Skip blanks and a comma; is the closing bracket next?"""
        self._skip(_BLANK)
        if self._text.startswith(",", self._at):
            self._at += 1
            self._skip(_BLANK)
        return self._text.startswith(bracket, self._at)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self._text, self._at)
        if found is not None:
            self._at = found.end()
