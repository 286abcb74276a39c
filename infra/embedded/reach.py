"""Ask every configured model provider for its models, step by step, and say which step fails.

Run by the server's own interpreter, where the server runs, which has none of our packages: standard
library only. Reads the keys from the file that the server got them from, so that they pass through
nobody else. From stdin: one line of JSON, a list of `{"name", "kind", "url"}` to try without a key.
Prints one line of JSON, a list of `{"name", "url", "step", "failed", "detail", "models"}`; no secret
is in it.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

STEP_SECONDS = 5.0
ALL_SECONDS = 12.0
LARGEST_ANSWER = 10_000_000
VARIABLE = "LETTA_OPS_ENVIRONMENT_FILE"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE")

# Provider's kind -> where it is unless told otherwise, and what lists its models.
KINDS = {
    "openai": ("https://api.openai.com/v1", "/models"),
    "anthropic": ("https://api.anthropic.com/v1", "/models"),
    "ollama": ("", "/api/tags"),
    "vllm": ("", "/models"),
}


class FailedError(Exception):
    """One step failed: which, and why. The text holds no secret."""

    def __init__(self, step: str, reason: object) -> None:
        super().__init__(str(reason))
        self.step = step


def main() -> int:
    others = json.loads(sys.stdin.buffer.readline() or b"[]")
    with Path(os.environ[VARIABLE]).open() as source:
        environment = json.load(source)["environment"]
    for name in (*PROXIES, *(name.lower() for name in PROXIES)):
        if environment.get(name):
            os.environ[name] = environment[name]
    own = configured(environment)
    known = {plain(target["url"]) for target in own}
    print(
        json.dumps(examine([*own, *(each for each in others if plain(each["url"]) not in known)]))
    )
    return 0


def configured(environment: dict[str, str]) -> list[dict[str, str]]:
    """The providers that the server makes of its environment (letta/server/server.py, 0.16.8)."""
    found = []
    for kind, (usual, _) in KINDS.items():
        key = environment.get(f"{kind.upper()}_API_KEY", "")
        url = next(
            (
                environment[name]
                for name in (f"{kind.upper()}_BASE_URL", f"{kind.upper()}_API_BASE")
                if environment.get(name)
            ),
            usual,
        )
        if url and (key or not usual):
            found.append({"name": kind, "kind": kind, "url": url, "key": key})
    return found


def examine(targets: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Try all at once; one that gives no answer is told with the step at which it hangs."""
    results = [
        {"name": each["name"], "url": plain(each["url"]), "step": "dns", "failed": None,
         "detail": "", "models": None}
        for each in targets
    ]  # fmt: skip
    threads = [
        threading.Thread(target=ask, args=(target, result), daemon=True)
        for target, result in zip(targets, results, strict=True)
    ]
    deadline = time.monotonic() + ALL_SECONDS
    for thread in threads:
        thread.start()
    for thread, result in zip(threads, results, strict=True):
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            reason = f"no answer in {ALL_SECONDS:.0f} s"
            result.update(failed=result["step"], detail=reason)
    return [dict(result) for result in results]


def ask(target: dict[str, str], result: dict[str, Any]) -> None:
    try:
        take_steps(target, result)
    except FailedError as failure:
        result.update(step=failure.step, failed=failure.step, detail=str(failure))
    except Exception as error:  # noqa: BLE001  # a thread's death would look like success
        result.update(failed=result["step"], detail=type(error).__name__)


def take_steps(target: dict[str, str], result: dict[str, Any]) -> None:
    parts = urllib.parse.urlsplit(target["url"])
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise FailedError("dns", "the URL names no host")
    proxy = proxy_for(parts)
    access = proxy or parts
    host, port = access.hostname or "", access.port or (443 if access.scheme == "https" else 80)
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise FailedError("dns", f"{host}: {words(error)}") from None
    result["step"] = "tcp"
    context = trusting()
    with connected(addresses, f"{host} port {port}") as link:
        if access.scheme == "https" and not proxy:
            result["step"] = "tls"
            try:
                context.wrap_socket(link, server_hostname=host).close()
            except (OSError, ValueError) as error:
                raise FailedError("tls", words(error)) from None
    result["step"] = "http"
    body = fetch(target, parts, context, result)
    result["step"] = "models"
    if body is not None:
        result["models"] = count(body)


def connected(addresses: list[Any], place: str) -> socket.socket:
    last: object = "no address"
    for family, kind, protocol, _, address in addresses[:4]:
        link = socket.socket(family, kind, protocol)
        link.settimeout(STEP_SECONDS)
        try:
            link.connect(address)
        except OSError as error:
            link.close()
            last = words(error)
        else:
            return link
    raise FailedError("tcp", f"{place}: {last}")


def fetch(
    target: dict[str, str], parts: Any, context: ssl.SSLContext, result: dict[str, Any]
) -> bytes | None:
    """The list of models; None where it needs a key that only the server knows."""
    url, key = listing(target), target.get("key", "")
    request = urllib.request.Request(url, headers=headers(target, parts))  # noqa: S310  # checked
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(request, timeout=STEP_SECONDS) as answer:
            return bytes(answer.read(LARGEST_ANSWER))
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            if not key and target["kind"] not in KINDS:
                result["detail"] = "it wants a key, which only the server knows"
                return None
            raise FailedError("authentication", f"it refuses the key ({error.code})") from None
        step = "models" if 400 <= error.code < 500 and error.code != 407 else "http"
        raise FailedError(step, f"status {error.code} for GET {plain(url)}") from None
    except urllib.error.URLError as error:
        step = "tls" if isinstance(error.reason, ssl.SSLError) else "http"
        raise FailedError(step, words(error.reason)) from None
    except (OSError, ValueError) as error:
        raise FailedError("http", words(error)) from None


def listing(target: dict[str, str]) -> str:
    """Where the provider lists its models, as Letta asks for them; without user and password."""
    base = plain(target["url"])
    kind = target["kind"]
    if kind == "ollama":
        base = base.removesuffix("/v1")
    elif kind in ("vllm", "anthropic") and not base.endswith("/v1"):
        base += "/v1"
    return base + KINDS.get(kind, ("", "/models"))[1]


def headers(target: dict[str, str], parts: Any) -> dict[str, str]:
    found = {"User-Agent": "letta-ops", "Accept": "application/json"}
    key = target.get("key")
    if target["kind"] == "anthropic":
        found["anthropic-version"] = "2023-06-01"
        if key:
            found["x-api-key"] = key
    elif key:
        found["Authorization"] = f"Bearer {key}"
    if parts.username and "Authorization" not in found:
        pair = (
            f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        )
        found["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    return found


def count(body: bytes) -> int:
    try:
        document = json.loads(body)
        models = document.get("data", document.get("models"))
        return len(models)
    except (ValueError, AttributeError, TypeError):
        raise FailedError("models", "the answer is no list of models") from None


def proxy_for(parts: Any) -> Any:
    """The proxy through which the server would go there, or None."""
    proxies = urllib.request.getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    if not found or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return urllib.parse.urlsplit(found if "://" in found else f"http://{found}")


def trusting() -> ssl.SSLContext:
    """The authorities that Letta's clients trust: certifi's, unless SSL_CERT_FILE names others."""
    if os.environ.get("SSL_CERT_FILE"):
        return ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
    try:
        import certifi
    except ImportError:
        return ssl.create_default_context()
    return ssl.create_default_context(cafile=certifi.where())


def plain(url: str) -> str:
    """The URL without user, password, query and trailing slash: safe to show."""
    parts = urllib.parse.urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit((parts.scheme, place, parts.path.rstrip("/"), "", ""))


def words(error: object) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate isn't trusted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return f"no answer in {STEP_SECONDS:.0f} s"
    text = getattr(error, "strerror", None) or str(error)
    return str(text) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
