"""Which stored secrets a key opens."""

from __future__ import annotations

import pytest

from backups.rekey import unopened
from infra.sensitive import Sensitive
from infra.stack.ciphertext import encrypted

KEY, OTHER = Sensitive("the key"), Sensitive("another one")


@pytest.mark.parametrize(("text", "key", "closed"), [("x", KEY, 0), ("", KEY, 0), ("x", OTHER, 1)])
def test_an_empty_secret_is_one_that_is_opened(text: str, key: Sensitive, closed: int) -> None:
    """As Letta writes it for a provider without a key."""
    values = {("public", "providers", "api_key_enc"): ["plain", encrypted(KEY, Sensitive(text))]}
    assert list(unopened(values, key)) == ["providers.api_key_enc"] * closed
