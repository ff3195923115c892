"""A double of kubelet's podresources API, on grpcio."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import grpc

from tests.support.wire import pods_grpc, pods_pb


class Hold(NamedTuple):
    resource: str
    id: str


class ClaimHold(NamedTuple):
    driver: str
    device: str
    pod: str = "mypod"


class PodResourcesDouble(pods_grpc.PodResourcesListerServicer):  # type: ignore[misc]
    """The podresources socket of kubelet; tests set the devices that pods hold.

    Attributes:
        holds: the devices of pods.
        claims: the devices that pods have by claims.
        offered: the Healthy devices of device plugins.
        questions: the number of List calls.
        hangs: clear it to make List hang.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.holds: list[Hold] = []
        self.claims: list[ClaimHold] = []
        self.offered: list[Hold] = []
        self.questions = 0
        self.hangs = threading.Event()
        self.hangs.set()
        self._server: grpc.Server | None = None

    def start(self) -> None:
        self._server = grpc.server(ThreadPoolExecutor(4))
        pods_grpc.add_PodResourcesListerServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"unix://{self.path}")
        self._server.start()

    def stop(self) -> None:
        self.hangs.set()
        if self._server:
            self._server.stop(None).wait(5)

    def List(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        self.questions += 1
        self.hangs.wait(30)
        containers = [
            pods_pb.ContainerResources(
                name="mine",
                devices=[pods_pb.ContainerDevices(resource_name=hold.resource, device_ids=[hold.id])],
            )
            for hold in self.holds
        ]
        pods = [pods_pb.PodResources(name="mypod", namespace="default", containers=containers)]
        for claim in self.claims:
            resource = pods_pb.ClaimResource(
                driver_name=claim.driver, pool_name="n1", device_name=claim.device
            )
            dynamic = pods_pb.DynamicResource(
                claim_name="mine", claim_namespace="default", claim_resources=[resource]
            )
            container = pods_pb.ContainerResources(name="claiming", dynamic_resources=[dynamic])
            pods.append(pods_pb.PodResources(name=claim.pod, namespace="default", containers=[container]))
        return pods_pb.ListPodResourcesResponse(pod_resources=pods)

    def GetAllocatableResources(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        devices = [
            pods_pb.ContainerDevices(resource_name=each.resource, device_ids=[each.id])
            for each in self.offered
        ]
        return pods_pb.AllocatableResourcesResponse(devices=devices)
