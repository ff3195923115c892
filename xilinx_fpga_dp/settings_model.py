"""The model of the settings: environment variables with one prefix, each a command-line flag too.

Only their form is checked. The state of the node (a missing directory, no kubelet) is never a bad setting.
This module loads pydantic, so the service does not import it: `settings` is for code that only uses values.
"""

import os
import re
import socket
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, ValidationInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from xilinx_fpga_dp.resources.naming import DEFAULT_TEMPLATE, FIELDS, prefix_problem, template_problem
from xilinx_fpga_dp.settings import PREFIX, BadSettings, variable

OWN_NODE = "sample-node"
"""The name of a Node that a command brings itself."""

_MAX_PORT = 65535
# Names of hosts as a lookup takes them; the empty one is for all interfaces.
_HOST_NAME = re.compile(r"([A-Za-z0-9-]{1,63}\.)*([A-Za-z0-9-]{1,63})?")
# Names of nodes and the prefixes of keys, and what stands after such a prefix:
# k8s.io/apimachinery pkg/util/validation/validation.go
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_MAX_NODE_NAME = 253
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_MAX_DRIVER_NAME = 63  # DriverNameMaxLength, k8s.io/api resource/v1/types.go
_POD_UID = re.compile(r"[A-Za-z0-9-]{1,64}")
# A unix socket's path has at most 107 bytes, and our shortest name must fit: deviceplugin/socket_names.py
_MAX_SOCKET_DIR = 107 - len("/0123456789ab-fpga.sock")


def _absolute(path: str, info: ValidationInfo) -> str:
    if not path.startswith("/"):
        field = Settings.model_fields[str(info.field_name)]
        raise ValueError(f"must be an absolute path, like {(field.examples or [field.default])[0]}")
    if "\0" in path:
        raise ValueError("must not contain a zero byte")
    return os.path.normpath(path)


def _path_or_none(path: str, info: ValidationInfo) -> str:
    return "" if path in ("", "none") else _absolute(path, info)


def _socket_directory(path: str) -> str:
    if len(os.fsencode(path)) > _MAX_SOCKET_DIR:
        raise ValueError(
            f"has {len(os.fsencode(path))} bytes, at most {_MAX_SOCKET_DIR} leave room for a socket's name"
        )
    return path


def _without(problem_of: Callable[[str], str | None], text: str) -> str:
    if problem := problem_of(text):
        raise ValueError(problem)
    return text


def _http_address(address: str) -> str:
    if not address or address == "none":
        return ""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit():
        raise ValueError("must be host:port, like 127.0.0.1:8080, or empty")
    if int(port) > _MAX_PORT:
        raise ValueError(f"the port must be between 0 and {_MAX_PORT}")
    try:
        if host.startswith("[") and host.endswith("]"):
            socket.inet_pton(socket.AF_INET6, host[1:-1])
        elif not _HOST_NAME.fullmatch(host):
            raise ValueError(host)
    except (OSError, ValueError):
        problem = (
            "the host must be a name, each part 1 to 63 characters, or an address, an IPv6 one in brackets"
        )
        raise ValueError(problem) from None
    return address


def _listed(value: Any) -> Any:
    """Return the parts of a comma-separated text, without empty ones and the word none."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip() not in ("", "none"))
    return value


def _node_name(name: str) -> str:
    if name and (len(name) > _MAX_NODE_NAME or not _SUBDOMAIN.fullmatch(name)):
        raise ValueError("must be the name of a Node: lower-case letters, digits, '-' and '.'")
    return name


def _taint_key(key: str) -> str:
    prefix, slash, name = key.rpartition("/")
    if key and not (_LABEL_NAME.fullmatch(name) and (not slash or _SUBDOMAIN.fullmatch(prefix))):
        raise ValueError("must be the key of a taint, like fpga.xilinx.com/starting")
    return key


def _of_the_node(value: Any, info: ValidationInfo) -> Any:
    """Check that a setting that calls the API server has the name of the node."""
    default = Settings.model_fields[str(info.field_name)].default
    if value != default and info.data.get("node_name") == "":
        raise ValueError("needs NODE_NAME, in a pod from the field spec.nodeName")
    return value


def _driver_name(name: str) -> str:
    if len(name) > _MAX_DRIVER_NAME or not _SUBDOMAIN.fullmatch(name):
        raise ValueError(f"must be a lower-case DNS name of at most {_MAX_DRIVER_NAME} characters")
    return name


def _pod_uid(uid: str) -> str:
    if uid and not _POD_UID.fullmatch(uid):
        raise ValueError("must be the uid of a pod, from its field metadata.uid")
    return uid


def _replicas(replicas: int, info: ValidationInfo) -> int:
    if replicas > 1 and info.data.get("preferred_allocation") == "none":
        raise ValueError(
            "above 1 needs PREFERRED_ALLOCATION other than none: "
            "kubelet alone would give one container two replicas of a device"
        )
    return replicas


EvictReason = Literal["offline", "firewall", "shutdown", "unresponsive"]
Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]
Directory = Annotated[str, AfterValidator(_absolute), Field(json_schema_extra={"format": "path"})]
PathOrNone = Annotated[str, AfterValidator(_path_or_none), Field(json_schema_extra={"format": "path"})]


class Settings(BaseSettings):
    """All settings. The descriptions appear in --help and in the documentation."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", validate_default=False)

    scan_interval: Seconds = Field(5.0, description="seconds between full scans; wake-ups come on top")
    health_interval: Seconds = Field(1.0, description="seconds between health checks of known devices")
    socket_dir: Annotated[Directory, AfterValidator(_socket_directory)] = Field(
        "/var/lib/kubelet/device-plugins",
        description="where kubelet.sock is and the plugin's sockets go",
    )
    resource_prefix: Annotated[str, AfterValidator(partial(_without, prefix_problem))] = Field(
        "xilinx.com/fpga-", description="put before the name of a resource"
    )
    resource_name_template: Annotated[str, AfterValidator(partial(_without, template_problem))] = Field(
        DEFAULT_TEMPLATE,
        description=f"the name of a resource; fields: {', '.join(FIELDS)}",
    )
    compat: Annotated[Literal["none", "1.3.0"], BeforeValidator(lambda value: value or "none")] = Field(
        "none", description="1.3.0: names, ids and units as that plugin, with the same environment"
    )
    resource_renames: PathOrNone = Field(
        "",
        description="a YAML or JSON file of rules that give resources other names; empty: none",
        examples=["/etc/xilinx-fpga-dp/renames.yaml"],
    )
    device_rules: PathOrNone = Field(
        "",
        description="a YAML or JSON file of rules that offer devices of other drivers; empty: none",
        examples=["/etc/xilinx-fpga-dp/device-rules.yaml"],
    )
    u30_unit: Literal["card", "device"] = Field(
        "card", description="what one id of a U30 stands for: the card with its two devices, or one device"
    )
    plugins_dir: Directory = Field(
        "/var/lib/kubelet/plugins",
        description="below it, `fpga.xilinx.com/`: the lock that tells two instances from each other; "
        "MODE=dra: also checkpoint, metadata, dra.sock below DRA_DRIVER_NAME; the same path inside and out",
    )
    sysfs_root: Directory = Field("/sys", description="where sysfs is")
    dev_root: Directory = Field(
        "/dev", description="where device nodes are looked for; pods get the path under /dev"
    )
    host_root: Directory = Field("/", description="where other host paths are looked for (EXTRA_MOUNTS)")
    pod_resources_socket: Directory = Field(
        "/var/lib/kubelet/pod-resources/kubelet.sock",
        description="where kubelet tells which pod holds which device",
    )
    http_address: Annotated[str, AfterValidator(_http_address)] = Field(
        "127.0.0.1:8080",
        description="where probes and metrics are served; empty: nowhere",
        json_schema_extra={"format": "host:port, or nothing"},
    )
    telemetry: Literal["safe", "all", "none"] = Field(
        "safe",
        description="which sensors of the cards are read: those that cost nothing, all of them, none",
    )
    telemetry_interval: Annotated[float, Field(ge=1, le=86400, allow_inf_nan=False)] = Field(
        15.0, description="seconds between two samples of a card"
    )
    expose_mgmt: bool = Field(False, description="hand /dev/xclmgmt* to pods too")
    device_strategy: Literal["device-specs", "cdi", "both"] = Field(
        "device-specs", description="how containers get device nodes"
    )
    cdi_dir: Directory = Field("/var/run/cdi", description="where the CDI spec goes")
    extra_mounts: Annotated[tuple[Directory, ...], NoDecode, BeforeValidator(_listed)] = Field(
        (),
        description="host paths every grant adds read-only as mounts, comma-separated",
        examples=["/opt/xilinx/xrt"],
    )
    prestart_check: bool = Field(
        False, description="check the granted devices again right before each container start"
    )
    preferred_allocation: Literal["numa", "packed", "spread", "none"] = Field(
        "numa", description="which of the free devices a container is best given"
    )
    shared_replicas: Annotated[int, Field(ge=1, le=1000), AfterValidator(_replicas)] = Field(
        1, description="how many containers may hold one device"
    )
    shared_grant: Literal["own", "all"] = Field(
        "own", description="own: the device asked for; all: every device of the node, for XRM"
    )
    reset_grace: Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)] = Field(
        900.0, description="seconds a device that is resetting keeps its place in the list, Unhealthy"
    )
    recovery_checks: Annotated[int, Field(ge=1, le=1000)] = Field(
        3, description="good health checks in a row before a device is Healthy again"
    )
    request_timeout: Seconds = Field(5.0, description="seconds any request of the kubelet may take")
    nfd_features_dir: PathOrNone = Field(
        "",
        description="where to write a node-feature-discovery feature file; empty: nowhere",
        examples=["/etc/kubernetes/node-feature-discovery/features.d"],
    )
    node_name: Annotated[str, AfterValidator(_node_name)] = Field(
        "",
        description="the name of the Node, for the settings that call the API server",
        examples=["node-1"],
    )
    events: Annotated[bool, AfterValidator(_of_the_node)] = Field(
        False, description="tell of cards that break and recover as Events of the Node"
    )
    node_condition: Annotated[bool, AfterValidator(_of_the_node)] = Field(
        False, description="keep the condition `FPGAHealthy` of the Node"
    )
    startup_taint: Annotated[str, AfterValidator(_taint_key), AfterValidator(_of_the_node)] = Field(
        "",
        description="the key of a taint of the Node that is removed once all cards are offered; empty: none",
        examples=["fpga.xilinx.com/starting"],
    )
    mode: Annotated[Literal["device-plugin", "dra"], AfterValidator(_of_the_node)] = Field(
        "device-plugin", description="what offers the devices: the device plugin, or the DRA driver"
    )
    pod_uid: Annotated[str, AfterValidator(_pod_uid)] = Field(
        "",
        description="MODE=dra: the uid of the own pod, so that two instances can overlap; empty: one alone",
        examples=["9ae4d2b4-1e2b-4c7f-8a70-5ad1a5b4d0d1"],
    )
    plugins_registry_dir: Directory = Field(
        "/var/lib/kubelet/plugins_registry",
        description="MODE=dra: where kubelet finds the driver; the same path as kubelet's",
    )
    dra_driver_name: Annotated[str, AfterValidator(_driver_name)] = Field(
        "fpga.xilinx.com", description="the name of the DRA driver, and the reportingController of Events"
    )
    dra_evict_on: Annotated[tuple[EvictReason, ...], NoDecode, BeforeValidator(_listed)] = Field(
        (),
        description="MODE=dra: reasons that evict pods after 30 s, comma-separated",
        examples=["offline"],
    )
    dra_metadata: bool = Field(True, description="MODE=dra: mount the file with the devices' attributes")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="what is logged")
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="auto: text on a terminal, else json"
    )

    @classmethod
    def load(cls, flags: Mapping[str, str], *, own_cluster: bool = False) -> Self:
        """Read the environment; flags, by field name, come first.

        Args:
            flags: texts.
            own_cluster: the Node has the name `OWN_NODE`, and the caller brings an API server.

        Raises:
            BadSettings: some cannot be used.
        """
        try:
            settings = cls(**{**dict[str, Any](flags), **({"node_name": OWN_NODE} if own_cluster else {})})
        except ValidationError as error:
            lines = {str(each["loc"][0]): _line(each) for each in reversed(error.errors())}
            raise BadSettings("\n".join(lines[name] for name in cls.model_fields if name in lines)) from None
        if settings.mode == "dra" and not own_cluster:
            _require_access(os.environ)
        return settings if settings.compat == "none" else settings._as_1_3_0(os.environ)

    def _as_1_3_0(self, environment: Mapping[str, str]) -> Self:
        """Return the settings with the variables of plugin 1.3.0, where ours are not set."""
        from xilinx_fpga_dp.resources.compat_1_3_0.names import Compat130Settings  # noqa: PLC0415

        same = Compat130Settings.of(environment).settings()
        settings = self.model_copy(
            update={name: value for name, value in same.items() if name not in self.model_fields_set}
        )
        if settings.shared_replicas > 1 and settings.preferred_allocation == "none":
            raise BadSettings(f"{variable('preferred_allocation')}: must not be none with VirtualDev=True")
        return settings

    def environment(self) -> dict[str, str]:
        """Return the settings that differ from their defaults, as variables for another process."""
        return {variable(name): _text(getattr(self, name)) for name in sorted(self.model_fields_set)}


def _require_access(environment: Mapping[str, str]) -> None:
    """Check that something says how to reach the API server; whether it answers is the state of the node."""
    if not environment.get("KUBECONFIG") and not environment.get("KUBERNETES_SERVICE_HOST"):
        raise BadSettings(
            f"{variable('mode')}: dra needs access to the API server, by the service account of a pod or by "
            "the file that KUBECONFIG names"
        )


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _line(error: Any) -> str:
    said = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    return f"{variable(str(error['loc'][0]))}: {said} (it is {error['input']!r})"
