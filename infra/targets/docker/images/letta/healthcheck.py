"""Ask the server in this container whether it is well: it answers, and its database does.

Run by Docker with Letta's interpreter, which has none of our packages: standard library only.
The health endpoint alone answers 200 without looking at the database; a list of agents can't.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

SERVER = "http://127.0.0.1:8283"
SECONDS = 4  # for each of two requests; Docker allows 10 for both


def main() -> int:
    with Path(os.environ["LETTA_OPS_ENVIRONMENT_FILE"]).open() as source:
        password = json.load(source)["environment"]["LETTA_SERVER_PASSWORD"]
    headers = {"Authorization": f"Bearer {password}"}
    for path in ("/v1/health/", "/v1/agents/?limit=1"):
        if reason := failure(urllib.request.Request(SERVER + path, headers=headers)):  # noqa: S310
            print(f"{path}: {reason}")
            return 1
    return 0


def failure(request: urllib.request.Request) -> str | None:
    """Return why the request got no good answer; what the server answered is not repeated."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=SECONDS) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        return f"HTTP status {error.code}"
    except OSError as error:
        return str(getattr(error, "reason", error))
    return None


if __name__ == "__main__":
    sys.exit(main())
