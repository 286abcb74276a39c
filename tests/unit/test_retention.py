"""Retention: case tables for each rule, and what must hold whatever the rules and backups are."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Sequence

import pytest

from backups.catalog import Backup, Drill
from backups.retention import NEVER, PERIODS, End, decide, end_of, overdue
from infra.stack.backup_settings import Retention
from tests.unit.backups import NOON, manifest

HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)
SEEDS = range(60)


def backup(
    at: dt.datetime, *verdicts: str, kept: str | None = None, label: str | None = None
) -> Backup:
    made = manifest(f"{at:%Y%m%dT%H%M%SZ}-{label}", at, label=label)
    drills = tuple(
        Drill(at + number * HOUR, verdict, 41.0, {}) for number, verdict in enumerate(verdicts, 1)
    )
    return Backup(made, kept, drills)


def every(step: dt.timedelta, count: int) -> list[Backup]:
    """`count` backups, oldest first; the newest is at noon."""
    return [backup(NOON - step * number) for number in reversed(range(count))]


def reasons(backups: Sequence[Backup], retention: Retention) -> dict[str, tuple[str, ...]]:
    """Of those that stay, by their times, newest first."""
    decisions = decide(backups, retention, NOON)
    assert [decision.backup for decision in decisions] == list(backups)
    assert all(decision.reasons for decision in decisions)
    return {
        f"{each.backup.manifest.created_at:%m-%d %H}": each.reasons
        for each in reversed(decisions)
        if each.keep
    }


def test_there_is_nothing_to_decide_where_there_is_nothing() -> None:
    assert decide([], Retention(last=1), NOON) == []


def test_the_last_ones_are_counted() -> None:
    assert reasons(every(HOUR, 5), Retention(last=3)) == {
        "11-20 12": ("the newest backup", "last 1 of 3"),
        "11-20 11": ("last 2 of 3",),
        "11-20 10": ("last 3 of 3",),
    }


def test_what_no_rule_keeps_says_so() -> None:
    oldest, newest = decide(every(DAY, 2), Retention(last=1), NOON)
    assert (oldest.keep, oldest.reasons) == (False, ("no rule keeps it",))
    assert newest.keep


def test_the_newest_of_each_day_stays_and_days_without_one_do_not_count() -> None:
    backups = [
        backup(NOON - 9 * DAY),
        backup(NOON - 4 * DAY - HOUR),
        backup(NOON - 4 * DAY),
        backup(NOON - HOUR),
        backup(NOON),
    ]
    assert reasons(backups, Retention(daily=2)) == {
        "11-20 12": ("the newest backup", "daily 2026-11-20"),
        "11-16 12": ("daily 2026-11-16",),
    }


@pytest.mark.parametrize(
    ("unit", "first", "second", "period"),
    [
        ("hourly", "2026-11-19T23:59:59", "2026-11-20T00:00:00", "2026-11-19 23:00"),
        ("daily", "2026-11-19T23:59:59", "2026-11-20T00:00:00", "2026-11-19"),
        # Sunday and Monday; the first days of January 2027 are in the last week of 2026.
        ("weekly", "2026-11-15T23:59:59", "2026-11-16T00:00:00", "2026-W46"),
        ("weekly", "2027-01-03T23:59:59", "2027-01-04T00:00:00", "2026-W53"),
        ("monthly", "2026-10-31T23:59:59", "2026-11-01T00:00:00", "2026-10"),
        ("yearly", "2025-12-31T23:59:59", "2026-01-01T00:00:00", "2025"),
    ],
)
def test_a_period_ends_where_the_calendar_says_in_utc(
    unit: str, first: str, second: str, period: str
) -> None:
    moments = [dt.datetime.fromisoformat(f"{moment}+00:00") for moment in (first, second)]
    abroad = dt.timezone(dt.timedelta(hours=-9))
    backups = [backup(moment.astimezone(abroad)) for moment in moments]
    older, newer = decide(backups, Retention(**{unit: 2}), NOON)
    assert older.reasons == (f"{unit} {period}",)
    assert newer.keep
    older, _ = decide(backups, Retention(**{unit: 1}), NOON)
    assert not older.keep


def test_the_same_week_has_one_newest() -> None:
    monday = dt.datetime(2026, 11, 16, tzinfo=dt.UTC)
    backups = [backup(monday), backup(monday + 6 * DAY + 23 * HOUR)]
    older, newer = decide(backups, Retention(weekly=5), NOON)
    assert not older.keep
    assert "weekly 2026-W47" in newer.reasons


def test_all_that_are_young_enough_stay_and_so_does_one_from_a_clock_that_is_ahead() -> None:
    backups = [*every(HOUR, 4), backup(NOON + DAY)]
    kept = reasons(backups, Retention(within=2))
    assert list(kept) == ["11-21 12", "11-20 12", "11-20 11", "11-20 10"]
    assert kept["11-20 10"] == ("within 2 hours",)


def test_rules_add_up_and_each_is_named() -> None:
    (decision,) = decide([backup(NOON)], Retention(last=1, daily=1, weekly=1), NOON)
    rules = ("the newest backup", "last 1 of 1", "daily 2026-11-20", "weekly 2026-W47")
    assert decision.reasons == rules


def test_each_label_is_judged_on_its_own() -> None:
    backups = [
        backup(NOON - 3 * DAY, label="a"),
        backup(NOON - 2 * DAY, label="a"),
        backup(NOON - DAY),
        backup(NOON),
    ]
    kept = reasons(backups, Retention(last=1))
    assert list(kept) == ["11-20 12", "11-18 12"]
    assert kept["11-18 12"] == ("last 1 of 1",)


def test_a_mark_keeps_what_no_rule_does() -> None:
    backups = [backup(NOON - 900 * DAY, kept="before the migration"), backup(NOON)]
    assert decide(backups, Retention(last=1), NOON)[0].reasons == ("kept: before the migration",)


def test_the_newest_good_one_and_the_last_that_passed_stay_over_all_labels() -> None:
    backups = [
        backup(NOON - 5 * DAY, "passed"),
        backup(NOON - 4 * DAY, "passed", label="nightly"),
        backup(NOON - 3 * DAY, "passed", "failed"),
        backup(NOON - 2 * DAY, "unverified", label="other"),
        backup(NOON - DAY, "failed"),
        backup(NOON, "failed"),
    ]
    assert reasons(backups, Retention()) == {
        "11-20 12": ("the newest backup",),
        "11-18 12": ("the newest backup that failed no drill",),
        "11-16 12": ("the last that passed a drill",),
    }


def test_a_drill_that_could_not_check_everything_takes_no_verdict_back() -> None:
    backups = [backup(NOON - DAY, "passed", "unverified"), backup(NOON)]
    assert decide(backups, Retention(), NOON)[0].reasons == ("the last that passed a drill",)
    backups = [backup(NOON - DAY, "failed", "unverified"), backup(NOON)]
    assert not decide(backups, Retention(), NOON)[0].keep


def test_only_those_are_overdue_that_should_have_gone_by_then() -> None:
    """With last=3 and a backup a day, one becomes superfluous every day."""
    late = overdue(every(DAY, 10), Retention(last=3), NOON, 2 * DAY)
    assert len(late) == 5
    assert overdue(every(HOUR, 40), Retention(last=3), NOON, 2 * DAY) == []


def drawn(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311  # the same cases in every run


def some_backups(chance: random.Random) -> list[Backup]:
    made = []
    for _ in range(chance.randrange(1, 60)):
        at = NOON - dt.timedelta(minutes=chance.randrange(chance.choice([600, 60_000, 900_000])))
        verdicts = chance.choices(["passed", "failed", "unverified"], k=chance.choice([0, 0, 1, 3]))
        kept = chance.choice([None] * 9 + ["a reason"])
        made.append(backup(at, *verdicts, kept=kept, label=chance.choice([None, "a", "b"])))
    return sorted({each.id: each for each in made}.values(), key=lambda b: b.manifest.created_at)


def some_rules(chance: random.Random) -> Retention:
    units = ("last", *PERIODS)
    numbers = {unit: chance.choice([0, 0, 1, 3, 10]) for unit in units}
    return Retention(**numbers, within=chance.choice([0, 0, 5, 100]))


def kept_ids(backups: Sequence[Backup], retention: Retention) -> set[str]:
    return {each.backup.id for each in decide(backups, retention, NOON) if each.keep}


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_the_rules_the_last_good_one_and_every_mark_stay(seed: int) -> None:
    chance = drawn(seed)
    backups = some_backups(chance)
    kept = kept_ids(backups, some_rules(chance))
    newest_first = backups[::-1]
    assert backups[-1].id in kept
    assert {each.id for each in backups if each.kept} <= kept
    for wanted in (lambda b: b.judged != "failed", lambda b: b.judged == "passed"):
        assert {each.id for each in list(filter(wanted, newest_first))[:1]} <= kept


@pytest.mark.parametrize("seed", SEEDS)
def test_to_prune_again_at_once_removes_nothing_more(seed: int) -> None:
    chance = drawn(seed)
    backups, retention = some_backups(chance), some_rules(chance)
    kept = kept_ids(backups, retention)
    assert kept_ids([each for each in backups if each.id in kept], retention) == kept


@pytest.mark.parametrize("seed", SEEDS)
def test_a_more_generous_rule_never_removes_more(seed: int) -> None:
    chance = drawn(seed)
    backups, retention = some_backups(chance), some_rules(chance)
    unit = chance.choice(("last", *PERIODS, "within"))
    more = Retention(**{**vars(retention), unit: getattr(retention, unit) + 1})
    assert kept_ids(backups, retention) <= kept_ids(backups, more)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_rule_keeps_more_than_its_number_of_a_label(seed: int) -> None:
    chance = drawn(seed)
    backups, retention = some_backups(chance), some_rules(chance)
    for label in (None, "a", "b"):
        decided = [
            reason
            for each in decide(backups, retention, NOON)
            if each.backup.manifest.label == label
            for reason in each.reasons
        ]
        for unit in ("last", *PERIODS):
            named = [reason for reason in decided if reason.split()[0] == unit]
            assert len(named) <= getattr(retention, unit)
            assert len(set(named)) == len(named)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_order_in_which_backups_are_given_decides_nothing(seed: int) -> None:
    chance = drawn(seed)
    backups, retention = some_backups(chance), some_rules(chance)
    shuffled = chance.sample(backups, len(backups))
    assert kept_ids(backups, retention) == kept_ids(shuffled, retention)


@pytest.mark.parametrize(
    ("rules", "age", "latest", "newer"),
    [
        (Retention(last=3), 1 * DAY, NOON - DAY, 2),
        (Retention(daily=3), 1 * DAY, NOON + 2 * DAY, 0),
        (Retention(daily=2), 3 * DAY, NOON - 3 * DAY, 0),
        (Retention(hourly=1), 0 * DAY, NOON + DAY, 1),
        (Retention(hourly=24), 0 * DAY, NOON + 24 * DAY, 1),
        (Retention(weekly=1), 0 * DAY, dt.datetime(2026, 11, 23, tzinfo=dt.UTC), 1),
        (Retention(monthly=2), 0 * DAY, dt.datetime(2027, 1, 1, tzinfo=dt.UTC), 1),
        (Retention(yearly=2), 0 * DAY, dt.datetime(2028, 1, 1, tzinfo=dt.UTC), 1),
        (Retention(yearly=9999), 0 * DAY, NEVER, 1),
        (Retention(daily=10**9), 0 * DAY, NEVER, 1),
        (Retention(within=72), 1 * DAY, NOON + 2 * DAY, 0),
    ],
)
def test_it_is_told_when_a_backup_goes_at_the_latest(
    rules: Retention, age: dt.timedelta, latest: dt.datetime, newer: int
) -> None:
    backups = every(DAY, 5)
    (one,) = [each for each in backups if each.manifest.created_at == NOON - age]
    end = end_of(one, backups, rules, NOON)
    assert (end.latest, end.newer) == (latest, newer)


def test_what_else_keeps_a_backup_is_told_with_its_end() -> None:
    marked, good, bad = (
        backup(NOON - 2 * DAY, kept="a trial"),
        backup(NOON - DAY, "passed"),
        backup(NOON, "failed"),
    )
    ends = [
        end_of(each, [marked, good, bad], Retention(last=1), NOON) for each in (marked, good, bad)
    ]
    assert ends == [
        End(NOON - 2 * DAY, 0, ("kept: a trial",)),
        End(
            NOON - DAY,
            0,
            ("the newest backup that failed no drill", "the last that passed a drill"),
        ),
        End(NOON, 1, ()),
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_by_that_time_it_is_gone_if_backups_go_on_as_they_did(seed: int) -> None:
    chance = drawn(seed)
    backups = some_backups(chance)
    units = {unit: chance.choice([0, 0, 1, 3]) for unit in ("last", *PERIODS) if unit != "yearly"}
    rules = Retention(**units, within=chance.choice([0, 5, 100]))
    one = chance.choice(backups)
    label = one.manifest.label
    end = end_of(one, backups, rules, NOON)
    # As far apart as they were; of a label that has one only, as far as it is old.
    same = [
        NOON,
        *(each.manifest.created_at for each in backups[::-1] if each.manifest.label == label),
    ]
    step = max([DAY, *(same[n] - same[n + 1] for n in range(len(same[:11]) - 1))])
    now = max(NOON, end.latest) + (end.newer + 2) * step
    later = [
        backup(NOON + number * step, "passed", label=label)
        for number in range(1, (now - NOON) // step + 1)
    ]
    kept = {each.backup.id for each in decide([*backups, *later], rules, now) if each.keep}
    assert (one.id in kept) == (one.kept is not None)
