"""Files of rename rules."""

from pathlib import Path

from xilinx_fpga_dp.hostfiles.watched_file import WatchedFile
from xilinx_fpga_dp.resources.rename_rules import MAX_BYTES, parse


async def followed(path: Path) -> WatchedFile[tuple[object, ...]]:
    """Return the file after its first read."""
    file = WatchedFile[tuple[object, ...]](str(path), parse, MAX_BYTES)
    await file.read()
    return file
