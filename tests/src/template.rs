//! The parts of `infra/template.yaml` that follow from the steps and the jobs.

use stepward::manifest::Manifest;

/// The functions of steps. Those that no job uses carry a condition: the demo goes without them.
pub(crate) fn steps(steps: &[&Manifest], is_used: impl Fn(&str) -> bool) -> String {
    let block = |step: &&Manifest| {
        let name = &step.name;
        let condition = if is_used(name) { "" } else { "\n    Condition: AllSteps" };
        // A JSON string is a YAML string too.
        let title = serde_json::Value::from(step.title.trim_end_matches('.'));
        format!(
            "  {id}:
    Type: AWS::Serverless::Function{condition}
    Properties:
      Description: {title}
      FunctionName: !Sub \"${{AWS::StackName}}-{name}\"
      CodeUri: {{Bucket: !Ref CodeBucket, Key: !Sub \"${{CodePrefix}}/{name}.zip\"}}
      Role: !GetAtt BrokerRole.Arn
",
            id = logical_id(name)
        )
    };
    let mut steps = steps.to_vec();
    steps.sort_by_key(|step| &step.name);
    steps.iter().map(block).collect::<Vec<_>>().join("\n")
}

/// The state machines of jobs, which are called `group/job`.
pub(crate) fn jobs<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let block = |name: &str| {
        format!(
            "  {id}:
    Type: AWS::Serverless::StateMachine
    Properties:
      Name: !Sub \"${{AWS::StackName}}-{with_hyphen}\"
      DefinitionUri: {{Bucket: !Ref CodeBucket, Key: !Sub \"${{CodePrefix}}/jobs/{name}.asl.json\"}}
      DefinitionSubstitutions: {{StackName: !Ref AWS::StackName}}
      Role: !GetAtt JobRole.Arn
      Tracing: {{Enabled: true}}
      Logging:
        Level: ALL
        IncludeExecutionData: false
        Destinations:
          - CloudWatchLogsLogGroup: {{LogGroupArn: !GetAtt JobLogs.Arn}}
",
            id = logical_id(name),
            with_hyphen = name.replace('/', "-")
        )
    };
    names.map(block).collect::<Vec<_>>().join("\n")
}

/// The template with another text between `# NAME: begin` and `# NAME: end`.
pub(crate) fn replaced(template: &str, name: &str, block: &str) -> Result<String, String> {
    let (begin, end) = (format!("  # {name}: begin\n"), format!("  # {name}: end\n"));
    let (before, rest) = template.split_once(&begin).ok_or_else(|| format!("there is no line `{}`", begin.trim()))?;
    let (_, after) = rest.split_once(&end).ok_or_else(|| format!("there is no line `{}`", end.trim()))?;
    Ok(format!("{before}{begin}{block}{end}{after}"))
}

/// `fleet/morning-check` is `FleetMorningCheck`.
fn logical_id(name: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_uppercase().chain(letters).collect::<String>()).unwrap_or_default()
    };
    name.split(['/', '-']).map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_between_the_marks_is_replaced() {
        let text = "a\n  # steps: begin\nold\n  # steps: end\nb\n";
        assert_eq!(replaced(text, "steps", "new\n").unwrap(), "a\n  # steps: begin\nnew\n  # steps: end\nb\n");
        assert_eq!(replaced(text, "jobs", "").unwrap_err(), "there is no line `# jobs: begin`");
    }

    #[test]
    fn logical_ids_have_no_hyphens() {
        assert_eq!(logical_id("athena-query"), "AthenaQuery");
        assert_eq!(logical_id("fleet/morning-check"), "FleetMorningCheck");
    }
}
