"""XML-RPC on the wire: bytes to a call, a result or a fault to bytes. Pure.

The standard library's codec, but for a document type declaration, which is refused: it is of no use here and is
what attacks by entities begin with. Integers beyond 32 bits are sent as ``<i8>``, which that codec can read and not
write, and ``None`` as ``<nil/>``; both are extensions that are understood nearly everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.parsers.expat import ExpatError, ParserCreate
from xmlrpc.client import MAXINT, MININT, Marshaller, ResponseError, Unmarshaller

from procman.rpc.faults import InvalidRequest, ParseError
from procman.rpc.values import for_xml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from procman.rpc.faults import Fault

_HEAD = "<?xml version='1.0'?>\n<methodResponse>\n"
_TAIL = "</methodResponse>\n"
_PARAM = "<params>\n<param>\n"
_PARAM_END = "</param>\n</params>\n"


class _Writer(Marshaller):
    """Knows what `for_xml` leaves, and ``<i8>``."""

    def __init__(self) -> None:
        super().__init__("utf-8", allow_none=True)
        self.dispatch: dict[Any, Any] = {**Marshaller.dispatch, int: _Writer._dump_integer}

    def _dump_integer(self, value: int, write: Callable[[str], Any]) -> None:
        tag = "int" if MININT <= value <= MAXINT else "i8"
        write(f"<value><{tag}>{value}</{tag}></value>\n")


def parse(body: bytes) -> tuple[str, list[Any]]:
    """The name and the arguments of a call; raises ParseError or InvalidRequest."""
    unmarshaller = Unmarshaller(use_builtin_types=True)
    try:
        _feed(unmarshaller, body)
        params = unmarshaller.close()
    except (ExpatError, UnicodeError) as error:
        raise ParseError(f"this is no XML: {error}") from None
    except (ResponseError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise InvalidRequest(f"this is no XML-RPC call: {type(error).__name__} {error}") from None
    method = unmarshaller.getmethodname()
    if not method:
        raise InvalidRequest("this is no XML-RPC call: there is no methodName")
    return method, list(params)


def _feed(unmarshaller: Unmarshaller, body: bytes) -> None:
    parser = ParserCreate()
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartElementHandler = unmarshaller.start
    parser.EndElementHandler = unmarshaller.end
    parser.CharacterDataHandler = unmarshaller.data
    # With an encoding it would decode what expat has decoded.
    unmarshaller.xml(None, None)  # type: ignore[arg-type]
    parser.Parse(body, True)


def _refuse_doctype(*_: Any) -> None:
    raise ParseError("a document type declaration is not accepted")


def response(value: Any) -> bytes:
    """The answer with a result, such as `for_xml` has made."""
    return f"{_HEAD}{_PARAM}{_element(value)}{_PARAM_END}{_TAIL}".encode()


def stream(values: Iterator[Any]) -> Iterator[bytes]:
    """The answer with an array of what comes, each such as `for_xml` has made."""
    yield f"{_HEAD}{_PARAM}<value><array><data>\n".encode()
    for value in values:
        yield _element(value).encode()
    yield f"</data></array></value>\n{_PARAM_END}{_TAIL}".encode()


def failure(fault: Fault) -> bytes:
    """The answer with a fault."""
    return f"{_HEAD}<fault>\n{_element(described(fault))}</fault>\n{_TAIL}".encode()


def described(fault: Fault) -> dict[str, Any]:
    """The fault as a struct."""
    return {"faultCode": fault.code, "faultString": for_xml(str(fault))}


def _element(value: Any) -> str:
    text: str = _Writer().dumps((value,))
    return text.removeprefix(_PARAM).removesuffix(_PARAM_END)
