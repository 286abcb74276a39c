"""The gRPC service of the stand-in: `pulumirpc.ResourceProvider`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import grpc  # type: ignore[import-untyped]  # grpcio carries no types
from google.protobuf import (  # type: ignore[import-untyped]  # protobuf carries no types
    any_pb2,
    empty_pb2,
)
from google.rpc import status_pb2  # type: ignore[import-untyped]  # carries no types
from pulumi.runtime.proto import plugin_pb2, provider_pb2, provider_pb2_grpc

from docker_plugin.check import failures, with_defaults
from docker_plugin.difference import difference, drifted_inputs, updated
from docker_plugin.engine import Engine, InitializationError, ResourceError
from docker_plugin.properties import UNKNOWN, Properties, decode, encode, public
from docker_plugin.redaction import redacted
from docker_plugin.resource_types import TYPES, ResourceType

VERSION = "5.2.0"  # of the official plugin that this stands in for
CONFIGURATION = ("host", "version")
T = TypeVar("T")


class DockerProvider(provider_pb2_grpc.ResourceProviderServicer):
    """Answers the engine of Pulumi. What is not here is answered by "unimplemented".

    N802, ARG002: the service's definition gives the methods their names and arguments.
    """

    def __init__(self) -> None:
        self._engine = Engine()
        self._interrupted = threading.Event()

    def GetPluginInfo(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002
        return plugin_pb2.PluginInfo(version=VERSION)

    def CheckConfig(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002
        reason = "our stand-in for the docker plugin does not know this setting: leave it out, or"
        refused = [
            provider_pb2.CheckFailure(property=name, reason=f"{reason} install the official plugin")
            for name in decode(request.news)
            if name not in CONFIGURATION and not name.startswith("__")
        ]
        return provider_pb2.CheckResponse(inputs=request.news, failures=refused)

    def DiffConfig(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002
        # Another address of the engine never replaces what is there.
        old, new = decode(request.olds), decode(request.news)
        changed = [name for name in CONFIGURATION if old.get(name) != new.get(name)]
        return _diff_response(changed, [], delete_first=False)

    def Configure(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002
        host = decode(request.args).get("host") or request.variables.get("docker:config:host")
        self._engine = Engine(host, self._interrupted)
        return provider_pb2.ConfigureResponse(supportsPreview=True)

    def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        def work() -> Any:
            kind = TYPES.get(_type(request))
            if kind is None:
                reason = f"our stand-in for the docker plugin has no {_type(request)}"
                return provider_pb2.CheckResponse(
                    failures=[provider_pb2.CheckFailure(property="type", reason=reason)]
                )
            olds, name = decode(request.olds), request.urn.rpartition("::")[2]
            found = failures(kind.schema, news)
            if not found:
                news.update(with_defaults(kind.schema, news, olds, name, request.randomSeed))
            refused = [
                provider_pb2.CheckFailure(property=each.path, reason=each.reason) for each in found
            ]
            return provider_pb2.CheckResponse(inputs=encode(news), failures=refused)

        news = decode(request.news)
        return _answered(context, news, work)

    def Diff(self, request: Any, context: Any) -> Any:  # noqa: N802
        state, news = decode(request.olds), decode(request.news)

        def work() -> Any:
            old_inputs, ignored = decode(request.old_inputs), frozenset(request.ignoreChanges)
            found = difference(_kind(request).schema, state, old_inputs, news, ignored)
            return _diff_response(found.changed, found.replacing, delete_first=found.delete_first)

        return _answered(context, {**state, **news}, work)

    def Create(self, request: Any, context: Any) -> Any:  # noqa: N802
        inputs = public(decode(request.properties))

        def work() -> Any:
            kind = _kind(request)
            if request.preview:
                return provider_pb2.CreateResponse(properties=encode(_planned(kind, inputs)))
            try:
                identity, state = kind.create(self._engine, inputs)
            except InitializationError as error:
                _refuse_partly(context, error, self._state_of_failed(kind, error, inputs), inputs)
                raise
            properties = encode({**state, "id": identity})
            return provider_pb2.CreateResponse(id=identity, properties=properties)

        return _answered(context, inputs, work)

    def Read(self, request: Any, context: Any) -> Any:  # noqa: N802
        state, inputs = decode(request.properties), decode(request.inputs)

        def work() -> Any:
            kind = _kind(request)
            found = kind.read(self._engine, request.id, {**inputs, **state})
            if found is None:
                return provider_pb2.ReadResponse()
            properties = encode({**found, "id": request.id})
            drifted = encode(drifted_inputs(kind.schema, inputs, found))
            return provider_pb2.ReadResponse(id=request.id, properties=properties, inputs=drifted)

        return _answered(context, {**inputs, **state}, work)

    def Update(self, request: Any, context: Any) -> Any:  # noqa: N802
        state, inputs = decode(request.olds), public(decode(request.news))

        def work() -> Any:
            kind = _kind(request)
            if not request.preview:
                kind.update(self._engine, request.id, state, inputs)
            properties = encode(updated(kind.schema, state, inputs))
            return provider_pb2.UpdateResponse(properties=properties)

        return _answered(context, {**state, **inputs}, work)

    def Delete(self, request: Any, context: Any) -> Any:  # noqa: N802
        state = decode(request.properties)

        def work() -> Any:
            _kind(request).delete(self._engine, request.id, state)
            return empty_pb2.Empty()

        return _answered(context, state, work)

    def Cancel(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002
        self._interrupted.set()
        return empty_pb2.Empty()

    def Invoke(self, request: Any, context: Any) -> Any:  # noqa: N802
        message = f"our stand-in for the docker plugin has no function {request.tok}"
        context.abort(grpc.StatusCode.UNIMPLEMENTED, message)

    def _state_of_failed(
        self, kind: ResourceType, error: InitializationError, inputs: Properties
    ) -> Properties:
        try:
            found = kind.peek(self._engine, error.identity, inputs)
        except ResourceError:
            found = None
        return {**(found or inputs), "id": error.identity}


def _answered(context: Any, properties: Mapping[str, Any], work: Callable[[], T]) -> T:
    """Call `work`; refuse the call with one sentence, free of secrets, when it fails."""
    try:
        return work()
    except ResourceError as error:
        text = redacted(str(error), properties)
        context.abort(grpc.StatusCode.UNKNOWN, text)
    except Exception as error:
        if context.code() is not None:
            raise
        text = redacted(f"{type(error).__name__}: {error}", properties)
        context.abort(
            grpc.StatusCode.INTERNAL, f"our stand-in for the docker plugin failed: {text}"
        )
    raise AssertionError("abort does not return")


def _refuse_partly(
    context: Any, error: InitializationError, state: Properties, inputs: Properties
) -> None:
    """Attach to the refusal that the resource was made, so that it is kept in the state."""
    reason = redacted(str(error), inputs)
    detail = any_pb2.Any()
    detail.Pack(
        provider_pb2.ErrorResourceInitFailed(
            id=error.identity, properties=encode(state), reasons=[reason], inputs=encode(inputs)
        )
    )
    code = grpc.StatusCode.UNKNOWN.value[0]
    status = status_pb2.Status(code=code, message=reason, details=[detail])
    # grpc's own place for details (grpc.github.io, "Richer error model").
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))


def _planned(kind: ResourceType, inputs: Properties) -> Properties:
    """The outputs of a preview: what was asked for, and unknown what the engine decides."""
    decided = [name for name, known in kind.schema.fields.items() if known.computed]
    return dict.fromkeys((*decided, *kind.schema.outputs), UNKNOWN) | inputs


def _diff_response(changed: Any, replacing: Any, *, delete_first: bool) -> Any:
    some = provider_pb2.DiffResponse.DIFF_SOME
    none = provider_pb2.DiffResponse.DIFF_NONE
    return provider_pb2.DiffResponse(
        changes=some if changed or replacing else none,
        diffs=list(changed),
        replaces=list(replacing),
        deleteBeforeReplace=delete_first,
    )


def _type(request: Any) -> str:
    # urn:pulumi:STACK::PROJECT::PARENT$TYPE::NAME
    return str(request.urn.split("::")[2].rpartition("$")[2])


def _kind(request: Any) -> ResourceType:
    kind = TYPES.get(_type(request))
    if kind is None:
        raise ResourceError(f"our stand-in for the docker plugin has no {_type(request)}")
    return kind
