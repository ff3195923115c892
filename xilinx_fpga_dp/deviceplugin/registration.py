"""The calls to kubelet: Register, and one that only shows that it answers."""

import asyncio
import errno
import os
from collections.abc import Callable

from grpclib.client import Channel
from grpclib.const import Cardinality
from grpclib.exceptions import GRPCError, StreamTerminatedError

from xilinx_fpga_dp.deviceplugin.messages import API_VERSION
from xilinx_fpga_dp.rpc.api import deviceplugin_v1beta1 as v1beta1
from xilinx_fpga_dp.rpc.codec import Codec

# kubelet dials back within the call and may take 10 s for it: plugin/v1beta1/client.go
TIME_LIMIT = 15.0
_NO_GRPC = "what listens there does not speak gRPC"


async def register(
    kubelet_socket: str,
    endpoint: str,
    resource: str,
    options: v1beta1.DevicePluginOptions,
    connected: Callable[[], None] = lambda: None,
) -> None:
    """Tell kubelet that ``endpoint``, a socket name in its own directory, serves ``resource``.

    kubelet dials the endpoint before it answers, so it must be served already. ``connected`` is called before
    anything is told, and what it raises ends the call.

    Raises:
        OSError: kubelet's socket can't be connected to, or the endpoint's is gone.
        GRPCError: kubelet refused; its code is Unknown, its message says why.
        StreamTerminatedError: kubelet ended meanwhile.
        TimeoutError: it did not answer in time.
    """
    request = v1beta1.RegisterRequest(
        version=API_VERSION, endpoint=endpoint, resource_name=resource, options=options
    )
    channel = Channel(path=kubelet_socket, codec=Codec())
    try:
        async with asyncio.timeout(TIME_LIMIT):
            try:
                await channel.__connect__()
            except OSError as error:
                raise OSError(error.errno, error.strerror, kubelet_socket) from None
            # A new kubelet removes all sockets before it binds its own, so what is there after the connect
            # stays. Naming a socket that is gone costs kubelet a dial of 10 s, and up to 1.36 it then
            # forgets the endpoint that has registered rightly meanwhile.
            os.stat(os.path.join(os.path.dirname(kubelet_socket), endpoint))
            connected()
            await v1beta1.RegistrationStub(channel).register(request)
    except (OSError, GRPCError, StreamTerminatedError):
        raise
    except Exception:
        raise OSError(errno.EPROTO, _NO_GRPC, kubelet_socket) from None
    finally:
        channel.close()


async def greet(kubelet_socket: str, limit: float) -> None:
    """See that kubelet answers at its socket, without telling it anything.

    It is asked for a method that it does not have. grpc-go refuses that before any code of kubelet's runs
    (server.go handleStream) and says whether it is the method or the whole service that is unknown.

    Args:
        kubelet_socket: where.
        limit: seconds it may take.

    Raises:
        OSError: it can't be connected to, or it is no kubelet that answers; a TimeoutError: nobody does.
    """
    channel = Channel(path=kubelet_socket, codec=Codec())
    try:
        async with (
            asyncio.timeout(limit),
            channel.request("/v1beta1.Registration/Greet", Cardinality.UNARY_UNARY, bytes, bytes) as stream,
        ):
            await stream.send_message(b"", end=True)
            await stream.recv_message()
    except GRPCError as error:
        if "unknown service" in (error.message or ""):
            raise OSError(errno.EPROTO, "it takes no plugins: it is another socket of kubelet's") from None
    except OSError:
        raise
    except Exception:  # of many kinds, an AttributeError of grpclib's among them
        raise OSError(errno.EPROTO, _NO_GRPC) from None
    finally:
        channel.close()
