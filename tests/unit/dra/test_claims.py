"""Prepared claims that are gone everywhere else."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from xilinx_fpga_dp.dra import claims as claims_module
from xilinx_fpga_dp.dra.allocation import Refused
from xilinx_fpga_dp.dra.checkpoint import Checkpoint
from xilinx_fpga_dp.dra.claims import Claims, Node
from xilinx_fpga_dp.dra.documents import Layout, PreparedClaim, PreparedResult
from xilinx_fpga_dp.model import Held, Holder

DRIVER = "fpga.xilinx.com"
ADDRESS = "0000:65:00.1"
CLAIM = PreparedClaim(
    "1-2", "ns", "mine", None, (PreparedResult("fpga", "n1", "pci-0000-65-00-1", ADDRESS, "x.com/a"),)
)
OF_A_POD: Held = {ADDRESS: (Holder("ns", "pod", "main", DRIVER, ADDRESS),)}


@pytest.mark.parametrize(
    ("stored", "held", "kept"),
    [
        (None, {}, False),
        ("3-4", {}, False),
        ("1-2", {}, True),
        (None, OF_A_POD, True),
        (Refused("API server: no answer"), {}, True),
    ],
    ids=["gone", "made again", "there", "of a pod", "not known"],
)
async def test_claim_that_is_gone_from_server_and_kubelet_is_undone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stored: str | Refused | None,
    held: Held,
    kept: bool,
) -> None:
    monkeypatch.setattr(claims_module, "_SWEEP_EVERY", 0.001)
    checkpoint = Checkpoint(str(tmp_path), dict)
    with checkpoint.locked():
        checkpoint.write(checkpoint.read(), {CLAIM.uid: CLAIM})
    asked = 0

    async def fetch(_namespace: str, _name: str) -> Mapping[str, Any] | None:
        nonlocal asked
        asked += 1
        if isinstance(stored, Refused):
            raise stored
        return {"metadata": {"uid": stored}} if stored else None

    async def holders() -> Held:
        return held

    async def mounts(_limit: float, _paths: object) -> tuple[str, ...]:
        return ()

    async def no_refresh(_device: object) -> None:
        return None

    node = Node(
        name="n1",
        pool=dict,
        device=lambda _name: None,
        versions=dict,
        refresh=no_refresh,
        refresh_limit=1,
        held=holders,
        mounts=mounts,
        extra_mounts=(),
        effect=lambda _device, _reason: "NoSchedule",
        refreshed=lambda _devices: None,
    )
    layout = Layout(DRIVER, str(tmp_path / "cdi"), str(tmp_path), expose_mgmt=False, metadata=True)
    claims = Claims(layout, node, fetch)
    await claims.mend()
    assert claims.prepared.value.keys() == {CLAIM.uid}
    sweep = asyncio.create_task(claims.sweep())
    try:
        async with asyncio.timeout(30):
            while asked < 3 and claims.prepared.value:
                await asyncio.sleep(0.001)
    finally:
        sweep.cancel()
    assert (CLAIM.uid in claims.prepared.value) is kept
    assert (CLAIM.uid in checkpoint.read().claims) is kept
