"""The process of the docker stand-in: serves `pulumirpc.ResourceProvider`, ending with its parent."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from orphan import end_with_parent

try:
    import grpc  # type: ignore[import-untyped]  # grpcio carries no types
    from docker_plugin.service import DockerProvider
    from pulumi.runtime._grpc_settings import _GRPC_CHANNEL_OPTIONS
    from pulumi.runtime.proto import provider_pb2_grpc
except ImportError as error:
    sys.exit(f"{sys.executable} cannot import what it needs: {error}\n  next: run make setup")

# The engine creates resources in parallel, and each may wait for its container to become healthy.
WORKERS = 32


def main() -> None:
    """Serve until the engine interrupts us or is gone. Prints the port, as every plugin does."""
    end_with_parent()
    # grpc logs a traceback for each refused call; the engine shows the refusal itself already.
    logging.getLogger("grpc").setLevel(logging.CRITICAL)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    server = grpc.server(ThreadPoolExecutor(max_workers=WORKERS), options=_GRPC_CHANNEL_OPTIONS)
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(DockerProvider(), server)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    stopped.wait()
    server.stop(0)
    # An ordinary exit would wait for the threads that still wait for a container.
    os._exit(0)


if __name__ == "__main__":
    main()
