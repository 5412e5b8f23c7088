"""Requests that violate a model are found, in each protocol, and requests that conform pass."""

import json
import re
from urllib.parse import urlencode

import check
import pytest
from botocore.serialize import create_serializer
from exceptions import RequestException
from request_parser import parse, service_model


def recorded(service, operation, params):
    """Returns the request that botocore sends, in the recorder's format."""
    model = service_model(service)
    sent = create_serializer(model.resolved_protocol, False).serialize_to_request(
        params, model.operation_model(operation)
    )
    body = sent["body"]
    if isinstance(body, dict):
        body = urlencode(body)
    uri = f"https://x.eu-west-1.amazonaws.com{sent['url_path']}"
    if sent["query_string"]:
        uri += ("&" if "?" in uri else "?") + urlencode(sent["query_string"])
    return {
        "service": service,
        "operation": operation,
        "method": sent["method"],
        "uri": uri,
        "headers": {name.lower(): str(value) for name, value in sent["headers"].items()},
        "body": body.decode() if isinstance(body, bytes) else body,
    }


RUN_INSTANCES = {
    "MinCount": 1,
    "MaxCount": 2,
    "InstanceType": "t3.micro",
    "SecurityGroupIds": ["sg-1", "sg-2"],
    "EbsOptimized": True,
    "TagSpecifications": [
        {
            "ResourceType": "instance",
            "Tags": [{"Key": "a", "Value": ""}, {"Key": "b", "Value": "&"}],
        }
    ],
}
DESCRIBE_DB_INSTANCES = {
    "MaxRecords": 20,
    "Filters": [{"Name": "engine", "Values": ["postgres", "mysql"]}],
}
SEND_COMMAND = {
    "DocumentName": "AWS-RunShellScript",
    "InstanceIds": ["i-0123456789abcdef0"],
    "Parameters": {"commands": ["echo hi"]},
    "MaxErrors": "100%",
}
CREATE_FUNCTION = {
    "FunctionName": "f",
    "Role": "arn:aws:iam::222222222222:role/r",
    "Runtime": "python3.12",
    "Handler": "f.handler",
    "Code": {"ZipFile": b"zip"},
    "Environment": {"Variables": {"NAME": "value"}},
}
INVOKE = {"FunctionName": "f", "InvocationType": "Event", "Qualifier": "1", "Payload": b"{}"}
PUT_OBJECT = {
    "Bucket": "bucket",
    "Key": "a b/c.txt",
    "StorageClass": "STANDARD_IA",
    "Metadata": {"colour": "red"},
    "BucketKeyEnabled": True,
    "Body": b"text",
}
DELETE_OBJECTS = {
    "Bucket": "bucket",
    "Delete": {"Objects": [{"Key": "a"}, {"Key": "b"}], "Quiet": True},
}
LIST_OBJECTS = {"Bucket": "bucket", "Prefix": "a/", "MaxKeys": 7}

CASES = [
    ("EC2", "RunInstances", RUN_INSTANCES),
    ("RDS", "DescribeDBInstances", DESCRIBE_DB_INSTANCES),
    ("SSM", "SendCommand", SEND_COMMAND),
    ("Lambda", "CreateFunction", CREATE_FUNCTION),
    ("Lambda", "Invoke", INVOKE),
    ("S3", "PutObject", PUT_OBJECT),
    ("S3", "DeleteObjects", DELETE_OBJECTS),
    ("S3", "ListObjectsV2", LIST_OBJECTS),
]


@pytest.mark.parametrize(("service", "operation", "params"), CASES)
def test_requests_of_botocore_are_parsed_and_conform(service, operation, params):
    request = recorded(service, operation, params)
    model, parsed = parse(request)
    assert (model.name, parsed) == (operation, params)
    assert check.problems(request) == []


def changed(params, **changes):
    params = {**params, **changes}
    return {name: value for name, value in params.items() if value is not None}


@pytest.mark.parametrize(
    ("service", "operation", "params", "expected"),
    [
        # a member that is missing
        ("EC2", "RunInstances", changed(RUN_INSTANCES, MinCount=None), '"MinCount"'),
        (
            "SSM",
            "SendCommand",
            changed(SEND_COMMAND, MaxErrors=None, DocumentName=None),
            "DocumentName",
        ),
        ("Lambda", "CreateFunction", changed(CREATE_FUNCTION, Role=None), '"Role"'),
        ("S3", "DeleteObjects", changed(DELETE_OBJECTS, Delete={"Objects": [{}]}), '"Key"'),
        # an enum
        (
            "EC2",
            "RunInstances",
            changed(RUN_INSTANCES, InstanceType="t3.huge"),
            "'t3.huge' is not one of",
        ),
        ("Lambda", "Invoke", changed(INVOKE, InvocationType="Later"), "'Later' is not one of"),
        ("S3", "PutObject", changed(PUT_OBJECT, StorageClass="COLD"), "'COLD' is not one of"),
        # a pattern
        (
            "SSM",
            "SendCommand",
            changed(SEND_COMMAND, MaxErrors="all"),
            "MaxErrors: 'all' does not match",
        ),
        ("SSM", "SendCommand", changed(SEND_COMMAND, InstanceIds=["i-1"]), "InstanceIds[0]: 'i-1'"),
        (
            "Lambda",
            "CreateFunction",
            changed(CREATE_FUNCTION, Role="r"),
            "Role: 'r' does not match",
        ),
        # a length or a range
        (
            "SSM",
            "SendCommand",
            changed(SEND_COMMAND, Comment="x" * 101),
            "101 is more than the maximum",
        ),
        ("SSM", "SendCommand", changed(SEND_COMMAND, TimeoutSeconds=1), "valid min value: 30"),
        (
            "SSM",
            "SendCommand",
            changed(SEND_COMMAND, InstanceIds=["i-01234567"] * 51),
            "51 is more than",
        ),
        (
            "Lambda",
            "CreateFunction",
            changed(CREATE_FUNCTION, MemorySize=64),
            "valid min value: 128",
        ),
        ("Lambda", "Invoke", changed(INVOKE, Qualifier="x" * 129), "129 is more than the maximum"),
    ],
)
def test_planted_faults_are_found(service, operation, params, expected):
    found = check.problems(recorded(service, operation, params))
    assert len([problem for problem in found if expected in problem]) >= 1, found


def edited(case, edit):
    service, operation, params = case
    request = recorded(service, operation, params)
    edit(request)
    return check.problems(request)


def set_body(text, replacement):
    def edit(request):
        assert text in request["body"]
        request["body"] = request["body"].replace(text, replacement)

    return edit


@pytest.mark.parametrize(
    ("case", "edit", "expected"),
    [
        (CASES[0], set_body("MinCount=1", "MinCount=one"), "'one' is not a valid integer"),
        (CASES[0], set_body("EbsOptimized=true", "EbsOptimized=yes"), "parameter EbsOptimized"),
        (CASES[0], set_body("MinCount=1", "MinCount=1&Colour=red"), "the model has no Colour"),
        (CASES[0], set_body("Action=RunInstances", "Action=StartInstances"), "is not RunInstances"),
        (
            CASES[1],
            set_body("Filters.Filter.1.Name", "Filters.Filter.1.Nome"),
            "no Filters.Filter.1.Nome",
        ),
        (
            CASES[2],
            set_body('"MaxErrors"', '"MaxFaults"'),
            'Unknown parameter in input: "MaxFaults"',
        ),
        (CASES[2], set_body('"100%"', "100"), "Invalid type for parameter MaxErrors"),
        (CASES[3], set_body('"Handler"', '"Handle"'), 'Unknown parameter in input: "Handle"'),
        (
            CASES[6],
            set_body("<Quiet>", "<Silent/><Quiet>"),
            'Unknown parameter in Delete: "Silent"',
        ),
        (
            CASES[5],
            lambda sent: sent["headers"].update({"x-amz-colour": "red"}),
            "header x-amz-colour",
        ),
        (CASES[7], lambda sent: sent.update(uri=sent["uri"] + "&colour=red"), "no query colour"),
        (CASES[7], lambda sent: sent.update(method="POST"), "the method is POST"),
        (CASES[4], lambda sent: sent.update(uri="https://x/2015-03-31/f/invocations"), "the path"),
    ],
)
def test_content_outside_of_the_model_is_found(case, edit, expected):
    found = edited(case, edit)
    assert any(expected in problem for problem in found), found


def test_only_blobs_may_be_left_out():
    for case, expected in [(CASES[5], []), (CASES[6], ["the body was not recorded"])]:
        found = edited(case, lambda request: request.update(body=None))
        assert [problem.partition(",")[0] for problem in found] == expected


@pytest.mark.parametrize(
    ("host", "bucket"),
    [
        ("other.s3.eu-west-1.amazonaws.com", "other"),
        (
            "my-point-123456789012.s3-accesspoint.eu-west-1.amazonaws.com",
            "arn:aws:s3:eu-west-1:123456789012:accesspoint/my-point",
        ),
    ],
)
def test_the_bucket_is_read_from_the_host_name(host, bucket):
    request = recorded("S3", "PutObject", PUT_OBJECT)
    request["uri"] = f"https://{host}/a?x-id=PutObject"
    _, params = parse(request)
    assert (params["Bucket"], params["Key"]) == (bucket, "a")


def write(folder, package, request):
    (folder / package).mkdir(exist_ok=True)
    (folder / package / f"{len(list(folder.rglob('*.json')))}.json").write_text(json.dumps(request))


def test_every_crate_needs_a_request(tmp_path, monkeypatch):
    monkeypatch.setattr(check, "EXCEPTIONS", ())
    write(tmp_path, "stepward_ec2", recorded("EC2", "RunInstances", RUN_INSTANCES))
    assert check.check(tmp_path, ["stepward_ec2"]) == (1, [])
    count, messages = check.check(tmp_path, ["stepward_ec2", "stepward_s3"])
    assert (count, len(messages)) == (1, 1)
    assert messages[0].startswith("stepward_s3: the unit tests recorded no request")


def test_an_exception_covers_its_violation_and_must_be_needed(tmp_path, monkeypatch):
    write(tmp_path, "c", recorded("Lambda", "Invoke", changed(INVOKE, InvocationType="Later")))
    monkeypatch.setattr(check, "EXCEPTIONS", ())
    _, messages = check.check(tmp_path, ["c"])
    assert len(messages) == 1 and "c: Lambda:Invoke: InvocationType: 'Later'" in messages[0]
    needed = RequestException("Lambda:Invoke", "InvocationType: 'Later'", "a test")
    monkeypatch.setattr(check, "EXCEPTIONS", (needed,))
    assert check.check(tmp_path, ["c"]) == (1, [])
    other = RequestException("Lambda:Invoke", "Qualifier", "a test")
    monkeypatch.setattr(check, "EXCEPTIONS", (needed, other))
    _, messages = check.check(tmp_path, ["c"])
    assert len(messages) == 1 and messages[0].startswith("no request needs this exception")


def test_every_mock_client_records_its_requests():
    root = check.FUNCTIONS.parent
    paths = [*root.glob("functions/*/src/**/*.rs"), *root.glob("shared/src/**/*.rs")]
    sources = {path: path.read_text() for path in paths}
    assert sum("mock_client!(" in text for text in sources.values()) > 20
    unrecorded = re.compile(r"use aws_smithy_mocks::[^;]*mock_client")
    for path, text in sources.items():
        assert not unrecorded.search(text), f"{path}: use stepward::mock_client"
