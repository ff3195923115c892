"""The plugin's pods in the fake API server, each with an HTTP server that its proxy reaches."""

import asyncio
import json
import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from tests.support.api_server import RunningApiServer
from xilinx_fpga_dp.simulate.api_server import Json, Refusal

NAMESPACE = "kube-system"
LABELS = {"app.kubernetes.io/name": "xilinx-fpga-dp", "app.kubernetes.io/instance": "xilinx-fpga-dp"}
_RUNNING: Json = {
    "phase": "Running",
    "conditions": [{"type": "Ready", "status": "True"}],
    "containerStatuses": [{"name": "xilinx-fpga-dp", "ready": True, "state": {"running": {}}}],
}


def device(address: str = "0000:65:00.1", **more: Any) -> Json:
    """Return a device as ``/state`` has it."""
    known = {
        "id": address,
        "resource": "xilinx.com/fpga-xilinx_u200_xdma_201830_2-1561465320",
        "shell": "xilinx_u200_xdma_201830_2",
        "timestamp": "1561465320",
        "board": "u200",
        "serial": "XFL1A2B3C4D5",
        "logic_uuid": None,
        "numa_node": 0,
        "driver": "xocl",
        "rule": None,
        "health": "Healthy",
        "reason": None,
        "since": "2026-11-23T07:00:00Z",
        "changes": 0,
        "last_reason": None,
        "held_by": [],
        "nodes": ["/dev/dri/renderD128"],
    }
    return known | more


def state(*devices: Json, left_out: Mapping[str, str] | None = None) -> Json:
    """Return the document of a node."""
    return {
        "devices": list(devices),
        "left_out": [{"function": name, "reason": reason} for name, reason in (left_out or {}).items()],
        "resources": {
            each["resource"]: {"devices": 1, "healthy": 1, "registered": True}
            for each in devices
            if "resource" in each
        },
    }


class PluginPods:
    """Pods of the plugin, and the proxy of the API server that reaches them over TCP.

    Attributes:
        most: the calls that were in progress at one time.
    """

    def __init__(self, server: RunningApiServer) -> None:
        self.server = server
        self.most = 0
        self._calls = 0
        self._open: list[asyncio.Server | asyncio.StreamWriter] = []
        self._answers: dict[str, bytes] = {}
        server.api.proxy = self._proxy

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.do(lambda: [each.close() for each in self._open])

    def add(
        self,
        node: str,
        answer: Json | bytes | None = None,
        *,
        name: str = "",
        namespace: str = NAMESPACE,
        code: int = 200,
        headers: Mapping[str, str] | None = None,
        port: int | None = None,
        **status: Any,
    ) -> str:
        """Add a pod; return its name.

        Args:
            node: that it is on.
            answer: of ``/state``; None: it accepts the connection and says nothing.
            name: of the pod.
            namespace: of the pod.
            code: the status of its answer.
            headers: more headers of its answer.
            port: of another server that answers in its place; 0: the pod has no port.
            status: of the pod, in place of Running and Ready.
        """
        name = name or f"xilinx-fpga-dp-{node}"
        self.answers(name, answer, code, headers)
        if port is None:
            port = self.server._await(self._serve(name))
        ports = [{"name": "http", "containerPort": port}] if port else []
        self.server.put(
            f"/api/v1/namespaces/{namespace}/pods/{name}",
            {
                "metadata": {"labels": LABELS},
                "spec": {"nodeName": node, "containers": [{"name": "xilinx-fpga-dp", "ports": ports}]},
                "status": {**_RUNNING, "podIP": "127.0.0.1", **status},
            },
        )
        return name

    def answers(
        self,
        name: str,
        answer: Json | bytes | None,
        code: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Let a pod answer something else from now on."""
        if answer is None:
            self._answers.pop(name, None)
            return
        body = answer if isinstance(answer, bytes) else json.dumps(answer, indent=2).encode()
        lines = [f"HTTP/1.1 {code} Made so", f"Content-Length: {len(body)}"]
        lines += [f"{key}: {value}" for key, value in (headers or {}).items()]
        self._answers[name] = "\r\n".join([*lines, "", ""]).encode() + body

    async def _serve(self, name: str) -> int:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._open.append(writer)
            await reader.readuntil(b"\r\n\r\n")
            if answer := self._answers.get(name):
                writer.write(answer)
                await writer.drain()
            else:
                await reader.read()
            writer.close()

        serving = await asyncio.start_server(connected, "127.0.0.1", 0)
        self._open.append(serving)
        return int(serving.sockets[0].getsockname()[1])

    async def _proxy(self, namespace: str, pod: str, path: str) -> tuple[int, bytes, Mapping[str, str]]:
        """Do what the API server does (kubernetes pkg/registry/core/pod/strategy.go, ResourceLocation)."""
        name, _, port = pod.partition(":")
        found = self.server.api.get(f"/api/v1/namespaces/{namespace}/pods/{name}")
        if found is None:
            raise Refusal(404, "NotFound", f'pods "{name}" not found')
        self._calls += 1
        self.most = max(self.most, self._calls)
        try:
            return await self._fetch(found["status"]["podIP"], int(port), path)
        except OSError as error:
            why = os.strerror(error.errno or 0).lower()
            message = f"error trying to reach service: dial tcp 127.0.0.1:{port}: connect: {why}"
            raise Refusal(503, "ServiceUnavailable", message) from None
        finally:
            self._calls -= 1

    async def _fetch(self, host: str, port: int, path: str) -> tuple[int, bytes, Mapping[str, str]]:
        reader, writer = await asyncio.open_connection(host, port, limit=1 << 20)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
            body = await reader.read()
        finally:
            writer.close()
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        ours = {"content-length", "content-type", "connection"}
        return (
            int(head[0].split(" ")[1]),
            body,
            {name: value for name, value in headers.items() if name.lower() not in ours},
        )
