"""The HTTP pages of a service."""

import re
import urllib.error
import urllib.request
import weakref

from tests.support.ports import address_of, reserved
from tests.support.running import settings_for
from tests.support.waiting import wait_for
from xilinx_fpga_dp.simulate.sysfs.sample_node import SampleNode


class Probed:
    """The HTTP pages of a service that runs with these settings, and their address."""

    def __init__(self, node: SampleNode, **settings: str) -> None:
        self.pid = 0
        held = reserved()
        weakref.finalize(self, held.close)
        self.address = address_of(held)
        self.settings = settings_for(node, HTTP_ADDRESS=self.address, **settings)

    def get(self, page: str, limit: float = 50) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{self.address}/{page}", timeout=limit) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def series(self) -> dict[str, float]:
        """Return the value of each series, by name and labels without the prefix."""
        lines = [line for line in self.get("metrics")[1].splitlines() if not line.startswith("#")]
        found = {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
        assert len(found) == len(lines)
        return {name.removeprefix("xilinx_fpga_dp_"): value for name, value in found.items()}

    def devices(self) -> dict[tuple[str, str, str], float]:
        pattern = re.compile(r'devices\{health="(.*?)",reason="(.*?)",resource="(.*?)"\}')
        return {
            match.groups(): value  # type: ignore[misc]
            for name, value in self.series().items()
            if (match := pattern.fullmatch(name))
        }

    def registered(self) -> dict[str, float]:
        return {
            name.split('"')[1]: value
            for name, value in self.series().items()
            if name.startswith("registered{")
        }

    def turns(self, page: str, answer: tuple[int, str]) -> None:
        wait_for(lambda: self.get(page) == answer, f"/{page} returns {answer}")
