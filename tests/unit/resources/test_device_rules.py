"""Rules for other devices: their form, and the problems of a file."""

import json
import re
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tests.support.factories import device
from tests.support.paths import PROJECT
from tests.support.schemas import schema
from xilinx_fpga_dp.model import Shell
from xilinx_fpga_dp.resources.device_rules import DeviceRules, NodeGlob, parse
from xilinx_fpga_dp.resources.naming import Naming
from xilinx_fpga_dp.resources.rename_rules import Renaming
from xilinx_fpga_dp.resources.rename_rules import parse as parse_renames
from xilinx_fpga_dp.resources.rule_file import BadRuleFile

GOOD: dict[str, Any] = {"name": "xdma", "match": {"driver": "xdma"}, "nodes": ["/dev/xdma*"]}


def parsed(*rules: object) -> DeviceRules:
    return parse(json.dumps(rules).encode())


class TestFile:
    def test_shipped_rules_have_no_problem_and_conform(self) -> None:
        text = (PROJECT / "deploy" / "device-rules.yaml").read_text()
        found = parse(text.encode())
        assert [rule.name for rule in found.rules] == [
            "v80-slash", "v80-qdma", "ul3524", "opennic", "coyote", "xdma", "qdma", "accel", "aws-f2-slot",
        ]  # fmt: skip
        assert found.problems == ()
        Draft202012Validator(schema("device-rules")).validate(yaml.safe_load(text))

    @pytest.mark.parametrize("text", ["[]", "devices: []", '{"devices": []}'])
    def test_no_rule(self, text: str) -> None:
        assert parse(text.encode()) == DeviceRules()

    def test_list_may_be_named(self) -> None:
        assert parse(json.dumps({"devices": [GOOD]}).encode()) == parsed(GOOD)

    @pytest.mark.parametrize("text", ["", "x", "{}", "devices: x", "{devices: [], more: 1}", "- {", "\xff"])
    def test_file_that_is_no_list_is_refused(self, text: str) -> None:
        with pytest.raises(BadRuleFile):
            parse(text.encode("latin-1"))

    def test_number_of_rules_is_limited(self) -> None:
        with pytest.raises(BadRuleFile, match="at most 256"):
            parsed(*[GOOD] * 257)

    def test_rule_with_a_problem_leaves_out_that_rule_only(self) -> None:
        found = parsed({**GOOD, "name": "a b"}, GOOD)
        assert [(rule.number, rule.name) for rule in found.rules] == [(2, "xdma")]
        [problem] = found.problems
        assert problem.startswith("rule 1 (a b): name: ")


PROBLEMS: list[tuple[dict[str, Any], str]] = [
    ({"name": None}, "name: must be the text"),
    ({"name": "x" * 300}, "name: is too long"),
    ({"name": "a/b"}, "name: a resource name can't have '/'"),
    ({"name": "x-{serial}"}, "name: only {device_id} and {address}"),
    ({"name": "x-{colour}"}, "name: unknown field {colour}"),
    ({"match": {}}, "match: must be a mapping"),
    ({"match": ["driver"]}, "match: must be a mapping"),
    ({"match": {"serial": "1"}}, "match.serial: unknown field"),
    ({"match": {"driver": ["a"]}}, "match.driver: must be one glob"),
    ({"match": {"driver": None}}, "match.driver: must be one glob"),
    ({"match": {"driver": "x" * 300}}, "match.driver: is too long"),
    ({"match": {"subsystem": "../x"}}, "match.subsystem: must be a class"),
    ({"match": {"subsystem": "accel", "vendor": "10ee"}}, "match.vendor: unknown field with subsystem"),
    ({"nodes": "/dev/x"}, "nodes: must be a list"),
    ({"nodes": None}, "nodes: must be a list"),
    ({"nodes": ["/dev/x"] * 33}, "nodes: has 33 entries"),
    ({"nodes": [1]}, "nodes[0]: must be"),
    ({"nodes": ["/dev/ok", "/etc/passwd"]}, "nodes[1]: must begin with /dev/"),
    ({"nodes": ["/dev/../etc/passwd"]}, "nodes[0]: must have no empty part"),
    ({"nodes": ["/dev//x"]}, "nodes[0]: must have no empty part"),
    ({"nodes": ["/dev/"]}, "nodes[0]: must have no empty part"),
    ({"nodes": ["/dev/a/b/c/d/e/f/g"]}, "nodes[0]: has too many parts"),
    ({"nodes": ["/dev/x\n"]}, "nodes[0]: must begin with"),
    ({"nodes": ["/dev/{slot}"]}, "nodes[0]: unknown placeholder {slot}"),
    ({"nodes": ["/dev/{bus"]}, "nodes[0]: "),
    ({"nodes": ["/dev/{bus!r}"]}, "nodes[0]: unknown placeholder"),
    ({"nodes": ["/dev/{}"]}, "nodes[0]: unknown placeholder"),
    ({"nodes": [{"of": "slot"}]}, "nodes[0].glob: must be"),
    ({"nodes": [{"glob": "/dev/x", "of": "card"}]}, "nodes[0].of: must be slot"),
    ({"nodes": [{"glob": "/dev/x", "optional": "maybe"}]}, "nodes[0].optional: must be true or false"),
    ({"nodes": [{"glob": "/dev/x", "more": 1}]}, "nodes[0].more: unknown"),
    ({"mounts": ["run/x"]}, "mounts[0]: must be an absolute path"),
    ({"mounts": ["/"]}, "mounts[0]: must have no empty part"),
    ({"mounts": ["/run/../etc"]}, "mounts[0]: must have no empty part"),
    ({"mounts": "/run/x"}, "mounts: must be a list"),
    ({"health": [{"attribute": "x"}]}, "health[0].healthy: must be a list"),
    ({"health": [{"attribute": "x", "healthy": []}]}, "health[0].healthy: must be a list"),
    ({"health": [{"attribute": "x", "healthy": [True]}]}, "health[0].healthy: must be a list"),
    ({"health": [{"attribute": "../x", "healthy": ["1"]}]}, "health[0].attribute: must be a path"),
    ({"health": [{"attribute": "/x", "healthy": ["1"]}]}, "health[0].attribute: must be a path"),
    ({"health": [{"attribute": "mailbox", "healthy": ["1"]}]}, "health[0].attribute: mailbox is never read"),
    ({"health": [{"attribute": "config", "healthy": ["1"]}]}, "health[0].attribute: config is never read"),
    ({"health": ["x"]}, "health[0]: must be a mapping"),
    ({"health": [{"attribute": "x", "healthy": ["1"], "y": 1}]}, "health[0].y: unknown"),
    ({"colour": 1}, "colour: unknown"),
]


@pytest.mark.parametrize(("change", "problem"), PROBLEMS, ids=[text[:40] for _, text in PROBLEMS])
def test_problem_names_rule_and_field(change: dict[str, Any], problem: str) -> None:
    found = parsed({**GOOD, **change})
    assert found.rules == ()
    assert [each for each in found.problems if re.match(r"rule 1( \(.*?\))?: ", each) and problem in each]
    assert not [each for each in found.problems if "\n" in each]


def test_missing_nodes_are_no_empty_list() -> None:
    assert "nodes: missing" in parsed({"name": "x", "match": {"driver": "x"}}).problems[0]


def test_rule_may_be_no_mapping() -> None:
    assert parsed("x").problems == ("rule 1: must be a mapping with name, match and nodes",)


VALUES = {
    "vendor": "10ee",
    "device": "903f",
    "subsystem_vendor": None,
    "subsystem_device": "0007",
    "class": "070001",
    "driver": None,
    "address": "0000:65:00.0",
}


@pytest.mark.parametrize(
    ("match", "matches"),
    [
        ({"vendor": "10ee"}, True),
        ({"vendor": "0x10EE"}, True),
        ({"vendor": "10e"}, False),
        ({"vendor": "10ee", "device": "50b6"}, False),
        ({"device": "90*"}, True),
        ({"class": "07*"}, True),
        ({"class": "0x0700??"}, True),
        ({"driver": ""}, True),
        ({"driver": "?*"}, False),
        ({"subsystem_vendor": ""}, True),
        ({"address": "0000:65:*"}, True),
    ],
)
def test_all_globs_must_match(match: dict[str, str], matches: bool) -> None:
    [rule] = parsed({**GOOD, "match": match}).rules
    assert rule.matches(VALUES) is matches


@pytest.mark.parametrize(
    ("glob", "carries"),
    [
        ("/dev/qdma{bus}{device}{function}-MM-*", True),
        ("/dev/ami-bdf-{bus}:{device}.{function}", True),
        ("/dev/x_{domain}:{bus}:{device}.{function}", True),
        ("/dev/qdma{bus}{device}{function}*", False),
        ("/dev/*{bus}{device}{function}-x", False),
        ("/dev/[ab]{bus}{device}{function}-x", False),
        ("/dev/1{bus}{device}{function}-x", False),
        ("/dev/qdma{bus}{device}{function}0", False),
        ("/dev/qdma{bus}{device}-x", False),
        ("/dev/qdma{bus}*{device}{function}-x", False),
        ("/dev/x*", False),
    ],
)
def test_only_a_whole_address_ties_a_name_to_a_function(glob: str, carries: bool) -> None:
    assert NodeGlob(glob).carries_address is carries


def test_placeholders_are_filled_in_as_the_kernel_writes_them() -> None:
    glob = NodeGlob("/dev/{domain}-{bus}-{device}-{function}")
    assert glob.for_address("10000:a1:1f.7") == "/dev/10000-a1-1f-7"
    assert glob.for_address("accel0") is None


def test_name_is_that_of_the_rule_and_can_be_changed_by_a_rename() -> None:
    taken = device(shell=Shell("lab-903f", None, None), board="lab-903f", rule="lab-{device_id}")
    base = Naming("xilinx.com/fpga-", "{board}-{serial}-x")
    assert Renaming(base).among([taken]).resource_name(taken) == "xilinx.com/fpga-lab-903f"
    renames = parse_renames(b"- {match: {shell: lab*}, name: other}")
    assert Renaming(base, renames).among([taken]).resource_name(taken) == "xilinx.com/fpga-other"


texts = st.text(max_size=12) | st.sampled_from(["/dev/x*", "{bus}", "..", "10ee", "slot", "xdma", "/"])
values = st.recursive(
    st.none() | st.booleans() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
rules = st.fixed_dictionaries(
    {
        "name": values,
        "match": st.dictionaries(st.sampled_from([*VALUES, "subsystem", "x"]), values),
        "nodes": values,
    },
    optional={"mounts": values, "health": values, "x": values},
)


@given(st.lists(rules | values, max_size=3))
def test_any_rules_are_read_or_refused_in_a_line_each(documents: list[Any]) -> None:
    found = parsed(*documents)
    assert len(found.rules) + len({each.split(" ")[1].strip(":") for each in found.problems}) >= len(
        documents
    )
    for problem in found.problems:
        assert problem.isprintable()


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(text: bytes) -> None:
    try:
        parse(text)
    except BadRuleFile as error:
        assert error.args


@given(st.lists(rules, max_size=2))
def test_what_is_accepted_conforms_to_the_schema(documents: list[Any]) -> None:
    if not parsed(*documents).problems:
        Draft202012Validator(schema("device-rules")).validate(documents)
