import pytest

from stepward_local_cloud import ssm_requests
from stepward_local_cloud.ssm_requests import Refused, check_fields, expand_parameters, list_filters


def refusal(call, *arguments):
    with pytest.raises(Refused) as error:
        call(*arguments)
    return error.value.code


@pytest.fixture
def stored(monkeypatch):
    monkeypatch.setattr(ssm_requests, "stored_parameter", lambda found: f"<{found[1]}>")


def test_each_name_of_parameter_store_is_replaced(stored):
    given = {
        "commands": ["a {{ssm:/x/y}} {{ ssm:z:3 }}", "{{other}}"],
        "workingDirectory": ["/{{ssm:d}}"],
    }
    assert expand_parameters(given) == {
        "commands": ["a </x/y> <z:3>", "{{other}}"],
        "workingDirectory": ["/<d>"],
    }


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"commands": []},
        {"commands": "ls"},
        {"commands": [1]},
        {"commands": ["ls"], "other": ["x"]},
        {"commands": ["ls"], "workingDirectory": ["/a", "/b"]},
        {"commands": ["ls"], "workingDirectory": ["/" * 4097]},
        {"commands": ["ls"], "executionTimeout": ["0"]},
        {"commands": ["ls"], "executionTimeout": ["172801"]},
    ],
)
def test_parameters_that_the_document_does_not_take_are_refused(given):
    assert refusal(expand_parameters, given) == "InvalidParameters"


def test_parameters_over_64_kib_are_refused():
    assert refusal(expand_parameters, {"commands": ["x" * (64 << 10)]}) == "MaxDocumentSizeExceeded"


@pytest.mark.parametrize("seconds", ["1", "3600", "99999", "172800"])
def test_execution_timeouts_up_to_two_days_are_taken(seconds):
    given = {"commands": ["ls"], "executionTimeout": [seconds]}
    assert expand_parameters(given) == given


VALID = {"DocumentName": "AWS-RunShellScript", "InstanceIds": ["i-12345678"]}


def test_a_plain_request_is_taken():
    check_fields(VALID)


@pytest.mark.parametrize(
    "field",
    [
        {"DocumentName": None},
        {"DocumentName": "a document"},
        {"InstanceIds": ["i-1"]},
        {"InstanceIds": []},
        {"InstanceIds": [f"i-{number:08d}" for number in range(51)]},
        {"MaxConcurrency": "0"},
        {"MaxConcurrency": "101%"},
        {"MaxErrors": "-1"},
        {"TimeoutSeconds": 29},
        {"TimeoutSeconds": 2_592_001},
        {"Comment": "x" * 101},
        {"OutputS3BucketName": "ab"},
        {"CloudWatchOutputConfig": {"CloudWatchLogGroupName": "a group"}},
    ],
)
def test_fields_outside_of_aws_limits_are_refused(field):
    assert refusal(check_fields, {**VALID, **field}) == "ValidationException"


def test_an_instance_is_named_once():
    assert (
        refusal(check_fields, {**VALID, "InstanceIds": ["i-12345678"] * 2}) == "DuplicateInstanceId"
    )


def test_filters_are_known_and_times_are_timestamps():
    after = {"key": "InvokedAfter", "value": "2024-07-07T00:00:00Z"}
    assert list_filters({"Filters": [after]}, "InvokedAfter") == [after]
    assert refusal(list_filters, {"Filters": [after]}, "Status") == "InvalidFilterKey"
    late = {"key": "InvokedAfter", "value": "yesterday"}
    assert refusal(list_filters, {"Filters": [late]}, "InvokedAfter") == "ValidationException"
