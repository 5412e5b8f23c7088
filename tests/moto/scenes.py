"""The resources of the steps' examples, created in moto.

A scene returns the example's parameters. Only IDs that AWS chooses are replaced.
"""

import boto3
from moto.moto_api import state_manager

CODE = "def handler(event, context):\n    return event\n"
TASK_CONTAINER = {"name": "app", "image": "app", "memory": 64, "cpu": 64}


class Scene:
    """An empty account of the customer, with its peer account."""

    def __init__(self, stubs, account, peer, files, parameters):
        self.stubs = stubs
        self.account = account
        self.files = files
        self.parameters = parameters
        self._session = stubs.session()
        self._peer = stubs.session(peer)

    def client(self, service):
        return self._session.client(service, endpoint_url=self.stubs.endpoint)

    def peer(self, service):
        return self._peer.client(service, endpoint_url=self.stubs.endpoint)

    def create_operator(self):
        """Creates the operator's table and artifacts bucket. Unknown keys are the operator's."""
        options = {
            "endpoint_url": self.stubs.endpoint,
            "region_name": self.stubs.region,
            "aws_access_key_id": "operator",
            "aws_secret_access_key": "not-a-secret",
        }
        boto3.client("dynamodb", **options).create_table(
            TableName="stepward",
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[
                {"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")
            ],
            KeySchema=[
                {"AttributeName": "pk", "KeyType": "HASH"},
                {"AttributeName": "sk", "KeyType": "RANGE"},
            ],
        )
        boto3.client("s3", **options).create_bucket(
            Bucket="stepward-artifacts", CreateBucketConfiguration=self.location()
        )

    def location(self):
        return {"LocationConstraint": self.stubs.region}

    def bucket(self, name, **objects):
        s3 = self.client("s3")
        s3.create_bucket(Bucket=name, CreateBucketConfiguration=self.location())
        for key, body in objects.items():
            s3.put_object(Bucket=name, Key=key, Body=body)

    def file(self, path):
        path = self.files / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a,b\n")

    def image(self):
        return self.client("ec2").describe_images(Owners=["amazon"])["Images"][0]["ImageId"]

    def instance(self, **options):
        ec2 = self.client("ec2")
        created = ec2.run_instances(
            ImageId=self.image(), InstanceType="t3.micro", MinCount=1, MaxCount=1, **options
        )
        return created["Instances"][0]["InstanceId"]

    def cluster(self, running=True):
        """Creates the ECS cluster of the examples with one task, and returns the task's ARN."""
        ecs = self.client("ecs")
        ecs.create_cluster(clusterName="production")
        ecs.register_task_definition(
            family="app",
            containerDefinitions=[TASK_CONTAINER],
            networkMode="awsvpc",
            requiresCompatibilities=["FARGATE"],
            cpu="256",
            memory="512",
        )
        ec2 = self.client("ec2")
        subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
        group = ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
        network = {"awsvpcConfiguration": {"subnets": [subnet], "securityGroups": [group]}}
        task = ecs.run_task(
            cluster="production",
            taskDefinition="app",
            launchType="FARGATE",
            enableExecuteCommand=True,
            networkConfiguration=network,
        )["tasks"][0]["taskArn"]
        if not running:
            ecs.stop_task(cluster="production", task=task, reason="crashed")
        return task

    def database(self, stopped=False):
        rds = self.client("rds")
        rds.create_db_instance(
            DBInstanceIdentifier="orders",
            DBInstanceClass="db.t3.medium",
            Engine="postgres",
            AllocatedStorage=20,
            MasterUsername="orders",
            MasterUserPassword="not-a-secret",
        )
        if stopped:
            rds.stop_db_instance(DBInstanceIdentifier="orders")

    def database_cluster(self, stopped=False):
        rds = self.client("rds")
        rds.create_db_cluster(
            DBClusterIdentifier="orders",
            Engine="aurora-postgresql",
            MasterUsername="orders",
            MasterUserPassword="not-a-secret",
        )
        rds.create_db_instance(
            DBInstanceIdentifier="orders-1",
            DBClusterIdentifier="orders",
            DBInstanceClass="db.t3.medium",
            Engine="aurora-postgresql",
        )
        if stopped:
            rds.stop_db_cluster(DBClusterIdentifier="orders")

    def role(self, name, service):
        policy = (
            '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": '
            f'"sts:AssumeRole", "Principal": {{"Service": "{service}"}}}}]}}'
        )
        iam = self.client("iam")
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=policy)

    def example(self, **ids):
        return {**self.parameters, **ids}


def example_only(scene):
    return scene.example()


def athena_query(scene):
    scene.bucket("stepward-results-222222222222")
    return scene.example()


def autoscaling_update_group(scene):
    scaling = scene.client("autoscaling")
    scaling.create_launch_configuration(
        LaunchConfigurationName="web", ImageId=scene.image(), InstanceType="t3.micro"
    )
    scaling.create_auto_scaling_group(
        AutoScalingGroupName="web",
        LaunchConfigurationName="web",
        MinSize=1,
        MaxSize=6,
        DesiredCapacity=1,
        AvailabilityZones=["eu-west-1a"],
    )
    return scene.example()


def log_group(name):
    def create(scene):
        scene.client("logs").create_log_group(logGroupName=name)
        return scene.example()

    return create


def ec2_capture_snapshot(scene):
    ec2 = scene.client("ec2")
    volume = ec2.create_volume(AvailabilityZone="eu-west-1a", Size=8)
    return scene.example(volume_id=volume["VolumeId"])


def ec2_create_from_snapshot(scene):
    ec2 = scene.client("ec2")
    volume = ec2.create_volume(AvailabilityZone="eu-west-1a", Size=8)
    snapshot = ec2.create_snapshot(VolumeId=volume["VolumeId"])
    return scene.example(snapshot_id=snapshot["SnapshotId"])


def ec2_nodes(scene):
    scene.instance()
    return scene.example()


def running_instance(scene):
    return scene.example(instance_ids=[scene.instance()])


def stopped_instance(scene):
    instance = scene.instance()
    scene.client("ec2").stop_instances(InstanceIds=[instance])
    return scene.example(instance_ids=[instance])


def tagged_instance(scene):
    tags = [{"Key": "environment", "Value": "test"}]
    scene.instance(TagSpecifications=[{"ResourceType": "instance", "Tags": tags}])
    return scene.example()


def managed_instance(scene):
    return scene.example(instance_ids=scene.instance())


def copy_file(scene):
    scene.bucket("releases-222222222222", **{"app/app.conf": "a=b"})
    return managed_instance(scene)


def task_with_agent(scene):
    """moto's tasks have no agent of ECS Exec, so it is added to moto's state. The task keeps
    running; otherwise it would stop after a few calls of DescribeTasks."""
    state_manager.set_transition("ecs::task", {"progression": "manual", "times": 1000})
    arn = scene.cluster()
    task = scene.stubs.task(arn)
    task.enable_execute_command = True
    for container in task.containers:
        container.name = "app"
        container.runtime_id = "runtime"
        container.last_status = "RUNNING"
        container.managed_agents = [{"name": "ExecuteCommandAgent", "last_status": "RUNNING"}]
    scene.stubs.lacking.add("ecs:DescribeTasks (agents of ECS Exec)")
    return scene.example(task=arn)


def running_task(scene):
    return scene.example(task=scene.cluster())


def ecs_nodes(scene):
    scene.cluster()
    return scene.example()


def stopped_task(scene):
    scene.cluster(running=False)
    return scene.example()


def elb_unhealthy_targets(scene):
    ec2, elb = scene.client("ec2"), scene.client("elbv2")
    subnets = [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"]]
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    balancer = elb.create_load_balancer(Name="shop", Subnets=subnets)["LoadBalancers"][0]
    group = elb.create_target_group(Name="web", Protocol="HTTP", Port=80, VpcId=vpc)
    group = group["TargetGroups"][0]["TargetGroupArn"]
    elb.register_targets(TargetGroupArn=group, Targets=[{"Id": scene.instance()}])
    elb.create_listener(
        LoadBalancerArn=balancer["LoadBalancerArn"],
        Protocol="HTTP",
        Port=80,
        DefaultActions=[{"Type": "forward", "TargetGroupArn": group}],
    )
    return scene.example()


def lambda_invoke(scene):
    scene.role("rotate-logs", "lambda.amazonaws.com")
    scene.client("lambda").create_function(
        FunctionName="rotate-logs",
        Role="arn:aws:iam::222222222222:role/rotate-logs",
        Runtime="python3.12",
        Handler="index.handler",
        Code={"ZipFile": CODE.encode()},
    )
    return scene.example()


def lambda_run_code(scene):
    scene.role("run-code", "lambda.amazonaws.com")
    return scene.example()


def database(scene):
    scene.database()
    return scene.example()


def stopped_database(scene):
    scene.database(stopped=True)
    return scene.example()


def database_cluster(scene):
    scene.database_cluster()
    scene.stubs.lacking.add("rds:StopDBCluster (state of the instances)")
    return scene.example()


def stopped_database_cluster(scene):
    scene.database_cluster(stopped=True)
    scene.stubs.lacking.add("rds:StartDBCluster (state of the instances)")
    return scene.example()


def upload(scene):
    scene.bucket("stepward-data-222222222222")
    scene.file("reports/today.csv")
    return scene.example()


def data_bucket(scene):
    scene.bucket("stepward-data-222222222222", **{"reports/2025/a.csv": "a", "reports/b.csv": "b"})
    return scene.example()


def empty_bucket(scene):
    scene.bucket("acme-reports-222222222222")
    return scene.example()


def vpc_create_flow_logs(scene):
    scene.role("flow-logs", "vpc-flow-logs.amazonaws.com")
    scene.client("logs").create_log_group(logGroupName="/network/rejected")
    vpc = scene.client("ec2").create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    return scene.example(resource_ids=vpc)


def vpc_enable_peering(scene):
    vpc = scene.client("ec2").create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    peer = scene.peer("ec2").create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
    return scene.example(vpc_id=vpc, peer_vpc_id=peer)


SCENES = {
    "athena-query": athena_query,
    "autoscaling-update-group": autoscaling_update_group,
    "cloudwatch-create-log-stream": log_group("/audit/trail"),
    "cloudwatch-query-logs": log_group("/aws/lambda/orders"),
    "cloudwatch-run-saved-query": log_group("/aws/lambda/orders"),
    "ec2-capture-snapshot": ec2_capture_snapshot,
    "ec2-create-from-snapshot": ec2_create_from_snapshot,
    "ec2-nodes": ec2_nodes,
    "ec2-restart": running_instance,
    "ec2-start": stopped_instance,
    "ec2-stop": tagged_instance,
    "ec2-terminate": running_instance,
    "ecs-exec": task_with_agent,
    "ecs-nodes": ecs_nodes,
    "ecs-stop-task": running_task,
    "ecs-stopped-task-errors": stopped_task,
    "elb-unhealthy-targets": elb_unhealthy_targets,
    "lambda-invoke": lambda_invoke,
    "lambda-run-code": lambda_run_code,
    "rds-capture-snapshot": database,
    "rds-start-cluster": stopped_database_cluster,
    "rds-start-instance": stopped_database,
    "rds-status": database,
    "rds-stop-cluster": database_cluster,
    "rds-stop-instance": database,
    "s3-copy": upload,
    "s3-create-bucket": example_only,
    "s3-delete": data_bucket,
    "s3-delete-bucket": empty_bucket,
    "s3-list": data_bucket,
    "s3-move": upload,
    "s3-sync": upload,
    "ssm-copy-file": copy_file,
    "ssm-run-command": managed_instance,
    "ssm-run-script": managed_instance,
    "validate-credentials": example_only,
    "vpc-create-flow-logs": vpc_create_flow_logs,
    "vpc-enable-peering": vpc_enable_peering,
}
