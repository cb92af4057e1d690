//! In which order servers are measured, and how their measurements are paired.

use super::server::Peer;

/// The order of one round: the hub beside each peer. A measurement of the hub has a peer before and one behind it and
/// is paired with both, so that every pair is adjacent in time; with every round the order within the pairs turns.
pub fn round(peers: &[Peer], number: usize) -> Vec<Vec<Peer>> {
    let group = |peers: &[Peer]| {
        let mut group = match peers {
            [before, behind] => vec![*before, Peer::Hub, *behind],
            [one] => vec![Peer::Hub, *one],
            _ => vec![Peer::Hub],
        };
        if number % 2 == 1 {
            group.reverse();
        }
        group
    };
    if peers.is_empty() {
        return vec![group(peers)];
    }
    peers.chunks(2).map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Peer::{Bun, Floor, Hub, Nats};

    #[test]
    fn every_peer_stands_beside_the_hub_and_the_order_turns() {
        assert_eq!(round(&[Floor], 0), [vec![Hub, Floor]]);
        assert_eq!(round(&[Floor], 1), [vec![Floor, Hub]]);
        assert_eq!(round(&[Floor, Bun, Nats], 0), [vec![Floor, Hub, Bun], vec![Hub, Nats]]);
        assert_eq!(round(&[Floor, Bun, Nats], 1), [vec![Bun, Hub, Floor], vec![Nats, Hub]]);
        assert_eq!(round(&[], 3), [vec![Hub]]);
    }
}
