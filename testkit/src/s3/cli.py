"""Runs `aws` commands in one process, because the AWS CLI takes half a second to start.

Usage: `python cli.py`. Requests are JSON lines on standard input, responses are JSON lines on
standard output. The program ends when standard input ends.
"""

import io
import json
import mimetypes
import os
import sys

responses = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)

# Use only Python's own table of content types, so that the result is the same on every machine.
mimetypes.knownfiles.clear()

from awscli.clidriver import create_clidriver  # noqa: E402


def run(arguments):
    captured = [
        io.TextIOWrapper(io.BytesIO(), "utf-8", "surrogateescape", newline="") for _ in range(2)
    ]
    original = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = captured
    try:
        status = create_clidriver().main(arguments)
    except SystemExit as exit:
        status = exit.code
    finally:
        sys.stdout, sys.stderr = original
    for stream in captured:
        stream.flush()
    stdout, stderr = (stream.buffer.getvalue().decode("utf-8", "replace") for stream in captured)
    return {"status": status, "stdout": stdout, "stderr": stderr}


for line in sys.stdin:
    request = json.loads(line)
    os.chdir(request["directory"])
    responses.write(json.dumps(run(request["arguments"])) + "\n")
