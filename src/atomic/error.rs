use std::error::Error;

use super::{ListenerId, PlugError};
use crate::guest_memory::{PlugState, RegionError};
use crate::{GuestAddress, GuestUsize};

/// Why a listener cannot take a region: an error of its own.
pub type ListenerError = Box<dyn Error + Send + Sync>;

/// Why a map was not changed. It is as it was before, and so is what listeners know, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// The regions do not make a memory, or the one to be removed is not there.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// Whoever was to make the new map has given up.
    #[error("the map was not changed: {0}")]
    Abandoned(#[from] ListenerError),
    /// A listener cannot take a region. Those that had accepted it were told that it is gone.
    #[error("{listener} refused the region {}..={}: {source}", region.0, region.1)]
    Refused {
        /// The listener's name.
        listener: String,
        /// First and last address of the region.
        region: (GuestAddress, GuestAddress),
        /// What the listener said.
        source: ListenerError,
    },
    /// A region would take the place of another. Listeners would have both for a moment, as they accept what is new before
    /// the change and let go what is gone after it.
    #[error(
        "the region {}..={} would take the place of {}..={}: remove that in an update of its own before",
        new.0, new.1, old.0, old.1
    )]
    Replaced {
        /// First and last address of the new region.
        new: (GuestAddress, GuestAddress),
        /// First and last address of the one that is there.
        old: (GuestAddress, GuestAddress),
    },
    /// An update within an update: from a listener, or from the function that makes the new map. It would wait for itself.
    #[error("the map is being changed by this thread: a listener cannot change it")]
    Nested,
    /// This thread holds a guard of this map, for which the update might wait for ever.
    #[error("this thread holds a guard of the map, for which its change would have to wait: drop it before")]
    GuardHeld,
    /// Threads that change maps would wait for each other for ever: this one, and one that waits for this one's guard of
    /// another map, or for its change of another map to end. The others go on when this one drops the guard, or ends that
    /// change.
    #[error(
        "another thread's change of a map waits for this thread: drop guards of other maps, or end their changes, first"
    )]
    Deadlock,
    /// Not all of what was to be plugged or unplugged is memory.
    #[error("not all of the {len:#x} bytes at {addr} are memory: there is none at {hole}")]
    Hole {
        /// Where the range begins.
        addr: GuestAddress,
        /// Its length in bytes.
        len: GuestUsize,
        /// The first address without memory.
        hole: GuestAddress,
    },
    /// What was to be plugged or unplugged goes past the end of the address space.
    #[error("{len:#x} bytes at {addr} go past the end of the address space")]
    Wraps {
        /// Where the range begins.
        addr: GuestAddress,
        /// Its length in bytes.
        len: GuestUsize,
    },
    /// A region cannot plug or unplug a part of it. If the region has failed to unplug it, what it held may be gone.
    #[error("{}..={} cannot be {}: {source}", range.0, range.1, to)]
    Plug {
        /// First and last address of the part.
        range: (GuestAddress, GuestAddress),
        /// What it was to be.
        to: PlugState,
        /// What the region said.
        source: PlugError,
    },
    /// A listener cannot take a part of a region that was to be plugged. Those that had accepted it were told that it is not.
    #[error("{listener} refused {}..={}, which was to be plugged: {source}", range.0, range.1)]
    PlugRefused {
        /// The listener's name.
        listener: String,
        /// First and last address of the part.
        range: (GuestAddress, GuestAddress),
        /// What the listener said.
        source: ListenerError,
    },
    /// A change was refused, and what had been done of it could not be undone.
    #[error("{cause}; and what was done of it stays: {undo}")]
    NotUndone {
        /// Why it was refused.
        cause: Box<MapError>,
        /// What the first said that did not undo its part.
        undo: Box<MapError>,
    },
    /// There is no such listener, or no longer.
    #[error("no listener is registered as {0:?}")]
    NoListener(ListenerId),
}
