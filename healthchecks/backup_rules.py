"""Judging what the store holds: pure functions, like healthchecks/rules.py."""

from __future__ import annotations

import datetime as dt

from backups.catalog import Backup, Catalog
from backups.humanize import size_in_words, time_in_words
from backups.retention import decide, overdue
from backups.verdicts import FAILED
from healthchecks.model import State, Thresholds, Verdict
from healthchecks.probes.backups import Stored

DRILL = "prove one with `letta-ops backup drill`, or let the stack do it: drill.schedule"


def store_answers(seen: Stored, _: Thresholds) -> Verdict:
    """The store must be there, let us in, and list what it holds."""
    if seen.catalog is None:
        error = seen.error
        return Verdict(
            State.CRITICAL,
            f"the store {seen.url} can't be asked",
            error.message if error else "",
            error.hint if error else "",
        )
    backups = seen.catalog.backups
    size = size_in_words(sum(backup.manifest.size for backup in backups))
    summary = f"{seen.url}: backups: {len(backups)}, {size}"
    if seen.room and seen.room.beside_the_data:
        summary += "; on the same disk as the data, which a broken disk takes with it"
    summary = "; ".join(filter(None, (summary, seen.protection, *seen.limits)))
    if seen.catalog.damaged:
        return Verdict(
            State.WARNING,
            f"{summary}; {len(seen.catalog.damaged)} damaged",
            "\n".join(each.error.message for each in seen.catalog.damaged),
            "find out what altered them; delete their folders from the store when they are lost",
        )
    return Verdict(State.OK, summary)


def backup_is_recent(seen: Stored, thresholds: Thresholds) -> Verdict:
    """The newest backup that failed no drill must be younger than the schedule makes them."""
    if seen.catalog is None:
        return _not_asked(seen)
    good = _newest_good(seen.catalog)
    if good is None and seen.catalog.backups:
        return Verdict(
            State.CRITICAL,
            f"all {len(seen.catalog.backups)} backups failed their last drill",
            hint="see why with `letta-ops backup show`, and make one with `letta-ops backup create`",
        )
    if good is None:
        return Verdict(
            State.WARNING,
            "no backup has ever been made",
            hint="make one with `letta-ops backup create`, and let the stack do it: backup.schedule",
        )
    age = (seen.now - good.manifest.created_at).total_seconds()
    warning, critical = thresholds.old_backup, thresholds.old_backup_critical
    if seen.interval is not None:
        warning = seen.interval * thresholds.old_backup_intervals
        critical = seen.interval * thresholds.old_backup_intervals_critical
    summary = f"{good.id} is {time_in_words(age)} old"
    if age <= warning and seen.idle:
        return Verdict(
            State.WARNING,
            f"{summary}, and the scheduler does not run",
            hint="start it: `letta-ops up`",
        )
    if age <= warning:
        return Verdict(State.OK, summary)
    return Verdict(
        State.CRITICAL if age > critical else State.WARNING,
        f"{summary}, more than {time_in_words(critical if age > critical else warning)}",
        "backup.schedule is set" if seen.interval is not None else "backup.schedule is not set",
        "make one with `letta-ops backup create`, and see why the schedule made none (does its"
        " service run? `letta-ops up` starts it)"
        if seen.interval is not None
        else "make one with `letta-ops backup create`, and let the stack do it: backup.schedule",
    )


def backups_stay_encrypted(seen: Stored, _: Thresholds) -> Verdict:
    """After encrypted backups none lies in the clear, nor is about to."""
    if seen.catalog is None:
        return _not_asked(seen)
    hint = "set backup.recipients to those that `letta-ops backup show` names of an encrypted one"
    if seen.newest is not None and seen.newest.manifest.encrypted:
        return Verdict(
            State.WARNING,
            f"the next backup would lie in the clear, unlike {seen.newest.id}: it is refused",
            hint=hint,
        )
    backups = seen.catalog.backups
    encrypted = [each for each in backups if each.manifest.encrypted]
    if encrypted and not backups[-1].manifest.encrypted:
        summary = f"{backups[-1].id} lies in the clear, {encrypted[-1].id} before it is encrypted"
        again = "" if seen.encrypts else hint
        return Verdict(State.WARNING, summary, hint=again or "make one: `letta-ops backup create`")
    return Verdict(State.OK, "new backups are encrypted" if seen.encrypts else "none is encrypted")


def backups_are_signed(seen: Stored, _: Thresholds) -> Verdict:
    """The newest backup is what a restore takes: it must be known who made it."""
    if seen.catalog is None:
        return _not_asked(seen)
    if seen.distrust is None:
        return Verdict(
            State.OK, "the newest is signed" if seen.catalog.backups else "there is none yet"
        )
    if seen.distrust.code == "backup-forged":
        return Verdict(State.CRITICAL, seen.distrust.message, hint=seen.distrust.hint)
    hint = "make one with `letta-ops backup create`: it is signed"
    return Verdict(State.WARNING, seen.distrust.message, hint=hint)


def drill_passed(seen: Stored, thresholds: Thresholds) -> Verdict:
    """What was not restored is only hoped to be a backup."""
    if seen.catalog is None:
        return _not_asked(seen)
    backups = seen.catalog.backups
    if not backups:
        return Verdict(State.OK, "there is no backup to drill yet")
    drills = sorted(
        ((drill, backup.id) for backup in backups for drill in backup.drills),
        key=lambda found: found[0].at,
    )
    if drills and drills[-1][0].verdict == FAILED:
        drill, backup = drills[-1]
        return Verdict(
            State.CRITICAL,
            f"the drill of {backup} failed {_ago(seen, drill.at)}",
            hint=f"see why with `letta-ops backup show {backup}`; make and drill a new backup",
        )
    passed = [backup.last_passed for backup in backups if backup.last_passed]
    if not passed:
        return Verdict(State.WARNING, "no backup has ever been drilled", hint=DRILL)
    last = max(passed, key=lambda drill: drill.at)
    summary = f"the last that passed was {_ago(seen, last.at)}, in {time_in_words(last.seconds)}"
    if (seen.now - last.at).total_seconds() > thresholds.old_drill:
        return Verdict(State.WARNING, summary, hint=DRILL)
    return Verdict(State.OK, summary)


def store_has_room(seen: Stored, thresholds: Thresholds) -> Verdict:
    """The next backups must fit; what a bucket takes, it doesn't say."""
    if seen.catalog is None:
        return _not_asked(seen)
    if seen.room is None:
        return Verdict(State.OK, "not checked: a bucket doesn't say what fits into it")
    free = f"{size_in_words(seen.room.free)} free"
    if not seen.catalog.backups:
        return Verdict(State.OK, free)
    newest = seen.catalog.backups[-1].manifest.size
    summary = f"{free}; the newest backup has {size_in_words(newest)}"
    hint = "free some room: `letta-ops backup prune`, or name a larger store with store.url"
    if seen.room.free < newest * thresholds.full_store_backups:
        return Verdict(State.CRITICAL, f"the next backup may not fit: {summary}", hint=hint)
    if seen.room.free < newest * thresholds.low_store_backups:
        return Verdict(State.WARNING, f"little room is left: {summary}", hint=hint)
    return Verdict(State.OK, summary)


def retention_is_kept(seen: Stored, thresholds: Thresholds) -> Verdict:
    """What nobody keeps must not pile up."""
    if seen.catalog is None:
        return _not_asked(seen)
    backups = seen.catalog.backups
    going = [each for each in decide(backups, seen.retention, seen.now) if not each.keep]
    patience = dt.timedelta(days=thresholds.overdue_days)
    late = overdue(backups, seen.retention, seen.now, patience)
    summary = f"{len(going)} of {len(backups)} backups would be pruned ({seen.retention})"
    if len(late) <= thresholds.overdue_backups:
        return Verdict(State.OK, summary)
    return Verdict(
        State.WARNING,
        f"{summary}, {len(late)} of them since more than {thresholds.overdue_days:.0f} days",
        hint="see them with `letta-ops backup prune`, and remove them with --yes",
    )


def _newest_good(catalog: Catalog) -> Backup | None:
    return next((each for each in reversed(catalog.backups) if each.judged != FAILED), None)


def _not_asked(seen: Stored) -> Verdict:
    code = seen.error.code.replace("-", " ") if seen.error else "no answer"
    return Verdict(State.UNKNOWN, f"the store can't be asked: {code}", hint="see `store`")


def _ago(seen: Stored, moment: dt.datetime) -> str:
    return f"{time_in_words((seen.now - moment).total_seconds())} ago"
