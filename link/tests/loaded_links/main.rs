//! Links under what their users and their networks do to them.

mod ends;
mod losses;
mod network;
mod outages;
mod slow_readers;
