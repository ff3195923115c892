"""Logging: one event a line, with fields. Any module logs with ``extra={...}``."""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from xilinx_fpga_dp import process

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_PLAIN = re.compile(r"[\w./:@,+={}()*-]+")  # a value that needs no quotes


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Format an event. JSON escapes what comes from a device or a pod."""
        event = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
            **_fields(record),
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str)


class TextLines(logging.Formatter):
    """``time level event field=value ...``, for people."""

    def format(self, record: logging.LogRecord) -> str:
        """Format an event; a value with spaces or control characters is quoted as JSON does."""
        parts = [_time(record), f"{record.levelname.lower():7}", record.getMessage()]
        parts += [f"{name}={_quoted(value)}" for name, value in _fields(record).items()]
        if record.exc_info:
            parts.append("\n" + self.formatException(record.exc_info))
        return " ".join(parts)


def set_up(level: str, style: str, stream: TextIO | None = None) -> None:
    """Log to a stream, by default stderr, with LOG_LEVEL and LOG_FORMAT."""
    process.log_without_source()
    out = stream or sys.stderr
    handler = logging.StreamHandler(out)
    text = style == "text" or (style == "auto" and out.isatty())
    handler.setFormatter(TextLines() if text else JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # grpclib logs every cancelled request.
    logging.getLogger("grpclib").setLevel(logging.ERROR if level != "debug" else logging.DEBUG)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("hpack").setLevel(logging.WARNING)  # at debug it logs every byte of a header


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _quoted(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) and text.isascii() else json.dumps(text)
