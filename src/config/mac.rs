//! The Ethernet address of an interface, as it is written.

use super::text;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;

/// An Ethernet address that one interface can have: neither zero nor a group's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// The address that `text` is, such as `52:54:00:12:34:56`.
    pub fn new(text: &str) -> Option<MacAddress> {
        const GROUP: u8 = 1;
        let mut parts = text.split(':');
        let mut octets = [0; 6];
        for octet in &mut octets {
            let digits = parts.next().filter(|part| part.len() == 2 && !part.starts_with('+'))?;
            *octet = u8::from_str_radix(digits, 16).ok()?;
        }
        let is_one = octets != [0; 6] && octets[0] & GROUP == 0;
        (parts.next().is_none() && is_one).then_some(MacAddress(octets))
    }

    /// The octets, in the order of the wire.
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for MacAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<MacAddress, D::Error> {
        let expected = "the Ethernet address of one interface, such as \"52:54:00:12:34:56\"";
        text::deserialize(deserializer, expected, MacAddress::new)
    }
}

impl JsonSchema for MacAddress {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "MacAddress".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_of_one_interface() {
        for (text, is_allowed) in [
            ("52:54:00:12:34:56", true),
            ("02:00:00:AB:cd:ef", true),
            ("00:00:00:00:00:00", false),
            ("ff:ff:ff:ff:ff:ff", false),
            ("01:00:5e:00:00:12", false),
            ("52:54:00:12:34", false),
            ("52:54:00:12:34:56:78", false),
            ("52-54-00-12-34-56", false),
            ("52:54:00:12:34:+6", false),
            ("52:54:00:12:34:5", false),
            ("", false),
        ] {
            let read = MacAddress::new(text);
            assert_eq!(read.map(|read| read.to_string()), is_allowed.then(|| text.to_lowercase()), "{text}");
        }
    }
}
