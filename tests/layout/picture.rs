//! The picture: a document that needs nothing else, with everything in it, and no text over another.

use memory_model::layout::{EntryKind, GuestLayout, Platform, Zone};
use memory_model::{GuestAddress, RegionKind};

use crate::map::two_nodes;
use crate::xml::{Element, parse};
use crate::{GIB, MIB};

/// Where a text is, in hundredths of a pixel: first and last column, first and last line.
#[derive(Clone, Debug)]
struct Extent {
    x: (u32, u32),
    y: (u32, u32),
    text: String,
}

/// Fonts have cells of 0.602 of their size; outside of ASCII a character may take two.
fn extent(element: &Element) -> Extent {
    let number = |key: &str| element.attributes[key].parse::<u32>().unwrap() * 100;
    let cells: u32 = element.text.chars().map(|c| if c.is_ascii() { 1 } else { 2 }).sum();
    let is_end = element.attributes.contains_key("text-anchor");
    let (font, gap) = match element.attributes.get("class").map(String::as_str) {
        Some("mm-head") => (1700, 0),
        Some(_) => (1300, 0),
        // Two parts with space between them.
        None => (1300, if is_end { 0 } else { 1400 }),
    };
    let width = cells * font * 602 / 1000 + gap;
    let (x, y) = (number("x"), number("y"));
    let x = if is_end { (x.checked_sub(width).unwrap(), x) } else { (x, x + width) };
    Extent { x, y: (y - font * 3 / 4, y + font / 4), text: element.text.clone() }
}

/// Whether it is a document of its own, has all names, and no two texts touch, or the picture's edge.
pub(crate) fn assert_picture(layout: &GuestLayout) {
    let svg = layout.to_svg();
    let elements = parse(&svg);
    let root = elements.last().unwrap();
    assert_eq!((&*root.name, &*root.attributes["xmlns"]), ("svg", "http://www.w3.org/2000/svg"));
    for foreign in ["href", "url(", "@import", "<script", "<image"] {
        assert!(!svg.contains(foreign), "needs something else: {foreign}");
    }
    let side = |key: &str| root.attributes[key].parse::<u32>().unwrap() * 100;
    assert!(side("width") <= 1000 * 100, "wider than a page");
    let texts: Vec<Extent> = elements.iter().filter(|element| element.name == "text").map(extent).collect();
    for (number, one) in texts.iter().enumerate() {
        assert!(one.x.1 <= side("width") && one.y.1 <= side("height"), "{one:?} is not in the picture");
        for other in &texts[number + 1..] {
            let apart = one.x.1 <= other.x.0 || other.x.1 <= one.x.0 || one.y.1 <= other.y.0 || other.y.1 <= one.y.0;
            assert!(apart, "{one:?} is over {other:?}");
        }
    }
    let description = &elements.iter().find(|element| element.name == "desc").unwrap().text;
    assert!(*description == layout.to_string().replace('\u{ffff}', "\u{fffd}"), "{description}");
    // Each entry has a line of text, whole or cut.
    for entry in layout.entries() {
        let what = format!("{}{}", entry.name, entry.kind);
        assert!(
            texts.iter().any(|text| text.text.starts_with(&what) || text.text.contains('…')),
            "{what} is not shown"
        );
    }
}

#[test]
fn two_nodes_with_everything() {
    let layout = two_nodes();
    assert_picture(&layout);
    let elements = parse(&layout.to_svg());
    let has = |text: &str| elements.iter().any(|element| element.name == "text" && element.text == text);
    for text in [
        "16 GiB RAM, 4 MiB ROM",
        "node0RAM, node 0",
        "3 GiB of 8 GiB",
        "firmwareROM",
        "ACPI tablesreservation",
        "frame bufferallocation",
        "0xfd_0000_0000",
        "0x3fff_ffff_ffff",
        "node 1",
    ] {
        assert!(has(text), "{text} is missing");
    }
    let titles: Vec<_> = elements.iter().filter(|element| element.name == "title").map(|title| &*title.text).collect();
    assert!(titles.contains(&"RAM, node 1 node1: 0x2_4000_0000 to 0x4_3fff_ffff, 8 GiB"), "{titles:?}");
}

#[test]
fn low_addresses_are_at_the_bottom_and_lie_in_what_they_belong_to() {
    let elements = parse(&two_nodes().to_svg());
    let number = |element: &Element, key: &str| element.attributes[key].parse::<u32>().unwrap();
    let texts = || elements.iter().filter(|element| element.name == "text");
    let y = |text: &str| number(texts().find(|element| element.text == text).unwrap(), "y");
    for (upper, lower) in [
        ("0x3fff_ffff_ffff", "0x100_0000_0000"),
        ("0x1_0000_0000", "0xffc0_0000"),
        ("0xa_0000", "0x0"),
        ("node1RAM, node 1", "node0RAM, node 0"),
    ] {
        assert!(y(upper) < y(lower), "{upper} above {lower}");
    }
    // Each reservation's box is within one of a hole or of RAM; the last two are the legend's.
    let boxes = |class: &str| {
        elements
            .iter()
            .filter(|element| element.attributes.get("class").is_some_and(|c| c == class))
            .collect::<Vec<_>>()
    };
    let edges = |element: &Element| {
        let (x, y) = (number(element, "x"), number(element, "y"));
        [x, y, x + number(element, "width"), y + number(element, "height")]
    };
    let outer = [boxes("mm-hole"), boxes("mm-ram")].concat();
    let reservations = boxes("mm-reservation");
    assert_eq!(reservations.len(), 6);
    for inner in &reservations[..5] {
        let [left, top, right, bottom] = edges(inner);
        let around =
            outer.iter().map(|outer| edges(outer)).any(|[l, t, r, b]| l < left && t < top && right < r && bottom < b);
        assert!(around, "{inner:?}");
    }
}

#[test]
fn small_and_large_guests() {
    let small = GuestLayout::builder(Platform::Aarch64).zone(Zone::new("ram", 64 * MIB)).build().unwrap();
    assert_picture(&small);
    let nodes = (0..8).fold(GuestLayout::builder(Platform::X86_64), |builder, node| {
        builder.zone(Zone::new(format!("node{node}"), 256 * GIB).node(node).alignment(GIB))
    });
    assert_picture(&nodes.build().unwrap());
    let tiny = GuestLayout::builder(Platform::Bare).address_bits(1).zone(Zone::new("bit", 1).alignment(1));
    assert_picture(&tiny.build().unwrap());
}

#[test]
fn names_are_escaped_and_cut_to_fit() {
    let names = [
        "<script>alert('&amp;')</script>",
        "]]>&\u{0}\u{ffff}\n\"",
        "日本語の長い名前、箱に入らないほどの長さ、まだ続く、まだ続く",
    ];
    let long = "x".repeat(10_000);
    let mut layout = GuestLayout::builder(Platform::Bare)
        .hole(format!("{}{long}", names[1]), GuestAddress(GIB), GIB)
        .zone(Zone::new(names[0], 2 * GIB).node(u32::MAX).kind(RegionKind::Reserved))
        .zone(Zone::new(long.as_str(), MIB).at(GuestAddress(GIB + MIB)).node(u32::MAX))
        .reserve(names[2], GuestAddress(GIB + MIB + 0x1000), 0x3000)
        .reserve(long.as_str(), GuestAddress(MIB), 0x1001)
        .build()
        .unwrap();
    for addr in [GIB, GIB + 8 * MIB, GIB + 8 * MIB + 1] {
        layout.allocate_at(long.as_str(), GuestAddress(addr), 1).unwrap();
    }
    assert_picture(&layout);
    let svg = layout.to_svg();
    assert!(svg.contains("&lt;script&gt;alert('&amp;amp;')&lt;/script&gt;") && !svg.contains("<script>"));
    assert_eq!(layout.entries().filter(|entry| entry.kind == EntryKind::Allocation).count(), 3);
}
