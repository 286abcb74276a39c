"""Scripts of ours that run under an interpreter of their own, and so are copied beside the service."""

from __future__ import annotations

import hashlib
from typing import Any

from infra.targets.providers.service import PACKAGE_FOLDER


def copied_scripts(*names: str) -> dict[str, Any]:
    """Return the inputs `files` and `digest` of a service that needs `names` (below `infra/`)."""
    contents = b"".join((PACKAGE_FOLDER / name).read_bytes() for name in names)
    return {"files": list(names), "digest": hashlib.sha256(contents).hexdigest()[:16]}
