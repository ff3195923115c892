"""Health rules: from what was read of a device to the reason it is Unhealthy. Pure.

A missing attribute means a feature that this release of the driver does not have, never a fault.
"""

from collections.abc import Mapping

from xilinx_fpga_dp.model import Reason


def xrt_reason(attributes: Mapping[str, str | None], *, renders: bool, node: bool) -> Reason | None:
    """The fault of an XRT user function; None if it has none.

    Args:
        attributes: `shutdown`, `dev_offline`, `ready`, `device_bad_state` as read; None: missing.
        renders: a ``drm/renderD*`` is in its directory.
        node: the render node is under /dev.
    """
    if _number(attributes.get("shutdown")) == 1:
        return Reason.SHUTDOWN
    # 1, or -19 (ENODEV) once drm is gone: userpf/xocl_sysfs.c dev_offline_show
    if _number(attributes.get("dev_offline")) not in (None, 0):
        return Reason.OFFLINE
    if not renders and attributes.get("ready") is None and attributes.get("dev_offline") is None:
        # A reset removes drm and these attributes first: userpf/xocl_drv.c xocl_reset_notify
        return Reason.RESETTING
    # Hexadecimal; XRT itself refuses a device that is not ready: pcie/linux/pcidrv.cpp
    if _number(attributes.get("ready")) == 0:
        return Reason.NOT_READY
    if _number(attributes.get("device_bad_state")) == 1:
        return Reason.BAD_STATE
    return None if renders and node else Reason.NO_NODE


def _number(text: str | None) -> int | None:
    """A number as a driver prints it, ``1``, ``0x1`` or ``-19``; None where it is missing or none."""
    try:
        return int(text, 0) if text is not None else None
    except ValueError:
        return None
