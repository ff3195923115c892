"""The calls to kubelet: Register, and one that only checks whether it answers."""

import errno
import os
from collections.abc import Callable

from grpclib.const import Cardinality
from grpclib.exceptions import GRPCError, StreamTerminatedError

from xilinx_fpga_dp.deviceplugin.messages import API_VERSION
from xilinx_fpga_dp.rpc.api import deviceplugin_v1beta1 as v1beta1
from xilinx_fpga_dp.rpc.client import NO_GRPC, connected

TIME_LIMIT = 15.0  # seconds; kubelet may take 10 s to dial back within the call: plugin/v1beta1/client.go


async def register(
    kubelet_socket: str,
    endpoint: str,
    resource: str,
    options: v1beta1.DevicePluginOptions,
    permit: Callable[[], None] = lambda: None,
) -> None:
    """Register ``endpoint``, a socket name in kubelet's own directory, for ``resource``.

    kubelet dials the endpoint before it answers, so it must be served already. ``permit`` is called when
    kubelet is connected and nothing has been sent; what it raises ends the call.

    Raises:
        OSError: kubelet's socket can't be connected to, or the endpoint's is gone.
        GRPCError: kubelet refused; its code is Unknown, its message says why.
        StreamTerminatedError: kubelet ended meanwhile.
        TimeoutError: kubelet did not answer in time.
    """
    request = v1beta1.RegisterRequest(
        version=API_VERSION, endpoint=endpoint, resource_name=resource, options=options
    )
    async with connected(kubelet_socket, TIME_LIMIT) as channel:
        # A new kubelet removes all sockets before it binds its own, so a socket that exists after the connect
        # stays. Naming a socket that is gone costs kubelet a dial of 10 s, and kubelets <= 1.36 then drop the
        # endpoint that has registered rightly meanwhile.
        os.stat(os.path.join(os.path.dirname(kubelet_socket), endpoint))
        permit()
        await v1beta1.RegistrationStub(channel).register(request)


async def greet(kubelet_socket: str, limit: float) -> None:
    """Check that kubelet answers at its socket within ``limit`` seconds, without any effect on it.

    Call a method that kubelet does not have. grpc-go refuses that before any code of kubelet's runs
    (server.go handleStream), and its message tells an unknown method from an unknown service.

    Raises:
        OSError: the socket can't be connected to, its server is not kubelet, or (TimeoutError) time is up.
    """
    try:
        async with (
            connected(kubelet_socket, limit) as channel,
            channel.request("/v1beta1.Registration/Greet", Cardinality.UNARY_UNARY, bytes, bytes) as stream,
        ):
            await stream.send_message(b"", end=True)
            await stream.recv_message()
    except GRPCError as error:
        if "unknown service" in (error.message or ""):
            raise OSError(errno.EPROTO, "it takes no plugins: it is another socket of kubelet's") from None
    except StreamTerminatedError:
        raise OSError(errno.EPROTO, NO_GRPC) from None
