"""The device plugin API in google.protobuf's own messages, to hold ours against.

Made from protos/deviceplugin_v1beta1.proto; independent of the generated code that the plugin uses.
"""

import importlib
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from grpc_tools import protoc  # type: ignore[import-untyped]

_PROTO = Path(__file__).parents[1] / "protos" / "deviceplugin_v1beta1.proto"


def _compiled(proto: Path) -> tuple[ModuleType, ModuleType]:
    """The messages and the stubs protoc makes of one file."""
    with tempfile.TemporaryDirectory(prefix="wire-") as out:
        arguments = [f"-I{proto.parent}", f"--python_out={out}", f"--grpc_python_out={out}"]
        if protoc.main(["protoc", *arguments, str(proto)]) != 0:
            raise RuntimeError(f"protoc refuses {proto}")
        sys.path.insert(0, out)  # the stubs import the messages by their bare name
        try:
            importlib.invalidate_caches()
            messages = importlib.import_module(f"{proto.stem}_pb2")
            return messages, importlib.import_module(f"{proto.stem}_pb2_grpc")
        finally:
            sys.path.remove(out)


# Any: no type checker sees messages that are made at run time.
pb: Any
pb_grpc: Any
pb, pb_grpc = _compiled(_PROTO)
pods_pb: Any
pods_grpc: Any
pods_pb, pods_grpc = _compiled(_PROTO.with_name("podresources_v1.proto"))
