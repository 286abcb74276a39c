"""The passphrase that protects the secrets in Pulumi's state: made once, never replaced."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path

from infra.errors import LettaOpsError


def has_own_passphrase(environment: Mapping[str, str]) -> bool:
    """Whether the user chose a passphrase. An empty one counts, as it does for Pulumi."""
    names = ("PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE")
    return any(name in environment for name in names)


def ensure_passphrase(state: Path) -> Path:
    """Return the file with the passphrase of all stacks; make it (mode 0600) when there is none.

    Never overwrites: a new passphrase would make every secret in the state unreadable. Raises
    LettaOpsError (`passphrase`) when the file is empty, or others may read it.
    """
    path = state / "passphrase"
    if not path.exists():
        state.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".passphrase-", dir=state)
        draft = Path(name)
        try:
            with os.fdopen(descriptor, "w") as sink:
                sink.write(secrets.token_urlsafe(32) + "\n")
                sink.flush()
                os.fsync(sink.fileno())
            # A link fails where a rename would replace: the first of two wins, both use its file.
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    _check_passphrase(path)
    return path


def _check_passphrase(path: Path) -> None:
    try:
        mode = path.stat().st_mode
        empty = not path.read_text().strip()
    except OSError as error:
        message = f"the passphrase {path} cannot be read: {error.strerror}"
        hint = "run this as the user who made the stacks"
        raise LettaOpsError("passphrase", message, hint) from None
    if empty:
        hint = "put the passphrase of your stacks back; without stacks, delete the empty file"
        raise LettaOpsError("passphrase", f"the passphrase {path} is empty", hint)
    if mode & 0o077:
        message = f"the passphrase {path} may be read by others (mode {mode & 0o777:04o})"
        raise LettaOpsError("passphrase", message, f"chmod 600 {path}")
