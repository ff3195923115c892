"""A memory for HTTP/2's header compression: each call has the same head, and so has each answer."""

from collections.abc import Callable, Hashable
from typing import Any

from h2.connection import H2Connection
from hpack.table import HeaderTable

_KEPT = 4  # heads in each direction; a client's calls have one or two, answers have two


def remember(connection: H2Connection) -> None:
    """Let a connection look up the heads it has seen, instead of coding each again, which takes 35 us a call.

    It can go when hpack writes no debug line for each field.
    """
    encoder, decoder = connection.encoder, connection.decoder
    encoder.encode = _remembering(encoder.encode, encoder.header_table)  # type: ignore[method-assign]
    decoder.decode = _remembering(decoder.decode, decoder.header_table)  # type: ignore[method-assign]


def _remembering(code: Callable[..., Any], table: HeaderTable) -> Callable[..., Any]:
    """Return ``code`` with a memory. What it makes of a head depends only on its table (RFC 7541, 2.3).

    So a result that left the table as it was holds until the table changes.
    """
    known: dict[Hashable, Any] = {}
    size = (0, 0)

    def remembered(head: Any, **options: Any) -> Any:  # h2 uses the same options each time
        nonlocal size
        key = head if isinstance(head, bytes) else tuple(head)
        # A client's settings can have removed fields; only ``code`` adds some.
        if table.resized or size != (table.maxsize, len(table.dynamic_entries)):
            known.clear()
        elif (found := known.get(key)) is not None:
            return found
        changes = table.resized  # which an encoder announces in its next head
        before = tuple(table.dynamic_entries)
        coded = code(key, **options)
        changes |= table.resized or tuple(table.dynamic_entries) != before
        if changes or len(known) >= _KEPT:
            known.clear()
        if not changes:
            known[key] = coded
        size = (table.maxsize, len(table.dynamic_entries))
        return coded

    return remembered
