"""Runs moto for `cargo xtask moto`, on a free port of loopback.

The program reads one JSON object a line from standard input and writes one to standard output:

- It first writes `{"port": PORT}`.
- `{"step": …, "parameters": …, "stream": …, "files": …}` empties moto, creates the resources for an
  example of the step, and returns `{"parameters": …}`, with the IDs of the resources, or
  `{"error": …}`.
- `{"external_ids": […]}` sets the external IDs that the customer's roles require. Returns `{}`.
- `{}` returns `{"stubs": [API, …]}`: the APIs that the step called and that moto lacks.
"""

import json
import sys
from pathlib import Path
from threading import Thread

from botocore.exceptions import ClientError
from moto.core.config import default_user_config
from moto.moto_api import state_manager
from moto.moto_api._internal.models import moto_api_backend
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from scenes import SCENES, Scene
from stubs import Stubs
from werkzeug.serving import make_server

ACCOUNT, PEER, REGION = "222222222222", "333333333333", "eu-west-1"
# Without Docker, moto responds to an invocation with the function's input.
default_user_config["lambda"] = {"use_docker": False}


class QuietRequestHandler(MotoRequestHandler):
    """Logs errors only."""

    def log_request(self, code="-", size="-"):
        pass


def main():
    stubs = Stubs(DomainDispatcherApplication(create_backend_app), ACCOUNT, REGION)
    server = make_server("127.0.0.1", 0, stubs, True, request_handler=QuietRequestHandler)
    stubs.endpoint = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    respond({"port": server.server_port})
    for line in sys.stdin:
        request = json.loads(line)
        if not request:
            respond({"stubs": sorted(stubs.lacking)})
            continue
        if "external_ids" in request:
            stubs.external_ids = request["external_ids"]
            respond({})
            continue
        moto_api_backend.reset()
        state_manager.unset_transition("ecs::task")
        stubs.lacking.clear()
        stubs.stream = request["stream"]
        scene = Scene(stubs, ACCOUNT, PEER, Path(request["files"]), request["parameters"])
        scene.create_operator()
        try:
            respond({"parameters": SCENES[request["step"]](scene)})
        except (ClientError, KeyError) as error:
            respond({"error": f"{type(error).__name__}: {error}"})


def respond(response):
    print(json.dumps(response), flush=True)


main()
