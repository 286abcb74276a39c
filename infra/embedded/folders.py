"""The folders of a stack and who they belong to; the environment of what runs in them."""

from __future__ import annotations

from infra.accounts import Account, give, let_through
from infra.locations import StackFolder


def prepare_folders(account: Account, folder: StackFolder) -> None:
    """Make the stack's folders; what services write belongs to their account, the rest to us."""
    folder.root.mkdir(parents=True, exist_ok=True)
    folder.root.chmod(0o711 if not account.is_us else 0o700)
    for parent in (folder.services, folder.logs):
        parent.mkdir(parents=True, exist_ok=True)
        parent.chmod(0o711 if not account.is_us else 0o700)
    give(account, folder.postgres_data.parent, folder.home, folder.sandbox, folder.sockets)
    let_through(account, folder.root)


def plain_environment(folder: StackFolder) -> dict[str, str]:
    """The environment of every program we start for a stack: nothing of the operator's own."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(folder.home),
        "LANG": "C.UTF-8",
        "LETTA_OPS_STACK_FOLDER": str(folder.root),
    }
