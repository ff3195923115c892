"""The API server of `simulate` as another process sees it: with TLS, tokens and authorities that rotate.

It runs on an event loop in a thread of its own. Certificates are made by `openssl`.
"""

import asyncio
import os
import ssl
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import yaml

from tests.support.waiting import wait_for
from xilinx_fpga_dp.simulate.api_server import ApiServer, Json, Trouble

T = TypeVar("T")

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "3650")


class Authority:
    """A certificate authority with a certificate for a server, in a folder.

    Args:
        folder: is made.
        identified: its certificates have key identifiers and a key usage.
        address: the name in the server's certificate.
    """

    def __init__(self, folder: Path, *, identified: bool = True, address: str = "IP:127.0.0.1") -> None:
        folder.mkdir(parents=True)
        self.certificate, self._key = folder / "ca.crt", folder / "ca.key"
        self._folder, self._identified = folder, identified
        (folder / "openssl.cnf").write_text("[req]\ndistinguished_name = names\n[names]\n")
        usage = ("keyUsage=critical,keyCertSign,cRLSign",) if identified else ()
        self._make(self.certificate, self._key, "basicConstraints=critical,CA:TRUE", *usage)
        self.issue("server", f"subjectAltName={address}")

    def issue(self, name: str, *extensions: str) -> tuple[Path, Path]:
        """Make a certificate and its key."""
        certificate, key = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        by = ("-CA", self.certificate, "-CAkey", self._key)
        self._make(certificate, key, "basicConstraints=CA:FALSE", *extensions, by=by)
        return certificate, key

    def _make(self, certificate: Path, key: Path, *extensions: str, by: tuple[object, ...] = ()) -> None:
        identifiers = ("hash", "keyid:always") if self._identified else ("none", "none")
        extensions += (f"subjectKeyIdentifier={identifiers[0]}", f"authorityKeyIdentifier={identifiers[1]}")
        words: list[object] = ["openssl", "req", "-x509", "-config", self._folder / "openssl.cnf", *_KEY, *by]
        words += ["-subj", f"/CN={certificate.stem}", "-keyout", key, "-out", certificate]
        words += [word for extension in extensions for word in ("-addext", extension)]
        subprocess.run(list(map(str, words)), check=True, capture_output=True)

    def context(self) -> ssl.SSLContext:
        """Return the context of a server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._folder / "server.crt", self._folder / "server.key")
        return context


class RunningApiServer:
    """A server in a thread, and the files that a client reads to reach it.

    Attributes:
        api: what is stored and what goes wrong. Change what is stored through `put` and `remove`.
        kubeconfig: names a token file and an authority file, as a pod's service account has them.
    """

    def __init__(self, folder: Path, *, tls: bool = True) -> None:
        token = "first"
        self.folder = folder
        self.api = ApiServer(tokens={token})
        self.port = 0
        self.kubeconfig = folder / "kubeconfig"
        self._authorities = 0
        self._authority: Authority | None = None
        self._tls = tls
        self._certificates = False  # a client has to show one
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.write_token(token)
        if tls:
            self.new_authority()
        self.start()
        self._write_kubeconfig()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def environment(self) -> dict[str, str]:
        return {"KUBECONFIG": str(self.kubeconfig)}

    @property
    def token_file(self) -> Path:
        return self.folder / "token"

    @property
    def authority_file(self) -> Path:
        return self.folder / "ca.crt"

    def start(self) -> None:
        """Serve, on the same port as before."""
        context = self._authority.context() if self._authority else None
        if context and self._authority and self._certificates:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self._authority.certificate)
        self.port = self._await(self.api.start(port=self.port, tls=context))

    def stop(self) -> None:
        """Break every connection and refuse new ones."""
        self._await(self.api.stop())

    def write_token(self, token: str) -> None:
        """Replace the token file, as kubelet does: by rename."""
        _replace(self.token_file, token.encode())

    def rotate_token(self, token: str) -> None:
        """Accept another token and no more the old one; a client finds it in its file."""
        self.write_token(token)
        self.api.tokens = {token}

    def new_authority(self, *, identified: bool = True, address: str = "IP:127.0.0.1") -> Authority:
        """Let another authority count from the next start on; a client finds it in its file."""
        self._authorities += 1
        folder = self.folder / f"authority-{self._authorities}"
        self._authority = Authority(folder, identified=identified, address=address)
        _replace(self.authority_file, self._authority.certificate.read_bytes())
        return self._authority

    def require_certificates(self) -> None:
        """Let only clients with a certificate of the authority connect, from the next start on."""
        self._certificates = True

    def put(self, path: str, item: Json) -> Json:
        return self.do(lambda: self.api.put(path, item))

    def remove(self, path: str) -> None:
        self.do(lambda: self.api.remove(path))

    def trouble(self, **what: Any) -> Trouble:
        """Let something go wrong; see `Trouble`. To end it, set its ``times`` to 0."""
        trouble = Trouble(**what)
        self.api.troubles.append(trouble)
        return trouble

    def do(self, call: Callable[[], T]) -> T:
        """Call on the server's loop."""

        async def on_the_loop() -> T:
            return call()

        return self._await(on_the_loop())

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop it like SIGSTOP: the kernel takes connections, and nothing answers."""
        thaw = threading.Event()
        self._loop.call_soon_threadsafe(thaw.wait, 120)
        try:
            yield
        finally:
            thaw.set()

    def wait_for(self, condition: Callable[[], T], what: str, limit: float = 50.0) -> T:
        """Wait until a condition on what is stored or was asked is true."""
        return wait_for(
            lambda: self.do(condition), lambda: f"{what}; asked: {list(self.api.requests)}", limit
        )

    def _await(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def _write_kubeconfig(self) -> None:
        cluster = {"server": f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"}
        if self._tls:
            cluster["certificate-authority"] = self.authority_file.name
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"tokenFile": self.token_file.name}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        self.kubeconfig.write_text(yaml.safe_dump(document))


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(content)
    os.replace(beside, path)
