"""Lambda: a separate process unpacks a function's code, so that the function can always start.

Linux does not execute a file that any process has open for writing (ETXTBSY, "Text file busy").
While MiniStack unpacks a function's code, other threads start processes: for a command of Run
Command, or for a Python function. Such a process inherits the open file and keeps it until it
executes its own program. By then MiniStack may have closed the file and started the function.
Neither a rename nor close-on-exec prevents this, and MiniStack's own lock covers only the processes
of `provided` functions. A process that only unpacks the code starts no other processes, so no
process inherits its files.
"""

import inspect
import subprocess
import sys
import zipfile

from ministack.services import lambda_svc

EXTRACT = lambda_svc._extract_zip_preserving_mode.__name__
UNPACK = f"""
import io, os, sys, zipfile
{inspect.getsource(lambda_svc._extract_zip_preserving_mode)}
{EXTRACT}(zipfile.ZipFile(io.BytesIO(sys.stdin.buffer.read())), sys.argv[1])
"""


def unpack(archive, directory):
    archive.fp.seek(0)
    # Without the user's site packages Python starts in half the time.
    command = [sys.executable, "-I", "-S", "-c", UNPACK, directory]
    ended = subprocess.run(command, input=archive.fp.read(), capture_output=True, check=False)
    if ended.returncode != 0:
        raise zipfile.BadZipFile(
            f"unpacking into {directory} failed: {ended.stderr.decode(errors='replace').strip()}"
        )


def install():
    lambda_svc._extract_zip_preserving_mode = unpack
