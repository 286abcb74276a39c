"""How a new backup is encrypted, from the settings; in the clear only where that was wanted."""

from __future__ import annotations

from dataclasses import dataclass

from backups.catalog import newest_of_all
from backups.crypto import new_identity, parse_recipients, seal_with_passphrase
from backups.stores.store import Store
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


def ensure_as_encrypted(encryption: Encryption, store: Store) -> None:
    """Raise LettaOpsError (`backup-unencrypted`) for a backup in the clear beside encrypted ones.

    As after a machine was lost, when the new one knows the identity, and nobody told it a recipient.
    """
    newest = None if encryption.on else newest_of_all(store)
    if newest is None or not newest.manifest.encrypted:
        return
    recipients = ",".join(newest.manifest.recipients)
    setting = f"backup.recipients={recipients}" if recipients else "backup.passphrase"
    raise LettaOpsError(
        "backup-unencrypted",
        f"this backup would lie in the clear, but {newest.id}, the newest in {store.url}, is encrypted",
        f"set {setting}, as it was there; or say --allow-plain, once, when you mean it",
    )
