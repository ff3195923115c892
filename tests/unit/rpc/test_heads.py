"""The memory for heads: it changes no field."""

import random

import hpack
import pytest
from h2.connection import H2Connection

from xilinx_fpga_dp.rpc import heads

_FIELDS = [
    (b":status", b"200"),
    *((name, bytes([text])) for name in (b"a", b"b", b"c" * 40) for text in b"123"),
]


@pytest.mark.parametrize("seed", range(20))
def test_heads_are_decoded_as_without_memory(seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311
    connection, encoder, decoder = H2Connection(), hpack.Encoder(), hpack.Decoder()
    heads.remember(connection)
    for _ in range(300):
        if dice.random() < 0.1:  # a small table forgets fields
            encoder.header_table_size = dice.choice([0, 64, 100, 4096])
        head = _FIELDS[:2] if dice.random() < 0.5 else dice.choices(_FIELDS, k=dice.randrange(1, 4))
        block = encoder.encode(head)
        assert [*connection.decoder.decode(block, raw=True)] == [*decoder.decode(block, raw=True)] == head


def test_repeated_head_is_decoded_once() -> None:
    connection, encoder = H2Connection(), hpack.Encoder()
    decoded = []
    decode = connection.decoder.decode

    def counted(block: bytes, raw: bool) -> list[hpack.HeaderTuple]:
        decoded.append(block)
        return [*decode(block, raw)]

    connection.decoder.decode = counted  # type: ignore[method-assign,assignment]
    heads.remember(connection)
    for _ in range(10):
        connection.decoder.decode(encoder.encode(_FIELDS[:2]), raw=True)
    assert len(decoded) == 2, "the first one fills the table"


def test_few_heads_are_kept() -> None:
    connection = H2Connection()
    heads.remember(connection)
    cells = [each.cell_contents for each in connection.decoder.decode.__closure__ or ()]
    [kept] = [each for each in cells if isinstance(each, dict)]
    for index in range(1, 62):  # of the static table
        connection.decoder.decode(bytes([0x80 | index]), raw=True)
        assert 0 < len(kept) <= 4
