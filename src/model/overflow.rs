//! What becomes of a subscriber that takes `every` event too slowly.

/// What happens when a session takes `every` event too slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Overflow {
    /// It is told which numbers it missed.
    Gap,
    /// It is closed.
    Disconnect,
}

impl Overflow {
    /// Every policy.
    pub const ALL: [Self; 2] = [Self::Gap, Self::Disconnect];

    /// The word for it on the wire and in settings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::Disconnect => "disconnect",
        }
    }

    /// The policy of a word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.as_str() == text)
    }
}
