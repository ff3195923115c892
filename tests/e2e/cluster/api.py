"""A blocking client of the API server: JSON in, JSON out."""

import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..namespace import NodeError, SilentError

_LIMIT = 20.0  # seconds for one request


class ApiError(NodeError):
    """A refused request."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """One user of the API server at an address."""

    def __init__(self, address: str, authority: Path, token: str) -> None:
        self._address = address
        self._context = ssl.create_default_context(cafile=str(authority))
        self._token = token

    def __call__(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        """Send a request and return the object of the response.

        Raises ApiError if it is refused, SilentError without a response.
        """
        status, text = self._send(method, path, body, kind)
        if status >= 300:
            raise ApiError(status, f"{method} {path}: {status} {text[:600]}")
        return json.loads(text)

    def get(self, path: str) -> Any:
        """Return an object or a list; None if there is none. Raises as a call does."""
        try:
            return self("GET", path)
        except ApiError as error:
            if error.status != 404:
                raise
            return None

    def text(self, path: str) -> str:
        """Return the text of a page of the API server, such as /metrics. Raises as a call does."""
        status, text = self._send("GET", path, None, "application/json")
        if status >= 300:
            raise ApiError(status, f"GET {path}: {status} {text[:600]}")
        return text

    @contextmanager
    def watch(self, path: str) -> Iterator["Watch"]:
        """Yield a watch of a list."""
        joint = "&" if "?" in path else "?"
        connection = http.client.HTTPSConnection(self._address, 443, context=self._context)
        connection.connect()
        stream = connection.sock  # the response takes it over
        token = {"Authorization": f"Bearer {self._token}"}
        try:
            connection.request("GET", f"{path}{joint}watch=1", headers=token)
            yield Watch(stream, connection.getresponse())
        finally:
            connection.close()

    def _send(self, method: str, path: str, body: Any, kind: str) -> tuple[int, str]:
        connection = http.client.HTTPSConnection(self._address, 443, context=self._context, timeout=_LIMIT)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": kind}
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise SilentError(f"{method} {path}: {error}") from error
        finally:
            connection.close()


class Watch:
    """The objects of a list as they change, at first as they are; a thread may wait for them."""

    def __init__(self, stream: socket.socket, answer: http.client.HTTPResponse) -> None:
        self._stream = stream
        self._answer = answer

    def __iter__(self) -> Iterator[Any]:
        try:
            for line in self._answer:
                yield json.loads(line)["object"]
        except (OSError, http.client.HTTPException, ValueError):
            return  # after `end`

    def end(self) -> None:
        """End the iteration, also that of another thread."""
        self._stream.shutdown(socket.SHUT_RDWR)
