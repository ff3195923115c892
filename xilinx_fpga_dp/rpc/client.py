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
async def connected(path: str, limit: float, kept: Channel | None = None) -> AsyncIterator[Channel]:
    """Connect to a unix socket, for at most ``limit`` seconds.

    Args:
        path: of the socket.
        limit: for all that is done within.
        kept: of `channel`: its connection is used again, and closed only after an error.

    Raises:
        OSError: it can't be connected to, or its server does not speak gRPC.
        TimeoutError: the time is up.
        GRPCError: a call within was refused.
        StreamTerminatedError: a call within was cut off.
    """
    used = kept or channel(path)
    done = False
    try:
        async with asyncio.timeout(limit):
            try:
                await used.__connect__()
            except OSError as error:
                raise OSError(error.errno, error.strerror, path) from None
            yield used
        done = True
    except (OSError, GRPCError, StreamTerminatedError):
        raise
    except Exception:  # of many kinds, an AttributeError of grpclib's among them
        raise OSError(errno.EPROTO, NO_GRPC, path) from None
    finally:
        if not (kept and done):
            used.close()


def channel(path: str) -> Channel:
    """Return a channel to a unix socket. It connects when it is used, also after its connection was lost."""
    return Channel(path=path, codec=Codec())
