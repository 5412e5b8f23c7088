"""Step Functions: histories with linked events, arguments of tasks, and events inside a Map.

https://docs.aws.amazon.com/step-functions/latest/apireference/API_HistoryEvent.html
"""

import contextvars
import json
import threading

from ministack.services import stepfunctions as sfn

# MiniStack runs each branch and each item of a Map in a copy of its context, so each has its own
# values.
previous_event_id = contextvars.ContextVar("previous_event_id", default=0)
map_item = contextvars.ContextVar("map_item", default=None)
task_arguments = contextvars.ContextVar("task_arguments", default=None)
writing = threading.Lock()

add_event = sfn._add_event
apply_arguments = sfn._apply_jsonata_arguments
run_sub_machine = sfn._run_sub_machine
execute_task = sfn._execute_task
fail_execution = sfn._fail_execution


def add_linked_event(execution, kind, details=None):
    with writing:
        if not is_running(execution) and not kind.startswith("Execution"):
            return execution["events"][-1]  # a branch still runs after its execution has ended
        previous = previous_event_id.get() if execution["events"] else 0
        arguments = task_arguments.get()
        if kind == "TaskScheduled" and arguments is not None:
            details["taskScheduledEventDetails"]["parameters"] = json.dumps(arguments)
            task_arguments.set(None)
        event = add_event(execution, kind, {"previousEventId": previous, **(details or {})})
    previous_event_id.set(event["id"])
    return event


def apply_recorded_arguments(state_def, raw_input, ctx=None):
    arguments = apply_arguments(state_def, raw_input, ctx)
    task_arguments.set(arguments)
    return arguments


def is_running(execution):
    return (execution or {}).get("status", "RUNNING") == "RUNNING"


def fail_running_execution(execution, error, cause):
    if is_running(execution):  # it may have been stopped in the meantime
        fail_execution(execution, error, cause)


def run_recorded_sub_machine(states, start_at, input_data, execution, ctx):
    item = (ctx.get("Map") or {}).get("Item")
    if item is None or map_item.get() is item:  # a branch of a Parallel
        return run_sub_machine(states, start_at, input_data, execution, ctx)
    map_item.set(item)
    iteration = {"name": ctx["State"]["Name"], "index": item["Index"]}
    add_linked_event(
        execution, "MapIterationStarted", {"mapIterationStartedEventDetails": iteration}
    )
    try:
        output = run_sub_machine(states, start_at, input_data, execution, ctx)
    except Exception:
        add_linked_event(
            execution, "MapIterationFailed", {"mapIterationFailedEventDetails": iteration}
        )
        raise
    add_linked_event(
        execution, "MapIterationSucceeded", {"mapIterationSucceededEventDetails": iteration}
    )
    return output


def execute_recorded_task(state_def, raw_input, execution, ctx):
    if not is_running(execution):  # no branch of a stopped execution calls another task
        raise sfn._ExecutionError("States.Runtime", "The execution was stopped")
    if map_item.get() is None:  # MiniStack records the states that are outside a Map
        return execute_task(state_def, raw_input, execution, ctx)
    name = ctx["State"]["Name"]
    entered = {"name": name, "input": json.dumps(raw_input)}
    add_linked_event(execution, "TaskStateEntered", {"stateEnteredEventDetails": entered})
    output, following = execute_task(state_def, raw_input, execution, ctx)
    exited = {"name": name, "output": json.dumps(output)}
    add_linked_event(execution, "TaskStateExited", {"stateExitedEventDetails": exited})
    return output, following


def install():
    sfn._add_event = add_linked_event
    sfn._apply_jsonata_arguments = apply_recorded_arguments
    sfn._fail_execution = fail_running_execution
    sfn._run_sub_machine = run_recorded_sub_machine
    sfn._execute_task = execute_recorded_task
