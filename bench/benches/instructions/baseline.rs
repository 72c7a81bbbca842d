//! What was counted before, in `bench/instructions.baseline`, and how it compares.

use std::fmt::{self, Write as _};
use std::fs;

use crate::callgrind::Run;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.baseline");

const HEADER: &str = "\
# Instructions of one call. Written by: cargo bench -p bench --bench instructions -- --bless
# For x86-64, the default profile, this compiler, and these extensions of the processor.
";

/// How many instructions more are too many, by hundred: as little as a careless change makes...
const BOUND: u32 = 5;

/// ... but with another compiler, or on a processor with other extensions, what comes of them without any change.
const BOUND_ELSEWHERE: u32 = 25;

/// What was counted before. Empty if there is no file.
#[derive(Debug, Default)]
pub(crate) struct Baseline {
    lines: Vec<(String, String)>,
}

impl Baseline {
    pub(crate) fn read() -> Self {
        let text = fs::read_to_string(PATH).unwrap_or_default();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let pair = |line: &str| line.split_once(' ').map(|(name, value)| (name.into(), value.trim().into()));
        Self { lines: lines.filter_map(pair).collect() }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.lines.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn count(&self, name: &str) -> Option<u32> {
        self.get(name)?.parse().ok()
    }

    /// Whether it was counted by another compiler, or on a processor with other extensions.
    pub(crate) fn difference(&self, run: &Run) -> Option<String> {
        let (compiler, extensions) = (self.get("compiler")?, self.get("extensions")?);
        if compiler == run.compiler && extensions == run.extensions {
            return None;
        }
        Some(format!(
            "The baseline is from Rust {compiler} with {extensions}, this is Rust {} with {}: {BOUND_ELSEWHERE} % are \
             allowed instead of {BOUND}.",
            run.compiler, run.extensions
        ))
    }

    pub(crate) fn judge(&self, run: &Run, name: &str, count: u32) -> Verdict {
        let Some(before) = self.count(name) else { return Verdict::Unknown };
        let bound = if self.difference(run).is_some() { BOUND_ELSEWHERE } else { BOUND };
        if count > before + 1 && u64::from(count) * 100 > u64::from(before) * u64::from(100 + bound) {
            Verdict::Grown
        } else if count < before {
            Verdict::Less
        } else {
            Verdict::Fine
        }
    }
}

/// What to make of a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Fine,
    /// Good, and worth to be kept.
    Less,
    Grown,
    /// The baseline does not have it.
    Unknown,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fine => "",
            Self::Less => "less",
            Self::Grown => "TOO MANY",
            Self::Unknown => "NOT IN THE BASELINE",
        })
    }
}

/// Makes what was counted the baseline.
pub(crate) fn write(run: &Run) {
    let mut text = HEADER.to_owned();
    let mut line = |name: &str, value: &dyn fmt::Display| {
        writeln!(text, "{name} {value}").expect("a string takes everything");
    };
    line("compiler", &run.compiler);
    line("extensions", &run.extensions);
    for (name, count) in &run.counts {
        line(name, count);
    }
    fs::write(PATH, text).expect("the baseline can be written");
}
