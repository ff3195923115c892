"""The metrics in the format of Prometheus. Labels are bounded by the resources that exist."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final

from grpclib.const import Status

from xilinx_fpga_dp import __version__
from xilinx_fpga_dp.aio.latest import Latest
from xilinx_fpga_dp.process import ssl_by_name
from xilinx_fpga_dp.snapshot import Snapshot

with ssl_by_name():
    from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
    from prometheus_client.core import GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector

_PREFIX = "xilinx_fpga_dp"
_ALLOCATE_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
_SCAN_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
_CODES: Final = tuple(status.name for status in Status)  # an Allocate ends with one of them
_RESULTS: Final = ("ok", "failed")


class Metrics:
    """All counters of one service.

    Args:
        snapshots: what is offered.
        registered: returns whether each resource is registered and has a live stream.
    """

    def __init__(self, snapshots: Latest[Snapshot], registered: Callable[[], Mapping[str, bool]]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_State(snapshots, registered))
        counter = partial(Counter, namespace=_PREFIX, registry=self._registry)
        histogram = partial(Histogram, namespace=_PREFIX, registry=self._registry)
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

    def text(self) -> bytes:
        """Return all metrics as one scrape."""
        return generate_latest(self._registry)

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
        for result in _RESULTS:
            self._registrations.remove(resource, result)
        for code in _CODES:
            self._allocations.remove(resource, code)
        self._list_updates.remove(resource)
        self._allocate_duration.remove(resource)


class _State(Collector):
    """The state at the moment of the scrape."""

    def __init__(self, snapshots: Latest[Snapshot], registered: Callable[[], Mapping[str, bool]]) -> None:
        self._snapshots = snapshots
        self._registered = registered

    def collect(self) -> Iterable[Metric]:
        build = GaugeMetricFamily(f"{_PREFIX}_build_info", "Version of the plugin.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        devices = GaugeMetricFamily(
            f"{_PREFIX}_devices", "Devices by health.", labels=["resource", "health", "reason"]
        )
        counts: dict[tuple[str, str, str], int] = {}
        offers = self._snapshots.value.offers
        for name, offer in offers.by_resource.items() if offers else ():
            for unit in offer.units:
                key = (name, "Unhealthy" if unit.reason else "Healthy", unit.reason or "")
                counts[key] = counts.get(key, 0) + 1
        for labels, count in counts.items():
            devices.add_metric(labels, count)
        yield devices
        registered = GaugeMetricFamily(
            f"{_PREFIX}_registered", "Whether kubelet knows the resource.", labels=["resource"]
        )
        for name, is_registered in self._registered().items():
            registered.add_metric([name], is_registered)
        yield registered
