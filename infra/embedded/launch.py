"""Start a Python program with secrets from a file, and keep them out of what it prints.

Run by the interpreter of a Letta release, which has none of our packages: standard library only.

    python launch.py ENVIRONMENT.json MODULE:FUNCTION [ARGUMENT ...]

The file holds `environment`, `secrets` (values) and `secret_names`, and the module to
`import_first`. Letta prints its password when it starts; whoever reads the log must not learn it.
And it hands its whole environment to the tools of agents: once it has read its secrets, they leave
the environment. Most of its start is imports, of which a third is spared here.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

REDACTED = "[redacted]"


class RedactingStream:
    """A text stream that replaces secrets in whatever is written through it."""

    def __init__(self, stream: TextIO, secrets: Iterable[str]) -> None:
        self._stream = stream
        long_enough = (value for value in secrets if len(value) >= 6)
        self._secrets = sorted(long_enough, key=len, reverse=True)

    def write(self, text: str) -> int:
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        written = self._stream.write(text)
        self._stream.flush()
        return written

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def quick_imports() -> Iterator[None]:
    """Spare the imports what costs a third of their time (measured) and serves nobody.

    The collector looks again and again at objects that stay; and `inflect`, which names classes in
    the schemas of tools, has `typeguard` rewrite its functions at import, to check their arguments.
    """
    gc.disable()
    try:
        typeguard: Any = importlib.import_module("typeguard")
    except ImportError:  # another release's
        yield
    else:
        checked = typeguard.typechecked
        typeguard.typechecked = unchecked
        yield
        typeguard.typechecked = checked
    gc.freeze()  # nor does it look at them later
    gc.enable()


def unchecked(target: Any = None, **_: Any) -> Any:
    """Do as the decorator `typeguard.typechecked` does under `python -O`: nothing."""
    return target if target is not None else unchecked


def main() -> None:
    path, entry_point, *arguments = sys.argv[1:]
    module, _, function = entry_point.partition(":")
    with Path(path).open() as source:
        settings = json.load(source)
    os.environ.update(settings["environment"])
    secrets = settings["secrets"]
    sys.stdout = RedactingStream(sys.stdout, secrets)
    sys.stderr = RedactingStream(sys.stderr, secrets)
    sys.argv = [module, *arguments]
    del sys.path[0]  # our own folder
    with quick_imports():
        if settings["import_first"]:
            importlib.import_module(settings["import_first"])
        for name in settings["secret_names"]:
            os.environ.pop(name, None)
        entry = getattr(importlib.import_module(module), function)
    entry()


if __name__ == "__main__":
    main()
