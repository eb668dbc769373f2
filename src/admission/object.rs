//! Reading an object of a review into values.

use std::fmt;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// The most memory that one object may take as values, in bytes.
///
/// As values, `[0,0,…]` and `{"":0}` take seventy times the memory that they take as text. What
/// etcd stores, 1.5 MiB at most, has room for thirty thousand containers, variables and the like,
/// which is what this allows, and far more than any object has that does something.
const MOST_MEMORY: usize = 24 * 1024 * 1024;

/// What one value takes, in bytes.
const VALUE: usize = size_of::<Value>();

/// An object without `metadata.managedFields`, which no rule looks at and which can be most of it.
#[derive(Debug)]
pub(super) struct ObjectValue(pub(super) Value);

impl<'de> Deserialize<'de> for ObjectValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ObjectPart::Whole.deserialize(deserializer).map(Self)
    }
}

/// Which part of an object is read.
#[derive(Clone, Copy, PartialEq)]
enum ObjectPart {
    Whole,
    Metadata,
}

impl<'de> DeserializeSeed<'de> for ObjectPart {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ObjectPart {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut read = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = match (self, key.as_str()) {
                (Self::Whole, "metadata") => map.next_value_seed(Self::Metadata)?,
                (Self::Metadata, "managedFields") => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
                _ => map.next_value()?,
            };
            read.insert(key, value);
        }
        Ok(Value::Object(read))
    }

    // The API server sends objects alone; others are refused by the rules, not here.
    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Value, A::Error> {
        Value::deserialize(SeqAccessDeserializer::new(list))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
}

/// Reads an object that is kept as text so far.
pub(super) fn read(raw: &RawValue) -> Result<Value, serde_json::Error> {
    let text = raw.get();
    if !is_small(text.len()) && takes_more_than(text, MOST_MEMORY) {
        return Err(de::Error::custom(format_args!(
            "it is divided so finely that it takes more than {} MiB of memory",
            MOST_MEMORY >> 20
        )));
    }
    serde_json::from_str(text).map(|ObjectValue(value)| value)
}

/// Whether a text of that many bytes can't come to too much memory, whatever it is.
pub(super) const fn is_small(bytes: usize) -> bool {
    // No text takes more for its length than an empty list does.
    bytes * 4 <= MOST_MEMORY / VALUE
}

/// Whether valid JSON takes more memory than that as values, about.
fn takes_more_than(text: &str, most: usize) -> bool {
    let most = most / VALUE;
    let (mut count, mut in_string, mut escaped) = (1, false, false);
    for byte in text.bytes() {
        count += match byte {
            _ if escaped => {
                escaped = false;
                0
            }
            b'\\' => {
                escaped = in_string;
                0
            }
            b'"' => {
                in_string = !in_string;
                0
            }
            _ if in_string => 0,
            // What follows is a value, or a key and its value.
            b',' => 1,
            // A key is text of its own, in a place that is larger than a value.
            b':' => 2,
            // Both begin with room for a few.
            b'[' | b'{' => 4,
            _ => 0,
        };
    }
    count > most
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_takes_too_much_memory_is_not_read() {
        let check = |text: &str, values: usize| {
            assert!(!takes_more_than(text, values * VALUE), "{text}");
            assert!(takes_more_than(text, (values - 1) * VALUE), "{text}");
        };
        check("7", 1);
        check("[0,0,[1]]", 11);
        check(r#"{"a":{"b":[true,"x,y[z{"]},"c,":"\\\",[,"}"#, 21);
        for flood in ["0,", "[0],", "{\"\":0},"] {
            let text = format!("[{}0]", flood.repeat(400_000));
            let raw: &RawValue = serde_json::from_str(&text).unwrap();
            let error = read(raw).unwrap_err().to_string();
            assert!(error.contains("more than 24 MiB"), "{error}");
        }
        // Thirty thousand variables are fine.
        let variable = r#"{"name":"VARIABLE","value":"some value"},"#;
        let text = format!("[{}0]", variable.repeat(30_000));
        let raw: &RawValue = serde_json::from_str(&text).unwrap();
        assert!(read(raw).is_ok());
    }

    #[test]
    fn managed_fields_of_the_object_alone_are_left_out() {
        let lists = json!({"managedFields": [1], "metadata": {"managedFields": [2]}});
        let mut object = lists.clone();
        object["metadata"]["name"] = "x".into();
        object["spec"] = lists;
        let ObjectValue(read) = serde_json::from_value(object.clone()).unwrap();
        object["metadata"]
            .as_object_mut()
            .unwrap()
            .remove("managedFields");
        assert_eq!(read, object);
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            let key = prop_oneof![Just("metadata".to_owned()), "[a-c\"é]{0,2}"];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((key, inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn all_else_is_read_as_it_is(value in json()) {
            let text = value.to_string();
            let ObjectValue(read) = serde_json::from_str(&text).unwrap();
            let expected: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(read, expected);
        }
    }
}
