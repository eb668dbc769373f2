//! Reads an object of a review into JSON values, within a limit of memory.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Maximum memory of one object as values, in bytes.
///
/// As values, `[0,0,…]` and `{"":0}` take seventy times the memory that they take as text. An
/// object in etcd is at most 1.5 MiB long. That is enough for thirty thousand containers or
/// variables, far more than any working object has, and this limit allows as many.
const MOST_MEMORY: usize = 24 * 1024 * 1024;

/// The memory of one value, in bytes.
const VALUE: usize = size_of::<Value>();

/// An object without `metadata.managedFields` and `status`: no rule reads them, and they can be
/// most of the object. An object that would take more than 24 MiB is an error.
#[derive(Debug)]
pub(super) struct ObjectValue(pub(super) Value);

impl<'de> Deserialize<'de> for ObjectValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        within(MOST_MEMORY / VALUE, deserializer).map(Self)
    }
}

/// Reads an object that takes the memory of at most `values` values.
fn within<'de, D: Deserializer<'de>>(values: usize, deserializer: D) -> Result<Value, D::Error> {
    let left = Cell::new(values);
    let part = ObjectPart::Whole;
    PartReader { part, left: &left }.deserialize(deserializer)
}

/// Which part of an object is read.
#[derive(Clone, Copy, PartialEq)]
enum ObjectPart {
    Whole,
    Metadata,
    Within,
}

impl ObjectPart {
    /// The part under a key; `None` if no rule reads it.
    fn at(self, key: &str) -> Option<Self> {
        match (self, key) {
            (Self::Whole, "metadata") => Some(Self::Metadata),
            (Self::Whole, "status") | (Self::Metadata, "managedFields") => None,
            _ => Some(Self::Within),
        }
    }
}

/// Reads a part of an object while there is memory for its values.
#[derive(Clone, Copy)]
struct PartReader<'l> {
    part: ObjectPart,
    /// The number of values for which memory is left.
    left: &'l Cell<usize>,
}

impl PartReader<'_> {
    fn at(self, part: ObjectPart) -> Self {
        Self { part, ..self }
    }

    /// Takes the memory of this many values, or fails if too little is left.
    fn take<E: de::Error>(self, values: usize) -> Result<(), E> {
        let left = self.left.get().checked_sub(values).ok_or_else(|| {
            E::custom(format_args!(
                "it is divided so finely that it takes more than {} MiB of memory",
                MOST_MEMORY >> 20
            ))
        })?;
        self.left.set(left);
        Ok(())
    }
}

/// The cost of a list or a map, in values: even an empty one has room for a few members.
const EMPTY: usize = 4;
/// The cost of a map's member, in values: the key is a string of its own, and its slot is larger
/// than a value.
const MEMBER: usize = 3;

impl<'de> DeserializeSeed<'de> for PartReader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for PartReader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        self.take(EMPTY)?;
        let mut read = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let Some(part) = self.part.at(&key) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            self.take(MEMBER)?;
            let value = map.next_value_seed(self.at(part))?;
            read.insert(key, value);
        }
        Ok(Value::Object(read))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        self.take(EMPTY)?;
        let mut read = Vec::new();
        while let Some(value) = list.next_element_seed(self.at(ObjectPart::Within))? {
            self.take(1)?;
            read.push(value);
        }
        Ok(Value::Array(read))
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

/// Reads an object from its JSON text.
pub(super) fn read(raw: &RawValue) -> Result<Value, serde_json::Error> {
    serde_json::from_str(raw.get()).map(|ObjectValue(value)| value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_takes_too_much_memory_is_not_read() {
        let check = |text: &str, values: usize| {
            let read = |most| within(most, &mut serde_json::Deserializer::from_str(text));
            assert!(read(values).is_ok(), "{text}");
            assert!(read(values - 1).is_err(), "{text}");
        };
        check("[]", 4);
        check("[0,0,[1]]", 12);
        check(r#"{"a":{"b":[true,"x,y[z{"]},"c,":"\\\",[,"}"#, 23);
        check(r#"{"status":[[],[]]}"#, 4);
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
    fn managed_fields_and_status_of_the_object_alone_are_left_out() {
        let left_out = json!({"managedFields": [1], "status": {"replicas": 1}});
        let mut object = left_out.clone();
        object["metadata"] = left_out.clone();
        object["spec"] = left_out;
        let ObjectValue(read) = serde_json::from_value(object.clone()).unwrap();
        let remove = |value: &mut Value, key: &str| value.as_object_mut().unwrap().remove(key);
        remove(&mut object, "status");
        remove(&mut object["metadata"], "managedFields");
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
