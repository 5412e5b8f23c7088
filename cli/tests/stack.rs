//! What an operator is told when CloudFormation cannot make a stack, and that nothing is done where
//! nothing has changed.

use serde_json::json;
use stepward_cli::cloud::Cloud;
use stepward_cli::deploy::stack::{self, Outcome, Parameters, Template};
use stepward_cli::error::Result;
use stepward_cli::local::{LocalCloud, OPERATOR};
use stepward_cli::output::Progress;
use stepward_cli::workspace::Workspace;

fn local_cloud(name: &str) -> Result<LocalCloud> {
    let dir = Workspace::find()?
        .local_cloud()
        .join(format!("test-{name}-{}", std::process::id()));
    LocalCloud::start_private(&dir)
}

fn buckets(names: &[&str]) -> Template {
    let bucket =
        |name: &&str| json!({ "Type": "AWS::S3::Bucket", "Properties": { "BucketName": name } });
    let resources: serde_json::Map<_, _> = names
        .iter()
        .enumerate()
        .map(|(number, name)| (format!("Bucket{number}"), bucket(name)))
        .collect();
    Template::Body(json!({ "Resources": resources }).to_string())
}

async fn apply(cloud: &Cloud, template: &Template) -> Result<Outcome, String> {
    let applied = stack::apply(
        cloud,
        "test",
        template,
        &Parameters::new(),
        &Progress::hidden(),
    )
    .await;
    applied.map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_failed_stack_names_the_first_failed_resource_and_what_to_do() {
    let local = local_cloud("failed-stack").unwrap();
    let other = Cloud::local(local.port, "999999999999", None);
    apply(&other, &buckets(&["taken-by-somebody-else"]))
        .await
        .unwrap();
    let cloud = Cloud::local(local.port, OPERATOR, None);
    let said = apply(
        &cloud,
        &buckets(&["free-to-take", "taken-by-somebody-else"]),
    )
    .await
    .unwrap_err();
    assert!(
        said.contains("Bucket1 (AWS::S3::Bucket)") && said.contains("ROLLBACK_COMPLETE"),
        "{said}"
    );
    assert!(
        said.contains("delete-stack --stack-name test") && said.contains("the local cloud"),
        "{said}"
    );
    let said = apply(&cloud, &buckets(&["free-to-take"]))
        .await
        .unwrap_err();
    assert!(said.contains("it was never created"), "{said}");
    std::fs::remove_dir_all(&local.dir).unwrap();
}

#[tokio::test]
async fn a_template_that_changes_nothing_is_success() {
    let local = local_cloud("same-stack").unwrap();
    let cloud = Cloud::local(local.port, OPERATOR, None);
    assert_eq!(
        apply(&cloud, &buckets(&["one"])).await,
        Ok(Outcome::Changed)
    );
    assert_eq!(
        apply(&cloud, &buckets(&["one"])).await,
        Ok(Outcome::Unchanged)
    );
    assert_eq!(
        apply(&cloud, &buckets(&["one", "two"])).await,
        Ok(Outcome::Changed)
    );
    std::fs::remove_dir_all(&local.dir).unwrap();
}
