//! Orders, and sessions that are on their way while one passes.

use std::io::{Read as _, Write as _};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use secrecy::ExposeSecret as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

use super::orders::Order;
use super::socket::Socket;
use super::worker::Worker;
use super::*;
use crate::audit::{Audit, Origin};
use crate::auth::{AuthConfig, Authenticator, Authority, Narrowing, Succession, TokenRequest};
use crate::fanout::{Fanout, OutboxLimits};
use crate::metrics::Registry;
use crate::model::{Depth, UnixNanos};
use crate::session::{Admissions, Meters, SessionConfig, Verdict, Verify};
use crate::shutdown::{Stopper, stop_signal};
use crate::store::Store;
use crate::time;
use crate::wire::{CloseCode, Format};

const AUTH: &str = "[[keys]]\nkid = \"k1\"\nsecret = \"a-secret-of-more-than-thirty-two-bytes-for-tests\"\n";
const ENDED: CloseCode = CloseCode::Revoked;

/// A judge who says nothing until the test lets it.
struct SlowJudge(mpsc::Sender<(Verify, oneshot::Sender<Verdict>)>);

impl Verifier for SlowJudge {
    fn verify(&self, verify: Verify) -> oneshot::Receiver<Verdict> {
        let (sender, receiver) = oneshot::channel();
        self.0.try_send((verify, sender)).expect("room for what a test asks");
        receiver
    }
}

/// A door, and what is behind it.
struct House {
    door: Door,
    orders: Orders,
    authority: Arc<Authority>,
    judge: mpsc::Receiver<(Verify, oneshot::Sender<Verdict>)>,
    parts: Option<WorkerParts>,
}

fn remote() -> Remote {
    Remote::direct(([127, 0, 0, 1], 1).into())
}

fn presence() -> Arc<Presence> {
    Arc::new(Gate::open(&Registry::new()).enter(&remote(), 0).expect("open to all"))
}

fn authenticator(more: &str) -> Authenticator {
    let config: AuthConfig = toml::from_str(&format!("{AUTH}{more}")).expect("a section");
    Authenticator::new(&config, None).expect("no faults")
}

fn house() -> House {
    let registry = Registry::new();
    let authority = Arc::new(Authority::new(authenticator("")));
    let session = Arc::new(SessionConfig::default());
    let terms = Arc::new(ArcSwap::from_pointee(Terms { sessions_max: 9999, strangers_max: 9, session }));
    let (orders, mut books) = Orders::new(1, &registry);
    let (handovers, receiver) = mpsc::channel(16);
    let (asked, judge) = mpsc::channel(16);
    let meters = Arc::new(Meters::new(&registry));
    let doors = vec![WorkerDoor { handovers, sessions: Arc::default() }];
    let number = orders.number().clone();
    let door = Door::new(
        doors,
        Arc::clone(&terms),
        Arc::clone(&authority),
        Admissions::default(),
        number,
        Arc::clone(&meters),
    );
    let limits = OutboxLimits { events_max: 16, bytes_max: 65_536, control_bytes_max: 65_536 };
    let parts = WorkerParts {
        fanout: Fanout::new(0, Store::new(0), limits, Vec::new(), None),
        lanes: Vec::new(),
        wake: Arc::default(),
        handovers: receiver,
        orders: books.remove(0),
        terms,
        meters,
        worker_meters: WorkerMeters::new(&registry, 0, "websocket"),
        verifier: Arc::new(SlowJudge(asked)),
        delay: Duration::ZERO,
        worlds: Worlds::from(Vec::new()),
        revocations: Arc::default(),
        audit: Audit::off(),
        drain: DrainConfig { spread: Duration::ZERO, retry_after: Duration::ZERO },
    };
    House { door, orders, authority, judge, parts: Some(parts) }
}

impl House {
    /// Starts the worker on this thread.
    fn open(&mut self) -> [Stopper; 2] {
        let ((drain, draining), (stopper, stop)) = (stop_signal(), stop_signal());
        tokio::task::spawn_local(run(self.parts.take().expect("once"), draining, stop));
        [drain, stopper]
    }

    fn token(&self, subject: &str) -> String {
        let (subject, role, ttl) = (subject.to_owned(), "viewer".to_owned(), Duration::from_secs(600));
        let request = TokenRequest { subject, role, ttl, narrowing: Narrowing::default() };
        self.authority.sign(&request, time::wall()).expect("signs")
    }

    /// What the door says of a handshake.
    fn judge(&self, token: Option<&str>) -> Admitted {
        let mut request = hyper::Request::builder()
            .uri("/api/v1/ws/prices")
            .header("host", "hub")
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let offer = websocket::judge_handshake(&request.body(()).expect("a request")).expect("well formed");
        self.door.judge(&offer, Origin::default(), presence()).expect("let in")
    }

    /// Hands a judged session over; the client's end of it.
    async fn hand_over(&self, admitted: Admitted) -> Client {
        let (ours, theirs) = pair();
        ours.set_nonblocking(true).expect("a socket");
        let connection = Leaving { socket: ours, channel: None, early: Bytes::new() };
        self.door.hand_over(admitted, connection, ("a".repeat(32), remote())).await;
        Client(theirs)
    }

    async fn end_subject(&self, subject: &str) -> Ended {
        let selector = Selector::Subject { subject: subject.into(), issued_until: None };
        self.orders.end(selector, ENDED, "revoked").await
    }
}

fn pair() -> (std::net::TcpStream, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let theirs = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
    (listener.accept().expect("accepts").0, theirs)
}

struct Client(std::net::TcpStream);

impl Client {
    /// The text or close code of the next frame; read away from the thread that the worker is on.
    async fn frame(&self) -> Result<String, u16> {
        let mut stream = self.0.try_clone().expect("a socket");
        let read = move || {
            stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
            let mut head = [0; 2];
            stream.read_exact(&mut head).expect("a frame");
            let mut bytes = usize::from(head[1]);
            if bytes == 126 {
                let mut long = [0; 2];
                stream.read_exact(&mut long).expect("a length");
                bytes = usize::from(u16::from_be_bytes(long));
            }
            let mut payload = vec![0; bytes];
            stream.read_exact(&mut payload).expect("a payload");
            match head[0] {
                0x81 => Ok(String::from_utf8(payload).expect("text")),
                0x88 => Err(u16::from_be_bytes([payload[0], payload[1]])),
                other => panic!("a frame that begins with {other:#x}"),
            }
        };
        tokio::task::spawn_blocking(read).await.expect("no panic")
    }

    /// Sends a command of less than 126 bytes, masked with zeros, or a longer one.
    fn send(&mut self, text: &str) {
        let mut frame = vec![0x81];
        match u8::try_from(text.len()).ok().filter(|bytes| *bytes < 126) {
            Some(bytes) => frame.push(0x80 | bytes),
            None => {
                frame.push(0x80 | 126);
                frame.extend((text.len() as u16).to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(text.as_bytes());
        self.0.write_all(&frame).expect("connected");
    }
}

#[tokio::test]
async fn a_session_that_was_judged_before_an_order_and_opens_behind_it_is_ended() {
    let mut house = house();
    let test = async {
        let _running = house.open();
        let (late, other) = (house.judge(Some(&house.token("ann"))), house.judge(Some(&house.token("bob"))));
        assert_eq!(house.end_subject("ann").await, Ended { sessions: 0, silent: 0 }, "it is not there yet");
        let new = house.judge(Some(&house.token("ann")));
        let late = house.hand_over(late).await;
        assert_eq!(late.frame().await, Err(4504), "before it is told anything");
        let allowed = [house.hand_over(other).await, house.hand_over(new).await];
        for client in &allowed {
            assert!(client.frame().await.expect("text").contains("welcome"), "the order was not about this one");
        }
        assert_eq!(house.end_subject("bob").await, Ended { sessions: 1, silent: 0 });
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_credential_that_is_being_judged_in_band_when_an_order_passes_obeys_it() {
    let mut house = house();
    let test = async {
        let _running = house.open();
        let admissions = Admissions::default();
        for renewal in [false, true] {
            let token = house.token("ann");
            let admitted = house.judge(renewal.then_some(token.as_str()));
            let mut client = house.hand_over(admitted).await;
            if renewal {
                assert!(client.frame().await.expect("text").contains("welcome"));
            }
            client.send(&format!(r#"{{"op":"auth","id":1,"token":"{token}"}}"#));
            let (verify, answer) = house.judge.recv().await.expect("asked");
            let principal = house.authority.token(verify.token.expose_secret(), time::wall()).expect("good");
            // By the token: a renewed session is not ended for the one that it came with.
            let other = Arc::from("another");
            let renewed = crate::auth::Principal { token_id: Some(Arc::clone(&other)), ..principal };
            let admission = (!renewal).then(|| admissions.admit(&renewed, 9).expect("room"));
            let ended = house.orders.end(Selector::TokenId((&*other).into()), ENDED, "revoked").await;
            assert_eq!(ended, Ended { sessions: 0, silent: 0 }, "nobody holds that token yet");
            answer.send(Verdict::Good(Arc::new(renewed), admission)).expect("waited for");
            assert_eq!(client.frame().await, Err(4504));
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_session_that_was_judged_before_a_reload_opens_with_what_its_role_has_now() {
    let mut house = house();
    let test = async {
        let _running = house.open();
        let late = house.judge(Some(&house.token("ann")));
        let after = Arc::new(authenticator("[roles.viewer]\ndepth = 1\n"));
        let before = house.authority.replace(Arc::clone(&after));
        let succession = Arc::new(Succession::new(before, after));
        assert_eq!(house.orders.succeed(succession).await, Succeeded::default(), "nobody is there yet");
        let client = house.hand_over(late).await;
        assert!(client.frame().await.expect("text").contains("welcome"));
        let query = ConnectionsQuery {
            subject: None,
            role: None,
            state: None,
            order: ConnectionsOrder::Lag,
            after: None,
            limit: 9,
        };
        let here = house.orders.list(query).await;
        let held = here.rows[0].principal.as_ref().expect("it came with a token");
        assert_eq!(held.grant.depth(), Depth::One);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn who_was_judged_before_anything_that_is_remembered_is_told_to_come_back() {
    let mut house = house();
    let test = async {
        let _running = house.open();
        let late = house.judge(Some(&house.token("ann")));
        for _ in 0..1025 {
            house.end_subject("nobody").await;
        }
        let late = house.hand_over(late).await;
        assert_eq!(late.frame().await, Err(1011));
        let new = house.hand_over(house.judge(Some(&house.token("ann")))).await;
        assert!(new.frame().await.expect("text").contains("welcome"));
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_worker_that_is_gone_is_counted() {
    let registry = Registry::new();
    let (orders, mut books) = Orders::new(2, &registry);
    drop(books.pop());
    let mut book = books.remove(0);
    let answering = tokio::spawn(async move {
        let Some(Order::End { answer, .. }) = book.orders.recv().await else { panic!("another order") };
        answer.send(3).expect("waited for");
    });
    let ended = orders.end(Selector::Role("viewer".into()), ENDED, "revoked").await;
    assert_eq!(ended, Ended { sessions: 3, silent: 1 });
    answering.await.expect("no panic");
    let counted = registry.render();
    assert!(counted.contains("tickhub_orders_total{kind=\"end\",outcome=\"silent\"} 1"), "{counted}");
    assert!(counted.contains("tickhub_orders_total{kind=\"end\",outcome=\"answered\"} 1"), "{counted}");
}

/// A worker with sessions that all write to one socket: what counts is how long it works.
async fn crowd(sessions: usize) -> Rc<Worker> {
    let mut house = house();
    let (worker, _ends) = Worker::assemble(house.parts.take().expect("once"));
    let (ours, _theirs) = pair();
    ours.set_nonblocking(true).expect("a socket");
    let leaving = Leaving { socket: ours, channel: None, early: Bytes::new() };
    let socket = Rc::new(Socket::new(leaving).expect("a socket").0);
    let principal = house.authority.token(&house.token("ann"), time::wall()).expect("good");
    let (count, admissions) = (Arc::default(), Admissions::default());
    for index in 0..sessions {
        let admission = admissions.admit(&principal, u32::MAX).expect("room");
        let place = || Place::take(&count, usize::MAX).expect("room");
        let opening = websocket::Opening {
            name: format!("{index:032x}"),
            origin: Origin::default(),
            remote: remote(),
            presence: presence(),
            format: Format::Json,
            credential: Some((Arc::new(principal.clone()), admission)),
            refused: None,
            judged: 0,
            stranger: None,
            url: Vec::new(),
            moved: None,
            places: (place(), place()),
        };
        worker.open(Rc::clone(&socket), Arc::default(), opening);
    }
    worker
}

/// Carries an order out; in how many pieces.
fn pieces(worker: &Worker, order: Order) -> usize {
    let state = &mut *worker.state.borrow_mut();
    state.begin(order);
    let mut pieces = 0;
    while !state.desk.is_free() {
        state.work();
        pieces += 1;
    }
    pieces
}

#[tokio::test]
async fn an_order_over_many_sessions_is_carried_out_in_small_pieces() {
    let worker = crowd(2000).await;
    let query = |state| {
        let (subject, role, after) = (None, None, None);
        Arc::new(ConnectionsQuery { subject, role, state, order: ConnectionsOrder::Lag, after, limit: 10 })
    };
    let (answer, mut listed) = oneshot::channel();
    let looked_at = pieces(&worker, Order::List { query: query(None), answer });
    assert!((10..=20).contains(&looked_at), "{looked_at} pieces");
    let page = Connections::gather(vec![listed.try_recv().expect("answered")], 10, 0);
    assert_eq!((page.rows.len(), page.matched), (10, 2000));

    let selector = Selector::Subject { subject: "ann".into(), issued_until: Some(UnixNanos(i64::MAX)) };
    let end = Arc::new(orders::End { selector, code: ENDED, reason: "revoked".into() });
    let (answer, mut ended) = oneshot::channel();
    let ending = pieces(&worker, Order::End { number: 1, end: Arc::clone(&end), answer });
    assert!(ending > 200, "to end one is more than to look at it: {ending} pieces");
    assert_eq!(ended.try_recv(), Ok(2000));
    let (answer, mut again) = oneshot::channel();
    pieces(&worker, Order::End { number: 2, end, answer });
    assert_eq!(again.try_recv(), Ok(0), "who is ending already is not ended twice");
    let (answer, mut listed) = oneshot::channel();
    pieces(&worker, Order::List { query: query(Some(ConnectionState::Closing)), answer });
    assert_eq!(Connections::gather(vec![listed.try_recv().expect("answered")], 10, 0).matched, 2000);
}

#[test]
fn a_selector_means_those_that_it_names() {
    let house = house();
    let held = house.authority.token(&house.token("ann"), time::wall()).expect("good");
    let held = crate::auth::Principal { token_id: Some("f00-12".into()), ..held };
    let issued = held.issued.expect("a token says when");
    let subject = |subject: &str, issued_until| Selector::Subject { subject: subject.into(), issued_until };
    let id = held.token_id.as_deref().expect("the hub's tokens have one");
    for (selector, expected) in [
        (Selector::Session("s".into()), true),
        (Selector::Session("t".into()), false),
        (subject("ann", None), true),
        (subject("ann", Some(issued)), true),
        (subject("ann", Some(UnixNanos(issued.0 - 1))), false),
        (subject("bob", None), false),
        (Selector::TokenId(id.into()), true),
        (Selector::ApiKey(id.into()), false),
        (Selector::Family("f00".into()), true),
        (Selector::Family("f0".into()), false),
        (Selector::Family("f00-12".into()), false),
        (Selector::Role("viewer".into()), true),
        (Selector::Who(Arc::new(|held| &*held.subject == "ann")), true),
        (Selector::Who(Arc::new(|held| &*held.subject == "bob")), false),
        (Selector::Role("view".into()), false),
    ] {
        assert_eq!(selector.selects("s", Some(&held)), expected, "{selector:?}");
        let stranger = matches!(&selector, Selector::Session(name) if **name == *"s");
        assert_eq!(selector.selects("s", None), stranger, "{selector:?} without a credential");
    }
}
