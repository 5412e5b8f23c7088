import json

import pytest
from ministack.services import stepfunctions as sfn

from stepward_local_cloud import map_results


def child(name, status="SUCCEEDED", **fields):
    return {
        "executionArn": f"arn:{name}",
        "stateMachineArn": "arn:machine",
        "name": name,
        "status": status,
        "startDate": "start",
        "stopDate": "stop",
        "input": '"in"',
        "output": '"out"',
        **fields,
    }


SUCCEEDED, FAILED = child("a"), child("b", "FAILED", error="Broken", cause="it broke")
OUTPUTS = {"arn:a": [1, 2], "arn:b": None}


def test_a_compact_result_has_the_order_of_items():
    assert map_results.state_result(
        [SUCCEEDED, child("c")], {**OUTPUTS, "arn:c": 3}, {}, "Each"
    ) == [[1, 2], 3]


def test_a_flat_result_joins_arrays():
    config = {"Transformation": "FLATTEN"}
    assert map_results.state_result(
        [SUCCEEDED, child("c")], {**OUTPUTS, "arn:c": 3}, config, "Each"
    ) == [1, 2, 3]


def test_json_lines_are_one_result_a_line():
    config = {"Transformation": "FLATTEN", "OutputType": "JSONL"}
    assert map_results.state_result([SUCCEEDED], OUTPUTS, config, "Each") == "1\n2"


def test_a_failed_child_is_described_whatever_the_transformation():
    [shown] = map_results.child_results(FAILED, None, "FLATTEN")
    assert (shown["Status"], shown["Error"], shown["Cause"]) == ("FAILED", "Broken", "it broke")
    assert "Output" not in shown
    assert shown["RedriveStatus"] == "REDRIVABLE_BY_MAP_RUN"


def test_a_result_over_256_kib_is_an_error():
    with pytest.raises(sfn._ExecutionError) as error:
        map_results.state_result([SUCCEEDED], {"arn:a": "x" * (256 << 10)}, {}, "Each")
    assert error.value.error == "States.DataLimitExceeded"


def test_files_hold_what_succeeded_failed_and_never_started():
    files = map_results.result_files([FAILED, SUCCEEDED], OUTPUTS, [{"item": 3}], {})
    assert {status: [name for name, _ in written] for status, written in files.items()} == {
        "FAILED": ["FAILED_0.json"],
        "PENDING": ["PENDING_0.json"],
        "SUCCEEDED": ["SUCCEEDED_0.json"],
    }
    [(_, text)] = files["SUCCEEDED"]
    assert [result["Name"] for result in json.loads(text)] == ["a"]
    [(_, text)] = files["PENDING"]
    assert json.loads(text)[0]["Input"] == '{"item": 3}'


def test_a_status_without_results_has_no_file():
    files = map_results.result_files([SUCCEEDED], OUTPUTS, [], {"OutputType": "JSONL"})
    assert (files["FAILED"], files["PENDING"]) == ([], [])
    [(name, text)] = files["SUCCEEDED"]
    assert name == "SUCCEEDED_0.jsonl"
    assert text.endswith("\n")


def test_a_folder_is_the_prefix_and_the_run():
    assert map_results.result_folder("/a/b/", "run") == "a/b/run"
    assert map_results.result_folder(None, "run") == "run"
