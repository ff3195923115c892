"""Between the nouns and the bytes on the wire. The generated names, irregular as they are, stay in here."""

from collections.abc import Sequence

from xilinx_fpga_dp.model import Grant, Offer
from xilinx_fpga_dp.rpc.api import deviceplugin_v1beta1 as v1beta1

API_VERSION = "v1beta1"  # exactly this, or kubelet refuses: plugin/v1beta1/server.go

HEALTHY = "Healthy"
UNHEALTHY = "Unhealthy"  # any other word than Healthy means this


def device_list(offer: Offer | None) -> bytes:
    """The message of ListAndWatch: the full set, always. None: the resource is gone, the list is empty."""
    devices = [
        v1beta1.Device(
            id=unit.id,
            health=UNHEALTHY if unit.reason else HEALTHY,
            # Absent where nothing is known: an empty topology would match no hint of the topology manager.
            topology=v1beta1.TopologyInfo(nodes=[v1beta1.NumaNode(id=node) for node in unit.numa_nodes])
            if unit.numa_nodes
            else None,
        )
        for unit in (offer.units if offer else ())
    ]
    return bytes(v1beta1.ListAndWatchResponse(devices=devices))


def allocation(grants: Sequence[Grant]) -> bytes:
    """The answer to Allocate: what each container gets, in the order of the request."""
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
    # A map has no order; this is the one google.protobuf writes when told to be deterministic (a longer key
    # before its own beginning), so that answers can be compared byte for byte.
    return entry[0].encode() + b"\xff"


def options(*, preferred: bool, pre_start: bool) -> v1beta1.DevicePluginOptions:
    """What kubelet is told to call; it asks for it with GetDevicePluginOptions."""
    return v1beta1.DevicePluginOptions(
        get_preferred_allocation_available=preferred, pre_start_required=pre_start
    )


def preference(choices: Sequence[Sequence[str]]) -> bytes:
    """The answer to GetPreferredAllocation: the ids for each container, in the order of the request."""
    return bytes(
        v1beta1.PreferredAllocationResponse(
            container_responses=[
                v1beta1.ContainerPreferredAllocationResponse(device_i_ds=list(ids)) for ids in choices
            ]
        )
    )


def preferences_asked(
    request: v1beta1.PreferredAllocationRequest,
) -> list[tuple[list[str], list[str], int]]:
    """For each container: the ids available, those that must be among the answer, and how many."""
    return [
        (each.available_deviceIDs, each.must_include_deviceIDs, each.allocation_size)
        for each in request.container_requests
    ]
