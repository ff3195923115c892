"""The names of all log events. Imports nothing, so that every room can use it.

`NodeEvent` has those of Kubernetes Events.
"""

from enum import StrEnum


class Event(StrEnum):
    """A log event. Its fields are in docs/reference/log-events.md."""

    # The process
    STARTED = "started"
    SHUTTING_DOWN = "shutting down"
    STOPPED = "stopped"
    HANGUP = "SIGHUP: scanning and registering again"
    UNKNOWN_SETTING = "unknown setting ignored"
    SETTING_OF_OTHER_MODE = "setting without effect in this mode"
    TASK_FAILED = "task failed, restarting it"
    NO_DESCRIPTOR = "no file descriptor for a connection"
    NO_THREAD = "cannot start a thread: see the limit of tasks (pids)"
    NO_INOTIFY = "no inotify, polling instead"

    # Devices
    DEVICE_FOUND = "device found"
    DEVICE_MOVED = "device moved to another resource"
    DEVICE_GONE = "device gone"
    DEVICE_UNHEALTHY = "device unhealthy"
    DEVICE_HEALTHY = "device healthy"
    CARD_ERROR = "card error"
    LEFT_OUT = "left out"
    CONFIGURATION_WARNING = "configuration warning"
    SCAN_FAILED = "scan failed"
    NO_KERNEL_EVENTS = "kernel events unavailable, scanning by timer only"

    # kubelet
    NO_KUBELET = "no kubelet yet; to try without one: python -m xilinx_fpga_dp simulate"
    SOCKET_DIRECTORY_UNUSABLE = "socket directory unusable"
    SOCKET_DIRECTORY_USABLE = "socket directory usable again"
    REGISTERED = "registered"
    NOT_REGISTERED = "not registered yet"
    LEAVING_ENDPOINT = "leaving endpoint"
    ENDPOINT_FAILED = "endpoint failed"
    SUPERSEDED = "superseded by a newer instance"
    ACTIVE = "active: no newer instance lives"
    DEAD_SOCKET_REMOVED = "removed a dead instance's socket"
    NO_INSTANCE_LOCK = "no instance lock, working as if alone on the node"
    ALLOCATED = "allocated"
    REFUSED = "refused"
    CALL_FAILED = "call failed"
    CONNECTION_CLOSED = "connection closed"
    PODRESOURCES_UNAVAILABLE = (
        "podresources unavailable: cannot detect devices allocated under another resource name"
    )
    PODRESOURCES_AVAILABLE = "podresources answers again"

    # The API server
    API_CALL_FAILED = "API server: call failed, retrying"
    API_CALL_SUCCEEDED = "API server: calls succeed again"
    STARTUP_TAINT_REMOVED = "startup taint removed"

    # Claims and slices
    CLAIM_PREPARED = "claim prepared"
    CLAIM_UNPREPARED = "claim unprepared"
    CLAIM_REFUSED = "claim refused"
    CLAIM_LEFT_OVER = "claim is gone, undoing it"
    MODE_CONFLICT = "a device plugin offers the same devices"
    CHECKPOINT_SET_ASIDE = "checkpoint unreadable, set aside"
    SLICE_WRITTEN = "slice written"
    SLICE_NOT_WRITTEN = "slice not written"
    SLICE_CONTESTED = "others change the slices again and again, waiting"
    DEVICE_REFUSED = "API server refuses a device"
    FIELDS_DROPPED = "API server drops fields"

    # Files and HTTP
    RENAME_RULES_READ = "rename rules read"
    DEVICE_RULES_READ = "device rules read"
    FILE_NOT_WRITTEN = "cannot write file"
    FILE_WRITTEN_AGAIN = "file written again"
    EXTRA_MOUNT_LEFT_OUT = "extra mount left out"
    SERVING_HTTP = "serving HTTP"
    HTTP_ADDRESS_UNAVAILABLE = "cannot bind HTTP address, retrying"
    HTTP_CONNECTION_BROKEN = "HTTP connection broken"
    HTTP_CONNECTION_CLOSED = "HTTP connection closed"

    # Migration from plugin 1.3.0
    COMPAT_NEEDED = "ignored: it needs XILINX_FPGA_DP_COMPAT=1.3.0"
    COMPAT_ADVICE = "COMPAT: what to write now"
    COMPAT_TEMPLATE_IGNORED = "ignored: names are those of plugin 1.3.0 with COMPAT"
    COMPAT_RULES = "COMPAT: NameCustomize.json as rules"


class NodeEvent(StrEnum):
    """The reason of a Kubernetes Event of the node."""

    UNHEALTHY = "FPGAUnhealthy"
    RECOVERED = "FPGARecovered"
    REMOVED = "FPGARemoved"
    REPROGRAMMED = "FPGAReprogrammed"
    MODE_CONFLICT = "FPGAModeConflict"
    NOT_PUBLISHED = "FPGANotPublished"
