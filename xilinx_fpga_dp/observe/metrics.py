"""The metrics in the format of Prometheus. Labels are bounded by the resources that exist."""

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from xilinx_fpga_dp import __version__
from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.model import Offers
from xilinx_fpga_dp.process import stand_ins
from xilinx_fpga_dp.snapshot import Snapshot

with stand_ins("ssl", "http.server", "urllib.error", "urllib.request", "wsgiref.simple_server"):
    from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
    from prometheus_client.core import GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector

PREFIX: Final = "xilinx_fpga_dp"
_ALLOCATE_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
_SCAN_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class Metrics(Collector):
    """All counters of one service, and its state.

    Args:
        snapshots: what is offered.
        registered: returns whether each resource is registered and has a live stream.
    """

    def __init__(self, snapshots: Latest[Snapshot], registered: Callable[[], Mapping[str, bool]]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._snapshots = snapshots
        self._registered = registered
        counter = partial(Counter, namespace=PREFIX, registry=self.registry)
        histogram = partial(Histogram, namespace=PREFIX, registry=self.registry)
        self._registrations = counter("registrations", "Attempts to register.", ["resource", "result"])
        self._list_updates = counter("list_updates", "Device lists sent.", ["resource"])
        self._allocations = counter("allocations", "Allocate calls answered.", ["resource", "code"])
        self._allocate_duration = histogram(
            "allocate_duration_seconds", "Time to answer Allocate.", ["resource"], buckets=_ALLOCATE_BUCKETS
        )
        self._scan_duration = histogram(
            "scan_duration_seconds", "Time of a scan of the whole bus.", buckets=_SCAN_BUCKETS
        )
        self._scan_errors = counter("scan_errors", "Scans in which the bus could not be read.")
        self._kubelet_restarts = counter("kubelet_restarts", "New kubelets seen after the first.")

    def collect(self) -> Iterable[Metric]:
        """Return the state at the moment of the scrape."""
        offers = self._snapshots.value.offers or Offers({})
        devices = collections.Counter(
            (name, "Unhealthy" if unit.reason else "Healthy", unit.reason or "")
            for name, offer in offers.by_resource.items()
            for unit in offer.units
        )
        registered = {(name,): each for name, each in self._registered().items()}
        yield _gauge("build_info", "Version of the plugin.", ["version"], {(__version__,): 1})
        yield _gauge("devices", "Devices by health.", ["resource", "health", "reason"], devices)
        yield _gauge("registered", "Whether kubelet knows the resource.", ["resource"], registered)

    def text(self) -> bytes:
        """Return all metrics as one scrape."""
        return generate_latest(self.registry)

    def scanned(self, seconds: float) -> None:
        """Count a scan of the whole bus that took so many seconds."""
        self._scan_duration.observe(seconds)

    def scan_failed(self) -> None:
        """Count a scan in which the bus could not be read."""
        self._scan_errors.inc()

    def registration(self, resource: str, result: str) -> None:
        self._registrations.labels(resource, result).inc()

    def list_update(self, resource: str) -> None:
        self._list_updates.labels(resource).inc()

    def answered(self, resource: str, method: str, code: str, seconds: float) -> None:
        if method == "Allocate":
            self._allocations.labels(resource, code).inc()
            self._allocate_duration.labels(resource).observe(seconds)

    def kubelet_restart(self) -> None:
        self._kubelet_restarts.inc()

    def resource_gone(self, resource: str) -> None:
        """Drop its series: they would pile up on a node that is reprogrammed often."""
        for metric in (self._registrations, self._list_updates, self._allocations, self._allocate_duration):
            metric.remove_by_labels({"resource": resource})


def _gauge(name: str, text: str, labels: Sequence[str], values: Mapping[Any, float]) -> Metric:
    gauge = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=labels)
    for each, value in values.items():
        gauge.add_metric(each, value)
    return gauge
