"""Starts functions while other threads start processes: `python unpack_race.py [with-addition]`.

Stops at the first function that cannot start because its bootstrap is "Text file busy", and prints
the number of such functions.
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

WITH_ADDITION = sys.argv[1:] == ["with-addition"]
# With MiniStack alone, one in five to ten functions is busy on an idle machine, and most are on a
# loaded one.
FUNCTIONS = 20 if WITH_ADDITION else 40
FORKERS = 8
# Seconds between the fork of a process and the execution of its program, as on a busy machine.
BEFORE_EXEC = 0.15
PADDING = "#" * (16 << 20)  # so that unpacking takes as long as with a Rust function


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
    config = {
        "FunctionName": name,
        "FunctionArn": f"arn:aws:lambda:eu-west-1:111111111111:function:{name}",
    }
    worker = ProvidedWorker(name, config, code(number))
    try:
        worker._spawn()
    except Exception as error:
        return str(error)
    raise AssertionError("a bootstrap that ends at once was started")


if WITH_ADDITION:
    from stepward_local_cloud import function_code

    function_code.install()
over = threading.Event()
forkers = [
    threading.Thread(target=start_processes, args=[over], daemon=True) for _ in range(FORKERS)
]
for forker in forkers:
    forker.start()
busy = 0
try:
    for number in range(FUNCTIONS):
        error = start_error(number)
        busy += "Text file busy" in error
        assert busy or "exited during init" in error, error
        if busy:
            break
finally:
    over.set()
for forker in forkers:
    forker.join()
print(busy)
