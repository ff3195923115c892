"""The metrics of the DRA driver."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from prometheus_client import Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from xilinx_fpga_dp.observe.metrics import PREFIX, Metrics

_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 20.0)


class ClaimMetrics(Collector):
    """Counts claims and calls, among the other metrics of the service, and shows the driver's state."""

    def __init__(self, metrics: Metrics) -> None:
        counter = partial(Counter, namespace=PREFIX, registry=metrics.registry)
        histogram = partial(Histogram, namespace=PREFIX, registry=metrics.registry)
        self._claims = counter("claims", "Claims that kubelet asked for.", ["method", "result"])
        self._durations = histogram(
            "claim_duration_seconds", "Time to prepare or unprepare a claim.", ["method"], buckets=_BUCKETS
        )
        self._errors = counter("api_errors", "Calls of the API server that failed.", ["code"])
        self._state: dict[str, tuple[str, Callable[[], float | None]]] = {}
        metrics.registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Return the state at the moment of the scrape; what is not known has no series."""
        for name, (text, read) in self._state.items():
            if (value := read()) is not None:
                yield GaugeMetricFamily(f"{PREFIX}_{name}", text, value=value)

    def claim(self, method: str, result: str, seconds: float) -> None:
        """Count a claim that was prepared or unprepared, ``ok`` or ``refused``, in so many seconds."""
        self._claims.labels(method, result).inc()
        self._durations.labels(method).observe(seconds)

    def api_error(self, code: int | None) -> None:
        """Count a call of the API server that failed, with its HTTP status; None: without an answer."""
        self._errors.labels("none" if code is None else str(code)).inc()

    def follow(
        self,
        prepared: Callable[[], float | None],
        generation: Callable[[], float | None],
        age: Callable[[], float | None],
    ) -> None:
        """Show prepared claims, the pool's generation, the seconds since the slices were right."""
        self._state = {
            "claims_prepared": ("Claims that are prepared.", prepared),
            "slice_generation": ("Generation of the node's pool of ResourceSlices.", generation),
            "slice_age_seconds": ("Time since the slices were last seen as they have to be.", age),
        }
