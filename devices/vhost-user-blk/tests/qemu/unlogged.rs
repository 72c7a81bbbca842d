//! The daemon in a build that logs nothing: a program of its own, so that it never stands in the daemon's place.
#![forbid(unsafe_code)]

use clap::Parser;
use memory_model_vhost_user_blk::daemon;
use memory_model_vhost_user_blk::options::Options;

fn main() {
    if let Err(error) = daemon::run(Options::parse()) {
        panic!("{error}");
    }
}
