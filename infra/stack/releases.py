"""The Letta releases that we know: version -> hash of its source distribution, alembic head."""

from __future__ import annotations

import datetime
from dataclasses import dataclass


@dataclass(frozen=True)
class Release:
    """One pinned server version. The sdist's hash pins its `uv.lock`, and so every requirement."""

    version: str
    sdist_sha256: str
    alembic_head: str
    end_of_life: datetime.date | None = None  # since when upstream gives no more fixes


RELEASES = {
    "0.16.8": Release(
        version="0.16.8",
        sdist_sha256="363e26989e552c859ce2e7961d484acee6fccfc1e7b16e8f644b1ae1ccd754a3",
        alembic_head="1c28e167b74f",
        end_of_life=datetime.date(2026, 8, 15),
    ),
}
