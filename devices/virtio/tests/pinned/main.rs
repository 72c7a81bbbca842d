//! What VIRTIO 1.2 says of rings, once more, with the rings pinned: the tests are those of the target `virtio`.
#![expect(clippy::unwrap_used, reason = "helpers of tests, which are to stop where they fail")]
#![expect(clippy::cast_possible_truncation, reason = "numbers that the tests choose, and random ones cut to size")]
#![expect(clippy::doc_markdown, reason = "quotes the specification as it is")]

/// Whether the queues of the tests are pinned.
const PINNED: bool = true;

#[path = "../virtio/chains.rs"]
mod chains;
#[path = "../virtio/common.rs"]
mod common;
#[path = "../virtio/corrupt.rs"]
mod corrupt;
#[path = "../virtio/corruption.rs"]
mod corruption;
#[path = "../virtio/notify.rs"]
mod notify;
#[path = "../virtio/rings.rs"]
mod rings;
