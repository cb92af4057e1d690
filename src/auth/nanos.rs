//! Times in records: nanoseconds since the epoch, as a number.

use serde::{Deserialize, Deserializer, Serializer};

use crate::model::UnixNanos;

pub(super) fn serialize<S: Serializer>(at: &UnixNanos, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(at.0)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<UnixNanos, D::Error> {
    i64::deserialize(deserializer).map(UnixNanos)
}

/// The same for a time that may be absent.
pub(super) mod optional {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use crate::model::UnixNanos;

    pub(in crate::auth) fn serialize<S: Serializer>(at: &Option<UnixNanos>, serializer: S) -> Result<S::Ok, S::Error> {
        at.map(|at| at.0).serialize(serializer)
    }

    pub(in crate::auth) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<UnixNanos>, D::Error> {
        Ok(Option::<i64>::deserialize(deserializer)?.map(UnixNanos))
    }
}
