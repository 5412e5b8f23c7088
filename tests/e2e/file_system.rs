//! A deployment with a file system, as far as the local cloud goes: it keeps what a function is
//! given, and mounts nothing.

use std::collections::BTreeMap;

use aws_sdk_lambda::operation::get_function_configuration::GetFunctionConfigurationOutput;
use serde_json::Value;
use stepward_cli::deploy::stack::{self, Outcome, Template};
use stepward_cli::output::Progress;

use crate::world::{STACK, World, in_the_world};

/// A step that works on files.
const STEP: &str = "s3-copy";
const ACCESS_POINT: (&str, &str) = (
    "FileSystemAccessPointArn",
    "arn:aws:elasticfilesystem:eu-west-1:111111111111:access-point/fsap-0123456789abcdef0",
);
const SUBNETS: (&str, &str) = ("VpcSubnetIds", "subnet-0a1b2c3d,subnet-4e5f6a7b");
const SECURITY_GROUPS: (&str, &str) = ("VpcSecurityGroupIds", "sg-0a1b2c3d");

/// A second stack of the same release, with these parameters and without the local cloud's folder.
pub(crate) async fn deployed(
    world: &World,
    stack: &str,
    given: &[(&str, &str)],
) -> Result<Outcome, String> {
    let release = ["CodeBucket", "CodePrefix", "Architecture"]
        .map(|name| (name, &*world.deployment.parameters[name]));
    let parameters: BTreeMap<_, _> = release
        .iter()
        .chain(given)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let template = Template::Body(world.file("infra/template.yaml"));
    let applied = stack::apply(
        &world.operator,
        stack,
        &template,
        &parameters,
        &Progress::hidden(),
    )
    .await;
    applied.map_err(|error| error.to_string())
}

async fn function(world: &World, stack: &str, step: &str) -> GetFunctionConfigurationOutput {
    let lambda = aws_sdk_lambda::Client::new(&world.operator.config);
    lambda
        .get_function_configuration()
        .function_name(format!("{stack}-{step}"))
        .send()
        .await
        .unwrap()
}

/// Where a function's local paths begin.
fn local_root(function: &GetFunctionConfigurationOutput) -> Option<&str> {
    function
        .environment()?
        .variables()?
        .get("STEPWARD_LOCAL_ROOT")
        .map(String::as_str)
}

#[test]
fn a_file_system_is_for_the_steps_that_work_on_files_and_for_no_other() {
    in_the_world(async |world| {
        deployed(world, "files", &[ACCESS_POINT, SUBNETS, SECURITY_GROUPS])
            .await
            .unwrap();
        let step = function(world, "files", STEP).await;
        assert_eq!(
            (local_root(&step), step.timeout(), step.memory_size()),
            (Some("/mnt/stepward"), Some(900), Some(1769))
        );
        let other = function(world, "files", "ec2-start").await;
        assert_eq!(
            (local_root(&other), other.timeout(), other.memory_size()),
            (None, Some(60), Some(512))
        );
        // The local cloud keeps no mount and no VPC; this is what SAM, which it runs as AWS does,
        // made of the template.
        let made = world
            .operator
            .cloudformation()
            .get_template()
            .stack_name("files");
        let made = made
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
fn on_the_local_cloud_a_folder_takes_the_file_systems_place() {
    in_the_world(async |world| {
        let step = function(world, STACK, STEP).await;
        assert_eq!(local_root(&step), world.local.files().unwrap().to_str());
    });
}

#[test]
fn parameters_that_make_no_sense_together_are_refused_with_what_to_do() {
    in_the_world(async |world| {
        for (given, said) in [
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
            let error = deployed(world, "refused", given).await.unwrap_err();
            assert!(error.contains(said), "{given:?}: {error}");
        }
    });
}
