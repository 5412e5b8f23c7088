"""CloudWatch Logs Insights: saved queries, the list of queries, and comments in a query.

https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_Operations.html
"""

import json
import re
import time

from ministack.core.responses import (
    AccountRegionScopedDict,
    error_response_json,
    json_response,
    new_uuid,
)
from ministack.services import cloudwatch_logs as logs

COMMENT = re.compile(r"(?m)^\s*#.*\n?")

definitions = AccountRegionScopedDict()
queries = logs._queries

handle_request = logs.handle_request
start_query = logs._start_query
reset_logs = logs.reset


def put_query_definition(data):
    name, text = data.get("name"), data.get("queryString")
    if not name or not text:
        return error_response_json(
            "InvalidParameterException", "name and queryString are required.", 400
        )
    key = data.get("queryDefinitionId")
    if key and key not in definitions:
        return query_definition_not_found(key)
    key = key or new_uuid()
    definitions[key] = {
        "queryDefinitionId": key,
        "queryLanguage": data.get("queryLanguage", "CWLI"),
        "name": name,
        "queryString": text,
        "logGroupNames": data.get("logGroupNames", []),
        "lastModified": int(time.time() * 1000),
    }
    return json_response({"queryDefinitionId": key})


def describe_query_definitions(data):
    prefix = data.get("queryDefinitionNamePrefix", "")
    found = [
        definition for definition in definitions.values() if definition["name"].startswith(prefix)
    ]
    return page_response(
        "queryDefinitions", sorted(found, key=lambda definition: definition["name"]), data
    )


def delete_query_definition(data):
    if definitions.pop(data.get("queryDefinitionId"), None) is None:
        return query_definition_not_found(data.get("queryDefinitionId"))
    return json_response({"success": True})


def query_definition_not_found(key):
    return error_response_json(
        "ResourceNotFoundException", f"The query definition does not exist: {key}", 400
    )


def describe_queries(data):
    filters = ["status", "logGroupName", "queryLanguage"]
    shown = ["queryId", "queryString", "createTime", *filters]
    found = [
        {field: query[field] for field in shown}
        for query in queries.values()
        if all(data.get(field) in (None, query[field]) for field in filters)
    ]
    return page_response("queries", found, data)


def page_response(name, items, data):
    start = int(data.get("nextToken", 0))
    end = start + int(data.get("maxResults", 1000))
    return json_response(
        {name: items[start:end], **({"nextToken": str(end)} if end < len(items) else {})}
    )


def without_comments(query):
    return COMMENT.sub("", query)


def start_commented_query(data):
    # MiniStack does not support comments, and stores neither the query's language nor its creation
    # time.
    text = data.get("queryString", "")
    status, headers, body = start_query({**data, "queryString": without_comments(text)})
    if status == 200:
        query = queries[json.loads(body)["queryId"]]
        language = data.get("queryLanguage", "CWLI")
        query.update(queryString=text, queryLanguage=language, createTime=int(time.time() * 1000))
    return status, headers, body


OPERATIONS = {
    "PutQueryDefinition": put_query_definition,
    "DescribeQueryDefinitions": describe_query_definitions,
    "DeleteQueryDefinition": delete_query_definition,
    "DescribeQueries": describe_queries,
}


async def handle_request_with_queries(method, path, headers, body, query_params):
    operation = OPERATIONS.get(headers.get("x-amz-target", "").rpartition(".")[2])
    if operation:
        return operation(json.loads(body or "{}"))
    return await handle_request(method, path, headers, body, query_params)


def reset():
    definitions.clear()
    reset_logs()


def install():
    logs.handle_request = handle_request_with_queries
    logs._start_query = start_commented_query
    logs.reset = reset
