//! A split virtqueue and virtio-blk over any guest memory.
//!
//! | layer  | module     | the question it answers                                                     |
//! |--------|------------|-----------------------------------------------------------------------------|
//! | format | [`ring`]   | what lies where in a virtqueue's memory (VIRTIO 1.2, 2.7)                    |
//! | device | [`queue`]  | which buffers has the driver made available, and does it want to be told?   |
//! | device | [`blk`]    | what does a disk do with them (VIRTIO 1.2, 5.2)                             |
//! | guest  | [`driver`] | how does a guest make buffers available? For tests, examples and tools      |
//!
//! What is in a chain is read and written by the library's [`Reader`](memory_model::buffers::Reader) and
//! [`Writer`](memory_model::buffers::Writer), and given to files as its
//! [`GuestBuffers`](memory_model::buffers::GuestBuffers).
//!
//! All of it is generic over [`IoMemory`](memory_model::IoMemory) alone, has no `unsafe`, and takes whatever is in the
//! rings: a driver's mistake, or malice, ends in an error status of its request, or in a broken queue with a reason.
//!
//! # A disk and its driver
//!
//! ```
//! use std::{error::Error, fs::File};
//!
//! use memory_model::{IoAddress, IoMemory};
//! use memory_model_virtio::blk::{Block, BlockOptions, RequestHeader, S_OK, T_IN};
//! use memory_model_virtio::{DriverQueue, Queue, QueueConfig, Segment};
//!
//! /// Reads a file's first sector through a virtio disk, in memory of any kind that reaches up to 0xa000.
//! fn read_sector<I: IoMemory>(mem: &I, file: File) -> Result<[u8; 512], Box<dyn Error>> {
//!     let mut disk = Block::new(file, BlockOptions { read_only: true, ..BlockOptions::default() })?;
//!     // What a transport negotiates: features, and where the queue is.
//!     let features = disk.features();
//!     disk.set_features(features);
//!     let config = QueueConfig::contiguous(IoAddress(0x1000), 64)?.with_features(features);
//!     let (mut driver, mut queue) = (DriverQueue::new(mem, config)?, Queue::new(config)?);
//!
//!     // The guest: a header for the device to read; data, and a status, for it to write.
//!     let (header, status) = (IoAddress(0x8000), IoAddress(0x8010));
//!     let data = IoAddress(0x9000);
//!     mem.write_obj(RequestHeader::new(T_IN, 0), header)?;
//!     let writable = [Segment { addr: data, len: 512 }, Segment { addr: status, len: 1 }];
//!     let head = driver.add(mem, &[Segment { addr: header, len: 16 }], &writable)?;
//!     assert!(driver.publish(mem)?, "the device wants to be notified");
//!
//!     // The device, when it is notified: until nothing is left.
//!     let mut notify = false;
//!     loop {
//!         let processed = disk.process_queue(&mut queue, mem)?;
//!         notify |= processed.notify;
//!         if !processed.more {
//!             break;
//!         }
//!     }
//!
//!     // The guest, when it is.
//!     assert!(notify);
//!     let used = driver.pop_used(mem)?.ok_or("nothing was used")?;
//!     assert_eq!((used.head, used.len), (head, 513));
//!     match mem.read_obj::<u8>(status)? {
//!         S_OK => Ok(mem.read_obj(data)?),
//!         status => Err(format!("the disk answers {status}").into()),
//!     }
//! }
//! ```
#![forbid(unsafe_code)]
#![warn(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

pub mod blk;
pub mod driver;
pub mod queue;
pub mod ring;

pub use blk::{Block, BlockOptions, Processed};
pub use driver::DriverQueue;
pub use queue::{Chain, Queue, QueueError, Run, Segment};
pub use ring::{ConfigError, QueueConfig};
