"""What the service of the DRA driver counts."""

from typing import Any

import pytest

from xilinx_fpga_dp.dra.driver import DriverService
from xilinx_fpga_dp.rpc.api import dra_v1


class Broken:
    """Claims of which none can be prepared, as by a fault of the driver or a call that is cancelled."""

    async def prepare(self, _claim: object) -> list[Any]:
        raise RuntimeError("broken")


class Counts:
    """The claims that were counted."""

    def __init__(self) -> None:
        self.claims: list[tuple[str, str]] = []

    def claim(self, method: str, result: str, _seconds: float) -> None:
        self.claims.append((method, result))


async def test_claim_without_an_answer_is_not_counted_as_ok() -> None:
    broken: Any = Broken()
    nothing: Any = None
    counts: Any = Counts()
    service = DriverService(broken, nothing, counts)
    prepare = next(each for each in service.calls.by_path.values() if each.name == "NodePrepareResources")
    with pytest.raises(RuntimeError):
        await prepare.answer(dra_v1.NodePrepareResourcesRequest(claims=[dra_v1.Claim(uid="a")]))
    assert counts.claims == [("prepare", "refused")]
