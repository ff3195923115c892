"""The settings for code that only uses their values; `settings_model` has the fields and checks them."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from xilinx_fpga_dp import settings_model

    Settings: TypeAlias = settings_model.Settings
else:
    Settings = SimpleNamespace  # the values alone: the service runs without pydantic, see `process.in_child`

PREFIX = "XILINX_FPGA_DP_"


class BadSettings(Exception):  # noqa: N818 - the user's, not ours
    """Settings that cannot be used: one line each, with the variable and what is wrong."""


def variable(field: str) -> str:
    """Return the environment variable of a setting."""
    return PREFIX + field.upper()


def unknown_variables(environment: Iterable[str], fields: Iterable[str]) -> list[str]:
    """Return variables with our prefix that are no setting. Kubernetes sets some for a Service so named.

    Args:
        environment: the names of all variables.
        fields: the names of all settings.
    """
    known = set(map(variable, fields))
    return sorted(
        name for name in environment if name.upper().startswith(PREFIX) and name.upper() not in known
    )
