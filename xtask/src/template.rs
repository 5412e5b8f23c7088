//! The generated blocks of `infra/template.yaml`: the functions of the steps and the state machines
//! of the jobs.

use stepward::runtime::manifest::Manifest;
use stepward::runtime::step::FunctionConfig;

/// The properties of a function that works on files: the local root, and on AWS its file system.
const LOCAL_FILES: &str = "      Environment:
        Variables:
          STEPWARD_LOCAL_ROOT: !If [HasFileSystem, !Ref FileSystemMountPath, !Ref LocalFolder]
      FileSystemConfigs: !If
        - HasFileSystem
        - [{Arn: !Ref FileSystemAccessPointArn, LocalMountPath: !Ref FileSystemMountPath}]
        - !Ref AWS::NoValue
      VpcConfig: !If
        - HasFileSystem
        - SubnetIds: !Split [\",\", !Ref VpcSubnetIds]
          SecurityGroupIds: !Split [\",\", !Ref VpcSecurityGroupIds]
        - !Ref AWS::NoValue
";

/// Returns the functions of the steps. Functions that no job uses have a condition, because the
/// demo does not deploy them.
pub(crate) fn function_resources(steps: &[&Manifest], is_used: impl Fn(&str) -> bool) -> String {
    let block = |step: &&Manifest| {
        let name = &step.name;
        let condition = if is_used(name) {
            ""
        } else {
            "\n    Condition: AllSteps"
        };
        // Every JSON string is a valid YAML string.
        let title = serde_json::Value::from(step.title.trim_end_matches('.'));
        format!(
            "  {id}:
    Type: AWS::Serverless::Function{condition}
    Properties:
      Description: {title}
      FunctionName: !Sub \"${{AWS::StackName}}-{name}\"
      CodeUri: {{Bucket: !Ref CodeBucket, Key: !Sub \"${{CodePrefix}}/{name}.zip\"}}
      Role: !GetAtt BrokerRole.Arn
{function}",
            id = logical_id(name),
            function = function_properties(step.function)
        )
    };
    let mut steps = steps.to_vec();
    steps.sort_by_key(|step| &step.name);
    steps.iter().map(block).collect::<Vec<_>>().join("\n")
}

/// Returns the properties that differ from the template's `Globals`.
fn function_properties(function: FunctionConfig) -> String {
    let global = FunctionConfig::SHORT;
    let unless_global = |name: &str, value: u16, global: u16| {
        if value == global {
            String::new()
        } else {
            format!("      {name}: {value}\n")
        }
    };
    [
        unless_global("Timeout", function.timeout_seconds, global.timeout_seconds),
        unless_global("MemorySize", function.memory_mib, global.memory_mib),
        if function.local_files {
            LOCAL_FILES.to_owned()
        } else {
            String::new()
        },
    ]
    .concat()
}

/// The maximum length of a generated line.
const WIDTH: usize = 120;

/// The placeholder for the names of all steps in a job's source.
const STEP_NAMES: &str = "${StepNames}";

/// Returns the state machines of the jobs, given by name (`group/job`) and source. A job that can
/// call any step gets the names of all steps, so that it can refuse other functions.
pub(crate) fn job_resources<'a>(
    jobs: impl Iterator<Item = (&'a str, String)>,
    steps: &[&Manifest],
) -> String {
    let mut steps: Vec<_> = steps.iter().map(|step| step.name.as_str()).collect();
    steps.sort_unstable();
    let block = |(name, source): (&str, String)| {
        let substitutions = if source.contains(STEP_NAMES) {
            format!(
                "\n        Partition: !Ref AWS::Partition\n        StackName: !Ref AWS::StackName\n        \
                 StepNames: >-\n{}",
                fold_lines(&steps, 10)
            )
        } else {
            " {Partition: !Ref AWS::Partition, StackName: !Ref AWS::StackName}".to_owned()
        };
        format!(
            "  {id}:
    Type: AWS::Serverless::StateMachine
    Properties:
      Name: !Sub \"${{AWS::StackName}}-{with_hyphen}\"
      DefinitionUri: {{Bucket: !Ref CodeBucket, Key: !Sub \"${{CodePrefix}}/jobs/{name}.asl.json\"}}
      DefinitionSubstitutions:{substitutions}
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
    jobs.map(block).collect::<Vec<_>>().join("\n")
}

/// Returns the words as lines of a folded YAML string. YAML joins the lines with single spaces.
fn fold_lines(words: &[&str], indentation: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= WIDTH => line.extend([" ", word]),
            _ => lines.push(format!("{}{word}", " ".repeat(indentation))),
        }
    }
    lines.join("\n")
}

/// Replaces the text between the lines `MARK: begin` and `MARK: end`.
pub(crate) fn replace_block(template: &str, mark: &str, block: &str) -> Result<String, String> {
    let (begin, end) = (format!("{mark}: begin\n"), format!("{mark}: end\n"));
    let (before, rest) = template
        .split_once(&begin)
        .ok_or_else(|| missing_line(&begin))?;
    let (_, after) = rest.split_once(&end).ok_or_else(|| missing_line(&end))?;
    Ok(format!("{before}{begin}{block}{end}{after}"))
}

fn missing_line(line: &str) -> String {
    format!(
        "the line `{}` is missing; generated text goes between `begin` and `end`",
        line.trim()
    )
}

/// Returns the logical ID of a job or step. For example, the ID of `fleet/morning-check` is
/// `FleetMorningCheck`.
fn logical_id(name: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        letters
            .next()
            .map(|first| first.to_uppercase().chain(letters).collect::<String>())
            .unwrap_or_default()
    };
    name.split(['/', '-']).map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_between_the_marks_is_replaced() {
        let text = "a\n  # steps: begin\nold\n  # steps: end\nb\n";
        assert_eq!(
            replace_block(text, "  # steps", "new\n").unwrap(),
            "a\n  # steps: begin\nnew\n  # steps: end\nb\n"
        );
        let error = replace_block(text, "# jobs", "").unwrap_err();
        assert!(
            error.starts_with("the line `# jobs: begin` is missing"),
            "{error}"
        );
    }

    #[test]
    fn a_function_has_only_properties_that_differ_from_globals() {
        assert_eq!(function_properties(FunctionConfig::SHORT), "");
        let slow = FunctionConfig {
            timeout_seconds: 120,
            ..FunctionConfig::SHORT
        };
        assert_eq!(function_properties(slow), "      Timeout: 120\n");
        let transfer = function_properties(FunctionConfig::TRANSFER);
        for line in [
            "      Timeout: 900\n",
            "      MemorySize: 1769\n",
            "          STEPWARD_LOCAL_ROOT: ",
        ] {
            assert!(transfer.contains(line), "{line}: {transfer}");
        }
    }

    #[test]
    fn the_templates_globals_are_those_of_a_short_step() {
        let template =
            std::fs::read_to_string(stepward_testkit::build::root().join("infra/template.yaml"))
                .unwrap();
        let (_, globals) = template.split_once("\nGlobals:\n").unwrap();
        let (globals, _) = globals.split_once("\nResources:\n").unwrap();
        let value = |name: &str| {
            globals
                .lines()
                .find_map(|line| line.trim().strip_prefix(name))
                .unwrap()
                .trim()
        };
        assert_eq!(
            value("Timeout:"),
            FunctionConfig::SHORT.timeout_seconds.to_string()
        );
        assert_eq!(
            value("MemorySize:"),
            FunctionConfig::SHORT.memory_mib.to_string()
        );
        assert!(
            !globals.contains("STEPWARD_LOCAL_ROOT"),
            "Globals must not set STEPWARD_LOCAL_ROOT: only steps that work on files have it"
        );
    }

    #[test]
    fn only_jobs_with_the_placeholder_get_the_step_names() {
        let source = |text: &str| text.to_owned();
        let jobs = job_resources(
            [
                ("account/check", source("${StackName}")),
                ("step/run", source("${StepNames}")),
            ]
            .into_iter(),
            &[],
        );
        assert_eq!(
            jobs.matches(
                "      DefinitionSubstitutions: {Partition: !Ref AWS::Partition, StackName: !Ref \
                 AWS::StackName}\n"
            )
            .count(),
            1,
            "{jobs}"
        );
        assert_eq!(jobs.matches("        StepNames: >-\n").count(), 1, "{jobs}");
    }

    #[test]
    fn folded_lines_contain_every_word_and_keep_the_limit() {
        let words: Vec<_> = (0..40)
            .map(|number| format!("step-number-{number}"))
            .collect();
        let text = fold_lines(&words.iter().map(String::as_str).collect::<Vec<_>>(), 10);
        assert!(
            text.lines()
                .all(|line| line.len() <= WIDTH && line.starts_with("          step-")),
            "{text}"
        );
        assert_eq!(text.split_whitespace().collect::<Vec<_>>(), words);
    }

    #[test]
    fn logical_ids_have_no_hyphens() {
        assert_eq!(logical_id("athena-query"), "AthenaQuery");
        assert_eq!(logical_id("fleet/morning-check"), "FleetMorningCheck");
    }
}
