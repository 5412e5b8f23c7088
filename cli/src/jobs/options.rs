//! The options that a job declares in its definition.

use serde_json::{Map, Value};

use super::state_machine_arn;
use crate::cloud::Cloud;
use crate::deploy::Deployment;
use crate::error::{Error, Result};

/// How a state machine in JSONata refuses options that it does not declare. The names follow, and
/// the list ends with `]`.
const DECLARATION: &str = "$keys($states.input.options)[$not($ in [";

/// Refuses options that the job does not declare. The job refuses them, too, but after its start.
/// If the definition cannot be read or declares no list, nothing is refused here.
pub(crate) async fn check_options(
    cloud: &Cloud,
    deployment: &Deployment,
    job: &str,
    options: &Map<String, Value>,
) -> Result<()> {
    if options.is_empty() {
        return Ok(());
    }
    let described = cloud
        .sfn()
        .describe_state_machine()
        .state_machine_arn(state_machine_arn(deployment, job)?)
        .send()
        .await;
    let definition = described.ok().map(|described| described.definition);
    match definition.as_deref().and_then(declared_options) {
        Some(declared) => refuse_undeclared(job, &declared, options),
        None => Ok(()),
    }
}

fn refuse_undeclared(job: &str, declared: &[&str], options: &Map<String, Value>) -> Result<()> {
    let Some(unknown) = options
        .keys()
        .find(|name| !declared.contains(&name.as_str()))
    else {
        return Ok(());
    };
    let advice = match (declared, unknown.split_once('.')) {
        ([], _) => "omit --option".to_owned(),
        (_, Some((name, entry))) if declared.contains(&name) => {
            format!("give the whole map as JSON: --option '{name}={{\"{entry}\":\"…\"}}'")
        }
        _ => format!("choose one of {}", declared.join(", ")),
    };
    Err(
        Error::usage_error(format!("job \"{job}\" has no option \"{unknown}\""))
            .with_advice(advice),
    )
}

/// The options that a definition declares; none if it does not tell.
fn declared_options(definition: &str) -> Option<Vec<&str>> {
    if let Some((_, rest)) = definition.split_once(DECLARATION) {
        let (list, _) = rest.split_once(']')?;
        let names = list.split(',').map(|name| name.trim().trim_matches('\''));
        return Some(names.filter(|name| !name.is_empty()).collect());
    }
    // A job that passes its whole input to something else can have any option.
    let inputs = definition.split("$states.input").skip(1);
    let reads_fields = inputs.clone().all(|after| after.starts_with('.'));
    let is_closed = definition.contains("\"JSONata\"")
        && !definition.contains("JSONPath")
        && !definition.contains("Execution.Input")
        && !definition.contains("$states.input.options");
    (is_closed && reads_fields).then(Vec::new)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::error::NOT_STARTED;
    use crate::package;
    use crate::workspace::Workspace;

    #[test]
    fn every_job_refuses_other_options_than_its_own() {
        let workspace = Workspace::find().unwrap();
        for job in package::jobs(&workspace).unwrap() {
            let definition = std::fs::read_to_string(workspace.root.join(&job.path)).unwrap();
            let declared = declared_options(&definition);
            let expected: Option<&[&str]> = match job.name.as_str() {
                "account/check" => Some(&[]),
                "fleet/morning-check" => Some(&["tags", "database", "query", "results_bucket"]),
                "step/run" => Some(&["step", "params", "region"]),
                // The function `dispatch` refuses other options.
                "nodes/dispatch" => None,
                other => panic!("{other}: say which options it has"),
            };
            assert_eq!(declared.as_deref(), expected, "{}", job.name);
        }
    }

    #[test]
    fn a_job_without_options_is_told_from_an_unknown_one() {
        let machine = |expression: &str| {
            json!({ "QueryLanguage": "JSONata", "States": { "A": { "Output": expression } } })
                .to_string()
        };
        let closed = machine("{% $states.input.customer %}");
        assert_eq!(declared_options(&closed), Some(Vec::new()));
        for open in [
            machine("{% $states.input %}"),
            machine("{% $states.input.options.a %}"),
            machine("{% $states.context.Execution.Input %}"),
            json!({ "States": { "A": { "InputPath": "$.options" } } }).to_string(),
        ] {
            assert_eq!(declared_options(&open), None, "{open}");
        }
    }

    #[test]
    fn an_undeclared_option_is_refused_by_name() {
        let option = |name: &str| Map::from_iter([(name.to_owned(), json!(1))]);
        let declared = ["tags", "query"];
        refuse_undeclared("a/b", &declared, &option("tags")).unwrap();
        for (declared, name, advice) in [
            (&declared[..], "tag", "choose one of tags, query"),
            (&declared, "tags.a", "--option 'tags={\"a\":\"…\"}'"),
            (&[], "x", "omit --option"),
        ] {
            let refused = refuse_undeclared("a/b", declared, &option(name)).unwrap_err();
            assert_eq!(refused.code(), NOT_STARTED);
            let text = refused.to_string();
            assert!(
                text.starts_with(&format!("job \"a/b\" has no option \"{name}\"\n"))
                    && text.contains(advice),
                "{text}"
            );
        }
    }
}
