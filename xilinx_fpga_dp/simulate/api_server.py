"""An API server in the process: the part of the Kubernetes API that a client on a node can observe.

Storage is generic: any path of the form ``/api/v1/...`` or ``/apis/GROUP/VERSION/...`` is a collection of
objects, with uid and resourceVersion, list and watch with selectors, pages and bookmarks, create, replace,
patch (merge, strategic merge, JSON patch), delete with preconditions, ``status`` apart from the rest, and dry
runs. It validates nothing but by `ApiServer.invalid`. SelfSubjectAccessReview answers by `ApiServer.denied`.

What servers do wrong is set in `ApiServer.troubles` and by the ``..._watches`` methods. It is served without
TLS, unless `start` gets a context. Everything runs on one event loop. Source files in comments are of
k8s.io/apiserver.
"""

import asyncio
import copy
import itertools
import json
import re
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

if TYPE_CHECKING:
    import ssl

Json = dict[str, Any]

_HISTORY = 1000  # events that a watch can start behind
_REQUESTS = 10000  # of the log of requests
_BOOKMARK_EVERY = 60.0  # seconds: pkg/storage/cacher/cacher.go
_MERGE_KEYS = {  # +patchMergeKey in k8s.io/api core/v1 types.go
    "conditions": "type",
    "addresses": "type",
    "taints": "key",
    "ownerReferences": "uid",
}
_KINDS = {  # of the objects of a collection: clients in Go read no list without
    "deviceclasses": "DeviceClass",
    "events": "Event",
    "nodes": "Node",
    "pods": "Pod",
    "resourceclaims": "ResourceClaim",
    "resourceslices": "ResourceSlice",
}
_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_USER_REVIEWS = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
_NOT_STORED = (_REVIEWS, _USER_REVIEWS)
_PROXY = re.compile(r"/api/v1/namespaces/(?P<namespace>[^/]+)/pods/(?P<pod>[^/]+)/proxy(?P<path>/.*)?")
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_PHRASES = {200: "OK", 201: "Created"}


class Refusal(Exception):  # noqa: N818 - an answer
    """An answer with a Status object."""

    def __init__(self, code: int, reason: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.status = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "message": message,
            "reason": reason,
            "details": details,
            "code": code,
        }


@dataclass
class Trouble:
    """What the server does wrong with the requests that match. It happens ``times`` times, then no more.

    Attributes:
        matches: a regular expression for the beginning of ``METHOD /path?query``.
        times: how often; infinite by default.
        code: the status of the answer; 0: as without trouble.
        retry_after: the header, in seconds; None: no header.
        delay: seconds before the answer.
        cut: close the connection instead of an answer: ``before`` the request is done, or ``after`` it.
    """

    matches: str = ""
    times: float = float("inf")
    code: int = 0
    reason: str = ""
    message: str = "made so"
    retry_after: int | None = None
    delay: float = 0.0
    cut: str = ""
    hits: int = 0  # how often it has happened


@dataclass(frozen=True)
class Request:
    """A request as the server saw it."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Any
    code: int  # of the answer; 0 if there was none
    token: str
    cookie: str = ""

    @property
    def writes(self) -> bool:
        """Whether it may have changed something."""
        return self.method != "GET" and self.path not in _NOT_STORED and "dryRun" not in self.query


@dataclass(frozen=True)
class _Place:
    """An object or a collection by its path."""

    collection: str  # ``/api/v1/nodes``, without a namespace
    prefix: str  # ``/api/v1``
    resource: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def group(self) -> str:
        return self.prefix.split("/")[2] if self.prefix.startswith("/apis/") else ""

    @property
    def version(self) -> str:
        """As in ``apiVersion``."""
        return self.prefix.removeprefix("/apis/").removeprefix("/api/")


@dataclass(frozen=True)
class _Event:
    version: int
    collection: str
    kind: str
    item: Json
    before: Json | None


@dataclass(eq=False)
class _Watcher:
    """A watch in progress."""

    place: _Place
    queue: "asyncio.Queue[bytes | None]"  # lines; None ends it in good order
    writer: asyncio.StreamWriter
    silent: bool = False


@dataclass
class ApiServer:
    """The server and everything that is stored.

    Attributes:
        troubles: what goes wrong; the first that matches counts.
        tokens: those that are accepted; empty: all.
        denied: what is answered with 403, as ``(verb, resource)`` with ``patch``, ``nodes/status``.
        dropped: fields that the server does not know and drops, as paths like ``spec.devices.*.taints``.
        invalid: returns the fields of a written object that are refused with 422.
        kept_behind: whether a watch may begin at any version that is remembered; False: each is too old.
        proxy: answers calls through the proxy of a pod, by namespace, ``pod:port`` and path; with a status,
            a body and headers.
        requests: what was asked, the oldest first.
        user: the name of every client.
        version: the answer of ``/version``.
    """

    troubles: list[Trouble] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    denied: set[tuple[str, str]] = field(default_factory=set)
    dropped: list[str] = field(default_factory=list)
    invalid: Callable[[Json], list[str]] | None = None
    kept_behind: bool = True
    proxy: Callable[[str, str, str], Awaitable[tuple[int, bytes, Mapping[str, str]]]] | None = None
    requests: deque[Request] = field(default_factory=lambda: deque(maxlen=_REQUESTS))
    user: str = "system:serviceaccount:kube-system:xilinx-fpga-dp"
    version: Json = field(default_factory=lambda: {"major": "1", "minor": "37", "gitVersion": "v1.37.2"})
    connections: int = 0  # that were made

    def __post_init__(self) -> None:
        self._objects: dict[str, dict[tuple[str, str], Json]] = {}
        self._versions = itertools.count(1)
        self._newest = 0
        self._history: deque[_Event] = deque(maxlen=_HISTORY)
        self._watchers: dict[_Watcher, Callable[[_Event], bytes]] = {}
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    # Serving

    async def start(self, host: str = "127.0.0.1", port: int = 0, tls: "ssl.SSLContext | None" = None) -> int:
        """Serve; return the port."""
        self._server = await asyncio.start_server(self._accept, host, port, ssl=tls, reuse_address=True)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Refuse connections and break those that are open; everything stored stays."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        self.break_connections()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def break_connections(self) -> None:
        """Break all connections, as a proxy does with idle ones."""
        for writer in self._open:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for type checkers
        self._tasks.add(task)
        self._open.add(writer)
        self.connections += 1
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
                while await self._serve_one(reader, writer):
                    pass
        except asyncio.CancelledError:
            pass  # stopped
        finally:
            self._tasks.discard(task)
            self._open.discard(writer)
            writer.transport.abort()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request. Return whether the connection stays."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (each.partition(":") for each in head[1:])
        }
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        url = urlsplit(target)
        path, query = url.path, dict(parse_qsl(url.query, keep_blank_values=True))
        token = headers.get("authorization", "").removeprefix("Bearer ")
        trouble = self._trouble(f"{method} {target}")
        log = partial(
            Request, method, path, query, _json(body), token=token, cookie=headers.get("cookie", "")
        )
        if trouble and trouble.delay:
            await asyncio.sleep(trouble.delay)
        if trouble and trouble.cut == "before":
            self.requests.append(log(code=0))
            return False
        extra: dict[str, str] = {}
        try:
            if trouble and trouble.code:
                if trouble.retry_after is not None:
                    extra["Retry-After"] = str(trouble.retry_after)
                raise Refusal(trouble.code, trouble.reason, trouble.message)
            self._authorize(method, path, query, token)
            if query.get("watch") in ("true", "1"):
                self.requests.append(log(code=200))
                await self._watch(path, query, reader, writer)
                return True
            if (match := _PROXY.fullmatch(path)) and self.proxy:
                code, content, more = await self.proxy(match["namespace"], match["pod"], match["path"] or "/")
                extra |= more
            else:
                code, answer = self._answer(method, path, query, headers.get("content-type", ""), _json(body))
                content = json.dumps(answer).encode()
        except Refusal as refusal:
            code, content = refusal.code, json.dumps(refusal.status).encode()
        self.requests.append(log(code=code))
        if trouble and trouble.cut == "after":
            return False
        lines = [f"HTTP/1.1 {code} {_PHRASES.get(code, 'Refused')}", "Content-Type: application/json"]
        lines += [f"{name}: {value}" for name, value in extra.items()]
        writer.write("\r\n".join([*lines, f"Content-Length: {len(content)}", "", ""]).encode() + content)
        await writer.drain()
        return True

    def _trouble(self, call: str) -> Trouble | None:
        for each in self.troubles:
            if each.times > 0 and re.match(each.matches, call):
                each.times -= 1
                each.hits += 1
                return each
        return None

    def _authorize(self, method: str, path: str, query: Mapping[str, str], token: str) -> None:
        if self.tokens and token not in self.tokens:
            raise Refusal(401, "Unauthorized", "Unauthorized")
        if not self.denied or path in _NOT_STORED or not path.startswith(("/api/", "/apis/")):
            return
        place = _place(path)
        verb = _VERBS.get(method) or ("watch" if "watch" in query else "get" if place.name else "list")
        resource = "/".join(filter(None, (place.resource, place.subresource)))
        if (verb, resource) in self.denied:
            scope = f'in the namespace "{place.namespace}"' if place.namespace else "at the cluster scope"
            raise Refusal(
                403,
                "Forbidden",
                f'{place.resource} "{place.name}" is forbidden: User "{self.user}" cannot {verb} '
                f'resource "{resource}" in API group "{place.group}" {scope}',
            )

    # Storage

    def get(self, path: str) -> Json | None:
        """Return an object as it is stored, or None."""
        place = _place(path)
        return self._objects.get(place.collection, {}).get((place.namespace, place.name))

    def all(self, path: str) -> list[Json]:
        """Return the objects of a collection."""
        place = _place(path)
        found = self._objects.get(place.collection, {}).items()
        return [item for (namespace, _), item in sorted(found) if place.namespace in ("", namespace)]

    def put(self, path: str, item: Json) -> Json:
        """Create or replace an object with everything in it, its status too; return it."""
        return self._store(_place(path), copy.deepcopy(item))

    def remove(self, path: str) -> None:
        """Delete an object."""
        self._store(_place(path), None)

    def go_back(self, versions: int) -> None:
        """Take away the memory of the newest writes, as a restored etcd does; the objects stay."""
        self._newest = max(self._newest - versions, 1)
        self._versions = itertools.count(self._newest + 1)
        self._history.clear()

    def _store(self, place: _Place, item: Json | None) -> Json:
        objects = self._objects.setdefault(place.collection, {})
        key = (place.namespace, place.name)
        before = objects.get(key)
        kind = "DELETED" if item is None else "MODIFIED" if before else "ADDED"
        after = copy.deepcopy(before) if item is None else item
        if after is None:
            raise Refusal(404, "NotFound", f'{place.resource} "{place.name}" not found', name=place.name)
        if place.resource in _KINDS:
            after |= {"apiVersion": place.version, "kind": _KINDS[place.resource]}
        metadata = after.setdefault("metadata", {})
        metadata |= {"name": place.name} | ({"namespace": place.namespace} if place.namespace else {})
        old = (before or {}).get("metadata", {})
        metadata["uid"] = old.get("uid") or metadata.get("uid") or str(uuid.uuid4())
        metadata["creationTimestamp"] = old.get("creationTimestamp") or _now()
        if item is not None and before is not None and _same(before, after):
            return before  # pkg/storage/etcd3/store.go: a write that changes nothing is none
        self._newest = next(self._versions)
        metadata["resourceVersion"] = str(self._newest)
        if item is None:
            del objects[key]
        else:
            objects[key] = after
        event = _Event(self._newest, place.collection, kind, copy.deepcopy(after), before)
        self._history.append(event)
        for watcher, line in self._watchers.items():
            if (text := line(event)) and not watcher.silent:
                watcher.queue.put_nowait(text)
        return after

    def _answer(
        self, method: str, path: str, query: Mapping[str, str], content_type: str, body: Any
    ) -> tuple[int, Json]:
        if path == "/version":
            return 200, self.version
        if path == _REVIEWS and method == "POST":
            return 201, self._review(body)
        if path == _USER_REVIEWS and method == "POST":
            return 201, {**body, "status": {"userInfo": {"username": self.user}}}
        place = _place(path)
        if method == "GET":
            return 200, self._read(place, query)
        if method == "POST":
            return 201, self._create(place, query, body)
        before = self.get(path)
        if before is None:
            raise Refusal(404, "NotFound", f'{place.resource} "{place.name}" not found', name=place.name)
        if method == "DELETE":
            return 200, self._delete(place, query, body, before)
        after = body if method == "PUT" else _patched(copy.deepcopy(before), body, content_type)
        return 200, self._change(place, query, before, after)

    def _delete(self, place: _Place, query: Mapping[str, str], body: Any, before: Json) -> Json:
        wanted = ((body or {}).get("preconditions") or {}).get("uid")
        if wanted not in (None, before["metadata"]["uid"]):
            raise Refusal(409, "Conflict", f"Precondition failed: UID in precondition: {wanted}")
        return before if "dryRun" in query else self._store(place, None)

    def _change(self, place: _Place, query: Mapping[str, str], before: Json, after: Json) -> Json:
        version = before["metadata"]["resourceVersion"]
        if after.setdefault("metadata", {}).get("resourceVersion") not in (None, "", version):
            raise Refusal(
                409,
                "Conflict",
                f'Operation cannot be fulfilled on {place.resource} "{place.name}": the object has been '
                "modified; please apply your changes to the latest version and try again",
            )
        if place.subresource:
            after = copy.deepcopy(before) | {"status": after.get("status")}
        elif "status" in before:
            after["status"] = before["status"]
        after["metadata"]["resourceVersion"] = version
        self._check(after)
        return after if "dryRun" in query else self._store(place, after)

    def _read(self, place: _Place, query: Mapping[str, str]) -> Json:
        if place.name:
            item = self._objects.get(place.collection, {}).get((place.namespace, place.name))
            if item is None:
                raise Refusal(404, "NotFound", f'{place.resource} "{place.name}" not found', name=place.name)
            return item
        found = [each for each in self.all(f"{place.prefix}/{_under(place)}") if _selected(each, query)]
        begin = int(query.get("continue") or 0)
        end = begin + int(query.get("limit") or len(found) or 1)
        metadata: Json = {"resourceVersion": str(self._newest)}
        if end < len(found):
            metadata["continue"] = str(end)
        kind = _KINDS.get(place.resource, "") + "List"
        return {"kind": kind, "apiVersion": place.version, "metadata": metadata, "items": found[begin:end]}

    def _create(self, place: _Place, query: Mapping[str, str], body: Any) -> Json:
        metadata = body.setdefault("metadata", {})
        name = metadata.get("name") or metadata.get("generateName", "") + uuid.uuid4().hex[:5]
        if (place.namespace, name) in self._objects.get(place.collection, {}):
            message = f'{place.resource} "{name}" already exists'
            raise Refusal(409, "AlreadyExists", message, name=name, kind=place.resource)
        made = _Place(place.collection, place.prefix, place.resource, place.namespace, name)
        self._check(body)
        if "dryRun" in query:
            metadata |= {"name": name, "uid": str(uuid.uuid4()), "creationTimestamp": _now()}
            return dict(body)
        return self._store(made, body)

    def _review(self, body: Any) -> Json:
        wanted = body["spec"]["resourceAttributes"]
        resource = "/".join(filter(None, (wanted["resource"], wanted.get("subresource"))))
        allowed = (wanted["verb"], resource) not in self.denied
        return {**body, "status": {"allowed": allowed}}

    def _check(self, item: Json) -> None:
        """Refuse an object, or drop the fields of it that are not known."""
        if self.invalid and (fields := self.invalid(item)):
            causes = [{"reason": "FieldValueInvalid", "field": each} for each in fields]
            raise Refusal(422, "Invalid", f"{', '.join(fields)}: Invalid value", causes=causes)
        for path in self.dropped:
            _drop(item, path.split("."))

    # Watches

    async def _watch(
        self,
        path: str,
        query: Mapping[str, str],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        place = _place(path)
        since = int(query.get("resourceVersion") or 0)
        remembered = self._history[0].version if self._history else self._newest + 1
        if since > self._newest:
            raise Refusal(504, "Timeout", "Too large resource version: " + str(since))
        if since and (not self.kept_behind or since + 1 < remembered) and since < self._newest:
            raise Refusal(410, "Expired", f"too old resource version: {since} ({remembered})")
        watcher = _Watcher(place, asyncio.Queue(), writer)

        def line(event: _Event) -> bytes:
            return _line_for(event, place, query)

        for event in self._history:
            if event.version > since and (text := line(event)):
                watcher.queue.put_nowait(text)
        self._watchers[watcher] = line
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        gone = asyncio.create_task(reader.read(1))  # a client sends nothing while it watches
        gone.add_done_callback(lambda _: watcher.queue.put_nowait(None))
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(float(query.get("timeoutSeconds") or 1800)):
                    await self._send_events(watcher)
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        finally:
            gone.cancel()
            await asyncio.wait([gone])
            del self._watchers[watcher]

    async def _send_events(self, watcher: _Watcher) -> None:
        while True:
            try:
                async with asyncio.timeout(_BOOKMARK_EVERY):
                    text = await watcher.queue.get()
            except TimeoutError:
                if watcher.silent:
                    continue
                text = self._bookmark(watcher.place)
            if text is None:
                return
            watcher.writer.write(_chunk(text))
            await watcher.writer.drain()

    def _bookmark(self, place: _Place) -> bytes:
        kind = _KINDS.get(place.resource, "")
        metadata = {"resourceVersion": str(self._newest)}
        item = {"kind": kind, "apiVersion": place.version, "metadata": metadata}
        return json.dumps({"type": "BOOKMARK", "object": item}).encode() + b"\n"

    @property
    def watches(self) -> int:
        """How many watches are in progress."""
        return len(self._watchers)

    def bookmark_watches(self) -> None:
        """Send a bookmark now."""
        for watcher in self._watchers:
            watcher.queue.put_nowait(self._bookmark(watcher.place))

    def end_watches(self) -> None:
        """End all watches in good order."""
        for watcher in self._watchers:
            watcher.queue.put_nowait(None)

    def cut_watches(self) -> None:
        """Break all watches in the middle of a line."""
        for watcher in self._watchers:
            watcher.writer.write(_chunk(b'{"type":"MODIFIED","obj'))
            watcher.writer.close()

    def end_watches_within_a_line(self) -> None:
        """End the answer of all watches in good order, with half a line before the end."""
        for watcher in self._watchers:
            watcher.queue.put_nowait(b'{"type":"MODIFIED","obj')
            watcher.queue.put_nowait(None)

    def expire_watches(self, code: int = 410) -> None:
        """Send an ERROR object."""
        status = Refusal(code, "Expired", "too old resource version").status
        for watcher in self._watchers:
            watcher.queue.put_nowait(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")

    def silence_watches(self) -> None:
        """Keep the connections of all watches and never send anything on them, as if half-open."""
        for watcher in self._watchers:
            watcher.silent = True


def _place(path: str) -> _Place:
    parts = [unquote(part) for part in path.split("/")[1:]]
    head = 2 if parts[0] == "api" else 3
    prefix, rest = "/" + "/".join(parts[:head]), parts[head:]
    if parts[0] not in ("api", "apis") or not rest:
        raise Refusal(404, "NotFound", "the server could not find the requested resource")
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:  # noqa: PLR2004 - more than a namespace itself
        namespace, rest = rest[1], rest[2:]
    resource, name, subresource, *_ = *rest, "", ""
    return _Place(f"{prefix}/{resource}", prefix, resource, namespace, name, subresource)


def _under(place: _Place) -> str:
    return f"namespaces/{place.namespace}/{place.resource}" if place.namespace else place.resource


def _line_for(event: _Event, place: _Place, query: Mapping[str, str]) -> bytes:
    """Return the line that a watch gets of an event; empty if it gets none."""
    if event.collection != place.collection:
        return b""
    if place.namespace not in ("", event.item["metadata"].get("namespace")):
        return b""
    before = event.before is not None and _selected(event.before, query)
    after = event.kind != "DELETED" and _selected(event.item, query)
    if not (before or after):
        return b""
    kind = "DELETED" if not after else "MODIFIED" if before else "ADDED"
    return json.dumps({"type": kind, "object": event.item}).encode() + b"\n"


def _selected(item: Json, query: Mapping[str, str]) -> bool:
    """Return whether an object matches both selectors."""
    labels = item["metadata"].get("labels") or {}
    return all(
        (str(fields.get(name, _at(fields, name))) == wanted) is not negated
        for fields, selector in (
            (item, query.get("fieldSelector", "")),
            (labels, query.get("labelSelector", "")),
        )
        for name, wanted, negated in _terms(selector)
    )


def _terms(selector: str) -> Iterator[tuple[str, str, bool]]:
    for term in filter(None, selector.split(",")):
        name, _, wanted = term.replace("==", "=").partition("=")
        yield name.removesuffix("!"), wanted, name.endswith("!")


def _at(item: Any, path: str) -> Any:
    for name in path.split("."):
        item = item.get(name, "") if isinstance(item, dict) else ""
    return item


def _patched(item: Json, patch: Any, content_type: str) -> Json:
    if content_type == "application/json-patch+json":
        for operation in patch:
            _apply(item, operation)
        return item
    return dict(_merged(item, patch, strategic=content_type.startswith("application/strategic")))


def _merged(old: Any, new: Any, *, strategic: bool, name: str = "") -> Any:
    """Merge: RFC 7396, and with ``strategic`` the lists that have a merge key by that."""
    if isinstance(new, list) and strategic and (key := _MERGE_KEYS.get(name)):
        items = {each[key]: each for each in old or ()}
        for each in new:
            if each.get("$patch") == "delete":
                items.pop(each[key], None)
            else:
                items[each[key]] = _merged(items.get(each[key]), each, strategic=True)
        return list(items.values())
    if not isinstance(new, dict):
        return new
    result = dict(old) if isinstance(old, dict) else {}
    for each, value in new.items():
        if value is None:
            result.pop(each, None)
        else:
            result[each] = _merged(result.get(each), value, strategic=strategic, name=each)
    return result


def _apply(item: Any, operation: Json) -> None:
    """Apply one operation of a JSON patch (RFC 6902): test, add, replace or remove."""
    *parents, last = (part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:])
    try:
        for part in parents:
            item = item[int(part)] if isinstance(item, list) else item[part]
        place: Any = last if isinstance(item, dict) else len(item) if last == "-" else int(last)
        match operation["op"]:
            case "test":
                if item[place] != operation["value"]:
                    raise LookupError
            case "remove":
                del item[place]
            case "add" if isinstance(item, list):
                item.insert(place, operation["value"])
            case "add" | "replace":
                item[place] = operation["value"]
    except (LookupError, TypeError, ValueError):
        # pkg/endpoints/handlers/patch.go: a patch that cannot be applied
        message = "the server rejected our request due to an error in our request"
        raise Refusal(422, "Invalid", message) from None


def _drop(item: Any, path: list[str]) -> None:
    name, *rest = path
    if isinstance(item, list) and name == "*":
        for each in item:
            _drop(each, rest)
    elif isinstance(item, dict) and name in item:
        if rest:
            _drop(item[name], rest)
        else:
            del item[name]


def _same(one: Json, other: Json) -> bool:
    """Compare two objects but for their versions."""
    versions = {"resourceVersion": ""}
    return one | {"metadata": one["metadata"] | versions} == other | {
        "metadata": other["metadata"] | versions
    }


def _chunk(text: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(text), text)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except ValueError:
        raise Refusal(400, "BadRequest", "the body is no JSON") from None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
