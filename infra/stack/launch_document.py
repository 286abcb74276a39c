"""The document from which `launch.py` starts a server: its environment, and what of it is secret."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from urllib.parse import unquote, urlsplit

from infra.sensitive import Sensitive


def launch_document(
    environment: Mapping[str, str], secret_names: Iterable[str], import_first: str | None
) -> str:
    """JSON. `secret_names` leave the process's environment once `import_first` has read them."""
    names = list(secret_names)
    document = {
        "environment": dict(environment),
        "secret_names": names,
        "secrets": [secret.reveal() for secret in secret_values(environment, names)],
        "import_first": import_first,
    }
    return json.dumps(document, indent=1, sort_keys=True)


def secret_values(environment: Mapping[str, str], secret_names: Iterable[str]) -> list[Sensitive]:
    """The secrets among the environment, and the password of every URL in it."""
    values = [environment[name] for name in secret_names]
    urls = [value for value in environment.values() if "://" in value]
    passwords = [unquote(urlsplit(url).password or "") for url in urls]
    return [Sensitive(value) for value in (*values, *passwords) if value]
