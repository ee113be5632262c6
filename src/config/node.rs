//! Lets serde read the values of a syntax tree.
//!
//! A [`Node`] is the value of one key. Objects and lists come out empty: [`read`](super::read) reads each object on
//! its own, so that a mistake in one leaves the others readable. A [`Problem`] is serde's error with its parts kept
//! apart, so that the message can show the value exactly as it was written.

use jsonc_parser::ast::Value;
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{self, Deserializer, IntoDeserializer, Visitor};
use std::fmt;

/// The value of one key.
#[derive(Clone, Copy)]
pub(super) struct Node<'a>(pub(super) &'a Value<'a>);

/// Why serde refused a value or an object.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// The value is not this.
    Expected(String),
    /// The value is not this number.
    ExpectedNumber(String),
    /// The value is none of these words.
    Unlisted(&'static [&'static str]),
    /// The object has a key that is none of these.
    UnknownKey(&'static [&'static str]),
    /// The object lacks this key.
    MissingKey(&'static str),
    /// A whole sentence.
    Sentence(String),
}

impl std::error::Error for Problem {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Expected(what) | Problem::ExpectedNumber(what) => write!(f, "expected {what}"),
            Problem::Unlisted(words) => write!(f, "expected one of {words:?}"),
            Problem::UnknownKey(keys) => write!(f, "unknown key, expected one of {keys:?}"),
            Problem::MissingKey(key) => write!(f, "missing key {key:?}"),
            Problem::Sentence(sentence) => f.write_str(sentence),
        }
    }
}

impl de::Error for Problem {
    fn custom<T: fmt::Display>(message: T) -> Problem {
        Problem::Sentence(message.to_string())
    }

    fn invalid_type(_: de::Unexpected<'_>, expected: &dyn de::Expected) -> Problem {
        Problem::Expected(expected.to_string())
    }

    fn invalid_value(_: de::Unexpected<'_>, expected: &dyn de::Expected) -> Problem {
        Problem::Expected(expected.to_string())
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Problem {
        Problem::Unlisted(expected)
    }

    fn unknown_field(_: &str, expected: &'static [&'static str]) -> Problem {
        Problem::UnknownKey(expected)
    }

    fn missing_field(field: &'static str) -> Problem {
        Problem::MissingKey(field)
    }
}

impl<'de> Deserializer<'de> for Node<'_> {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.0 {
            Value::StringLit(string) => visitor.visit_str(&string.value),
            Value::NumberLit(number) => {
                visitor.visit_f64(number.value.parse().expect("every JSON number is a float for Rust"))
            }
            Value::BooleanLit(boolean) => visitor.visit_bool(boolean.value),
            Value::NullKeyword(_) => visitor.visit_unit(),
            Value::Object(_) => visitor.visit_map(MapDeserializer::new(std::iter::empty::<(&str, &str)>())),
            Value::Array(_) => visitor.visit_seq(SeqDeserializer::new(std::iter::empty::<&str>())),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.0 {
            Value::BooleanLit(boolean) => visitor.visit_bool(boolean.value),
            Value::StringLit(string) if string.value.parse::<bool>().is_ok() => {
                Err(Problem::Expected("true or false; write it without quotes".to_owned()))
            }
            _ => Err(Problem::Expected("true or false".to_owned())),
        }
    }

    /// All numbers of a configuration are of this kind.
    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.0.as_number_lit().and_then(|number| number.value.parse().ok()) {
            Some(number) => visitor.visit_u64(number),
            None => Err(Problem::ExpectedNumber((&visitor as &dyn de::Expected).to_string())),
        }
    }

    /// A key that is there has a value: `null` does not stand for a key that is not there.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        match self.0 {
            Value::StringLit(string) => visitor.visit_enum((&*string.value).into_deserializer()),
            _ => Err(Problem::Unlisted(variants)),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.0 {
            Value::Array(_) => self.deserialize_any(visitor),
            _ => Err(Problem::Expected("a list in [ ]".to_owned())),
        }
    }

    /// A list of so many values of no interest each by itself.
    fn deserialize_tuple<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Problem> {
        match self.0 {
            Value::Array(list) => visitor.visit_seq(SeqDeserializer::new(list.elements.iter().map(Node))),
            _ => Err(Problem::Expected((&visitor as &dyn de::Expected).to_string())),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        match self.0 {
            Value::Object(_) => self.deserialize_any(visitor),
            _ => Err(Problem::Expected(format!("an object in {{ }} with the keys {}", fields.join(", ")))),
        }
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct tuple_struct map identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Problem> for Node<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}
