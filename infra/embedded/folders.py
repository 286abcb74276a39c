"""The folders of a stack and who they belong to; the environment of what runs in them."""

from __future__ import annotations

import os
from pathlib import Path

from infra.accounts import PLAIN, give, let_through, service_account
from infra.files import make_folder
from infra.stack.locations import StackFolder


def prepare_folders(folder: StackFolder) -> None:
    """Make the stack's folders. Only the leaves belong to the accounts of the services.

    What lies between is ours, so that nothing in there can be replaced by those accounts.
    """
    server, postgres = service_account(folder, "server"), service_account(folder, "postgres")
    prepare_own_folders(folder)
    _ours(folder.data)
    give(server, folder.home, folder.sandbox, folder.redis_socket.parent)
    give(postgres, folder.sockets)
    let_through(server, folder.root)


def prepare_own_folders(folder: StackFolder) -> None:
    """Make what a service of the operator's own needs: on the docker target there are no accounts."""
    for ours in (folder.root, folder.services, folder.programs, folder.logs):
        _ours(ours)


def _ours(path: Path) -> None:
    make_folder(path)
    path.chmod(0o711 if os.geteuid() == 0 else 0o700)


def plain_environment(folder: StackFolder) -> dict[str, str]:
    """The environment of every program we start for a stack: nothing of the operator's own.

    The last variable marks the stack's processes, so that they are found without their supervisor.
    """
    return {**PLAIN, "HOME": str(folder.home), "LETTA_OPS_STACK_FOLDER": os.fspath(folder.root)}
