//! The table of ratios.

#![expect(clippy::print_stdout, reason = "the table is what the program is for")]

use std::time::Duration;

use crate::measure::{Measured, ROUNDS};
use crate::rows::{Asked, Profile};

/// What an access to a page that is gone may take.
const FAULT: Duration = Duration::from_micros(5);

/// Prints all rows, those that relate memory-model's to each other, and how many of the figures are reached.
pub(crate) fn print(rows: &[Measured], fault: Duration, profile: Profile) {
    let mut verdicts = Vec::new();
    println!("{}\n", legend(profile));
    println!(
        "{:<22} {:>14} {:>13} {:>10} {:>10} {:>8} {:>8} {:>11}",
        "work", "regions", "memory-model", "vm-memory", "raw", "speedup", "of raw", "asked"
    );
    for row in rows {
        let [ours, theirs, raw] = row.ns;
        let (asked, met) = match row.asked {
            Asked::Nothing => (String::new(), None),
            Asked::Speedup(least) => (format!(">= {least:.1} x"), Some(theirs / ours >= least)),
            Asked::NearRaw => {
                let most = raw * 1.10 + 2.0;
                (format!("<= {most:.1} ns"), Some(ours <= most))
            }
        };
        verdicts.extend(met);
        println!(
            "{:<22} {:>14} {ours:>10.2} ns {theirs:>7.2} ns {raw:>7.2} ns {:>6.2} x {:>6.2} x {asked:>11} {}",
            row.name,
            row.place,
            theirs / ours,
            ours / raw,
            verdict(met),
        );
    }
    println!(
        "\n{:<22} {:>14} {:>13} {:>10} {:>10} {:>8} {:>8} {:>11}",
        "memory-model alone", "regions", "time", "against", "", "", "ratio", "asked"
    );
    for (row, base, most) in related(rows) {
        let ratio = row.ns[0] / base.ns[0];
        let met = most.map(|most| ratio <= most);
        verdicts.extend(met);
        let asked = most.map(|most| format!("<= {most:.2} x")).unwrap_or_default();
        println!(
            "{:<22} {:>14} {:>10.2} ns {:>7.2} ns {:>10} {:>8} {ratio:>6.2} x {:>11} {}",
            row.name,
            row.place,
            row.ns[0],
            base.ns[0],
            format!("of {}", base.place),
            "",
            asked,
            verdict(met),
        );
    }
    let met = fault <= FAULT;
    verdicts.push(met);
    println!(
        "{:<22} {:>14} {:>10.2?} {:>45} {:>11} {}",
        "a recovered fault",
        "",
        fault,
        "",
        "<= 5 us",
        verdict(Some(met))
    );
    let met = verdicts.iter().filter(|&&met| met).count();
    println!("\n{met} of {} figures reached", verdicts.len());
}

fn legend(profile: Profile) -> String {
    let profile = match profile {
        Profile::Release => "the default release profile",
        Profile::Fat => "fat LTO and one codegen unit",
    };
    format!(
        "\
{profile}; nanoseconds for one operation in the fastest of {ROUNDS} interleaved rounds
speedup: vm-memory's time over memory-model's; of raw: memory-model's time over that of a checked raw pointer
regions: of equal size, 4 MiB in all, with holes as large as they are in between; \"adjacent\": without holes;
\"scattered\": with holes of 4 KiB to 1 TiB; \"boundary\": from one adjacent region into the next. Raw has one mapping.
u64 + 1: misaligned by one byte. Writing to the pipe, and rewinding the file at its end, are part of a stream's time."
    )
}

fn verdict(met: Option<bool>) -> &'static str {
    match met {
        Some(true) => "ok",
        Some(false) => "below",
        None => "",
    }
}

/// Rows to compare with others, and how many times their time is asked at most.
fn related(rows: &[Measured]) -> impl Iterator<Item = (&Measured, &Measured, Option<f64>)> {
    let find = |work: &str, place: &str| rows.iter().find(|row| row.name == work && row.place == place);
    let many = rows.iter().filter(|row| row.place == "1024").filter_map(move |row| {
        let asked = matches!(row.asked, Asked::Speedup(_)) && row.name.contains("_obj");
        Some((row, find(&row.name, "1")?, asked.then_some(1.5)))
    });
    let many_of_some =
        rows.iter().filter(|row| row.place == "1024").filter_map(move |row| Some((row, find(&row.name, "8")?, None)));
    let misaligned = rows.iter().filter_map(move |row| {
        let aligned = row.name.strip_suffix(" + 1")?;
        Some((row, find(aligned, &row.place)?, Some(1.25)))
    });
    many.chain(many_of_some).chain(misaligned)
}
