"""The feature file for node-feature-discovery, written by the running service."""

import asyncio
import os
from itertools import chain, repeat
from pathlib import Path
from unittest import mock

from tests.support.nfd import parse_features
from tests.support.process import Service
from tests.support.running import running, service_in_the_loop, settings_for
from tests.support.waiting import wait_for
from xilinx_fpga_dp.discovery.driver_versions import DriverVersions
from xilinx_fpga_dp.discovery.sysfs import OutOfDescriptors
from xilinx_fpga_dp.observe.events import Event
from xilinx_fpga_dp.observe.node_labels import NodeLabels
from xilinx_fpga_dp.resources.documents import nfd
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode


def test_feature_file_follows_the_node(node: SampleNode) -> None:
    folder = Path(node.root) / "features.d"
    file = folder / "xilinx-fpga-dp"

    def found() -> dict[str, str]:
        return parse_features(file.read_text()) if file.exists() else {}

    card = node.add_card("u200", release="2023.2")
    with Service(settings_for(node, NFD_FEATURES_DIR=str(folder))) as service:
        wait_for(lambda: found().get("xilinx.com/fpga.driver.xocl") == "2.16.0", "written")
        assert found()["xilinx.com/fpga.shell.xilinx_u200_xdma_201830_2"] == "1561465320"
        assert file.stat().st_mode & 0o777 == 0o644, "the worker of NFD is not root"
        before = file.stat().st_ino
        card.offline()
        service.logged(Event.DEVICE_UNHEALTHY)
        card.mend()
        service.logged(Event.DEVICE_HEALTHY)
        assert file.stat().st_ino == before, "health is not a label, and the same text is not written again"
        card.reprogram("u250")
        wait_for(lambda: found().get("xilinx.com/fpga.board.u250") == "true", "written again")
        assert "xilinx.com/fpga.board.u200" not in found()
        assert file.stat().st_ino != before, "the file was replaced"
        file.unlink()
        wait_for(file.exists, "restored")
        assert os.listdir(folder) == [file.name]
        assert service.terminate() == 0
        assert file.exists(), "labels stay during an update of the plugin"
    before = file.stat().st_ino
    with Service(settings_for(node, NFD_FEATURES_DIR=str(folder))) as service:
        service.logged(Event.DEVICE_FOUND)
        assert service.terminate() == 0
    assert file.stat().st_ino == before, "the new instance does not remove the file first"
    card.remove()
    with Service(settings_for(node, NFD_FEATURES_DIR=str(folder))):
        wait_for(lambda: not file.exists(), "no device, no file")


async def test_unreadable_driver_version_is_read_again(node: SampleNode) -> None:
    """The version is read again although the snapshot does not change."""
    node.add_card("u200", release="2023.2")
    folder = Path(node.root) / "features.d"
    service = service_in_the_loop(node)
    labels = NodeLabels(str(folder), service.snapshots, DriverVersions(node.sysfs_root))

    def labelled() -> str:
        file = folder / nfd.FILE
        return file.read_text() if file.exists() else ""

    reads = mock.Mock(side_effect=chain([OutOfDescriptors("none is left")], repeat("2.16.0")))
    with mock.patch("xilinx_fpga_dp.discovery.driver_versions.module_version", reads):
        async with running(service.scan(), labels.run(), labels.file.run()), asyncio.timeout(20):
            while "xilinx.com/fpga.driver.xocl=2.16.0\n" not in labelled():
                await asyncio.sleep(0.02)
