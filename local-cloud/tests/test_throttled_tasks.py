import io
import json
import time
import uuid
import zipfile

from state_machines import create_role, ended, run, start

INVOKE = "arn:aws:states:::lambda:invoke"
TRUST = {
    "Effect": "Allow",
    "Principal": {"Service": "lambda.amazonaws.com"},
    "Action": "sts:AssumeRole",
}
LAMBDA_THROTTLES = "Lambda.TooManyRequestsException"
CODE = "def handler(event, context):\n    return {'ran': True}\n"


def throttled_function(cloud):
    """Creates a function whose calls Lambda throttles, because none may run."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("app.py", CODE)
    name, functions = f"function-{uuid.uuid4().hex[:8]}", cloud.client("lambda")
    functions.create_function(
        FunctionName=name,
        Role=create_role(cloud, TRUST),
        Runtime="python3.12",
        Handler="app.handler",
        Code={"ZipFile": content.getvalue()},
    )
    functions.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    return name


def machine(function, **fields):
    call = {
        "Type": "Task",
        "Resource": INVOKE,
        "Arguments": {"FunctionName": function, "Payload": {}},
        "Output": "{% $states.result.Payload %}",
        "End": True,
        **fields,
    }
    return {"StartAt": "Call", "QueryLanguage": "JSONata", "States": {"Call": call}}


def test_a_throttled_call_has_the_error_of_aws(local_cloud):
    execution = run(local_cloud, machine(throttled_function(local_cloud)))
    assert (execution["status"], execution["error"]) == ("FAILED", LAMBDA_THROTTLES)


def test_a_throttled_call_is_repeated_until_it_may_run(local_cloud):
    function = throttled_function(local_cloud)
    retry = {"ErrorEquals": [LAMBDA_THROTTLES], "IntervalSeconds": 1, "MaxAttempts": 20}
    execution = start(local_cloud, machine(function, Retry=[{**retry, "BackoffRate": 1}]))
    time.sleep(1.5)
    local_cloud.client("lambda").delete_function_concurrency(FunctionName=function)
    execution = ended(local_cloud, execution)
    assert (execution["status"], json.loads(execution["output"])) == ("SUCCEEDED", {"ran": True})


def test_ministack_lacks_the_name_of_the_error(ministack):
    execution = run(ministack, machine(throttled_function(ministack)))
    assert (execution["status"], execution["error"]) == ("FAILED", "Lambda.Unknown")
