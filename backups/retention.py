"""Which backups stay and which go, each with its reasons: pure.

The rules are those of restic and borg ("restic forget", "borg prune"): `last=7` keeps the 7 newest,
`daily=14` the newest of each of the 14 most recent days that have one, and `within=48h` all that are
younger. Days begin at midnight in UTC, weeks are those of ISO 8601.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

from backups.catalog import Backup
from backups.verdicts import FAILED, PASSED
from infra.stack.backup_settings import Retention

# Of each unit, how the period of a moment is called.
PERIODS: Mapping[str, str] = MappingProxyType(
    {
        "hourly": "%Y-%m-%d %H:00",
        "daily": "%Y-%m-%d",
        "weekly": "%G-W%V",
        "monthly": "%Y-%m",
        "yearly": "%Y",
    }
)
GAPS = 10  # so many of the newest backups say how far apart they are
NEVER = dt.datetime.max.replace(tzinfo=dt.UTC)
NO_RULE = "no rule keeps it"
NEWEST = "the newest backup"
NEWEST_GOOD = "the newest backup that failed no drill"
LAST_PASSED = "the last that passed a drill"


@dataclass(frozen=True)
class Decision:
    """What becomes of one backup, and why: every rule that keeps it, or that none does."""

    backup: Backup
    keep: bool
    reasons: tuple[str, ...]


def decide(backups: Sequence[Backup], retention: Retention, now: dt.datetime) -> list[Decision]:
    """Judge `backups` of one deployment; the decisions are in the order of `backups`.

    Each label is judged on its own. Over all labels these stay whatever the rules say: what is
    marked `keep`, the newest, the newest whose last drill did not fail, the last that passed one.
    """
    reasons: dict[str, list[str]] = {backup.id: [] for backup in backups}
    newest_first = sorted(backups, key=_moment, reverse=True)
    for backup, reason in _protected(newest_first):
        reasons[backup.id].append(reason)
    for label in {backup.manifest.label for backup in backups}:
        group = [backup for backup in newest_first if backup.manifest.label == label]
        for backup, reason in _by_rules(group, retention, now):
            reasons[backup.id].append(reason)
    return [
        Decision(backup, bool(reasons[backup.id]), tuple(reasons[backup.id]) or (NO_RULE,))
        for backup in backups
    ]


def overdue(
    backups: Sequence[Backup], retention: Retention, now: dt.datetime, patience: dt.timedelta
) -> list[Backup]:
    """Those that go now, and that should have gone `patience` ago already."""
    earlier = now - patience
    known = [backup for backup in backups if backup.manifest.created_at <= earlier]
    going = {each.backup.id for each in decide(known, retention, earlier) if not each.keep}
    return [
        each.backup
        for each in decide(backups, retention, now)
        if not each.keep and each.backup.id in going
    ]


@dataclass(frozen=True)
class End:
    """A backup goes at the latest when the moment has come, there are so many newer backups, and none
    of the reasons holds any more."""

    latest: dt.datetime
    newer: int
    reasons: tuple[str, ...]


def end_of(
    backup: Backup, backups: Sequence[Backup], retention: Retention, now: dt.datetime
) -> End:
    """When `backup`, one of `backups`, will go by `retention`, if backups go on as they did: no further
    apart than those of its label are."""
    newest_first = sorted(backups, key=_moment, reverse=True)
    group = [each for each in newest_first if each.manifest.label == backup.manifest.label]
    gap = _largest_gap(group, now)
    rank = group.index(backup)
    moments = [backup.manifest.created_at + dt.timedelta(hours=retention.within)]
    for unit, pattern in PERIODS.items():
        count = getattr(retention, unit)
        kept = [each for each, _ in _newest_of_each(group, pattern, count)]
        if backup in kept:
            newest = group[0].manifest.created_at.astimezone(dt.UTC)
            # The period of now may have its backup yet to come.
            has_one = newest.strftime(pattern) == now.strftime(pattern)
            lacking = count - kept.index(backup) - (not has_one)
            # Only periods that have a backup count.
            moments.append(max(_beginning(unit, now, lacking), _after(now, gap, lacking)))
    reasons = tuple(reason for each, reason in _protected(newest_first) if each is backup)
    return End(
        max(moments),
        max(retention.last - rank, int(rank == 0)),
        tuple(reason for reason in reasons if reason != NEWEST),
    )


def _largest_gap(newest_first: Sequence[Backup], now: dt.datetime) -> dt.timedelta:
    """Between two of the newest ones, or since the newest."""
    made = [now, *(each.manifest.created_at for each in newest_first[:GAPS])]
    return max((later - earlier for later, earlier in pairwise(made)), default=dt.timedelta())


def _after(moment: dt.datetime, step: dt.timedelta, number: int) -> dt.datetime:
    try:
        return moment + step * number
    except OverflowError:
        return NEVER


def _beginning(unit: str, moment: dt.datetime, number: int) -> dt.datetime:
    """See `_begins`; a year that no date has is NEVER."""
    try:
        return _begins(unit, moment, number)
    except (OverflowError, ValueError):
        return NEVER


def _begins(unit: str, moment: dt.datetime, number: int) -> dt.datetime:
    """When the `number`th period after that of `moment` (UTC) begins."""
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if unit == "hourly":
        return day.replace(hour=moment.hour) + dt.timedelta(hours=number)
    if unit == "daily":
        return day + dt.timedelta(days=number)
    if unit == "weekly":
        return day + dt.timedelta(days=7 * number - day.weekday())
    months = day.year * 12 + day.month - 1 + number
    if unit == "yearly":
        months = (day.year + number) * 12
    return day.replace(year=months // 12, month=months % 12 + 1, day=1)


def _protected(newest_first: Sequence[Backup]) -> Iterator[tuple[Backup, str]]:
    for backup in newest_first:
        if backup.kept is not None:
            yield backup, f"kept: {backup.kept}"
    if newest_first:
        yield newest_first[0], NEWEST
    good = next((backup for backup in newest_first if backup.judged != FAILED), None)
    if good is not None and good is not newest_first[0]:
        yield good, NEWEST_GOOD
    passed = next((backup for backup in newest_first if backup.judged == PASSED), None)
    if passed is not None:
        yield passed, LAST_PASSED


def _by_rules(
    newest_first: Sequence[Backup], retention: Retention, now: dt.datetime
) -> Iterator[tuple[Backup, str]]:
    for number, backup in enumerate(newest_first[: retention.last], start=1):
        yield backup, f"last {number} of {retention.last}"
    for unit, pattern in PERIODS.items():
        for backup, period in _newest_of_each(newest_first, pattern, getattr(retention, unit)):
            yield backup, f"{unit} {period}"
    if retention.within:
        oldest = now - dt.timedelta(hours=retention.within)
        for backup in newest_first:
            if backup.manifest.created_at >= oldest:
                yield backup, f"within {retention.within} hours"


def _newest_of_each(
    newest_first: Iterable[Backup], pattern: str, count: int
) -> Iterator[tuple[Backup, str]]:
    """Yield the newest backup of each of the `count` most recent periods that have one."""
    seen: set[str] = set()
    for backup in newest_first:
        period = backup.manifest.created_at.astimezone(dt.UTC).strftime(pattern)
        if period not in seen and len(seen) < count:
            seen.add(period)
            yield backup, period


def _moment(backup: Backup) -> tuple[dt.datetime, str]:
    return (backup.manifest.created_at, backup.id)
