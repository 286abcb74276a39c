"""Rules on the registry of applications' agents."""

from __future__ import annotations

from healthchecks.model import State, Thresholds, Verdict
from healthchecks.probes.registry import Links

MEND = "`letta-ops registry reconcile` says why each is so, and what mends it"


def links_lead_to_agents(seen: Links, _: Thresholds) -> Verdict:
    """An application whose agent is gone gets an error; one whose link is, would look for it in vain."""
    problems = []
    for (count, some), words in (
        (seen.gone, "link(s) lead to agents that are gone"),
        (seen.orphaned, "agent(s) of applications have no link"),
    ):
        if count:
            more = ", ..." if count > len(some) else ""
            problems.append(f"{count} {words}: {', '.join(some)}{more}")
    if seen.elsewhere:
        problems.append(f"{seen.elsewhere} link(s) are of another server")
    last = "never" if seen.reconciled is None else f"{seen.reconciled:%Y-%m-%d %H:%M} UTC"
    if problems:
        return Verdict(State.WARNING, "; ".join(problems), f"reconciled last: {last}", MEND)
    if seen.count == 0:
        return Verdict(State.OK, "no application has links")
    return Verdict(State.OK, f"{seen.count} link(s) lead to agents; reconciled last: {last}")
