//! What is shown to people: text from another host or process, made fit for that, and counts.

use super::path::printable;
use serde_json::Value;

/// The longest text that is shown, in characters.
const MAX_CHARS: usize = 20_000;

/// `text` on one line, as far as a person reads it: what would drive a terminal, or look like a
/// line of its own, becomes `\xNN`. What was made [`printable`] already stays as it is.
#[must_use]
pub fn shown(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars().take(MAX_CHARS) {
        match c {
            '\\' => line.push(c),
            _ => line.push_str(&printable(c.encode_utf8(&mut [0; 4]).as_bytes())),
        }
    }
    line
}

/// The same for every text in `value`, whatever it may be used for.
pub fn clean(value: &mut Value) {
    match value {
        Value::String(text) => *text = shown(text),
        Value::Array(values) => values.iter_mut().for_each(clean),
        Value::Object(fields) => fields.values_mut().for_each(clean),
        _ => {}
    }
}

/// A count with separators, as 1,234.
#[must_use]
pub fn separated(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count with what it counts: "1 file", "1,234 files", "2 entries". `noun` is the singular.
#[must_use]
pub fn counted(count: u64, noun: &str) -> String {
    let number = separated(count);
    match (noun.strip_suffix('y'), noun.strip_suffix(['x', 's'])) {
        _ if count == 1 => format!("{number} {noun}"),
        (Some(stem), _) => format!("{number} {stem}ies"),
        (_, Some(_)) => format!("{number} {noun}es"),
        _ => format!("{number} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_foreign_text_stays_one_line_and_drives_no_terminal() {
        assert_eq!(
            shown("a\x1b[2J\r\nwarning: forged\u{9b}31m\t\x07"),
            "a\\x1b[2J\\x0d\\x0awarning: forged\\xc2\\x9b31m\\x09\\x07"
        );
        assert_eq!(shown("größe \\x0a \u{1f980}"), "größe \\x0a \u{1f980}");
        assert_eq!(shown(&shown("\x1b\\")), shown("\x1b\\"));
        assert_eq!(shown(&"x".repeat(30_000)).len(), MAX_CHARS);
    }

    #[test]
    fn counts_agree_with_their_nouns() {
        assert_eq!(counted(0, "file"), "0 files");
        assert_eq!(counted(1, "file"), "1 file");
        assert_eq!(counted(1_234_567, "block"), "1,234,567 blocks");
        assert_eq!(counted(1, "entry"), "1 entry");
        assert_eq!(counted(100, "entry"), "100 entries");
        assert_eq!(counted(2, "index"), "2 indexes");
        assert_eq!([999, 1000, u64::MAX].map(separated), ["999", "1,000", "18,446,744,073,709,551,615"]);
    }

    #[test]
    fn texts_are_cleaned_wherever_they_are() {
        let mut value = json!({"a": ["\x1b", {"b": "\n", "c": 1}], "d": null});
        clean(&mut value);
        assert_eq!(value, json!({"a": ["\\x1b", {"b": "\\x0a", "c": 1}], "d": null}));
    }
}
