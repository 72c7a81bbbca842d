//! The same work on memory-model, on vm-memory and on raw pointers with a bounds check, in one process.
//!
//! * `cargo bench -p bench --bench peers` measures with criterion. A word after `--` chooses the rows with it in
//!   their names.
//! * `cargo bench -p bench --bench peers -- --quick [WORD]` takes less than a minute, and ends with a table of
//!   ratios, in which the figures that the project asks for stand beside what was measured. With `--profile fat`
//!   these are those for fat LTO.
//!
//! Nothing fails here for being slow: that is for people to judge, on machines that they know.

use std::time::Duration;
use std::{env, mem};

use contenders::Ends;
use criterion::{Criterion, Throughput};

#[path = "peers/fault.rs"]
mod fault;
#[path = "peers/measure.rs"]
mod measure;
#[path = "peers/memory.rs"]
mod memory;
#[path = "peers/ours.rs"]
mod ours;
#[path = "peers/raw.rs"]
mod raw;
#[path = "peers/report.rs"]
mod report;
#[path = "peers/rows.rs"]
mod rows;

use memory::World;
use rows::{Places, Profile, Who};

fn main() {
    let world = World::new();
    let mut ends = Ends::new(1 << 20);
    let profile = profile();
    let (options, words): (Vec<_>, Vec<_>) = env::args().skip(1).partition(|word| word.starts_with("--"));
    if !options.iter().any(|option| option == "--quick") {
        return with_criterion(&Places::new(&world), &mut ends, profile);
    }
    let copies = Places::copies(&world);
    let mut copies: Vec<_> = copies.iter().map(|places| places.groups(profile)).collect();
    let mut measured = Vec::new();
    for number in 0..copies[0].len() {
        let mut group: Vec<_> = copies.iter_mut().map(|groups| mem::take(&mut groups[number])).collect();
        for copy in &mut group {
            copy.retain(|row| words.iter().all(|word| row.title().contains(word.as_str())));
        }
        measured.extend(measure::measure(&group, &world.raw, &mut ends));
    }
    report::print(&measured, fault::recovered(), profile);
}

/// Cargo puts a profile's programs into a folder of its name.
fn profile() -> Profile {
    let exe = env::current_exe().expect("this program is a file");
    if exe.components().any(|folder| folder.as_os_str() == "fat") { Profile::Fat } else { Profile::Release }
}

fn with_criterion(places: &Places<'_>, ends: &mut Ends, profile: Profile) {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
        .configure_from_args();
    for row in places.groups(profile).into_iter().flatten() {
        let mut group = criterion.benchmark_group(row.title());
        group.throughput(Throughput::Elements(row.offsets.len() as u64));
        for (name, who) in ["memory-model", "vm-memory", "raw"].into_iter().zip(Who::ALL) {
            group.bench_function(name, |bencher| bencher.iter(|| row.pass(who, ends)));
        }
        group.finish();
    }
    criterion.final_summary();
}
