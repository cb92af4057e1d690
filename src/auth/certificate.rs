//! Clients' certificates: what they say, and whom they stand for.
//!
//! Whether one is genuine was settled in the handshake that it came with. Here its names are read
//! (RFC 5280) and looked up.

use std::sync::Arc;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use super::authenticator::Authenticator;
use super::claims::{SUBJECT_BYTES_MAX, is_name};
use super::{AuthError, CredentialKind, Principal};
use crate::model::UnixNanos;
use crate::settings::{Fault, parse_utc};

/// Other names of one certificate that are read: as many as a careful issuer puts into one.
const NAMES_MAX: usize = 100;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const OBJECT_ID: u8 = 0x06;
const OCTET_STRING: u8 = 0x04;
const BOOLEAN: u8 = 0x01;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// UTF8String, PrintableString, IA5String.
const STRINGS: [u8; 3] = [0x0c, 0x13, 0x16];
/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 2.5.29.17
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// The kinds of other names that are read, by tag.
const KINDS: [(u8, &str); 3] = [(0x81, "email"), (0x82, "dns"), (0x86, "uri")];

/// Whom a client's certificate stands for. All that is given must be so; the first entry counts.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateConfig {
    /// The common name of its subject, exactly.
    #[serde(default)]
    pub subject: Option<String>,
    /// One of its other names, exactly: `dns:NAME`, `uri:URI` or `email:ADDRESS`.
    #[serde(default)]
    pub san: Option<String>,
    /// Whose it is: the subject of its sessions.
    pub owner: String,
    /// Its role.
    pub role: String,
}

/// A client's certificate, as far as it matters who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The common name of its subject; `None` where it has none, several, or an unfit one.
    pub common_name: Option<String>,
    /// Its other names, as [`CertificateConfig::san`] writes them.
    pub names: Vec<String>,
    /// When it ends.
    pub not_after: UnixNanos,
    /// SHA-256 of all of it, in hexadecimal digits.
    pub fingerprint: Arc<str>,
}

impl ClientCertificate {
    /// Reads a certificate in DER; `None` where it is not one of X.509.
    #[must_use]
    pub fn read(der: &[u8]) -> Option<Self> {
        let mut body = Body::of(der)?;
        let common_name = common_name(body.subject);
        let mut names = Vec::new();
        while let Some((tag, contents)) = body.rest.next() {
            if tag == EXTENSIONS {
                alternative_names(Der(contents).expect(SEQUENCE)?, &mut names)?;
            }
        }
        let digest = digest::digest(&digest::SHA256, der);
        let fingerprint: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Some(Self { common_name, names, not_after: body.not_after, fingerprint: fingerprint.into() })
    }
}

/// When a certificate in DER ends; `None` where it is not one of X.509.
#[must_use]
pub fn not_after(der: &[u8]) -> Option<UnixNanos> {
    Some(Body::of(der)?.not_after)
}

/// What is signed of a certificate.
struct Body<'a> {
    not_after: UnixNanos,
    subject: &'a [u8],
    /// What follows the subject.
    rest: Der<'a>,
}

impl<'a> Body<'a> {
    fn of(der: &'a [u8]) -> Option<Self> {
        let mut rest = Der(Der(Der(der).expect(SEQUENCE)?).expect(SEQUENCE)?);
        let (mut tag, _) = rest.next()?;
        if tag == VERSION {
            (tag, _) = rest.next()?;
        }
        (tag == INTEGER).then_some(())?;
        let _algorithm = rest.expect(SEQUENCE)?;
        let _issuer = rest.expect(SEQUENCE)?;
        let mut validity = Der(rest.expect(SEQUENCE)?);
        let _not_before = validity.next()?;
        let (tag, at) = validity.next()?;
        let not_after = time(tag, at)?;
        let subject = rest.expect(SEQUENCE)?;
        Some(Self { not_after, subject, rest })
    }
}

/// A row of values in DER (X.690): each a tag, a length and its contents.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next value's tag and contents.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let [tag, first, rest @ ..] = self.0 else { return None };
        let (length, rest) = match first {
            0..=0x7f => (usize::from(*first), rest),
            // The length of the length; more than four bytes are no certificate's.
            0x81..=0x84 => {
                let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (contents, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((*tag, contents))
    }

    /// The next value's contents, if it has this tag.
    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, contents)| contents)
    }
}

/// A time in UTC (RFC 5280, 4.1.2.5). One beyond what can be counted is the end of time.
fn time(tag: u8, text: &[u8]) -> Option<UnixNanos> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.is_ascii())?;
    let full = match tag {
        UTC_TIME => format!("{}{text}", if text.get(..2)? < "50" { "20" } else { "19" }),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    (full.len() == 15 && full.ends_with('Z')).then_some(())?;
    let part = |from: usize, to: usize| full.get(from..to);
    let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
    if year.bytes().all(|byte| byte.is_ascii_digit()) && year > "2261" {
        return Some(UnixNanos(i64::MAX));
    }
    parse_utc(&format!("{year}-{month}-{day}T{}:{}:{}Z", part(8, 10)?, part(10, 12)?, part(12, 14)?))
}

/// The one common name of a subject.
fn common_name(subject: &[u8]) -> Option<String> {
    let mut found = None;
    let mut sets = Der(subject);
    while let Some(set) = sets.expect(SET) {
        let mut pairs = Der(set);
        while let Some(pair) = pairs.expect(SEQUENCE) {
            let mut pair = Der(pair);
            if pair.expect(OBJECT_ID)? != COMMON_NAME {
                continue;
            }
            let (tag, text) = pair.next()?;
            // Of two it would be anybody's guess which one counts.
            if found.is_some() || !STRINGS.contains(&tag) {
                return None;
            }
            found = Some(std::str::from_utf8(text).ok().filter(|text| is_name(text, SUBJECT_BYTES_MAX))?.to_owned());
        }
    }
    found
}

fn alternative_names(extensions: &[u8], names: &mut Vec<String>) -> Option<()> {
    let mut extensions = Der(extensions);
    while let Some(extension) = extensions.expect(SEQUENCE) {
        let mut extension = Der(extension);
        if extension.expect(OBJECT_ID)? != SUBJECT_ALT_NAME {
            continue;
        }
        let (mut tag, mut value) = extension.next()?;
        if tag == BOOLEAN {
            (tag, value) = extension.next()?;
        }
        (tag == OCTET_STRING).then_some(())?;
        let mut all = Der(Der(value).expect(SEQUENCE)?);
        while let Some((tag, text)) = all.next() {
            let Some((_, kind)) = KINDS.iter().find(|(known, _)| *known == tag) else { continue };
            let fit = std::str::from_utf8(text).ok().filter(|text| is_name(text, SUBJECT_BYTES_MAX));
            if let Some(text) = fit.filter(|_| names.len() < NAMES_MAX) {
                names.push(written(kind, text));
            }
        }
    }
    Some(())
}

/// A name as it is compared. Those of hosts have no case.
fn written(kind: &str, text: &str) -> String {
    if kind == "dns" { format!("{kind}:{}", text.to_ascii_lowercase()) } else { format!("{kind}:{text}") }
}

/// Whom certificates of a kind stand for.
#[derive(Debug)]
pub(super) struct Known {
    subject: Option<String>,
    san: Option<String>,
    owner: String,
    role: String,
}

impl Known {
    fn is(&self, certificate: &ClientCertificate) -> bool {
        let subject = self.subject.as_ref().is_none_or(|name| certificate.common_name.as_ref() == Some(name));
        let san = self.san.as_ref().is_none_or(|name| certificate.names.contains(name));
        subject && san
    }
}

impl CertificateConfig {
    /// The entry as it is looked up, and what is wrong with it; `path` is where it stands.
    pub(super) fn known(&self, path: &str, faults: &mut Vec<Fault>) -> Known {
        if self.subject.is_none() && self.san.is_none() {
            faults.push(Fault::hidden(path, "needs a subject or a san to know certificates by"));
        }
        let names = [("subject", self.subject.as_ref()), ("san", self.san.as_ref()), ("owner", Some(&self.owner))];
        for (key, text) in names.into_iter().filter_map(|(key, text)| Some((key, text?))) {
            if !is_name(text, SUBJECT_BYTES_MAX) {
                let reason = "must be 1 to 256 bytes without control characters";
                faults.push(Fault::new(format!("{path}.{key}"), text, reason));
            }
        }
        let san = self.san.as_ref().and_then(|san| {
            let (kind, text) = san.split_once(':').filter(|(_, text)| !text.is_empty())?;
            KINDS.iter().any(|(_, known)| *known == kind).then(|| written(kind, text))
        });
        if let (Some(text), None) = (&self.san, &san) {
            let reason = "is not a name; write dns:NAME, uri:URI or email:ADDRESS";
            faults.push(Fault::new(format!("{path}.san"), text, reason));
        }
        Known { subject: self.subject.clone(), san, owner: self.owner.clone(), role: self.role.clone() }
    }
}

impl Authenticator {
    /// Judges a client's certificate, which the handshake has verified. `None` where it stands for
    /// nobody: then it is as if there were none.
    ///
    /// # Errors
    /// [`AuthError`] says why it is refused.
    #[must_use]
    pub fn certificate(&self, certificate: &ClientCertificate, now: UnixNanos) -> Option<Result<Principal, AuthError>> {
        let known = self.certificates.iter().find(|known| known.is(certificate))?;
        if certificate.not_after <= now {
            return Some(Err(AuthError::Expired));
        }
        let Some(role) = self.roles.get(&known.role) else { return Some(Err(AuthError::UnknownRole)) };
        Some(Ok(Principal {
            subject: Arc::from(known.owner.as_str()),
            issuer: None,
            role: Arc::clone(&role.name),
            grant: Arc::clone(&role.grant),
            narrowing: None,
            expires: Some(certificate.not_after),
            issued: None,
            token_id: Some(Arc::clone(&certificate.fingerprint)),
            credential: CredentialKind::Certificate,
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType, date_time_ymd};

    use super::*;
    use crate::auth::AuthConfig;

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("signed").der().to_vec()
    }

    fn named(name: &str) -> Vec<u8> {
        certificate(|params| params.distinguished_name.push(DnType::CommonName, name))
    }

    #[test]
    fn names_and_the_end_are_read() {
        let der = certificate(|params| {
            params.distinguished_name.push(DnType::OrganizationName, "Bank");
            params.distinguished_name.push(DnType::CommonName, "reader");
            params.not_after = date_time_ymd(2031, 2, 3);
            params.subject_alt_names = vec![
                SanType::DnsName("Desk.Example.COM".try_into().expect("a name")),
                SanType::URI("spiffe://bank/desk".try_into().expect("a name")),
                SanType::Rfc822Name("ann@example.com".try_into().expect("a name")),
                SanType::IpAddress([127, 0, 0, 1].into()),
            ];
        });
        let read = ClientCertificate::read(&der).expect("a certificate");
        assert_eq!(read.common_name.as_deref(), Some("reader"));
        assert_eq!(read.names, ["dns:desk.example.com", "uri:spiffe://bank/desk", "email:ann@example.com"]);
        assert_eq!(Some(read.not_after), parse_utc("2031-02-03"));
        assert_eq!(not_after(&der), Some(read.not_after));
        assert_eq!(read.fingerprint.len(), 64);
        // The two forms of a time, and the end of all time.
        for (year, end) in [(2049, parse_utc("2049-01-01")), (2050, parse_utc("2050-01-01"))] {
            assert_eq!(not_after(&certificate(|params| params.not_after = date_time_ymd(year, 1, 1))), end, "{year}");
        }
        let never = certificate(|params| params.not_after = date_time_ymd(9999, 12, 31));
        assert_eq!(not_after(&never), Some(UnixNanos(i64::MAX)));
    }

    #[test]
    fn a_name_that_could_be_taken_for_another_is_none() {
        for odd in ["ann\0.evil", "ann\n", ""] {
            let read = ClientCertificate::read(&named(odd)).expect("a certificate");
            assert_eq!(read.common_name, None, "{odd:?}");
        }
        // Two common names, as one set each.
        let der = named("ann");
        let at = der.windows(3).rposition(|window| window == b"ann").expect("it stands there");
        let attribute = &der[at - 11..at + 3];
        assert_eq!(attribute[0], SET);
        assert_eq!(common_name(attribute).as_deref(), Some("ann"));
        assert_eq!(common_name(&attribute.repeat(2)), None);
    }

    fn authenticator() -> Authenticator {
        let entry = |subject: Option<&str>, san: Option<&str>, owner: &str, role: &str| CertificateConfig {
            subject: subject.map(str::to_owned),
            san: san.map(str::to_owned),
            owner: owner.to_owned(),
            role: role.to_owned(),
        };
        let config = AuthConfig {
            certificates: vec![
                entry(Some("ann"), Some("dns:DESK.example.com"), "both", "admin"),
                entry(Some("ann"), None, "Ann", "viewer"),
            ],
            ..AuthConfig::default()
        };
        Authenticator::new(&config, None).expect("no faults")
    }

    #[test]
    fn the_first_entry_that_fits_counts_until_the_certificate_ends() {
        let desk = |name: &str| {
            certificate(|params| {
                params.distinguished_name.push(DnType::CommonName, name);
                params.subject_alt_names = vec![SanType::DnsName("desk.example.com".try_into().expect("a name"))];
                params.not_after = date_time_ymd(2031, 1, 1);
            })
        };
        let authenticator = authenticator();
        let now = parse_utc("2030-12-31").expect("a time");
        let judge = |der: &[u8], now| authenticator.certificate(&ClientCertificate::read(der).expect("sound"), now);
        let both = judge(&desk("ann"), now).expect("known").expect("good");
        assert_eq!((&*both.subject, &*both.role), ("both", "admin"));
        assert_eq!((both.expires, both.credential), (parse_utc("2031-01-01"), CredentialKind::Certificate));
        let ann = judge(&named("ann"), now).expect("known").expect("good");
        assert_eq!((&*ann.subject, &*ann.role), ("Ann", "viewer"));
        // Of two names, both must fit; and neither case nor a part is enough.
        for nobody in [desk("bob"), named("Ann"), named("ann "), named("an"), named("annn")] {
            assert_eq!(judge(&nobody, now), None);
        }
        let later = parse_utc("2031-01-01").expect("a time");
        assert_eq!(judge(&desk("ann"), later), Some(Err(AuthError::Expired)));
    }

    proptest! {
        #[test]
        fn no_damage_makes_reading_a_certificate_fail(
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            cut in any::<prop::sample::Index>(),
            whole in any::<bool>(),
        ) {
            static SOUND: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| named("ann"));
            let mut der = SOUND.clone();
            for (at, byte) in flips {
                let at = at.index(der.len());
                der[at] = byte;
            }
            if !whole {
                der.truncate(cut.index(SOUND.len() + 1));
            }
            if let Some(read) = ClientCertificate::read(&der) {
                prop_assert!(read.names.len() <= NAMES_MAX);
            }
        }
    }
}
