"""The JSON schemas in the package."""

import json
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator

SCHEMAS = ("state", "cluster", "diagnose", "explain", "capture", "rules", "device-rules")


def schema(name: str) -> dict[str, Any]:
    """Return a schema by its name."""
    read: dict[str, Any] = json.loads((files("xilinx_fpga_dp") / "schemas" / f"{name}.json").read_text())
    return read


def _closed(part: Any) -> Any:
    """Return a schema that also refuses unknown members. Consumers ignore them."""
    if isinstance(part, list):
        return [_closed(each) for each in part]
    if not isinstance(part, dict):
        return part
    shut = {name: value if name in ("if", "then", "else") else _closed(value) for name, value in part.items()}
    return {"additionalProperties": False, **shut} if part.get("type") == "object" else shut


def conforms(name: str, document: Any) -> None:
    """Check that a document conforms to a schema and has no member that the schema lacks.

    Raises:
        jsonschema.ValidationError: it does not.
    """
    Draft202012Validator(_closed(schema(name)), format_checker=Draft202012Validator.FORMAT_CHECKER).validate(
        document
    )
