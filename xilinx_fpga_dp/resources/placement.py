"""Which of the available ids a container is best given. Pure."""

from collections import Counter
from collections.abc import Sequence

from xilinx_fpga_dp.model import Offer


def preferred(offer: Offer, available: Sequence[str], must_include: Sequence[str], size: int) -> list[str]:
    """Choose ``size`` ids: all that must be included, then those near the same NUMA nodes.

    Fewer are returned where fewer are available; kubelet then decides by itself.
    """
    nodes = {unit.id: unit.numa_nodes for unit in offer.units}
    picked = list(dict.fromkeys(must_include))
    rest = sorted(set(available) - set(picked))
    crowd = Counter(node for each in rest for node in nodes.get(each, ()))
    while len(picked) < size and rest:
        near = {node for each in picked for node in nodes.get(each, ())}
        best = min(
            rest,
            key=lambda each: (
                near.isdisjoint(nodes.get(each, ())),
                -max((crowd[node] for node in nodes.get(each, ())), default=0),
                each,
            ),
        )
        picked.append(best)
        rest.remove(best)
    return picked
