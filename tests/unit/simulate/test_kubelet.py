"""The start of the embedded kubelet of `simulate`."""

import os
from pathlib import Path

import pytest

from xilinx_fpga_dp.simulate.kubelet import Kubelet
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode


async def test_kubelet_starts_while_plugin_removes_its_socket(
    node: SampleNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = Path(node.socket_dir, "plugin.sock")
    left.touch()
    unlink = os.unlink

    def too_late(path: str) -> None:
        unlink(path)  # the plugin removes it first
        unlink(path)

    monkeypatch.setattr(os, "unlink", too_late)
    kubelet = Kubelet(node.socket_dir)
    await kubelet.start()
    monkeypatch.undo()
    await kubelet.stop()
    assert not left.exists()
