"""What does the store hold, and has it room for the next backup?"""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from backups.catalog import Backup, Catalog, deployment_id, newest_of_all, read_catalog
from backups.scheduler import service_state
from backups.signing import Signers
from backups.stores.store import Store, open_store
from infra.background import Background
from infra.errors import LettaOpsError
from infra.stack.backup_settings import Retention, StoreSettings
from infra.stack.deployment import Deployment, store_settings
from infra.targets.facts import Measurement

LIMIT_SECONDS = 15.0  # below that of a whole check, so that it is the store that is blamed
STORE_TIMEOUT = 5.0
# A schedule's longest gap is looked for in a week and a day (nights and weekends), and in so many
# runs at most.
SCHEDULE_DAYS, SCHEDULE_RUNS = 8, 2000

Seen = TypeVar("Seen")


@dataclass(frozen=True)
class Room:
    """The file system of a store that is a folder: bytes that are free, and whether the stack's data
    lies there as well."""

    free: int
    beside_the_data: bool


@dataclass(frozen=True)
class Stored(Measurement):
    """What the store at `url` holds of the deployment, as of `now`; `error` says why nobody knows.

    `interval` is the longest time in seconds between two runs of the schedule, None without one;
    `idle`: the stack has a scheduler, which doesn't run; `room` is None where the store tells none.
    `encrypts`: new backups would be encrypted; where not, `newest` is the store's, whoever's it is.
    `distrust`: why it is not known who made the deployment's newest backup. `protection` and `limits`
    are the store's own words for what it has and what it lacks.
    """

    url: str
    now: dt.datetime
    retention: Retention
    catalog: Catalog | None
    error: LettaOpsError | None = None
    interval: float | None = None
    idle: bool = False
    room: Room | None = None
    encrypts: bool = True
    newest: Backup | None = None
    distrust: LettaOpsError | None = None
    protection: str = ""
    limits: tuple[str, ...] = ()


def look_into_store(deployment: Deployment, limit: float = LIMIT_SECONDS) -> Stored:
    """Read the catalogue; that the store can't be asked is an answer, not a failure of the probe."""
    now = dt.datetime.now(dt.UTC)
    settings = store_settings(deployment)
    settings = replace(settings, timeout=min(settings.timeout, STORE_TIMEOUT))
    schedule = deployment.backups.backup.schedule
    unknown = Stored(
        url=settings.url,
        now=now,
        retention=deployment.backups.retention,
        catalog=None,
        interval=longest_gap(schedule, now) if schedule else None,
        idle=_scheduler_is_idle(deployment),
        encrypts=deployment.backups.encrypted,
    )

    def look() -> Stored:
        store = open_store(settings)
        catalog = read_catalog(store, deployment_id(deployment))
        newest = None if unknown.encrypts else newest_of_all(store)
        return replace(
            unknown,
            catalog=catalog,
            room=_room(settings, deployment),
            newest=newest,
            distrust=_distrust(deployment, catalog),
            **_said_of_itself(store),
        )

    try:
        return within(limit, look, settings.url)
    except LettaOpsError as error:
        return replace(unknown, error=error)


def _said_of_itself(store: Store) -> dict[str, Any]:
    """What it can't be asked is no reason to know nothing of its backups."""
    with suppress(LettaOpsError):
        return {"protection": store.protection(), "limits": store.limits()}
    return {}


def _distrust(deployment: Deployment, catalog: Catalog) -> LettaOpsError | None:
    try:
        if catalog.backups:
            Signers.of(deployment).ensure(catalog.backups[-1].manifest)
    except LettaOpsError as error:
        return error
    return None


def _scheduler_is_idle(deployment: Deployment) -> bool:
    """As after a reboot, when containers come back by themselves, and it does not."""
    return deployment.folder is not None and service_state(deployment.folder) == "stopped"


def longest_gap(schedule: str, now: dt.datetime) -> float:
    """Seconds between the two runs of a schedule (cron syntax) that are farthest from each other."""
    from cronsim import CronSim

    runs: list[dt.datetime] = []
    for run in CronSim(schedule, now):
        runs.append(run)
        enough = len(runs) > 2 and run - now > dt.timedelta(days=SCHEDULE_DAYS)
        if enough or len(runs) > SCHEDULE_RUNS:
            break
    return max((later - run).total_seconds() for run, later in pairwise(runs))


def within(limit: float, look: Callable[[], Seen], place: str) -> Seen:
    """Return what `look` returns, or raise LettaOpsError (`store-unreachable`) after `limit` seconds.

    Its thread is a daemon, and is left behind: a dead network file system can't be interrupted.
    """
    looking = Background(look)
    if not looking.wait(limit):
        raise LettaOpsError(
            "store-unreachable",
            f"{place} has not told its backups within {limit:.0f} s",
            "see what keeps it: the network, a dead mount, a store that is overloaded",
        )
    return looking.result()


def _room(settings: StoreSettings, deployment: Deployment) -> Room | None:
    parts = urlsplit(settings.url)
    if parts.scheme != "file":
        return None
    folder = Path(unquote(parts.path))
    while not folder.exists():
        folder = folder.parent
    data = deployment.folder.data if deployment.folder else None
    beside = data is not None and data.is_dir() and data.stat().st_dev == folder.stat().st_dev
    return Room(shutil.disk_usage(folder).free, beside)
