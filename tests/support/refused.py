"""The status of a gRPC call that has to fail."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest


def refused(call: Callable[..., Any], *arguments: Any) -> grpc.Call:
    """Call and return the status; fail the test if the call succeeds."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments)
    assert isinstance(caught.value, grpc.Call)
    return caught.value
