"""What the verbs about backups begin with: the store, the locks, and no restore that is half done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backups.stores.store import Store
    from infra.stack.deployment import Deployment
    from ops_cli.invocation import Invocation

GUARD_SECONDS = 300.0  # how long the guard of a restore may take


def opened(invocation: Invocation) -> tuple[Deployment, Store]:
    """Return the deployment and its store, of which nothing was asked yet."""
    from backups.stores.store import open_store
    from infra.stack.deployment import store_settings

    deployment = invocation.deployment()
    return deployment, open_store(store_settings(deployment))


@contextmanager
def changing(
    deployment: Deployment, store: Store, purpose: str, report: Any, wait: float = 0.0
) -> Iterator[Any]:
    """Hold the deployment's locks; what an interrupted restore left is put right first."""
    from backups.lock import locked
    from backups.restoring.switch import finish_interrupted

    with locked(deployment, store, purpose, report, wait) as lock:
        finish_interrupted(deployment, report)
        yield lock


def undo_interrupted(deployment: Deployment, report: Any) -> None:
    """Go back from a restore that died with its machine, and with its guard: nobody has proven it."""
    from backups.lock import locked
    from backups.restoring.journal import read_journal
    from backups.restoring.switch import finish_interrupted

    if read_journal(deployment) is not None:
        with locked(deployment, None, "up", report, GUARD_SECONDS):
            finish_interrupted(deployment, report)
