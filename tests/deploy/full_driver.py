"""A running DRA driver with claims, prepared and refused, for queries."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.deploy.full_service import scrape
from tests.support.api_server import RunningApiServer
from tests.support.dra_kubelet import NODE, ClaimName, DraKubelet
from tests.support.dra_stage import cdi, published, registry, store_claim
from tests.support.podresources import PodResourcesDouble
from tests.support.ports import address_of, reserved
from tests.support.process import Service
from tests.support.running import settings_for
from tests.support.waiting import wait_for
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode


@dataclass(frozen=True)
class FullDriver:
    """The driver.

    Attributes:
        address: of its pages.
        claims: can be prepared; the second is not known to the API server.
    """

    address: str
    claims: tuple[ClaimName, ClaimName]
    kubelet: DraKubelet

    def scrape(self) -> str:
        """Return its metrics; empty if it does not answer."""
        return scrape(self.address)

    def prepare(self) -> None:
        """Let kubelet prepare the claims and unprepare them."""
        self.kubelet.prepare(*self.claims)
        self.kubelet.unprepare(*self.claims)


@contextmanager
def full_driver() -> Iterator[FullDriver]:
    """Run it, with its slice and answers of each kind."""
    with tempfile.TemporaryDirectory(prefix="fpga-") as folder:
        node = SampleNode(folder)
        node.add_card("u200")
        registry(node).mkdir(exist_ok=True)
        pods = PodResourcesDouble(f"{node.root}/pods.sock")
        pods.start()
        own = Path(folder, "api")
        own.mkdir()
        with (
            RunningApiServer(own, tls=False) as api,
            reserved() as held,
            Service(
                settings_for(
                    node,
                    MODE="dra",
                    NODE_NAME=NODE,
                    PLUGINS_REGISTRY_DIR=str(registry(node)),
                    CDI_DIR=str(cdi(node)),
                    POD_RESOURCES_SOCKET=pods.path,
                    HTTP_ADDRESS=address_of(held),
                    TELEMETRY="none",
                ),
                environment=api.environment,
            ),
            DraKubelet(registry(node)) as kubelet,
        ):
            api.put(f"/api/v1/nodes/{NODE}", {"metadata": {"name": NODE, "uid": "node-uid"}})
            kubelet.register()
            [device] = wait_for(lambda: published(api), "a slice")
            unknown = ClaimName("default", "unknown", "1-2-3")
            driver = FullDriver(address_of(held), (store_claim(api, "mine", device), unknown), kubelet)
            driver.prepare()
            wait_for(lambda: "slice_age_seconds" in driver.scrape(), "its metrics")
            yield driver
        pods.stop()
