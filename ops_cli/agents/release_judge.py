"""The judge of a Letta release, asked: beside the server, else with a release that is installed here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import LettaOpsError
from infra.files import is_made
from infra.process import Finished, attempt, command
from infra.stack.deployment import Deployment
from infra.stack.locations import cache_folder
from infra.targets import host
from ops_cli.agents.inside import judge as script
from ops_cli.agents.reading import Path as Place
from ops_cli.agents.reading import where

SECONDS = 300.0
SECRET = {"secrets", "tool_exec_environment_variables", "token", "custom_headers"}
KINDS = {
    dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a number",
    float: "a number", type(None): "null",
}  # fmt: skip
WANTED = {
    "string_type": "a text", "list_type": "a list", "dict_type": "an object",
    "bool_type": "true or false", "model_type": "an object", "model_attributes_type": "an object",
    "int_type": "a whole number",
    "float_type": "a number", "datetime_type": "a date with a time", "string_sub_type": "a text",
}  # fmt: skip
SAID = {
    "extra_forbidden": "is not a key that may stand there",
    "union_tag_not_found": "does not say its type",
}


@dataclass(frozen=True)
class Verdict:
    """`problems` of each file that was asked about, in words; `release` is whose judge it was."""

    release: str
    problems: tuple[tuple[str, ...], ...]


def ask(deployment: Deployment, contents: Sequence[dict[str, Any]]) -> Verdict | None:
    """Let the release's own schema look at agent files; None where no release is within reach.

    Raises LettaOpsError: `agent-judge-failed`.
    """
    source = Path(script.__file__).read_text(encoding="utf-8")
    question = json.dumps(contents)
    try:
        done = host(deployment).ask_server(source, question, SECONDS)
    except LettaOpsError as error:
        if error.code not in ("not-provisioned", "server-not-running"):
            raise
        interpreter = _installed()
        if interpreter is None:
            return None
        done = _here(interpreter, question)
    if done.returncode != 0:
        raise _failed(done)
    try:
        answer = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, LookupError):
        raise _failed(done) from None
    told = zip(contents, answer["files"], strict=True)
    return Verdict(answer["release"], tuple(tuple(in_words(*each)) for each in told))


def in_words(content: dict[str, Any], errors: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Say of each error, which is pydantic's, where in `content` it is and what is wanted there."""
    choices: dict[Place, list[tuple[Place, dict[str, Any]]]] = {}
    for error in errors:
        fork, place = _places(content, error)
        choices.setdefault(fork, []).append((place, error))
    tools = False
    for fork, found in choices.items():
        # Below a choice every branch complains; the one that got deepest is the one that is meant.
        deepest = max(len(place) for place, _ in found)
        said: dict[str, None] = {}
        for place, error in found:
            if fork == place or len(place) == deepest:
                said[_sentence(content, place, error)] = None
        yield from said
        tools = tools or (fork[:1] == ("sources",) and _looks_like_tool(content, fork[:2]))
    if tools:
        yield "what stands in sources looks like tools: move it to tools"


def _places(content: Any, error: dict[str, Any]) -> tuple[Place, Place]:
    """Where the error is, and where the way there first led through a choice (else the same).

    pydantic's locations hold the names of branches beside those of keys.
    """
    place: Place = ()
    fork: Place | None = None
    value = content
    parts = error["loc"]
    for number, part in enumerate(parts):
        known = isinstance(value, dict) and isinstance(part, str) and part in value
        if known or (isinstance(value, list) and isinstance(part, int) and part < len(value)):
            value = value[part]
            place = (*place, part)
        elif number == len(parts) - 1 and error["type"] in ("missing", "not_null"):
            place = (*place, part)
        elif fork is None:
            fork = place
    return (place if fork is None else fork), place


def _sentence(content: Any, place: Place, error: dict[str, Any]) -> str:
    path = where(place)
    kind, allowed = error["type"], error["expected"]
    if not path or kind == "missing":
        return f"{path} is missing" if path else str(error["message"])
    value = "..." if SECRET & set(place) or kind == "not_null" else _at(content, place)
    if kind in WANTED:
        said = f"is {KINDS[type(value)]}, {WANTED[kind]} is wanted"
    elif kind == "union_tag_invalid":
        said = f"has the type {error['tag']!r}; allowed: {allowed}"
    elif kind in ("enum", "literal_error"):
        said = f"is {_short(value)}; allowed: {allowed}"
    elif kind in SAID:
        said = SAID[kind]
    elif kind == "not_null":
        said = f"is missing, or empty: {error['message']}"
    else:
        message = str(error["message"]).removeprefix("Value error, ")
        is_container = isinstance(value, (dict, list))
        said = f"can't be taken: {message}" if is_container else f"is {_short(value)}: {message}"
    return f"{path} {said}"


def _at(content: Any, place: Place) -> Any:
    for part in place:
        content = content[part]
    return content


def _short(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return KINDS[type(value)]
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _looks_like_tool(content: dict[str, Any], place: Place) -> bool:
    entry = _at(content, place) if len(place) == 2 else None
    return isinstance(entry, dict) and bool({"source_code", "json_schema"} & entry.keys())


def _installed() -> Path | None:
    """The interpreter of the newest release that is installed on this machine."""
    folders = [each for each in (cache_folder() / "releases").glob("letta-*-*") if is_made(each)]
    newest = max(folders, key=_version, default=None)
    return newest and newest / "venv" / "bin" / "python"


def _version(folder: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", folder.name.split("-")[1]))


def _here(interpreter: Path, question: str) -> Finished:
    job = command(
        interpreter, "-I", script.__file__, environment={}, directory=Path("/"), stdin=f"{question}\n",
        timeout=SECONDS,
    )  # fmt: skip
    return attempt(job, code="agent-judge-failed", hint=HINT, what="judging the agent file")


HINT = "look at the line above; if the file is very large, import its agents one by one"


def _failed(done: Finished) -> LettaOpsError:
    last = (done.stderr or done.stdout).strip().splitlines()[-1:]
    return LettaOpsError(
        "agent-judge-failed",
        f"the release's own check of the file ended with {done.returncode}: {' '.join(last)[:300]}",
        HINT,
    )
