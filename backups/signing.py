"""Who made a backup: the signature of its manifest, by a key that the store doesn't hold.

The manifest has the SHA-256 of every part, so that all of a backup is signed with it. Encryption does
not do that: whoever may write into the store knows the recipients, and can encrypt to them.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from backups.manifest import Manifest, Signature
from infra.errors import LettaOpsError
from infra.files import write_private
from infra.sensitive import Sensitive
from infra.stack.deployment import Deployment
from infra.stack.locations import stack_folder
from infra.stack.profile import SIGNING_KEY, remember
from infra.stack.secrets import kept_value

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KIND = "ed25519:"
CONTEXT = b"letta-ops backup manifest\n"  # so that it is a signature of nothing else
LINE = re.compile(r"^#\s*signer:\s*(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Signers:
    """The signers that are known here: the deployment's own, those of its settings, and those that
    identities bring along (`# signer: ...`)."""

    known: Collection[str]

    @classmethod
    def of(cls, deployment: Deployment, identities: Iterable[Sensitive] = ()) -> Signers:
        key = own_key(deployment)
        own = () if key is None else (signer_of(key),)
        brought = (found for text in identities for found in LINE.findall(text.reveal()))
        return cls({*own, *deployment.backups.backup.signers, *brought})

    def ensure(self, manifest: Manifest) -> None:
        """Raise LettaOpsError: `backup-unsigned`, `backup-forged`, or `signer-unknown`."""
        what, signature = f"backup {manifest.id}", manifest.signature
        if signature is None:
            raise LettaOpsError(
                "backup-unsigned",
                f"{what} is not signed: whoever can write into the store may have made it",
                "see that it is yours, then say --accept-unsigned; new backups are signed",
            )
        if not _fits(manifest, signature):
            raise LettaOpsError(
                "backup-forged",
                f"{what} was altered: its signature is not that of what it says",
                "use another backup (`letta-ops backup list`), and find out who writes into the store",
            )
        if signature.signer not in self.known:
            raise LettaOpsError(
                "signer-unknown",
                f"{what} is signed by {signature.signer}, whom this deployment does not know",
                "if that is yours, write `# signer: ...` into the identity's file, or set"
                " backup.signers; or say --accept-unsigned",
            )

    def know(self, manifest: Manifest) -> bool:
        """Whether `ensure` has nothing against it."""
        try:
            self.ensure(manifest)
        except LettaOpsError:
            return False
        return True


def own_key(deployment: Deployment) -> Sensitive | None:
    """The key with which the deployment signs; None where it has none yet.

    Raises LettaOpsError (`configuration`) when what its profile names can't be read.
    """
    if deployment.signing_key is not None:
        return deployment.signing_key
    if deployment.folder is not None:  # somebody may have made it since the profile was read
        kept = kept_value(deployment.folder, SIGNING_KEY)
        return None if kept is None else Sensitive(kept)
    try:
        return Sensitive(_file(deployment).read_text().strip())
    except OSError:  # none, or not ours to read
        return None


def key_to_sign(deployment: Deployment) -> Sensitive:
    """Return `own_key`, or a new one that is remembered: in the profile where that is ours to write,
    else in the stack's folder."""
    found = own_key(deployment)
    if found is not None:
        return found
    made = new_key()
    if deployment.folder is not None:
        remember(deployment.folder.profile, {SIGNING_KEY: made.reveal()})
        return made
    file = _file(deployment)
    try:
        write_private(file, made.reveal() + "\n")
    except OSError as error:
        raise LettaOpsError(
            "folder-not-writable",
            f"the key that signs backups can't be kept in {file}: {error.strerror}",
            f"give one by reference: {SIGNING_KEY} in the profile, or LETTA_OPS_SIGNING_KEY (32 bytes in"
            " base64)",
        ) from None
    return made


def new_key() -> Sensitive:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Sensitive(_text(Ed25519PrivateKey.generate().private_bytes_raw()))


def signer_of(key: Sensitive) -> str:
    """The public half, as it stands in manifests. Raises LettaOpsError (`configuration`)."""
    return KIND + _text(_private(key).public_key().public_bytes_raw())


def signed(manifest: Manifest, key: Sensitive) -> Signature:
    value = _private(key).sign(CONTEXT + manifest.digest().encode())
    return Signature(signer_of(key), _text(value))


def _fits(manifest: Manifest, signature: Signature) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        public = Ed25519PublicKey.from_public_bytes(_bytes(signature.signer.removeprefix(KIND)))
        public.verify(_bytes(signature.value), CONTEXT + manifest.digest().encode())
    except (ValueError, TypeError, AttributeError, InvalidSignature):
        return False
    return True


def _private(key: Sensitive) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        return Ed25519PrivateKey.from_private_bytes(_bytes(key.reveal()))
    except ValueError:
        raise LettaOpsError(
            "configuration",
            f"{SIGNING_KEY} is no signing key: it must be 32 bytes in base64",
            "put back what was there; without it, remove it: the next backup makes a new one",
        ) from None


def _file(deployment: Deployment) -> Path:
    return stack_folder(deployment.stack).root / "signing-key"


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
