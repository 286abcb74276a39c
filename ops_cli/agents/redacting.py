"""Blackening an agent file for sharing: what looks like a secret, or like somebody's address."""

from __future__ import annotations

import re
from typing import Any

BLACK = "[redacted]"
# Keys of services by their known beginnings (https://docs.github.com/code-security/secret-scanning),
# tokens, keys in PEM, e-mail addresses, and numbers of telephones and cards.
PATTERNS = re.compile(
    "|".join(  # noqa: FLY002  # one a line
        (
            r"\b(?:sk|pk|rk)-[A-Za-z0-9_-]{16,}",
            r"\bgh[pousr]_[A-Za-z0-9]{20,}",
            r"\bxox[baprs]-[A-Za-z0-9-]{10,}",
            r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
            r"\bAIza[A-Za-z0-9_-]{30,}",
            r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+",
            r"(?i:\bbearer )[A-Za-z0-9._~+/=-]{12,}",
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?-----END [A-Z ]*PRIVATE KEY-----",
            r"\bAGE-SECRET-KEY-1[A-Z0-9]{20,}",
            r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}",
            r"(?<![\w.-])\+\d{1,3}[ .-]?\(?\d{1,4}\)?(?:[ .-]?\d{2,4}){2,4}(?!\w)",
            r"(?<![\w-])(?:\d[ -]?){12,15}\d(?![\w-])",
        )
    )
)
# By their names these hold nothing but secrets.
SECRET_KEYS = ("secrets", "tool_exec_environment_variables")
# Ids, hashes and dates look like numbers of cards; they are nobody's.
PLAIN_KEYS = ("id", "created_at", "updated_at", "otid")


def redacted_content(content: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Return a copy of a file's content with `BLACK` where something must not be seen, and how often."""
    count = 0

    def blackened(value: Any, key: str = "") -> Any:
        nonlocal count
        if isinstance(value, dict):
            if key in SECRET_KEYS:
                count += sum(bool(each) for each in value.values())
                return dict.fromkeys(value, "")
            return {name: blackened(each, name) for name, each in value.items()}
        if isinstance(value, list):
            return [blackened(each, key) for each in value]
        if isinstance(value, str) and key not in PLAIN_KEYS and not key.endswith("_id"):
            value, found = PATTERNS.subn(BLACK, value)
            count += found
        return value

    return blackened(content), count
