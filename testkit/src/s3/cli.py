"""Runs `aws` commands in one process, because the AWS CLI takes half a second to start: usage `python cli.py`, requests
as JSON lines on standard input, answers as JSON lines on standard output. It ends when standard input does."""

import io
import json
import mimetypes
import os
import sys

answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)

# Python's own table of content types: the machine's would make runs differ.
mimetypes.knownfiles.clear()

from awscli.clidriver import create_clidriver  # noqa: E402


def run(arguments):
    said = [
        io.TextIOWrapper(io.BytesIO(), "utf-8", "surrogateescape", newline="") for _ in range(2)
    ]
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = said
    try:
        status = create_clidriver().main(arguments)
    except SystemExit as end:
        status = end.code
    finally:
        sys.stdout, sys.stderr = before
    for stream in said:
        stream.flush()
    out, err = (stream.buffer.getvalue().decode("utf-8", "replace") for stream in said)
    return {"status": status, "stdout": out, "stderr": err}


for line in sys.stdin:
    request = json.loads(line)
    os.chdir(request["directory"])
    answers.write(json.dumps(run(request["arguments"])) + "\n")
