"""The client of the API server against a server with TLS that does what servers do wrong."""

import asyncio
import base64
import os
import socket
import ssl
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.api_server import RunningApiServer
from tests.support.process import COMMAND, ENDS, clean_environment
from tests.support.waiting import wait_for
from xilinx_fpga_dp.apiserver import access
from xilinx_fpga_dp.apiserver import client as module
from xilinx_fpga_dp.apiserver.backoff import Backoff
from xilinx_fpga_dp.apiserver.client import JSON_PATCH, MERGE, STRATEGIC, ApiServer, Change, Kind, path
from xilinx_fpga_dp.apiserver.errors import (
    ApiServerError,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NoAccess,
    NoAnswer,
    NotFound,
    Refused,
    Unauthorized,
)
from xilinx_fpga_dp.simulate.api_server import Json

NODES = "/api/v1/nodes"
NODE = "/api/v1/nodes/n1"
CLAIMS = "/apis/resource.k8s.io/v1/namespaces/ns/resourceclaims"
LIMIT = 60.0  # seconds for a step of a test


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningApiServer]:
    with RunningApiServer(tmp_path) as running:
        running.put(NODE, _node("n1"))
        yield running


@pytest.fixture
async def client(server: RunningApiServer) -> AsyncIterator[ApiServer]:
    async with ApiServer(access.find(server.environment), call_limit=LIMIT) as client:
        yield client


def _node(name: str, **labels: str) -> Json:
    return {"metadata": {"name": name, "labels": labels}, "spec": {}, "status": {}}


@asynccontextmanager
async def _impatient(server: RunningApiServer, **limits: float) -> AsyncIterator[ApiServer]:
    async with ApiServer(access.find(server.environment), **limits) as client:  # type: ignore[arg-type]
        yield client


class Watch:
    """A watch that a test reads step by step."""

    def __init__(self, changes: AsyncGenerator[Change, None]) -> None:
        self._changes = changes

    async def next(self) -> Change:
        async with asyncio.timeout(LIMIT):
            return await anext(self._changes)

    async def until(self, kind: Kind) -> Change:
        while (change := await self.next()).kind is not kind:
            pass
        return change


@asynccontextmanager
async def _watching(client: ApiServer, path: str = NODES, **selectors: str) -> AsyncIterator[Watch]:
    async with aclosing(client.watch(path, **selectors)) as changes:
        watch = Watch(changes)
        assert (await watch.next()).kind is Kind.LISTED
        yield watch


async def _standing(server: RunningApiServer, watch: Watch) -> asyncio.Task[Change]:
    """Read the next change of a watch in the background; return once the server has the watch."""
    following = asyncio.create_task(watch.next())
    await asyncio.to_thread(server.wait_for, lambda: server.api.watches == 1, "the watch stands", LIMIT)
    return following


def _versions(change: Change) -> list[str]:
    return [each["metadata"]["name"] for each in change.objects]


class TestCall:
    async def test_object_is_created_replaced_patched_and_deleted(self, client: ApiServer) -> None:
        made = await client.create(CLAIMS, {"metadata": {"name": "c"}, "spec": {"a": 1, "b": 2}})
        assert made["metadata"]["namespace"] == "ns"
        replaced = await client.replace(f"{CLAIMS}/c", made | {"spec": {"a": 2, "b": 2}})
        assert replaced["metadata"]["uid"] == made["metadata"]["uid"]
        patched = await client.patch(f"{CLAIMS}/c", {"spec": {"b": None}}, MERGE)
        assert patched["spec"] == {"a": 2}
        await client.delete(f"{CLAIMS}/c", uid=made["metadata"]["uid"])
        with pytest.raises(NotFound, match='resourceclaims "c" not found'):
            await client.get(f"{CLAIMS}/c")

    async def test_old_version_is_a_conflict(self, client: ApiServer) -> None:
        made = await client.create(CLAIMS, {"metadata": {"name": "c"}, "spec": 1})
        await client.replace(f"{CLAIMS}/c", made | {"spec": 2})
        with pytest.raises(Conflict) as caught:
            await client.replace(f"{CLAIMS}/c", made | {"spec": 3})
        assert caught.value.reason == "Conflict"

    async def test_existing_object_and_other_uid_are_conflicts(self, client: ApiServer) -> None:
        await client.create(CLAIMS, {"metadata": {"name": "c"}})
        with pytest.raises(Conflict) as caught:
            await client.create(CLAIMS, {"metadata": {"name": "c"}})
        assert caught.value.reason == "AlreadyExists"
        with pytest.raises(Conflict):
            await client.delete(f"{CLAIMS}/c", uid="other")

    async def test_dry_run_stores_nothing(self, server: RunningApiServer, client: ApiServer) -> None:
        server.api.dropped = ["spec.devices.*.taints"]
        wanted: Json = {"metadata": {"name": "c"}, "spec": {"devices": [{"name": "d", "taints": [1]}]}}
        assert (await client.create(CLAIMS, wanted, dry_run=True))["spec"] == {"devices": [{"name": "d"}]}
        assert (await client.patch(NODE, {}, MERGE, dry_run=True))["metadata"]["name"] == "n1"
        assert server.api.all(CLAIMS) == []
        assert not any(each.writes for each in server.api.requests)

    async def test_conditions_are_merged_by_type(self, server: RunningApiServer, client: ApiServer) -> None:
        server.put(NODE, _node("n1") | {"status": {"conditions": [{"type": "Ready", "status": "True"}]}})
        patch = {"status": {"conditions": [{"type": "Own", "status": "True"}]}}
        found = await client.patch(f"{NODE}/status", patch, STRATEGIC)
        assert [each["type"] for each in found["status"]["conditions"]] == ["Ready", "Own"]

    async def test_failed_test_of_a_json_patch_is_invalid(
        self, server: RunningApiServer, client: ApiServer
    ) -> None:
        taints = [{"key": "a", "effect": "NoSchedule"}, {"key": "b", "effect": "NoSchedule"}]
        server.put(NODE, _node("n1") | {"spec": {"taints": taints}})
        test = {"op": "test", "path": "/spec/taints/1", "value": taints[0]}
        remove = {"op": "remove", "path": "/spec/taints/1"}
        with pytest.raises(Invalid):
            await client.patch(NODE, [test, remove], JSON_PATCH)
        patched = await client.patch(NODE, [test | {"value": taints[1]}, remove], JSON_PATCH)
        assert patched["spec"]["taints"] == taints[:1]

    async def test_list_returns_all_pages(self, server: RunningApiServer, client: ApiServer) -> None:
        for number in range(1101):
            server.api.put(f"{NODES}/m{number}", _node(f"m{number}", odd=str(number % 2)))
        assert len((await client.list(NODES)).objects) == 1102
        assert len((await client.list(NODES, labels="odd=1")).objects) == 550
        assert len((await client.list(NODES, fields="metadata.name!=n1")).objects) == 1101

    @pytest.mark.parametrize(
        ("code", "kind"),
        [(401, Unauthorized), (403, Forbidden), (404, NotFound), (409, Conflict), (410, Gone), (422, Invalid),
         (429, Refused), (500, Refused), (503, Refused)],
    )  # fmt: skip
    async def test_status_gives_its_error(
        self, server: RunningApiServer, client: ApiServer, code: int, kind: type[Refused]
    ) -> None:
        server.trouble(code=code, reason="Reason", message="it is so", retry_after=7)
        with pytest.raises(kind, match=f"GET {NODE}: {code} it is so") as caught:
            await client.get(NODE)
        assert (caught.value.code, caught.value.reason, caught.value.retry_after) == (code, "Reason", 7.0)

    async def test_retry_after_is_the_least_wait(self, server: RunningApiServer, client: ApiServer) -> None:
        server.trouble(code=429, retry_after=3600)
        with pytest.raises(Refused) as caught:
            await client.get(NODE)
        assert Backoff().after(caught.value) == 60.0

    async def test_slow_answer_ends_at_the_limit(self, server: RunningApiServer) -> None:
        server.trouble(delay=20)
        async with _impatient(server, call_limit=0.2) as client:
            with pytest.raises(NoAnswer, match=r"no answer for 0\.2 s"):
                await client.get(NODE)

    async def test_stopped_server_is_told_from_a_slow_one(
        self, server: RunningApiServer, client: ApiServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its return is to be noticed soon, so attempts do not become rare."""
        await client.get(NODE)
        monkeypatch.setattr(module, "_CONNECTING", 0.02)
        with server.frozen():
            with pytest.raises(NoAnswer, match="no answer for 1 s") as on_kept_connection:
                await client.call("GET", NODE, limit=1.0)
            with pytest.raises(NoAnswer) as on_new_connection:
                await client.call("GET", NODE, limit=20.0)
        assert on_kept_connection.value.connected
        assert not on_new_connection.value.connected
        monkeypatch.undo()
        assert await client.get(NODE)

    async def test_server_that_is_away_is_no_answer(
        self, server: RunningApiServer, client: ApiServer
    ) -> None:
        server.stop()
        with pytest.raises(NoAnswer) as caught:
            await client.get(NODE)
        assert not caught.value.connected
        server.start()
        assert await client.get(NODE)

    async def test_closed_idle_connection_is_not_noticed(
        self, server: RunningApiServer, client: ApiServer
    ) -> None:
        """The server closes the connection when the next request comes, as late as it can."""
        await client.get(NODE)
        server.trouble(cut="before", times=1)
        assert await client.patch(NODE, {"spec": {"a": 1}}, MERGE)
        assert server.api.connections == 2

    async def test_call_is_repeated_only_once(self, server: RunningApiServer, client: ApiServer) -> None:
        await client.get(NODE)
        server.trouble(cut="before")
        with pytest.raises(NoAnswer):
            await client.get(NODE)
        assert [each.code for each in server.api.requests] == [200, 0, 0]

    async def test_create_without_a_name_is_not_repeated(
        self, server: RunningApiServer, client: ApiServer
    ) -> None:
        await client.get(NODE)
        server.trouble(matches="POST", cut="after")
        with pytest.raises(NoAnswer):
            await client.create(CLAIMS, {"metadata": {"generateName": "c-"}})
        assert len(server.api.all(CLAIMS)) == 1

    async def test_answer_cut_within_is_repeated(self, server: RunningApiServer, client: ApiServer) -> None:
        await client.get(NODE)
        server.trouble(matches="PUT", cut="after", times=1)
        assert (await client.replace(NODE, _node("n1", a="b")))["metadata"]["labels"] == {"a": "b"}

    async def test_hundred_calls_at_once(self, server: RunningApiServer, client: ApiServer) -> None:
        await client.get(NODE)
        server.trouble(cut="before", times=20)
        found = await asyncio.gather(*(client.get(NODE) for _ in range(100)), return_exceptions=True)
        assert sum(isinstance(each, dict) for each in found) >= 80
        assert all(isinstance(each, dict | NoAnswer) for each in found)

    @pytest.mark.parametrize("segment", ["", ".", ".."])
    def test_segment_that_leaves_its_place_is_refused(self, segment: str) -> None:
        with pytest.raises(ValueError, match="no name"):
            path("api/v1", "nodes", segment)

    def test_segments_are_quoted(self) -> None:
        assert path("api/v1", "nodes", "a/../b?c") == "/api/v1/nodes/a%2F..%2Fb%3Fc"


class TestAccess:
    async def test_rotated_token_is_used_from_the_next_look_on(
        self, server: RunningApiServer, client: ApiServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await client.get(NODE)
        server.rotate_token("second")
        monkeypatch.setattr(module, "_LOOK_EVERY", 0.0)
        assert await client.get(NODE)
        assert [each.token for each in server.api.requests] == ["first", "second"]

    async def test_files_are_not_looked_at_for_each_call(
        self, server: RunningApiServer, client: ApiServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_LOOK_EVERY", LIMIT)
        await client.get(NODE)
        with monkeypatch.context() as patched:
            patched.setattr(access.Access, "current", None)
            await client.get(NODE)
        server.rotate_token("second")
        assert await client.get(NODE), "a token that is refused is read at once"
        seen = [(each.token, each.code) for each in server.api.requests]
        assert seen == [("first", 200), ("first", 200), ("first", 401), ("second", 200)]

    async def test_token_that_expires_during_a_call_is_read_again(
        self, server: RunningApiServer, client: ApiServer
    ) -> None:
        trouble = server.trouble(code=401, delay=0.2, times=1)
        call = asyncio.create_task(client.get(NODE))
        await asyncio.to_thread(server.wait_for, lambda: trouble.hits == 1, "the call has come", LIMIT)
        server.rotate_token("second")
        assert await call
        assert [(each.token, each.code) for each in server.api.requests] == [("first", 401), ("second", 200)]

    async def test_token_that_stays_wrong_is_unauthorized(
        self, server: RunningApiServer, client: ApiServer
    ) -> None:
        server.api.tokens = {"another"}
        with pytest.raises(Unauthorized):
            await client.get(NODE)
        assert len(server.api.requests) == 1

    async def test_rotated_authority_gives_new_connections(
        self, server: RunningApiServer, client: ApiServer
    ) -> None:
        await client.get(NODE)
        server.stop()
        server.new_authority()
        server.start()
        assert await client.get(NODE)

    async def test_other_authority_is_refused(self, server: RunningApiServer, client: ApiServer) -> None:
        before = server.authority_file.read_bytes()
        server.stop()
        server.new_authority()
        server.authority_file.write_bytes(before)
        server.start()
        with pytest.raises(NoAnswer, match="certificate verify failed"):
            await client.get(NODE)

    async def test_host_name_is_verified(self, server: RunningApiServer, client: ApiServer) -> None:
        server.stop()
        server.new_authority(address="DNS:elsewhere")
        server.start()
        with pytest.raises(NoAnswer, match="certificate verify failed"):
            await client.get(NODE)

    async def test_files_of_a_service_account(self, server: RunningApiServer) -> None:
        """As kubelet makes them: links into a directory that one rename replaces."""
        folder = server.folder / "serviceaccount"
        _publish(folder, "1", token="first", authority=server.authority_file.read_bytes())
        environment = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(server.port)}
        async with ApiServer(access.service_account(environment, str(folder))) as client:
            await client.get(NODE)
            server.stop()
            server.new_authority()
            server.api.tokens = {"second"}
            server.start()
            _publish(folder, "2", token="second", authority=server.authority_file.read_bytes())
            assert await client.get(NODE)
            assert [each.code for each in server.api.requests] == [200, 200]

    async def test_unreadable_files_keep_the_old_token(
        self, server: RunningApiServer, client: ApiServer
    ) -> None:
        await client.get(NODE)
        server.token_file.unlink()
        assert await client.get(NODE)

    async def test_missing_token_file_is_named(self, server: RunningApiServer, client: ApiServer) -> None:
        server.token_file.unlink()
        with pytest.raises(NoAccess, match=str(server.token_file)):
            await client.get(NODE)

    def test_no_access_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(NoAccess, match="KUBECONFIG names no file"):
            access.find({}, home=str(tmp_path)).current()

    async def test_authority_without_key_usage_and_identifiers(self, server: RunningApiServer) -> None:
        """As EKS and MicroK8s make them; Python 3.13 refuses it by default."""
        server.stop()
        server.new_authority(identified=False)
        server.start()
        strict = ssl.create_default_context(cafile=str(server.authority_file))
        strict.verify_flags |= ssl.VERIFY_X509_STRICT
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection("127.0.0.1", server.port, ssl=strict)
        async with ApiServer(access.find(server.environment)) as client:
            assert await client.get(NODE)


def _publish(folder: Path, name: str, *, token: str, authority: bytes) -> None:
    """Replace the content of a projected volume (k8s.io/kubernetes pkg/volume/util/atomic_writer.go)."""
    content = folder / f"..{name}"
    content.mkdir(parents=True)
    (content / "token").write_text(token)
    (content / "ca.crt").write_bytes(authority)
    link = folder / "..data_tmp"
    link.symlink_to(content.name)
    os.replace(link, folder / "..data")
    for each in ("token", "ca.crt"):
        if not (folder / each).is_symlink():
            (folder / each).symlink_to(f"..data/{each}")


class TestKubeconfig:
    @staticmethod
    def _write(server: RunningApiServer, **user: object) -> Path:
        document = yaml.safe_load(server.kubeconfig.read_text())
        document["users"][0]["user"] = user
        path = server.folder / "other"
        path.write_text(yaml.safe_dump(document))
        return path

    async def _node(self, *paths: Path) -> Json:
        async with ApiServer(access.kubeconfig(list(map(str, paths)))) as client:
            return await client.get(NODE)

    async def test_token_and_inline_authority(self, server: RunningApiServer) -> None:
        path = self._write(server, token="first")
        document = yaml.safe_load(path.read_text())
        cluster = document["clusters"][0]["cluster"]
        del cluster["certificate-authority"]
        cluster["certificate-authority-data"] = base64.b64encode(server.authority_file.read_bytes()).decode()
        path.write_text(yaml.safe_dump(document))
        assert await self._node(path)

    async def test_client_certificate_is_shown_to_the_server(self, server: RunningApiServer) -> None:
        server.stop()
        authority = server.new_authority()
        server.require_certificates()
        server.api.tokens = set()
        server.start()
        certificate, key = authority.issue("client")
        path = self._write(
            server,
            **{
                "client-certificate-data": base64.b64encode(certificate.read_bytes()).decode(),
                "client-key": str(key),
            },
        )
        assert await self._node(path)
        with pytest.raises(NoAnswer):
            await self._node(self._write(server, token="first"))

    async def test_command_gives_the_token(self, server: RunningApiServer) -> None:
        answer = '{"kind": "ExecCredential", "status": {"token": "%s"}}'
        command = {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "sh",
            "args": ["-c", f"printf '{answer}' $WHICH"],
            "env": [{"name": "WHICH", "value": "first"}],
        }
        assert await self._node(self._write(server, exec=command))

    async def test_command_that_fails_is_named_with_its_hint(self, server: RunningApiServer) -> None:
        command = {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "/nowhere",
            "installHint": "get it",
        }
        with pytest.raises(NoAccess, match=r"/nowhere: .*; get it"):
            await self._node(self._write(server, exec=command))

    async def test_server_that_is_not_verified(self, server: RunningApiServer) -> None:
        path = self._write(server, token="first")
        document = yaml.safe_load(path.read_text())
        document["clusters"][0]["cluster"] = {
            "server": f"https://127.0.0.1:{server.port}/",
            "insecure-skip-tls-verify": True,
        }
        path.write_text(yaml.safe_dump(document))
        assert await self._node(path)

    async def test_name_in_the_certificate_differs_from_the_host(self, server: RunningApiServer) -> None:
        server.stop()
        server.new_authority(address="DNS:kubernetes.example")
        server.start()
        path = self._write(server, token="first")
        document = yaml.safe_load(path.read_text())
        document["clusters"][0]["cluster"]["tls-server-name"] = "kubernetes.example"
        path.write_text(yaml.safe_dump(document))
        assert await self._node(path)

    async def test_first_of_several_files_counts(self, server: RunningApiServer) -> None:
        path = self._write(server, token="wrong")
        assert await self._node(server.folder / "missing", server.kubeconfig, path)
        with pytest.raises(Unauthorized):
            await self._node(path, server.kubeconfig)

    @pytest.mark.parametrize("name", ["auth-provider", "username", "as"])
    async def test_unsupported_part_is_named(self, server: RunningApiServer, name: str) -> None:
        with pytest.raises(NoAccess, match=f"{name} of a user is not supported"):
            await self._node(self._write(server, **{name: "x"}))

    @pytest.mark.parametrize(
        "text", ["", "[]", "{", "current-context: x", "current-context: x\ncontexts: [1]"]
    )
    async def test_file_that_is_none_is_no_access(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "config"
        path.write_text(text)
        with pytest.raises(NoAccess):
            await self._node(path)


class TestWatch:
    async def test_changes_arrive_in_order(self, server: RunningApiServer, client: ApiServer) -> None:
        async with _watching(client, fields="metadata.name=n2") as watch:
            following = await _standing(server, watch)
            server.put(f"{NODES}/n3", _node("n3"))
            server.put(f"{NODES}/n2", _node("n2"))
            server.put(f"{NODES}/n2", _node("n2", a="b"))
            server.remove(f"{NODES}/n2")
            kinds = [(await following).kind, (await watch.next()).kind, (await watch.next()).kind]
        assert kinds == [Kind.ADDED, Kind.MODIFIED, Kind.DELETED]

    async def test_watch_that_ends_in_order_goes_on(
        self, server: RunningApiServer, client: ApiServer
    ) -> None:
        async with _watching(client) as watch:
            following = await _standing(server, watch)
            server.do(server.api.end_watches)
            server.put(f"{NODES}/n2", _node("n2"))
            assert (await following).kind is Kind.ADDED
        assert [each.query.get("watch") for each in server.api.requests] == [None, "true", "true"]

    @pytest.mark.parametrize("how", ["cut_watches", "end_watches_within_a_line", "expire_watches"])
    async def test_broken_watch_lists_again(
        self, server: RunningApiServer, client: ApiServer, how: str
    ) -> None:
        async with _watching(client) as watch:
            following = await _standing(server, watch)
            server.do(getattr(server.api, how))
            server.put(f"{NODES}/n2", _node("n2"))
            changes = [await following, await watch.next()]
            while changes[-1].kind is not Kind.LISTED:
                changes.append(await watch.next())
            assert Kind.LOST in [change.kind for change in changes]
            assert _versions(changes[-1]) == ["n1", "n2"]
            following = await _standing(server, watch)
            server.remove(f"{NODES}/n2")
            assert (await following).kind is Kind.DELETED

    async def test_refused_watch_whose_body_never_comes_is_lost(self) -> None:
        ended = asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            ended.clear()
            head = await reader.readuntil(b"\r\n\r\n")
            if b"watch=true" in head:
                writer.write(b"HTTP/1.1 500 Error\r\nContent-Length: 9\r\n\r\n")
                await reader.read()  # until the client has left
            else:
                body = b'{"kind": "NodeList", "metadata": {"resourceVersion": "1"}, "items": []}'
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            writer.close()
            ended.set()

        listener = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        given = access.Credentials(access.Connection(f"http://127.0.0.1:{port}"))
        async with listener, ApiServer(access.Access(lambda: (given, ())), call_limit=1.0) as client:
            async with _watching(client) as watch:
                lost = await watch.until(Kind.LOST)
            await ended.wait()
        assert isinstance(lost.error, Refused)
        assert lost.error.code == 500

    async def test_silent_connection_is_given_up(self, server: RunningApiServer) -> None:
        async with _impatient(server, silence=2.0) as client, _watching(client) as watch:
            following = await _standing(server, watch)
            server.do(server.api.silence_watches)
            server.put(f"{NODES}/n2", _node("n2"))
            lost = await following
            assert (lost.kind, str(lost.error)) == (Kind.LOST, f"WATCH {NODES}: no data in time")
            assert _versions(await watch.until(Kind.LISTED)) == ["n1", "n2"]

    async def test_bookmark_keeps_the_version_recent(
        self, server: RunningApiServer, client: ApiServer
    ) -> None:
        async with _watching(client) as watch:
            following = await _standing(server, watch)
            for number in range(5):
                server.put(f"/api/v1/pods/p{number}", {"metadata": {}})
            server.do(server.api.bookmark_watches)
            server.do(server.api.end_watches)
            await asyncio.to_thread(
                server.wait_for, lambda: len(server.api.requests) == 3, "watched again", LIMIT
            )
            server.put(f"{NODES}/n2", _node("n2"))
            assert (await following).kind is Kind.ADDED
        versions = [
            int(each.query["resourceVersion"]) for each in server.api.requests if "watch" in each.query
        ]
        assert versions[1] - versions[0] == 5

    async def test_old_version_lists_again(self, server: RunningApiServer, client: ApiServer) -> None:
        server.api.kept_behind = False
        async with _watching(client) as watch:
            server.put(f"{NODES}/n2", _node("n2"))
            lost = await watch.next()
            assert isinstance(lost.error, Gone)
            assert _versions(await watch.until(Kind.LISTED)) == ["n1", "n2"]

    async def test_restored_etcd_lists_again(self, server: RunningApiServer, client: ApiServer) -> None:
        """The version is greater than any that the server has."""
        for number in range(5):
            server.put(f"{NODES}/m{number}", _node(f"m{number}"))
        async with _watching(client) as watch:
            server.do(lambda: server.api.go_back(4))
            lost = await watch.next()
            assert "Too large resource version" in str(lost.error)
            assert len((await watch.until(Kind.LISTED)).objects) == 6

    async def test_server_that_comes_back_is_listed_again(
        self, server: RunningApiServer, client: ApiServer
    ) -> None:
        async with _watching(client) as watch:
            following = await _standing(server, watch)
            server.stop()
            assert (await following).kind is Kind.LOST
            assert (await watch.next()).kind is Kind.LOST
            server.put(f"{NODES}/n2", _node("n2"))
            server.start()
            assert _versions(await watch.until(Kind.LISTED)) == ["n1", "n2"]

    async def test_rotated_token_is_used_by_the_next_watch(
        self, server: RunningApiServer, client: ApiServer
    ) -> None:
        async with _watching(client) as watch:
            following = await _standing(server, watch)
            server.rotate_token("second")
            server.do(server.api.cut_watches)
            await following
            await watch.until(Kind.LISTED)
            following = await _standing(server, watch)
            server.remove(NODE)
            assert (await following).kind is Kind.DELETED

    async def test_missing_right_is_told(self, server: RunningApiServer, client: ApiServer) -> None:
        server.api.denied = {("watch", "nodes")}
        async with _watching(client) as watch:
            lost = await watch.next()
        assert isinstance(lost.error, Forbidden)
        assert 'cannot watch resource "nodes"' in str(lost.error)

    async def test_closed_watch_closes_its_connection(
        self, server: RunningApiServer, client: ApiServer
    ) -> None:
        async with _watching(client) as watch:
            following = await _standing(server, watch)
            following.cancel()
            await asyncio.wait([following])
        await client.close()
        await asyncio.to_thread(
            server.wait_for, lambda: server.api.watches == 0, "the watch has ended", LIMIT
        )


def test_wait_grows_and_is_short_where_nothing_listens() -> None:
    backoff, away = Backoff(), NoAnswer("away", connected=False)
    waits = [backoff.after() for _ in range(20)]
    assert 0.1 <= waits[0] <= 0.2
    assert 15 <= waits[-1] <= 30
    assert backoff.after(away) <= 1.0
    # A server that starts has no roles yet; a right that is missing for long comes by hand.
    refused = [backoff.after(Forbidden("GET /", 403, "no")) for _ in range(10)]
    assert refused[0] <= 1.0
    assert 30 <= refused[-1] <= 60
    backoff.reset()
    assert backoff.after(ApiServerError()) <= 0.2


class TestNames:
    """A server that the configuration names, instead of its address."""

    @pytest.fixture
    def named(self, tmp_path: Path) -> Iterator[RunningApiServer]:
        with RunningApiServer(tmp_path, tls=False) as running:
            running.put(NODE, _node("n1"))
            config = running.kubeconfig.read_text()
            running.kubeconfig.write_text(config.replace("127.0.0.1", "api.example"))
            yield running

    @pytest.mark.parametrize("refuses", [True, False])
    async def test_next_address_is_tried_where_one_does_not_answer(
        self, named: RunningApiServer, monkeypatch: pytest.MonkeyPatch, refuses: bool
    ) -> None:
        other = "127.0.0.2"

        def look_up(host: str, *_: object, **__: object) -> list[Any]:
            assert host == "api.example"
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 0)) for each in (other, "127.0.0.1")]

        dial = asyncio.open_connection

        async def open_connection(host: str, *given: Any, **more: Any) -> Any:
            if host == other and not refuses:
                await asyncio.Event().wait()
            return await dial(host, *given, **more)

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        monkeypatch.setattr(asyncio, "open_connection", open_connection)
        async with ApiServer(access.find(named.environment), call_limit=LIMIT) as client:
            assert (await client.get(NODE))["metadata"]["name"] == "n1"

    async def test_unknown_name_is_no_answer(
        self, named: RunningApiServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def look_up(*_: object, **__: object) -> list[Any]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        async with ApiServer(access.find(named.environment), call_limit=LIMIT) as client:
            with pytest.raises(NoAnswer, match="Name or service not known") as caught:
                await client.get(NODE)
        assert not caught.value.connected

    def test_name_server_that_hangs_does_not_keep_a_process_from_ending(
        self, named: RunningApiServer, tmp_path: Path
    ) -> None:
        asked = tmp_path / "asked"
        (tmp_path / "sitecustomize.py").write_text(
            "import pathlib, socket, time\n"
            "def hang(*given, **more):\n"
            f"    pathlib.Path({str(asked)!r}).touch()\n"
            "    time.sleep(3600)\n"
            "socket.getaddrinfo = hang\n"
        )
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        with subprocess.Popen(
            [*COMMAND, "classes", "--follow"],
            env=clean_environment({}) | named.environment | {"PYTHONPATH": path},
            stderr=subprocess.PIPE,
        ) as process:
            wait_for(asked.exists, "a question to the name server")
            process.terminate()
            try:
                process.communicate(timeout=ENDS)
            finally:
                process.kill()
        assert process.returncode == 0
