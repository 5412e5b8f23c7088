//! Programs that answer a JSON line with a JSON line.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;

/// Longer than anything takes that a case asks for, on a machine that does much else.
const ANSWER: Duration = Duration::from_mins(3);

/// A program that ends when its standard input does: when this value is dropped, and when this
/// process ends.
pub(super) struct Program {
    name: &'static str,
    child: Child,
    requests: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Program {
    pub(super) fn start(name: &'static str, mut command: Command) -> Result<Self, String> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|error| format!("{name} cannot be started: {error}"))?;
        let (send, answers) = channel();
        let output = child.stdout.take().ok_or("no standard output")?;
        std::thread::spawn(move || {
            // Nobody listens any more: the program is no longer needed.
            BufReader::new(output)
                .lines()
                .map_while(Result::ok)
                .take_while(|line| send.send(line.clone()).is_ok())
                .count();
        });
        let requests = child.stdin.take();
        Ok(Self {
            name,
            child,
            requests,
            answers,
        })
    }

    pub(super) fn ask(&mut self, request: &Value) -> Result<Value, String> {
        let name = self.name;
        let requests = self
            .requests
            .as_mut()
            .ok_or_else(|| format!("{name} has ended"))?;
        writeln!(requests, "{request}")
            .map_err(|error| format!("{name} takes no request: {error}"))?;
        match self.answers.recv_timeout(ANSWER) {
            Ok(line) => serde_json::from_str(&line)
                .map_err(|error| format!("{name} answered {line}: {error}")),
            Err(error) => Err(format!(
                "{name} did not answer ({error}); its log tells why"
            )),
        }
    }

    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.requests.take());
        // It may have ended by itself already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
