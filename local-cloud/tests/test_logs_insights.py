import uuid

import pytest
from botocore.exceptions import ClientError

from stepward_local_cloud.logs_insights import without_comments


def test_ministack_lacks_saved_queries_and_the_list_of_queries(ministack):
    logs = ministack.client("logs")
    for call in (
        lambda: logs.put_query_definition(name="a", queryString="fields @message"),
        logs.describe_queries,
    ):
        with pytest.raises(ClientError, match="Unknown action"):
            call()


def test_a_saved_query_is_listed_changed_and_deleted(local_cloud):
    logs, name = local_cloud.client("logs"), f"saved-{uuid.uuid4().hex}"

    def listed():
        definitions = logs.describe_query_definitions(queryDefinitionNamePrefix=name)[
            "queryDefinitions"
        ]
        return [definition["queryString"] for definition in definitions]

    key = logs.put_query_definition(name=name, queryString="fields @message")["queryDefinitionId"]
    assert listed() == ["fields @message"]
    logs.put_query_definition(name=name, queryString="fields @timestamp", queryDefinitionId=key)
    assert listed() == ["fields @timestamp"]
    logs.delete_query_definition(queryDefinitionId=key)
    assert listed() == []
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        logs.delete_query_definition(queryDefinitionId=key)


def test_a_query_with_a_comment_runs_and_is_listed(local_cloud):
    logs, group, text = (
        local_cloud.client("logs"),
        f"/group/{uuid.uuid4().hex}",
        "# all\nfields @message",
    )
    logs.create_log_group(logGroupName=group)
    logs.create_log_stream(logGroupName=group, logStreamName="stream")
    logs.put_log_events(
        logGroupName=group,
        logStreamName="stream",
        logEvents=[{"timestamp": 1_000_000, "message": "hello"}],
    )
    query = logs.start_query(logGroupName=group, startTime=0, endTime=2_000, queryString=text)[
        "queryId"
    ]
    [row] = logs.get_query_results(queryId=query)["results"]
    assert {"field": "@message", "value": "hello"} in row
    [listed] = logs.describe_queries(logGroupName=group)["queries"]
    assert (listed["queryString"], listed["queryLanguage"]) == (text, "CWLI")


def test_only_lines_that_begin_with_a_number_sign_are_comments():
    assert without_comments("# a\n  # b\nfields x # c\n#") == "fields x # c\n"
