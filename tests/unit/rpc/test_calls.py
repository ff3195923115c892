"""Unary calls whose answer can't be encoded or is not read, or that end as they are reset."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpclib.const import Handler
from h2.errors import ErrorCodes
from h2.events import StreamReset

from tests.faults.wires import begun, message
from xilinx_fpga_dp.rpc import calls
from xilinx_fpga_dp.rpc.api import deviceplugin_v1beta1 as v1beta1
from xilinx_fpga_dp.rpc.calls import Calls
from xilinx_fpga_dp.rpc.server import RpcServer, serving

SERVICE = "/v1beta1.DevicePlugin/"


class Unencodable:
    """A message that can't be encoded."""

    def __bytes__(self) -> bytes:
        raise ValueError("no such text")


class Servicer:
    """One method with a fixed answer."""

    def __init__(self, answer: Any) -> None:
        self.ended: list[tuple[str, str]] = []

        async def given(_request: Any) -> Any:
            return answer

        self.calls = Calls(
            SERVICE,
            {"Allocate": (given, v1beta1.Empty)},
            10,
            ended=lambda method, code, _seconds: self.ended.append((method, code)),
        )

    def __mapping__(self) -> dict[str, Handler]:
        return {}

    def end_streams(self) -> None:
        pass

    def disconnected(self) -> None:
        pass


@asynccontextmanager
async def called(servicer: Servicer, folder: Path) -> AsyncIterator[Any]:
    """Serve; yield the method for a client of grpcio."""
    async with serving(servicer, str(folder / "s.sock")):
        options = [("grpc.default_authority", "localhost")]
        async with grpc.aio.insecure_channel(f"unix:{folder}/s.sock", options=options) as channel:
            yield channel.unary_unary(f"{SERVICE}Allocate")


async def test_answer_that_can_not_be_encoded_is_a_status(tmp_path: Path) -> None:
    servicer = Servicer(Unencodable())
    async with called(servicer, tmp_path) as call:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(b"", timeout=4)
    assert refused.value.code() is grpc.StatusCode.INTERNAL
    assert "no such text" in (refused.value.details() or "")
    assert servicer.ended == [("Allocate", "INTERNAL")]


async def test_answer_that_is_not_read_resets_its_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "_READ_LIMIT", 0.02)
    servicer = Servicer(b"answer")
    client = begun("Allocate", window=1)
    client.send_data(1, message(b""), end_stream=True)
    async with serving(servicer, str(tmp_path / "s.sock")):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s.sock"))
        resets: list[StreamReset] = []
        while not resets:
            writer.write(client.data_to_send())
            resets += [
                e for e in client.receive_data(await reader.read(1 << 16)) if isinstance(e, StreamReset)
            ]
        writer.close()
    assert [each.error_code for each in resets] == [ErrorCodes.CANCEL]
    assert servicer.ended == [("Allocate", "DEADLINE_EXCEEDED")]


async def test_reset_of_a_call_that_has_just_ended_is_no_error() -> None:
    protocol: Any = RpcServer(Servicer(b""))._protocol_factory()
    protocol.handler.cancel(object())
