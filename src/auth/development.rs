//! Development mode: a hub without configured keys makes one of its own, and serves loopback only.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret as _, SecretBox};

use super::{AuthConfig, Narrowing, TokenRequest, random};

/// Bytes of the key.
const KEY_BYTES: usize = 32;
/// Name of its file in the state directory.
const FILE_NAME: &str = "development.key";
/// Longest content of its file: the key in base64url, and a newline.
const FILE_BYTES_MAX: u64 = 64;
/// How long the token that the hub prints is good: a day at a desk.
const TOKEN_TTL: Duration = Duration::from_secs(24 * 3600);

/// The key of development mode: random, made at the first start, kept in a file that only its
/// owner can read.
pub struct DevelopmentKey(SecretBox<[u8; KEY_BYTES]>);

/// Why the key's file is of no use. The texts say what to do.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file or its directory could not be made or read.
    #[error("{path}: {doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than the owner may read or write it.
    #[error("{0}: others may read or write this file, so its key is no secret; delete it, a new one is made")]
    Open(PathBuf),
    /// Anyone may write in its directory, and so put another key there.
    #[error("{0}: anyone may write in this directory; take that right away, or set server.state_dir to another")]
    OpenDirectory(PathBuf),
    /// It is a link, a directory, a device.
    #[error("{0}: is not a regular file; remove it, or set server.state_dir to another directory")]
    NotRegular(PathBuf),
    /// It holds no key.
    #[error("{0}: does not hold a key; delete it, a new one is made")]
    Content(PathBuf),
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Random,
}

impl DevelopmentKey {
    /// Its `kid`.
    pub const ID: &str = "development";

    /// Reads the key in `state_dir`, or makes one.
    ///
    /// # Errors
    /// [`KeyFileError`] where the file cannot be made, or is not one that only its owner reads.
    pub fn open(state_dir: &Path) -> Result<Self, KeyFileError> {
        let path = state_dir.join(FILE_NAME);
        if !state_dir.exists() {
            let io = |source| KeyFileError::Io { doing: "making the state directory", path: state_dir.into(), source };
            DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(io)?;
        }
        let io = |source| KeyFileError::Io { doing: "looking at the state directory", path: state_dir.into(), source };
        if fs::metadata(state_dir).map_err(io)?.permissions().mode() & 0o002 != 0 {
            return Err(KeyFileError::OpenDirectory(state_dir.into()));
        }
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::make(state_dir, &path),
            Err(source) => Err(KeyFileError::Io { doing: "looking at the key file", path, source }),
            Ok(found) if !found.is_file() => Err(KeyFileError::NotRegular(path)),
            Ok(_) => Self::read(path),
        }
    }

    /// Makes the file whole under another name first, so that a hub that starts at the same time
    /// never reads half of it; of two that make one, the first wins and both use it.
    fn make(state_dir: &Path, path: &Path) -> Result<Self, KeyFileError> {
        let io = |source| KeyFileError::Io { doing: "making the key file", path: path.into(), source };
        let key: [u8; KEY_BYTES] = random().ok_or(KeyFileError::Random)?;
        let draft_id = u64::from_ne_bytes(random().ok_or(KeyFileError::Random)?);
        let draft = state_dir.join(format!(".{FILE_NAME}.{draft_id:016x}"));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).map_err(io)?;
        let written = writeln!(file, "{}", URL_SAFE_NO_PAD.encode(key)).and_then(|()| file.sync_all());
        let linked = written.and_then(|()| fs::hard_link(&draft, path));
        let removed = fs::remove_file(&draft);
        match linked {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Self::read(path.into()),
            linked => linked.and(removed).map(|()| Self(SecretBox::new(Box::new(key)))).map_err(io),
        }
    }

    fn read(path: PathBuf) -> Result<Self, KeyFileError> {
        let io = |source| KeyFileError::Io { doing: "reading the key file", path: path.clone(), source };
        let file = File::open(&path).map_err(io)?;
        // Asked of the open file: the name may mean another by now.
        let found = file.metadata().map_err(io)?;
        if !found.is_file() {
            return Err(KeyFileError::NotRegular(path));
        }
        if found.permissions().mode() & 0o077 != 0 {
            return Err(KeyFileError::Open(path));
        }
        let mut text = String::new();
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(io)?;
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end()).ok();
        let key: Option<[u8; KEY_BYTES]> = bytes.and_then(|bytes| bytes.try_into().ok());
        key.map(|key| Self(SecretBox::new(Box::new(key)))).ok_or(KeyFileError::Content(path))
    }

    pub(super) fn secret(&self) -> &[u8] {
        self.0.expose_secret()
    }

    /// What the token that the hub prints shall say: everything, for a day.
    #[must_use]
    pub fn token_request() -> TokenRequest {
        TokenRequest {
            subject: "developer".to_owned(),
            role: "admin".to_owned(),
            ttl: TOKEN_TTL,
            narrowing: Narrowing::default(),
        }
    }
}

impl fmt::Debug for DevelopmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DevelopmentKey([redacted])")
    }
}

/// A hub without keys would listen where strangers can reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{address} can be reached from other machines, and no keys are configured: anyone's token would be signed with \
     the development key. Set a key in [[auth.keys]] (or an API key in [[auth.api_keys]]), or listen on 127.0.0.1"
)]
pub struct OpenToStrangers {
    /// The address that is not loopback.
    pub address: SocketAddr,
}

/// Whether a hub with this configuration may listen on these addresses: in development mode on
/// loopback only.
///
/// # Errors
/// [`OpenToStrangers`] names the first address that is refused.
pub fn check_listen(config: &AuthConfig, addresses: &[SocketAddr]) -> Result<(), OpenToStrangers> {
    let open = addresses.iter().find(|address| !address.ip().to_canonical().is_loopback());
    match open {
        Some(address) if config.is_development() => Err(OpenToStrangers { address: *address }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{ApiKeyConfig, Authenticator, KeyConfig, new_api_key};
    use crate::model::UnixNanos;
    use std::os::unix::fs::symlink;

    fn hub(key: &DevelopmentKey) -> Authenticator {
        Authenticator::new(&AuthConfig::default(), Some(key)).expect("no faults")
    }

    #[test]
    fn the_key_is_made_once_and_readable_by_its_owner_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path().join("deep/state");
        let first = DevelopmentKey::open(&state).expect("made");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&state), mode(&state.join(FILE_NAME))), (0o700, 0o600));
        assert_eq!(fs::read_dir(&state).expect("reads").count(), 1, "no draft stays behind");

        let now = UnixNanos(1_700_000_000_000_000_000);
        let token = hub(&first).sign(&DevelopmentKey::token_request(), now).expect("signs");
        let again = DevelopmentKey::open(&state).expect("read");
        assert!(hub(&again).token(&token, now).expect("the same key").is_admin());

        let other = DevelopmentKey::open(&dir.path().join("other")).expect("made");
        assert!(hub(&other).token(&token, now).is_err(), "each state directory has its own");
        assert!(!format!("{first:?}").contains(&URL_SAFE_NO_PAD.encode(first.secret())));
    }

    #[test]
    fn two_hubs_that_start_at_once_share_one_key() {
        let dir = tempfile::tempdir().expect("a directory");
        let start = std::sync::Barrier::new(8);
        let keys: Vec<_> = std::thread::scope(|scope| {
            let open = || {
                start.wait();
                DevelopmentKey::open(dir.path()).expect("opens").secret().to_vec()
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|thread| thread.join().expect("joins")).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
    }

    #[test]
    fn a_file_that_is_no_secret_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(FILE_NAME);
        let refused = || DevelopmentKey::open(dir.path()).expect_err("refused");
        DevelopmentKey::open(dir.path()).expect("made");
        for mode in [0o644, 0o640, 0o602] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
            assert!(matches!(refused(), KeyFileError::Open(_)), "{mode:o}");
        }
        assert!(refused().to_string().contains("delete it"));

        let elsewhere = dir.path().join("elsewhere");
        fs::rename(&path, &elsewhere).expect("renames");
        symlink(&elsewhere, &path).expect("links");
        assert!(matches!(refused(), KeyFileError::NotRegular(_)));
        fs::remove_file(&path).expect("removes");
        fs::create_dir(&path).expect("makes");
        assert!(matches!(refused(), KeyFileError::NotRegular(_)));
        fs::remove_dir(&path).expect("removes");

        for content in ["", "short", &"A".repeat(500)] {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path).expect("opens");
            file.write_all(content.as_bytes()).expect("writes");
            assert!(matches!(refused(), KeyFileError::Content(_)), "{content}");
        }
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("set");
        assert!(matches!(refused(), KeyFileError::OpenDirectory(_)));
    }

    #[test]
    fn a_state_directory_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("file");
        fs::write(&file, "").expect("writes");
        let error = DevelopmentKey::open(&file.join("state")).expect_err("refused").to_string();
        assert!(error.contains("state") && error.contains("making the state directory"), "{error}");
    }

    #[test]
    fn without_keys_only_loopback_is_served() {
        let addresses =
            |texts: &[&str]| texts.iter().map(|text| text.parse().expect("valid")).collect::<Vec<SocketAddr>>();
        let development = AuthConfig::default();
        let loopback = addresses(&["127.0.0.1:0", "127.8.8.8:1", "[::1]:8080", "[::ffff:127.0.0.1]:1"]);
        assert_eq!(check_listen(&development, &loopback), Ok(()));
        for open in ["0.0.0.0:8080", "[::]:8080", "192.168.0.1:1", "[::ffff:10.0.0.1]:1", "[fe80::1]:1"] {
            let refused = check_listen(&development, &addresses(&["127.0.0.1:0", open])).expect_err(open);
            assert_eq!(refused.address, open.parse::<SocketAddr>().expect("valid"));
            assert!(refused.to_string().contains("auth.keys"), "{refused}");
        }
        let key = KeyConfig { kid: "k".into(), alg: Default::default(), secret: None, secret_file: None };
        let keyed = AuthConfig { keys: vec![key], ..AuthConfig::default() };
        assert_eq!(check_listen(&keyed, &addresses(&["0.0.0.0:8080"])), Ok(()));
        let api_key = ApiKeyConfig {
            id: "a".into(),
            hash: new_api_key("a").expect("valid id").hash.to_string().into(),
            owner: "o".into(),
            role: "viewer".into(),
            expires: None,
            disabled: false,
        };
        let keyed = AuthConfig { api_keys: vec![api_key], ..AuthConfig::default() };
        assert_eq!(check_listen(&keyed, &addresses(&["0.0.0.0:8080"])), Ok(()));
        // A development key that lies about is not used where keys are configured.
        let dir = tempfile::tempdir().expect("a directory");
        let key = DevelopmentKey::open(dir.path()).expect("made");
        let hub = Authenticator::new(&keyed, Some(&key)).expect("no faults");
        assert!(hub.sign(&DevelopmentKey::token_request(), UnixNanos(0)).is_err());
    }
}
