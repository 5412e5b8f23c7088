"""Runs the local cloud: `python local-cloud LOCK_FILE attached|detached`.

It holds a lock on LOCK_FILE while it runs, so that a process ID read from a file is known to be still its own.
"attached" ends it when standard input ends: then the process that started it is gone, for whatever reason. The whole
process group ends, which is MiniStack and the Lambda processes that it started.
"""

import fcntl
import os
import shutil
import signal
import sys
import threading

lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)


def end_with_starter():
    while os.read(0, 4096):
        pass
    # The unpacked functions take hundreds of megabytes.
    shutil.rmtree(os.environ["TMPDIR"], ignore_errors=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if sys.argv[2] == "attached":
    threading.Thread(target=end_with_starter, daemon=True).start()

del sys.argv[1:]  # MiniStack reads them

# Imported after the lock is taken, because the import takes about a second.
from ministack import app  # noqa: E402

import stepward_local_cloud  # noqa: E402
from stepward_local_cloud import command_node  # noqa: E402

command_node.lock_file = lock
for addition in stepward_local_cloud.additions():
    addition.install()
app.main()
