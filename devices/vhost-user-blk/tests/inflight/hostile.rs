//! Regions that hold anything, and such as are taken away.

use std::fs::File;

use memory_model_vhost_user_blk::inflight::{Error, Inflight, QueueInflight};
use memory_model_virtio::blk::Journal;
use proptest::prelude::*;
use vhost::vhost_user::message::VhostUserInflight;

use crate::fused::{Fused, OUTCOME};

const QUEUE_SIZE: u16 = 16;

/// Bytes of a part, some of them likely to be believed.
fn part() -> impl Strategy<Value = Vec<u8>> {
    let len = 16 + 16 * usize::from(QUEUE_SIZE);
    let field = prop_oneof![0..20_u16, any::<u16>(), Just(u16::MAX)];
    let header = (
        prop_oneof![Just(0_u16), Just(1), any::<u16>()],
        prop_oneof![Just(QUEUE_SIZE), 0..20_u16],
        field.clone(),
        field,
    );
    (proptest::collection::vec(any::<u8>(), len), header, any::<bool>()).prop_map(|(mut bytes, header, features)| {
        let (version, desc_num, last_batch_head, used_idx) = header;
        for (at, value) in [(8, version), (10, desc_num), (12, last_batch_head), (14, used_idx)] {
            bytes[at..at + 2].copy_from_slice(&value.to_ne_bytes());
        }
        if !features {
            bytes[..8].fill(0);
        }
        // Lists with an end, and loops.
        for desc in bytes[16..].chunks_mut(16) {
            let next = u16::from(desc[6]) % (QUEUE_SIZE + 2);
            desc[6..8].copy_from_slice(&next.to_ne_bytes());
            desc[0] %= 2;
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_part_holds_few_heads_come_of_it(
        bytes in part(),
        ring_size in 0..=QUEUE_SIZE + 1,
        used_idx in prop_oneof![0..20_u16, any::<u16>()],
        heads in proptest::collection::vec(any::<u16>(), 0..20),
    ) {
        let memory = Fused::new(bytes);
        let mut part = QueueInflight::new(memory.clone(), QUEUE_SIZE);
        let recovered = part.recover(ring_size, used_idx);
        prop_assert!(memory.stores().len() <= usize::from(QUEUE_SIZE) + 6, "bounded");
        if let Ok(recovered) = &recovered {
            let mut sorted = recovered.clone();
            sorted.sort_unstable();
            sorted.dedup();
            prop_assert_eq!(sorted.len(), recovered.len(), "none is there twice");
            prop_assert!(sorted.iter().all(|&head| head < ring_size));
            prop_assert_eq!(memory.u16_at(14), used_idx);
            prop_assert_eq!(part.recover(ring_size, used_idx).unwrap(), recovered.clone(), "the same again");
            memory.stores();
        }
        // Heads of no ring leave no trace, nor does any where nothing could be recovered.
        for &head in &heads {
            part.taken(head);
            part.done(head);
            part.used(head, used_idx, &OUTCOME);
            let stores = memory.stores().len();
            prop_assert!(stores <= 6);
            prop_assert!(stores == 0 || (recovered.is_ok() && head < ring_size));
        }
        prop_assert!(part.failed().is_none());
    }

    #[test]
    fn whatever_a_message_says_it_is_refused_or_has_room(
        size in prop_oneof![0..0x4000_u64, any::<u64>()],
        offset in prop_oneof![Just(0), Just(0x1000), 0..0x4000_u64, any::<u64>()],
        num_queues in prop_oneof![0..5_u16, any::<u16>()],
        queue_size in prop_oneof![0..300_u16, any::<u16>()],
    ) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(0x3000).unwrap();
        let message = VhostUserInflight::new(size, offset, num_queues, queue_size);
        if let Ok(inflight) = Inflight::open(&message, file, u16::MAX, u16::MAX) {
            for index in 0..num_queues {
                inflight.queue(index).unwrap().recover(queue_size, 0).unwrap();
            }
        }
    }
}

/// A region of one queue, in a file that is not sealed.
fn unsealed(queue_size: u16) -> (File, QueueInflight) {
    let file = tempfile::tempfile().unwrap();
    file.set_len(0x4000).unwrap();
    let message = VhostUserInflight::new(0x4000, 0, 1, queue_size);
    let inflight = Inflight::open(&message, file.try_clone().unwrap(), 1, queue_size).unwrap();
    (file, inflight.queue(0).unwrap())
}

#[test]
fn a_region_that_is_truncated_is_an_error() {
    let (file, mut part) = unsealed(512);
    part.recover(512, 0).unwrap();
    part.taken(1);
    file.set_len(0).unwrap();
    assert!(part.failed().is_none(), "nobody has looked");
    part.taken(2);
    let error = part.failed().expect("it is gone").to_string();
    assert!(error.starts_with("the inflight region cannot be accessed: the page at offset 0x"), "{error}");
    // The first is kept, and nothing is written any more, if it could be again.
    file.set_len(0x4000).unwrap();
    part.done(1);
    part.used(1, 1, &OUTCOME);
    assert_eq!(part.failed().unwrap().to_string(), error);
    let mut bytes = vec![0xee; 0x4000];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).unwrap();
    assert!(bytes.iter().all(|&byte| byte == 0));

    file.set_len(0).unwrap();
    assert!(matches!(part.recover(512, 0).unwrap_err(), Error::Access(_)));
    part.taken(1);
    assert!(part.failed().is_none(), "there is nothing to fail");
}

/// The header's page is there, and the page of a descriptor's state is not: what is specified to come later is not written.
#[test]
fn a_step_ends_where_it_fails() {
    let (file, mut part) = unsealed(512);
    part.recover(512, 0).unwrap();
    part.taken(400);
    file.set_len(0x1000).unwrap();
    part.done(400);
    assert!(part.failed().is_some());
    let mut header = [0xee; 16];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut header, 0).unwrap();
    assert_eq!(header[12..], [0; 4], "neither last_batch_head nor used_idx");
}
