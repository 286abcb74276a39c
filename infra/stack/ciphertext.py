"""How Letta encrypts secrets in its database (letta/helpers/crypto_utils.py, 0.16.8).

Base64 of salt, nonce, ciphertext and tag; AES-256-GCM, its key by PBKDF2-HMAC-SHA256 from
LETTA_ENCRYPTION_KEY and the salt. Each value has a salt of its own, so each costs a derivation: 40 ms.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os

from infra.sensitive import Sensitive

SALT, NONCE, TAG = 16, 12, 16
ITERATIONS = 100_000
KEY_BYTES = 32
# How Letta tells that a value can't be a ciphertext though it may look like base64.
PLAINTEXT_PREFIXES = (
    "sk-", "pk-", "api-", "key-", "token-", "Bearer ", "xoxb-", "xoxp-", "ghp_", "gho_", "ghu_",
    "ghs_", "ghr_", "AKIA", "ABIA", "ACCA", "ASIA",
)  # fmt: skip


def looks_encrypted(value: str) -> bool:
    """Tell whether `value` can be a ciphertext of Letta: base64, long enough, no known prefix."""
    if value.startswith(PLAINTEXT_PREFIXES):
        return False
    try:
        return len(base64.b64decode(value, validate=True)) >= SALT + NONCE + TAG
    except (binascii.Error, ValueError):
        return False


def decrypted(key: Sensitive, value: str) -> Sensitive | None:
    """What `value` is the ciphertext of, or None where `key` doesn't open it: GCM's tag says so."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    data = base64.b64decode(value)
    salt, nonce, sealed = data[:SALT], data[SALT : SALT + NONCE], data[SALT + NONCE :]
    try:
        return Sensitive(AESGCM(_derived(key, salt)).decrypt(nonce, sealed, None).decode())
    except (InvalidTag, UnicodeDecodeError):
        return None


def encrypted(key: Sensitive, text: Sensitive) -> str:
    """A ciphertext of `text` that a server with `key` opens."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    salt, nonce = os.urandom(SALT), os.urandom(NONCE)
    sealed = AESGCM(_derived(key, salt)).encrypt(nonce, text.reveal().encode(), None)
    return base64.b64encode(salt + nonce + sealed).decode()


def _derived(key: Sensitive, salt: bytes) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", key.reveal().encode(), salt, ITERATIONS, KEY_BYTES)
