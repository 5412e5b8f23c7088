"""Starts functions while other threads start processes: `python unpack_race.py [with-addition]`.

Prints how many of the functions could not be started because their bootstrap was "Text file busy".
"""

import io
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

from ministack.core.lambda_runtime import ProvidedWorker

sys.path.insert(0, str(Path(__file__).parent.parent))

FUNCTIONS, FORKERS = 5, 8
# A process that has been forked and has not yet executed its program. On a busy machine that takes as long.
BEFORE_EXEC = 0.15
PADDING = "#" * (16 << 20)  # so that unpacking takes as long as it does with a function of Rust


def code(number):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bootstrap", f"#!/bin/sh\nexit {number}\n{PADDING}")
    return content.getvalue()


def start_processes(over):
    while not over.is_set():
        subprocess.run(["true"], preexec_fn=lambda: time.sleep(BEFORE_EXEC), check=True)


def start_error(number):
    name = f"function-{number}"
    config = {"FunctionName": name, "FunctionArn": f"arn:aws:lambda:eu-west-1:111111111111:function:{name}"}
    worker = ProvidedWorker(name, config, code(number))
    try:
        worker._spawn()
    except Exception as error:
        return str(error)
    raise AssertionError("a bootstrap that ends at once was started")


if sys.argv[1:] == ["with-addition"]:
    from stepward_local_cloud import function_code

    function_code.install()
over = threading.Event()
forkers = [threading.Thread(target=start_processes, args=[over], daemon=True) for _ in range(FORKERS)]
for forker in forkers:
    forker.start()
try:
    errors = [start_error(number) for number in range(FUNCTIONS)]
finally:
    over.set()
for forker in forkers:
    forker.join()
busy = [error for error in errors if "Text file busy" in error]
ended = [error for error in errors if "exited during init" in error]
assert len(busy) + len(ended) == FUNCTIONS, errors
print(len(busy))
