//! A machine lent to a measurement: it gets no new models meanwhile, and is put back as it was however that ends.

use super::hands::{Hands, Loaded, loaded, restarting};
use super::in_words;
use crate::exit::{Failure, Kind};
use crate::output::Screen;
use crate::render::quantity::word;
use mesh_core::id::MachineId;
use mesh_core::machine::Report;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::pin;

/// What a machine is lent to.
pub(super) trait Borrower {
    fn hands(&mut self) -> &mut Hands;

    /// All that is to be measured. Dropped where somebody wants to leave.
    async fn work(&mut self) -> Result<(), Failure>;

    /// Ends what is kept of it, however it ended.
    fn close(&mut self, ended: Result<(), Failure>) -> Result<(), Failure>;

    /// Takes away what it left on the machine.
    async fn clean(&mut self, _leave: &impl AsyncFn()) -> Result<(), Failure> {
        Ok(())
    }
}

/// How a loan ended.
pub(super) struct Returned {
    /// The work.
    pub(super) ended: Result<(), Failure>,
    /// The machine: what was left there is gone, and it is as it was.
    pub(super) back: Result<(), Failure>,
}

/// `done`, unless somebody wants to leave before that.
pub(super) async fn unless_left<T>(
    done: impl Future<Output = Result<T, Failure>>,
    leave: &impl AsyncFn(),
) -> Result<T, Failure> {
    tokio::select! {
        done = done => done,
        () = leave() => Err(Failure::interrupted()),
    }
}

/// Lends the machine of `pledge` to `borrower`: it is cordoned, works, and is put back as it was when it was cordoned.
///
/// # Errors
/// What keeps it from being cordoned; then nothing was changed, or how to change it back was told.
pub(super) async fn lend(
    borrower: &mut impl Borrower,
    pledge: Pledge,
    screen: &Screen,
    leave: &impl AsyncFn(),
) -> Result<Returned, Failure> {
    let (loan, stays) = Loan::take(borrower.hands(), pledge, screen, leave).await?;
    let ended = match stays {
        Err(interrupted) => Err(interrupted),
        Ok(()) => unless_left(borrower.work(), leave).await,
    };
    let ended = borrower.close(ended);
    let clean = borrower.clean(leave).await;
    let back = loan.end(borrower.hands(), screen, leave).await;
    Ok(Returned { ended, back: clean.and(back) })
}

/// The machine as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Before {
    standing: String,
    loaded: Vec<Loaded>,
    /// What its agent was about to start again.
    #[serde(default)]
    restarting: Vec<Loaded>,
}

impl Before {
    fn of(standing: String, report: &Report) -> Self {
        Self { standing, loaded: loaded(report), restarting: restarting(report) }
    }
}

/// The machine as it was, and the file that says so while it is lent.
#[derive(Debug)]
struct Loan {
    before: Before,
    pledge: Pledge,
}

/// What a machine was before it was lent, in `loans/` of the data folder: of two measurements only one may run, and where one
/// was cut off the next puts back what was before that.
#[derive(Debug)]
pub(super) struct Pledge {
    file: Flock<File>,
    path: PathBuf,
}

impl Pledge {
    /// Taken before anything is asked or kept, so that of a measurement that cannot begin nothing is left.
    ///
    /// # Errors
    /// `Failed` while another measurement of `node` runs, or where the file cannot be written.
    pub(super) fn of(data: &Path, node: &MachineId) -> Result<Self, Failure> {
        let folder = data.join("loans");
        let path = folder.join(format!("{node}.json"));
        let failed = |error: io::Error| {
            Failure::new(Kind::Failed, format!("cannot write {}", path.display())).cause(error.to_string())
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Self { file, path }),
            Err((_, Errno::EWOULDBLOCK)) => {
                let what = format!("{node} is measured by another meshctl now");
                Err(Failure::new(Kind::Failed, what).hint("wait until that ends, or end it with Ctrl-C"))
            }
            Err((_, error)) => Err(failed(error.into())),
        }
    }

    /// Whether somebody has it.
    pub(super) fn is_held(data: &Path, node: &MachineId) -> bool {
        let Ok(file) = File::open(data.join("loans").join(format!("{node}.json"))) else { return false };
        matches!(Flock::lock(file, FlockArg::LockSharedNonblock), Err((_, Errno::EWOULDBLOCK)))
    }

    /// What a measurement that was cut off left here.
    fn left(&mut self) -> Option<Before> {
        let mut text = String::new();
        self.file.read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }

    fn write(&mut self, before: &Before) -> Result<(), Failure> {
        let text = serde_json::to_string(before).unwrap_or_default();
        let written = self.clear().and_then(|()| self.file.write_all(text.as_bytes()));
        written.and_then(|()| self.file.sync_all()).map_err(|error| {
            Failure::new(Kind::Failed, format!("cannot write {}", self.path.display()))
                .cause(error.to_string())
        })
    }

    fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0)).map(|_| ())
    }
}

impl Loan {
    /// Cordons the machine, and looks what is in its memory: from now on that changes by nobody else. The calls are waited for
    /// also where somebody wants to leave meanwhile: who does not know whether a machine was changed cannot put it back.
    ///
    /// # Errors
    /// What keeps the machine from being cordoned. With `Err` in the second place somebody wants to leave.
    async fn take(
        hands: &mut Hands,
        mut pledge: Pledge,
        screen: &Screen,
        leave: &impl AsyncFn(),
    ) -> Result<(Self, Result<(), Failure>), Failure> {
        let node = hands.node.clone();
        let (taken, stays) = {
            let mut call = pin!(async {
                let standing = hands.stand("cordon").await?;
                match hands.report().await {
                    Ok(report) => Ok(Before::of(standing, &report)),
                    Err(failure) => {
                        if let Some(wish) = wish(&standing) {
                            hands.stand(wish).await?;
                        }
                        Err(failure)
                    }
                }
            });
            tokio::select! {
                taken = &mut call => (taken, Ok(())),
                () = leave() => (call.await, Err(Failure::interrupted())),
            }
        };
        // An answer that was lost says nothing of what was done.
        if let Err(Failure { kind: Kind::TimedOut | Kind::Unreachable, .. }) = &taken {
            let text = format!("{node} may be cordoned now; to open it: meshctl node resume {node}\n");
            screen.note(&screen.commands(&text));
        }
        let mut before = taken?;
        // A machine that somebody has opened since is as somebody wants it.
        if let Some(left) = pledge.left().filter(|_| before.standing == "cordoned") {
            before = left;
            let text =
                "was cordoned by a measurement that was cut off: at the end it will be as it was before that";
            screen.note(&format!("{node} {text}\n"));
        }
        if let Err(failure) = pledge.write(&before) {
            if let Some(wish) = wish(&before.standing) {
                hands.stand(wish).await?;
            }
            return Err(failure);
        }
        Ok((Self { before, pledge }, stays))
    }

    /// Puts the machine back, and tells how to do by hand what could not be done.
    ///
    /// # Errors
    /// The first thing that could not be done, or `Interrupted`.
    async fn end(
        mut self,
        hands: &mut Hands,
        screen: &Screen,
        leave: &impl AsyncFn(),
    ) -> Result<(), Failure> {
        screen.doing("putting the machine back as it was");
        let back = unless_left(self.before.put_back(hands), leave).await;
        screen.done_doing();
        match &back {
            // Nothing is left to be put back. A file that cannot be emptied is read only beside a cordoned machine.
            Ok(()) => drop(self.pledge.clear()),
            Err(failure) => self.before.tell_how(hands, screen, failure),
        }
        back
    }
}

impl Before {
    /// Loads what was loaded, in its size, and lets the machine be what it was. Goes on where one thing fails.
    async fn put_back(&self, hands: &mut Hands) -> Result<(), Failure> {
        let mut first: Result<(), Failure> = hands.clear().await;
        for one in &self.loaded {
            let done =
                if one.can_leave { hands.load(&one.model, one.size()).await.map(|_| ()) } else { Ok(()) };
            first = first.and(done);
        }
        for one in &self.restarting {
            first = first.and(hands.start_again(one).await);
        }
        if let Some(wish) = wish(&self.standing) {
            let stands = hands.stand(wish).await.map(|_| ());
            first = first.and(stands);
            hands.until_open(wish).await;
        }
        first
    }

    fn tell_how(&self, hands: &Hands, screen: &Screen, failure: &Failure) {
        let node = &hands.node;
        // The command ends with the same words, and what to do about them.
        let why = if failure.kind == Kind::Unreachable {
            "its router does not answer; once it does".to_owned()
        } else {
            format!("{}; by hand", in_words(failure))
        };
        let mut text = format!("{node} is not as it was: {why}:\n");
        for one in self.loaded.iter().filter(|one| one.can_leave).chain(&self.restarting) {
            let size = one.size();
            let context = size.context.map(|tokens| format!(" --context {tokens}"));
            let slots = size.slots.map(|slots| format!(" --slots {slots}"));
            let cache = size.cache.map(|cache| format!(" --cache-type {cache}"));
            let size: String = [context, slots, cache].into_iter().flatten().collect();
            text += &format!("  meshctl model load {} --node {node}{size}\n", word(one.model.as_str()));
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
