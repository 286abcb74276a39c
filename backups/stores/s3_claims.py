"""Writing an object only where none is, on a server that knows no condition: by claims that all can see.

Who wants to write puts a claim beside the object, then lists the claims. Of two who want to at once
the later one sees the other's (S3 lists what was written before), and gives way; both may. Whoever is
alone looks once more whether the object is there, writes it, and takes the claim away.
"""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from backups.stores.s3_abilities import Abilities, remove_helper
from backups.stores.s3_errors import is_refusal
from infra.errors import LettaOpsError

# A writer who died leaves its claim. One who lives gives up long before.
DEAD_AFTER = dt.timedelta(minutes=10)
GIVE_UP_SHARE = 0.5


@contextmanager
def claimed(
    client: Any, where: Mapping[str, str], token: str, abilities: Abilities
) -> Iterator[Claim]:
    """Have the object at `where` for ourselves, whose `token` nobody else has.

    Where it isn't known what became of the block's request, the claim stays: it may still arrive.
    Raises LettaOpsError (`object-exists`) when another one writes it, and what botocore raises.
    """
    from botocore.exceptions import ClientError

    folder, slash, name = where["Key"].rpartition("/")
    beside = f"{folder}{slash}.claim-{name}-"
    ours = {"Bucket": where["Bucket"], "Key": beside + token}
    claim = Claim(where)
    client.put_object(**ours, **abilities.checksum(b""), Body=b"")
    try:
        if _others(client, ours, beside):
            raise _being_written(where)
        yield claim
    except LettaOpsError:
        remove_helper(client, ours)
        raise
    except ClientError as error:
        if is_refusal(error):
            remove_helper(client, ours)
        raise
    remove_helper(client, ours)


class Claim:
    """Ours, since it was made."""

    def __init__(self, where: Mapping[str, str]) -> None:
        self._where = where
        self._begun = _now()

    def ensure_young(self) -> None:
        """Raise LettaOpsError when it took so long to get here that others may take us for dead."""
        if _now() - self._begun > DEAD_AFTER.total_seconds() * GIVE_UP_SHARE:
            raise LettaOpsError(
                "store-unreachable",
                f"{_name(self._where)} could not be claimed in time",
                "see that the store is up and this machine reaches it, then run this again",
            )


def already_there(where: Mapping[str, str]) -> LettaOpsError:
    return LettaOpsError(
        "object-exists",
        f"{_name(where)} is there already",
        "look at what is there; remove it if it is not wanted",
    )


def _being_written(where: Mapping[str, str]) -> LettaOpsError:
    minutes = DEAD_AFTER.total_seconds() / 60
    return LettaOpsError(
        "object-exists",
        f"somebody else is writing {_name(where)}, or died doing so in the last {minutes:.0f} minutes",
        "run this again then",
    )


def _others(client: Any, ours: Mapping[str, str], beside: str) -> bool:
    """Whether another claim is there, of one who may live; by the server's clock."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=ours["Bucket"], Prefix=beside)
    times = {
        item["Key"]: item["LastModified"]
        for page in pages
        for item in page.get("Contents", ())
        if re.fullmatch("[0-9a-f]{32}", item["Key"].removeprefix(beside))
    }
    now = times.pop(ours["Key"], None)
    return now is None or any(now - time < DEAD_AFTER for time in times.values())


def _name(where: Mapping[str, str]) -> str:
    return f"s3://{where['Bucket']}/{where['Key']}"


def _now() -> float:
    """Seconds, also of the time that this machine was asleep."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
