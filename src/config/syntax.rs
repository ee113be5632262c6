//! Text to a tree of values with their places: JSON as RFC 8259 has it, without comments or other liberties.
//!
//! Two parsers look at the text. `jsonc-parser` gives the tree with byte ranges and knows what people get wrong
//! (comments, trailing commas, single quotes). It overlooks line ends inside strings and exotic blanks, so
//! `serde_json` must be content as well. Where both object, the objection that comes first in the text is the
//! cause and the other its consequence.

use jsonc_parser::ast::Value;
use jsonc_parser::errors::{ParseError, ParseErrorKind};
use jsonc_parser::{CollectOptions, ParseOptions, ParseStringErrorKind, parse_to_ast};
use serde::de::IgnoredAny;

/// The text is not JSON.
#[derive(Debug)]
pub(super) struct SyntaxError {
    /// Where it stops being JSON, in bytes.
    pub(super) offset: usize,
    /// What is wrong there.
    pub(super) message: String,
}

/// Parses `text`, which must be one JSON value.
pub(super) fn parse(text: &str) -> Result<Value<'_>, SyntaxError> {
    if text.starts_with('\u{feff}') {
        let message = "the file begins with a byte order mark (EF BB BF); save it as UTF-8 without one";
        return Err(SyntaxError { offset: 0, message: message.to_owned() });
    }
    if text.trim_ascii().is_empty() {
        let message = r#"the file is empty; the smallest configuration is {"services": []}"#;
        return Err(SyntaxError { offset: 0, message: message.to_owned() });
    }
    let tree = parse_to_ast(text, &CollectOptions::default(), &STRICT);
    let strict = serde_json::from_str::<IgnoredAny>(text);
    match (tree, strict) {
        (Ok(tree), Ok(_)) => Ok(tree.value.expect("a text with more than blanks has a value")),
        (Ok(_), Err(strict)) => Err(second_opinion(text, &strict)),
        (Err(error), Ok(_)) => Err(first_opinion(text, &error)),
        (Err(error), Err(strict)) => {
            let (first, second) = (first_opinion(text, &error), second_opinion(text, &strict));
            Err(if second.offset < first.offset { second } else { first })
        }
    }
}

const STRICT: ParseOptions = ParseOptions {
    allow_comments: false,
    allow_loose_object_property_names: false,
    allow_trailing_commas: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

fn first_opinion(text: &str, error: &ParseError) -> SyntaxError {
    use ParseErrorKind as Kind;
    let offset = error.range().start;
    let message = match error.kind() {
        Kind::CommentsNotAllowed | Kind::UnterminatedCommentBlock => "JSON has no comments",
        Kind::TrailingCommasNotAllowed => "a comma must be followed by another entry; remove it",
        Kind::ExpectedComma if is_inside_number(text, offset) => "a number cannot begin with 0",
        Kind::ExpectedComma => "a comma is missing here",
        Kind::ExpectedColonAfterObjectKey => "a colon is missing between the key and its value",
        Kind::ExpectedObjectValue => "the key has no value",
        Kind::ExpectedStringObjectProperty => "a key must be written in double quotes",
        Kind::UnexpectedTokenInObject => "expected a key in double quotes, or } to close the object",
        Kind::SingleQuotedStringsNotAllowed => "a string must be written in double quotes",
        Kind::HexadecimalNumbersNotAllowed => "a number must be written in decimal",
        Kind::UnaryPlusNumbersNotAllowed => "a number cannot begin with +",
        Kind::BareDecimalPointNumbersNotAllowed => "a number needs a digit on both sides of its point",
        Kind::ExpectedDigit
        | Kind::ExpectedDigitFollowingNegativeSign
        | Kind::ExpectedPlusMinusOrDigitInNumberLiteral => "a digit is missing in this number",
        Kind::NonFiniteNumbersNotAllowed => "JSON has no infinite numbers",
        Kind::MultipleRootJsonValues => "nothing may follow the end of the configuration",
        Kind::NestingDepthExceeded => "nested far deeper than any configuration",
        Kind::UnterminatedObject => "this object is never closed: } is missing",
        Kind::UnterminatedArray => "this list is never closed: ] is missing",
        Kind::UnexpectedCloseBrace if text[..offset].trim_ascii_end().ends_with(':') => {
            "a value is missing before this }"
        }
        Kind::UnexpectedCloseBrace => "} closes nothing here; a list is closed by ]",
        Kind::UnexpectedCloseBracket => "a value is missing before this ]",
        Kind::UnexpectedColon => "a colon is only allowed after a key",
        Kind::UnexpectedComma => "a value is missing before this comma",
        Kind::UnexpectedWord | Kind::UnexpectedToken => {
            "neither a string in double quotes nor a number, true, false, an object or a list; is a quote missing?"
        }
        Kind::String(ParseStringErrorKind::UnterminatedStringLiteral) => {
            r#"this string is never closed: " is missing"#
        }
        Kind::String(_) => r#"JSON has no such escape; allowed are \" \\ \/ \b \f \n \r \t \uXXXX"#,
    };
    SyntaxError { offset, message: message.to_owned() }
}

fn is_inside_number(text: &str, offset: usize) -> bool {
    let digit_at = |at: usize| text.as_bytes().get(at).is_some_and(u8::is_ascii_digit);
    digit_at(offset) && offset > 0 && digit_at(offset - 1)
}

/// `serde_json` counts lines and bytes up to the offending one; whether that is included depends on the error.
fn second_opinion(text: &str, error: &serde_json::Error) -> SyntaxError {
    let line_start = text.split_inclusive('\n').take(error.line() - 1).map(str::len).sum::<usize>();
    let mut offset = text.floor_char_boundary((line_start + error.column()).saturating_sub(1));
    let said = error.to_string();
    let is_in_string = said.starts_with("control character");
    if is_in_string {
        offset += text[offset..].find(|char| char < ' ').unwrap_or_default();
    }
    let message = match text[offset..].chars().next() {
        Some('\n' | '\r') if is_in_string => {
            r#"the string is not closed on its line: " is missing"#.to_owned()
        }
        Some(_) if is_in_string => {
            r"a control character in a string must be written as an escape, such as \t".to_owned()
        }
        Some(blank) if blank.is_whitespace() => {
            format!("the blank U+{:04X} is only allowed in strings; use spaces", u32::from(blank))
        }
        _ => {
            let place = format!(" at line {} column {}", error.line(), error.column());
            format!("not JSON: {}", said.strip_suffix(&place).unwrap_or(&said))
        }
    };
    SyntaxError { offset, message }
}
