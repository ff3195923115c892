"""Logs when calls of the API server begin to fail, and when they succeed again: not each of them."""

import logging

from xilinx_fpga_dp.apiserver.errors import ApiServerError
from xilinx_fpga_dp.observe.events import Event

log = logging.getLogger(__name__)


class CallLog:
    """The log of one purpose, such as the node's condition."""

    def __init__(self, purpose: str) -> None:
        self._purpose = purpose
        self._failing: type[ApiServerError] | None = None

    def failed(self, error: ApiServerError) -> None:
        """Log a failure, unless the call before failed in the same way."""
        if type(error) is not self._failing:
            self._failing = type(error)
            log.warning(Event.API_CALL_FAILED, extra={"purpose": self._purpose, "error": str(error)})

    def succeeded(self) -> None:
        """Log that calls succeed again, if they failed."""
        if self._failing:
            self._failing = None
            log.info(Event.API_CALL_SUCCEEDED, extra={"purpose": self._purpose})
