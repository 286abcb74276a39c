"""Telling one LETTA_ENCRYPTION_KEY from another without showing either."""

from __future__ import annotations

import hashlib

from infra.sensitive import Sensitive

SALT = b"letta-ops encryption key 1"


def key_fingerprint(key: Sensitive) -> str:
    """Return 16 hex digits that tell one key from another, and nothing else."""
    # Slow on purpose, since an operator may have chosen a key that could be guessed (RFC 7914).
    return hashlib.scrypt(key.reveal().encode(), salt=SALT, n=2**14, r=8, p=1, dklen=8).hex()
