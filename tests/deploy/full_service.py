"""A running service whose cards have everything that metrics tell, for queries."""

import contextlib
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.double import KubeletDouble
from tests.support.podresources import Hold, PodResourcesDouble
from tests.support.ports import address_of, reserved
from tests.support.process import Service
from tests.support.resource_names import U200
from tests.support.running import settings_for
from tests.support.waiting import wait_for
from xilinx_fpga_dp.simulate.sysfs.bus import aer_text
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode, XrtCard
from xilinx_fpga_dp.simulate.sysfs.xrt_releases import ErrorRecord

# What a card shows while an application runs on it
_LOADED = {
    "kdsstat": "contexts:\t\t1\n",
    "memstat_raw": "4096 1\n",
    "kds_custat_raw": "0,0,vadd:vadd_1,0x1800000,0x4,17\n",
    "xclbinuuid": "0b095b81-fa2b-e6bd-4524-72b1c1474f18",
}


@dataclass(frozen=True)
class FullService:
    """The service.

    Attributes:
        address: of its pages.
        card: a pod holds it.
        offline: another card, which is offline.
    """

    address: str
    card: XrtCard
    offline: XrtCard
    kubelet: KubeletDouble

    def scrape(self) -> str:
        """Return its metrics; empty if it does not answer."""
        return scrape(self.address)

    def allocate(self) -> None:
        """Let kubelet allocate the card."""
        self.kubelet.allocate(U200, [self.card.address])

    def degrade(self) -> None:
        """Let the held card run hot, with a narrow link and new errors."""
        self.card.write("mgmt/hwmon/temp4_input", "95000")
        self.card.write("current_link_width", "8")
        self.card.write("aer_dev_fatal", aer_text("fatal", 3))
        self.card.record_error(ErrorRecord(1, int(time.time())))


def scrape(address: str) -> str:
    """Return the metrics of a service; empty if it does not answer."""
    with (
        contextlib.suppress(OSError),
        urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer,
    ):
        return str(answer.read().decode())
    return ""


@contextmanager
def full_service() -> Iterator[FullService]:
    """Run it, with registrations, an allocation, a pod and a fault."""
    with tempfile.TemporaryDirectory(prefix="fpga-") as folder:
        node = SampleNode(folder, sensors=True)
        card, offline = (node.add_card("u200", release="2023.2") for _ in range(2))
        for board in ("v80", "ma35d"):
            node.plug(board)
        card.record_error(ErrorRecord(13, 1000))
        for name, content in _LOADED.items():
            card.write(name, content)
        pods = PodResourcesDouble(f"{node.root}/pods.sock")
        pods.holds = [Hold(U200, card.address)]
        pods.start()
        telemetry = {"TELEMETRY": "all", "TELEMETRY_INTERVAL": "1", "POD_RESOURCES_SOCKET": pods.path}
        kubelet = KubeletDouble(Path(node.socket_dir))
        with (
            reserved() as held,
            Service(settings_for(node, HTTP_ADDRESS=address_of(held), **telemetry)),
            kubelet,
        ):
            kubelet.wait_for(lambda: kubelet.allocatable(U200) == 2)
            found = FullService(address_of(held), card, offline, kubelet)
            found.allocate()
            read = f'xilinx_fpga_telemetry_success{{device="{offline.address}",source="hwmon"}} 1.0'
            wait_for(lambda: read in found.scrape(), "telemetry of a card")
            offline.offline()
            wait_for(lambda: 'reason="offline"' in found.scrape(), "an unhealthy device")
            yield found
        pods.stop()
