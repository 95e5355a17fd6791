//! Links under what their users and their networks do to them.

mod ends;
mod outages;
mod slow_readers;
