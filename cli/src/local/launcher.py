"""Runs MiniStack for `stepward`: usage `python launcher.py LOCK_FILE attached|detached`.

What MiniStack alone does not do:
- LOCK_FILE stays locked while it runs, so a process ID read from a file is known to be still ours.
- "attached": when standard input ends (whoever started it is gone, however it went), the whole process group ends with
  it: MiniStack and the Lambda processes that it started.
- Its execution history says which event came before which, and what happens inside a Map, as that of AWS does:
  https://docs.aws.amazon.com/step-functions/latest/apireference/API_HistoryEvent.html
The last leans on names that are private to MiniStack 1.5.33; with another version it fails at start, not silently.
What MiniStack decides by IAM is left as it is: tests of the boundary rest on it.
"""

import contextvars
import fcntl
import json
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
    # Unpacked functions, hundreds of megabytes.
    shutil.rmtree(os.environ["TMPDIR"], ignore_errors=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if sys.argv[2] == "attached":
    threading.Thread(target=end_with_starter, daemon=True).start()

del sys.argv[1:]

from ministack.app import main  # noqa: E402
from ministack.services import stepfunctions as sfn  # noqa: E402


# MiniStack runs every item of a Map in a copy of its context, so these follow the branches by themselves.
before = contextvars.ContextVar("before", default=0)
iteration = contextvars.ContextVar("iteration", default=None)
writing = threading.Lock()

add_event = sfn._add_event
run_sub_machine = sfn._run_sub_machine
execute_task = sfn._execute_task


def add_linked_event(execution, kind, details=None):
    with writing:
        previous = before.get() if execution["events"] else 0
        event = add_event(execution, kind, {"previousEventId": previous, **(details or {})})
    before.set(event["id"])
    return event


def run_recorded_sub_machine(states, start_at, input_data, execution, ctx):
    item = (ctx.get("Map") or {}).get("Item")
    if item is None or iteration.get() is item:  # a branch of a Parallel
        return run_sub_machine(states, start_at, input_data, execution, ctx)
    iteration.set(item)
    about = {"name": ctx["State"]["Name"], "index": item["Index"]}
    add_linked_event(execution, "MapIterationStarted", {"mapIterationStartedEventDetails": about})
    try:
        output = run_sub_machine(states, start_at, input_data, execution, ctx)
    except Exception:
        add_linked_event(execution, "MapIterationFailed", {"mapIterationFailedEventDetails": about})
        raise
    add_linked_event(execution, "MapIterationSucceeded", {"mapIterationSucceededEventDetails": about})
    return output


def execute_recorded_task(state_def, raw_input, execution, ctx):
    if iteration.get() is None:  # outside a Map, MiniStack records the state itself
        return execute_task(state_def, raw_input, execution, ctx)
    name = ctx["State"]["Name"]
    entered = {"name": name, "input": json.dumps(raw_input)}
    add_linked_event(execution, "TaskStateEntered", {"stateEnteredEventDetails": entered})
    output, following = execute_task(state_def, raw_input, execution, ctx)
    exited = {"name": name, "output": json.dumps(output)}
    add_linked_event(execution, "TaskStateExited", {"stateExitedEventDetails": exited})
    return output, following


sfn._add_event = add_linked_event
sfn._run_sub_machine = run_recorded_sub_machine
sfn._execute_task = execute_recorded_task

main()
