import json
import time
import uuid

from state_machines import ended, run, start

from stepward_local_cloud.distributed_maps import MapRun


def machine(states, **fields):
    processor = {
        "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"},
        "StartAt": "One",
    }
    each = {"Type": "Map", "Items": "{% $states.input.numbers %}", "End": True, **fields}
    each["ItemProcessor"] = {**processor, "States": states}
    return {"StartAt": "Each", "QueryLanguage": "JSONata", "States": {"Each": each}}


def numbers(*items):
    return {"numbers": items}


TEN_TIMES = {"One": {"Type": "Pass", "Output": "{% $states.input * 10 %}", "End": True}}
WAIT = {"One": {"Type": "Wait", "Seconds": 30, "End": True}}
FAIL_ABOVE_ONE = {
    "One": {
        "Type": "Choice",
        "Choices": [{"Condition": "{% $states.input > 1 %}", "Next": "Fail"}],
        "Default": "Pass",
    },
    "Fail": {"Type": "Fail", "Error": "TooMany", "Cause": "more than one"},
    "Pass": {"Type": "Pass", "End": True},
}


def run_with_bucket(cloud):
    bucket = f"results-{uuid.uuid4().hex[:8]}"
    cloud.client("s3").create_bucket(
        Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    writer = {
        "Resource": "arn:aws:states:::s3:putObject",
        "Arguments": {"Bucket": bucket, "Prefix": "runs"},
    }
    return bucket, run(cloud, machine(TEN_TIMES, ResultWriter=writer), numbers(1, 2))


def test_ministack_lacks_distributed_maps_in_jsonata_and_their_results(ministack):
    bucket, execution = run_with_bucket(ministack)
    assert execution["status"] == "FAILED"
    assert "Contents" not in ministack.client("s3").list_objects_v2(Bucket=bucket)


def test_results_are_written_to_a_bucket(local_cloud):
    bucket, execution = run_with_bucket(local_cloud)
    output = json.loads(execution["output"])

    def read(key):
        return json.load(local_cloud.client("s3").get_object(Bucket=bucket, Key=key)["Body"])

    assert output["ResultWriterDetails"]["Bucket"] == bucket
    manifest = read(output["ResultWriterDetails"]["Key"])
    assert manifest["MapRunArn"] == output["MapRunArn"]
    [file] = manifest["ResultFiles"]["SUCCEEDED"]
    results = read(file["Key"])
    assert sorted((result["Input"], result["Output"]) for result in results) == [
        ("1", "10"),
        ("2", "20"),
    ]


def test_results_without_a_bucket_have_the_order_of_items(local_cloud):
    assert json.loads(run(local_cloud, machine(TEN_TIMES), numbers(3, 1, 2))["output"]) == [
        30,
        10,
        20,
    ]


def test_a_failed_child_fails_the_map(local_cloud):
    execution = run(local_cloud, machine(FAIL_ABOVE_ONE), numbers(1, 2))
    assert (execution["status"], execution["error"]) == (
        "FAILED",
        "States.ExceedToleratedFailureThreshold",
    )


def test_tolerated_failures_do_not_fail_the_map(local_cloud):
    execution = run(local_cloud, machine(FAIL_ABOVE_ONE, ToleratedFailureCount=1), numbers(1, 2))
    assert execution["status"] == "SUCCEEDED"
    assert [
        result if result == 1 else result["Error"] for result in json.loads(execution["output"])
    ] == [1, "TooMany"]


def stopped_map(cloud):
    """Stops the execution of a Map, and returns the Map's run after that."""
    client = cloud.client("stepfunctions")
    execution = start(cloud, machine(WAIT), numbers(1, 2))
    until = time.monotonic() + 10
    runs = []
    while not runs and time.monotonic() < until:
        runs = client.list_map_runs(executionArn=execution)["mapRuns"]
    client.stop_execution(executionArn=execution)
    assert ended(cloud, execution)["status"] == "ABORTED"
    return client.describe_map_run(mapRunArn=runs[0]["mapRunArn"])


def test_a_stopped_execution_stops_its_map(local_cloud):
    run = stopped_map(local_cloud)
    assert (run["status"], run["executionCounts"]["running"]) == ("ABORTED", 0)


def too_many_failed(failed, items, count=None, percentage=None):
    run = object.__new__(MapRun)
    run.ended, run.items = [None] * failed, [None] * items
    run.record = {"executionCounts": {"succeeded": 0}}
    run.tolerated_count, run.tolerated_percentage = count, percentage
    return run.too_many_failed()


def test_either_tolerated_limit_is_enough_to_fail():
    assert too_many_failed(1, 100)
    assert not too_many_failed(0, 100)
    assert not too_many_failed(5, 100, count=5)
    assert too_many_failed(6, 100, count=5)
    assert not too_many_failed(10, 100, percentage=10)
    assert too_many_failed(11, 100, percentage=10)
    assert too_many_failed(11, 100, count=50, percentage=10)
