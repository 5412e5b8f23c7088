import io
import json
import zipfile

import pytest
from botocore.exceptions import ClientError
from state_machines import create_role

from stepward_local_cloud.iam_resources import command_checks, resource_on_aws

OPERATOR = {"Effect": "Allow", "Principal": {"AWS": "111111111111"}, "Action": "sts:AssumeRole"}
PEERING = "arn:aws:ec2:eu-west-1:111111111111:vpc-peering-connection/pcx-12345678"
DOCUMENT = "arn:aws:ssm:eu-west-1::document/AWS-RunShellScript"


def as_role(cloud, service, *statements):
    role = create_role(cloud, OPERATOR, *statements)
    credentials = cloud.client("sts").assume_role(RoleArn=role, RoleSessionName="session")[
        "Credentials"
    ]
    return cloud.client(service, credentials)


def allow(action, *resources):
    return {"Effect": "Allow", "Action": action, "Resource": list(resources)}


def code_of(call):
    with pytest.raises(ClientError) as error:
        call()
    return error.value.response["Error"]["Code"]


def accept(cloud, connection):
    ec2 = as_role(cloud, "ec2", allow("ec2:AcceptVpcPeeringConnection", PEERING))
    return code_of(lambda: ec2.accept_vpc_peering_connection(VpcPeeringConnectionId=connection))


def test_ministack_lacks_resources_of_these_requests(ministack):
    assert accept(ministack, "pcx-12345678") == "UnauthorizedOperation"


def test_a_permission_on_one_peering_connection_is_for_that_one(local_cloud):
    assert accept(local_cloud, "pcx-12345678") == "InvalidVpcPeeringConnectionID.NotFound"
    assert accept(local_cloud, "pcx-87654321") == "UnauthorizedOperation"


def test_a_permission_on_one_function_is_for_that_one(local_cloud):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("app.py", "")
    execution_role = create_role(
        local_cloud,
        {
            "Effect": "Allow",
            "Principal": {"Service": "lambda.amazonaws.com"},
            "Action": "sts:AssumeRole",
        },
    )
    functions = as_role(
        local_cloud,
        "lambda",
        allow("lambda:CreateFunction", "arn:aws:lambda:eu-west-1:111111111111:function:mine"),
        allow("iam:PassRole", execution_role),
    )

    def create(name):
        return functions.create_function(
            FunctionName=name,
            Role=execution_role,
            Runtime="python3.12",
            Handler="app.handler",
            Code={"ZipFile": content.getvalue()},
        )

    assert create("mine")["FunctionName"] == "mine"
    assert code_of(lambda: create("theirs")) == "AccessDeniedException"


def test_a_command_needs_permission_for_its_document_and_each_instance(local_cloud):
    instance = "arn:aws:ec2:eu-west-1:111111111111:instance/i-12345678"

    def send(*resources, node="i-12345678"):
        ssm = as_role(local_cloud, "ssm", allow("ssm:SendCommand", *resources))
        parameters = {"commands": ["true"]}
        with pytest.raises(ClientError) as error:
            ssm.send_command(
                DocumentName="AWS-RunShellScript", InstanceIds=[node], Parameters=parameters
            )
        return str(error.value)

    assert "InvalidInstanceId" in send(DOCUMENT, instance)  # it was allowed
    assert DOCUMENT in send(instance)
    assert instance in send(DOCUMENT)
    assert "instance/i-87654321" in send(DOCUMENT, instance, node="i-87654321")


def checks(**request):
    return command_checks(
        {"DocumentName": "AWS-RunShellScript", **request}, "eu-west-1", "111111111111"
    )


def test_documents_of_aws_have_no_account():
    assert checks() == [("ssm:SendCommand", DOCUMENT)]
    [(_, own)] = checks(DocumentName="Mine")
    assert own == "arn:aws:ssm:eu-west-1:111111111111:document/Mine"
    [(_, given)] = checks(DocumentName="arn:aws:ssm:eu-west-1:222222222222:document/Theirs")
    assert given == "arn:aws:ssm:eu-west-1:222222222222:document/Theirs"


def test_targets_by_tag_are_all_instances():
    by_id = {"Key": "InstanceIds", "Values": ["i-2"]}
    by_tag = {"Key": "tag:role", "Values": ["web"]}
    instances = [
        arn.rpartition("/")[2]
        for _, arn in checks(InstanceIds=["i-1"], Targets=[by_id, by_tag])[1:]
    ]
    assert instances == ["i-1", "i-2", "*"]


def test_parameters_of_parameter_store_are_checked_by_name():
    commands = ["echo {{ ssm:/app/name:3 }} {{ssm:plain}}", "echo {{ssm:plain}} {{other}}"]
    assert checks(Parameters={"commands": commands})[1:] == [
        ("ssm:GetParameters", "arn:aws:ssm:eu-west-1:111111111111:parameter/app/name"),
        ("ssm:GetParameters", "arn:aws:ssm:eu-west-1:111111111111:parameter/plain"),
    ]


def test_flow_logs_are_checked_against_what_is_logged():
    def resource(kind):
        parameters = {
            "Action": ["CreateFlowLogs"],
            "ResourceType": [kind],
            "ResourceId.1": ["id-1"],
        }
        return resource_on_aws("ec2", "POST", "/", {}, b"", parameters, "eu-west-1", "111111111111")

    prefix = "arn:aws:ec2:eu-west-1:111111111111:"
    assert resource("VPC") == f"{prefix}vpc/id-1"
    assert resource("Subnet") == f"{prefix}subnet/id-1"
    assert resource("NetworkInterface") == f"{prefix}network-interface/id-1"


def test_a_resource_that_ministack_finds_is_kept():
    body = json.dumps({"TableName": "table"}).encode()
    headers = {"x-amz-target": "DynamoDB_20120810.GetItem"}
    found = resource_on_aws("dynamodb", "POST", "/", headers, body, {}, "eu-west-1", "111111111111")
    assert found == "arn:aws:dynamodb:eu-west-1:111111111111:table/table"
