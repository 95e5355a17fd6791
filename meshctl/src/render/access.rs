//! Join tokens and client keys as tables.

use super::paint::{self, Look};
use super::quantity::{UNKNOWN, known, moment, named};
use super::table::{Cell, Rank, Table};
use mesh_core::units::human_duration;
use mesh_proto::v1::{ListKeysReply, ListTokensReply};
use std::time::Duration;

/// Every token with its state.
pub(crate) fn tokens(reply: &ListTokensReply, look: Look) -> String {
    if reply.tokens.is_empty() {
        return "no tokens; make one: meshctl token create --role node\n".to_owned();
    }
    let mut table = Table::default()
        .left("TOKEN", Rank::Essential)
        .left("ROLE", Rank::Important)
        .left("NAME", Rank::Useful)
        .left("STATE", Rank::Essential)
        .right("EXPIRES IN", Rank::Useful)
        .left("USED BY", Rank::Extra);
    for token in &reply.tokens {
        let (state, paint) = paint::state(&token.state, look);
        let left = u64::try_from(token.expires_in_s).ok().filter(|&left| left > 0 && token.state == "open");
        table.row([
            Cell::text(look.text(&token.id)),
            Cell::text(look.text(&token.role)),
            Cell::text(look.text(&named(&token.name))),
            Cell::Text(state, paint),
            Cell::text(known(left, |left| human_duration(Duration::from_secs(left)))),
            Cell::text(look.text(&named(&token.used_by))),
        ]);
    }
    table.lines(look).join("\n") + "\n"
}

/// Every client key; the keys themselves are known to nobody but their owners.
pub(crate) fn keys(reply: &ListKeysReply, look: Look) -> String {
    if reply.keys.is_empty() {
        return "no keys; make one: meshctl key create NAME\n".to_owned();
    }
    let mut table = Table::default()
        .left("KEY", Rank::Essential)
        .left("NAME", Rank::Essential)
        .left("CREATED", Rank::Useful)
        .left("LAST USED", Rank::Important);
    for key in &reply.keys {
        table.row([
            Cell::text(look.text(&key.id)),
            Cell::text(look.text(&named(&key.name))),
            Cell::text(moment(key.created_unix_ms)),
            Cell::text(key.last_used_unix_ms.map_or_else(|| UNKNOWN.to_owned(), moment)),
        ]);
    }
    table.lines(look).join("\n") + "\n"
}
