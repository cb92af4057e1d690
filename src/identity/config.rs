//! What of the `[[auth.issuers]]` tables only those can judge who fetch.

use super::source::{Place, read_file};
use crate::auth::{AuthConfig, JWKS_BYTES_MAX, KeySet};
use crate::dial::Dialer;
use crate::settings::Fault;

/// Most bytes of a file of certificates: a system's whole bundle has some 250 KiB.
pub(super) const CA_BYTES_MAX: usize = 1024 * 1024;

/// What is wrong with the places where keys are to be had.
pub fn check(auth: &AuthConfig, faults: &mut Vec<Fault>) {
    for (index, issuer) in auth.issuers.iter().enumerate() {
        let Some(url) = &issuer.jwks_url else { continue };
        let key = format!("auth.issuers[{index}].jwks_url");
        match Place::parse(url) {
            // A name and a password in it must not be repeated.
            Err(reason) if url.contains('@') => faults.push(Fault::hidden(key, reason)),
            Err(reason) => faults.push(Fault::new(key, url, reason)),
            Ok(place) => {
                if let Some(file) = issuer.ca_file.as_ref().filter(|_| !place.is_encrypted()) {
                    let reason = "is for an address of https, and jwks_url is none; remove it";
                    faults.push(Fault::new(format!("auth.issuers[{index}].ca_file"), file, reason));
                }
            }
        }
    }
}

/// What is wrong with the files that it names. An address that does not answer is no fault: the
/// hub starts without it.
pub fn check_files(auth: &AuthConfig, faults: &mut Vec<Fault>) {
    for (index, issuer) in auth.issuers.iter().enumerate() {
        let path = format!("auth.issuers[{index}]");
        if let Some(file) = &issuer.jwks_file {
            let read = read_file(file, JWKS_BYTES_MAX).map_err(|error| format!("cannot be read: {error}"));
            if let Err(reason) = read.and_then(|text| KeySet::parse(&text).map_err(|error| error.to_string())) {
                faults.push(Fault::new(format!("{path}.jwks_file"), file, reason));
            }
        }
        if let Some(file) = &issuer.ca_file {
            let read = read_file(file, CA_BYTES_MAX).map_err(|error| format!("cannot be read: {error}"));
            let timeout = issuer.timeout.duration();
            let trusted = read.and_then(|pem| Dialer::trusting_only(&pem, timeout).map_err(|error| error.to_string()));
            if let Err(reason) = trusted {
                faults.push(Fault::new(format!("{path}.ca_file"), file, reason));
            }
        }
    }
}
