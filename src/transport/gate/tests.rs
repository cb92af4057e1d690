use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::*;

const SECOND: u64 = 1_000_000_000;

fn limits() -> AddressLimits {
    AddressLimits {
        handshakes_per_second: 10,
        handshakes_burst: 20,
        unauthenticated: 6,
        connections: 15,
        ..AddressLimits::default()
    }
}

fn gate(limits: AddressLimits, idle_max: usize) -> Arc<Gate> {
    Gate::with_room(limits, Proxies::default(), 1_000_000_000, &Registry::new(), idle_max)
}

fn ip(ip: impl Into<IpAddr>) -> Remote {
    Remote::direct(SocketAddr::new(ip.into(), 4711))
}

fn host(n: u32) -> Remote {
    ip(Ipv4Addr::from_bits(0xC600_0000 + n))
}

#[test]
fn an_address_may_make_so_many_connections_at_once_and_then_so_many_a_second() {
    let gate = gate(limits(), 1000);
    let visit = |now| gate.enter(&host(1), now).map(drop);
    assert_eq!((0..50).filter(|_| visit(0).is_ok()).count(), 20);
    assert_eq!(visit(0), Err(Turned::Handshakes(1)));
    assert!(gate.enter(&host(2), 0).is_ok(), "another one is not concerned");
    assert_eq!((0..50).filter(|_| visit(SECOND).is_ok()).count(), 10);
}

#[test]
fn what_is_open_is_counted_until_it_is_dropped() {
    let gate = gate(limits(), 1000);
    let mut open: Vec<_> = (0..15).map(|_| gate.enter(&host(1), 0).expect("room")).collect();
    assert_eq!(gate.enter(&host(1), 0).map(drop), Err(Turned::Connections));
    let pending: Vec<_> = (0..6).map(|n| open[n].pending().expect("room")).collect();
    assert_eq!(open[0].pending().map(drop), Err(Turned::Unauthenticated));
    drop(pending);
    assert!(open[0].pending().is_ok());
    open.pop();
    assert!(gate.enter(&host(1), 0).is_ok());
}

#[test]
fn a_network_of_ipv6_is_one_and_the_exempt_are_never_bounded() {
    let gate = gate(limits(), 1000);
    let v6 = |n: u128| ip(std::net::Ipv6Addr::from_bits(0x2001_0db8 << 96 | n));
    let of_one_network = (0..100).filter(|n| gate.enter(&v6(*n), 0).is_ok()).count();
    assert_eq!(of_one_network, 20);
    assert!(gate.enter(&v6(1 << 64), 0).is_ok(), "the next network");
    let local = ip([127, 0, 0, 1]);
    let open: Vec<_> = (0..1000).map(|_| gate.enter(&local, 0).expect("exempt")).collect();
    let pending: Vec<_> = open.iter().map(|presence| presence.pending().expect("exempt")).collect();
    assert!(open[0].sent(usize::MAX, 0) && open[0].share_of(100) == 100 && pending.len() == 1000);
}

#[test]
fn bytes_are_a_bucket_too() {
    let gate = gate(AddressLimits { bytes_per_second: 100_000, ..limits() }, 1000);
    let (one, other) = (gate.enter(&host(1), 0).expect("room"), gate.enter(&host(1), 0).expect("room"));
    assert!(one.sent(60_000, 0) && !other.sent(60_000, 0), "its connections share it");
    assert!(gate.enter(&host(2), 0).expect("room").sent(60_000, 0));
    assert!(other.sent(60_000, SECOND));
}

#[test]
fn who_has_many_leaves_places_to_who_has_few() {
    let gate = gate(AddressLimits { unauthenticated: 100, connections: 100, handshakes_burst: 100, ..limits() }, 1000);
    let greedy = gate.enter(&host(1), 0).expect("room");
    let mut held = Vec::new();
    while greedy.share_of(100) == 100 {
        held.push(greedy.pending().expect("room"));
    }
    assert_eq!((held.len(), greedy.share_of(100)), (ADDRESS_FEW as usize, 75));
    assert_eq!(gate.enter(&host(2), 0).expect("room").share_of(100), 100);
}

#[test]
fn the_hub_as_a_whole_takes_so_many_a_second() {
    let gate = Gate::new(limits(), Proxies::default(), 100, &Registry::new());
    assert_eq!((0..500).filter(|_| gate.knock(0).is_ok()).count(), 100);
    assert_eq!(gate.knock(0), Err(Turned::HubHandshakes(1)));
}

/// The table has a bound that no number of addresses exceeds; and whoever floods it neither forgets
/// what he used up himself nor pushes out those that were there.
#[test]
fn many_addresses_neither_fill_the_memory_nor_push_anyone_out() {
    let idle_max = 16 * 64;
    let gate = gate(limits(), idle_max);
    let spender = host(1);
    while gate.enter(&spender, 0).is_ok() {}
    let settled = host(2);
    let here = gate.enter(&settled, 0).expect("room");
    let mut admitted = 0;
    for n in 10..20_000 {
        admitted += usize::from(gate.enter(&host(n), 0).is_ok());
        assert!(gate.known() <= idle_max + 1, "{} are remembered", gate.known());
    }
    assert!(admitted <= idle_max + 20, "the others share one bucket: {admitted}");
    assert_eq!(gate.enter(&spender, 0).map(drop), Err(Turned::Handshakes(1)), "it is not forgotten");
    assert!(gate.enter(&settled, 0).is_ok(), "who has a connection keeps its own bucket");
    // While time goes on those that have filled up again are forgotten, and nobody else is: the
    // spender gets what came back in the meantime, and not the burst of one who is new.
    for n in 0..20_000 {
        let _ = gate.enter(&host(100_000 + n), u64::from(n) * SECOND / 20_000);
        assert!(gate.known() <= idle_max + 1, "{} are remembered", gate.known());
    }
    let again = (0..20).filter(|_| gate.enter(&spender, SECOND).is_ok()).count();
    assert_eq!(again, 10);
    let later = 100 * SECOND;
    assert!((50_000..50_400).all(|n| gate.enter(&host(n), later).is_ok()), "there is room again");
    assert!(gate.known() < idle_max, "{} are remembered", gate.known());
    drop(here);
}

/// Whatever many threads do, counts come back to nothing.
#[test]
fn places_are_given_back_whoever_took_them() {
    let gate = gate(AddressLimits { handshakes_burst: 1_000_000, ..limits() }, 1000);
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let gate = &gate;
            scope.spawn(move || {
                for n in 0..2000u32 {
                    let visit = gate.enter(&host((n * 7 + thread) % 50), u64::from(n));
                    let pending = visit.as_ref().ok().and_then(|visit| visit.pending().ok());
                    drop((visit, pending));
                }
            });
        }
    });
    for n in 0..50 {
        let open: Vec<_> = (0..15).map(|_| gate.enter(&host(n), SECOND).expect("all are back")).collect();
        let pending: Vec<_> = open.iter().take(6).map(|one| one.pending().expect("all are back")).collect();
        assert_eq!(pending.len(), 6);
    }
}
