"""An audit hook that notes what a command must not do: write outside its folder, start programs, open connections."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Audited events that no command needs: programs, the network, browsers, other processes, foreign code.
FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.kill", "subprocess.Popen",
    "pty.spawn", "socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.Request", "ftplib.connect",
    "smtplib.connect", "webbrowser.open", "http.client.connect", "os.chown", "os.putenv", "os.unsetenv",
    "syslog.syslog", "pickle.find_class", "cpython.run_command", "cpython.run_file",
)  # fmt: skip
#: Audited events that change files -> which of their arguments are paths.
CHANGES = {
    "os.remove": (0,), "os.rename": (0, 1), "os.rmdir": (0,), "os.mkdir": (0,), "os.truncate": (0,), "os.link": (1,),
    "os.symlink": (1,), "os.chmod": (0,), "os.utime": (0,), "shutil.rmtree": (0,), "shutil.move": (0, 1),
    "shutil.copyfile": (1,), "shutil.copytree": (1,),
}  # fmt: skip


class Watch:
    """The hook; one for a process, since it cannot be taken away again."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.seen: list[tuple[str, str]] = []
        sys.addaudithook(self)

    @contextlib.contextmanager
    def over(self, folder: Path) -> Iterator[list[tuple[str, str]]]:
        """While it lasts, (``forbidden`` or ``outside``, what) is noted of everything that leaves ``folder``."""
        self.seen, self.folder = [], str(folder.resolve())
        try:
            yield self.seen
        finally:
            self.folder = None

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in FORBIDDEN:
            self.seen.append(("forbidden", f"{event} {str(arguments)[:80]}"))
        elif event == "open":
            path, mode, flags = (*arguments, None, None, None)[:3]
            by_mode = isinstance(mode, str) and any(c in mode for c in "wax+")
            by_flags = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
            if by_mode or by_flags:
                self._inside(event, path)
        elif event in CHANGES:
            for index in CHANGES[event]:
                self._inside(event, arguments[index] if index < len(arguments) else None)

    def _inside(self, event: str, path: Any) -> None:
        if not isinstance(path, str | bytes | os.PathLike):  # a descriptor: its opening was seen
            return
        place = os.path.realpath(os.fsdecode(path))
        fine = (self.folder or "", os.devnull, "/dev/shm", "/proc/self", f"/proc/{os.getpid()}")
        if not place.startswith(fine) and "__pycache__" not in place:
            self.seen.append(("outside", f"{event} {place[:120]}"))
