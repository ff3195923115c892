"""``capture``: packs what may safely be read of this node into an archive for a bug report."""

import argparse
import asyncio
import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from xilinx_fpga_dp import __version__
from xilinx_fpga_dp.cli.command import Command
from xilinx_fpga_dp.settings import Settings

if TYPE_CHECKING:
    from xilinx_fpga_dp.discovery.capture import Capture

_FORMAT = 1  # of the manifest


def run(settings: Settings, options: argparse.Namespace) -> int:
    return asyncio.run(_capture(settings, options))


async def _capture(settings: Settings, options: argparse.Namespace) -> int:
    import aiofiles

    from xilinx_fpga_dp.discovery.capture import capture
    from xilinx_fpga_dp.hostfiles.archive import MAX_BYTES, pack

    moment = datetime.now(UTC)
    try:
        found = await capture(settings.sysfs_root, settings.dev_root, slow=options.slow)
    except (OSError, TimeoutError) as error:
        print(f"nothing captured: {error}", file=sys.stderr)
        return 1
    if not options.with_serials:
        found.replace_serials()
    manifest = _manifest(found, moment, options)
    archive = pack(manifest, found.files, found.links)
    if len(archive) > MAX_BYTES:
        print(f"nothing captured: it would have more than {MAX_BYTES >> 20} MiB", file=sys.stderr)
        return 1
    path = options.o or f"xilinx-fpga-dp-capture-{moment:%Y%m%dT%H%M%SZ}.tar.gz"
    if path == "-":
        sys.stdout.buffer.write(archive)
        path, output = "capture", sys.stderr
    else:
        async with aiofiles.open(path, "xb") as file:
            await file.write(archive)
        output = sys.stdout
    print(_summary(path, len(archive), found, options), file=output)
    return 0


def _manifest(found: "Capture", moment: datetime, options: argparse.Namespace) -> dict[str, Any]:
    system = os.uname()
    return {
        "format": _FORMAT,
        "program": f"xilinx-fpga-dp {__version__}",
        "time": moment.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "kernel": {"release": system.release, "version": system.version, "machine": system.machine},
        "serials": "kept" if options.with_serials else "replaced",
        "slow": options.slow,
        "files": found.status,
        "errors": found.errors,
        "unread": found.unread,
    }


def _summary(path: str, size: int, found: "Capture", options: argparse.Namespace) -> str:
    lines = [
        f"{path}: {size} bytes, {len(found.files)} files, {len(found.links)} links",
        f"  review it before you send it: tar xzf {path} -O manifest.json",
    ]
    if not options.with_serials:
        lines.append(f"  serial numbers replaced: {len(found.serials)} (--with-serials keeps them)")
    lines += [f"  {name}: {error}" for name, error in sorted(found.errors.items())]
    lines += [f"  not read: {name}: {why}" for name, why in sorted(found.unread.items())]
    return "\n".join(lines)


COMMAND = Command(
    run,
    settings=frozenset({"sysfs_root", "dev_root"}),
    options={
        "-o": {
            "metavar": "FILE",
            "help": "the archive; - is stdout; default xilinx-fpga-dp-capture-<time>.tar.gz",
        },
        "--with-serials": {"action": "store_true", "help": "keep serial numbers; else placeholders"},
        "--slow": {
            "action": "store_true",
            "help": "also read what waits for firmware or for the management function, up to 10 minutes",
        },
    },
)
