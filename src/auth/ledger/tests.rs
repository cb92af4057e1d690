//! The ledger against a plain model that remembers everything, over random deeds and times.

use std::collections::HashSet;

use proptest::prelude::*;
use secrecy::{ExposeSecret as _, SecretString};

use super::*;
use crate::auth::{AuthError, CredentialKind, Grant, Narrowing, Principal, Revocations, new_api_key};
use crate::settings::Span;

const START: i64 = 1_700_000_000_000_000_000;
const SECOND: i64 = 1_000_000_000;

const LIFETIMES: TokensConfig = TokensConfig {
    access_lifetime: Span::seconds(10),
    refresh_idle: Span::seconds(60),
    refresh_lifetime: Span::seconds(300),
};

fn fresh() -> Fresh {
    Fresh::new().expect("random bytes")
}

fn key(id: &str, owner: &str) -> IssuedKey {
    IssuedKey {
        id: id.into(),
        hash: new_api_key(id).expect("valid id").hash,
        owner: owner.into(),
        role: "viewer".into(),
        narrowing: Arc::new(Narrowing::default()),
        expires: None,
        made: UnixNanos(START),
    }
}

/// What somebody may try, with small numbers for what it is tried on.
#[derive(Clone, Copy, Debug)]
enum Try {
    Make(usize),
    End(usize),
    Begin(usize),
    /// The token of that number among all that were ever issued.
    Present(usize),
    RevokeSubject(usize),
    RevokeToken(usize),
    Wait(u8),
    Prune,
    /// Writes everything out and reads it back.
    Reread,
}

fn any_try() -> impl Strategy<Value = Try> {
    prop_oneof![
        1 => (0usize..3).prop_map(Try::Make),
        1 => (0usize..3).prop_map(Try::End),
        4 => (0usize..3).prop_map(Try::Begin),
        8 => any::<usize>().prop_map(Try::Present),
        1 => (0usize..2).prop_map(Try::RevokeSubject),
        1 => any::<usize>().prop_map(Try::RevokeToken),
        3 => (0u8..40).prop_map(Try::Wait),
        1 => Just(Try::Prune),
        2 => Just(Try::Reread),
    ]
}

/// One token as the model remembers it.
struct Issued {
    text: SecretString,
    token_id: String,
    family: usize,
    at: i64,
}

struct Chain {
    key: usize,
    begun: i64,
    ended: bool,
    newest: usize,
}

#[derive(Default)]
struct Model {
    made: HashSet<usize>,
    off: HashSet<usize>,
    issued: Vec<Issued>,
    chains: Vec<Chain>,
    revoked_at: [Option<i64>; 2],
    jtis: HashSet<usize>,
    now: i64,
}

const OWNERS: [&str; 3] = ["ann", "bob", "ann"];
const SUBJECTS: [&str; 2] = ["ann", "bob"];

impl Model {
    fn issue(&mut self, family: usize, issue: Issue) {
        self.chains[family].newest = self.issued.len();
        self.issued.push(Issued { text: issue.refresh, token_id: issue.token_id, family, at: self.now });
    }

    /// What becomes of the token of that number.
    fn expected(&self, token: usize) -> Result<(), Denied> {
        let issued = &self.issued[token];
        let chain = &self.chains[issued.family];
        let last = self.issued[chain.newest].at;
        if chain.newest != token {
            Err(Denied::Reused)
        } else if chain.ended {
            Err(Denied::Ended)
        } else if self.now >= (last + 60 * SECOND).min(chain.begun + 300 * SECOND) {
            Err(Denied::Expired)
        } else {
            Ok(())
        }
    }

    /// Whether the access token of that number must be refused although its time is not over.
    fn access_refused(&self, token: usize) -> bool {
        let issued = &self.issued[token];
        let chain = &self.chains[issued.family];
        let subject = SUBJECTS.iter().position(|subject| *subject == OWNERS[chain.key]).expect("an owner");
        let iat = issued.at / SECOND * SECOND;
        chain.ended || self.jtis.contains(&token) || self.revoked_at[subject].is_some_and(|at| iat <= at)
    }
}

struct World {
    ledger: Ledger,
    model: Model,
}

impl World {
    fn carry_out(&mut self, deed: &Deed) -> Result<Done, Denied> {
        let before = self.ledger.clone();
        let Decision { changes, outcome } = self.ledger.decide(deed, &LIFETIMES, UnixNanos(self.model.now));
        assert_eq!(self.ledger, before, "deciding changes nothing");
        for change in changes {
            // As it is written and read back.
            let text = serde_json::to_string(&change).expect("serializes");
            self.ledger.apply(serde_json::from_str(&text).expect("reads"));
        }
        outcome
    }

    fn step(&mut self, step: Try) {
        match step {
            Try::Make(n) => {
                let outcome = self.carry_out(&Deed::MakeKey(key(&format!("k{n}"), OWNERS[n])));
                assert_eq!(outcome.is_ok(), self.model.made.insert(n));
            }
            Try::End(n) => {
                let outcome = self.carry_out(&Deed::EndKey { id: format!("k{n}").into(), configured: false });
                assert_eq!(outcome.is_ok(), self.model.made.contains(&n));
                if outcome.is_ok() {
                    self.model.off.insert(n);
                    self.model.chains.iter_mut().filter(|chain| chain.key == n).for_each(|chain| chain.ended = true);
                }
            }
            Try::Begin(n) => {
                let (key, subject) = (format!("k{n}").into(), OWNERS[n].into());
                match self.carry_out(&Deed::Begin { key, subject, fresh: fresh() }) {
                    Ok(Done::Issued(issue)) => {
                        assert!(!self.model.off.contains(&n));
                        self.model.chains.push(Chain { key: n, begun: self.model.now, ended: false, newest: 0 });
                        self.model.issue(self.model.chains.len() - 1, issue);
                    }
                    outcome => assert!(matches!(outcome, Err(Denied::KeyOff)) && self.model.off.contains(&n)),
                }
            }
            Try::Present(n) => self.present(n),
            Try::RevokeSubject(n) => {
                assert!(self.carry_out(&Deed::RevokeSubject(SUBJECTS[n].into())).is_ok());
                self.model.revoked_at[n] = Some(self.model.now);
                let of_subject = |chain: &&mut Chain| OWNERS[chain.key] == SUBJECTS[n];
                self.model.chains.iter_mut().filter(of_subject).for_each(|chain| chain.ended = true);
            }
            Try::RevokeToken(n) => {
                let Some(n) = n.checked_rem(self.model.issued.len()) else { return };
                let id = self.model.issued[n].token_id.as_str().into();
                assert!(self.carry_out(&Deed::RevokeToken(id)).is_ok());
                self.model.jtis.insert(n);
                let family = self.model.issued[n].family;
                self.model.chains[family].ended = true;
            }
            Try::Wait(seconds) => self.model.now += i64::from(seconds) * SECOND,
            Try::Prune => {
                self.ledger.prune(UnixNanos(self.model.now));
            }
            Try::Reread => {
                let mut read = Ledger::default();
                for change in self.ledger.changes() {
                    let text = serde_json::to_string(&change).expect("serializes");
                    read.apply(serde_json::from_str(&text).expect("reads"));
                }
                assert_eq!(read, self.ledger);
            }
        }
    }

    fn present(&mut self, n: usize) {
        let Some(n) = n.checked_rem(self.model.issued.len()) else { return };
        let expected = self.model.expected(n);
        let presented = Presented::parse(self.model.issued[n].text.expose_secret()).expect("its form is right");
        let outcome = self.carry_out(&Deed::Rotate { presented, fresh: fresh() });
        let family = self.model.issued[n].family;
        match (outcome, expected) {
            (Ok(Done::Issued(issue)), Ok(())) => self.model.issue(family, issue),
            (Err(denied), Err(expected)) if denied == expected => {}
            // What is over is forgotten some time: then nothing is known of it.
            (Err(Denied::Forged), Err(_)) => {
                let last = self.model.issued[self.model.chains[family].newest].at;
                assert!(self.model.now >= last + 600 * SECOND, "forgotten too early");
            }
            (outcome, expected) => panic!("{outcome:?} where {expected:?} was due"),
        }
        if expected == Err(Denied::Reused) {
            self.model.chains[family].ended = true;
        }
    }

    /// Nothing that must be refused is let in, and nothing else is refused.
    fn check(&self) {
        let revocations = Revocations::default();
        revocations.publish(self.ledger.held());
        for (n, issued) in self.model.issued.iter().enumerate() {
            // An access token ends by itself in the end, leeway included.
            if self.model.now >= issued.at + 15 * SECOND {
                continue;
            }
            let principal = Principal {
                subject: OWNERS[self.model.chains[issued.family].key].into(),
                issuer: None,
                role: "viewer".into(),
                grant: Arc::new(Grant::everything()),
                narrowing: None,
                expires: None,
                issued: Some(UnixNanos(issued.at / SECOND * SECOND)),
                token_id: Some(issued.token_id.as_str().into()),
                credential: CredentialKind::Jwt,
            };
            let judged = revocations.judge(&principal, UnixNanos(self.model.now));
            let expected = if self.model.access_refused(n) { Err(AuthError::Revoked) } else { Ok(()) };
            assert_eq!(judged, expected, "access token {n}");
        }
        for n in 0..3 {
            assert_eq!(self.ledger.off_since(&format!("k{n}")).is_some(), self.model.off.contains(&n));
        }
    }
}

proptest! {
    #[test]
    fn nothing_revoked_is_let_in_and_no_used_token_comes_alive(steps in proptest::collection::vec(any_try(), 1..80)) {
        let mut world = World { ledger: Ledger::default(), model: Model { now: START, ..Model::default() } };
        for step in steps {
            world.step(step);
            world.check();
        }
    }
}

fn carry_out(ledger: &mut Ledger, deed: &Deed, now: i64) -> Result<Done, Denied> {
    let Decision { changes, outcome } = ledger.decide(deed, &LIFETIMES, UnixNanos(now));
    changes.into_iter().for_each(|change| {
        ledger.apply(change);
    });
    outcome
}

#[test]
fn a_program_that_never_refreshes_takes_no_more_than_its_share() {
    let mut ledger = Ledger::default();
    let begin = || Deed::Begin { key: "lazy".into(), subject: "ann".into(), fresh: fresh() };
    let first = begin();
    let Deed::Begin { fresh: of_first, .. } = &first else { unreachable!() };
    let oldest = of_first.family();
    carry_out(&mut ledger, &first, START).expect("room");
    for n in 1..FAMILIES_PER_KEY_MAX as i64 {
        carry_out(&mut ledger, &begin(), START + n).expect("room");
    }
    assert!(ledger.families.contains_key(&oldest));
    carry_out(&mut ledger, &begin(), START + 5000).expect("takes the place of the oldest");
    assert_eq!((ledger.families.len(), ledger.families.contains_key(&oldest)), (FAMILIES_PER_KEY_MAX, false));
    let other = Deed::Begin { key: "other".into(), subject: "bob".into(), fresh: fresh() };
    carry_out(&mut ledger, &other, START).expect("others have theirs");
}

#[test]
fn a_bound_that_is_reached_refuses_and_forgets_nothing() {
    let mut ledger = Ledger::default();
    for n in 0..REVOCATIONS_MAX {
        ledger.apply(Change::TokenRevoked { id: format!("t{n}").into(), until: UnixNanos(i64::MAX) });
    }
    assert!(matches!(carry_out(&mut ledger, &Deed::RevokeToken("more".into()), START), Err(Denied::Full(_))));
    assert!(matches!(carry_out(&mut ledger, &Deed::RevokeSubject("more".into()), START), Err(Denied::Full(_))));
    carry_out(&mut ledger, &Deed::RevokeToken("t7".into()), START).expect("it has its place");
    assert_eq!(ledger.revocations(), REVOCATIONS_MAX);
    for n in 0..ISSUED_KEYS_MAX {
        let id: Arc<str> = format!("k{n}").into();
        ledger.apply(Change::KeyMade(IssuedKey { id, ..key("k", "ann") }));
    }
    assert!(matches!(carry_out(&mut ledger, &Deed::MakeKey(key("more", "ann")), START), Err(Denied::Full(_))));
    let end = |id: &str, configured| Deed::EndKey { id: id.into(), configured };
    carry_out(&mut ledger, &end("k0", false), START).expect("a full store can still switch off its own");
    carry_out(&mut ledger, &end("of-the-configuration", true), START).expect("and the configuration's");
    assert_eq!(carry_out(&mut ledger, &end("nobody", false), START).err(), Some(Denied::UnknownKey));
}

#[test]
fn a_clock_that_is_set_back_takes_nothing_back() {
    let mut ledger = Ledger::default();
    carry_out(&mut ledger, &Deed::RevokeSubject("ann".into()), START).expect("room");
    carry_out(&mut ledger, &Deed::RevokeSubject("ann".into()), START - 3600 * SECOND).expect("room");
    assert_eq!(ledger.held().subjects.get("ann"), Some(&UnixNanos(START)));
}

#[test]
fn a_disabled_key_is_listed_for_a_while_and_its_id_is_not_given_again_meanwhile() {
    let mut ledger = Ledger::default();
    carry_out(&mut ledger, &Deed::MakeKey(key("desk", "ann")), START).expect("free");
    carry_out(&mut ledger, &Deed::EndKey { id: "desk".into(), configured: false }, START).expect("known");
    carry_out(&mut ledger, &Deed::EndKey { id: "file".into(), configured: true }, START).expect("configured");
    ledger.prune(UnixNanos(START + 399 * 86_400 * SECOND));
    assert_eq!(carry_out(&mut ledger, &Deed::MakeKey(key("desk", "bob")), START).err(), Some(Denied::KeyExists));
    assert_eq!(carry_out(&mut ledger, &Deed::MakeKey(key("file", "bob")), START).err(), Some(Denied::KeyExists));
    ledger.prune(UnixNanos(START + 402 * 86_400 * SECOND));
    assert!(ledger.keys().is_empty() && ledger.off_since("desk").is_none());
    assert!(ledger.off_since("file").is_some(), "the configuration may have it for ever");
}

#[test]
fn what_an_older_hub_does_not_know_is_refused_and_not_left_out() {
    for later in [r#"{"key_frozen":{"id":"a"}}"#, r#"{"token_revoked":{"id":"a","until":1,"only":"SIM:*"}}"#] {
        assert!(serde_json::from_str::<Change>(later).is_err(), "{later}");
    }
}
