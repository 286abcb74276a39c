"""Judges agent files by the release's own schema and id checks, in the release's interpreter.

Reads a JSON list of the files' contents from stdin, in one line; writes one line of JSON: for each file
the errors, each with `loc` (pydantic's), `type`, `message` and what was `expected`. Standard library
and the release only.
"""

from __future__ import annotations

import functools
import gc
import importlib.abc
import importlib.machinery
import json
import os
import re
import sys
import tempfile
import types
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# Where memory runs short it is this program that has to go, not the server beside it.
with suppress(OSError):
    Path("/proc/self/oom_score_adj").write_text("1000")
# Importing the release must leave nothing behind: it writes its settings and a log into its home.
HOME = tempfile.TemporaryDirectory()
os.environ.update(MEMGPT_CONFIG_PATH="/dev/null", HOME=HOME.name)
# The judge and the schema name other services in signatures only, and they import the whole server.
JUDGE = "letta.services.agent_serialization_manager"
STUBBED = re.compile(r"letta\.services\.(\w+_manager|file_processor)(\..+)?")
AGENT = "agent-00000000-0000-4000-8000-000000000000"


def main() -> None:
    out, sys.stdout = sys.stdout, sys.stderr  # the release may print while it is imported
    contents = json.loads(sys.stdin.readline())  # nobody closes it where this runs in a container
    version = release_version()
    sys.meta_path.insert(0, Stubs())
    with quick_imports():
        judge = importlib.import_module(JUDGE)
    answer = {"release": version, "files": [judged(judge, content) for content in contents]}
    print(json.dumps(answer), file=out)


@contextmanager
def quick_imports() -> Iterator[None]:
    """Spare the imports a quarter of their time (measured): the collector looks again and again at what
    stays, and pydantic makes the schema of each class, of which a few are used: these then make theirs.
    """
    gc.disable()
    with suppress(ImportError, AttributeError):  # another pydantic's
        config = importlib.import_module("pydantic._internal._config")
        config.config_defaults["defer_build"] = True
    yield
    gc.freeze()  # nor does it look at them later
    gc.enable()


def release_version() -> str:
    from importlib.metadata import version

    return version("letta")


class Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Empty modules instead of the other services."""

    def find_spec(self, name: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        if STUBBED.fullmatch(name) and name != JUDGE:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda _: object  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def judged(judge: Any, content: dict[str, Any]) -> list[dict[str, Any]]:
    from pydantic import ValidationError

    try:
        parsed = judge.AgentFileSchema(**content)
        judge.AgentSerializationManager._validate_schema(Ids(judge), parsed)
    except ValidationError as error:
        return [told(each) for each in error.errors(include_url=False, include_input=False)]
    except Exception as error:  # the judge's own, and those of validators that raise others
        return list(blamed(judge, content)) or [plain(error)]
    return [*unmakeable(parsed), *without_a_value(parsed)]


def blamed(judge: Any, content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Whose fault it is where validators raised errors of their own, which end the validation."""
    from pydantic import ValidationError

    agents = content.get("agents")
    for number, agent in enumerate(agents if isinstance(agents, list) else []):
        given = {**agent, "messages": []} if isinstance(agent, dict) else {}
        wrong = {key: error for key in given if (error := raised_alone(judge, key, given[key]))}
        for key, error in wrong.items():
            yield plain(error, ("agents", number, key))
        try:
            judge.AgentSchema(**{key: value for key, value in given.items() if key not in wrong})
        except ValidationError as error:
            for each in error.errors(include_url=False, include_input=False):
                found = told(each)
                yield {**found, "loc": ["agents", number, *found["loc"]]}
        except Exception as error:
            yield plain(error, ("agents", number))


def raised_alone(judge: Any, key: str, value: Any) -> Exception | None:
    from pydantic import ValidationError

    try:
        judge.AgentSchema(**{"id": "agent-0", key: value})
    except ValidationError:
        return None
    except Exception as error:
        return error
    return None


def without_a_value(parsed: Any) -> Iterator[dict[str, Any]]:
    """What the database wants and the file leaves empty."""
    from letta import orm

    sections = {"blocks": "Block", "tools": "Tool", "sources": "Source", "mcp_servers": "MCPServer"}
    for section, name in sections.items():
        table = getattr(getattr(orm, name, None), "__table__", None)
        for number, entry in enumerate(getattr(parsed, section)):
            for column in table.columns if table is not None else ():
                given = column.key in type(entry).model_fields
                wanted = not column.nullable and column.key != "organization_id"  # the server's
                if given and wanted and getattr(entry, column.key) is None:
                    loc = (section, number, column.key)
                    yield {**plain(ValueError("the database wants it"), loc), "type": "not_null"}


class Ids:
    """What of the serialization manager looks at ids, without the services that it is made of."""

    def __init__(self, judge: Any) -> None:
        self.judge = judge

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.judge.AgentSerializationManager, name)
        return functools.partial(found, self)


def told(error: Any) -> dict[str, Any]:
    context = error.get("ctx") or {}
    expected = context.get("expected") or context.get("expected_tags")
    return {
        "loc": [part if isinstance(part, int) else str(part) for part in error["loc"]],
        "type": error["type"],
        "message": error["msg"],
        "expected": str(expected) if expected else None,
        "tag": str(context["tag"]) if "tag" in context else None,
    }


def plain(error: Exception, loc: tuple[str | int, ...] = ()) -> dict[str, Any]:
    return {"loc": list(loc), "type": "other", "message": str(error), "expected": None, "tag": None}


def unmakeable(parsed: Any) -> Iterator[dict[str, Any]]:
    """What the import makes of each part, made the same way: it fails here, not half-way there."""
    from pydantic import ValidationError

    for loc, make, data in made(parsed):
        try:
            make(**data)
        except ValidationError as error:
            for each in error.errors(include_url=False, include_input=False):
                found = told(each)
                yield {**found, "loc": [*loc, *found["loc"]]}
        except Exception as error:
            yield plain(error, loc)


def made(parsed: Any) -> Iterator[tuple[tuple[str | int, ...], Any, dict[str, Any]]]:
    from letta.schemas.agent import CreateAgent
    from letta.schemas.block import Block
    from letta.schemas.message import Message
    from letta.schemas.source import Source
    from letta.schemas.tool import Tool

    for number, agent in enumerate(parsed.agents):
        data = agent.model_dump(exclude={"id", "in_context_message_ids", "messages"})
        for key in ("tool_ids", "block_ids", "source_ids"):
            data[key] = []
        yield ("agents", number), CreateAgent, data
        for index, message in enumerate(agent.messages):
            data = message.model_dump(exclude={"id", "type"})
            yield ("agents", number, "messages", index), Message, {**data, "agent_id": AGENT}
    for number, block in enumerate(parsed.blocks):
        yield ("blocks", number), Block, block.model_dump(exclude={"id"})
    for number, tool in enumerate(parsed.tools):
        yield ("tools", number), Tool, tool.model_dump(exclude={"id"})
    for number, source in enumerate(parsed.sources):
        exclude = {"id", "embedding", "embedding_chunk_size"}
        yield ("sources", number), Source, source.model_dump(exclude=exclude)


if __name__ == "__main__":
    main()
