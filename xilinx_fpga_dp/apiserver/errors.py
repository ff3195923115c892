"""What goes wrong with the API server. The text of each error is a sentence for people."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

_LONGEST = 1024  # characters of the server's message that are kept
_MAX_RETRY_AFTER = 60.0  # seconds


class ApiServerError(Exception):
    """Any failure of a call."""


class NoAccess(ApiServerError):  # noqa: N818 - the state of a configuration
    """No configuration says how to reach an API server, or it cannot be used."""


class NoAnswer(ApiServerError):  # noqa: N818 - the state of a server
    """The API server is unreachable, too slow, or its answer is incomplete. A write may have taken effect.

    Attributes:
        connected: whether a connection was made, so that another attempt costs the server something.
    """

    def __init__(self, message: str, *, connected: bool = True) -> None:
        super().__init__(message)
        self.connected = connected


class Refused(ApiServerError):  # noqa: N818 - the answer of a server
    """The API server answered with an error.

    Attributes:
        code: the HTTP status.
        reason: the reason of its Status object, such as ``AlreadyExists``; empty if it has none.
        message: the message of its Status object.
        fields: the fields that it names as the cause, such as ``spec.devices[0].name``.
        retry_after: the seconds to wait before the next attempt, at most 60; 0 if it names none.
    """

    def __init__(
        self,
        call: str,
        code: int,
        message: str,
        *,
        reason: str = "",
        fields: tuple[str, ...] = (),
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(f"{call}: {code} {message}" if message else f"{call}: {code}")
        self.code = code
        self.reason = reason
        self.message = message
        self.fields = fields
        self.retry_after = retry_after


class Unauthorized(Refused):
    """401: the token is missing, expired or of another cluster."""


class Forbidden(Refused):
    """403: a right is missing."""


class NotFound(Refused):
    """404: there is no such object, or the server does not serve the API."""


class Conflict(Refused):
    """409: the object exists, or has changed since it was read."""


class Gone(Refused):
    """410: the resourceVersion is too old for a watch."""


class Invalid(Refused):
    """422: a field is invalid, an admission policy denied the call, or the test of a JSON patch failed."""


_BY_CODE: Mapping[int, type[Refused]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
}


def refusal(call: str, code: int, body: bytes, retry_after: str | None = None) -> Refused:
    """Make the error of an answer.

    Args:
        call: method and path, for its text.
        code: the HTTP status, or the code of a watch's ERROR object.
        body: a Status object, or anything else.
        retry_after: the header of that name; only a number of seconds counts.
    """
    status: dict[str, Any] = {}
    message = body[:_LONGEST].decode(errors="replace").strip()
    with suppress(ValueError):
        document = json.loads(body)
        if isinstance(document, dict) and document.get("kind") == "Status":
            status = document
            message = str(status.get("message") or "")[:_LONGEST]
    details = status.get("details")
    details = details if isinstance(details, dict) else {}
    seconds = retry_after if retry_after is not None else str(details.get("retryAfterSeconds", ""))
    return _BY_CODE.get(code, Refused)(
        call,
        code,
        message,
        reason=str(status.get("reason") or ""),
        fields=tuple(
            str(cause["field"])
            for cause in details.get("causes") or ()
            if isinstance(cause, dict) and cause.get("field")
        ),
        retry_after=min(float(seconds), _MAX_RETRY_AFTER) if seconds.isascii() and seconds.isdigit() else 0.0,
    )
