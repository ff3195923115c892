"""The DRA driver's parts together, without a process."""

import asyncio
from pathlib import Path
from unittest.mock import Mock

from tests.support.factories import device
from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.dra.documents import PreparedClaim, PreparedResult
from xilinx_fpga_dp.dra.front_end import DraFrontEnd
from xilinx_fpga_dp.settings_model import Settings
from xilinx_fpga_dp.snapshot import Snapshot


def _front_end(folder: Path) -> DraFrontEnd:
    settings = Settings.load({"plugins_dir": str(folder), "node_name": "n1"})
    return DraFrontEnd(settings, Latest(Snapshot()), Mock(), Mock(), Mock(), api=Mock())


async def test_device_that_a_scan_sees_again_is_published_again(tmp_path: Path) -> None:
    """The scan may end with the snapshot as it was, which wakes nothing."""
    front_end = _front_end(tmp_path)
    front_end._refreshed([device()])
    changed = front_end.claims.changed
    for began, wakes in ((0.0, False), (float("inf"), True), (float("inf"), False)):
        changed.clear()
        front_end.scanned(began)
        assert changed.is_set() is wakes


async def test_each_share_that_leaves_an_exclusive_device_is_published(tmp_path: Path) -> None:
    """Until then, the slice offers a slot that has become free."""
    front_end = _front_end(tmp_path)
    woken = asyncio.Event()
    front_end.publisher = Mock(wake=woken.set)
    prepared = front_end.claims.prepared
    result = PreparedResult("fpga", "n1", "pci-1", "0000:65:00.1", "x.com/a", "share")
    prepared.set({uid: PreparedClaim(uid, "ns", uid, None, (result,)) for uid in ("1", "2", "3")})
    task = asyncio.create_task(front_end._follow_sharing())
    try:
        async with asyncio.timeout(30):
            await woken.wait()
            while prepared.value:
                woken.clear()
                prepared.set(dict(list(prepared.value.items())[1:]))
                await woken.wait()
    finally:
        task.cancel()
