"""How to reach the API server: the files of the service account in a pod, or a kubeconfig.

Both kinds of files change while the process runs: kubelet renews a token at 80 % of its hour and replaces the
files of a projected volume by one symlink. So `Access` reads them again when one has changed, and at least
once a minute.

Of a kubeconfig these parts count: ``clusters`` (``server``, ``certificate-authority`` and its ``-data``,
``insecure-skip-tls-verify``, ``tls-server-name``), ``users`` (``token``, ``tokenFile``,
``client-certificate``, ``client-key`` and their ``-data``, ``exec`` without a terminal), ``contexts`` and
``current-context``. KUBECONFIG may name several files. Refused with a sentence: ``proxy-url``,
``auth-provider``, ``as``, a user name with a password.
"""

import base64
import binascii
import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from xilinx_fpga_dp.apiserver.errors import NoAccess

SERVICE_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where kubelet mounts the files of the service account."""

_MAX_BYTES = 1 << 20
_REREAD = 60.0  # seconds after which the files are read again, changed or not
_EXEC_LIMIT = 60.0  # seconds for a command that gets a token
_EXEC_API = "client.authentication.k8s.io/"
_UNSUPPORTED_CLUSTER = ("proxy-url",)
_UNSUPPORTED_USER = ("auth-provider", "as", "username", "password")


@dataclass(frozen=True, slots=True)
class Connection:
    """What a TLS connection is made with. Another value needs another connection."""

    server: str  # ``https://10.96.0.1:443``, without a slash at the end
    authority: bytes | None = None  # PEM; None: the authorities of the system
    verify: bool = True
    server_name: str | None = None  # in the server's certificate; None: the host in ``server``
    certificate: tuple[bytes, bytes] | None = field(
        default=None, repr=False
    )  # of the client, and its key; PEM


@dataclass(frozen=True, slots=True)
class Credentials:
    """A connection, and the token that is sent with each call."""

    connection: Connection
    token: str | None = field(default=None, repr=False)


class Access:
    """Credentials that follow their files. Methods block, and are called from one thread at a time.

    Args:
        read: reads the files; returns the credentials and the paths that they came from.
    """

    def __init__(self, read: Callable[[], tuple[Credentials, tuple[str, ...]]]) -> None:
        self.read = read
        self._credentials: Credentials | None = None
        self._files: tuple[str, ...] = ()
        self._seen: tuple[object, ...] = ()  # the state of the files when they were read
        self._read_at = 0.0

    def current(self, *, again: bool = False) -> Credentials:
        """Return the credentials; ``again``: read the files even if none has changed.

        Raises:
            NoAccess: they cannot be read. Credentials read before stay in use while a file is unreadable.
        """
        now = time.monotonic()
        seen = tuple(map(_state_of, self._files))
        if self._credentials and not again and seen == self._seen and now - self._read_at < _REREAD:
            return self._credentials
        try:
            credentials, files = self.read()
        except NoAccess:
            if self._credentials is None:
                raise
            return self._credentials
        # The state from before the read: a change meanwhile is seen the next time.
        self._seen = seen if files == self._files else tuple(map(_state_of, files))
        self._credentials, self._files, self._read_at = credentials, files, now
        return credentials


def find(environment: Mapping[str, str], *, home: str | None = None, context: str | None = None) -> Access:
    """Return the access of this process: KUBECONFIG, else the service account, else ``~/.kube/config``.

    Where there is none of them each use raises NoAccess.

    Args:
        environment: the variables of the process.
        home: the home directory of the user of a command; None for a service, which has none.
        context: of a kubeconfig, which only counts then; None: its current one.
    """
    return Access(lambda: _find(environment, home, context).read())


def _find(environment: Mapping[str, str], home: str | None, context: str | None) -> "Access":
    if paths := [path for path in environment.get("KUBECONFIG", "").split(":") if path]:
        return kubeconfig(paths, context)
    if (
        not context
        and environment.get("KUBERNETES_SERVICE_HOST")
        and os.path.exists(f"{SERVICE_ACCOUNT}/token")
    ):
        return service_account(environment, SERVICE_ACCOUNT)
    if home and os.path.exists(path := f"{home}/.kube/config"):
        return kubeconfig([path], context)
    ways = "KUBECONFIG names no file" + (f", {home}/.kube/config is not there," if home else "")
    raise NoAccess(
        f"no access to the API server: {ways} and no service account is mounted at {SERVICE_ACCOUNT}"
    )


def service_account(environment: Mapping[str, str], folder: str) -> Access:
    """Return the access of a pod (kubernetes.io/docs/tasks/run-application/access-api-from-pod)."""
    host = environment.get("KUBERNETES_SERVICE_HOST", "")
    port = environment.get("KUBERNETES_SERVICE_PORT", "443")
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    token, authority = f"{folder}/token", f"{folder}/ca.crt"

    def read() -> tuple[Credentials, tuple[str, ...]]:
        connection = Connection(server, _file(authority))
        return Credentials(connection, _token(token)), (token, authority)

    return Access(read)


def kubeconfig(paths: list[str], context: str | None = None) -> Access:
    """Return the access by a context of kubeconfig files. The first file that has a name counts.

    Args:
        paths: the files; one that does not exist is left out, as kubectl does.
        context: its name; None: the current one.
    """
    return Access(lambda: _kubeconfig(paths, context))


def _kubeconfig(paths: list[str], context: str | None) -> tuple[Credentials, tuple[str, ...]]:
    import yaml  # noqa: PLC0415 - the service needs it only here

    documents: list[tuple[str, Any]] = []
    for path in paths:
        try:
            documents.append((path, yaml.safe_load(_file(path))))
        except yaml.YAMLError as error:
            raise NoAccess(f"{path}: {str(error).splitlines()[0]}") from None
        except NoAccess:
            if os.path.exists(path) or len(paths) == 1:
                raise
    config = _Kubeconfig([(path, each) for path, each in documents if isinstance(each, dict)])
    try:
        credentials = config.credentials(context)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise NoAccess(f"{', '.join(paths)}: this is no kubeconfig") from None
    return credentials, (*(path for path, _ in documents), *config.files)


class _Kubeconfig:
    """Kubeconfig files, merged; ``files`` are those that the credentials name."""

    def __init__(self, documents: list[tuple[str, Any]]) -> None:
        self._documents = documents
        self._name = ", ".join(path for path, _ in documents) or "KUBECONFIG"
        self.files: tuple[str, ...] = ()

    def credentials(self, chosen: str | None) -> Credentials:
        current = chosen or next(
            (each["current-context"] for _, each in self._documents if each.get("current-context")), ""
        )
        if not current:
            raise NoAccess(f"{self._name}: no current-context")
        _, context = self._entry("context", current)
        where, cluster = self._entry("cluster", context.get("cluster"))
        by, user = self._entry("user", context["user"]) if context.get("user") else (where, {})
        for kind, entry, names in (
            ("cluster", cluster, _UNSUPPORTED_CLUSTER),
            ("user", user, _UNSUPPORTED_USER),
        ):
            if unsupported := [name for name in names if entry.get(name)]:
                raise NoAccess(f"{self._name}: {unsupported[0]} of a {kind} is not supported")
        server = str(cluster.get("server", "")).rstrip("/")
        if not server.startswith(("https://", "http://")):
            raise NoAccess(f"{self._name}: the cluster's server must be a URL, like https://host:6443")
        token, certificate = self._user(by, user, server)
        connection = Connection(
            server,
            self._data(where, cluster, "certificate-authority"),
            verify=not cluster.get("insecure-skip-tls-verify"),
            server_name=cluster.get("tls-server-name"),
            certificate=certificate,
        )
        return Credentials(connection, token)

    def _user(self, path: str, user: Any, server: str) -> tuple[str | None, tuple[bytes, bytes] | None]:
        chain, key = (self._data(path, user, name) for name in ("client-certificate", "client-key"))
        token = user.get("token")
        if not token and user.get("tokenFile"):
            token = _token(self._path(path, user["tokenFile"]))
        if user.get("exec") and not token and not chain:
            status = _run(user["exec"], os.path.dirname(path), server)
            token = status.get("token")
            chain, key = (
                str(status[name]).encode() if status.get(name) else None
                for name in ("clientCertificateData", "clientKeyData")
            )
        return token and str(token), (chain, key) if chain and key else None

    def _entry(self, kind: str, name: object) -> tuple[str, Any]:
        """Return the entry of a name, and the file that has it."""
        for path, document in self._documents:
            for each in document.get(f"{kind}s") or ():
                if each.get("name") == name:
                    return path, each.get(kind) or {}
        raise NoAccess(f"{self._name}: no {kind} {name!r}")

    def _data(self, path: str, entry: Any, name: str) -> bytes | None:
        """Return the content that stands in an entry as base64 or as a path."""
        if data := entry.get(f"{name}-data"):
            try:
                return base64.b64decode(data, validate=True)
            except (binascii.Error, TypeError, ValueError):
                raise NoAccess(f"{path}: {name}-data is not base64") from None
        return _file(self._path(path, entry[name])) if entry.get(name) else None

    def _path(self, path: str, name: str) -> str:
        """Return a path that a kubeconfig names, relative to that file, and follow it."""
        found = os.path.join(os.path.dirname(path), name)
        self.files += (found,)
        return found


def _run(command: Any, folder: str, server: str) -> dict[str, Any]:
    """Run the command of a user's ``exec`` entry; return the status of the ExecCredential that it prints."""
    api = str(command.get("apiVersion", ""))
    if not api.startswith(_EXEC_API):
        raise NoAccess(f"exec of a user: apiVersion {api!r} is not supported")
    name = str(command.get("command", ""))
    if "/" in name:
        name = os.path.join(folder, name)
    info: dict[str, Any] = {"apiVersion": api, "kind": "ExecCredential", "spec": {"interactive": False}}
    if command.get("provideClusterInfo"):
        info["spec"]["cluster"] = {"server": server}
    environment = {each["name"]: each["value"] for each in command.get("env") or ()}
    try:
        done = subprocess.run(  # noqa: S603 - the command that the user's kubeconfig names
            [name, *map(str, command.get("args") or ())],
            env=os.environ | environment | {"KUBERNETES_EXEC_INFO": json.dumps(info)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=_EXEC_LIMIT,
            check=True,
        )
        status = json.loads(done.stdout)["status"]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        hint = command.get("installHint")
        raise NoAccess(f"exec of a user: {name}: {error}" + (f"; {hint}" if hint else "")) from None
    return status if isinstance(status, dict) else {}


def _token(path: str) -> str:
    token = _file(path).decode(errors="replace").strip()
    if not token.isascii() or not token.isprintable():
        raise NoAccess(f"{path}: this is no token")
    return token


def _file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_BYTES)
    except OSError as error:
        raise NoAccess(f"{path}: {error.strerror}") from None


def _state_of(path: str) -> object:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
