"""Calls over a unix socket, with the codec and a time limit."""

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from grpclib.client import Channel
from grpclib.exceptions import GRPCError, StreamTerminatedError

from xilinx_fpga_dp.rpc.codec import Codec

NO_GRPC = "what listens there does not speak gRPC"


@asynccontextmanager
async def connected(path: str, limit: float) -> AsyncIterator[Channel]:
    """Connect to a unix socket, for at most ``limit`` seconds.

    Raises:
        OSError: it can't be connected to, or its server does not speak gRPC.
        TimeoutError: the time is up.
        GRPCError: a call within was refused.
        StreamTerminatedError: a call within was cut off.
    """
    channel = Channel(path=path, codec=Codec())
    try:
        async with asyncio.timeout(limit):
            try:
                await channel.__connect__()
            except OSError as error:
                raise OSError(error.errno, error.strerror, path) from None
            yield channel
    except (OSError, GRPCError, StreamTerminatedError):
        raise
    except Exception:  # of many kinds, an AttributeError of grpclib's among them
        raise OSError(errno.EPROTO, NO_GRPC, path) from None
    finally:
        channel.close()
