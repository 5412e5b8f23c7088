"""Step Functions: distributed Maps in JSONata, with results in a bucket.

MiniStack's distributed Maps support only JSONPath, write no results, and continue after their
execution was stopped. This module implements
https://docs.aws.amazon.com/step-functions/latest/dg/state-map-distributed.html: a child is a
separate execution. It has its input, but neither the variables of its parent
(https://docs.aws.amazon.com/step-functions/latest/dg/workflow-variables.html) nor the context
object. Results in a bucket have the order in which the children ended.

Differences from AWS: without MaxConcurrency 64 children run at the same time. Items are not
batched. The role of the state machine is not checked when items are read and results are written.
"""

import contextvars
import json
import threading
from concurrent.futures import ThreadPoolExecutor, wait

from ministack.core.responses import new_uuid, now_iso
from ministack.services import s3
from ministack.services import stepfunctions as sfn

from .execution_history import add_linked_event, map_item, previous_event_id
from .map_results import RESULT_LIMIT, result_files, result_folder, state_result, too_large

DEFAULT_CONCURRENCY = 64
COUNTS = [
    "pending",
    "running",
    "succeeded",
    "failed",
    "timedOut",
    "aborted",
    "total",
    "resultsWritten",
]

running = {}  # MapRun by ARN
stop_execution = sfn._stop_execution


class MapRun:
    """An execution of a distributed Map state."""

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
        self.outputs = {}  # by the child's ARN
        self.ended = []  # in the order in which they ended
        self.error = None
        self.concurrency = int(fields.number("MaxConcurrency", 0)) or DEFAULT_CONCURRENCY
        self.tolerated_count = fields.number("ToleratedFailureCount")
        self.tolerated_percentage = fields.number("ToleratedFailurePercentage")
        counts = dict.fromkeys(COUNTS, 0) | {"pending": len(self.items), "total": len(self.items)}
        self.record = {
            "mapRunArn": self.arn,
            "executionArn": execution["executionArn"],
            "status": "RUNNING",
            "startDate": now_iso(),
            "maxConcurrency": int(fields.number("MaxConcurrency", 0)),
            "toleratedFailurePercentage": self.tolerated_percentage or 0,
            "toleratedFailureCount": int(self.tolerated_count or 0),
            "itemCounts": dict(counts),
            "executionCounts": dict(counts),
            "redriveCount": 0,
            "_stateMachineArn": self.machine,
        }
        sfn._map_runs[self.arn] = self.record

    def run(self):
        with ThreadPoolExecutor(max_workers=max(1, min(self.concurrency, len(self.items)))) as pool:
            indexes = range(len(self.items))
            wait(
                [
                    pool.submit(contextvars.copy_context().run, self.run_item, index)
                    for index in indexes
                ]
            )
        with self.changing:
            if self.record["status"] == "RUNNING":
                self.end("SUCCEEDED")

    def run_item(self, index):
        with self.changing:
            if self.record["status"] != "RUNNING":
                return
            try:
                child_input = self.fields.item(index, self.items[index])
            except sfn._ExecutionError as error:
                self.error = error
                return self.end("FAILED")
            child = self.children[index] = self.start_child(child_input)
        try:
            output = self.run_states(child, child_input)
            if len(json.dumps(output)) > RESULT_LIMIT:
                raise too_large(f"execution {child['name']}")
            self.end_child(child, "SUCCEEDED", output)
        except Exception as error:
            if not isinstance(error, sfn._ExecutionError):
                error = sfn._ExecutionError("States.Runtime", str(error))
            self.end_child(child, "FAILED", error=error)

    def start_child(self, child_input):
        name = new_uuid()
        region, account = self.arn.split(":")[3:5]
        child = {
            "executionArn": f"arn:aws:states:{region}:{account}:execution:{self.name}:{name}",
            "stateMachineArn": self.machine,
            "name": name,
            "status": "RUNNING",
            "startDate": now_iso(),
            "stopDate": None,
            "input": json.dumps(child_input),
            "output": None,
            "mapRunArn": self.arn,
            "events": [],
            "testCase": self.execution.get("testCase"),
            "mockAttempts": {},
        }
        sfn._executions[child["executionArn"]] = child
        self.count("pending", "running")
        return child

    def run_states(self, child, child_input):
        """Runs the child's states as MiniStack does for an execution, and returns the output."""
        map_item.set(None)
        role = (sfn._state_machines.get(self.execution["stateMachineArn"]) or {}).get("roleArn", "")
        started = {"input": child["input"], "roleArn": role}
        add_linked_event(child, "ExecutionStarted", {"executionStartedEventDetails": started})
        previous_event_id.set(0)  # on AWS the event before the first state is 0, and not 1
        ctx = {
            "QueryLanguage": self.processor.get("QueryLanguage")
            or self.fields.ctx.get("QueryLanguage", "JSONPath"),
            "Execution": {
                "Id": child["executionArn"],
                "Input": child_input,
                "Name": child["name"],
                "StartTime": child["startDate"],
            },
            "StateMachine": {"Id": self.machine, "Name": self.name},
            "variables": {},
        }
        name, data = self.processor.get("StartAt"), child_input
        while name and child["status"] == "RUNNING":
            state = self.processor["States"].get(name)
            if state is None:
                raise sfn._ExecutionError(
                    "States.Runtime", f"State '{name}' not found in definition"
                )
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
                execution = (child,) if kind in ("Task", "Parallel", "Map") else ()
                data, following = execute(state, data, *execution, ctx)
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
                    details = {
                        "executionFailedEventDetails": {"error": error.error, "cause": error.cause}
                    }
                    add_linked_event(child, "ExecutionFailed", details)
                else:
                    add_linked_event(
                        child, "ExecutionAborted", {"executionAbortedEventDetails": {}}
                    )
            # A stopped child ends a second time when its current state ends.
            if child["executionArn"] not in self.outputs:
                self.outputs[child["executionArn"]] = output
                self.ended.append(child)
                self.count("running", child["status"].lower())
            if self.record["status"] == "RUNNING" and self.too_many_failed():
                self.end("FAILED")

    def count(self, previous, current):
        for counts in (self.record["itemCounts"], self.record["executionCounts"]):
            counts[previous] -= 1
            counts[current] += 1

    def too_many_failed(self):
        failed = len(self.ended) - self.record["executionCounts"]["succeeded"]
        count, percentage = self.tolerated_count, self.tolerated_percentage
        if count is None and percentage is None:
            return failed > 0
        return (count is not None and failed > count) or (
            percentage is not None and failed * 100 > percentage * len(self.items)
        )

    def end(self, status):
        """Stops the running children. No other child starts."""
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

    def write_results(self, bucket, prefix, config):
        folder = result_folder(prefix, self.id)
        pending = [item for item, child in zip(self.items, self.children) if child is None]
        written = {
            status: [
                {"Key": f"{folder}/{name}", "Size": put(bucket, f"{folder}/{name}", text)}
                for name, text in files
            ]
            for status, files in result_files(self.ended, self.outputs, pending, config).items()
        }
        for counts in (self.record["itemCounts"], self.record["executionCounts"]):
            counts["resultsWritten"] = len(self.ended)
        key = f"{folder}/manifest.json"
        put(
            bucket,
            key,
            json.dumps(
                {"DestinationBucket": bucket, "MapRunArn": self.arn, "ResultFiles": written}
            ),
        )
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
            raise sfn._ExecutionError(
                "States.Runtime",
                "The local cloud does not support ItemBatcher; remove it from the Map",
            )
        if reader and self.jsonata:
            config = self.value(reader.get("ReaderConfig") or {})
            read = {**reader, "Parameters": self.arguments(reader), "ReaderConfig": config}
            items = sfn._read_map_items(read, self.effective, self.ctx)
        elif reader:
            items = sfn._read_map_items(reader, self.effective, self.ctx)
        elif self.jsonata and "Items" in self.state:
            items = sfn._jsonata_state_field(self.state, "Items", "array", self.raw_input, self.ctx)
        else:
            items = sfn._resolve_path_or_ctx(
                self.state.get("ItemsPath", "$"), self.effective, self.ctx
            )
        return items if isinstance(items, list) else [items]

    def item(self, index, value):
        selector = self.state.get("ItemSelector") or self.state.get("Parameters")
        if not selector:
            return value
        return self.value(selector, {**self.ctx, "Map": {"Item": {"Index": index, "Value": value}}})


def put(bucket, key, text):
    """Writes an object and returns its size."""
    body = text.encode()
    status, _, response = s3._put_object(bucket, key, body, {})
    if status != 200:
        raise sfn._ExecutionError(
            "States.ResultWriterFailed", f"Writing s3://{bucket}/{key} failed: {response.decode()}"
        )
    return len(body)


def run_distributed_map(state, raw_input, effective, processor, execution, ctx):
    fields = Fields(state, raw_input, effective, ctx)
    run = MapRun(fields, processor, execution)
    writer = state.get("ResultWriter") or {}
    length = 0 if state.get("ItemReader") else len(run.items)
    add_linked_event(
        execution, "MapStateStarted", {"mapStateStartedEventDetails": {"length": length}}
    )
    add_linked_event(
        execution, "MapRunStarted", {"mapRunStartedEventDetails": {"mapRunArn": run.arn}}
    )
    running[run.arn] = run
    try:
        run.run()
    finally:
        del running[run.arn]
    config = fields.value(writer.get("WriterConfig") or {})
    place = fields.arguments(writer) if writer.get("Resource") else None
    written = run.write_results(place.get("Bucket"), place.get("Prefix"), config) if place else None
    if run.record["status"] != "SUCCEEDED":
        text = "The specified tolerated failure threshold was exceeded"
        error = run.error or sfn._ExecutionError("States.ExceedToleratedFailureThreshold", text)
        details = {"mapRunFailedEventDetails": {"error": error.error, "cause": error.cause}}
        add_linked_event(execution, "MapRunFailed", details)
        add_linked_event(execution, "MapStateFailed")
        raise error
    result = written or state_result(run.children, run.outputs, config, ctx["State"]["Name"])
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


def stop_execution_and_map_runs(data):
    execution = sfn._executions.get(data.get("executionArn"))
    if execution and execution["status"] == "RUNNING":
        abort_map_runs_of(execution)
    return stop_execution(data)


def install():
    sfn._run_distributed_map = run_distributed_map
    sfn._stop_execution = stop_execution_and_map_runs
