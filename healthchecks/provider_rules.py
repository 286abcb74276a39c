"""Judging the way to the model providers: a pure function, like healthchecks/rules.py."""

from __future__ import annotations

from healthchecks.model import State, Thresholds, Verdict
from healthchecks.probes.model import Providers

# Which step failed -> what to do about it.
STEP_HINTS = {
    "dns": "correct the provider's URL, or the name server that the server asks",
    "tcp": "start the provider, or open the way to it; inside a container 127.0.0.1 is the container",
    "tls": "renew the provider's certificate, or name its authority with SSL_CERT_FILE",
    "http": "look at the provider's own log, or at the proxy in front of it",
    "authentication": "correct the provider's key in the stack's configuration",
    "models": "correct the path in the provider's URL: it must end before /models",
}


def models_reachable(seen: Providers, _: Thresholds) -> Verdict:
    """Seen from where the server runs: each step on the way to every configured provider."""
    unseen = f"those that users added were not looked at: {seen.unlisted}" if seen.unlisted else ""
    if not seen.answers:
        hint = "configure one: docs/configuration.md"
        return Verdict(State.WARNING, "no model provider is configured", unseen, hint)
    failed = [each for each in seen.answers if each.failed is not None]
    details = [f"{each.name} at {each.url}: {each.failed}: {each.detail}" for each in failed]
    details += [unseen] if unseen else []
    if failed:
        steps = ", ".join(f"{each.name} ({each.failed})" for each in failed)
        hint = STEP_HINTS.get(failed[0].failed or "", "")
        return Verdict(
            State.CRITICAL,
            f"model providers can't be used from where the server runs: {steps}",
            "\n".join(details),
            f"{hint}; then restart the server, which looks for models only when it starts",
        )
    good = ", ".join(
        each.name + (f": {each.models} models" if each.models is not None else " answers")
        for each in seen.answers
    )
    if empty := [each.name for each in seen.answers if each.models == 0]:
        hint = "let the provider load a model, then restart the server"
        return Verdict(State.WARNING, f"no models at: {', '.join(empty)}", good, hint)
    return Verdict(State.OK, good, "\n".join(details))
