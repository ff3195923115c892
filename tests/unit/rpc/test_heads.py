"""The memory for heads: it changes no byte and no field."""

import random

import hpack
import pytest
from h2.connection import H2Connection

from xilinx_fpga_dp.rpc import heads

_FIELDS = [
    (b":status", b"200"),
    *((name, bytes([text])) for name in (b"a", b"b", b"c" * 40) for text in b"123"),
]


def _decoded(decoder: hpack.Decoder, block: bytes) -> list[hpack.HeaderTuple] | str:
    try:
        return list(decoder.decode(block, raw=True))
    except hpack.HPACKError as error:  # hpack's encoder does not announce each of several changes of size
        return repr(error)


@pytest.mark.parametrize("seed", range(20))
def test_heads_are_coded_as_without_memory(seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311
    connection, encoder, decoder = H2Connection(), hpack.Encoder(), hpack.Decoder()
    heads.remember(connection)
    for _ in range(300):
        while dice.random() < 0.1:  # a small table forgets fields
            size = dice.choice([0, 64, 100, 4096])
            connection.encoder.header_table_size = encoder.header_table_size = size
        head = dice.choices(_FIELDS, k=dice.randrange(1, 4))
        if dice.random() < 0.5:
            head = _FIELDS[:2]
        block = encoder.encode(head)
        assert connection.encoder.encode(head) == block
        assert _decoded(connection.decoder, block) == _decoded(decoder, block)


def test_repeated_head_is_coded_once() -> None:
    connection = H2Connection()
    coded = []
    encode = connection.encoder.encode

    def counted(head: list[tuple[bytes, bytes]]) -> bytes:
        coded.append(head)
        return encode(head)

    connection.encoder.encode = counted  # type: ignore[method-assign,assignment]
    heads.remember(connection)
    blocks = [connection.encoder.encode(_FIELDS[:2]) for _ in range(10)]
    assert len(coded) == 2, "the first one fills the table"
    assert len(set(blocks[1:])) == 1


def test_few_heads_are_kept() -> None:
    connection = H2Connection()
    heads.remember(connection)
    [kept] = [
        each.cell_contents
        for each in connection.decoder.decode.__closure__ or ()
        if isinstance(each.cell_contents, dict)
    ]
    for index in range(1, 62):  # of the static table
        for _ in range(2):
            connection.decoder.decode(bytes([0x80 | index]), raw=True)
        assert 0 < len(kept) <= 4
