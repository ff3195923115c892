"""Ports for servers of tests."""

import socket


def reserved() -> socket.socket:
    """Return a socket of 127.0.0.1 whose port no other program is given; it does not listen.

    A server can be told to listen there, since servers reuse addresses (SO_REUSEADDR).
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


def address_of(held: socket.socket) -> str:
    """Return its address and port, as settings name them."""
    host, port = held.getsockname()
    return f"{host}:{port}"
