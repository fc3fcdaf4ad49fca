"""The type of ``access_log``: in which form, and where to."""

from __future__ import annotations

from procman.config.addresses import absolute
from procman.config.problems import Code, quoted, suggestion
from procman.config.values import Given, Type, toml_string

OFF = "off"
FORMS = ("text", "json")


class AccessLogPlace(Type[str]):
    """``off``, a form for the standard output, or a form and, after a colon, a file; its path absolute afterwards."""

    expected = '"off", "text", "json", or with a file: "text:PATH", "json:PATH"'

    def read(self, given: Given) -> str:
        value = given.value
        if not isinstance(value, str):
            raise given.unexpected(Code.WRONG_TYPE, self.expected)
        form, colon, path = value.partition(":")
        if value == OFF or value in FORMS:
            return str(value)
        if form not in FORMS or not path or "\0" in path:
            raise given.unexpected(Code.CHOICE, self.expected, _meant(value, form, colon))
        return f"{form}:{absolute(path, given.base)}"

    def write(self, value: str) -> str:
        return toml_string(value)


def _meant(value: str, form: str, colon: str) -> str:
    if colon:
        return suggestion(form, FORMS)
    if "/" in value or value.endswith(".log"):
        return f"; did you mean {quoted('text:' + value)}?"
    if value in ("", "none", "-"):
        return f"; did you mean {quoted(OFF if value != '-' else 'text')}?"
    return suggestion(value, (OFF, *FORMS))
