"""Files of a sample node that change as a driver's do: whole or not at all. Plain blocking calls."""

import itertools
import os
import shutil
import stat
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

Damage: TypeAlias = Literal["missing", "empty", "blank", "binary", "huge", "refused", "loop"]
DAMAGES: tuple[Damage, ...] = get_args(Damage)


class Link(str):
    """Where a symbolic link points, as the content of a path."""

    __slots__ = ()


# None is an attribute that cannot be read. A plain file cannot answer EINVAL, so a directory stands in,
# which answers EISDIR.
Content: TypeAlias = "str | bytes | Mapping[str, Content] | None"


class Files:
    """Changes that are seen whole or not at all, as a driver's are: made aside, renamed into place."""

    def __init__(self, aside: str) -> None:
        os.mkdir(aside)
        self._aside = (f"{aside}/{number}" for number in itertools.count())

    def put(self, path: str, content: Content) -> None:
        """Let a path hold this, whatever it held."""
        aside = next(self._aside)
        _create(aside, content)
        self._place(aside, path)

    def put_pipe(self, path: str) -> str:
        """Let whoever opens a path to read it wait for ever; answers another name of the same pipe."""
        pipe, aside = next(self._aside), next(self._aside)
        os.mkfifo(pipe)
        os.link(pipe, aside)
        self._place(aside, path)
        return pipe

    def put_device(self, path: str) -> None:
        """Let a path be a device node, the null device whatever its name."""
        aside = next(self._aside)
        os.mknod(aside, stat.S_IFCHR, os.makedev(1, 3))
        os.chmod(aside, 0o666)  # noqa: S103 - as XRT's udev rules want it
        self._place(aside, path)

    def drop(self, path: str) -> None:
        """Take a file or a whole directory away, if it is there."""
        aside = next(self._aside)
        try:
            os.rename(path, aside)
        except FileNotFoundError:
            return
        if _is_directory(aside):
            shutil.rmtree(aside)
        else:
            os.unlink(aside)

    def _place(self, aside: str, path: str) -> None:
        if _is_directory(path) or (_is_directory(aside) and os.path.lexists(path)):
            self.drop(path)  # a rename replaces neither kind by the other
        os.rename(aside, path)


def _is_directory(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _create(path: str, content: Content) -> None:
    if isinstance(content, Link):
        os.symlink(content, path)
    elif isinstance(content, str):
        # The kernel ends a text with a newline; an attribute without a text stays empty.
        text = content if content.endswith("\n") or not content else f"{content}\n"
        _create(path, text.encode())
    elif isinstance(content, bytes):
        with open(path, "wb") as file:
            file.write(content)
    else:
        os.mkdir(path)
        for name, inner in (content or {}).items():
            _create(f"{path}/{name}", inner)


class Numbers:
    """Numbers given out lowest first, as the kernel does (lib/idr.c)."""

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def take(self, first: int, wanted: int | None = None) -> int:
        """The lowest free number from ``first`` on, or the one that is wanted."""
        if wanted in self._taken:
            raise ValueError(f"number {wanted} is taken")
        free = (number for number in itertools.count(first) if number not in self._taken)
        number = next(free) if wanted is None else wanted
        self._taken.add(number)
        return number

    def free(self, number: int) -> None:
        self._taken.discard(number)


def link(path: str, target: str) -> Link:
    """What a symbolic link at ``path`` has to hold to lead to ``target``."""
    return Link(os.path.relpath(target, os.path.dirname(path)))


class Attributes(ABC):
    """What can happen to the attributes of a card, whatever driver made them."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._pipes: dict[str, tuple[str, bytes | None]] = {}

    @abstractmethod
    def path(self, attribute: str) -> str:
        """The path of an attribute."""

    def write(self, attribute: str, content: Content) -> None:
        """Let an attribute hold this. A text ends with a newline then; None: reading it fails."""
        self._files.put(self.path(attribute), content)

    def hang(self, attribute: str) -> None:
        """Let reading an attribute not return, until `unhang`."""
        path = self.path(attribute)
        before = None
        if os.path.isfile(path):
            with open(path, "rb") as file:
                before = file.read()
        self._pipes[attribute] = (self._files.put_pipe(path), before)

    def unhang(self, attribute: str) -> None:
        """Let an attribute say what it did before, and let go who waits for it."""
        pipe, before = self._pipes.pop(attribute)
        path = self.path(attribute)
        end = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)  # lets go who waits in open(2)
        if os.path.exists(path) and os.path.samefile(path, pipe):
            if before is None:
                self._files.drop(path)
            else:
                self._files.put(path, before)
        os.write(end, before or b"")
        os.close(end)  # lets go who waits in read(2)
        self._files.drop(pipe)

    def corrupt(self, attribute: str, damage: Damage) -> None:
        """Let an attribute be what no driver makes of it, until `mend`."""
        path = self.path(attribute)
        match damage:
            case "missing":
                self._files.drop(path)
            case "empty" | "blank":
                self.write(attribute, "" if damage == "empty" else "\n")
            case "binary":
                self.write(attribute, b"\xff\xfe\x00\x80" * 8)
            case "huge":
                self.write(attribute, b"")
                os.truncate(path, 1 << 30)  # takes up nothing on the disk
            case "refused":
                self.write(attribute, None)
            case "loop":
                self.write(attribute, Link(os.path.basename(path)))
