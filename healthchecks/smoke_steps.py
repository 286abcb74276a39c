"""What the steps of the smoke test do; each returns what it saw, or raises LettaOpsError."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from healthchecks import smoke_cleanup
from healthchecks.facts import running_version
from infra.errors import LettaOpsError
from infra.servers import is_ours
from infra.stack.deployment import Deployment
from infra.stack.releases import release_number

if TYPE_CHECKING:
    from letta_client import Letta

MODEL_FAILED = "model-failed"  # the error of a step at which a model is to blame, not the server
LABEL = smoke_cleanup.LABEL
NO_STREAMS = 503
NO_REDIS = (
    "streams in the background are refused (503): the server found no Redis when it started, and Letta"
    " Code can't work with it"
)
# Letta's own hosted models: listed by every server, whether or not anyone may use them.
HOSTED = "letta/"
# The tools that edit a block, the most usual first, and what they call the text: an agent has one of
# them, and its releases have other names for it.
MEMORY_TOOLS = {"memory_insert": ("new_string", "new_str"), "core_memory_append": ("content",)}
FAILED_TURNS = (
    "error", "llm_api_error", "invalid_llm_response", "invalid_tool_call", "cancelled",
)  # fmt: skip
HANDLES_SINCE = (0, 16, 7)  # before, a server refuses some of the handles that it lists
DIMENSION = 1536  # of OpenAI's smaller embedding, and of those that take its place
MEMORY_ATTEMPTS = 2  # a real model may chat instead of calling a tool; twice is no accident
SENTENCES = (
    "The lighthouse keeper of the smoke test paints his boat yellow every spring.",
    "Quarterly figures are due on the last working day of each quarter.",
)


@dataclass
class SmokeRun:
    """One run of the smoke test: what it was given, and what it knows after each step.

    `name` is the agent's, and unique: the agent is found by it when an answer got lost. `asked`
    is set just before the server is asked to make it.
    """

    deployment: Deployment
    name: str
    model: str | None
    embedding: str | None
    asked: bool = False
    agent: Any = None
    leftovers: str = ""


def create(client: Letta, run: SmokeRun) -> str:
    """Remove what killed runs left, choose the models, and make an agent with one memory block."""
    removed = smoke_cleanup.sweep(client, run)
    settings = run.deployment.model
    model = run.model or settings.handle or _first(_handles(client.models.list()))
    if model is None:
        raise _model_failure(
            "the server lists no language model; it asks its providers when it starts, so one that"
            " was down then is missing until the next start"
        )
    embedding = run.embedding or settings.embedding
    embedding = embedding or _first(_handles(client.models.embeddings.list()))
    run.agent = _make(client, run, model, embedding)
    detail = f"{run.agent.id} with {model}, {embedding or 'no embedding model'}"
    return f"{detail}; removed {removed} left by earlier runs" if removed else detail


def _make(client: Letta, run: SmokeRun, model: str, embedding: str | None) -> Any:
    import letta_client

    given: dict[str, Any] = {
        "name": run.name,
        "memory_blocks": [{"label": LABEL, "value": "Nothing yet."}],
        "tags": [smoke_cleanup.TAG],
    }
    models = _configured(client, run, model, embedding) or {"model": model, "embedding": embedding}
    run.asked = True
    try:
        return client.agents.create(**models, **given)
    except (letta_client.BadRequestError, letta_client.NotFoundError) as error:
        run.asked = False  # refused: there is nothing to look for and to delete
        chats = ", ".join(_handles(client.models.list()))
        embeddings = ", ".join(_handles(client.models.embeddings.list()))
        raise _model_failure(
            f"no agent can be made with {model} and {embedding or 'no embedding'}"
            f" ({error.status_code}); the server lists {chats or 'no model'}"
            f" and the embeddings {embeddings or '(none)'}"
        ) from None


def _configured(
    client: Letta, run: SmokeRun, model: str, embedding: str | None
) -> dict[str, Any] | None:
    """The models as whole configurations: before 0.16, a server takes no handle of `openai-proxy`, which
    it lists itself, and lists no embedding of that one. None for others, and where `model` is not
    listed."""
    if release_number(running_version(run.deployment)) >= HANDLES_SINCE:
        return None
    listed = next((each for each in client.models.list() if each.handle == model), None)
    if listed is None:
        return None
    found: dict[str, Any] = {"llm_config": listed.model_dump(by_alias=True, exclude_none=True)}
    known = {each.handle: each for each in client.models.embeddings.list()}
    if embedding in known:
        found["embedding_config"] = known[embedding].model_dump(by_alias=True, exclude_none=True)
    elif embedding is not None:
        found["embedding_config"] = {
            "handle": embedding,
            "embedding_model": embedding.rpartition("/")[2],
            "embedding_endpoint_type": "openai",
            "embedding_endpoint": listed.api_model_endpoint,
            "embedding_dim": DIMENSION,
            "embedding_chunk_size": 300,
        }
    return found


def message(client: Letta, run: SmokeRun) -> str:
    """Send a message; there must be words in the answer."""
    answer = _say(client, run, "Hello! This is a test. Please answer in one short sentence.")
    if not answer:
        raise _failure("the agent ended its turn without an answer")
    return f"answered: {_short(answer)}"


def stream(client: Letta, run: SmokeRun) -> str:
    """Let a turn run in the background, hang up at its first words, come back and hear it to its end.

    A server offers that only where it found a Redis; some clients send no message without.
    """
    import letta_client

    said: Any = [{"role": "user", "content": "Hello again! Please answer in one short sentence."}]
    try:
        with client.agents.messages.stream(run.agent.id, messages=said, background=True) as heard:
            named = (getattr(part, "run_id", None) for part in heard)
            run_id = next((found for found in named if found), None)
    except letta_client.InternalServerError as error:
        if error.status_code != NO_STREAMS:
            raise
        if not is_ours(run.deployment):
            return "the server offers no streams in the background: it has no Redis"
        raise _failure(NO_REDIS) from None
    if run_id is None:
        raise _failure("nothing that was streamed names its run")
    parts = list(client.runs.messages.stream(run_id, starting_after=0))
    reason = next((part.stop_reason for part in parts if part.message_type == "stop_reason"), None)
    if reason is None or reason in FAILED_TURNS:
        raise _failure(f"a turn in the background ended with {reason or 'nothing'}")
    return f"hung up and came back to a turn in the background: {len(parts)} parts"


def edit_memory(client: Letta, run: SmokeRun) -> str:
    """Have the agent call a tool that edits its block, then read the block, past the agent."""
    offered = {tool.name: tool.json_schema or {} for tool in run.agent.tools}
    tool = next((name for name in MEMORY_TOOLS if name in offered), None)
    if tool is None:
        raise _failure(
            f"the agent has no tool that edits memory, only {', '.join(sorted(offered))}"
        )
    marker = f"smoke-{run.name.removeprefix(smoke_cleanup.PREFIX)}"
    known = offered[tool].get("parameters", {}).get("properties", {})
    names = MEMORY_TOOLS[tool]
    text = next((name for name in names if name in known), names[0])
    arguments = json.dumps({"label": LABEL, text: marker})
    order = (
        f"Please remember something for me: call {tool} {arguments} now, with exactly these"
        " arguments. Then tell me that it is done."
    )
    answer = ""
    for attempt in range(1, MEMORY_ATTEMPTS + 1):
        answer = _say(client, run, order)
        value = client.agents.blocks.retrieve(LABEL, agent_id=run.agent.id).value
        if marker in value:
            tries = "" if attempt == 1 else f", at attempt {attempt}"
            return f"{tool} wrote {marker} into the block{tries}"
    raise _failure(
        f"asked to call {tool}, the agent left its block alone, and said: {_short(answer)}"
    )


def use_archival_memory(client: Letta, run: SmokeRun) -> str:
    """Insert two passages and search for one in its own words: it must come first.

    Also with an embedding that knows no meaning: the same text has the same vector.
    """
    import letta_client

    passages = client.agents.passages
    try:
        for sentence in SENTENCES:
            passages.create(run.agent.id, text=sentence)
    except letta_client.APIError as error:
        if not run.agent.embedding_config:
            raise
        raise _model_failure(
            f"no passage can be inserted; is the embedding there? {error}"
        ) from None
    wanted = SENTENCES[0]
    found = passages.search(run.agent.id, query=wanted, top_k=len(SENTENCES)).results
    if not found or found[0].content != wanted:
        seen = _short(found[0].content) if found else "nothing"
        raise _failure(f"searched for a passage in its own words, and first found: {seen}")
    how = "by vector" if run.agent.embedding_config else "by words: there is no embedding model"
    return f"inserted {len(SENTENCES)} passages, found the right one {how}"


def export(client: Letta, run: SmokeRun) -> str:
    """Export the agent; the file must hold it, by name."""
    text = client.agents.export_file(run.agent.id)
    content = json.loads(text) if isinstance(text, str) else text
    names = [agent.get("name") for agent in content.get("agents", [])]
    if run.name not in names:
        raise _failure(f"the exported file holds no agent of that name, but: {names}")
    size = len(text) if isinstance(text, str) else len(json.dumps(text))
    return f"an agent file of {size} characters"


def _say(client: Letta, run: SmokeRun, text: str) -> str:
    """Send `text` and return the words of the answer; a turn that ends in an error is a failure."""
    response = client.agents.messages.create(
        run.agent.id, messages=[{"role": "user", "content": text}]
    )
    reason = response.stop_reason.stop_reason
    if reason in FAILED_TURNS:
        raise _failure(f"the agent's turn ended with {reason}")
    parts = [
        _text(getattr(part, "content", ""))
        for part in response.messages
        if part.message_type == "assistant_message"
    ]
    return "\n".join(parts).strip()


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return " ".join(getattr(part, "text", "") or "" for part in content or [])


def _handles(models: Iterable[Any]) -> list[str]:
    return [model.handle for model in models if model.handle]


def _first(handles: list[str]) -> str | None:
    return next((handle for handle in handles if not handle.startswith(HOSTED)), None)


def _short(text: str, limit: int = 80) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[:limit]}..."


def _failure(detail: str) -> LettaOpsError:
    return LettaOpsError("smoke-failed", detail, "run `letta-ops check`, look at the server's log")


def _model_failure(detail: str) -> LettaOpsError:
    hint = "see that the models' endpoints answer: `letta-ops check`"
    return LettaOpsError(MODEL_FAILED, detail, hint)
