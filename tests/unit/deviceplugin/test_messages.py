"""The generated messages write and read the same bytes as google.protobuf, for any content.

The tests use every message of the API. Strategies and field names come from google's descriptors; the
generated classes are found by full name and field number, since their names are irregular.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import betterproto2
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.wire import pb
from xilinx_fpga_dp.rpc.api import deviceplugin_v1beta1 as v1beta1
from xilinx_fpga_dp.rpc.api.message_pool import default_message_pool

# A message as plain values by field number, built in either library: absent fields are left out.
Plain = Mapping[int, Any]

MESSAGES: dict[str, Descriptor] = dict(pb.DESCRIPTOR.message_types_by_name)
every_message = pytest.mark.parametrize("descriptor", MESSAGES.values(), ids=MESSAGES)
# Without deadlines: the result must not depend on the load of the machine.
few = settings(max_examples=25, deadline=None)

_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_STRING: st.text(max_size=12),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
}


def _is_map(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind is not None and bool(kind.GetOptions().map_entry)


def _values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    kind = field.message_type
    if kind is not None and _is_map(field):
        key, value = (_values(kind.fields_by_number[number]) for number in (1, 2))
        return st.dictionaries(key, value, max_size=3)
    one = _SCALARS[field.type] if kind is None else _plain(kind)
    return st.lists(one, max_size=3) if field.is_repeated else one


def _plain(descriptor: Descriptor) -> st.SearchStrategy[dict[int, Any]]:
    """Generate any content of one message; each field may be absent."""
    optional = {field.number: _values(field) for field in descriptor.fields}
    return st.fixed_dictionaries({}, optional=optional)


def _convert(field: FieldDescriptor, value: Any, build: Any) -> Any:
    if _is_map(field) or not field.message_type:
        return value
    if field.is_repeated:
        return [build(field.message_type, one) for one in value]
    return build(field.message_type, value)


def google(descriptor: Descriptor, plain: Plain) -> Any:
    """Build the message with google.protobuf."""
    names = descriptor.fields_by_number
    fields = {names[n].name: _convert(names[n], value, google) for n, value in plain.items()}
    return getattr(pb, descriptor.name)(**fields)


def ours_of(descriptor: Descriptor) -> type[betterproto2.Message]:
    """Return the generated class of the same full name."""
    return default_message_pool.url_to_type[f"type.googleapis.com/{descriptor.full_name}"]


def names_of(kind: Any) -> dict[int, str]:
    """Return the generated field names, by field number."""
    return {field.metadata["betterproto"].number: field.name for field in dataclasses.fields(kind)}


def ours(descriptor: Descriptor, plain: Plain) -> betterproto2.Message:
    """Build the message with the generated code."""
    kind = ours_of(descriptor)
    names, fields = names_of(kind), descriptor.fields_by_number
    return kind(**{names[n]: _convert(fields[n], value, ours) for n, value in plain.items()})


def in_google_order(plain: Any) -> Any:
    """Return the same with its maps in google's deterministic order.

    The order is that of the bytes of the keys. If one key begins another, the longer comes first, so
    each key ends with a byte that UTF-8 never has.
    """
    if isinstance(plain, list):
        return [in_google_order(one) for one in plain]
    if isinstance(plain, dict):
        text = all(isinstance(key, str) for key in plain)
        order = (lambda key: key.encode() + b"\xff") if text else None
        return {key: in_google_order(plain[key]) for key in sorted(plain, key=order)}
    return plain


def encoded(message: Any) -> bytes:
    """Return google.protobuf's deterministic bytes of a message."""
    written: bytes = message.SerializeToString(deterministic=True)
    return written


def test_both_have_the_same_messages_and_fields() -> None:
    generated = {
        kind
        for kind in vars(v1beta1).values()
        if isinstance(kind, type) and issubclass(kind, betterproto2.Message)
    }
    assert generated == {ours_of(descriptor) for descriptor in MESSAGES.values()}
    for descriptor in MESSAGES.values():
        assert names_of(ours_of(descriptor)).keys() == set(descriptor.fields_by_number)


@every_message
@few
@given(data=st.data())
def test_both_write_the_same_bytes(descriptor: Descriptor, data: st.DataObject) -> None:
    plain = data.draw(_plain(descriptor))
    theirs = google(descriptor, plain)
    assert bytes(ours(descriptor, in_google_order(plain))) == encoded(theirs)
    # The order of its maps does not change the message.
    assert type(theirs).FromString(bytes(ours(descriptor, plain))) == theirs


@every_message
@few
@given(data=st.data())
def test_both_read_the_same_from_the_same_bytes(descriptor: Descriptor, data: st.DataObject) -> None:
    plain = data.draw(_plain(descriptor))
    theirs = google(descriptor, plain)
    read = ours_of(descriptor).parse(encoded(theirs))
    assert read == ours(descriptor, plain)
    assert bytes(read) == encoded(theirs)


# A field of a later version of the API, of each wire type.
UNKNOWN = [
    pytest.param(b"\xf8\x06\x96\x01", id="varint"),
    pytest.param(b"\xf9\x06" + bytes(8), id="64 bits"),
    pytest.param(b"\xfa\x06\x03new", id="bytes"),
    pytest.param(b"\xfd\x06" + bytes(4), id="32 bits"),
]


@every_message
@pytest.mark.parametrize("unknown", UNKNOWN)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_unknown_field_changes_nothing_and_is_kept(
    descriptor: Descriptor, unknown: bytes, data: st.DataObject
) -> None:
    plain = data.draw(_plain(descriptor))
    known = encoded(google(descriptor, plain))
    for wire in (unknown + known, known + unknown):
        read = ours_of(descriptor).parse(wire)
        assert read == ours(descriptor, plain)
        assert bytes(read) == encoded(type(google(descriptor, {})).FromString(wire))


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        # betterproto 1.2.5 drops empty messages from a list, NUMA node 0 of a device among them.
        (v1beta1.TopologyInfo(nodes=[v1beta1.NumaNode(id=0)]), b"\x0a\x00"),
        (
            v1beta1.AllocateResponse(container_responses=[v1beta1.ContainerAllocateResponse()]),
            b"\x0a\x00",
        ),
        (v1beta1.ContainerAllocateResponse(mounts=[v1beta1.Mount()]), b"\x12\x00"),
        (v1beta1.PreStartContainerRequest(devices_ids=[""]), b"\x0a\x00"),
        # No topology and a topology without nodes differ.
        (v1beta1.Device(topology=v1beta1.TopologyInfo()), b"\x1a\x00"),
        (v1beta1.Device(topology=None), b""),
    ],
)
def test_present_but_empty_fields_are_written(message: betterproto2.Message, wire: bytes) -> None:
    assert bytes(message) == wire
    assert type(message).parse(wire) == message
    full_name = default_message_pool.type_to_url[type(message)].rpartition("/")[2]
    theirs = getattr(pb, full_name.removeprefix("v1beta1."))
    assert encoded(theirs.FromString(wire)) == wire


def test_string_that_is_not_utf8_is_refused_by_both() -> None:
    wire = b"\x0a\x01\xff"
    with pytest.raises(DecodeError):
        pb.PreStartContainerRequest.FromString(wire)
    with pytest.raises(UnicodeDecodeError):
        v1beta1.PreStartContainerRequest.parse(wire)
