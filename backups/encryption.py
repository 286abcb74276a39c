"""How a new backup is encrypted, from the settings; in the clear only where that was wanted."""

from __future__ import annotations

from dataclasses import dataclass

from backups.crypto import new_identity, parse_recipients, seal_with_passphrase
from infra.errors import LettaOpsError
from infra.stack.backup_settings import BackupSettings

BY_RECIPIENTS, BY_PASSPHRASE = "age-recipients", "age-passphrase"


@dataclass(frozen=True)
class Encryption:
    """`recipients` are encrypted to, `shown` stand in the manifest; `sealed_identity` is the identity
    of a passphrase's backup, encrypted with it: age has no streams for passphrases."""

    kind: str | None = None
    recipients: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    sealed_identity: bytes | None = None

    @property
    def on(self) -> bool:
        return self.kind is not None


def encryption_of(settings: BackupSettings, url: str) -> Encryption:
    """Return how a backup that goes to the store at `url` is encrypted.

    Raises LettaOpsError: `backup-unencrypted` when it would leave this machine in the clear without
    anybody having said so, `configuration` or `identity` for settings that can't be used.
    """
    if settings.backup.recipients:
        parse_recipients(settings.backup.recipients)
        return Encryption(BY_RECIPIENTS, settings.backup.recipients, settings.backup.recipients)
    try:
        passphrase = settings.passphrase
    except ValueError as error:
        raise LettaOpsError(
            "configuration", str(error), "correct the reference, or what it names"
        ) from None
    if passphrase is not None:
        identity, recipient = new_identity()
        sealed = seal_with_passphrase(identity, passphrase)
        return Encryption(BY_PASSPHRASE, (recipient,), (), sealed)
    if not url.startswith("file:") and settings.backup.encryption != "none":
        raise LettaOpsError(
            "backup-unencrypted",
            f"backups in {url} would not be encrypted",
            "make an identity with `letta-ops backup keygen FILE` and set backup.recipients to what"
            " it shows; or say backup.encryption=none",
        )
    return Encryption()
