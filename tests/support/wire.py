"""The device plugin API in messages of google.protobuf, as a reference for the generated code.

protoc compiles protos/*.proto for it; it shares nothing with the generated code of the plugin.
"""

import importlib
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from grpc_tools import protoc  # type: ignore[import-untyped]

from tests.support.paths import PROJECT

_PROTO = PROJECT / "protos" / "deviceplugin_v1beta1.proto"


def _compiled(proto: Path) -> tuple[ModuleType, ModuleType]:
    """Compile a file with protoc; return the modules of its messages and its stubs."""
    with tempfile.TemporaryDirectory(prefix="wire-") as out:
        arguments = [f"-I{proto.parent}", f"--python_out={out}", f"--grpc_python_out={out}"]
        if protoc.main(["protoc", *arguments, str(proto)]) != 0:
            raise RuntimeError(f"protoc refuses {proto}")
        sys.path.insert(0, out)  # the stubs import the messages without a package
        try:
            importlib.invalidate_caches()
            messages = importlib.import_module(f"{proto.stem}_pb2")
            return messages, importlib.import_module(f"{proto.stem}_pb2_grpc")
        finally:
            sys.path.remove(out)


# Any: a type checker cannot see messages that are generated at run time.
pb: Any
pb_grpc: Any
pb, pb_grpc = _compiled(_PROTO)
pods_pb: Any
pods_grpc: Any
pods_pb, pods_grpc = _compiled(_PROTO.with_name("podresources_v1.proto"))
dra_pb: Any
dra_grpc: Any
dra_pb, dra_grpc = _compiled(_PROTO.with_name("dra_v1.proto"))
dra_health_pb: Any
dra_health_grpc: Any
dra_health_pb, dra_health_grpc = _compiled(_PROTO.with_name("dra_health_v1.proto"))
dra_old_health_pb: Any
dra_old_health_grpc: Any
dra_old_health_pb, dra_old_health_grpc = _compiled(_PROTO.with_name("dra_health_v1alpha1.proto"))
registration_pb: Any
registration_grpc: Any
registration_pb, registration_grpc = _compiled(_PROTO.with_name("pluginregistration_v1.proto"))
