import json
import uuid
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

API = {"Type": "AWS::ApiGatewayV2::Api", "Properties": {"Name": "api", "ProtocolType": "HTTP"}}
STAGE = {
    "Type": "AWS::ApiGatewayV2::Stage",
    "Properties": {"ApiId": {"Ref": "Api"}, "StageName": "$default", "AutoDeploy": True},
}
INTEGRATION = {
    "Type": "AWS::ApiGatewayV2::Integration",
    "Properties": {
        "ApiId": {"Ref": "Api"},
        "IntegrationType": "HTTP_PROXY",
        "IntegrationMethod": "GET",
        "IntegrationUri": "http://127.0.0.1:1/",
        "PayloadFormatVersion": "1.0",
    },
}
ROUTE = {
    "Type": "AWS::ApiGatewayV2::Route",
    "Properties": {
        "ApiId": {"Ref": "Api"},
        "RouteKey": "GET /jobs/{name}/executions",
        "AuthorizationType": "AWS_IAM",
        "Target": {"Fn::Sub": "integrations/${Integration}"},
    },
}
TEMPLATE = {
    "Resources": {"Api": API, "Stage": STAGE, "Integration": INTEGRATION, "Route": ROUTE},
    "Outputs": {"Url": {"Value": {"Fn::GetAtt": ["Api", "ApiEndpoint"]}}},
}


def deployed_url(cloud):
    client, name = cloud.client("cloudformation"), f"stack-{uuid.uuid4().hex[:8]}"
    client.create_stack(StackName=name, TemplateBody=json.dumps(TEMPLATE))
    client.get_waiter("stack_create_complete").wait(StackName=name, WaiterConfig={"Delay": 1})
    return client.describe_stacks(StackName=name)["Stacks"][0]["Outputs"][0]["OutputValue"]


def test_ministack_lacks_a_url_that_python_resolves(ministack):
    # Some systems resolve such names, so the resolution itself is no test.
    assert urlsplit(deployed_url(ministack)).hostname.endswith(".localhost")


def test_an_unsigned_request_to_the_url_is_refused(local_cloud):
    with pytest.raises(HTTPError) as refused:
        urlopen(deployed_url(local_cloud) + "/jobs/a/executions", timeout=5)
    assert refused.value.code == 403


def test_a_created_api_has_the_same_url(local_cloud):
    client = local_cloud.client("apigatewayv2")
    created = client.create_api(Name="api", ProtocolType="HTTP")
    url = f"{local_cloud.endpoint}/_aws/execute-api/{created['ApiId']}"
    assert created["ApiEndpoint"] == url
    assert client.get_api(ApiId=created["ApiId"])["ApiEndpoint"] == url
