//! The daemon's command line.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use memory_model_vhost_user_blk::daemon;
use memory_model_vhost_user_blk::options::{Level, Options};
use tracing::level_filters::LevelFilter;

fn main() -> ExitCode {
    let options = Options::parse();
    let level = match options.log {
        Level::Off => LevelFilter::OFF,
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    tracing_subscriber::fmt().with_max_level(level).with_writer(io::stderr).with_ansi(false).init();
    match daemon::run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let status = error.exit_status();
            // Where nobody reads it the status tells.
            writeln!(io::stderr(), "error: {error}").unwrap_or_default();
            ExitCode::from(status)
        }
    }
}
