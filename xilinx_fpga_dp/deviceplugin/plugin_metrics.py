"""What the device plugin counts. The metrics implement it."""

from typing import Protocol


class PluginMetrics(Protocol):
    """Receives each event once. No method may block or raise."""

    def registration(self, resource: str, result: str) -> None:
        """Count an attempt to register that ended ``ok`` or ``failed``."""

    def list_update(self, resource: str) -> None:
        """Count a device list that was sent to kubelet."""

    def answered(self, resource: str, method: str, code: str, seconds: float) -> None:
        """Count a unary call that was answered with this gRPC status code after so many seconds."""

    def kubelet_restart(self) -> None:
        """Count a new kubelet socket in place of an earlier one."""

    def resource_gone(self, resource: str) -> None:
        """Forget a resource that is no longer registered."""
