"""A thin client of the Kubernetes API server. It loads `ssl` and httpcore2.

::

    slices = "/apis/resource.k8s.io/v1/resourceslices"
    async with ApiServer(access.find(os.environ)) as api:
        claim = await api.get(path("apis/resource.k8s.io/v1", "namespaces", ns, "resourceclaims", name))
        made = await api.create(slices, wanted)
        await api.replace(f"{slices}/{name}", made | {"spec": spec})
        await api.patch(path("api/v1", "nodes", node, "status"), {"status": ...}, STRATEGIC)
        async with aclosing(api.watch(slices, fields="spec.nodeName=n1")) as changes:
            async for change in changes:  # LISTED with all objects, then ADDED, MODIFIED, DELETED; for ever
                ...

Objects are plain dictionaries. Every failure is an `ApiServerError`: `NoAnswer`, or a `Refused` by its status
(`NotFound`, `Conflict`, `Forbidden`, ...). `Backoff` says how long to wait after one.

- Each call ends within its limit, 5 s, whatever the server does; an answer has at most 32 MiB.
- A call that may be repeated and whose kept connection turns out to be closed is sent once more, on a fresh
  connection: servers and proxies close connections that were idle. Those are all but a POST of an object
  without a name; a repeated create may answer 409 to itself, as any create may.
- The files of the credentials are looked at once a second. After a 401 the token is read at once and, if it
  is another one, the call is sent once more; so is a call without a connection if an authority has changed.
- A new authority gives new connections. Calls in progress keep theirs.
- A watch lists, then follows from there. When the server ends it in good order (``timeoutSeconds``), it goes
  on from the last resourceVersion. After anything else (410, an ERROR object, a cut line, no line for 90 s)
  it yields LOST, waits, and lists again. A missed change shows in the next LISTED only.
"""

import asyncio
import base64
import json
import random
import ssl
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache, partial
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

from xilinx_fpga_dp import __version__
from xilinx_fpga_dp.aio.blocking_reader import BlockingReader
from xilinx_fpga_dp.apiserver.access import Access, Connection, Credentials
from xilinx_fpga_dp.apiserver.backoff import Backoff
from xilinx_fpga_dp.apiserver.errors import ApiServerError, NoAccess, NoAnswer, refusal
from xilinx_fpga_dp.apiserver.transport import HostLookup, httpcore2, pool

Json = dict[str, Any]

MERGE: Final = "application/merge-patch+json"
STRATEGIC: Final = "application/strategic-merge-patch+json"
JSON_PATCH: Final = "application/json-patch+json"
"""The kinds of patches (kubernetes.io/docs/reference/using-api/api-concepts, "Patches")."""

CALL_LIMIT: Final = 5.0
"""Seconds that a call may take, connecting included."""

COMMAND_LIMIT: Final = 30.0
"""The same for a command, which does not try again."""

# Seconds without a line after which a watch is dead. The server sends a bookmark about once a minute
# (k8s.io/apiserver pkg/storage/cacher/cacher.go, bookmarkFrequency).
_SILENCE = 90.0
_WATCH_SECONDS = (240, 360)  # the server ends a watch after a random time between these
# Of the limit of a call: what connecting may take. A server that accepts and is silent, as a stopped one, is
# then told from one that is slow to answer.
_CONNECTING = 0.8
_PAUSE = 1.0  # seconds a watch lasts at least, or the next one waits
_LOOK_EVERY = 1.0  # seconds between two looks at the files of the credentials
_CREDENTIALS_LIMIT = 65.0  # seconds to read files, and to run the command that a kubeconfig may name
# Seconds that a kept connection may be idle: less than the 90 s of the server
# (k8s.io/apiserver pkg/server/secure_serving.go, IdleTimeout).
_IDLE = 60.0
_MAX_ANSWER = 32 << 20  # bytes
_MAX_LINE = 8 << 20  # bytes of a watch's event; etcd takes objects of 1.5 MiB
_PAGE = 500  # objects of a list in an answer
_OK = 300  # the first status that is no success
_UNAUTHORIZED = 401


class Kind(StrEnum):
    """What a watch tells."""

    LISTED = "LISTED"  # these are all objects
    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    LOST = "LOST"  # the watch does not stand; `Change.error` says why


@dataclass(frozen=True, slots=True)
class Change:
    """One step of a watch; one object, or all with LISTED, or none with LOST."""

    kind: Kind
    objects: tuple[Json, ...] = ()
    error: ApiServerError | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """All objects of a list, and the resourceVersion to watch from."""

    objects: tuple[Json, ...]
    version: str


def path(prefix: str, *segments: str) -> str:
    """Return a path: ``path("api/v1", "nodes", name)``. The segments are quoted: none can leave its place."""
    for segment in segments:
        if segment in ("", ".", ".."):
            raise ValueError(f"{segment!r} is no name of an object")
    return "/".join(("", prefix, *(quote(segment, safe="") for segment in segments)))


class ApiServer:
    """The API server, for any number of tasks of one event loop.

    Args:
        access: how to reach it.
        call_limit: seconds that a call may take.
        silence: seconds without a line after which a watch is dead.
        connections: calls at a time; more wait within their limit.
        failed: is told of each call that fails, with its HTTP status, or None without an answer.
    """

    def __init__(
        self,
        access: Access,
        *,
        call_limit: float = CALL_LIMIT,
        silence: float = _SILENCE,
        connections: int = 16,
        failed: Callable[[int | None], None] = lambda _code: None,
    ) -> None:
        self._failed = failed
        self._access = access
        self._call_limit = call_limit
        self._silence = silence
        self._reads: BlockingReader[Credentials] = BlockingReader()
        self._known: Credentials | None = None  # as of the last look at their files
        self._looked = 0.0
        # Apart, so that watches never keep a call from getting a connection.
        lookup = HostLookup()
        self._calls = _Clients(lookup, connections)
        self._watches = _Clients(lookup, None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections. Calls in progress end with `NoAnswer`."""
        await self._calls.close()
        await self._watches.close()

    async def bound_node_uid(self, node: str) -> str | None:
        """Return the uid of the node that the token is bound to; None if it is bound to no such node.

        A pod's token names its node (kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin,
        "Schema for service account private claims"), so no right to read nodes is needed.
        """
        token = (await self._credentials()).token or ""
        try:
            payload = token.split(".")[1]
            claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
            found = claims["kubernetes.io"]["node"]
            return str(found["uid"]) if found["name"] == node else None
        except (IndexError, KeyError, TypeError, ValueError):
            return None

    async def node_uid(self, node: str) -> str:
        """Return the uid of a Node, from the token; else from the Node, with the right to get it.

        Not kept: a Node that is created again under its name has another uid.
        """
        bound = await self.bound_node_uid(node)
        return bound or str((await self.get(path("api/v1", "nodes", node)))["metadata"]["uid"])

    async def get(self, path: str, **query: str) -> Json:
        """Return an object."""
        return _object("GET", path, await self.call("GET", path, query=query))

    async def list(self, path: str, *, fields: str = "", labels: str = "") -> Listing:
        """Return all objects of a collection, as they are now. ``fields`` and ``labels`` are selectors."""
        query = _selectors(fields, labels) | {"limit": str(_PAGE)}
        objects: list[Json] = []
        while True:
            page = await self.get(path, **query)
            objects += page.get("items") or ()
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                return Listing(tuple(objects), str(metadata.get("resourceVersion", "")))
            query["continue"] = metadata["continue"]

    async def create(self, path: str, body: Json, *, dry_run: bool = False) -> Json:
        """Create an object in a collection; return it as the server stored it, or would with ``dry_run``."""
        named = bool(body.get("metadata", {}).get("name"))
        answer = await self.call("POST", path, body, query=_dry(dry_run), repeat=named or dry_run)
        return _object("POST", path, answer)

    async def replace(self, path: str, body: Json, *, dry_run: bool = False) -> Json:
        """Replace an object; with its ``metadata.resourceVersion`` only if it has not changed since."""
        return _object("PUT", path, await self.call("PUT", path, body, query=_dry(dry_run)))

    async def patch(self, path: str, body: object, kind: str = MERGE, *, dry_run: bool = False) -> Json:
        """Patch an object; return the whole object after that.

        An empty patch with ``dry_run`` reads an object where only the right to patch it is given.
        """
        answer = await self.call("PATCH", path, body, query=_dry(dry_run), content_type=kind)
        return _object("PATCH", path, answer)

    async def delete(self, path: str, *, uid: str | None = None) -> None:
        """Delete an object; with ``uid`` only if it is that one (else `Conflict`)."""
        await self.call("DELETE", path, {"preconditions": {"uid": uid}} if uid else None)

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        repeat: bool = True,
        limit: float | None = None,
        largest: int = _MAX_ANSWER,
    ) -> bytes:
        """Make a call and return the body of its answer.

        Args:
            method: the HTTP method.
            path: begins with a slash; see `path`.
            body: is sent as JSON; None: nothing is sent.
            query: the parameters.
            content_type: of the body.
            repeat: the call may be sent twice.
            limit: seconds that it may take; None: that of this object.
            largest: bytes that the answer may have.

        Raises:
            ApiServerError: it failed.
        """
        request = _Request(method, path, query or {}, body, content_type, largest)
        credentials = await self._credentials()
        limit = limit or self._call_limit
        send = partial(self._send, request, repeat=repeat, connect=limit * _CONNECTING)
        try:
            async with asyncio.timeout(limit):
                try:
                    code, answer, retry_after = await send(credentials)
                except NoAnswer as error:
                    renewed = credentials if error.connected else await self._credentials(look=True)
                    if renewed == credentials:
                        raise
                    code, answer, retry_after = await send(renewed)
                if code == _UNAUTHORIZED:
                    renewed = await self._credentials(again=True)
                    if renewed != credentials:
                        code, answer, retry_after = await send(renewed)
        except NoAnswer:
            self._failed(None)
            raise
        except TimeoutError:
            self._failed(None)
            self._calls.leave()  # other kept connections may be as dead
            raise NoAnswer(f"{request}: no answer for {limit:g} s") from None
        if code >= _OK:
            self._failed(code)
            raise refusal(str(request), code, answer, retry_after)
        return answer

    async def _credentials(self, *, look: bool = False, again: bool = False) -> Credentials:
        """Return the credentials. A thread looks at their files, once a second at most.

        ``look``: now in any case; ``again``: read them even if none has changed.
        """
        now = asyncio.get_running_loop().time()
        if self._known is None or look or again or now - self._looked >= _LOOK_EVERY:
            try:
                read = partial(self._access.current, again=again)
                self._known = await self._reads.read(read, _CREDENTIALS_LIMIT)
            except TimeoutError:
                raise NoAccess("reading the credentials of the API server hangs") from None
            self._looked = now
        return self._known

    async def _send(
        self, request: "_Request", credentials: Credentials, *, repeat: bool, connect: float
    ) -> tuple[int, bytes, str | None]:
        """Send a request; return status, body and the Retry-After of the answer."""
        while True:
            async with self._calls.use(credentials.connection) as client:
                try:
                    with _named_errors(request):
                        async with client.stream(request, credentials, connect) as answer:
                            body = bytearray()
                            async for part in answer.aiter_stream():
                                body += part
                                if len(body) > request.largest:
                                    raise NoAnswer(
                                        f"{request}: an answer of over {request.largest >> 20} MiB"
                                    )
                            client.proven = True
                            return answer.status, bytes(body), _retry_after(answer)
                except NoAnswer as error:
                    # A connection that was kept from an earlier call may have been closed meanwhile.
                    if not (repeat and client.proven and error.connected):
                        raise
                    repeat = False
                    client.left = True

    async def watch(self, path: str, *, fields: str = "", labels: str = "") -> AsyncGenerator[Change, None]:
        """List a collection, then yield each change. Never ends and raises nothing.

        Use ``contextlib.aclosing``, which closes its connection.
        """
        backoff = Backoff()
        clock = asyncio.get_running_loop().time
        version = ""
        while True:
            began = clock()
            error: ApiServerError | None = None
            try:
                if not version:
                    listing = await self.list(path, fields=fields, labels=labels)
                    yield Change(Kind.LISTED, listing.objects)
                    version = listing.version
                async with aclosing(self._follow(path, _selectors(fields, labels), version)) as events:
                    async for kind, item in events:
                        version = item["metadata"]["resourceVersion"]
                        backoff.reset()
                        if kind != "BOOKMARK":
                            yield Change(Kind(kind), (item,))
            except ApiServerError as failure:
                error = failure
            except (KeyError, TypeError, ValueError) as failure:
                error = NoAnswer(f"WATCH {path}: no event of a watch: {failure!r}")
            if error:
                version = ""
                yield Change(Kind.LOST, error=error)
            if error or clock() - began < _PAUSE:
                await asyncio.sleep(backoff.after(error))

    async def _follow(
        self, path: str, selectors: Mapping[str, str], version: str
    ) -> AsyncGenerator[tuple[str, Json], None]:
        """Yield the events of one watch until the server ends it in good order."""
        query = {
            **selectors,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(random.randint(*_WATCH_SECONDS)),  # noqa: S311 - no secret
        }
        request = _Request("GET", path, query)
        call = f"WATCH {path}"
        credentials = await self._credentials()
        async with self._watches.use(credentials.connection) as client:
            with _named_errors(call):
                async with client.stream(request, credentials, self._call_limit, self._silence) as answer:
                    if answer.status >= _OK:
                        body = b""
                        with suppress(TimeoutError):  # the status says enough
                            async with asyncio.timeout(self._call_limit):
                                body = await answer.aread()
                        if answer.status == _UNAUTHORIZED:
                            await self._credentials(again=True)
                        raise refusal(call, answer.status, body, _retry_after(answer))
                    lines = _Lines(call)
                    async for part in answer.aiter_stream():
                        for line in lines.feed(part):
                            event = json.loads(line)
                            if event["type"] == "ERROR":
                                status = event["object"]
                                raise refusal(call, int(status.get("code", 500)), json.dumps(status).encode())
                            yield event["type"], event["object"]
                    lines.end()


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    query: Mapping[str, str]
    body: object = None
    content_type: str = "application/json"
    largest: int = _MAX_ANSWER  # bytes of the answer

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class _Client:
    """Connections to one server; used on the loop only."""

    def __init__(self, connection: Connection, lookup: HostLookup, most: int | None) -> None:
        self.connection = connection
        self.users = 0
        self.proven = False  # an answer has come: connections may have been kept
        self.left = False  # nothing more is sent with it
        context = _context(connection) if connection.server.startswith("https:") else None
        try:
            self._url = httpcore2.URL(connection.server)
        except (TypeError, ValueError) as error:
            raise NoAccess(f"{connection.server}: {error}") from None
        self._host = connection.server.partition("//")[2].partition("/")[0]
        self._pool = pool(context, connection.server_name, lookup=lookup, most=most, idle=_IDLE)

    @asynccontextmanager
    async def stream(
        self,
        request: _Request,
        credentials: Credentials,
        connect: float | None = None,
        read: float | None = None,
    ) -> AsyncIterator[httpcore2.Response]:
        """Send a request; yield its answer. ``connect`` and ``read`` limit single steps, in seconds."""
        headers: dict[bytes | str, bytes | str] = {
            "Host": self._host,
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": f"xilinx-fpga-dp/{__version__}",
        }
        if credentials.token:
            headers["Authorization"] = f"Bearer {credentials.token}"
        content = None
        if request.body is not None:
            content = json.dumps(request.body, separators=(",", ":")).encode()
            headers["Content-Type"] = request.content_type
        target = f"{self._url.target.decode().rstrip('/')}{request.path}"
        if request.query:
            target += f"?{urlencode(request.query)}"
        async with self._pool.stream(
            request.method,
            httpcore2.URL(scheme=self._url.scheme, host=self._url.host, port=self._url.port, target=target),
            content=content,
            headers=headers,
            extensions={"timeout": {"connect": connect, "read": read}},
        ) as answer:
            yield answer

    async def close(self) -> None:
        await self._pool.aclose()


class _Clients:
    """The client in use. Another takes its place for another `Connection`, or when it was left."""

    def __init__(self, lookup: HostLookup, most: int | None) -> None:
        self._lookup = lookup
        self._most = most
        self._current: _Client | None = None

    @asynccontextmanager
    async def use(self, connection: Connection) -> AsyncIterator[_Client]:
        client = old = self._current
        if client is None or client.connection != connection or client.left:
            client = self._current = _Client(connection, self._lookup, self._most)
        client.users += 1
        try:
            if old is not None and old is not client:
                old.left = True
                await self._close_unused(old)
            yield client
        finally:
            client.users -= 1
            await self._close_unused(client)

    def leave(self) -> None:
        """Make new connections from now on."""
        if self._current:
            self._current.left = True

    async def close(self) -> None:
        client, self._current = self._current, None
        if client is not None:
            client.left = True
            await self._close_unused(client)

    async def _close_unused(self, client: _Client) -> None:
        if client.left and not client.users:
            await client.close()


@lru_cache(1)  # for all clients: it has the sessions and the parsed certificates, half a megabyte
def _context(connection: Connection) -> ssl.SSLContext:
    """Return the TLS context.

    Raises:
        NoAccess: a certificate cannot be used.
    """
    # Not create_default_context: from Python 3.13 on that sets VERIFY_X509_STRICT, which refuses an authority
    # without key usage or key identifiers, as EKS and MicroK8s make them (kubernetes-client/python#2394).
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Like Go: any certificate of the file is an authority, an intermediate one too (crypto/x509 verify.go).
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        if not connection.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif connection.authority is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(cadata=connection.authority.decode("ascii", "replace"))
        if connection.certificate:
            _load_certificate(context, *connection.certificate)
    except (ssl.SSLError, ValueError) as error:
        raise NoAccess(f"a certificate for {connection.server} cannot be used: {error}") from None
    return context


def _load_certificate(context: ssl.SSLContext, chain: bytes, key: bytes) -> None:
    """Load a client's certificate; OpenSSL's wrapper takes them from a file only."""
    with tempfile.NamedTemporaryFile() as file:  # readable by this user only
        file.write(chain + b"\n" + key)
        file.flush()
        context.load_cert_chain(file.name, password="")  # never ask on the terminal


_FAILURES = (
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.TimeoutException,
    httpcore2.UnsupportedProtocol,
    ssl.SSLError,
    OSError,
)


class _named_errors:  # noqa: N801 - used like a function
    """Turns the errors of the transport into `NoAnswer` with the call's name."""

    def __init__(self, call: object) -> None:
        self._call = call

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, _FAILURES):
            if isinstance(error, TimeoutError):
                return
            connected = not isinstance(error, httpcore2.ConnectError | httpcore2.ConnectTimeout)
            raise NoAnswer(f"{self._call}: {_said(error)}", connected=connected) from None


def _said(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    if isinstance(error, httpcore2.ReadTimeout):
        return "no data in time"
    if "certificate is not yet valid" in text or "certificate has expired" in text:
        return f"{text}; is the clock of this node right?"
    return text


class _Lines:
    """Makes lines of the parts of a stream."""

    def __init__(self, call: str) -> None:
        self._call = call
        self._rest = b""

    def feed(self, part: bytes) -> Iterable[bytes]:
        """Return the lines that this part completes."""
        *lines, self._rest = (self._rest + part).split(b"\n")
        if len(self._rest) > _MAX_LINE:
            raise NoAnswer(f"{self._call}: a line of over {_MAX_LINE >> 20} MiB")
        return filter(bytes.strip, lines)

    def end(self) -> None:
        """Check that nothing is left."""
        if self._rest.strip():
            raise NoAnswer(f"{self._call}: cut off within a line")


def _retry_after(answer: httpcore2.Response) -> str | None:
    return next((value.decode() for name, value in answer.headers if name.lower() == b"retry-after"), None)


def _selectors(fields: str, labels: str) -> dict[str, str]:
    named = {"fieldSelector": fields, "labelSelector": labels}
    return {name: value for name, value in named.items() if value}


def _dry(dry_run: bool) -> dict[str, str]:
    return {"dryRun": "All"} if dry_run else {}


def _object(method: str, path: str, answer: bytes) -> Json:
    try:
        found = json.loads(answer)
    except ValueError:
        found = None
    if not isinstance(found, dict) or (found.get("kind"), found.get("status")) == ("Status", "Failure"):
        raise NoAnswer(f"{method} {path}: the answer is no object")
    return found
