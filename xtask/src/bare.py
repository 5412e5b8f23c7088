"""A Python function for benchmarks. It makes the same AWS call as a step, with boto3."""

import http.client
import json
import os
import sys

import boto3

CALLS = {
    "describe-instances": (
        "ec2",
        lambda aws, e: len(aws.describe_instances(InstanceIds=[e["instance_id"]])["Reservations"]),
    ),
    "get-caller-identity": ("sts", lambda aws, e: aws.get_caller_identity()["Account"]),
    "get-query-execution": (
        "athena",
        lambda aws, e: aws.get_query_execution(QueryExecutionId=e["query_execution_id"])[
            "QueryExecution"
        ]["Status"]["State"],
    ),
    "list-objects": (
        "s3",
        lambda aws, e: len(aws.list_objects_v2(Bucket=e["bucket"], Prefix=e["prefix"])["Contents"]),
    ),
}

service, call = CALLS[sys.argv[1]]
client = boto3.client(service)
api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
while True:
    api.request("GET", "/2018-06-01/runtime/invocation/next")
    response = api.getresponse()
    event, invocation = json.load(response), response.headers["Lambda-Runtime-Aws-Request-Id"]
    api.request(
        "POST",
        f"/2018-06-01/runtime/invocation/{invocation}/response",
        json.dumps({"response": call(client, event)}),
    )
    api.getresponse().read()
