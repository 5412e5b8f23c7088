"""Two servers for tests: MiniStack alone, and the local cloud. The first test of each starts it."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import boto3
import pytest
from botocore.config import Config

HERE = Path(__file__).parent.parent
sys.path.insert(0, str(HERE))

REGION = "eu-west-1"
OPERATOR = "111111111111"
START_LIMIT = 60  # seconds, on a busy machine
# It ends with its process group when standard input ends, as the local cloud does.
MINISTACK = """
import os, signal, threading
def end_with_starter():
    os.read(0, 1) or os.killpg(os.getpgrp(), signal.SIGKILL)
threading.Thread(target=end_with_starter, daemon=True).start()
import ministack.app
ministack.app.main()
"""


class Cloud:
    """A running server. An access key of 12 digits belongs to the root user of this account."""

    def __init__(self, arguments, directory):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.log = directory / "log"
        self.clients = {}
        temporary = directory / "tmp"
        temporary.mkdir()
        environment = {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "HOME": str(temporary),
            "TMPDIR": str(temporary),
            "LANG": "C.UTF-8",
            "AUTH": "true",
            "MINISTACK_ACCOUNT_ID": OPERATOR,
            "AWS_ENDPOINT_URL": self.endpoint,
            "GATEWAY_PORT": str(self.port),
            "BIND_HOST": "127.0.0.1",
            "SFTP_ENABLED": "0",
            "IOT_MTLS_ENABLED": "0",
            "DOCKER_HOST": f"unix://{temporary}/no-docker",
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                env=environment,
                cwd=directory,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_ready(self):
        until = time.monotonic() + START_LIMIT
        while time.monotonic() < until and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.endpoint}/_ministack/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"the server did not start:\n{self.log.read_text()[-2000:]}")

    def client(self, service, credentials=None):
        if credentials is None and service in self.clients:
            return self.clients[service]
        key = credentials or {
            "AccessKeyId": OPERATOR,
            "SecretAccessKey": "test",
            "SessionToken": None,
        }
        client = boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=key["AccessKeyId"],
            aws_secret_access_key=key["SecretAccessKey"],
            aws_session_token=key["SessionToken"],
            config=Config(retries={"total_max_attempts": 1}, parameter_validation=False),
        )
        if credentials is None:
            self.clients[service] = client
        return client

    def get(self, path):
        with urllib.request.urlopen(self.endpoint + path, timeout=5) as response:
            return response.read()

    def end(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def started(arguments, directory):
    cloud = Cloud(arguments, directory)
    try:
        cloud.wait_until_ready()
        yield cloud
    finally:
        cloud.end()


@pytest.fixture(scope="session")
def ministack(tmp_path_factory):
    yield from started(["-c", MINISTACK], tmp_path_factory.mktemp("ministack"))


@pytest.fixture(scope="session")
def local_cloud(tmp_path_factory):
    directory = tmp_path_factory.mktemp("local-cloud")
    yield from started([HERE, directory / "alive.lock", "attached"], directory)
