//! In which order servers are measured, and how their measurements are paired.

use super::server::Peer;

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// What is compared.
    Subject,
    /// What it is compared with.
    Against(Peer),
}

/// The order of one round: the subject beside each peer. A measurement of the subject has a peer before and one behind
/// it and is paired with both, so that every pair is adjacent in time; with every round the order within the pairs
/// turns.
pub fn round(peers: &[Peer], number: usize) -> Vec<Vec<Slot>> {
    let group = |peers: &[Peer]| {
        let mut group = match peers {
            [before, behind] => vec![Slot::Against(*before), Slot::Subject, Slot::Against(*behind)],
            [one] => vec![Slot::Subject, Slot::Against(*one)],
            _ => vec![Slot::Subject],
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

    #[test]
    fn every_peer_stands_beside_the_subject_and_the_order_turns() {
        use Peer::{Bun, Floor, Nats};
        use Slot::{Against, Subject};
        let (floor, bun, nats) = (Against(Floor), Against(Bun), Against(Nats));
        assert_eq!(round(&[Floor], 0), [vec![Subject, floor]]);
        assert_eq!(round(&[Floor], 1), [vec![floor, Subject]]);
        assert_eq!(round(&[Floor, Bun, Nats], 0), [vec![floor, Subject, bun], vec![Subject, nats]]);
        assert_eq!(round(&[Floor, Bun, Nats], 1), [vec![bun, Subject, floor], vec![nats, Subject]]);
        assert_eq!(round(&[], 3), [vec![Subject]]);
    }
}
