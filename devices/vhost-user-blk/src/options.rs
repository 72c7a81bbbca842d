//! What may be chosen on the command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Serves a file to a guest as a virtio disk, over vhost-user.
///
/// Ends with status 0 on SIGTERM and SIGINT, when all requests that were taken are answered. Else with 2 if the command line
/// cannot be understood, 3 if the image cannot be used, 4 if the socket cannot, 5 if the image is in use elsewhere, and
/// 1 for all else.
#[derive(Clone, Debug, Parser)]
#[command(name = "vhost-user-blk", version)]
pub struct Options {
    /// Where to listen for the front-end: a Unix domain socket, which is made, and removed at the end.
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,
    /// The disk: a regular file, or a block device.
    #[arg(long, value_name = "FILE")]
    pub image: PathBuf,
    /// Write nothing to the image, and tell the guest so.
    #[arg(long)]
    pub read_only: bool,
    /// How many queues the guest may use; each has a thread.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub queues: u16,
    /// How the image is read and written.
    #[arg(long, value_enum, default_value_t = Engine::Sync)]
    pub engine: Engine,
    /// What is told on standard error, besides the error that ends the program.
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t = Level::Off)]
    pub log: Level,
    /// Print requests, bytes and latencies, once a second and at the end.
    #[arg(long)]
    pub stats: bool,
    /// Do not offer a feature of the protocol, to try what the front-end does without it.
    #[arg(long, value_enum, value_name = "FEATURE")]
    pub without: Vec<Optional>,
}

/// How an image is read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// One request of a queue after the other.
    Sync,
    /// Many of them at a time, by `io_uring`; one after the other where there is none.
    IoUring,
}

/// What is told on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// Nothing.
    Off,
    /// What went wrong.
    Error,
    /// What a peer does wrong, too.
    Warn,
    /// Connections and rings, too.
    Info,
    /// Each message, too.
    Debug,
    /// Everything.
    Trace,
}

/// A feature of the protocol that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Optional {
    /// `VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS`: the memory comes as one table.
    MemSlots,
    /// `VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD`: requests under way are forgotten when the process dies.
    Inflight,
}
