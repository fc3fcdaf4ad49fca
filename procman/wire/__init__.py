"""HTTP on the wire: bytes to requests, responses to bytes. No sockets, no files, no clock."""
