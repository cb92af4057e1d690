//! The members of a JSON object, each of which stands there once, at any depth: of two claims of
//! one name, another reader may have checked the other one.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::AuthError;

/// Most names in a path to a claim: nested deeper, nobody finds it.
const PATH_NAMES_MAX: usize = 8;
/// Longest path, in bytes.
const PATH_BYTES_MAX: usize = 256;

/// The members of an object.
#[derive(Debug)]
pub(super) struct Members(Map<String, Value>);

/// Where a claim stands in a token: the names that lead to it, outermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClaimPath(Vec<String>);

/// What a path must be, to those who write one.
pub(super) const PATH_EXPECTED: &str = "is not a path; write the names of claims with dots between, such as \
    \"realm_access.roles\", or, where a name has dots itself, a JSON pointer such as \"/https:~1~1example.com~1role\"";

impl ClaimPath {
    /// The claim of this name beside all others.
    pub(super) fn top(name: &str) -> Self {
        Self(vec![name.to_owned()])
    }

    /// Reads names with dots between, or a JSON pointer (RFC 6901).
    pub(super) fn parse(text: &str) -> Option<Self> {
        let names: Option<Vec<String>> = match text.strip_prefix('/') {
            Some(pointer) => pointer.split('/').map(unescaped).collect(),
            None => Some(text.split('.').map(str::to_owned).collect()),
        };
        let names = names.filter(|names| names.len() <= PATH_NAMES_MAX && text.len() <= PATH_BYTES_MAX)?;
        names.iter().all(|name| !name.is_empty()).then_some(Self(names))
    }
}

/// A part of a JSON pointer as it was before: `~1` is a slash and `~0` a tilde.
fn unescaped(part: &str) -> Option<String> {
    let mut pieces = part.split('~');
    let mut name = pieces.next()?.to_owned();
    for piece in pieces {
        let (escaped, rest) = piece.split_at_checked(1)?;
        name.push(match escaped {
            "0" => '~',
            "1" => '/',
            _ => return None,
        });
        name.push_str(rest);
    }
    Some(name)
}

impl Members {
    /// Reads a JSON object.
    ///
    /// # Errors
    /// [`AuthError::Malformed`] where it is none, or has a member twice.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, AuthError> {
        match serde_json::from_slice(bytes) {
            Ok(Once(Value::Object(members))) => Ok(Self(members)),
            Ok(_) | Err(_) => Err(AuthError::Malformed),
        }
    }

    /// The member of a name.
    pub(super) fn member(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// What stands at a path, which is refused as the claim `name` where it leads through what is
    /// no object: a claim that is there and cannot be read must not count as absent.
    pub(super) fn at(&self, path: &ClaimPath, name: &'static str) -> Result<Option<&Value>, AuthError> {
        let Some((first, inner)) = path.0.split_first() else { return Ok(None) };
        let mut found = self.0.get(first);
        for part in inner {
            found = match found {
                None => return Ok(None),
                Some(Value::Object(members)) => members.get(part),
                Some(_) => return Err(AuthError::BadClaim(name)),
            };
        }
        Ok(found)
    }

    /// What `read` makes of the value at a path.
    pub(super) fn optional<T>(
        &self,
        path: &ClaimPath,
        name: &'static str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, AuthError> {
        self.at(path, name)?.map(|value| read(value).ok_or(AuthError::BadClaim(name))).transpose()
    }

    /// The same, where it must be there.
    pub(super) fn required<T>(
        &self,
        path: &ClaimPath,
        name: &'static str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<T, AuthError> {
        self.optional(path, name, read)?.ok_or(AuthError::MissingClaim(name))
    }
}

/// A JSON value in which each member of each object stands once.
struct Once(Value);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OnceVisitor).map(Self)
    }
}

struct OnceVisitor;

impl<'de> Visitor<'de> for OnceVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Value, E> {
        Ok(Value::Bool(truth))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Number::from_f64(number).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Once(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some((name, Once(value))) = map.next_entry::<String, Once>()? {
            if members.insert(name, value).is_some() {
                return Err(A::Error::custom("a member stands there twice"));
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_stands_once_at_any_depth() {
        assert!(Members::parse(br#"{"a":[{"b":1},{"b":2}],"c":{"a":null,"d":[true,-1,1.5,"x"]}}"#).is_ok());
        for bad in
            [r#"{"a":1,"a":1}"#, r#"{"a":{"b":1,"b":2}}"#, r#"{"a":[[{"b":1,"c":0,"b":2}]]}"#, r#"{"a":1,"\u0061":2}"#]
        {
            assert_eq!(Members::parse(bad.as_bytes()).err(), Some(AuthError::Malformed), "{bad}");
        }
        for bad in ["", "[]", "null", "7", "\"a\"", "{} {}", "{\"a\":1e999}", "{\"a\":\u{0}}"] {
            assert_eq!(Members::parse(bad.as_bytes()).err(), Some(AuthError::Malformed), "{bad}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(300), "]".repeat(300));
        assert!(Members::parse(deep.as_bytes()).is_err(), "nesting is bounded");
    }

    #[test]
    fn reads_paths_and_refuses_what_is_none() {
        let names = |text: &str| ClaimPath::parse(text).map(|path| path.0.join("|"));
        for (text, expected) in [
            ("role", "role"),
            ("realm_access.roles", "realm_access|roles"),
            ("/role", "role"),
            ("/https:~1~1hub.example~1role", "https://hub.example/role"),
            ("/a.b/c~0d", "a.b|c~d"),
        ] {
            assert_eq!(names(text).as_deref(), Some(expected), "{text}");
        }
        let long = "a".repeat(257);
        for bad in ["", ".", "a.", ".a", "a..b", "/", "//", "/a/", "/a~", "/a~2b", "/~é", "a.b.c.d.e.f.g.h.i", &long] {
            assert_eq!(names(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_path_that_leads_through_no_object_is_refused_and_not_absent() {
        let members = Members::parse(br#"{"a":{"b":["x"],"n":null},"s":"text"}"#).expect("an object");
        let at = |text| members.at(&ClaimPath::parse(text).expect(text), "role").map(|found| found.is_some());
        assert_eq!((at("a.b"), at("a.n"), at("a.c"), at("x.y")), (Ok(true), Ok(true), Ok(false), Ok(false)));
        for bad in ["s.x", "a.b.c", "a.n.x"] {
            assert_eq!(at(bad), Err(AuthError::BadClaim("role")), "{bad}");
        }
    }
}
