"""What the kubelet side tells whoever counts."""


class Meter:
    """Counts nothing. Who counts overrides what it wants to hear of; nothing of it may block or raise."""

    def registration(self, resource: str, result: str) -> None:
        """An attempt to register ended: ``ok`` or ``failed``."""

    def list_update(self, resource: str) -> None:
        """A resource sent another device list."""

    def answered(self, resource: str, method: str, code: str, seconds: float) -> None:
        """A unary call was answered with this gRPC status code after so long."""

    def kubelet_restart(self) -> None:
        """Another kubelet's socket stands in the place of the one before."""

    def resource_gone(self, resource: str) -> None:
        """A resource has left kubelet."""
