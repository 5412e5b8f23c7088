"""API Gateway: the URL of an HTTP API is a path of the local cloud.

MiniStack's own URL is `http://API_ID.execute-api.localhost:PORT`. Browsers and curl resolve each
name that ends with `.localhost`, but the C library and thus Python do not. MiniStack also serves
the API under a path, which this addition puts into the API's endpoint. At AWS an API has a host
name of its own: https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-publish.html
"""

import json
import os

from ministack.services import apigateway
from ministack.services.cloudformation import provisioners

PORT = os.environ.get("GATEWAY_PORT", "4566")

create_api = apigateway._create_api
handler = provisioners._RESOURCE_HANDLERS["AWS::ApiGatewayV2::Api"]
create_resource = handler["create"]


def use_path_url(api_id):
    """Changes the endpoint of an HTTP API, and returns the API."""
    api = apigateway._apis[api_id]
    if api["protocolType"] == "HTTP":
        api["apiEndpoint"] = f"http://127.0.0.1:{PORT}/_aws/execute-api/{api_id}"
    return api


def create_api_with_path_url(data):
    status, headers, body = create_api(data)
    if status == 201:
        body = json.dumps(use_path_url(json.loads(body)["apiId"])).encode()
    return status, headers, body


def create_resource_with_path_url(logical_id, props, stack_name):
    api_id, attributes = create_resource(logical_id, props, stack_name)
    return api_id, {**attributes, "ApiEndpoint": use_path_url(api_id)["apiEndpoint"]}


def install():
    apigateway._create_api = create_api_with_path_url
    handler["create"] = create_resource_with_path_url
