//! Others' interfaces on the types of this crate, each behind a feature.
//!
//! | module  | whose                                                    | feature |
//! |---------|----------------------------------------------------------|---------|
//! | [`kvm`] | KVM's memory slots and its dirty log, through kvm-ioctls | `kvm`   |

pub mod kvm;
