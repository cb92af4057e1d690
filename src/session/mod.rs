//! One subscriber's session as a pure state machine: authentication, commands, deadlines.

mod admission;
mod commands;
mod limits;
mod machine;
mod rates;

pub use admission::{Admission, Admissions};
pub use commands::Meters;
pub use limits::{PrincipalLimits, SessionConfig};
pub use machine::{Now, Outcome, Session, Verdict, Verify};
