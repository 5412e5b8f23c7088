"""The APIs that moto lacks, with the least that the steps need. `cargo xtask moto` lists those that
a step has called."""

import io
import json
import uuid
from urllib.parse import parse_qsl

import boto3
from moto.backends import get_backend
from moto.rds.models import RDSBackend

ACCESS_DENIED = (
    b'<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>'
    b"<Code>AccessDenied</Code><Message>not authorized to perform: sts:AssumeRole</Message>"
    b"</Error><RequestId>moto</RequestId></ErrorResponse>"
)


def execute_command(stub, request):
    """A session with the fake agent of ECS Exec."""
    session = f"ecs-execute-command-{uuid.uuid4().hex}"
    command = request.get("command", "").encode().hex()
    task = stub.task(request["task"])
    return {
        "clusterArn": task.cluster_arn,
        "taskArn": task.task_arn,
        "containerName": "app",
        "containerArn": f"{task.task_arn}/container",
        "interactive": True,
        "session": {
            "sessionId": session,
            "streamUrl": f"{stub.stream}/{session}?command={command}",
            "tokenValue": "token",
        },
    }


def describe_sessions(stub, request):
    return {"Sessions": []}


def terminate_session(stub, request):
    return {"SessionId": request["SessionId"]}


def describe_instance_information(stub, request):
    """Every instance of the account has an agent that responds."""
    reservations = boto3_client(stub, "ec2").describe_instances()["Reservations"]
    instances = [instance for item in reservations for instance in item["Instances"]]
    return {
        "InstanceInformationList": [
            {
                "InstanceId": instance["InstanceId"],
                "PingStatus": "Online",
                "PlatformType": "Linux",
                "ResourceType": "EC2Instance",
                "AgentVersion": "3.3.0.0",
            }
            for instance in instances
        ]
    }


def list_command_invocations(stub, request):
    """Every instance has run the command successfully."""
    ssm = get_backend("ssm")[stub.account][stub.region]
    commands = ssm.list_commands(request.get("CommandId"), request.get("InstanceId"))
    return {
        "CommandInvocations": [
            {
                "CommandId": command.command_id,
                "InstanceId": instance,
                "DocumentName": command.document_name,
                "Status": "Success",
                "StatusDetails": "Success",
                "CommandPlugins": [
                    {
                        "Name": "runShellScript",
                        "Status": "Success",
                        "StatusDetails": "Success",
                        "ResponseCode": 0,
                        "Output": "done\n",
                    }
                ],
            }
            for command in commands
            for instance in command.instance_ids
        ]
    }


def describe_query_definitions(stub, request):
    definition = {
        "queryDefinitionId": str(uuid.uuid4()),
        "name": "operations/daily/errors by function",
        "queryString": "filter @message like /ERROR/",
        "logGroupNames": ["/aws/lambda/orders"],
    }
    return {"queryDefinitions": [definition]}


STUBS = {
    ("ecs", "ExecuteCommand"): execute_command,
    ("logs", "DescribeQueryDefinitions"): describe_query_definitions,
    ("ssm", "DescribeInstanceInformation"): describe_instance_information,
    ("ssm", "DescribeSessions"): describe_sessions,
    ("ssm", "ListCommandInvocations"): list_command_invocations,
    ("ssm", "TerminateSession"): terminate_session,
}


def change_with_instances(change, status):
    """moto starts and stops Aurora clusters without their instances."""

    def change_all(self, cluster_identifier):
        response = change(self, cluster_identifier)
        for member in self.clusters[cluster_identifier].members:
            member.status = status
        return response

    return change_all


RDSBackend.stop_db_cluster = change_with_instances(RDSBackend.stop_db_cluster, "stopped")
RDSBackend.start_db_cluster = change_with_instances(RDSBackend.start_db_cluster, "available")


def boto3_client(stub, service):
    """Returns a client of the customer's account."""
    return stub.session().client(service, endpoint_url=stub.endpoint)


class Stubs:
    """A WSGI application that responds to the APIs that moto lacks, and passes the others on."""

    def __init__(self, application, account, region):
        self.application = application
        self.account = account
        self.region = region
        self.external_ids = []
        self.endpoint = None
        self.stream = None
        # The APIs that moto lacks and that were called, or that a scene made up for.
        self.lacking = set()

    def task(self, name):
        """Returns moto's ECS task with this ID or ARN."""
        clusters = get_backend("ecs")[self.account][self.region].tasks.values()
        tasks = [task for cluster in clusters for task in cluster.values()]
        return next(task for task in tasks if name in task.task_arn)

    def session(self, account=None):
        sts = boto3.client(
            "sts",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id="owner",
            aws_secret_access_key="not-a-secret",
        )
        keys = sts.assume_role(
            RoleArn=f"arn:aws:iam::{account or self.account}:role/owner", RoleSessionName="owner"
        )["Credentials"]
        return boto3.Session(
            keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"], self.region
        )

    def is_refused_by_the_role(self, request):
        """moto does not read trust policies, so this is the condition of Stepward's role."""
        fields = dict(parse_qsl(request.decode()))
        return (
            fields.get("Action") == "AssumeRole"
            and fields["RoleArn"].endswith(":role/stepward/Stepward")
            and fields.get("ExternalId") not in self.external_ids
        )

    def __call__(self, environ, start_response):
        service = signing_service(environ)
        if service == "sts":
            request = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            if self.is_refused_by_the_role(request):
                self.lacking.add("sts:AssumeRole (trust policies)")
                start_response("403 Forbidden", [("Content-Type", "text/xml")])
                return [ACCESS_DENIED]
            environ["wsgi.input"] = io.BytesIO(request)
        operation = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
        stub = STUBS.get((service, operation))
        if stub is None:
            return self.application(environ, start_response)
        self.lacking.add(f"{service}:{operation}")
        length = int(environ.get("CONTENT_LENGTH") or 0)
        request = json.loads(environ["wsgi.input"].read(length) or b"{}")
        body = json.dumps(stub(self, request)).encode()
        start_response(
            "200 OK",
            [("Content-Type", "application/x-amz-json-1.1"), ("Content-Length", str(len(body)))],
        )
        return [body]


def signing_service(environ):
    """Returns the service in the signature's scope, KEY/DATE/REGION/SERVICE/aws4_request."""
    scope = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2].partition(",")[0]
    return scope.split("/")[-2] if scope.count("/") >= 4 else ""
