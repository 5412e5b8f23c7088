"""Step Functions: StartExecution is idempotent, and refuses invalid names.

https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html

A name can be used again after 90 days at AWS, and never here.
"""

import json
import re
import threading

from ministack.core.responses import error_response_json, json_response
from ministack.services import stepfunctions as sfn

VALID_NAME = re.compile(r'[^\s<>{}\[\]?*"#%\\^|~`$&,;:/\x00-\x1f\x7f-\x9f]{1,80}')

start_execution = sfn._start_execution
starting = threading.Lock()


def start_execution_once(data):
    name = data.get("name")
    if name is not None and not VALID_NAME.fullmatch(name):
        return error_response_json("InvalidName", f"Invalid Name: '{name}'", 400)
    with starting:
        response = start_execution(data)
    if response[0] != 200 and name is not None:
        error = json.loads(response[2])
        if error["__type"] == "ExecutionAlreadyExists":
            execution = sfn._executions[error["message"].split("'")[1]]
            same_input = execution["input"] == data.get("input", "{}")
            if execution["status"] == "RUNNING" and same_input:
                keys = ("executionArn", "startDate")
                return json_response({key: execution[key] for key in keys})
    return response


def install():
    sfn._start_execution = start_execution_once
