//! The parts of `infra/template.yaml` that follow from the steps and the jobs.

use stepward::runtime::manifest::Manifest;
use stepward::runtime::step::FunctionConfig;

/// What a function gets that works on files: the local root, and on AWS the file system behind it.
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

/// The functions of steps. Those that no job uses carry a condition: the demo goes without them.
pub(crate) fn steps(steps: &[&Manifest], is_used: impl Fn(&str) -> bool) -> String {
    let block = |step: &&Manifest| {
        let name = &step.name;
        let condition = if is_used(name) {
            ""
        } else {
            "\n    Condition: AllSteps"
        };
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
{function}",
            id = logical_id(name),
            function = function(step.function)
        )
    };
    let mut steps = steps.to_vec();
    steps.sort_by_key(|step| &step.name);
    steps.iter().map(block).collect::<Vec<_>>().join("\n")
}

/// What a function has of its own; the rest is the template's `Globals`.
fn function(function: FunctionConfig) -> String {
    let common = FunctionConfig::SHORT;
    let unless_common = |name: &str, own: u16, common: u16| {
        if own == common {
            String::new()
        } else {
            format!("      {name}: {own}\n")
        }
    };
    [
        unless_common("Timeout", function.timeout_seconds, common.timeout_seconds),
        unless_common("MemorySize", function.memory_mib, common.memory_mib),
        if function.local_files {
            LOCAL_FILES.to_owned()
        } else {
            String::new()
        },
    ]
    .concat()
}

/// The longest line of the template.
const WIDTH: usize = 120;

/// What a job's source has in the place of all steps' names.
const STEP_NAMES: &str = "${StepNames}";

/// The state machines of jobs, which are called `group/job`, each with its source. A job that can
/// call any step is given the names of all, so that it can refuse every other function.
pub(crate) fn jobs<'a>(
    jobs: impl Iterator<Item = (&'a str, String)>,
    steps: &[&Manifest],
) -> String {
    let mut steps: Vec<_> = steps.iter().map(|step| step.name.as_str()).collect();
    steps.sort_unstable();
    let block = |(name, source): (&str, String)| {
        let substitutions = if source.contains(STEP_NAMES) {
            format!(
                "\n        StackName: !Ref AWS::StackName\n        StepNames: >-\n{}",
                folded(&steps, 10)
            )
        } else {
            " {StackName: !Ref AWS::StackName}".to_owned()
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

/// Words as lines of a folded YAML text, which YAML reads with single spaces between the words.
fn folded(words: &[&str], indentation: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= WIDTH => line.extend([" ", word]),
            _ => lines.push(format!("{}{word}", " ".repeat(indentation))),
        }
    }
    lines.join("\n")
}

/// The text with another block between the lines `MARK: begin` and `MARK: end`.
pub(crate) fn replaced(template: &str, mark: &str, block: &str) -> Result<String, String> {
    let (begin, end) = (format!("{mark}: begin\n"), format!("{mark}: end\n"));
    let (before, rest) = template
        .split_once(&begin)
        .ok_or_else(|| format!("there is no line `{}`", begin.trim()))?;
    let (_, after) = rest
        .split_once(&end)
        .ok_or_else(|| format!("there is no line `{}`", end.trim()))?;
    Ok(format!("{before}{begin}{block}{end}{after}"))
}

/// `fleet/morning-check` is `FleetMorningCheck`.
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
    fn what_stands_between_the_marks_is_replaced() {
        let text = "a\n  # steps: begin\nold\n  # steps: end\nb\n";
        assert_eq!(
            replaced(text, "  # steps", "new\n").unwrap(),
            "a\n  # steps: begin\nnew\n  # steps: end\nb\n"
        );
        assert_eq!(
            replaced(text, "# jobs", "").unwrap_err(),
            "there is no line `# jobs: begin`"
        );
    }

    #[test]
    fn a_function_has_of_its_own_what_the_templates_globals_do_not_give_it() {
        assert_eq!(function(FunctionConfig::SHORT), "");
        let patient = FunctionConfig {
            timeout_seconds: 120,
            ..FunctionConfig::SHORT
        };
        assert_eq!(function(patient), "      Timeout: 120\n");
        let transfer = function(FunctionConfig::TRANSFER);
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
            "only steps that work on files have a local root"
        );
    }

    #[test]
    fn only_a_job_that_asks_for_them_gets_the_steps_names() {
        let source = |text: &str| text.to_owned();
        let jobs = jobs(
            [
                ("account/check", source("${StackName}")),
                ("step/run", source("${StepNames}")),
            ]
            .into_iter(),
            &[],
        );
        assert_eq!(
            jobs.matches("      DefinitionSubstitutions: {StackName: !Ref AWS::StackName}\n")
                .count(),
            1,
            "{jobs}"
        );
        assert_eq!(jobs.matches("        StepNames: >-\n").count(), 1, "{jobs}");
    }

    #[test]
    fn folded_lines_have_every_word_once_and_fit_the_page() {
        let words: Vec<_> = (0..40)
            .map(|number| format!("step-number-{number}"))
            .collect();
        let text = folded(&words.iter().map(String::as_str).collect::<Vec<_>>(), 10);
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
