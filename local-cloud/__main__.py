"""Runs the local cloud: `python local-cloud LOCK_FILE attached|detached`.

It locks LOCK_FILE while it runs. Other processes check the lock to see whether a process ID in a
file still belongs to the local cloud. With "attached" it ends when standard input ends, because
then the process that started it has ended. It kills its process group: MiniStack and its Lambda
processes.
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

del sys.argv[1:]  # MiniStack would read them

# Imported after the lock is taken, because the import takes about a second.
from ministack import app  # noqa: E402

import stepward_local_cloud  # noqa: E402
from stepward_local_cloud import command_node  # noqa: E402

command_node.lock_file = lock
for addition in stepward_local_cloud.additions():
    addition.install()
app.main()
