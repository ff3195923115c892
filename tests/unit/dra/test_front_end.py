"""The DRA driver's parts together, without a process."""

from pathlib import Path
from unittest.mock import Mock

from tests.support.factories import device
from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.dra.front_end import DraFrontEnd
from xilinx_fpga_dp.settings_model import Settings
from xilinx_fpga_dp.snapshot import Snapshot


async def test_device_that_a_scan_sees_again_is_published_again(tmp_path: Path) -> None:
    """The scan may end with the snapshot as it was, which wakes nothing."""
    settings = Settings.load({"plugins_dir": str(tmp_path), "node_name": "n1"})
    front_end = DraFrontEnd(settings, Latest(Snapshot()), Mock(), Mock(), Mock(), api=Mock())
    front_end._refreshed([device()])
    changed = front_end.claims.changed
    for began, wakes in ((0.0, False), (float("inf"), True), (float("inf"), False)):
        changed.clear()
        front_end.scanned(began)
        assert changed.is_set() is wakes
