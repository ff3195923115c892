"""Turns the nouns into messages of the API. The generated names, which are irregular, appear only here."""

from collections.abc import Callable, Sequence

from xilinx_fpga_dp.model import Grant, Offer
from xilinx_fpga_dp.rpc.api import deviceplugin_v1beta1 as v1beta1

API_VERSION = "v1beta1"  # exactly this, or kubelet refuses: plugin/v1beta1/server.go

HEALTHY = "Healthy"
UNHEALTHY = "Unhealthy"  # kubelet takes any word but Healthy for this


def device_list(offer: Offer | None) -> bytes:
    """Encode the message of ListAndWatch: always the full set; an empty one if ``offer`` is None."""
    devices = [
        v1beta1.Device(
            id=unit.id,
            health=UNHEALTHY if unit.reason else HEALTHY,
            # Absent if no node is known: an empty topology matches no hint of the topology manager.
            topology=v1beta1.TopologyInfo(nodes=[v1beta1.NumaNode(id=node) for node in unit.numa_nodes])
            if unit.numa_nodes
            else None,
        )
        for unit in (offer.units if offer else ())
    ]
    return bytes(v1beta1.ListAndWatchResponse(devices=devices))


def allocation(grants: Sequence[Grant]) -> bytes:
    """Encode the answer to Allocate: what each container gets, in the order of the request."""
    return bytes(
        v1beta1.AllocateResponse(
            container_responses=[
                v1beta1.ContainerAllocateResponse(
                    envs=dict(sorted(grant.envs.items(), key=_google_order)),
                    devices=[
                        v1beta1.DeviceSpec(container_path=node, host_path=node, permissions="rw")
                        for node in grant.nodes
                    ],
                    mounts=[
                        v1beta1.Mount(container_path=path, host_path=path, read_only=True)
                        for path in grant.mounts
                    ],
                    cdi_devices=[v1beta1.CdiDevice(name=name) for name in grant.cdi_devices],
                )
                for grant in grants
            ]
        )
    )


def _google_order(entry: tuple[str, str]) -> bytes:
    # A map has no order. google.protobuf's deterministic one, in which answers can be compared byte for byte,
    # puts a longer key before its own prefix.
    return entry[0].encode() + b"\xff"


def preference(
    request: v1beta1.PreferredAllocationRequest, choose: Callable[[list[str], list[str], int], Sequence[str]]
) -> bytes:
    """Encode the answer to GetPreferredAllocation: what is chosen for each container.

    ``choose`` gets the available ids, those that its result must include, and the size of its result.
    """
    chosen = [
        choose(each.available_deviceIDs, each.must_include_deviceIDs, each.allocation_size)
        for each in request.container_requests
    ]
    responses = [v1beta1.ContainerPreferredAllocationResponse(device_i_ds=list(ids)) for ids in chosen]
    return bytes(v1beta1.PreferredAllocationResponse(container_responses=responses))
