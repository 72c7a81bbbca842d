//! QEMU's monitor, as far as the tests need it.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(30);

/// A connection with QEMU's monitor.
pub(crate) struct Qmp {
    stream: BufReader<UnixStream>,
    events: VecDeque<Value>,
    /// What came of a line that has not come whole.
    part: Vec<u8>,
}

impl Qmp {
    pub(crate) fn new(stream: UnixStream) -> Self {
        let mut qmp = Self { stream: BufReader::new(stream), events: VecDeque::new(), part: Vec::new() };
        let greeting = qmp.next(Instant::now() + ANSWER).expect("QEMU greets");
        assert!(greeting.get("QMP").is_some(), "{greeting}");
        qmp.execute("qmp_capabilities", json!({}));
        qmp
    }

    /// Executes a command and returns its answer.
    #[expect(clippy::needless_pass_by_value, reason = "`json!` makes it where it is used")]
    pub(crate) fn execute(&mut self, command: &str, arguments: Value) -> Value {
        // In one piece: QEMU does a command when it has come, and its line's end may be too late to be read.
        let message = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        self.stream.get_mut().write_all(message.as_bytes()).unwrap_or_else(|error| panic!("{command}: {error}"));
        let deadline = Instant::now() + ANSWER;
        loop {
            let mut answer =
                self.next(deadline).unwrap_or_else(|| panic!("QEMU does not answer {command} {arguments}"));
            if answer.get("event").is_some() {
                self.events.push_back(answer);
            } else if let Some(result) = answer.get_mut("return") {
                return result.take();
            } else {
                panic!("{command} {arguments}: {answer}");
            }
        }
    }

    /// Waits for an event, unless it came already; those before it are forgotten.
    pub(crate) fn event(&mut self, name: &str, limit: Duration) -> Option<Value> {
        let deadline = Instant::now() + limit;
        loop {
            let event = match self.events.pop_front() {
                Some(event) => event,
                None => self.next(deadline)?,
            };
            if event["event"] == name {
                return Some(event);
            }
        }
    }

    fn next(&mut self, deadline: Instant) -> Option<Value> {
        loop {
            // Zero would mean no limit.
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.stream.get_ref().set_read_timeout(Some(left)).unwrap();
            match self.stream.read_until(b'\n', &mut self.part) {
                Ok(0) => panic!("QEMU has closed its monitor"),
                Ok(_) if self.part.ends_with(b"\n") => {
                    let line = std::mem::take(&mut self.part);
                    return Some(serde_json::from_slice(&line).unwrap());
                }
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if Instant::now() >= deadline {
                        return None;
                    }
                }
                Err(error) => panic!("QEMU's monitor: {error}"),
            }
        }
    }
}
