//! From the lanes to the subscribers' outboxes.

mod lane;
mod requests;

pub use lane::{BookUpdate, Event, LaneReader, LaneWriter, Standing, Update, Wake, lane};
pub use requests::{BookRequest, Requests};
