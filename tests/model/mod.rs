//! Operations on guest memory as data, and what the contract says about each: for random tests, for fuzzing, and for
//! sequences that are spelled out.
//!
//! | module      | what it has                                                                        |
//! |-------------|------------------------------------------------------------------------------------|
//! | [`layout`]  | where regions lie                                                                  |
//! | [`op`]      | [`Op`](op::Op): one call of one method, and `run`, which makes it                  |
//! | [`value`]   | the types that are read and written as a whole                                     |
//! | [`stream`]  | sources and sinks that give and take little, end, are interrupted, fail, and lie   |
//! | [`outcome`] | what came of a call, so that it can be compared                                    |
//! | [`oracle`]  | [`Model`](oracle::Model): a plain map from address to byte                         |
//! | [`predict`] | what the contract says that comes of a call                                        |
//! | [`memory`]  | memories to call: regions of two methods, a memory that is no collection           |
//! | [`raw`]     | all of it out of raw bytes                                                         |

pub(crate) mod layout;
pub(crate) mod memory;
pub(crate) mod op;
pub(crate) mod oracle;
pub(crate) mod outcome;
pub(crate) mod predict;
pub(crate) mod raw;
pub(crate) mod stream;
pub(crate) mod value;
