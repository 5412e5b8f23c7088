"""Step Functions of the local cloud: histories as AWS writes them, and distributed Maps in JSONata.

Histories: https://docs.aws.amazon.com/step-functions/latest/apireference/API_HistoryEvent.html

Distributed Maps: MiniStack's speak JSONPath only, write no results, and go on when their execution is stopped. From
https://docs.aws.amazon.com/step-functions/latest/dg/state-map-distributed.html and
https://docs.aws.amazon.com/step-functions/latest/dg/input-output-resultwriter.html. A child is an execution of its own,
which sees its input and nothing else of its parent, no variables
(https://docs.aws.amazon.com/step-functions/latest/dg/workflow-variables.html) and no context. Results in a bucket are
in the order in which the children ended.

What differs from AWS: without MaxConcurrency 64 children run at once; items are not batched; what reads the items and
writes the results is not checked against the role of the state machine.
"""

import contextvars
import json
import threading
from concurrent.futures import ThreadPoolExecutor, wait

from ministack.core.responses import new_uuid, now_iso
from ministack.services import s3
from ministack.services import stepfunctions as sfn

AT_ONCE = 64
LIMIT = 256 << 10  # bytes of a state's result
COUNTS = ["pending", "running", "succeeded", "failed", "timedOut", "aborted", "total", "resultsWritten"]


# --- Histories ---

# MiniStack runs every item of a Map in a copy of its context, so these follow the branches by themselves.
before = contextvars.ContextVar("before", default=0)
iteration = contextvars.ContextVar("iteration", default=None)
writing = threading.Lock()

add_event = sfn._add_event
run_sub_machine = sfn._run_sub_machine
execute_task = sfn._execute_task
fail_execution = sfn._fail_execution


def add_linked_event(execution, kind, details=None):
    with writing:
        if execution.get("status", "RUNNING") != "RUNNING" and not kind.startswith("Execution"):
            return execution["events"][-1]  # a branch of an execution that is over
        previous = before.get() if execution["events"] else 0
        event = add_event(execution, kind, {"previousEventId": previous, **(details or {})})
    before.set(event["id"])
    return event


def fail_running_execution(execution, error, cause):
    if execution["status"] == "RUNNING":  # not one that was stopped meanwhile
        fail_execution(execution, error, cause)


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
    if (execution or {}).get("status", "RUNNING") != "RUNNING":  # the branches of a stopped execution go no further
        raise sfn._ExecutionError("States.Runtime", "The execution was stopped")
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
sfn._fail_execution = fail_running_execution
sfn._run_sub_machine = run_recorded_sub_machine
sfn._execute_task = execute_recorded_task


# --- Distributed Maps ---

running = {}  # by ARN
stop_execution = sfn._stop_execution


class MapRun:
    def __init__(self, fields, processor, execution):
        self.fields, self.processor, self.execution = fields, processor, execution
        self.items = fields.items()
        _, _, _, region, account, _, machine = execution["stateMachineArn"].split(":")
        label = fields.state.get("Label") or new_uuid()
        self.name = f"{machine}/{label}"
        self.machine = f"arn:aws:states:{region}:{account}:stateMachine:{self.name}"
        self.id, self.changing = new_uuid(), threading.RLock()
        self.arn = f"arn:aws:states:{region}:{account}:mapRun:{self.name}:{self.id}"
        self.children = [None] * len(self.items)
        self.outputs = {}  # by child's ARN
        self.ended = []  # as they end
        self.error = None
        self.at_once = int(fields.number("MaxConcurrency", 0)) or AT_ONCE
        self.failures = {
            name: fields.number(name) for name in ("ToleratedFailureCount", "ToleratedFailurePercentage")
        }
        counts = dict.fromkeys(COUNTS, 0) | {"pending": len(self.items), "total": len(self.items)}
        self.record = {
            "mapRunArn": self.arn,
            "executionArn": execution["executionArn"],
            "status": "RUNNING",
            "startDate": now_iso(),
            "maxConcurrency": int(fields.number("MaxConcurrency", 0)),
            "toleratedFailurePercentage": self.failures["ToleratedFailurePercentage"] or 0,
            "toleratedFailureCount": int(self.failures["ToleratedFailureCount"] or 0),
            "itemCounts": dict(counts),
            "executionCounts": dict(counts),
            "redriveCount": 0,
            "_stateMachineArn": self.machine,
        }
        sfn._map_runs[self.arn] = self.record

    def run(self):
        with ThreadPoolExecutor(max_workers=max(1, min(self.at_once, len(self.items)))) as pool:
            every = range(len(self.items))
            wait([pool.submit(contextvars.copy_context().run, self.run_item, index) for index in every])
        with self.changing:
            if self.record["status"] == "RUNNING":
                self.end("SUCCEEDED")

    def run_item(self, index):
        with self.changing:
            if self.record["status"] != "RUNNING":
                return
            try:
                given = self.fields.item(index, self.items[index])
            except sfn._ExecutionError as error:
                self.error = error
                return self.end("FAILED")
            child = self.children[index] = self.begin(given)
        try:
            output = self.walk(child, given)
            if len(json.dumps(output)) > LIMIT:
                raise too_large(f"execution {child['name']}")
            self.end_child(child, "SUCCEEDED", output)
        except Exception as error:
            if not isinstance(error, sfn._ExecutionError):
                error = sfn._ExecutionError("States.Runtime", str(error))
            self.end_child(child, "FAILED", error=error)

    def begin(self, given):
        name = new_uuid()
        region, account = self.arn.split(":")[3:5]
        child = {
            "executionArn": f"arn:aws:states:{region}:{account}:execution:{self.name}:{name}",
            "stateMachineArn": self.machine,
            "name": name,
            "status": "RUNNING",
            "startDate": now_iso(),
            "stopDate": None,
            "input": json.dumps(given),
            "output": None,
            "mapRunArn": self.arn,
            "events": [],
            "testCase": self.execution.get("testCase"),
            "mockAttempts": {},
        }
        sfn._executions[child["executionArn"]] = child
        self.count("pending", "running")
        return child

    def walk(self, child, given):
        """Walks the states as MiniStack walks those of an execution."""
        iteration.set(None)
        role = (sfn._state_machines.get(self.execution["stateMachineArn"]) or {}).get("roleArn", "")
        started = {"input": child["input"], "roleArn": role}
        add_linked_event(child, "ExecutionStarted", {"executionStartedEventDetails": started})
        before.set(0)  # on AWS the first state comes after 0, not after 1
        ctx = {
            "QueryLanguage": self.processor.get("QueryLanguage") or self.fields.ctx.get("QueryLanguage", "JSONPath"),
            "Execution": {
                "Id": child["executionArn"],
                "Input": given,
                "Name": child["name"],
                "StartTime": child["startDate"],
            },
            "StateMachine": {"Id": self.machine, "Name": self.name},
            "variables": {},
        }
        name, data = self.processor.get("StartAt"), given
        while name and child["status"] == "RUNNING":
            state = self.processor["States"].get(name)
            if state is None:
                raise sfn._ExecutionError("States.Runtime", f"State '{name}' not found in definition")
            kind = state["Type"]
            ctx["State"] = {"Name": name, "EnteredTime": now_iso(), "RetryCount": 0}
            entered = {"name": name, "input": json.dumps(data)}
            add_linked_event(child, f"{kind}StateEntered", {"stateEnteredEventDetails": entered})
            if kind == "Fail":
                raise sfn._ExecutionError(*sfn._fail_state_error(state, data, ctx))
            if kind == "Succeed":
                following = None
                data = sfn._apply_output_path(state, sfn._apply_input_path(state, data, ctx), ctx)
            else:
                execute = getattr(sfn, f"_execute_{kind.lower()}")
                also = (child,) if kind in ("Task", "Parallel", "Map") else ()
                data, following = execute(state, data, *also, ctx)
            exited = {"name": name, "output": json.dumps(data)}
            add_linked_event(child, f"{kind}StateExited", {"stateExitedEventDetails": exited})
            name = following
        return data

    def end_child(self, child, status, output=None, error=None):
        with self.changing:
            if child["stopDate"] is None:
                child.update(status=status, stopDate=now_iso())
                if status == "SUCCEEDED":
                    child["output"] = json.dumps(output)
                    details = {"executionSucceededEventDetails": {"output": child["output"]}}
                    add_linked_event(child, "ExecutionSucceeded", details)
                elif status == "FAILED":
                    child.update(error=error.error, cause=error.cause)
                    details = {"executionFailedEventDetails": {"error": error.error, "cause": error.cause}}
                    add_linked_event(child, "ExecutionFailed", details)
                else:
                    add_linked_event(child, "ExecutionAborted", {"executionAbortedEventDetails": {}})
            # One that was stopped by itself comes by here too, when its state is over.
            if child["executionArn"] not in self.outputs:
                self.outputs[child["executionArn"]] = output
                self.ended.append(child)
                self.count("running", child["status"].lower())
            if self.record["status"] == "RUNNING" and self.too_many_failed():
                self.end("FAILED")

    def count(self, of, to):
        for counts in (self.record["itemCounts"], self.record["executionCounts"]):
            counts[of] -= 1
            counts[to] += 1

    def too_many_failed(self):
        failed = len(self.ended) - self.record["executionCounts"]["succeeded"]
        most, percent = self.failures.values()
        if most is None and percent is None:
            return failed > 0
        return (most is not None and failed > most) or (
            percent is not None and failed * 100 > percent * len(self.items)
        )

    def end(self, status):
        """No more children begin, and those that run are stopped."""
        self.record.update(status=status, stopDate=now_iso())
        for child in self.children:
            if child is not None and child["stopDate"] is None:
                abort_map_runs_of(child)
                self.end_child(child, "ABORTED")

    def abort(self):
        with self.changing:
            if self.record["status"] == "RUNNING":
                self.end("ABORTED")
                add_linked_event(self.execution, "MapRunAborted")

    def shape(self, child, how):
        """What is shown of a child: a list, because an output that is one may be flattened."""
        output = self.outputs[child["executionArn"]]
        if how == "NONE" or child["status"] != "SUCCEEDED":
            return [described(child)]
        return output if how == "FLATTEN" and isinstance(output, list) else [output]

    def state_result(self, config):
        how = config.get("Transformation", "COMPACT")
        result = [shown for child in self.children for shown in self.shape(child, how)]
        if len(json.dumps(result)) > LIMIT:
            raise too_large(f"state/task '{self.fields.ctx['State']['Name']}'")
        return "\n".join(map(json.dumps, result)) if config.get("OutputType") == "JSONL" else result

    def write(self, bucket, prefix, config):
        how, lines = config.get("Transformation", "NONE"), config.get("OutputType") == "JSONL"
        folder = "/".join(part for part in ((prefix or "").strip("/"), self.id) if part)
        pending = [item for item, child in zip(self.items, self.children) if child is None]
        kinds = {
            "FAILED": [],
            "PENDING": [{"Input": json.dumps(item), "InputDetails": {"Included": True}} for item in pending],
            "SUCCEEDED": [],
        }
        for child in self.ended:
            kinds["SUCCEEDED" if child["status"] == "SUCCEEDED" else "FAILED"] += self.shape(child, how)
        files = {kind: [] for kind in kinds}
        for kind, entries in kinds.items():
            if entries:
                key = f"{folder}/{kind}_0.{'jsonl' if lines else 'json'}"
                text = "\n".join(map(json.dumps, entries)) + "\n" if lines else json.dumps(entries)
                files[kind].append({"Key": key, "Size": len(put(bucket, key, text))})
        for counts in (self.record["itemCounts"], self.record["executionCounts"]):
            counts["resultsWritten"] = len(self.ended)
        key = f"{folder}/manifest.json"
        put(bucket, key, json.dumps({"DestinationBucket": bucket, "MapRunArn": self.arn, "ResultFiles": files}))
        return {"MapRunArn": self.arn, "ResultWriterDetails": {"Bucket": bucket, "Key": key}}


class Fields:
    """The fields of a Map state, in either query language."""

    def __init__(self, state, raw_input, effective, ctx):
        self.state, self.raw_input, self.effective, self.ctx = state, raw_input, effective, ctx
        self.jsonata = sfn._state_query_language(state, ctx) == "JSONata"

    def value(self, template, ctx=None):
        if self.jsonata:
            return sfn._apply_jsonata_template(template, self.raw_input, ctx or self.ctx)
        return sfn._resolve_params_obj(template, self.effective, ctx or self.ctx)

    def number(self, name, default=None):
        if self.jsonata and name in self.state:
            return sfn._jsonata_state_field(self.state, name, "number", self.raw_input, self.ctx)
        if f"{name}Path" in self.state:
            return sfn._resolve_path_or_ctx(self.state[f"{name}Path"], self.effective, self.ctx)
        return self.state.get(name, default)

    def arguments(self, field):
        return self.value(field.get("Arguments") or field.get("Parameters") or {})

    def items(self):
        reader = self.state.get("ItemReader")
        if self.state.get("ItemBatcher"):
            raise sfn._ExecutionError("States.Runtime", "The local cloud does not batch the items of a Map")
        if reader and self.jsonata:
            config = self.value(reader.get("ReaderConfig") or {})
            read = {**reader, "Parameters": self.arguments(reader), "ReaderConfig": config}
            items = sfn._read_map_items(read, self.effective, self.ctx)
        elif reader:
            items = sfn._read_map_items(reader, self.effective, self.ctx)
        elif self.jsonata and "Items" in self.state:
            items = sfn._jsonata_state_field(self.state, "Items", "array", self.raw_input, self.ctx)
        else:
            items = sfn._resolve_path_or_ctx(self.state.get("ItemsPath", "$"), self.effective, self.ctx)
        return items if isinstance(items, list) else [items]

    def item(self, index, value):
        selector = self.state.get("ItemSelector") or self.state.get("Parameters")
        if not selector:
            return value
        return self.value(selector, {**self.ctx, "Map": {"Item": {"Index": index, "Value": value}}})


def described(child):
    succeeded = child["status"] == "SUCCEEDED"
    return {
        **({} if succeeded else {"Cause": child.get("cause") or "", "Error": child.get("error") or ""}),
        "ExecutionArn": child["executionArn"],
        "Input": child["input"],
        "InputDetails": {"Included": True},
        "Name": child["name"],
        **({"Output": child["output"]} if succeeded else {}),
        "OutputDetails": {"Included": True},
        "RedriveCount": 0,
        "RedriveStatus": "NOT_REDRIVABLE" if succeeded else "REDRIVABLE_BY_MAP_RUN",
        **({"RedriveStatusReason": "Execution is SUCCEEDED and cannot be redriven"} if succeeded else {}),
        "StartDate": child["startDate"],
        "StateMachineArn": child["stateMachineArn"],
        "Status": child["status"],
        "StopDate": child["stopDate"],
    }


def put(bucket, key, text):
    body = text.encode()
    status, _, answer = s3._put_object(bucket, key, body, {})
    if status != 200:
        raise sfn._ExecutionError("States.ResultWriterFailed", f"Writing s3://{bucket}/{key} failed: {answer.decode()}")
    return body


def too_large(what):
    text = f"The {what} returned a result with a size exceeding the maximum number of bytes service limit."
    return sfn._ExecutionError("States.DataLimitExceeded", text)


def run_distributed_map(state, raw_input, effective, processor, execution, ctx):
    fields = Fields(state, raw_input, effective, ctx)
    run = MapRun(fields, processor, execution)
    writer = state.get("ResultWriter") or {}
    length = 0 if state.get("ItemReader") else len(run.items)
    add_linked_event(execution, "MapStateStarted", {"mapStateStartedEventDetails": {"length": length}})
    add_linked_event(execution, "MapRunStarted", {"mapRunStartedEventDetails": {"mapRunArn": run.arn}})
    running[run.arn] = run
    try:
        run.run()
    finally:
        del running[run.arn]
    config = fields.value(writer.get("WriterConfig") or {})
    place = fields.arguments(writer) if writer.get("Resource") else None
    written = run.write(place.get("Bucket"), place.get("Prefix"), config) if place else None
    if run.record["status"] != "SUCCEEDED":
        text = "The specified tolerated failure threshold was exceeded"
        error = run.error or sfn._ExecutionError("States.ExceedToleratedFailureThreshold", text)
        details = {"mapRunFailedEventDetails": {"error": error.error, "cause": error.cause}}
        add_linked_event(execution, "MapRunFailed", details)
        add_linked_event(execution, "MapStateFailed")
        raise error
    result = written or run.state_result(config)
    add_linked_event(execution, "MapRunSucceeded")
    add_linked_event(execution, "MapStateSucceeded")
    if fields.jsonata:
        output = sfn._apply_jsonata_output(state, raw_input, ctx, result=result, default=result)
        sfn._apply_state_assign(state, raw_input, ctx, result=result)
    else:
        result = sfn._apply_result_path(state, raw_input, sfn._apply_result_selector(state, result))
        output = sfn._apply_output_path(state, result, ctx)
    return output, sfn._next_or_end(state)


def abort_map_runs_of(execution):
    for run in list(running.values()):
        if run.execution is execution:
            run.abort()


def stop_with_map_runs(data):
    execution = sfn._executions.get(data.get("executionArn"))
    if execution and execution["status"] == "RUNNING":
        abort_map_runs_of(execution)
    return stop_execution(data)


sfn._run_distributed_map = run_distributed_map
sfn._stop_execution = stop_with_map_runs
