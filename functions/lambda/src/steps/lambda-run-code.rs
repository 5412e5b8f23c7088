//! The step `lambda-run-code`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::code::{Handler, Language, zip_code};
use crate::execution_role::{ExecutionRole, unassumable_role_error};
use crate::single_run::{
    Claim, Phase, SingleRunFunction, check_description, check_function_tags, default_description,
    run_code_permissions,
};
use aws_sdk_lambda::Client;
use aws_sdk_lambda::operation::create_function::builders::CreateFunctionFluentBuilder;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::FunctionCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use stepward::model::input::require;
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
    settings,
};

/// The interval between two polls of a new function, which is ready after a few seconds.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// The interval between two attempts if AWS refuses the first for now.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// How many times the step retries if Lambda cannot assume the role, for about one minute, because
/// Lambda can assume a new role only after some seconds.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot.html#troubleshoot_general_eventual-consistency>
const MAX_ROLE_RETRIES: u32 = 12;
/// The time that an invocation can take in addition to the function's timeout. A runtime starts
/// within 10 seconds.
/// <https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html> (init phase)
const START_ALLOWANCE: Duration = Duration::from_secs(12);
/// Run Python, Node.js or Ruby code once as a temporary Lambda function.
///
/// Use this step for short code that you write in the job instead of deploying a function. The step
/// creates a function with the code, runs it once, and deletes it. The code runs for at most 30
/// seconds; for longer work, create a function and use `lambda-invoke`.
///
/// # Prerequisites
///
/// The account needs an execution role that `lambda.amazonaws.com` can assume.
///
/// **Restrict `iam:PassRole` in the customer's role to the execution roles that are meant for this
/// step.** By default, the customer's role can pass every role to Lambda. Everyone who can run this
/// step could then use the permissions of any role that Lambda can assume.
///
/// # Behavior
///
/// - The step creates the function, waits until it is ready, invokes it once, and deletes it, even
///   if the code fails.
/// - The function's name is `stepward-run-` and 20 hexadecimal digits, and it has the tag
///   `stepward:token`. With `delete_after` set to false, it stays.
/// - If the execution role allows it, the code's log goes to the log group
///   `/aws/lambda/stepward-run`, which stays.
///
/// The step never runs the code twice. Before the invocation it creates the alias `run-1`, which
/// only one call can create. If the response is lost after that, a retry finds the alias, or finds
/// that the function no longer exists. It then fails with `StepFailed` and does not run the code
/// again. Only if Lambda throttles the invocation does the step try again, with the alias `run-2`.
///
/// To distinguish a deleted function from one that never existed, the step returns to Step
/// Functions between the creation and the invocation. This takes about 10 seconds.
///
/// A redriven execution keeps its name. If it starts this step again, it creates the function again
/// and runs the code again, unless the function was kept.
///
/// When the job is stopped, the step deletes the function. Code that is running continues to its
/// end.
///
/// # Failures
///
/// If the code fails, the step fails with the type and message of its error and the last lines of
/// its log.
///
/// If AWS does not delete the function, the output or the error says so. Delete it manually.
///
/// # Cost
///
/// Lambda charges for the duration and the memory of the run. A function that you keep has no
/// charge until you invoke it. CloudWatch Logs charges for ingesting and storing the code's log.
///
/// # Limits
///
/// - The code runs for 1 to 30 seconds with 128 to 10,240 MB of memory.
/// - The code is one file. Step Functions limits the data that a job passes between states to 256
///   KiB.
///
/// # Proof
///
/// Proven on the local cloud with Python and Node.js. Unit tests cover what the local cloud does
/// not have: Ruby, functions that are not ready immediately, checks of `iam:PassRole` and of the
/// permissions for tags, and lost responses.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunCode {
    /// The ARN of the role that the code runs with. The role must be in the step's account, and
    /// `lambda.amazonaws.com` must be able to assume it.
    execution_role_arn: String,
    /// The language: `Python` (3.13), `Node.js` (22) or `Ruby` (3.4).
    runtime: Language,
    /// The code: one file, which can use the modules of the runtime, including the AWS SDK. Node.js
    /// code with a line that starts with `export` is an ES module, other code is `CommonJS`. Step
    /// Functions limits the data that a job passes between states to 256 KiB.
    code: String,
    /// The function in the code that Lambda calls, as `function` or `file.function`. By default
    /// `lambda_handler` for Python and Ruby, and `handler` for Node.js.
    handler: Option<String>,
    /// Whether the step deletes the function after the run.
    #[serde(default = "default_delete_after")]
    delete_after: bool,
    /// The function's description, up to 256 characters. By default it names the execution.
    description: Option<String>,
    /// The event that the code gets: any JSON value. Text is passed as a JSON string. An empty
    /// object by default.
    #[serde(default)]
    payload: Option<Value>,
    /// Tags for the function, up to 49.
    #[serde(default)]
    tags: BTreeMap<String, String>,
    /// The seconds after which Lambda stops the code, 1 to 30.
    #[serde(default = "default_timeout")]
    timeout: u16,
    /// The memory in MB, 128 to 10,240. More memory also gives the code more CPU.
    #[serde(default = "default_memory")]
    memory: u16,
}

fn default_delete_after() -> bool {
    true
}

fn default_timeout() -> u16 {
    30
}

fn default_memory() -> u16 {
    128
}

/// Code that has run. The names are the outputs of Rundeck's plugin.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CodeRun {
    /// What the code returned, as JSON text.
    invoke_response_payload_string: String,
    /// The function's name.
    function_name: String,
    /// Whether the function was created. Always true.
    function_was_created: bool,
    /// Whether the function was invoked. Always true.
    function_was_invoked: bool,
    /// Whether the function was deleted. False if it is kept or AWS could not delete it.
    function_was_deleted: bool,
    /// Always empty. If the code fails, the step fails, and its error has the code's error.
    invoke_function_error: String,
    /// The last 4 KB of the code's log.
    invoke_execution_log: String,
}

impl RunCode {
    fn handler(&self) -> Result<Handler, StepError> {
        let handler = self.handler.as_deref();
        self.runtime.handler(handler, &self.code).ok_or_else(|| {
            ErrorName::InvalidInput.with_message(format!(
                "parameter \"handler\": expected \"function\" or \"file.function\" of up to 100 \
                 letters, digits and _ - $, got \"{}\"",
                handler.unwrap_or_default()
            ))
        })
    }

    fn create_request(&self, ctx: &Context) -> Result<CreateFunctionFluentBuilder, StepError> {
        let handler = self.handler()?;
        let code = FunctionCode::builder()
            .zip_file(Blob::new(zip_code(&handler.file, &self.code)?))
            .build();
        let description = self.description.clone();
        let description = description.unwrap_or_else(|| default_description(ctx));
        Ok(ctx
            .client(Client::new)
            .create_function()
            .description(description)
            .runtime(self.runtime.runtime())
            .role(&self.execution_role_arn)
            .code(code)
            .handler(handler.name)
            .timeout(self.timeout.into())
            .memory_size(self.memory.into())
            .set_tags(Some(self.tags.clone().into_iter().collect())))
    }

    async fn create_function(
        &self,
        ctx: &Context,
        refused: u32,
    ) -> Result<Progress<CodeRun>, StepError> {
        let function = SingleRunFunction::for_step(ctx, self.delete_after);
        let request = self.create_request(ctx)?;
        if let Err(error) = function.create(ctx, request).await {
            if !error.message.contains("cannot be assumed by Lambda") {
                return Err(error);
            }
            if refused < MAX_ROLE_RETRIES {
                let phase = Phase::Create {
                    refused: refused + 1,
                };
                let progress = "Lambda cannot assume the role yet";
                return Progress::pending(&phase, RETRY_INTERVAL, progress);
            }
            return Err(unassumable_role_error(error, &self.execution_role_arn));
        }

        // Step Functions must store this response before the code runs. Then a later call that does
        // not find the function knows that it existed. A step never waits this long in its own
        // process.
        let progress = format!("function {} is being created", function.name);
        Progress::pending(
            &Phase::Invoke { attempt: 1 },
            settings::inline_wait(),
            progress,
        )
    }

    async fn run_function(
        &self,
        ctx: &Context,
        attempt: u32,
    ) -> Result<Progress<CodeRun>, StepError> {
        let function = SingleRunFunction::for_step(ctx, self.delete_after);
        match function.claim(attempt).await? {
            Claim::Granted => {}
            Claim::NotReady(state) => {
                let progress = format!("function {} is {state}", function.name);
                return Progress::pending(&Phase::Invoke { attempt }, POLL_INTERVAL, progress);
            }
            Claim::Refused(reason) => return Err(function.fail_after_cleanup(ctx, reason).await),
            Claim::Missing(reason) => return Err(ErrorName::StepFailed.with_message(reason)),
        }

        let payload = self
            .payload
            .as_ref()
            .map_or_else(|| "{}".into(), Value::to_string);
        let max_wait = Duration::from_secs(self.timeout.into()) + START_ALLOWANCE;
        let Some(result) = function.invoke(ctx, payload, max_wait).await? else {
            let phase = Phase::Invoke {
                attempt: attempt + 1,
            };
            let progress = format!("Lambda throttled attempt {attempt} to run the code");
            return Progress::pending(&phase, RETRY_INTERVAL, progress);
        };
        ctx.log(format_args!("Function {} invoked", function.name));
        if let Some(failure) = result.failure_message() {
            let reason = format!("the code failed: {failure}");
            return Err(function.fail_after_cleanup(ctx, reason).await);
        }
        let function_was_deleted = function.delete_after_success(ctx).await?;
        Ok(Progress::Done(CodeRun {
            invoke_response_payload_string: result.payload,
            function_name: function.name,
            function_was_created: true,
            function_was_invoked: true,
            function_was_deleted,
            invoke_function_error: String::new(),
            invoke_execution_log: result.log_tail,
        }))
    }
}

impl Step for RunCode {
    const NAME: &'static str = "lambda-run-code";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-lambda-custom-code-execution",
        fields: &[
            ("executionRoleArn", "execution_role_arn"),
            ("runtime", "runtime"),
            ("functionCode", "code"),
            ("handlerFunctionName", "handler"),
            ("deleteFuncAfter", "delete_after"),
            ("eventPayload", "payload"),
            ("tags", "tags"),
            ("region", "region"),
        ],
    }];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "Run Python code with a payload",
            parameters: r#"{
                "execution_role_arn": "arn:aws:iam::222222222222:role/run-code",
                "runtime": "Python",
                "code": "def lambda_handler(event, context):\n    return event['days'] + 1\n",
                "payload": { "days": 7 }
            }"#,
            output: r#"{
                "invokeResponsePayloadString": "8",
                "functionName": "stepward-run-5c1f0a7e9b2d4c38a83e",
                "functionWasCreated": true,
                "functionWasInvoked": true,
                "functionWasDeleted": true,
                "invokeFunctionError": "",
                "invokeExecutionLog": "START RequestId: 5c1f0a7e-9b2d-4c38-a83e-6d4b1f0c2975 Version: $LATEST\nEND RequestId: 5c1f0a7e-9b2d-4c38-a83e-6d4b1f0c2975\n"
            }"#,
        },
        Example {
            title: "Run Node.js code and keep the function",
            parameters: r#"{
                "execution_role_arn": "arn:aws:iam::222222222222:role/run-code",
                "runtime": "Node.js",
                "code": "export const clean = async (event) => ({ cleaned: 3 })",
                "handler": "clean",
                "timeout": 20,
                "memory": 256,
                "tags": { "team": "operations" },
                "delete_after": false
            }"#,
            output: r#"{
                "invokeResponsePayloadString": "{\"cleaned\":3}",
                "functionName": "stepward-run-a83e6d4b1f0c29755c1f",
                "functionWasCreated": true,
                "functionWasInvoked": true,
                "functionWasDeleted": false,
                "invokeFunctionError": "",
                "invokeExecutionLog": "START RequestId: a83e6d4b-1f0c-4975-9c1f-0a7e9b2d4c38 Version: $LATEST\nEND RequestId: a83e6d4b-1f0c-4975-9c1f-0a7e9b2d4c38\n"
            }"#,
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::InvalidInput,
            "Lambda refused the code, or cannot assume the role. Correct the code or the role's \
             trust policy.",
        ),
        (
            ErrorName::StepFailed,
            "The code failed, or it is unknown whether it ran. The message says which; check the \
             log before you run the code again.",
        ),
        (
            ErrorName::Conflict,
            "A function with this step's name exists, and the step did not create it. Check who \
             created it.",
        ),
    ];
    const TIMEOUT: Duration = Duration::from_mins(10);
    type Output = CodeRun;

    fn validate(&self) -> Result<(), StepError> {
        ExecutionRole::parse(&self.execution_role_arn)?;
        require(!self.code.trim().is_empty(), || {
            "parameter \"code\": expected code, got an empty text".into()
        })?;
        self.handler()?;
        check_description(self.description.as_deref())?;
        check_function_tags(&self.tags)?;
        require((1..=30).contains(&self.timeout), || {
            format!(
                "parameter \"timeout\": expected 1 to 30 seconds, got \"{}\"; use lambda-invoke \
                 for longer work",
                self.timeout
            )
        })?;
        require((128..=10_240).contains(&self.memory), || {
            format!(
                "parameter \"memory\": expected 128 to 10,240 MB, got \"{}\"",
                self.memory
            )
        })
    }

    fn permissions(&self) -> Permissions {
        run_code_permissions(&self.execution_role_arn)
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<CodeRun>, StepError> {
        ExecutionRole::parse(&self.execution_role_arn)?.require_account(&ctx.scope)?;
        match resume.map(|resume| resume.state()).transpose()? {
            None => self.create_function(ctx, 0).await,
            Some(Phase::Create { refused }) => self.create_function(ctx, refused).await,
            Some(Phase::Invoke { attempt }) => self.run_function(ctx, attempt).await,
        }
    }

    async fn cancel(&self, ctx: &Context, _: Option<Resume>) -> Result<(), StepError> {
        let function = SingleRunFunction::for_step(ctx, true);
        if function.find().await?.is_some() {
            function.delete(ctx).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use crate::single_run::{LOG_GROUP, TOKEN_TAG};
    use aws_sdk_lambda::operation::create_alias::{CreateAliasError, CreateAliasOutput};
    use aws_sdk_lambda::operation::create_function::{
        CreateFunctionError, CreateFunctionInput, CreateFunctionOutput,
    };
    use aws_sdk_lambda::operation::delete_function::{DeleteFunctionError, DeleteFunctionOutput};
    use aws_sdk_lambda::operation::get_function::{GetFunctionError, GetFunctionOutput};
    use aws_sdk_lambda::operation::invoke::{InvokeError, InvokeOutput};
    use aws_sdk_lambda::types::{FunctionConfiguration, LogType, Runtime, State, TagsError};
    use aws_smithy_mocks::{Rule, RuleMode, mock};
    use aws_smithy_types::base64;
    use aws_smithy_types::error::ErrorMetadata;
    use serde_json::json;
    use stepward::mock_client;
    use stepward::model::permissions::ArnScope;
    use stepward::testing::{self, expect_done};
    use stepward_testkit::proof::prove_permissions;

    use super::*;

    const CODE: &str = "def lambda_handler(event, context):\n    return event['days'] + 1\n";

    fn valid_params() -> Value {
        json!({
            "execution_role_arn": "arn:aws:iam::222222222222:role/jobs/run-code",
            "runtime": "Python",
            "code": CODE,
            "payload": { "days": 7 },
        })
    }

    fn step_with(params: Value) -> RunCode {
        serde_json::from_value(params).unwrap()
    }

    fn error_metadata(code: &'static str, message: &'static str) -> ErrorMetadata {
        ErrorMetadata::builder().code(code).message(message).build()
    }

    fn context(rules: &[&Rule]) -> Context {
        testing::context(mock_client!(aws_sdk_lambda, RuleMode::MatchAny, rules))
    }

    /// The token of the step, which is the same in all tests.
    fn step_token() -> String {
        context(&[]).client_token("run-code")
    }

    fn function_name() -> String {
        format!("stepward-run-{}", &step_token()[..20])
    }

    fn create_succeeds() -> Rule {
        mock!(Client::create_function).then_output(|| CreateFunctionOutput::builder().build())
    }

    fn get_function_output(state: State) -> GetFunctionOutput {
        let configuration = FunctionConfiguration::builder()
            .state(state)
            .state_reason("the key is disabled")
            .build();
        GetFunctionOutput::builder()
            .configuration(configuration)
            .tags(TOKEN_TAG, step_token())
            .build()
    }

    fn function_in_state(state: State) -> Rule {
        mock!(Client::get_function).then_output(move || get_function_output(state.clone()))
    }

    fn function_missing() -> Rule {
        mock!(Client::get_function).then_error(|| {
            GetFunctionError::generic(error_metadata(
                "ResourceNotFoundException",
                "no such function",
            ))
        })
    }

    fn create_alias(attempt: &'static str) -> Rule {
        mock!(Client::create_alias)
            .match_requests(move |request| {
                request.function_name() == Some(function_name().as_str())
                    && request.name() == Some(attempt)
                    && request.function_version() == Some("$LATEST")
            })
            .then_output(|| CreateAliasOutput::builder().build())
    }

    fn alias_exists() -> Rule {
        mock!(Client::create_alias).then_error(|| {
            CreateAliasError::generic(error_metadata(
                "ResourceConflictException",
                "Alias already exists",
            ))
        })
    }

    fn invoke_succeeds() -> Rule {
        mock!(Client::invoke)
            .match_requests(|request| {
                request.function_name() == Some(function_name().as_str())
                    && request.log_type() == Some(&LogType::Tail)
                    && request.payload().unwrap().as_ref() == br#"{"days":7}"#
            })
            .then_output(|| {
                let log = base64::encode("hello\n");
                InvokeOutput::builder()
                    .status_code(200)
                    .payload(Blob::new("8"))
                    .log_result(log)
                    .build()
            })
    }

    fn delete_succeeds() -> Rule {
        mock!(Client::delete_function)
            .match_requests(|request| request.function_name() == Some(function_name().as_str()))
            .then_output(|| DeleteFunctionOutput::builder().build())
    }

    fn resume_with(phase: &Value) -> Resume {
        stepward::testing::resume_from(phase)
    }

    fn resume_after_creation() -> Resume {
        resume_with(&json!({ "invoke": { "attempt": 1 } }))
    }

    fn pending_parts(response: Progress<CodeRun>) -> (Value, Duration, String) {
        let Progress::Pending {
            state,
            retry_after,
            progress,
        } = response
        else {
            panic!("not pending: {response:?}")
        };
        (state, retry_after, progress)
    }

    fn zipped_file(request: &CreateFunctionInput) -> (String, String) {
        let zip = request.code().unwrap().zip_file().unwrap().as_ref();
        let mut zip = zip::ZipArchive::new(std::io::Cursor::new(zip)).unwrap();
        let (mut file, mut text) = (zip.by_index(0).unwrap(), String::new());
        file.read_to_string(&mut text).unwrap();
        (file.name().unwrap().into_owned(), text)
    }

    #[tokio::test]
    async fn done_after_the_function_is_created_run_and_deleted() {
        let create = mock!(Client::create_function)
            .match_requests(|request| {
                let tags = request.tags().unwrap();
                request.function_name() == Some(function_name().as_str())
                    && zipped_file(request) == ("lambda_function.py".into(), CODE.into())
                    && request.runtime() == Some(&Runtime::Python313)
                    && request.handler() == Some("lambda_function.lambda_handler")
                    && request.role() == Some("arn:aws:iam::222222222222:role/jobs/run-code")
                    && (request.timeout(), request.memory_size()) == (Some(30), Some(128))
                    && request
                        .description()
                        .is_some_and(|text| text.contains("execution-1"))
                    && request.logging_config().and_then(|log| log.log_group()) == Some(LOG_GROUP)
                    && tags.len() == 1
                    && tags[TOKEN_TAG] == step_token()
            })
            .then_output(|| CreateFunctionOutput::builder().build());
        let get_function = mock!(Client::get_function)
            .sequence()
            .output(|| get_function_output(State::Pending))
            .output(|| get_function_output(State::Active))
            .build();
        let (create_alias_rule, invoke, delete) =
            (create_alias("run-1"), invoke_succeeds(), delete_succeeds());
        let ctx = context(&[&create, &get_function, &create_alias_rule, &invoke, &delete]);
        let step = step_with(valid_params());

        let (state, retry_after, progress) = pending_parts(step.run(&ctx, None).await.unwrap());
        assert_eq!(
            (retry_after, progress),
            (
                settings::inline_wait(),
                format!("function {} is being created", function_name())
            )
        );
        let (state, _, progress) =
            pending_parts(step.run(&ctx, Some(resume_with(&state))).await.unwrap());
        assert_eq!(progress, format!("function {} is Pending", function_name()));
        let output = expect_done(step.run(&ctx, Some(resume_with(&state))).await);

        assert_eq!(
            json!(output),
            json!({
                "invokeResponsePayloadString": "8",
                "functionName": function_name(),
                "functionWasCreated": true,
                "functionWasInvoked": true,
                "functionWasDeleted": true,
                "invokeFunctionError": "",
                "invokeExecutionLog": "hello\n",
            })
        );
        assert_eq!(
            [&create, &create_alias_rule, &invoke, &delete].map(Rule::num_calls),
            [1, 1, 1, 1]
        );
    }

    #[tokio::test]
    async fn done_keeps_the_function_with_all_parameters() {
        let create = mock!(Client::create_function)
            .match_requests(|request| {
                request.runtime() == Some(&Runtime::Nodejs22x)
                    && request.handler() == Some("job.clean")
                    && zipped_file(request).0 == "job.mjs"
                    && (request.timeout(), request.memory_size()) == (Some(5), Some(512))
                    && request.description() == Some("cleans")
                    && request
                        .tags()
                        .is_some_and(|tags| tags["team"] == "ops" && tags.len() == 2)
            })
            .then_output(|| CreateFunctionOutput::builder().build());
        let invoke_output = || {
            InvokeOutput::builder()
                .status_code(200)
                .payload(Blob::new("null"))
                .build()
        };
        let invoke = mock!(Client::invoke)
            .match_requests(|request| request.payload().unwrap().as_ref() == b"{}")
            .then_output(invoke_output);
        let (get_function, mark) = (function_in_state(State::Active), create_alias("run-1"));
        let ctx = context(&[&create, &get_function, &mark, &invoke]);
        let step = step_with(json!({
            "execution_role_arn": "arn:aws:iam::222222222222:role/run-code",
            "runtime": "Node.js",
            "code": "export const clean = async () => null",
            "handler": "job.clean",
            "description": "cleans",
            "tags": { "team": "ops" },
            "timeout": 5,
            "memory": 512,
            "delete_after": false,
        }));
        let (state, ..) = pending_parts(step.run(&ctx, None).await.unwrap());
        assert!(!expect_done(step.run(&ctx, Some(resume_with(&state))).await).function_was_deleted);
    }

    #[tokio::test]
    async fn done_despite_a_failed_deletion_unless_it_is_denied() {
        let delete_fails = |code: &'static str| {
            mock!(Client::delete_function)
                .then_error(move || DeleteFunctionError::generic(error_metadata(code, "no")))
        };
        let (get_function, mark, run) = (
            function_in_state(State::Active),
            create_alias("run-1"),
            invoke_succeeds(),
        );
        let busy = delete_fails("ResourceConflictException");
        let ctx = context(&[&get_function, &mark, &run, &busy]);
        assert!(
            !expect_done(
                step_with(valid_params())
                    .run(&ctx, Some(resume_after_creation()))
                    .await
            )
            .function_was_deleted
        );
        assert!(
            testing::log_lines(&ctx)
                .iter()
                .any(|line| line.contains("was not deleted; delete it"))
        );
        let denied = delete_fails("AccessDeniedException");
        let error = step_with(valid_params())
            .run(
                &context(&[&get_function, &mark, &run, &denied]),
                Some(resume_after_creation()),
            )
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::AccessDenied);
        assert!(
            error.message.contains(&function_name())
                && error.message.contains("lambda:DeleteFunction"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn already_created_functions_are_found_after_a_lost_response() {
        let create = mock!(Client::create_function).then_error(|| {
            CreateFunctionError::generic(error_metadata(
                "ResourceConflictException",
                "Function already exist",
            ))
        });
        let get_function = function_in_state(State::Pending);
        let (state, ..) = pending_parts(
            step_with(valid_params())
                .run(&context(&[&create, &get_function]), None)
                .await
                .unwrap(),
        );
        assert_eq!(state, json!({ "invoke": { "attempt": 1 } }));
        assert_eq!(create.num_calls(), 1);

        let foreign = mock!(Client::get_function).then_output(|| {
            let tags = GetFunctionOutput::builder().tags(TOKEN_TAG, "another");
            tags.configuration(FunctionConfiguration::builder().build())
                .build()
        });
        let error = step_with(valid_params())
            .run(&context(&[&create, &foreign]), None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);

        let hidden = mock!(Client::get_function).then_output(|| {
            let message = "User: x is not authorized to perform: lambda:ListTags on resource: y";
            let tags_error = TagsError::builder()
                .error_code("AccessDeniedException")
                .message(message)
                .build()
                .unwrap();
            GetFunctionOutput::builder().tags_error(tags_error).build()
        });
        let error = step_with(valid_params())
            .run(&context(&[&create, &hidden]), None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::AccessDenied);
        assert!(error.message.contains("lambda:ListTags"), "{error}");
    }

    #[tokio::test]
    async fn already_created_but_invisible_functions_run_later() {
        let create = mock!(Client::create_function).then_error(|| {
            CreateFunctionError::generic(error_metadata(
                "ResourceConflictException",
                "Function already exist",
            ))
        });
        let missing = || {
            GetFunctionError::generic(error_metadata(
                "ResourceNotFoundException",
                "no such function",
            ))
        };
        let get_function = mock!(Client::get_function)
            .sequence()
            .error(missing)
            .output(|| get_function_output(State::Active))
            .build();
        let (mark, run, delete) = (create_alias("run-1"), invoke_succeeds(), delete_succeeds());
        let ctx = context(&[&create, &get_function, &mark, &run, &delete]);
        let (state, retry_after, _) =
            pending_parts(step_with(valid_params()).run(&ctx, None).await.unwrap());
        assert_eq!(
            (&state, retry_after),
            (
                &json!({ "invoke": { "attempt": 1 } }),
                settings::inline_wait()
            )
        );
        assert!(
            expect_done(
                step_with(valid_params())
                    .run(&ctx, Some(resume_with(&state)))
                    .await
            )
            .function_was_deleted
        );
        assert_eq!([&create, &run, &delete].map(Rule::num_calls), [1, 1, 1]);
    }

    #[tokio::test]
    async fn not_found_after_the_creation_does_not_run_the_code() {
        let (get_function, create, run) =
            (function_missing(), create_succeeds(), invoke_succeeds());
        let error = step_with(valid_params())
            .run(
                &context(&[&get_function, &create, &run]),
                Some(resume_after_creation()),
            )
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(
            error
                .message
                .contains("whether the code ran and how it ended is unknown"),
            "{error}"
        );
        assert_eq!([&create, &run].map(Rule::num_calls), [0, 0]);
    }

    #[test]
    fn invalid_parameters_are_rejected_before_any_call() {
        step_with(valid_params()).validate().unwrap();
        let too_many: BTreeMap<_, _> = (0..50).map(|n| (format!("tag{n}"), "x")).collect();
        for (field, value) in [
            ("execution_role_arn", json!("run-code")),
            (
                "execution_role_arn",
                json!("arn:aws:iam::222222222222:user/ann"),
            ),
            (
                "execution_role_arn",
                json!("arn:aws:iam::222222222222:role/"),
            ),
            (
                "execution_role_arn",
                json!("arn:aws:iam::222222222222:role/*"),
            ),
            ("code", json!(" \n")),
            ("handler", json!("../job.clean")),
            ("description", json!("x".repeat(257))),
            ("tags", json!(too_many)),
            ("tags", json!({ "aws:x": "y" })),
            ("tags", json!({ "stepward:token": "y" })),
            ("tags", json!({ "": "y" })),
            ("tags", json!({ "x": "y".repeat(257) })),
            ("timeout", json!(0)),
            ("timeout", json!(31)),
            ("memory", json!(127)),
            ("memory", json!(10_241)),
        ] {
            let mut params = valid_params();
            params[field] = value;
            let error = step_with(params.clone()).validate().unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput, "{params}");
            assert!(error.message.contains(field), "{error}");
        }
    }

    #[tokio::test]
    async fn invalid_is_a_role_of_another_account_or_partition() {
        for role in [
            "arn:aws:iam::333333333333:role/x",
            "arn:aws-cn:iam::222222222222:role/x",
        ] {
            let mut params = valid_params();
            params["execution_role_arn"] = role.into();
            let error = step_with(params)
                .run(&context(&[]), None)
                .await
                .unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput, "{role}");
        }
    }

    #[tokio::test]
    async fn invalid_is_a_role_that_lambda_cannot_assume() {
        let create = mock!(Client::create_function).then_error(|| {
            let message = "The role defined for the function cannot be assumed by Lambda.";
            CreateFunctionError::generic(error_metadata("InvalidParameterValueException", message))
        });
        let ctx = context(&[&create]);
        let (mut resume, mut waited) = (None, Duration::ZERO);
        for _ in 0..MAX_ROLE_RETRIES {
            let (state, retry_after, _) =
                pending_parts(step_with(valid_params()).run(&ctx, resume).await.unwrap());
            resume = Some(resume_with(&state));
            waited += retry_after;
        }
        let error = step_with(valid_params())
            .run(&ctx, resume)
            .await
            .unwrap_err();
        assert_eq!(
            (error.name, waited),
            (ErrorName::InvalidInput, Duration::from_mins(1))
        );
        assert!(error.message.contains("trust policy"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_calls_are_retried_with_a_new_attempt_number() {
        let create = mock!(Client::create_function)
            .sequence()
            .error(|| {
                CreateFunctionError::generic(error_metadata(
                    "TooManyRequestsException",
                    "Rate exceeded",
                ))
            })
            .output(|| CreateFunctionOutput::builder().build())
            .build();
        let throttled =
            || InvokeError::generic(error_metadata("TooManyRequestsException", "Rate exceeded"));
        let invoke = mock!(Client::invoke)
            .sequence()
            .error(throttled)
            .error(throttled)
            .error(throttled)
            .output(|| {
                InvokeOutput::builder()
                    .status_code(200)
                    .payload(Blob::new("8"))
                    .build()
            })
            .build();
        let (get_function, first, second, delete) = (
            function_in_state(State::Active),
            create_alias("run-1"),
            create_alias("run-2"),
            delete_succeeds(),
        );
        let ctx = context(&[&create, &get_function, &first, &second, &invoke, &delete]);
        let (state, ..) = pending_parts(step_with(valid_params()).run(&ctx, None).await.unwrap());
        assert_eq!(create.num_calls(), 2);
        let (state, ..) = pending_parts(
            step_with(valid_params())
                .run(&ctx, Some(resume_with(&state)))
                .await
                .unwrap(),
        );
        assert_eq!(
            (&state, delete.num_calls()),
            (&json!({ "invoke": { "attempt": 2 } }), 0)
        );
        let output = expect_done(
            step_with(valid_params())
                .run(&ctx, Some(resume_with(&state)))
                .await,
        );
        assert_eq!(
            (
                output.invoke_response_payload_string.as_str(),
                invoke.num_calls()
            ),
            ("8", 4)
        );
    }

    #[tokio::test]
    async fn pending_after_a_lost_response_deletes_without_running_again() {
        let (get_function, mark, run, delete) = (
            function_in_state(State::Active),
            alias_exists(),
            invoke_succeeds(),
            delete_succeeds(),
        );
        let error = step_with(valid_params())
            .run(
                &context(&[&get_function, &mark, &run, &delete]),
                Some(resume_after_creation()),
            )
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(
            error.message.contains("is unknown") && error.message.contains("was deleted"),
            "{error}"
        );
        assert_eq!([&run, &delete].map(Rule::num_calls), [0, 1]);
    }

    #[tokio::test]
    async fn pending_while_the_function_is_busy_then_runs_once() {
        for message in [
            "The operation cannot be performed at this time. The function is currently in the \
             following state: Pending",
            "The operation cannot be performed at this time. An update is in progress for \
             resource: arn:aws:lambda:…",
        ] {
            let mark = mock!(Client::create_alias)
                .sequence()
                .error(move || {
                    CreateAliasError::generic(error_metadata("ResourceConflictException", message))
                })
                .output(|| CreateAliasOutput::builder().build())
                .build();
            let (get_function, run, delete) = (
                function_in_state(State::Active),
                invoke_succeeds(),
                delete_succeeds(),
            );
            let ctx = context(&[&get_function, &mark, &run, &delete]);
            let (state, retry_after, progress) = pending_parts(
                step_with(valid_params())
                    .run(&ctx, Some(resume_after_creation()))
                    .await
                    .unwrap(),
            );
            assert_eq!(
                (&state, retry_after),
                (&json!({ "invoke": { "attempt": 1 } }), POLL_INTERVAL)
            );
            assert_eq!(
                progress,
                format!("function {} is not ready: {message}", function_name())
            );
            assert_eq!([&run, &delete].map(Rule::num_calls), [0, 0]);
            expect_done(
                step_with(valid_params())
                    .run(&ctx, Some(resume_with(&state)))
                    .await,
            );
            assert_eq!([&mark, &run, &delete].map(Rule::num_calls), [2, 1, 1]);
        }
    }

    #[tokio::test]
    async fn failed_code_fails_the_step_with_error_and_log() {
        let run = mock!(Client::invoke).then_output(|| {
            let error = r#"{ "errorType": "KeyError", "errorMessage": "'days'" }"#;
            let response = InvokeOutput::builder()
                .status_code(200)
                .function_error("Unhandled");
            response
                .payload(Blob::new(error))
                .log_result(base64::encode("Traceback\n"))
                .build()
        });
        let (get_function, mark, delete) = (
            function_in_state(State::Active),
            create_alias("run-1"),
            delete_succeeds(),
        );
        let error = step_with(valid_params())
            .run(
                &context(&[&get_function, &mark, &run, &delete]),
                Some(resume_after_creation()),
            )
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        let reason = "the code failed: KeyError: 'days' (Unhandled)\nIts log ends with:\nTraceback";
        assert_eq!(
            error.message,
            format!("{reason}\nFunction {} was deleted", function_name())
        );
    }

    #[tokio::test]
    async fn failed_functions_and_refused_invocations_are_deleted() {
        for (code, expected, words) in [
            (
                "InvalidRequestContentException",
                ErrorName::InvalidInput,
                "did not run",
            ),
            ("KMSDisabledException", ErrorName::StepFailed, "did not run"),
        ] {
            let run = mock!(Client::invoke)
                .then_error(move || InvokeError::generic(error_metadata(code, "no")));
            let (get_function, mark, delete) = (
                function_in_state(State::Active),
                create_alias("run-1"),
                delete_succeeds(),
            );
            let error = step_with(valid_params())
                .run(
                    &context(&[&get_function, &mark, &run, &delete]),
                    Some(resume_after_creation()),
                )
                .await
                .unwrap_err();
            assert_eq!(
                (error.name, delete.num_calls()),
                (expected, 1),
                "{code}: {error}"
            );
            assert!(error.message.contains(words), "{error}");
        }
        let (get_function, delete) = (function_in_state(State::Failed), delete_succeeds());
        let error = step_with(valid_params())
            .run(
                &context(&[&get_function, &delete]),
                Some(resume_after_creation()),
            )
            .await
            .unwrap_err();
        assert!(
            error.name == ErrorName::StepFailed && error.message.contains("the key is disabled"),
            "{error}"
        );
        assert_eq!(delete.num_calls(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn failed_without_a_response_is_an_unknown_outcome() {
        let lost = || {
            let body = aws_sdk_lambda::primitives::SdkBody::from("{}");
            aws_sdk_lambda::config::http::HttpResponse::new(500.try_into().unwrap(), body)
        };
        let run = mock!(Client::invoke)
            .sequence()
            .http_response(lost)
            .repeatedly()
            .build();
        let (get_function, mark, delete) = (
            function_in_state(State::Active),
            create_alias("run-1"),
            delete_succeeds(),
        );
        let error = step_with(valid_params())
            .run(
                &context(&[&get_function, &mark, &run, &delete]),
                Some(resume_after_creation()),
            )
            .await
            .unwrap_err();
        assert_eq!(
            (error.name, run.num_calls(), delete.num_calls()),
            (ErrorName::StepFailed, 1, 1)
        );
        assert!(
            error.message.contains("the function may have run"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn cancel_deletes_the_existing_function() {
        let (get_function, delete) = (function_in_state(State::Pending), delete_succeeds());
        step_with(valid_params())
            .cancel(&context(&[&get_function, &delete]), None)
            .await
            .unwrap();
        assert_eq!(delete.num_calls(), 1);
        step_with(valid_params())
            .cancel(
                &context(&[&function_missing()]),
                Some(resume_after_creation()),
            )
            .await
            .unwrap();
    }

    #[test]
    fn the_session_policy_passes_only_this_role_to_lambda() {
        let scope = ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        };
        let policy = step_with(valid_params())
            .permissions()
            .session_policy(&scope)
            .unwrap();
        for part in [
            r#"["arn:aws:lambda:eu-west-1:222222222222:function:stepward-run-*"]"#,
            r#"["arn:aws:iam::222222222222:role/jobs/run-code"]"#,
            r#"{"StringEquals":{"iam:PassedToService":"lambda.amazonaws.com"}}"#,
        ] {
            assert!(policy.contains(part), "{policy}");
        }
    }

    #[test]
    fn permissions_match_what_the_local_cloud_enforces() {
        let unenforced = [
            (
                "iam:PassRole",
                "The local cloud does not check who passes a role to Lambda.",
            ),
            (
                "lambda:ListTags",
                "The local cloud returns tags with GetFunction without this permission.",
            ),
            (
                "lambda:TagResource",
                "The local cloud creates functions with tags without this permission.",
            ),
        ];
        prove_permissions::<RunCode>(&unenforced, async |scene| {
            let name = scene.name("run-code");
            let trust = json!({
                "Version": "2012-10-17",
                "Statement": [{
                    "Effect": "Allow",
                    "Principal": { "Service": "lambda.amazonaws.com" },
                    "Action": "sts:AssumeRole",
                }],
            });
            let role = json!({ "RoleName": name, "AssumeRolePolicyDocument": trust });
            let role = json!({ "Type": "AWS::IAM::Role", "Properties": role });
            scene.make(&json!({ "Resources": { "Role": role } })).await;
            let arn = format!("arn:aws:iam::{}:role/{name}", scene.account_id());
            json!({
                "execution_role_arn": arn,
                "runtime": "Python",
                "code": CODE,
                "payload": { "days": 7 },
            })
        });
    }
}
