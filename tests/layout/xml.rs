//! As much of XML as it takes to see that a picture is a document, and where its texts are.

use std::collections::HashMap;

/// An element.
#[derive(Debug, Default)]
pub(crate) struct Element {
    pub(crate) name: String,
    pub(crate) attributes: HashMap<String, String>,
    /// All text in it, also that of elements in it.
    pub(crate) text: String,
}

/// The elements of a document, in the order in which they end. Panics if it is none: if elements are not closed, or
/// attributes not quoted, or what must be escaped is not.
pub(crate) fn parse(document: &str) -> Vec<Element> {
    let (mut open, mut closed): (Vec<Element>, Vec<Element>) = (Vec::new(), Vec::new());
    let mut rest = document.trim_end();
    while !rest.is_empty() {
        assert!(!open.is_empty() || (closed.is_empty() && rest.starts_with('<')), "one element around all: {rest:.80}");
        let (text, markup) = rest.split_at(rest.find('<').unwrap_or(rest.len()));
        if let Some(element) = open.last_mut() {
            element.text += &unescape(text);
        }
        let Some((tag, after)) = markup.strip_prefix('<').map(|tag| tag.split_once('>').expect("a tag ends")) else {
            break;
        };
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            let element = open.pop().expect("an element ends after it began");
            assert_eq!(element.name, name);
            open.iter_mut().next_back().into_iter().for_each(|outer| outer.text += &element.text);
            closed.push(element);
        } else if let Some(tag) = tag.strip_suffix('/') {
            closed.push(begin(tag));
        } else {
            open.push(begin(tag));
        }
    }
    assert!(open.is_empty(), "not closed: {open:?}");
    closed
}

fn begin(tag: &str) -> Element {
    let (name, mut rest) = tag.split_once(' ').unwrap_or((tag, ""));
    assert!(name.chars().all(|c| c.is_ascii_alphanumeric()) && !name.is_empty(), "{tag:?}");
    let mut attributes = HashMap::new();
    while !rest.trim().is_empty() {
        let (key, quoted) = rest.trim_start().split_once("=\"").expect("an attribute has a value");
        let (value, after) = quoted.split_once('"').expect("a value ends");
        assert!(key.chars().all(|c| c.is_ascii_alphabetic() || c == '-'), "{tag:?}");
        assert_eq!(attributes.insert(key.to_string(), unescape(value)), None, "{tag:?}");
        rest = after;
    }
    Element { name: name.to_string(), attributes, text: String::new() }
}

fn unescape(text: &str) -> String {
    assert!(!text.contains("]]>"), "{text:?}");
    assert!(text.chars().all(|c| c == '\n' || !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}')), "{text:?}");
    let mut parts = text.split('&');
    let mut unescaped = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let (entity, after) = part.split_once(';').expect("an entity ends");
        unescaped.push(match entity {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            _ => panic!("unknown entity {entity:?}"),
        });
        unescaped += after;
    }
    unescaped
}
