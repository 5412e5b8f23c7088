//! A deployment with a file system. The local cloud stores the configuration of functions, but
//! mounts no file systems.

use std::collections::BTreeMap;

use aws_sdk_lambda::operation::get_function_configuration::GetFunctionConfigurationOutput;
use serde_json::Value;
use stepward_cli::deploy::stack::{self, Outcome, Template};
use stepward_cli::output::Progress;

use crate::test_stack::{STACK, TestStack, with_stack};

/// A step that works on files.
const STEP: &str = "s3-copy";
const ACCESS_POINT: (&str, &str) = (
    "FileSystemAccessPointArn",
    "arn:aws:elasticfilesystem:eu-west-1:111111111111:access-point/fsap-0123456789abcdef0",
);
const SUBNETS: (&str, &str) = ("VpcSubnetIds", "subnet-0a1b2c3d,subnet-4e5f6a7b");
const SECURITY_GROUPS: (&str, &str) = ("VpcSecurityGroupIds", "sg-0a1b2c3d");

/// Deploys a second stack of the same release with the given parameters, without the local cloud's
/// folder.
pub(crate) async fn deploy_second_stack(
    test_stack: &TestStack,
    stack: &str,
    given: &[(&str, &str)],
) -> Result<Outcome, String> {
    let release = ["CodeBucket", "CodePrefix", "Architecture"]
        .map(|name| (name, &*test_stack.deployment.parameters[name]));
    let parameters: BTreeMap<_, _> = release
        .iter()
        .chain(given)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let template = Template::Body(test_stack.read_file("infra/template.yaml"));
    let applied = stack::apply_template(
        &test_stack.operator,
        stack,
        &template,
        &parameters,
        &Progress::hidden(),
    )
    .await;
    applied.map_err(|error| error.to_string())
}

async fn function(
    test_stack: &TestStack,
    stack: &str,
    step: &str,
) -> GetFunctionConfigurationOutput {
    let lambda = aws_sdk_lambda::Client::new(&test_stack.operator.config);
    lambda
        .get_function_configuration()
        .function_name(format!("{stack}-{step}"))
        .send()
        .await
        .unwrap()
}

/// Returns the local root of a function.
fn local_root(function: &GetFunctionConfigurationOutput) -> Option<&str> {
    function
        .environment()?
        .variables()?
        .get("STEPWARD_LOCAL_ROOT")
        .map(String::as_str)
}

#[test]
fn only_steps_that_work_on_files_get_the_file_system() {
    with_stack(async |test_stack| {
        deploy_second_stack(
            test_stack,
            "files",
            &[ACCESS_POINT, SUBNETS, SECURITY_GROUPS],
        )
        .await
        .unwrap();
        let step = function(test_stack, "files", STEP).await;
        assert_eq!(
            (local_root(&step), step.timeout(), step.memory_size()),
            (Some("/mnt/stepward"), Some(900), Some(1769))
        );
        let other = function(test_stack, "files", "ec2-start").await;
        assert_eq!(
            (local_root(&other), other.timeout(), other.memory_size()),
            (None, Some(60), Some(512))
        );
        // The local cloud does not store mounts and VPCs. It runs SAM as AWS does, so check the
        // processed template.
        let made = test_stack
            .operator
            .cloudformation()
            .get_template()
            .stack_name("files")
            .template_stage("Processed".into())
            .send()
            .await
            .unwrap()
            .template_body
            .unwrap();
        let made: Value = serde_json::from_str(&made).unwrap();
        let functions = made["Resources"].as_object().unwrap().values();
        for function in functions.filter(|resource| resource["Type"] == "AWS::Lambda::Function") {
            let properties = &function["Properties"];
            let is_given_a_root = properties["Environment"]["Variables"]
                .get("STEPWARD_LOCAL_ROOT")
                .is_some();
            for property in ["FileSystemConfigs", "VpcConfig"] {
                let condition = properties
                    .get(property)
                    .map(|value| value["Fn::If"][0].as_str().unwrap());
                assert_eq!(
                    condition,
                    is_given_a_root.then_some("HasFileSystem"),
                    "{function}"
                );
            }
        }
    });
}

#[test]
fn the_local_cloud_uses_a_folder_as_file_system() {
    with_stack(async |test_stack| {
        let step = function(test_stack, STACK, STEP).await;
        assert_eq!(
            local_root(&step),
            test_stack.local.files().unwrap().to_str()
        );
    });
}

#[test]
fn conflicting_file_system_parameters_are_refused_with_advice() {
    with_stack(async |test_stack| {
        for (parameters, expected) in [
            (
                &[ACCESS_POINT][..],
                "set VpcSubnetIds and VpcSecurityGroupIds",
            ),
            (
                &[ACCESS_POINT, SUBNETS],
                "set VpcSubnetIds and VpcSecurityGroupIds",
            ),
            (&[SUBNETS, SECURITY_GROUPS], "set FileSystemAccessPointArn"),
            (
                &[
                    ACCESS_POINT,
                    SUBNETS,
                    SECURITY_GROUPS,
                    ("LocalFolder", "/srv"),
                ],
                "LocalFolder is for the local cloud",
            ),
            (
                &[("FileSystemAccessPointArn", "fsap-0123456789abcdef0")],
                "an EFS or S3 Files access point",
            ),
            (
                &[("FileSystemMountPath", "/mnt/a/b")],
                "FileSystemMountPath",
            ),
            (
                &[("VpcSubnetIds", "subnet-0a1b2c3d, subnet-4e5f6a7b")],
                "no spaces",
            ),
        ] {
            let error = deploy_second_stack(test_stack, "refused", parameters)
                .await
                .unwrap_err();
            assert!(error.contains(expected), "{parameters:?}: {error}");
        }
    });
}
