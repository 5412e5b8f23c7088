"""The results of a distributed Map: the output of its state, and the files of its ResultWriter.

https://docs.aws.amazon.com/step-functions/latest/dg/input-output-resultwriter.html
"""

import json

from ministack.services import stepfunctions as sfn

RESULT_LIMIT = 256 << 10  # bytes of a state's result


def too_large(source):
    text = (
        f"The {source} returned a result with a size exceeding"
        " the maximum number of bytes service limit."
    )
    return sfn._ExecutionError("States.DataLimitExceeded", text)


def child_results(child, output, transformation):
    """Returns the results of a child as a list, because FLATTEN splits an array."""
    if transformation == "NONE" or child["status"] != "SUCCEEDED":
        return [execution_details(child)]
    return output if transformation == "FLATTEN" and isinstance(output, list) else [output]


def execution_details(child):
    succeeded = child["status"] == "SUCCEEDED"
    return {
        **(
            {}
            if succeeded
            else {"Cause": child.get("cause") or "", "Error": child.get("error") or ""}
        ),
        "ExecutionArn": child["executionArn"],
        "Input": child["input"],
        "InputDetails": {"Included": True},
        "Name": child["name"],
        **({"Output": child["output"]} if succeeded else {}),
        "OutputDetails": {"Included": True},
        "RedriveCount": 0,
        "RedriveStatus": "NOT_REDRIVABLE" if succeeded else "REDRIVABLE_BY_MAP_RUN",
        **(
            {"RedriveStatusReason": "Execution is SUCCEEDED and cannot be redriven"}
            if succeeded
            else {}
        ),
        "StartDate": child["startDate"],
        "StateMachineArn": child["stateMachineArn"],
        "Status": child["status"],
        "StopDate": child["stopDate"],
    }


def state_result(children, outputs, config, state_name):
    """Returns the result of a Map that does not write its results to a bucket."""
    transformation = config.get("Transformation", "COMPACT")
    result = [
        part
        for child in children
        for part in child_results(child, outputs[child["executionArn"]], transformation)
    ]
    if len(json.dumps(result)) > RESULT_LIMIT:
        raise too_large(f"state/task '{state_name}'")
    return json_lines(result) if is_json_lines(config) else result


def result_files(ended, outputs, pending_items, config):
    """Returns the name and the text of each file, by status. `ended` is in the order of ends."""
    transformation = config.get("Transformation", "NONE")
    entries = {
        "FAILED": [],
        "PENDING": [
            {"Input": json.dumps(item), "InputDetails": {"Included": True}}
            for item in pending_items
        ],
        "SUCCEEDED": [],
    }
    for child in ended:
        status = "SUCCEEDED" if child["status"] == "SUCCEEDED" else "FAILED"
        entries[status] += child_results(child, outputs[child["executionArn"]], transformation)
    suffix = "jsonl" if is_json_lines(config) else "json"
    written = (lambda results: json_lines(results) + "\n") if is_json_lines(config) else json.dumps
    return {
        status: [(f"{status}_0.{suffix}", written(results))] if results else []
        for status, results in entries.items()
    }


def is_json_lines(config):
    return config.get("OutputType") == "JSONL"


def json_lines(results):
    return "\n".join(map(json.dumps, results))


def result_folder(prefix, map_run_id):
    return "/".join(part for part in ((prefix or "").strip("/"), map_run_id) if part)
