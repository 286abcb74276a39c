"""What a registry asks of a Letta server. An answer counts only when it is Letta's: anything else is
no answer, and never a reason to make an agent."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from letta_ops.registry.errors import ServerRefused, ServerUnavailable
from letta_ops.registry.links import MOVED_OUT, OF_KEY, TAG, UNFINISHED, Key, shown

if TYPE_CHECKING:
    import httpx

REQUEST_SECONDS, CONNECT_SECONDS = 30.0, 5.0
PAGE = 200
AGENTS = "/v1/agents/"
WHOLE = ("agent.blocks", "agent.tools", "agent.tags")
# Without being told, a server loads everything of every agent; older ones know the other word.
LISTED = {
    "limit": PAGE, "order": "asc", "show_hidden_agents": "true", "include": "agent.tags",
    "include_relationships": "tags",
}  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """A JSON answer of the server's."""

    status: int
    content: Any

    @property
    def detail(self) -> str:
        found = self.content.get("detail", "") if isinstance(self.content, Mapping) else ""
        return str(found)


class LettaServer:
    """A Letta server by its API. `client` is an HTTP client with its base URL and its password.

    Every method raises ServerUnavailable where nobody knows what is so, and ServerRefused where the
    server says that it won't.
    """

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._model: tuple[str, str | None] | None = None
        self._mutex = threading.Lock()

    @classmethod
    def at(
        cls, url: str, password: str | None = None, *, authority: str | None = None,
        seconds: float = REQUEST_SECONDS,
    ) -> LettaServer:  # fmt: skip
        """`authority` is a file with the certificates to trust; `seconds` is how long an answer may
        take."""
        import ssl

        import httpx

        if password is not None and not password.isprintable():
            raise ServerRefused(
                "the server's password has a line's end or another character that none can have",
                "leave it out: `echo -n`, or strip what is read from a file",
            )
        headers = {} if password is None else {"Authorization": f"Bearer {password}"}
        return cls(
            httpx.Client(
                base_url=url.rstrip("/"),
                headers=headers,
                timeout=httpx.Timeout(seconds, connect=CONNECT_SECONDS),
                # A server on loopback is never reached through a proxy of the environment.
                trust_env=urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1"),
                verify=ssl.create_default_context(cafile=authority) if authority else True,
            )
        )

    @property
    def url(self) -> str:
        """Without a name and a password that may stand in it."""
        return str(self._client.base_url.copy_with(username=None, password=None)).rstrip("/")

    def exists(self, agent: str) -> bool:
        """Whether the server has it: no only where Letta itself says so, of this very agent."""
        if agent.startswith(MOVED_OUT):
            return False
        answer = self._ask("GET", _path(agent))
        if answer.status == 404 and agent in answer.detail:
            return False
        if answer.status == 200 and _id(answer.content) == agent:
            return True
        raise self._not_letta(answer, f"whether there is {agent}")

    def agent(self, agent: str) -> Mapping[str, Any]:
        """All that the server says of an agent that is there, with blocks, tools and tags."""
        answer = self._ask("GET", _path(agent), params={"include": WHOLE})
        if answer.status == 200 and _id(answer.content) == agent:
            return dict(answer.content)
        raise self._not_letta(answer, f"of {agent}")

    def tagged(self, tag: str) -> list[Mapping[str, Any]]:
        """The agents with this tag, the oldest first."""
        answer = self._ask("GET", AGENTS, params={"tags": tag, **LISTED})
        if (
            answer.status == 200
            and isinstance(answer.content, list)
            and all(map(_id, answer.content))
        ):
            return [each for each in answer.content if tag in (each.get("tags") or ())]
        raise self._not_letta(answer, "which agents there are")

    def every(self) -> list[Mapping[str, Any]]:
        """All agents, the oldest first, page by page."""
        found: list[Mapping[str, Any]] = []
        while True:
            after = {"after": found[-1]["id"]} if found else {}
            answer = self._ask("GET", AGENTS, params={**LISTED, **after})
            page = answer.content
            if answer.status != 200 or not isinstance(page, list) or not all(map(_id, page)):
                raise self._not_letta(answer, "which agents there are")
            found += page
            if len(page) < PAGE:
                return found

    def create(self, body: Mapping[str, Any]) -> str:
        """Make an agent, and return its id."""
        answer = self._ask("POST", AGENTS, body=body)
        made = _id(answer.content)
        if answer.status in (200, 201) and made:
            return made
        raise self._not_letta(answer, "that it made an agent", under_way=True)

    def change(self, agent: str, body: Mapping[str, Any]) -> None:
        answer = self._ask("PATCH", _path(agent), body=body)
        if answer.status != 200 or _id(answer.content) != agent:
            raise self._not_letta(answer, f"that it changed {agent}")

    def mark(self, agent: str, key: Key | None) -> None:
        """Say in an agent for which id it is; for none, where `key` is None."""
        found = self.agent(agent)
        tags = [tag for tag in found.get("tags") or () if not tag.startswith((TAG, UNFINISHED))]
        metadata = {k: v for k, v in (found.get("metadata") or {}).items() if k != OF_KEY}
        if key is not None:
            tags, metadata = [*tags, key.tag], {**metadata, **key.metadata}
        self.change(agent, {"tags": tags, "metadata": metadata})

    def attach_tool(self, agent: str, name: str) -> None:
        self._done("PATCH", f"{_path(agent)}/tools/attach/{self._tool(name)}")

    def detach_tool(self, agent: str, name: str) -> None:
        self._done("PATCH", f"{_path(agent)}/tools/detach/{self._tool(name)}")

    def add_block(self, agent: str, block: Mapping[str, Any]) -> None:
        made = self._done("POST", "/v1/blocks/", block)
        self._done("PATCH", f"{_path(agent)}/core-memory/blocks/attach/{made.content['id']}")

    def change_block(self, agent: str, label: str, body: Mapping[str, Any]) -> None:
        path = f"{_path(agent)}/core-memory/blocks/{quote(label, safe='')}"
        self._done("PATCH", path, body)

    def delete(self, agent: str) -> None:
        """Delete an agent that was made by this very call: nobody knows of it yet."""
        self._ask("DELETE", _path(agent))

    def first_models(self) -> tuple[str, str | None]:
        """The models of an agent for which none is named: the first of each kind that the server lists
        and that isn't Letta's own hosted one."""
        with self._mutex:
            if self._model is None:
                models, embeddings = (
                    self._handles(path) for path in ("/v1/models/", "/v1/models/embedding")
                )
                if not models:
                    raise ServerRefused(
                        f"the server at {self.url} lists no language model",
                        "name one in the template (`model:`), or see to the server's providers",
                    )
                self._model = models[0], embeddings[0] if embeddings else None
            return self._model

    def close(self) -> None:
        self._client.close()

    def _tool(self, name: str) -> str:
        answer = self._ask("GET", "/v1/tools/", params={"names": name, "limit": PAGE})
        if answer.status != 200 or not isinstance(answer.content, list):
            raise self._not_letta(answer, "which tools there are")
        for each in answer.content:
            if each.get("name") == name:
                return str(each["id"])
        raise ServerRefused(
            f"the server at {self.url} has no tool {shown(name)}",
            "make it there, or correct the name",
        )

    def _done(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Answer:
        answer = self._ask(method, path, body=body)
        if answer.status not in (200, 201) or not isinstance(answer.content, Mapping):
            raise self._not_letta(answer, "that it did what was asked for")
        return answer

    def _handles(self, path: str) -> list[str]:
        answer = self._ask("GET", path)
        if answer.status != 200 or not isinstance(answer.content, list):
            raise self._not_letta(answer, "which models there are")
        handles = [each.get("handle") for each in answer.content if isinstance(each, Mapping)]
        return [each for each in handles if each and not each.startswith("letta/")]

    def _ask(self, method: str, path: str, *, params: Any = None, body: Any = None) -> Answer:
        import httpx

        changes = method != "GET"
        try:
            response = self._client.request(
                method, path, params=params, json=body, follow_redirects=False
            )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol) as error:
            raise self._unavailable(str(error), under_way=False) from None
        except (httpx.LocalProtocolError, httpx.InvalidURL):  # what it says may hold the password
            raise self._unavailable("the request can't be sent", under_way=False) from None
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise self._unavailable(reason, under_way=changes) from None
        if response.status_code == 204:
            return Answer(204, None)
        try:
            answer = Answer(response.status_code, response.json())
        except ValueError:
            raise self._unavailable(
                f"it answered {response.status_code} with something that is not Letta's:"
                f" {shown(response.text)}",
                under_way=changes,
            ) from None
        if answer.status in (401, 403):
            raise ServerRefused(
                f"the server at {self.url} refuses the password ({answer.status})",
                "give the server's password",
            )
        if answer.status >= 500:
            # A gateway's answers say nothing of what the server does behind it.
            raise self._unavailable(
                f"it answered {answer.status}: {answer.detail[:200]}",
                under_way=changes and answer.status != 500,
            )
        if method == "DELETE" and answer.status == 404:
            return answer  # so it was to be
        if 400 <= answer.status < 500 and changes:
            raise ServerRefused(
                f"the server refused ({answer.status}): {answer.detail[:500] or 'without a reason'}",
                "correct what was asked for; if it looks right, look at the server's log",
            )
        return answer

    def _unavailable(self, reason: str, *, under_way: bool) -> ServerUnavailable:
        return ServerUnavailable(
            f"the server at {self.url} is not available: {reason}",
            "see whether it runs (`letta-ops check`), then ask again; no second agent is made meanwhile",
            under_way=under_way,
        )

    def _not_letta(
        self, answer: Answer, what: str, *, under_way: bool = False
    ) -> ServerUnavailable:
        said = answer.detail or str(answer.content)
        return self._unavailable(
            f"its answer ({answer.status}: {shown(said)}) doesn't say {what}", under_way=under_way
        )


def _path(agent: str) -> str:
    return f"{AGENTS}{quote(agent, safe='')}"


def _id(content: Any) -> str:
    found = content.get("id") if isinstance(content, Mapping) else None
    return found if isinstance(found, str) and found.startswith("agent-") else ""
