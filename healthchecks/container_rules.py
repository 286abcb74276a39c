"""Judging what the engine said of the containers: pure functions, like healthchecks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

from healthchecks.model import State, Thresholds, Verdict, worst
from healthchecks.probes.certificate import Certificate
from infra.stack.deployment import SERVICE_POSTGRES, SERVICE_PROXY, SERVICE_SERVER
from infra.targets.facts import Confinement, ContainerFacts, Containers

MIB = 1024**2
# Of a certificate that lives shorter than most: Caddy renews when a third of its life is left.
SHORT_LIFE_SHARE, SHORT_LIFE_SHARE_CRITICAL = 0.25, 0.10
# Which setting gives a service more memory.
MEMORY_SETTINGS = {SERVICE_SERVER: "server.memory", SERVICE_POSTGRES: "database.memory"}


def containers_run(seen: Containers, _: Thresholds) -> Verdict:
    """Every service is there, runs, and is well in the eyes of its own health check."""
    if not seen.containers:
        return Verdict(
            State.CRITICAL,
            "no container of the stack is on this engine",
            hint="start it with `letta-ops up`, or name its engine with DOCKER_HOST",
        )
    detail = ", ".join(f"{each.name} {each.state}" for each in seen.containers)
    ill = [
        each for each in seen.containers if each.health not in (None, "healthy") or not each.runs
    ]
    troubled = [*seen.missing, *(each.name for each in ill)]
    if not troubled:
        return Verdict(State.OK, f"{len(seen.containers)} containers run", detail)
    starting = not seen.missing and all(e.runs and e.health == "starting" for e in ill)
    failed = [each for each in ill if each.health != "starting" or not each.runs] or ill
    hint = (
        f"see why: `letta-ops logs {failed[0].service}`"
        if failed
        else "bring it back with `letta-ops up`"
    )
    state = State.WARNING if starting else State.CRITICAL
    return Verdict(state, f"not well: {', '.join(troubled)}", detail, hint)


def nothing_restarts(seen: Containers, thresholds: Thresholds) -> Verdict:
    """Restarts have a reason; an out-of-memory kill is called by its name."""
    killed = [each for each in seen.containers if each.killed_whole or each.killed]
    restarted = [
        each
        for each in seen.containers
        if each.status == "restarting"
        or (each.restarts > 0 and each.uptime < thresholds.recent_restart)
    ]
    if killed:
        return Verdict(
            State.WARNING if all(each.runs for each in killed) else State.CRITICAL,
            f"killed for want of memory: {', '.join(each.name for each in killed)}",
            "; ".join(_end(each) for each in killed),
            _more_memory(killed[0]),
        )
    if restarted:
        again = any(each.status == "restarting" for each in restarted)
        return Verdict(
            State.CRITICAL if again else State.WARNING,
            f"restarted of late: {', '.join(each.name for each in restarted)}",
            "; ".join(_end(each) for each in restarted),
            f"see why: `letta-ops logs {restarted[0].service}`",
        )
    total = sum(each.restarts for each in seen.containers)
    return Verdict(
        State.OK, "no restarts" if total == 0 else f"no restarts of late ({total} before)"
    )


def memory_suffices(seen: Containers, thresholds: Thresholds) -> Verdict:
    measured = [each for each in seen.containers if each.limit and each.used is not None]
    detail = ", ".join(_memory(each) for each in measured)
    unlimited = [each.name for each in seen.containers if not each.limit]
    high = [each for each in measured if _share(each) >= thresholds.high_memory_share]
    if high:
        names = ", ".join(_memory(each) for each in high)
        return Verdict(
            State.WARNING, f"nearly out of memory: {names}", detail, _more_memory(high[0])
        )
    if unlimited:
        return Verdict(
            State.WARNING,
            f"without a limit of memory: {', '.join(unlimited)}",
            detail,
            "one leak can take the whole machine down: run `letta-ops up`, which sets limits",
        )
    if not measured:
        return Verdict(State.UNKNOWN, "nothing runs whose memory could be measured")
    return Verdict(State.OK, detail)


def only_the_proxy_is_published(seen: Containers, _: Thresholds) -> Verdict:
    """Database, Redis and servers can't be reached from outside; the proxy beyond loopback by TLS."""
    problems = []
    for each in seen.containers:
        if each.confinement.host_network:
            problems.append(f"{each.name} has the machine's own network")
        for place in each.published:
            where = f"{place.address or 'every address'} port {place.port}"
            if each.service != SERVICE_PROXY:
                problems.append(f"{each.name} is published on {where}")
            elif not place.loopback and not seen.tls:
                problems.append(f"{each.name} takes plain HTTP on {where}")
    if problems:
        return Verdict(
            State.CRITICAL,
            "the stack can be reached past its proxy, or without TLS",
            "; ".join(problems),
            "run `letta-ops up`, which publishes the proxy alone; set tls.mode to go beyond loopback",
        )
    places = [
        f"{place.address or 'every address'} port {place.port}"
        for each in seen.containers
        for place in each.published
    ]
    return Verdict(State.OK, f"only the proxy: {', '.join(places)}" if places else "nothing")


def containers_are_confined(seen: Containers, _: Thresholds) -> Verdict:
    flaws = {each.name: list(_flaws(each.confinement)) for each in seen.containers}
    bad = {name: found for name, found in flaws.items() if found}
    if not seen.containers:
        return Verdict(State.UNKNOWN, "there are no containers to look at")
    if not bad:
        kept = "no root, no capabilities, no new privileges, read-only root file system"
        return Verdict(State.OK, f"all {len(flaws)} containers: {kept}")
    return Verdict(
        worst(state for found in bad.values() for state, _ in found),
        f"not confined: {', '.join(bad)}",
        "; ".join(
            f"{name}: {', '.join(detail for _, detail in found)}" for name, found in bad.items()
        ),
        "run `letta-ops up`, which makes them anew as they should be",
    )


def images_are_recent(seen: Containers, thresholds: Thresholds) -> Verdict:
    """What is in an image gets no security updates until it is built anew."""
    if not seen.containers:
        return Verdict(State.UNKNOWN, "there are no containers to look at")
    gone = sorted({each.name for each in seen.containers if each.image_days is None})
    ages = {each.image: each.image_days for each in seen.containers if each.image_days is not None}
    bases = {each.image: f", from {each.base}" for each in seen.containers if each.base}
    detail = ", ".join(
        f"{image}: {days:.0f} days{bases.get(image, '')}" for image, days in sorted(ages.items())
    )
    old = [image for image, days in sorted(ages.items()) if days > thresholds.old_image_days]
    if old:
        return Verdict(
            State.WARNING,
            f"packages of more than {thresholds.old_image_days:.0f} days ago: {', '.join(old)}",
            detail,
            f"build them anew: `letta-ops up --config image.packages={thresholds.today}`",
        )
    if gone:
        hint = "run `letta-ops up`, which builds it again"
        return Verdict(State.WARNING, f"their image was deleted: {', '.join(gone)}", detail, hint)
    return Verdict(
        State.OK, f"{len(ages)} images, the oldest of {max(ages.values()):.0f} days", detail
    )


def certificate_lasts(seen: Certificate, thresholds: Thresholds) -> Verdict:
    """Weeks for one that lives for months; a share of its life for one that lives for hours."""
    life = (seen.ends - seen.begins).total_seconds() / 86400
    left = (seen.ends - seen.now).total_seconds() / 86400
    low = min(thresholds.certificate_days, life * SHORT_LIFE_SHARE)
    critical = min(thresholds.certificate_days_critical, life * SHORT_LIFE_SHARE_CRITICAL)
    detail = f"{seen.subject}, issued by {seen.issuer}, until {seen.ends:%Y-%m-%d %H:%M} UTC"
    hint = (
        "a given certificate: replace its files, then `letta-ops up`; else see why it isn't renewed:"
        " `letta-ops logs proxy`"
    )
    if seen.now < seen.begins:
        begins = f"the certificate isn't valid before {seen.begins:%Y-%m-%d %H:%M} UTC"
        return Verdict(State.CRITICAL, begins, detail, "see whether this machine's clock is right")
    if left <= 0:
        return Verdict(State.CRITICAL, "the certificate has expired", detail, hint)
    if left < low:
        state = State.CRITICAL if left < critical else State.WARNING
        return Verdict(state, f"the certificate expires in {_days(left)}", detail, hint)
    return Verdict(State.OK, f"the certificate lasts {_days(left)}", detail)


def _days(days: float) -> str:
    return f"{days:.0f} days" if days >= 2 else f"{days * 24:.0f} hours"


def _flaws(seen: Confinement) -> Iterator[tuple[State, str]]:
    if seen.privileged:
        yield State.CRITICAL, "privileged"
    if seen.root:
        yield State.CRITICAL, "runs as root"
    if not seen.drops_all:
        yield State.WARNING, "keeps capabilities"
    if not seen.no_new_privileges:
        yield State.WARNING, "may gain privileges"
    if not seen.read_only:
        yield State.WARNING, "can write to its root file system"


def _end(each: ContainerFacts) -> str:
    parts = [f"{each.name} {each.state}, restarted {each.restarts} times"]
    if each.killed_whole:
        parts.append("its last end was an out-of-memory kill")
    if each.killed:
        parts.append(f"out-of-memory kills inside since it started: {each.killed}")
    return ", ".join(parts)


def _more_memory(each: ContainerFacts) -> str:
    setting = MEMORY_SETTINGS.get(each.service)
    now = f" (now {each.limit // MIB})" if each.limit else ""
    if setting is None:
        return "see what it is busy with; its limit is fixed"
    return f"give it more: `letta-ops up --config {setting}=MIB`{now}"


def _share(each: ContainerFacts) -> float:
    return (each.used or 0) / each.limit if each.limit else 0.0


def _memory(each: ContainerFacts) -> str:
    used, limit = (each.used or 0) // MIB, (each.limit or 0) // MIB
    return f"{each.name} {used} of {limit} MiB"
