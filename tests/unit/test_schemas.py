"""The JSON schemas in the package: their enums, and the examples in the documentation."""

import json
import re
from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator, ValidationError

from tests.support.paths import PROJECT
from tests.support.schemas import SCHEMAS, conforms, schema
from xilinx_fpga_dp.model import Reason
from xilinx_fpga_dp.resources.allocator import Code


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_is_valid(name: str) -> None:
    Draft202012Validator.check_schema(schema(name))


def test_schema_lists_every_reason_and_code() -> None:
    assert set(schema("state")["$defs"]["reason"]["enum"]) == set(Reason)
    codes = schema("explain")["properties"]["refused"]["properties"]["code"]["enum"]
    assert set(codes) == set(get_args(Code))


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("state", {"devices": [], "left_out": [], "resources": {}, "more": 1}),
        ("state", {"devices": [], "left_out": [{"function": "x"}], "resources": {}}),
        ("diagnose", {"result": "bad", "lines": []}),
        ("explain", {}),
        ("explain", {"answer": {"envs": {}, "mounts": [], "devices": []}}),
    ],
)
def test_schema_refuses_another_document(name: str, document: Any) -> None:
    with pytest.raises(ValidationError):
        conforms(name, document)


def test_examples_in_the_documentation_conform() -> None:
    page = (PROJECT / "docs" / "reference" / "json.md").read_text()
    examples = [
        json.loads(text) for text in re.findall(r"^```json\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    ]
    assert len(examples) == 6
    for name, example in zip(
        ("state", "cluster", "diagnose", "explain", "explain", "rules"), examples, strict=True
    ):
        conforms(name, example)
