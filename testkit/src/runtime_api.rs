//! Lambda on loopback: a bootstrap binary as Lambda runs it, with the Runtime API of
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>.

#![expect(
    clippy::expect_used,
    reason = "without a process there is no test; the message says so"
)]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::http::{Call, Server};

/// The time that Lambda gives an invocation where a test says nothing else.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Between two looks at whether the process still lives.
const LOOK: Duration = Duration::from_millis(20);
const INVOCATION: &str = "/2018-06-01/runtime/invocation/";

/// A function's process, and the Runtime API that it talks to. It is killed when dropped.
pub struct Function {
    child: Child,
    started: Instant,
    events: Option<Sender<Event>>,
    answers: Receiver<Answer>,
    output: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
    // Last: its thread ends once `events` is gone.
    _server: Server,
}

/// What a function answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// The response's body.
    Success(String),
    /// An error, as Step Functions gets it.
    Failure {
        /// `errorType`: what a state machine matches.
        name: String,
        /// `errorMessage`: what an operator reads.
        message: String,
    },
}

struct Event {
    body: Vec<u8>,
    timeout: Duration,
}

impl Function {
    /// Starts a bootstrap in the environment that Lambda sets, with these variables of the
    /// function's own, and nothing of the test's.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(mut command: Command, environment: &[(String, String)]) -> Self {
        let (events, next) = channel();
        let (answer, answers) = channel();
        let mut invocations = 0;
        let server = Server::start(move |call| serve(call, &mut invocations, &next, &answer));
        let name = command
            .get_program()
            .to_string_lossy()
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_owned();
        command
            .env_clear()
            .envs(reserved(&name))
            .env("AWS_LAMBDA_RUNTIME_API", server.address());
        command.envs(environment.iter().cloned());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = command.spawn().expect("the function's binary starts");
        let output = Arc::default();
        let readers = vec![
            collect(child.stdout.take().expect("stdout is piped"), &output),
            collect(child.stderr.take().expect("stderr is piped"), &output),
        ];
        Self {
            child,
            started,
            events: Some(events),
            answers,
            output,
            readers,
            _server: server,
        }
    }

    /// Sends an event and waits for its answer. As on Lambda, a process that ends is
    /// `Runtime.ExitError` and one that takes too long is killed: `Sandbox.Timedout`.
    pub fn invoke(&mut self, event: &[u8]) -> Answer {
        self.invoke_within(TIMEOUT, event)
    }

    /// As [`invoke`](Self::invoke), where Lambda's limit is another.
    pub fn invoke_within(&mut self, timeout: Duration, event: &[u8]) -> Answer {
        self.send(timeout, event);
        self.answer(timeout)
    }

    /// Sends an event, and waits for nothing.
    pub fn send(&self, timeout: Duration, event: &[u8]) {
        // A process that has ended takes no event; `answer` tells.
        let _ = self.events.as_ref().map(|events| {
            events.send(Event {
                body: event.to_vec(),
                timeout,
            })
        });
    }

    /// The answer to the event that was sent.
    pub fn answer(&mut self, timeout: Duration) -> Answer {
        let limit = Instant::now() + timeout;
        loop {
            match self.answers.recv_timeout(LOOK) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Disconnected) => {
                    return Answer::failure("Runtime.ExitError", "no Runtime API");
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() > limit => {
                    self.kill();
                    return Answer::failure("Sandbox.Timedout", "the task timed out");
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Ok(Some(status)) = self.child.try_wait() {
                        return Answer::failure(
                            "Runtime.ExitError",
                            &format!("the process ended: {status}"),
                        );
                    }
                }
            }
        }
    }

    /// Since the process was started.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Kills the process at once (SIGKILL), and waits until all that it wrote has been read.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }

    /// What the process wrote so far, standard output and standard error.
    #[must_use]
    pub fn output(&self) -> String {
        self.output
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The process's ID.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The most memory that the living process has had, in bytes; `None` on systems that do not
    /// tell.
    #[must_use]
    pub fn peak_memory(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).ok()?;
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(peak.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    }

    /// The processor time that the living process has used, its ended children's included; `None`
    /// on systems that do not tell. <https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html>
    #[must_use]
    pub fn cpu_time(&self) -> Option<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).ok()?;
        // The second field, the program's name, may hold blanks and brackets. `utime` is the 14th.
        let fields = stat.rsplit_once(')')?.1.split_whitespace();
        let ticks: Option<Vec<u64>> = fields
            .skip(11)
            .take(4)
            .map(|field| field.parse().ok())
            .collect();
        // Linux counts these in hundredths of a second on every processor that Lambda has.
        Some(Duration::from_millis(ticks?.iter().sum::<u64>() * 10))
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        self.kill();
        self.events = None;
    }
}

impl Answer {
    /// An error of this name.
    fn failure(name: &str, message: &str) -> Self {
        Self::Failure {
            name: name.into(),
            message: message.into(),
        }
    }

    /// The response as JSON; `null` for an error.
    #[must_use]
    pub fn json(&self) -> Value {
        match self {
            Self::Success(body) => serde_json::from_str(body).unwrap_or_default(),
            Self::Failure { .. } => Value::Null,
        }
    }
}

/// One request of the process. Waiting for the next event holds up no other: a process handles one
/// at a time.
fn serve(call: Call, invocations: &mut u32, events: &Receiver<Event>, answers: &Sender<Answer>) {
    let error = || {
        let error: Value = serde_json::from_slice(&call.body).unwrap_or_default();
        let text = |field: &str| error[field].as_str().unwrap_or_default().to_owned();
        Answer::Failure {
            name: text("errorType"),
            message: text("errorMessage"),
        }
    };
    let answer = match call
        .path
        .strip_prefix(INVOCATION)
        .map(|rest| rest.rsplit('/').next().unwrap_or(rest))
    {
        Some("next") => {
            *invocations += 1;
            // No more events: the test is over, and so is the process.
            if let Ok(event) = events.recv() {
                deliver(call, *invocations, &event);
            }
            return;
        }
        Some("response") => Answer::Success(String::from_utf8_lossy(&call.body).into_owned()),
        Some("error") => error(),
        None if call.path.ends_with("/runtime/init/error") => error(),
        _ => return call.answer(404, &[], b""),
    };
    let _ = answers.send(answer);
    call.answer(
        202,
        &[("Content-Type", "application/json")],
        br#"{"status":"OK"}"#,
    );
}

fn deliver(call: Call, invocation: u32, event: &Event) {
    let deadline = SystemTime::now() + event.timeout;
    let deadline = deadline
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis()
        .to_string();
    call.answer(
        200,
        &[
            ("Content-Type", "application/json"),
            (
                "Lambda-Runtime-Aws-Request-Id",
                &format!("8476a536-e9f4-11e8-9739-{invocation:012}"),
            ),
            ("Lambda-Runtime-Deadline-Ms", &deadline),
            (
                "Lambda-Runtime-Invoked-Function-Arn",
                "arn:aws:lambda:eu-west-1:111111111111:function:stepward-test",
            ),
            (
                "Lambda-Runtime-Trace-Id",
                "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=0",
            ),
        ],
        &event.body,
    );
}

/// <https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html>
fn reserved(name: &str) -> Vec<(&'static str, String)> {
    let fixed = [
        ("AWS_DEFAULT_REGION", "eu-west-1"),
        ("AWS_EXECUTION_ENV", "AWS_Lambda_provided.al2023"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand"),
        ("AWS_LAMBDA_LOG_STREAM_NAME", "2026/01/01/[$LATEST]0"),
        ("AWS_REGION", "eu-west-1"),
        ("LANG", "en_US.UTF-8"),
        ("PATH", "/usr/local/bin:/usr/bin:/bin:/opt/bin"),
        ("TZ", ":UTC"),
        ("_HANDLER", "bootstrap"),
    ];
    let mut all: Vec<_> = fixed
        .into_iter()
        .map(|(name, value)| (name, value.to_owned()))
        .collect();
    all.push(("AWS_LAMBDA_FUNCTION_NAME", format!("stepward-{name}")));
    all.push((
        "AWS_LAMBDA_LOG_GROUP_NAME",
        format!("/aws/lambda/stepward-{name}"),
    ));
    all
}

/// Gathers what the process writes, line by line, so that the two streams do not cut each other's
/// lines.
fn collect(stream: impl Read + Send + 'static, output: &Arc<Mutex<String>>) -> JoinHandle<()> {
    let output = Arc::clone(output);
    std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while stream
            .read_until(b'\n', &mut line)
            .is_ok_and(|read| read > 0)
        {
            output
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    })
}
