//! Text from another host or process, made fit to be shown.

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
    fn texts_are_cleaned_wherever_they_are() {
        let mut value = json!({"a": ["\x1b", {"b": "\n", "c": 1}], "d": null});
        clean(&mut value);
        assert_eq!(value, json!({"a": ["\\x1b", {"b": "\\x0a", "c": 1}], "d": null}));
    }
}
