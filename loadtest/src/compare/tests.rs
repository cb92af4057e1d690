//! Servers that lie, each in one way: the clients have to see it, and how much of it.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    sync::mpsc::{Receiver, sync_channel},
    thread::JoinHandle,
    time::Duration,
};

use super::{
    crowd::{Crowd, Totals},
    feed,
    payload::quote,
    profile::held,
    server::{Dialect, listen},
};
use crate::{clock, frame};

const CLIENTS: usize = 3;
const UPDATES: u32 = 20;

/// Upgrades the clients and sends each what `script` says, then closes.
fn server(script: impl Fn(usize) -> Vec<String> + Send + 'static, go: Receiver<()>) -> (SocketAddr, JoinHandle<()>) {
    let listener: TcpListener = listen().unwrap();
    let address = listener.local_addr().unwrap();
    let serve = move || {
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| listener.accept().unwrap().0).collect();
        for client in &mut clients {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                client.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            let mut answer = b"HTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec();
            frame::append_server(&mut answer, frame::TEXT, feed::READY);
            client.write_all(&answer).unwrap();
        }
        go.recv().unwrap();
        for (at, client) in clients.iter_mut().enumerate() {
            let mut out = Vec::new();
            script(at).iter().for_each(|text| frame::append_server(&mut out, frame::TEXT, text.as_bytes()));
            client.write_all(&out).unwrap();
        }
    };
    (address, std::thread::spawn(serve))
}

/// What the clients make of it by the time that the server has closed them.
fn totals(script: impl Fn(usize) -> Vec<String> + Send + 'static) -> Totals {
    let (ready, go) = sync_channel(1);
    let (address, serving) = server(script, go);
    let mut crowd = Crowd::connect((address, &Dialect::Plain), CLIENTS, 1, false, |_| vec![0]).unwrap();
    for number in 1..=UPDATES {
        crowd.judge().sent(0, number, quote(0, number).as_bytes());
    }
    ready.send(()).unwrap();
    serving.join().unwrap();
    // Everything has come by now, the end of each connection too, which is an error.
    let begun = clock::instant();
    let mut closed = false;
    loop {
        match crowd.turn(Some(Duration::from_millis(10))) {
            Ok(0) if closed => return crowd.totals,
            Ok(_) => assert!(clock::instant() - begun < Duration::from_secs(10), "nobody was closed"),
            Err(_) => closed = true,
        }
    }
}

fn honest() -> Vec<String> {
    (1..=UPDATES).map(|number| quote(0, number)).collect()
}

/// The second client is lied to.
fn one_lie(change: impl Fn(&mut Vec<String>) + Send + 'static) -> Totals {
    totals(move |client| {
        let mut script = honest();
        if client == 1 {
            change(&mut script);
        }
        script
    })
}

#[test]
fn an_honest_server_delivers_everything_and_is_accused_of_nothing() {
    let totals = one_lie(|_| {});
    assert_eq!((totals.delivered, totals.lost, totals.violations), (60, 0, 0), "{:?}", totals.described);
}

#[test]
fn a_lost_update_is_seen_by_the_one_that_follows() {
    let totals = one_lie(|script| drop(script.remove(7)));
    assert_eq!((totals.delivered, totals.lost, totals.violations), (59, 1, 1));
    assert_eq!(totals.described, ["client 1: 1 updates were lost"]);
}

#[test]
fn a_lost_last_update_is_missing_from_what_is_owed() {
    let totals = one_lie(|script| drop(script.pop()));
    assert_eq!((totals.delivered, totals.violations), (59, 0), "60 are owed: the profile finds one missing");
}

#[test]
fn a_repeated_update_counts_once() {
    let totals = one_lie(|script| script.insert(8, quote(0, 8)));
    assert_eq!((totals.delivered, totals.violations), (60, 1));
    assert_eq!(totals.described, ["client 1: update 8 came again, or too late"]);
}

#[test]
fn updates_in_another_order_are_a_loss_and_a_repeat() {
    let totals = one_lie(|script| script.swap(4, 5));
    assert_eq!((totals.delivered, totals.violations), (59, 2), "{:?}", totals.described);
}

#[test]
fn an_altered_update_is_no_delivery() {
    for (from, to) in
        [("100.01", "100.02"), ("rx\":\"17", "rx\":\"18"), ("\"ts\":null", "\"ts\":true"), ("S0000", "S0001")]
    {
        let totals = one_lie(move |script| script[9] = script[9].replace(from, to));
        assert!(totals.violations > 0 && totals.delivered == 59, "{from}: {totals:?}");
    }
}

#[test]
fn clients_of_a_mixed_load_hold_different_symbols_each_time_the_same() {
    let (first, second) = (held(0, 200), held(1, 200));
    let mut distinct = first.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!((distinct.len(), first == held(0, 200), first == second), (20, true, false));
    let mut holders = vec![0; 200];
    (0..1_000).flat_map(|client| held(client, 200)).for_each(|symbol| holders[symbol] += 1);
    assert!(holders.iter().all(|holders| (50..160).contains(holders)), "{holders:?}");
}
