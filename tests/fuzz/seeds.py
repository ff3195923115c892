"""The first input of each target, as it is on a node."""

from collections.abc import Mapping

from tests.faults.wires import message, request
from tests.support.wire import pb

_IDS = ["0000:65:00.1", "0000:66:00.1::0"]


def _allocate() -> bytes:
    container = pb.ContainerAllocateRequest(devices_ids=_IDS)
    encoded: bytes = pb.AllocateRequest(container_requests=[container]).SerializeToString()
    return encoded


def _connection() -> list[bytes]:
    methods = {"Allocate": _allocate(), "GetDevicePluginOptions": b"", "ListAndWatch": b""}
    whole = [request(name, message(body)) for name, body in methods.items()]
    return [each.partition(b"SM\r\n\r\n")[2] for each in whole]


SEEDS: Mapping[str, list[bytes]] = {
    "connection": _connection(),
    # The first byte is the number of a file: targets.py _READ
    "sysfs": [
        b"\x00xilinx_u200_xdma_201830_2\n\xff\xfe\x011561465320\n",
        b"\x02" + b"0x1\n\xff\xfe\x031\n",
        b"\x05" + b"862c7020a250293e32036f19956669e5\n" * 2,
        b"\x06XFL1ABCDEF\n\xff\xfe\x0b-1\n\xff\xfe\x0d0x10ee\n",
        b"\x0a0x80000\n\xff\xfe\x090x1\n\xff\xfe\x081\n",
        b"\x16READY\n\xff\xfe\x17862c7020-a250-293e-3203-6f19956669e5\n\xff\xfe\x18XFL1",
        b"\x1c0000:c1:00.0\n\xff\xfe\x1dProduct serial number = XFL1\nPCIe device ID = 0x5070\n",
        b"\x1eZynqMP SM-K26 Rev1\0\xff\xfe\x1fxlnx,zynqmp-smk-k26\0xlnx,zynqmp\0",
        b"\x211\nc1:00.0 1 3\n\xff\xfe\x222.16.0,abc\n\xff\xfe\x230-1,4\n",
    ],
    "event": [
        b"add@/devices/pci0000:60\0ACTION=add\0SUBSYSTEM=pci\0SEQNUM=1\0",
        b"change@/x\0SUBSYSTEM=drm\0\xff\xfeadd@/y\0SUBSYSTEM=block\0",
    ],
    "settings": [
        b"\x051.5\0\x03/var/run",
        b"\x05{shell}-{timestamp}\0\x04amd.com/",
        b"\x09127.0.0.1:8080\0\x0dcdi",
    ],
    "http": [
        b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
        b"HEAD /livez?x HTTP/1.0\r\n\r\n",
        b"POST / HTTP/1.1\r\n\r\n",
    ],
    "rules": [
        b"- match: {board: u2*, shell: '*xdma*'}\n  name: big-{board}\n- {match: {}, name: rest}\n",
        b'[{"match": {"serial": "?*"}, "name": "{serial}-{timestamp}"}]',
        b"[]",
    ],
    "device_rules": [
        b'- {name: x, match: {vendor: "10ee"}, nodes: [{glob: "/dev/x{bus}{device}{function}-*", of: slot}]}',
        (
            b'[{"name": "a", "match": {"subsystem": "accel"}, "nodes": [], "mounts": ["/run/x"],'
            b' "health": [{"attribute": "dev_state", "healthy": ["READY"]}]}]'
        ),
    ],
    "old_rules": [
        b'{"u200-xilinx_u200_xdma_201830_2-0": "\'fpga\'+DeviceName+ShellVer"}',
        b'{"a-b": "x", "a-b-c": 1}',
    ],
}
"""Valid or nearly valid input by target."""
