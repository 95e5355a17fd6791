//! `meshctl token`: one-use join tokens.

use crate::address;
use crate::cli::{TokenCommand, TokenRole};
use crate::connect::Way;
use crate::exit::Failure;
use crate::output::Screen;
use crate::render;
use mesh_core::units::human_duration;
use mesh_proto::v1::{CreateTokenReply, CreateTokenRequest, ListTokensRequest, RevokeReply, RevokeRequest};
use std::time::Duration;

/// # Errors
/// As the router answers: `NotFound` for an unknown id, `Refused` for an operator it does not know.
pub(super) async fn run(command: TokenCommand, way: &Way, screen: &Screen) -> Result<(), Failure> {
    let mut operators = way.dial().await?;
    match command {
        TokenCommand::Create { role, ttl, name } => {
            let request = CreateTokenRequest {
                role: word(role).into(),
                name: name.map(String::from).unwrap_or_default(),
                ttl_s: ttl.as_secs(),
            };
            let reply =
                operators.call(|mut client| async move { client.create_token(request).await }).await?;
            if screen.is_json() {
                return screen.result(&render::json("mesh.token/v1", &reply, false));
            }
            screen.note(&instructions(role, &reply, address::host(&operators.address)));
            screen.result(&format!("{}\n", reply.token))
        }
        TokenCommand::List => {
            let reply = operators
                .call(|mut client| async move { client.list_tokens(ListTokensRequest {}).await })
                .await?;
            if screen.is_json() {
                screen.result(&render::json("mesh.tokens/v1", &reply, false))
            } else {
                screen.result(&render::access::tokens(&reply, screen.look))
            }
        }
        TokenCommand::Revoke { id } => {
            let request = RevokeRequest { id: id.clone() };
            let RevokeReply {} =
                operators.call(|mut client| async move { client.revoke_token(request).await }).await?;
            if screen.is_json() {
                return screen.result(&render::json(
                    "mesh.revoked/v1",
                    &serde_json::json!({ "id": id }),
                    false,
                ));
            }
            screen.note(&format!("token {} is revoked\n", render::paint::printable(&id)));
            Ok(())
        }
    }
}

fn word(role: TokenRole) -> &'static str {
    match role {
        TokenRole::Node => "node",
        TokenRole::Operator => "operator",
    }
}

/// The line to run where the token is used. `router_host` is how this machine reaches the router: better
/// than an address that only means something on the router's own machine.
fn instructions(role: TokenRole, reply: &CreateTokenReply, router_host: &str) -> String {
    let told = reply.agents_address.as_str();
    let host = address::host(told);
    let port = told.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or(address::AGENTS);
    let is_local = told.is_empty() || address::is_unspecified(host) || address::is_loopback(host);
    let at = if is_local {
        address::with_port(router_host, port).unwrap_or_else(|_| told.into())
    } else {
        told.into()
    };
    let left = human_duration(Duration::from_secs(reply.expires_in_s));
    let (who, command) = match role {
        TokenRole::Node => ("on the machine that joins", "mesh-agent join"),
        TokenRole::Operator => ("where you want to run meshctl", "meshctl login"),
    };
    let mut text = format!("use it once within {left}, {who}:\n  {command} {at} {}\n", reply.token);
    if address::is_loopback(address::host(&at)) {
        text += "note: this address works on the router's own machine only; start the router with \
                 --agents ADDR (and --operators ADDR) for others\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(agents_address: &str) -> CreateTokenReply {
        CreateTokenReply {
            token: "mesh1.p.i.s".into(),
            id: "i".into(),
            expires_in_s: 3600,
            agents_address: agents_address.into(),
        }
    }

    #[test]
    fn the_join_line_names_an_address_that_others_can_dial() {
        let line = |told, dialled| instructions(TokenRole::Node, &reply(told), dialled);
        assert_eq!(
            line("strix-1:7401", "127.0.0.1"),
            "use it once within 60 min, on the machine that joins:\n  mesh-agent join strix-1:7401 mesh1.p.i.s\n"
        );
        assert!(line("0.0.0.0:9401", "10.0.0.2").contains("mesh-agent join 10.0.0.2:9401 "));
        assert!(line("[::]:7401", "fd7a::1").contains("mesh-agent join [fd7a::1]:7401 "));
        assert!(line("127.0.0.1:7401", "127.0.0.1").contains("the router's own machine only"));
    }

    #[test]
    fn an_operator_token_is_for_login() {
        assert!(
            instructions(TokenRole::Operator, &reply("r:7401"), "r")
                .contains("  meshctl login r:7401 mesh1.p.i.s")
        );
    }
}
