"""The control socket: the protocol, the daemon's side, the client's side, and the publisher of events."""
