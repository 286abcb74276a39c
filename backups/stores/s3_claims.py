"""Writing an object only where none is, on a server that knows no condition: by claims that all can see.

Who wants to write puts a claim beside the object, then lists the claims. Of two who want to at once
the later one sees the other's (S3 lists what was written before), and gives way; both may. Whoever is
alone looks once more whether the object is there, writes it, and takes the claim away.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from backups.stores.s3_abilities import HIDDEN, Abilities, remove_helper
from infra.errors import LettaOpsError

CLAIM = f"{HIDDEN}claim-"
# A writer who died leaves its claim. One who lives has long been told that it took too long.
DEAD_AFTER = dt.timedelta(minutes=10)


@contextmanager
def claimed(
    client: Any, where: Mapping[str, str], token: str, abilities: Abilities
) -> Iterator[None]:
    """Have the object at `where` for ourselves, whose `token` nobody else has.

    Raises LettaOpsError (`object-exists`) when another one writes it, and what botocore raises.
    """
    folder, _, name = where["Key"].rpartition("/")
    beside = f"{folder}/{CLAIM}{name}-" if folder else f"{CLAIM}{name}-"
    ours = {"Bucket": where["Bucket"], "Key": beside + token}
    client.put_object(**ours, **abilities.checksum(b""), Body=b"")
    try:
        if _others(client, ours, beside):
            raise already_there(where)
        yield
    finally:
        remove_helper(client, ours)


def already_there(where: Mapping[str, str]) -> LettaOpsError:
    return LettaOpsError(
        "object-exists",
        f"s3://{where['Bucket']}/{where['Key']} is there already",
        "look at what is there; remove it if it is not wanted",
    )


def _others(client: Any, ours: Mapping[str, str], beside: str) -> bool:
    """Whether another claim is there, of one who may live; by the server's clock."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=ours["Bucket"], Prefix=beside)
    times = {
        item["Key"]: item["LastModified"] for page in pages for item in page.get("Contents", ())
    }
    now = times.pop(ours["Key"], None)
    return now is None or any(now - time < DEAD_AFTER for time in times.values())
