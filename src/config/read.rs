//! A syntax tree to the types as written, object by object, with every mistake on the way.
//!
//! serde stops at the first mistake. So each object is read on its own and, if something in it is wrong, again
//! without the key in question, until it is read or lacks a key that it must have. An object has few keys that are
//! known, so few rounds are enough, and the time for a file does not depend on how wrong it is.

use super::complaint::Findings;
use super::file::Object;
use super::node::{Node, Problem};
use jsonc_parser::ast::{self, Value};
use jsonc_parser::common::Ranged;
use serde::de::DeserializeOwned;
use serde::de::value::MapDeserializer;
use serde_path_to_error::Segment;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// An object that was read, and where it stands.
pub(super) struct Read<'a, T> {
    /// The object, with defaults in place of optional values that are wrong. Lists and objects in it are empty.
    pub(super) written: T,
    /// Its path, such as `services[3]`; empty for the outermost.
    pub(super) path: String,
    object: &'a ast::Object<'a>,
    /// Keys whose values are wrong.
    wrong: Vec<String>,
}

impl<T> Read<'_, T> {
    /// Whether what is read as the value of `key` is what the operator meant.
    pub(super) fn is_right(&self, key: &str) -> bool {
        self.wrong.iter().all(|wrong| wrong != key)
    }

    /// Whether the key is there, right or wrong.
    pub(super) fn has(&self, key: &str) -> bool {
        self.object.get(key).is_some()
    }

    /// Where the object begins.
    pub(super) fn offset(&self) -> usize {
        self.object.range.start
    }

    /// Complains about the value of `key`, or the whole object if the key is not there.
    pub(super) fn complain(&self, findings: &mut Findings<'_>, key: &str, message: String) {
        match self.object.get(key) {
            Some(property) => findings.add(property.value.start(), join(&self.path, key), message),
            None => findings.add(self.offset(), self.path.clone(), message),
        }
    }
}

/// The value of `key`, if `value` is an object that has it.
pub(super) fn value_of<'a>(value: &'a Value<'a>, key: &str) -> Option<&'a Value<'a>> {
    Some(&value.as_object()?.get(key)?.value)
}

/// The elements of the list under `key`, if there is one, and their paths. `path` is that of `value`.
pub(super) fn elements<'a>(
    value: &'a Value<'a>,
    path: &str,
    key: &str,
) -> impl Iterator<Item = (String, &'a Value<'a>)> {
    let list = value_of(value, key).and_then(Value::as_array).map_or(&[][..], |array| &array.elements);
    let path = join(path, key);
    list.iter().enumerate().map(move |(index, element)| (format!("{path}[{index}]"), element))
}

/// Reads a value that stands by itself in a list.
pub(super) fn word<T: DeserializeOwned>(
    value: &Value<'_>,
    path: &str,
    findings: &mut Findings<'_>,
) -> Option<T> {
    match T::deserialize(Node(value)) {
        Ok(word) => Some(word),
        Err(problem) => {
            let message = describe(&problem, value, findings.text());
            findings.add(value.start(), path.to_owned(), message);
            None
        }
    }
}

/// Reads the object under `key` of the object at `path`, if it is there. That it is an object at all is checked with
/// the outer one.
pub(super) fn part<'a, T: Object>(
    value: &'a Value<'a>,
    path: &str,
    key: &str,
    findings: &mut Findings<'_>,
) -> Option<Read<'a, T>> {
    let part = value_of(value, key)?;
    part.as_object()?;
    object(part, join(path, key), findings)
}

/// Reads one value that is no object and no list; nothing if it is wrong.
pub(super) fn single<T: DeserializeOwned>(
    value: &Value<'_>,
    path: String,
    findings: &mut Findings<'_>,
) -> Option<T> {
    match T::deserialize(Node(value)) {
        Ok(read) => Some(read),
        Err(problem) => {
            let message = describe(&problem, value, findings.text());
            findings.add(value.start(), path, message);
            None
        }
    }
}

/// Reads one object; nothing if it is none, or if a key that it must have is missing or wrong.
pub(super) fn object<'a, T: Object>(
    value: &'a Value<'a>,
    path: String,
    findings: &mut Findings<'_>,
) -> Option<Read<'a, T>> {
    let Value::Object(object) = value else {
        let problem = T::deserialize(Node(value)).err()?;
        let message = describe(&problem, value, findings.text());
        findings.add(value.start(), path, message);
        return None;
    };
    for key in T::REQUIRED {
        if object.get(key).is_none() {
            findings.add(object.range.start, path.clone(), format!("the key {key:?} is missing"));
        }
    }
    let mut left = first_of_each_key(object, &path, findings);
    let mut wrong = Vec::new();
    loop {
        let pairs = left.iter().map(|property| (property.name.as_str(), Node(&property.value)));
        let error = match serde_path_to_error::deserialize(MapDeserializer::new(pairs)) {
            Ok(written) => return Some(Read { written, path, object, wrong }),
            Err(error) => error,
        };
        let key = error.path().iter().next().and_then(|segment| match segment {
            Segment::Map { key } => Some(key.clone()),
            _ => None,
        });
        match (error.into_inner(), key) {
            (Problem::MissingKey(_), _) => return None,
            (Problem::UnknownKey(known), _) => {
                let (known_ones, others) =
                    left.into_iter().partition(|property| known.contains(&property.name.as_str()));
                left = known_ones;
                for property in others {
                    complain_of_unknown_key::<T>(property, &path, known, findings);
                }
            }
            (problem, key) => {
                let at = left.iter().position(|property| Some(property.name.as_str()) == key.as_deref());
                let property =
                    left.remove(at.expect("a problem that is none of the object's is one of a key's"));
                let key = property.name.as_str();
                let mut message = describe(&problem, &property.value, findings.text());
                if property.value.as_null_keyword().is_some() && !T::WITHOUT_DEFAULT.contains(&key) {
                    message.push_str("; for the default, leave the key out");
                }
                findings.add(property.value.start(), join(&path, key), message);
                wrong.push(key.to_owned());
            }
        }
    }
}

/// The entries of `object` without those that repeat a key.
fn first_of_each_key<'a>(
    object: &'a ast::Object<'a>,
    path: &str,
    findings: &mut Findings<'_>,
) -> Vec<&'a ast::ObjectProp<'a>> {
    let mut first_offsets = HashMap::new();
    let mut firsts = Vec::with_capacity(object.properties.len());
    for property in &object.properties {
        match first_offsets.entry(property.name.as_str()) {
            Entry::Vacant(entry) => {
                entry.insert(property.start());
                firsts.push(property);
            }
            Entry::Occupied(entry) => {
                let (shown, line) =
                    (shorten(property.name.text(findings.text())), findings.line(*entry.get()));
                let path = path_of(path, property, findings.text());
                findings.add(
                    property.start(),
                    path,
                    format!("the key {shown} is already there on line {line}; keep one"),
                );
            }
        }
    }
    firsts
}

fn complain_of_unknown_key<T: Object>(
    property: &ast::ObjectProp<'_>,
    path: &str,
    known: &[&str],
    findings: &mut Findings<'_>,
) {
    let key = property.name.as_str();
    let shown = shorten(property.name.text(findings.text()));
    let message = match T::why_not(key) {
        Some(why) => format!("of no effect here, as {why}; leave the key out"),
        None => format!("unknown key {shown}; allowed: {}{}", known.join(", "), did_you_mean(key, known)),
    };
    findings.add(property.start(), path_of(path, property, findings.text()), message);
}

/// Says why `value` is refused, and what is allowed.
fn describe(problem: &Problem, value: &Value<'_>, text: &str) -> String {
    let shown = match value {
        Value::Object(_) => "an object".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        _ => shorten(value.text(text)),
    };
    match problem {
        Problem::Expected(what) => format!("{shown} is not {what}"),
        Problem::ExpectedNumber(what) => {
            let hint = match value {
                Value::StringLit(string) if string.value.parse::<u64>().is_ok() => {
                    "; write it without quotes"
                }
                Value::NumberLit(number) if number.value.contains(['.', 'e', 'E']) => {
                    "; write a whole number, without point or exponent"
                }
                _ => "",
            };
            format!("{shown} is not {what}{hint}")
        }
        Problem::Unlisted([only]) => format!("{shown} is not allowed; only {only:?} is"),
        Problem::Unlisted(words) => {
            let allowed = words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
            let meant =
                value.as_string_lit().map_or(String::new(), |string| did_you_mean(&string.value, words));
            format!("{shown} is not one of {allowed}{meant}")
        }
        other => other.to_string(),
    }
}

/// The path of an entry of the object at `path`, whatever its key is.
fn path_of(path: &str, property: &ast::ObjectProp<'_>, text: &str) -> String {
    let key = property.name.as_str();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-$".contains(&byte);
    if !key.is_empty() && key.bytes().all(is_plain) {
        join(path, &shorten(key))
    } else {
        format!("{path}[{}]", shorten(property.name.text(text)))
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// `raw` as it may stand in one line of a message: cut where it is long, with escapes for what cannot be seen.
fn shorten(raw: &str) -> String {
    const MOST: usize = 60;
    let mut shown = String::new();
    let mut chars = raw.chars();
    for char in chars.by_ref().take(MOST) {
        if char.is_ascii_graphic() || char == ' ' {
            shown.push(char);
        } else {
            shown.extend(char.escape_debug());
        }
    }
    if chars.next().is_some() {
        shown.push_str("...");
    }
    shown
}

/// `; did you mean "..."?` if one of `words` is nearly `word`.
fn did_you_mean(word: &str, words: &[&str]) -> String {
    const LONGEST: usize = 32;
    if word.len() > LONGEST {
        return String::new();
    }
    let word = word.to_lowercase();
    let is_near =
        |(distance, candidate): &(usize, &&str)| *distance <= if candidate.len() > 4 { 2 } else { 1 };
    let nearest = words.iter().map(|candidate| (distance(&word, candidate), candidate)).filter(is_near).min();
    nearest.map_or(String::new(), |(_, candidate)| format!("; did you mean {candidate:?}?"))
}

/// Letters to insert, remove, replace or swap with their neighbour to make one word of the other.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=other.len()).collect()];
    for i in 1..=one.len() {
        let mut row = vec![i];
        for j in 1..=other.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(one[i - 1] != other[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_inserted_removed_replaced_and_swapped_letters() {
        for (one, other, expected) in [
            ("", "", 0),
            ("port", "port", 0),
            ("", "port", 4),
            ("prot", "port", 1),
            ("wieght", "weight", 1),
            ("sheduler", "scheduler", 1),
            ("addresses", "address", 2),
            ("ipv4", "port", 4),
        ] {
            assert_eq!(distance(one, other), expected, "{one} {other}");
            assert_eq!(distance(other, one), expected, "{other} {one}");
        }
    }

    #[test]
    fn short_words_are_only_suggested_if_very_near() {
        assert_eq!(did_you_mean("wcl", &["rr", "wlc"]), r#"; did you mean "wlc"?"#);
        assert_eq!(did_you_mean("sh", &["rr", "wlc"]), "");
        assert_eq!(did_you_mean("WEIGHTS", &["weight"]), r#"; did you mean "weight"?"#);
        assert_eq!(did_you_mean(&"weight".repeat(1000), &["weight"]), "");
    }
}
