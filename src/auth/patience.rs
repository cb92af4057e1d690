//! How slow a session may be before it is told of a gap, or closed.

use std::time::Duration;

use crate::model::Overflow;

/// The bounds of a slow consumer that a role sets. The hub's own bounds hold beside them: of both
/// the smaller one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Patience {
    /// Events that may wait for one session's socket.
    pub backlog_events: usize,
    /// Bytes of such events.
    pub backlog_bytes: usize,
    /// Time in which its socket takes nothing while something waits.
    pub write_stall: Duration,
    /// Time for which what it asked for (snapshots, resumed events) does not count as waiting.
    pub catch_up: Duration,
    /// The policies that it may ask for.
    pub overflow: Policies,
}

impl Patience {
    /// No bounds of its own.
    pub const UNLIMITED: Self = Self {
        backlog_events: usize::MAX,
        backlog_bytes: usize::MAX,
        write_stall: Duration::MAX,
        catch_up: Duration::MAX,
        overflow: Policies::ALL,
    };
}

/// The overflow policies that may be asked for, and which of them is the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Policies {
    default: Overflow,
    /// Whether the other one may be asked for.
    other: bool,
}

impl Policies {
    /// Both; a gap by default.
    pub const ALL: Self = Self { default: Overflow::Gap, other: true };

    /// Those of a list, the first being the default; `None` of an empty one.
    #[must_use]
    pub fn of(list: &[Overflow]) -> Option<Self> {
        let default = *list.first()?;
        Some(Self { default, other: list.iter().any(|policy| *policy != default) })
    }

    /// The policy in effect for one that was asked, or for none.
    #[must_use]
    pub fn effective(self, asked: Option<Overflow>) -> Overflow {
        asked.filter(|_| self.other).unwrap_or(self.default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_that_is_not_allowed_becomes_the_first_that_is() {
        use Overflow::{Disconnect, Gap};
        let of = |list: &[Overflow]| {
            let policies = Policies::of(list).expect("not empty");
            [None, Some(Gap), Some(Disconnect)].map(|asked| policies.effective(asked))
        };
        assert_eq!(of(&[Gap, Disconnect]), [Gap, Gap, Disconnect]);
        assert_eq!(of(&[Disconnect, Gap]), [Disconnect, Gap, Disconnect]);
        assert_eq!(of(&[Gap]), [Gap; 3]);
        assert_eq!(of(&[Disconnect, Disconnect]), [Disconnect; 3]);
        assert_eq!(Policies::of(&[Gap, Disconnect]), Some(Policies::ALL));
        assert_eq!(Policies::of(&[]), None);
    }
}
