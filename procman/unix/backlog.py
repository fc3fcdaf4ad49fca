"""How many connections wait in the queue of a listening socket until a worker accepts them.

Of a TCP socket getsockopt(2) tells: for one that listens the kernel puts the length of the queue into
``tcpi_unacked`` of TCP_INFO (and its bound into ``tcpi_sacked``; net/ipv4/tcp.c, tcp_get_info). Of a unix socket only
sock_diag(7) does, with UDIAG_SHOW_RQLEN. Neither needs a privilege.
"""

from __future__ import annotations

import os
import socket
import struct
import sys

_UNACKED_AT = 24  # bytes into struct tcp_info, <linux/tcp.h>

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_UDIAG_SHOW_RQLEN = 0x10
_UNIX_DIAG_RQLEN = 4
_ANY = 0xFFFFFFFF
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_REQUEST = struct.Struct("=BBHIIIII")  # struct unix_diag_req: family, protocol, pad, states, inode, show, cookie
_ANSWER_SIZE = 16  # struct unix_diag_msg
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr: length, type


def waiting(listener: socket.socket) -> int:
    """Connections in its queue. Raises OSError when the kernel does not say."""
    if listener.family == socket.AF_UNIX:
        return _waiting_at_unix(os.fstat(listener.fileno()).st_ino)
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED_AT + 4)
    return int.from_bytes(info[_UNACKED_AT:], sys.byteorder)


def _waiting_at_unix(inode: int) -> int:
    request = _REQUEST.pack(socket.AF_UNIX, 0, 0, _ANY, inode, _UDIAG_SHOW_RQLEN, _ANY, _ANY)
    header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(1.0)  # netlink(7): the answer is there when send(2) returns
        netlink.send(header + request)
        answer = netlink.recv(4096)
    if _HEADER.unpack_from(answer)[1] != _SOCK_DIAG_BY_FAMILY:
        raise OSError("sock_diag(7) does not know the socket")
    at = _HEADER.size + _ANSWER_SIZE
    while at + _ATTRIBUTE.size <= len(answer):
        length, kind = _ATTRIBUTE.unpack_from(answer, at)
        if kind == _UNIX_DIAG_RQLEN:
            return int.from_bytes(answer[at + 4 : at + 8], sys.byteorder)
        at += max(_ATTRIBUTE.size, (length + 3) & ~3)
    raise OSError("sock_diag(7) does not tell the length of the queue")
