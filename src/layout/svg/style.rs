//! Colours, light and dark. The classes' names have a prefix, as a page's other classes may be near.

use super::super::EntryKind;
use crate::RegionKind;

/// All kinds, in the order of the legend.
pub(super) const KINDS: [EntryKind; 8] = [
    EntryKind::Memory(RegionKind::Ram),
    EntryKind::Memory(RegionKind::Rom),
    EntryKind::Memory(RegionKind::Device),
    EntryKind::Memory(RegionKind::Reserved),
    EntryKind::Reservation,
    EntryKind::Allocation,
    EntryKind::Hole,
    EntryKind::Unused,
];

/// How many colours there are for nodes; after the last comes the first again.
const NODE_COLOURS: u32 = 8;

/// The class of what is of this kind.
pub(super) fn class(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Memory(RegionKind::Ram) => "mm-ram",
        EntryKind::Memory(RegionKind::Rom) => "mm-rom",
        EntryKind::Memory(RegionKind::Device) => "mm-device",
        EntryKind::Memory(RegionKind::Reserved) => "mm-reserved",
        EntryKind::Reservation => "mm-reservation",
        EntryKind::Allocation => "mm-allocation",
        EntryKind::Hole => "mm-hole",
        EntryKind::Unused => "mm-unused",
    }
}

/// The number in a node's class, `mm-node0` and so on.
pub(super) fn node_colour(node: u32) -> u32 {
    node.checked_rem(NODE_COLOURS).unwrap_or(0)
}

pub(super) const STYLE: &str = "\
.mm{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace;fill:#1d2430}
.mm-head{font-size:17px;font-weight:bold}
.mm-name{font-weight:bold}
.mm-soft{fill:#5a6472}
.mm-page{fill:#ffffff;stroke:#d5d9e0}
.mm-line{fill:none;stroke:#8a93a1}
.mm-gap{fill:none;stroke:#ffffff;stroke-width:5}
.mm-ram{fill:#d6e6fb;stroke:#3f74b5}
.mm-rom{fill:#e6daf7;stroke:#7a55b0}
.mm-device{fill:#fbe3c4;stroke:#b9782a}
.mm-reserved{fill:#dfe2e7;stroke:#6b7480}
.mm-reservation{fill:#f9d7d5;stroke:#b3524d}
.mm-allocation{fill:#d3efd6;stroke:#3f8d4f}
.mm-hole{fill:#f4f2ea;stroke:#9a947f;stroke-dasharray:5 3}
.mm-unused{fill:none;stroke:#a9b0bb;stroke-dasharray:2 3}
.mm-node0{fill:#1f6fc4}.mm-node1{fill:#e0912f}.mm-node2{fill:#2f9e6e}.mm-node3{fill:#c0456b}
.mm-node4{fill:#7b5cc9}.mm-node5{fill:#8a8f1e}.mm-node6{fill:#1f9fb0}.mm-node7{fill:#8c5a3c}
@media (prefers-color-scheme:dark){
.mm{fill:#e4e8ee}
.mm-soft{fill:#a5afbc}
.mm-page{fill:#171b21;stroke:#343b46}
.mm-line{stroke:#7c8694}
.mm-gap{stroke:#171b21}
.mm-ram{fill:#1d3654;stroke:#6ea3e0}
.mm-rom{fill:#382a54;stroke:#a98ade}
.mm-device{fill:#4c3517;stroke:#dca35b}
.mm-reserved{fill:#333942;stroke:#8f99a6}
.mm-reservation{fill:#4f2726;stroke:#dc807b}
.mm-allocation{fill:#1e4127;stroke:#6fc081}
.mm-hole{fill:#24262a;stroke:#8c8776}
.mm-unused{stroke:#5d6671}
}
";
