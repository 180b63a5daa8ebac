"""A geodino command line: the text to copy, and the very same run in a process of its own."""

import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from tiles.errors import InputError

PROGRAM = (sys.executable, "-m", "geodino")
_INTERRUPTED = 130  # exit status of a command that was told to stop


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        arguments: What stands after ``geodino``, the command's name first.
    """

    arguments: tuple[str, ...]

    @classmethod
    def of(cls, name: str, *inputs: str | Path, **options: str | Path | float | bool | None) -> Self:
        """A command from what it takes.

        Args:
            name: The command.
            *inputs: Its positional arguments.
            **options: ``save_model=FILE`` stands for ``--save-model FILE`` and ``output`` for ``-o``; True is a flag,
                None and False leave an option out.
        """
        words = [name, *map(str, inputs)]
        for key, value in options.items():
            option = "-o" if key == "output" else f"--{key.replace('_', '-')}"
            if value is True:
                words.append(option)
            elif value is not None and value is not False:
                # A value such as -2,3 would be taken for an option of its own.
                words += [f"{option}={value}"] if str(value).startswith("-") else [option, str(value)]
        return cls(tuple(words))

    @property
    def line(self) -> str:
        """The text to copy into a shell."""
        return shlex.join(("geodino", *self.arguments))

    def start(self, log: IO[bytes] | None = None) -> "subprocess.Popen[bytes]":
        """Begin it: on this terminal; or, with a log, in a session of its own that says everything there."""
        apart: dict[str, Any] = {}
        if log is not None:
            apart = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "start_new_session": True}
        return subprocess.Popen([*PROGRAM, *self.arguments], **apart)

    def run(self) -> None:
        """Run it on this terminal to its end.

        Raises:
            InputError: It failed; its own message stands above.
            KeyboardInterrupt: It was told to stop.
        """
        status = self.start().wait()
        if status == _INTERRUPTED:
            raise KeyboardInterrupt
        if status:
            raise InputError(f"it stopped at `geodino {self.arguments[0]}`; its message stands above")
