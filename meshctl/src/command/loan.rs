//! A machine lent to a measurement: it gets no new models meanwhile, and is put back as it was however that ends.

use super::hands::{Hands, Loaded, Size};
use super::in_words;
use crate::exit::Failure;
use crate::output::Screen;
use std::pin::pin;

/// The machine as it was.
#[derive(Debug)]
pub(super) struct Loan {
    standing: String,
    loaded: Vec<Loaded>,
}

impl Loan {
    /// Cordons the machine, on which `loaded` is in memory. The call is waited for also where somebody wants to leave
    /// meanwhile: who does not know whether a machine was changed cannot put it back.
    ///
    /// # Errors
    /// What keeps the machine from being cordoned. With `Err` in the second place somebody wants to leave.
    pub(super) async fn take(
        hands: &mut Hands,
        loaded: Vec<Loaded>,
        leave: &impl AsyncFn(),
    ) -> Result<(Self, Result<(), Failure>), Failure> {
        let mut call = pin!(hands.stand("cordon"));
        let (standing, stays) = tokio::select! {
            standing = &mut call => (standing?, Ok(())),
            () = leave() => (call.await?, Err(Failure::interrupted())),
        };
        Ok((Self { standing, loaded }, stays))
    }

    /// Puts the machine back, and tells how to do by hand what could not be done.
    ///
    /// # Errors
    /// The first thing that could not be done, or `Interrupted`.
    pub(super) async fn end(
        self,
        hands: &mut Hands,
        screen: &Screen,
        leave: &impl AsyncFn(),
    ) -> Result<(), Failure> {
        screen.doing("the machine is put back as it was");
        let back = tokio::select! {
            back = self.put_back(hands) => back,
            () = leave() => Err(Failure::interrupted()),
        };
        screen.done_doing();
        if let Err(failure) = &back {
            self.tell_how(hands, screen, failure);
        }
        back
    }

    /// Loads what was loaded, in its size, and lets the machine be what it was. Goes on where one thing fails.
    async fn put_back(&self, hands: &mut Hands) -> Result<(), Failure> {
        let mut first: Result<(), Failure> = hands.clear().await;
        for one in &self.loaded {
            let size =
                Size { context: one.context, slots: one.slots, cache: one.cache.map(|cache| cache.word()) };
            let size = if one.can_size { size } else { Size::default() };
            let done = if one.can_leave { hands.load(&one.model, size).await.map(|_| ()) } else { Ok(()) };
            first = first.and(done);
        }
        if let Some(wish) = wish(&self.standing) {
            first = first.and(hands.stand(wish).await.map(|_| ()));
        }
        first
    }

    fn tell_how(&self, hands: &Hands, screen: &Screen, failure: &Failure) {
        let node = &hands.node;
        let mut text = format!("{node} is not as it was: {}; by hand:\n", in_words(failure));
        for one in &self.loaded {
            let context = one.context.map(|tokens| format!(" --context {tokens}")).unwrap_or_default();
            let slots = one.slots.map(|slots| format!(" --slots {slots}")).unwrap_or_default();
            text += &format!("  meshctl model load {} --node {node}{context}{slots}\n", one.model);
        }
        if let Some(wish) = wish(&self.standing) {
            text += &format!("  meshctl node {wish} {node}\n");
        }
        screen.note(&screen.commands(&text));
    }
}

/// What brings a machine to what it was; it is cordoned now.
fn wish(standing: &str) -> Option<&'static str> {
    match standing {
        "open" => Some("resume"),
        "drained" => Some("drain"),
        _ => None,
    }
}

/// What leaves a machine's memory when it is cleared, and what stays, in words.
pub(super) fn leaving(there: &[Loaded]) -> String {
    let (leaving, staying): (Vec<&Loaded>, Vec<&Loaded>) = there.iter().partition(|one| one.can_leave);
    let named = |all: &[&Loaded]| all.iter().map(|one| one.model.as_str()).collect::<Vec<&str>>().join(", ");
    match (leaving.as_slice(), staying.as_slice()) {
        ([], []) => "nothing is loaded there".to_owned(),
        (leaving, []) => format!("{} will leave its memory and come back at the end", named(leaving)),
        ([], staying) => format!("{} cannot be unloaded and stays", named(staying)),
        (leaving, staying) => {
            let (leaving, staying) = (named(leaving), named(staying));
            format!(
                "{leaving} will leave its memory and come back at the end; {staying} cannot be unloaded and stays"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_becomes_what_it_was() {
        assert_eq!(["open", "drained", "cordoned"].map(wish), [Some("resume"), Some("drain"), None]);
    }
}
