"""A hub with both modules of BiT-XS, built once a process, and a server for it."""

import contextlib
import threading
import time

import uvicorn

from hub_export.build import build
from hub_export.protocol import PatientProtocol
from hub_export.site import create_app

FEATURES = "bit/xs-r26x0.5/1"
CLASSIFIER = "bit/xs-r26x0.5/clipart_classification/1"
SERVING = "serving/xs-r26x0.5/clipart_classification/1"
_BUILT = {}


def built_hub(tmp_path_factory):
    """The folder; tests that change it copy it."""
    if "hub" not in _BUILT:
        hub = tmp_path_factory.mktemp("hub")
        build(tmp_path_factory.mktemp("no_weights"), hub, say=lambda text: None)
        _BUILT["hub"] = hub
    return _BUILT["hub"]


@contextlib.contextmanager
def serving(root):
    """Serves a hub as `python -m hub_export.serve` does; gives its address."""
    config = uvicorn.Config(
        create_app(root), port=0, http=PatientProtocol, log_level="error", limit_concurrency=512
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)
