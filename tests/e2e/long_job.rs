//! A long job: one state machine that runs steps of every service.

use aws_sdk_cloudwatchlogs::types::InputLogEvent;
use aws_sdk_ec2::types::Filter;
use aws_sdk_ecs::types::ContainerDefinition;
use aws_sdk_elasticloadbalancingv2::types as elb;
use aws_sdk_lambda::types::{FunctionCode, Runtime};
use serde_json::{Value, json};
use stepward_cli::jobs::{Finished, Outcome};

use crate::test_stack::{CustomerAccount, REGION, STACK, TestStack, create_zip, with_stack};

/// The steps of the job in order, with their parameters as JSONata. `$input` is the job's input,
/// and `$done` contains the outputs of earlier steps. [`crate::every_step`] also reads the table,
/// and does not support operators.
pub(crate) const STEPS: [(&str, &str); 23] = [
    ("validate-credentials", "{}"),
    ("ec2-start", "{ 'instance_ids': $input.instances }"),
    (
        "ec2-capture-snapshot",
        "{ 'volume_id': $input.volume, 'snapshot_name': 'before the night' }",
    ),
    (
        "ec2-create-from-snapshot",
        "{ 'snapshot_id': $done.`ec2-capture-snapshot`.snapshots[0].snapshot_id, \
         'instance_type': 't3.micro', 'name': 'copy' }",
    ),
    (
        "ec2-restart",
        "{ 'instance_ids': $input.instances[0], 'settle_seconds': 1 }",
    ),
    ("ec2-stop", "{ 'instance_ids': $input.instances }"),
    (
        "ec2-terminate",
        "{ 'instance_ids': $done.`ec2-create-from-snapshot`.instance_id, 'expected_count': 1 }",
    ),
    (
        "autoscaling-update-group",
        "{ 'group_name': 'web', 'desired_capacity': 2, 'wait_for_capacity': true }",
    ),
    (
        "ecs-stop-task",
        "{ 'cluster': 'batch', 'task': $input.task, 'reason': 'the night is over' }",
    ),
    ("ecs-stopped-task-errors", "{ 'cluster': 'batch' }"),
    ("elb-unhealthy-targets", "{ 'load_balancer': 'shop' }"),
    ("rds-status", "{ 'instance': 'orders' }"),
    (
        "rds-capture-snapshot",
        "{ 'instance': 'orders', 'snapshot_name': 'orders-night' }",
    ),
    ("rds-stop-instance", "{ 'instance': 'orders' }"),
    ("rds-start-instance", "{ 'instance': 'orders' }"),
    (
        "lambda-invoke",
        "{ 'function_name': 'count', 'payload': { 'days': 7 } }",
    ),
    (
        "lambda-run-code",
        "{ 'execution_role_arn': $input.role, 'runtime': 'Python', 'payload': \
         $done.`lambda-invoke`.payload, \
         'code': 'def lambda_handler(event, context):\\n    return event + 1\\n' }",
    ),
    (
        "cloudwatch-create-log-stream",
        "{ 'log_group_name': '/shop', 'log_stream_name': 'night' }",
    ),
    (
        "cloudwatch-query-logs",
        "{ 'log_groups': '/shop', 'query_string': 'fields @message', 'time_unit': 'Hours', \
         'past_range': 1 }",
    ),
    (
        "cloudwatch-run-saved-query",
        "{ 'query_path': 'operations', 'query_name': 'all', 'time_unit': 'Hours', 'past_range': 1 \
         }",
    ),
    (
        "athena-query",
        "{ 'query': 'SELECT count(*) AS backups FROM backups', 'database': 'operations', 'bucket': \
         $input.results }",
    ),
    ("s3-list", "{ 'uri': $input.data, 'recursive': true }"),
    (
        "vpc-create-flow-logs",
        "{ 'resource_ids': $input.vpc, 'resource_type': 'VPC', 'traffic_type': 'Reject', \
         'log_group_name': '/shop', \
         'role_arn': $input.role }",
    ),
];

/// Returns a state machine that runs the steps in order, each until it is done.
fn state_machine(job: &str, steps: &[(&str, &str)]) -> Value {
    let mut states = json!({
        "Begin": {
            "Type": "Pass",
            "Assign": { "input": "{% $states.input %}", "done": {}, "response": {} },
            "Next": steps[0].0,
        },
        "End": { "Type": "Pass", "Output": "{% $done %}", "End": true },
    });
    for (index, (step, params)) in steps.iter().enumerate() {
        let next = steps.get(index + 1).map_or("End", |(step, _)| *step);
        let (is_done, wait) = (format!("{step}: done?"), format!("{step}: wait"));
        let payload = format!(
            "{{% $merge([{{ 'target': $input.target, 'params': {params}, 'execution': {{ \
             'id': $states.context.Execution.Name, 'job': '{job}', 'step': '{step}', 'started_by': \
             'test' }} }}, \
             $exists($response.resume) ? {{ 'resume': $response.resume }} : {{}}]) %}}"
        );
        states[*step] = json!({
            "Type": "Task",
            "Resource": "arn:aws:states:::lambda:invoke",
            "Arguments": { "FunctionName": format!("{STACK}-{step}"), "Payload": payload },
            "TimeoutSeconds": 120,
            "Assign": { "response": "{% $states.result.Payload %}" },
            "Next": is_done,
        });
        states[&is_done] = json!({
            "Type": "Choice",
            "Choices": [{
                "Condition": "{% $response.status = 'done' %}",
                "Assign": { "done": format!("{{% $merge([$done, {{ '{step}': $response.output }}]) \
                 %}}"), "response": {} },
                "Next": next,
            }],
            "Default": wait,
        });
        states[&wait] = json!({ "Type": "Wait", "Seconds": 1, "Next": step });
    }
    json!({
        "QueryLanguage": "JSONata",
        "TimeoutSeconds": 200,
        "StartAt": "Begin",
        "States": states,
    })
}

/// Creates a job of the steps, each at most once, with parameters in the format of [`STEPS`], and
/// runs it until it ends.
pub(crate) async fn run_job_of_steps(
    test_stack: &TestStack,
    job: &str,
    steps: &[(&str, &str)],
    input: &Value,
) -> Finished {
    let sfn = test_stack.operator.sfn();
    let machines = test_stack.deployment.output("StateMachinePrefix").unwrap();
    let role = sfn
        .describe_state_machine()
        .state_machine_arn(format!("{machines}account-check"))
        .send()
        .await
        .unwrap()
        .role_arn;
    sfn.create_state_machine()
        .name(format!("{STACK}-{}", job.replace('/', "-")))
        .role_arn(role)
        .definition(state_machine(job, steps).to_string())
        .send()
        .await
        .unwrap();
    test_stack.run_job(job, input).await
}

/// Creates a customer with the resources for all steps, and returns the input of the job.
#[expect(
    clippy::too_many_lines,
    reason = "most lines are the resources of one job"
)]
pub(crate) async fn create_customer_with_resources(
    test_stack: &TestStack,
) -> (CustomerAccount, Value) {
    let customer_account = test_stack.create_customer_without_role().await;
    customer_account.create_data().await;
    let config = &customer_account.owner.config;
    let all: Vec<_> = STEPS.iter().map(|(step, _)| *step).collect();
    test_stack
        .onboard_with_template(&customer_account, &["--steps", &all.join(",")])
        .await;

    let instances = customer_account.run_instances(2).await;
    let scaling = aws_sdk_autoscaling::Client::new(config);
    scaling
        .create_launch_configuration()
        .launch_configuration_name("web")
        .instance_type("t3.micro")
        .image_id("ami-12345678")
        .send()
        .await
        .unwrap();
    scaling
        .create_auto_scaling_group()
        .auto_scaling_group_name("web")
        .launch_configuration_name("web")
        .availability_zones(format!("{REGION}a"))
        .min_size(1)
        .max_size(3)
        .desired_capacity(1)
        .send()
        .await
        .unwrap();

    let ecs = aws_sdk_ecs::Client::new(config);
    ecs.create_cluster()
        .cluster_name("batch")
        .send()
        .await
        .unwrap();
    let app = ContainerDefinition::builder()
        .name("app")
        .image("app")
        .memory(64)
        .build();
    ecs.register_task_definition()
        .family("batch")
        .container_definitions(app)
        .send()
        .await
        .unwrap();
    let task = ecs
        .run_task()
        .cluster("batch")
        .task_definition("batch")
        .send()
        .await
        .unwrap();

    let balancing = aws_sdk_elasticloadbalancingv2::Client::new(config);
    let balancer = balancing
        .create_load_balancer()
        .name("shop")
        .send()
        .await
        .unwrap();
    let targets = balancing
        .create_target_group()
        .name("web")
        .target_type(elb::TargetTypeEnum::Ip)
        .vpc_id("vpc-1")
        .protocol(elb::ProtocolEnum::Http)
        .port(80)
        .send()
        .await
        .unwrap();
    let targets = targets.target_groups()[0].target_group_arn().unwrap();
    let target = elb::TargetDescription::builder()
        .id("10.0.0.1")
        .port(80)
        .build();
    balancing
        .register_targets()
        .target_group_arn(targets)
        .targets(target)
        .send()
        .await
        .unwrap();
    let forward = elb::Action::builder()
        .r#type(elb::ActionTypeEnum::Forward)
        .target_group_arn(targets)
        .build();
    let listener = balancing
        .create_listener()
        .protocol(elb::ProtocolEnum::Http)
        .port(80)
        .default_actions(forward);
    let balancer = balancer.load_balancers()[0].load_balancer_arn().unwrap();
    listener.load_balancer_arn(balancer).send().await.unwrap();

    let rds = aws_sdk_rds::Client::new(config);
    let database = rds
        .create_db_instance()
        .db_instance_identifier("orders")
        .db_instance_class("db.t3.micro");
    let database = database
        .engine("postgres")
        .allocated_storage(20)
        .master_username("owner");
    database
        .master_user_password("correct-horse")
        .send()
        .await
        .unwrap();

    let lambda = aws_sdk_lambda::Client::new(config);
    let code = create_zip(
        "index.py",
        b"def handler(event, context):\n    return event['days'] + 1\n",
    );
    let function = lambda
        .create_function()
        .function_name("count")
        .runtime(Runtime::Python312)
        .handler("index.handler");
    let role = customer_account.function_role().await;
    let function = function
        .role(&role)
        .code(FunctionCode::builder().zip_file(code.into()).build());
    function.send().await.unwrap();

    let logs = aws_sdk_cloudwatchlogs::Client::new(config);
    logs.create_log_group()
        .log_group_name("/shop")
        .send()
        .await
        .unwrap();
    logs.create_log_stream()
        .log_group_name("/shop")
        .log_stream_name("day")
        .send()
        .await
        .unwrap();
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let now = i64::try_from(since.as_millis()).unwrap();
    let closed = InputLogEvent::builder()
        .timestamp(now)
        .message("the shop is closed")
        .build()
        .unwrap();
    let put = logs
        .put_log_events()
        .log_group_name("/shop")
        .log_stream_name("day");
    put.log_events(closed).send().await.unwrap();
    let saved = logs
        .put_query_definition()
        .name("operations/all")
        .query_string("fields @message");
    saved.log_group_names("/shop").send().await.unwrap();

    let vpcs = customer_account
        .owner
        .ec2()
        .describe_vpcs()
        .send()
        .await
        .unwrap();
    let attached = Filter::builder()
        .name("attachment.instance-id")
        .values(&instances[0])
        .build();
    let volumes = customer_account
        .owner
        .ec2()
        .describe_volumes()
        .filters(attached)
        .send()
        .await
        .unwrap();
    let input = json!({
        "target": { "customer": customer_account.customer, "account": "prod" },
        "account_id": customer_account.owner.account,
        "data": format!("s3://stepward-data-{}/", customer_account.owner.account),
        "instances": instances,
        "task": task.tasks()[0].task_arn(),
        "role": role,
        "results": format!("stepward-results-{}", customer_account.owner.account),
        "volume": volumes.volumes()[0].volume_id(),
        "vpc": vpcs.vpcs()[0].vpc_id(),
    });
    (customer_account, input)
}

#[test]
fn a_job_with_steps_of_every_service_succeeds() {
    with_stack(async |test_stack| {
        let (customer_account, input) = create_customer_with_resources(test_stack).await;

        let finished = run_job_of_steps(test_stack, "test/long", &STEPS, &input).await;

        assert_eq!(finished.outcome, Outcome::Succeeded, "{finished:?}");
        let done = &finished.output;
        assert_eq!(done.as_object().unwrap().len(), STEPS.len(), "{done}");
        assert_effects(&customer_account).await;
        assert_eq!(done["lambda-invoke"]["payload"], 8);
        assert_eq!(done["lambda-run-code"]["invokeResponsePayloadString"], "9");
        assert_eq!(done["lambda-run-code"]["functionWasDeleted"], true);
        assert_eq!(done["athena-query"]["rows"], json!([["3"]]));
    });
}

/// Checks the effects of the steps with the credentials of the account's owner.
pub(crate) async fn assert_effects(customer_account: &CustomerAccount) {
    let mut states = customer_account.instance_states().await;
    states.sort();
    assert_eq!(
        states,
        ["stopped", "stopped", "stopped", "stopped", "terminated"]
    );
    let flow_logs = customer_account
        .owner
        .ec2()
        .describe_flow_logs()
        .send()
        .await
        .unwrap();
    assert_eq!(flow_logs.flow_logs().len(), 1);
}
