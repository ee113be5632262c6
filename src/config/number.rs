//! Whole numbers between bounds.

/// A whole number between two bounds, which are also in its schema and in the message about any other value.
macro_rules! number {
    (
        $(#[$doc:meta])*
        $name:ident($int:ty): $what:literal, $min:literal to $max:literal $(, $unit:literal)? $(; default $default:literal)?
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
        pub struct $name($int);

        impl $name {
            /// The number, if it is allowed.
            pub fn new(number: u64) -> Option<$name> {
                if ($min..=$max).contains(&number) { <$int>::try_from(number).ok().map($name) } else { None }
            }

            /// The number.
            pub const fn get(self) -> $int {
                self.0
            }
        }

        $(impl Default for $name {
            fn default() -> $name {
                $name($default)
            }
        })?

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                struct Number;
                impl serde::de::Visitor<'_> for Number {
                    type Value = $name;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        let (what, min, max) = ($what, $min, $max);
                        write!(f, "{what} from {min} to {max}")?;
                        $(write!(f, " {}", $unit)?;)?
                        Ok(())
                    }

                    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<$name, E> {
                        $name::new(number)
                            .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Unsigned(number), &self))
                    }
                }
                deserializer.deserialize_u64(Number)
            }
        }

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "integer", "minimum": $min, "maximum": $max })
            }
        }
    };
}

pub(super) use number;
