"""The metrics of the DRA driver."""

from functools import partial
from typing import Final

from prometheus_client import Counter, Histogram

from xilinx_fpga_dp.observe.metrics import PREFIX, Metrics

_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 20.0)


class ClaimMetrics:
    """Counts claims, among the other metrics of the service."""

    def __init__(self, metrics: Metrics) -> None:
        counter = partial(Counter, namespace=PREFIX, registry=metrics.registry)
        histogram = partial(Histogram, namespace=PREFIX, registry=metrics.registry)
        self._claims = counter("claims", "Claims that kubelet asked for.", ["method", "result"])
        self._durations = histogram(
            "claim_duration_seconds", "Time to prepare or unprepare a claim.", ["method"], buckets=_BUCKETS
        )

    def claim(self, method: str, result: str, seconds: float) -> None:
        """Count a claim that was prepared or unprepared, ``ok`` or ``refused``, in so many seconds."""
        self._claims.labels(method, result).inc()
        self._durations.labels(method).observe(seconds)
