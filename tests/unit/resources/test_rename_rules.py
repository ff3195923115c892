"""Rename rules: their syntax, their effect on names, and the problems of a file."""

import dataclasses
import json
import os
import re
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.support.kubelet_names import kubelet_takes
from tests.support.paths import PROJECT
from tests.support.rule_files import followed
from xilinx_fpga_dp.model import Device, Shell
from xilinx_fpga_dp.resources.compat_1_3_0.advice import as_rules
from xilinx_fpga_dp.resources.compat_1_3_0.names import Compat130Settings
from xilinx_fpga_dp.resources.compat_1_3_0.names import parse as parse_names
from xilinx_fpga_dp.resources.naming import FIELDS, Naming
from xilinx_fpga_dp.resources.rename_rules import MAX_BYTES, Renaming, parse
from xilinx_fpga_dp.resources.rule_file import BadRuleFile

PREFIX = "xilinx.com/fpga-"
BASE = Naming(PREFIX, "{shell}-{timestamp}")
U30 = Device(
    "0000:65:00.1",
    Shell("xilinx_u30_gen3x4_base_1", "0", "1b5feb2a91b6818da3e8d9867de17da0"),
    "u30",
    "xocl",
    device_id="513d",
    serial="XFL1",
)
U200 = Device("0000:21:00.1", Shell("xilinx_u200_xdma_201830_2", "1561465320", None), "u200", "xocl")
U200_NAME = f"{PREFIX}xilinx_u200_xdma_201830_2-1561465320"
V80 = Device("0000:31:00.0", Shell("xilinx_v80", None, None), "v80", "ami")


def naming(text: str, *devices: Device) -> Renaming:
    return Renaming(BASE, parse(text.encode())).among(devices)


def named(text: str, *devices: Device) -> list[str]:
    names = naming(text, *devices)
    return [names.resource_name(device).removeprefix(PREFIX) for device in devices]


def problems(text: str | bytes) -> tuple[str, ...]:
    with pytest.raises(BadRuleFile) as bad:
        parse(text if isinstance(text, bytes) else text.encode())
    return bad.value.args


@pytest.mark.parametrize(
    ("match", "matches"),
    [
        ('shell: "xilinx_u30_*"', True),
        ('shell: "XILINX_U30_*"', True),
        ("shell: xilinx_u30", False),
        ('shell: "xilinx_u30_*", uuid: "*e17da0"', True),
        ('shell: "xilinx_u30_*", uuid: "*ff8294"', False),
        ("timestamp: 0", True),
        ("timestamp: 00", False),
        ('timestamp: "?"', True),
        ('board: "u[123]0"', True),
        ("board: U30", True),
        ("device_id: 513D", True),
        ("device_id: 0x513d", True),
        ("serial: xfl1", True),
        ("address: 0000:65:00.1", True),
        ('address: "0000:65:*"', True),
        ("", True),
    ],
)
def test_rule_matches_by_globs_without_case(match: str, matches: bool) -> None:
    assert named(f"- {{match: {{{match}}}, name: mine}}", U30) == [
        "mine" if matches else "xilinx_u30_gen3x4_base_1-0"
    ]


def test_missing_field_is_empty_text() -> None:
    assert named('- {match: {serial: "*"}, name: a}', V80) == ["a"]
    assert named('- {match: {serial: "?*"}, name: a}', V80, U30) == ["xilinx_v80", "a"]
    assert named('- {match: {serial: ""}, name: a}', V80, U30) == ["a", "xilinx_u30_gen3x4_base_1-0"]


def test_numbers_are_compared_as_written() -> None:
    """YAML reads such values as an octal number, a date, a base-60 number and a boolean."""
    for written in ("0012345", "2019-06-25", "12:30:45", "yes", "1e3", "0x10", "1561465320"):
        device = dataclasses.replace(U30, serial=written)
        assert named(f"- {{match: {{serial: {written}}}, name: a}}", device) == ["a"]
    assert named('[{"match": {"timestamp": 1561465320}, "name": "a"}]', U200) == ["a"]


def test_first_matching_rule_wins() -> None:
    text = "- {match: {board: u30}, name: one}\n- {match: {}, name: 'two-{board}'}"
    assert named(text, U30, U200) == ["one", "two-u200"]


def test_name_is_a_template() -> None:
    assert named('- {match: {}, name: "{board}-{timestamp}.x_{serial}"}', U30) == ["u30-0.x_XFL1"]


@pytest.mark.parametrize("share", ["", ", share: false"])
def test_rule_without_share_merges_no_resources(share: str) -> None:
    names = naming(f"- {{match: {{}}, name: fpga{share}}}", U30, U200)
    assert [names.resource_name(each) for each in (U30, U200)] == [
        BASE.resource_name(U30),
        BASE.resource_name(U200),
    ]
    [warning] = names.warnings
    assert "rule 1 " in warning
    assert "share: true" in warning
    assert BASE.resource_name(U30) in warning


def test_two_rules_with_one_name_must_both_share() -> None:
    rule = "- {{match: {{board: {}}}, name: fpga{}}}\n"
    shares = ", share: true"
    for one, other in (("", ""), (shares, ""), ("", shares)):
        names = naming(rule.format("u30", one) + rule.format("u200", other), U30, U200)
        assert names.resource_name(U200) == BASE.resource_name(U200)
        assert "rules 1 and 2" in names.warnings[0]
    names = naming(rule.format("u30", shares) + rule.format("u200", shares), U30, U200)
    assert {names.resource_name(each) for each in (U30, U200)} == {PREFIX + "fpga"}
    assert names.warnings == ()


@pytest.mark.parametrize("share", [True, False])
def test_default_name_of_another_device_needs_share(share: bool) -> None:
    text = f"- {{match: {{board: u30}}, name: xilinx_u200_xdma_201830_2-1561465320, share: {share}}}"
    names = naming(text, U30, U200)
    assert (names.resource_name(U30) == U200_NAME) is share
    assert names.resource_name(U200) == U200_NAME
    assert bool(names.warnings) is not share


def test_devices_with_one_default_name_need_no_share() -> None:
    other = dataclasses.replace(U200, address="0000:22:00.1")
    assert named("- {match: {board: u200}, name: fpga}", U200, other) == ["fpga", "fpga"]


def test_rule_without_a_name_for_a_device_is_a_warning() -> None:
    names = naming('- {match: {}, name: "{serial}"}', U200)
    assert names.resource_name(U200) == U200_NAME
    assert "rule 1 gives 0000:21:00.1 no name" in names.warnings[0]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "must be a list"),
        ("{}", "must be a list"),
        ("a: b", "must be a list"),
        ("- [", "line "),
        ("- x", "rule 1: must be a mapping"),
        ("- {match: {}}", "rule 1: name: must be the text"),
        ("- {name: a}", "rule 1: match: must be a mapping"),
        ("- {match: {}, name: a}\n- {match: {colour: red}, name: b}", "rule 2: match.colour: unknown field"),
        ("- {match: {}, name: a, nmae: b}", "rule 1: 'nmae': unknown; a rule has match, name, share"),
        ("- {match: {serial: }, name: a}", 'rule 1: match.serial: must be a glob in quotes; ""'),
        ("- {match: {serial: null}, name: a}", "rule 1: match.serial"),
        ("- {match: {serial: [a]}, name: a}", "rule 1: match.serial"),
        ('[{"match": {"serial": null}, "name": "a"}]', "rule 1: match.serial"),
        ("- {match: {shell: '" + "x" * 300 + "'}, name: a}", "at most 256"),
        ("- {match: {}, name: 'fpga{colour}'}", "rule 1: name: unknown field {colour}"),
        ('- {match: {}, name: "{co\\nlour}"}', r"rule 1: name: unknown field {co\nlour}"),
        ('- {match: {"co\\nlour": red}, name: b}', r"rule 1: match.co\nlour: unknown field"),
        ("- {match: {}, name: 'fpga{shell:>9}'}", "rule 1: name: the field {shell} takes no format"),
        ("- {match: {}, name: 'fpga{'}", "rule 1: name: "),
        ("- {match: {}, name: amd.com/u30}", "rule 1: name: a resource name can't have '/'"),
        ("- {match: {}, name: ''}", "rule 1: name: must be the text"),
        ("- {match: {}, name: a, share: perhaps}", "rule 1: share: must be true or false"),
        ("- {match: {}, name: a, name: b}", "line 1: 'name' is there twice"),
        ('[{"match": {}, "name": "a", "name": "b"}]', "'name' is there twice"),
        ("- &a {match: {}, name: a}\n- *a", "anchors and aliases"),
        ("&a [*a]", "anchors and aliases"),
        ("- !!python/object/apply:os.system [ls]", "the tag"),
        ("- {match: {}, name: a}\n---\n- {match: {}, name: b}", "line "),
        ("[" * 5000, "nested too deeply"),
        ("- " * 20000, "nested too deeply"),
        (b"\xff\xfe", "no UTF-8"),
        ('- "\\UFFFFFFFF"', ""),
        ('{"u30-*-*": "shellVer"}', "COMPAT=1.3.0"),
    ],
)
def test_problem_names_rule_and_field(text: str | bytes, problem: str) -> None:
    assert any(problem in each for each in problems(text)), problems(text)


def test_ten_problems_are_listed() -> None:
    listed = problems("- x\n" * 12)
    assert [problem.partition(":")[0] for problem in listed] == [f"rule {n}" for n in range(1, 11)] + [
        "and 2 more"
    ]


words = st.text(max_size=12)
trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)
rules = st.lists(
    st.fixed_dictionaries(
        {"match": st.dictionaries(st.sampled_from(FIELDS) | words, words | trees), "name": words | trees},
        optional={"share": st.booleans() | trees},
    ),
    max_size=4,
)


@given(
    st.one_of(
        st.binary(max_size=200),
        st.text().map(str.encode),
        st.text("- {}[]:,'\"&*!|>%#?\n\tabmatchnmeshl").map(str.encode),
        trees.map(lambda tree: json.dumps(tree).encode()),
        rules.map(lambda tree: json.dumps(tree).encode()),
    )
)
def test_any_file_is_accepted_or_has_problems(text: bytes) -> None:
    try:
        taken = parse(text)
    except BadRuleFile as bad:
        assert bad.args
        assert all(problem.strip() for problem in bad.args)
        return
    names = Renaming(BASE, taken).among([U30, U200, V80])
    assert all(kubelet_takes(names.resource_name(device)) for device in (U30, U200, V80))


field_texts = st.text("ab01_-", min_size=1, max_size=4)
devices = st.builds(
    lambda number, shell, timestamp, serial: Device(
        f"0000:{number:02x}:00.1", Shell(shell, timestamp, None), "b", "xocl", serial=serial
    ),
    st.integers(0, 255),
    field_texts,
    st.none() | st.just("1"),
    st.none() | field_texts,
)
good_rules = st.lists(
    st.fixed_dictionaries(
        {
            "match": st.dictionaries(st.sampled_from(["shell", "serial", "address"]), st.text("ab01*?_-")),
            "name": st.sampled_from(["a", "a-1", "b", "{shell}", "{serial}", "{shell}-{timestamp}"]),
            "share": st.booleans(),
        }
    ),
    max_size=4,
)


@given(good_rules, st.lists(devices, max_size=6, unique_by=lambda device: device.address), st.randoms())
def test_only_rules_with_share_merge_resources_in_any_order(
    documents: list[dict[str, object]], present: list[Device], random: object
) -> None:
    rules = parse(json.dumps(documents).encode())
    names = Renaming(BASE, rules).among(present)
    backwards = Renaming(BASE, rules).among(present[::-1])
    for one in present:
        assert names.resource_name(one) == backwards.resource_name(one)
        for other in present:
            if names.resource_name(one) != names.resource_name(other):
                continue
            if BASE.resource_name(one) != BASE.resource_name(other):
                renamed = [d for d in (one, other) if names.resource_name(d) != BASE.resource_name(d)]
                assert renamed
                assert all(next(r for r in rules if r.matches(d)).share for d in renamed)


def test_no_glob_is_slow() -> None:
    device = dataclasses.replace(U30, shell=Shell("a" * 128, "0", None))
    text = json.dumps([{"match": {"shell": "*a" * 127 + "b"}, "name": "x"}])
    began = time.monotonic()
    named(text, device)
    assert time.monotonic() - began < 20, "no exponential backtracking"


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (Path.absolute, "No such file"),
        (os.mkfifo, "no regular file"),
        (Path.mkdir, "Is a directory"),
        (lambda path: path.symlink_to("/dev/zero"), "no regular file"),
        (lambda path: path.write_bytes(b"#" * (MAX_BYTES + 1)), "more than 65536 bytes"),
    ],
)
async def test_unreadable_file_is_a_problem(tmp_path: Path, make: object, problem: str) -> None:
    path = tmp_path / "rules.yaml"
    make(path)  # type: ignore[operator]
    file = await followed(path)
    assert file.state.value is None
    assert problem in file.state.problems[0]


@pytest.mark.parametrize("page", ["names.md", "migration.md"])
def test_examples_in_the_documentation_are_valid(page: str) -> None:
    text = (PROJECT / "docs" / "reference" / page).read_text()
    examples = re.findall(r"```(?:yaml|json)\n(.*?)```", text, re.DOTALL)
    assert examples
    for example in examples:
        document = yaml.safe_load(example)
        if isinstance(document, list):
            assert parse(example.encode())
        elif document.get("kind") == "ConfigMap":
            assert all(parse(rules.encode()) for rules in document["data"].values())
        else:
            old = Compat130Settings(exact=True, customize=True)
            assert "\n".join(as_rules(parse_names(example.encode()), old)) + "\n" in examples
