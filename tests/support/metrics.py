"""Metrics for tests without metrics."""


class NoMetrics:
    """Implements PluginMetrics and drops every event."""

    def registration(self, resource: str, result: str) -> None:
        del resource, result

    def list_update(self, resource: str) -> None:
        del resource

    def answered(self, resource: str, method: str, code: str, seconds: float) -> None:
        del resource, method, code, seconds

    def resource_gone(self, resource: str) -> None:
        del resource
