//! Where in a stream an agent is killed, drawn by dice that can be thrown again, and what must then have come.

use integration_tests::scripted_engine::{Script, Step};
use std::time::Duration;

/// Tokens of a stream.
const TOKENS: u64 = 12;
/// As long as a token of a small model takes.
const TOKEN_TIME: Duration = Duration::from_millis(1);

/// `SplitMix64`: the same seed gives the same points on every machine.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of `0..end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("less than `end`")
    }
}

/// What one engine says to every question: the role, its tokens, the end. Its name is in each token, so that a
/// stream of two machines would be seen.
pub(crate) struct Said {
    /// Events with the empty line after each.
    pub(crate) events: Vec<String>,
    /// How many of the first bytes hold no content.
    before_content: usize,
}

impl Said {
    pub(crate) fn by(name: &str) -> Self {
        let texts: Vec<String> = (0..TOKENS).map(|number| format!("{name}{number} ")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let Script::Answer { body, .. } = Script::whole_stream(&texts) else { panic!("it is an answer") };
        let events: Vec<String> = body
            .into_iter()
            .filter_map(|step| if let Step::Send(event) = step { Some(event) } else { None })
            .collect();
        assert_eq!(events.len() as u64, TOKENS + 3, "the role, the tokens, the end, and [DONE]");
        let before_content = events[0].len() + events[1].len() - 1;
        Self { events, before_content }
    }

    pub(crate) fn script(&self) -> Script {
        stream(self.events.iter().cloned().map(Step::Send).collect())
    }

    fn length(&self) -> usize {
        self.events.iter().map(String::len).sum()
    }

    /// How many events are whole within the first `bytes`.
    pub(crate) fn whole_within(&self, bytes: usize) -> usize {
        let ends = self.events.iter().scan(0, |end, event| {
            *end += event.len();
            Some(*end)
        });
        ends.take_while(|end| *end <= bytes).count()
    }
}

fn stream(body: Vec<Step>) -> Script {
    Script::Answer { status: 200, content_type: "text/event-stream", body }
}

/// When `kill -9` comes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Point {
    /// While the question is on its way, after so many turns of other tasks.
    Sending(usize),
    /// The engine has the question and has said nothing.
    Silent,
    /// The engine has sent so many bytes of its stream and holds; all events of it that a client may see were seen.
    Held(usize),
    /// The engine goes on sending; so many events were seen.
    Running(usize),
}

impl Point {
    /// The point of kill `number`. Each fifth of them falls into another part of the stream.
    pub(crate) fn draw(dice: &mut Dice, number: usize, said: &Said) -> Self {
        let last = said.events.len();
        match number % 5 {
            0 => match dice.below(3) {
                0 => Self::Sending(dice.below(300)),
                1 => Self::Silent,
                _ => Self::Held(dice.below(said.before_content + 1)),
            },
            1 => Self::Held(dice.below(said.length() + 1)),
            // Between two events.
            2 => {
                let seen = 2 + dice.below(last - 2);
                Self::Held(said.events[..seen].iter().map(String::len).sum())
            }
            3 => Self::Running(1 + dice.below(last)),
            // The last event and half: from the end of the tokens to the end of [DONE].
            _ => {
                let tail = said.events[last - 1].len() + said.events[last - 2].len() / 2;
                let back = if dice.below(2) == 0 { 0 } else { dice.below(tail) };
                Self::Held(said.length() - back)
            }
        }
    }

    /// What the engine that is to lose its agent does.
    pub(crate) fn script(self, said: &Said) -> Script {
        match self {
            Self::Sending(_) => said.script(),
            Self::Silent => Script::Silence,
            Self::Held(bytes) => {
                let whole = said.whole_within(bytes);
                let mut steps: Vec<Step> = said.events[..whole].iter().cloned().map(Step::Send).collect();
                let rest = bytes - said.events[..whole].iter().map(String::len).sum::<usize>();
                if rest > 0 {
                    steps.push(Step::Send(said.events[whole][..rest].into()));
                }
                steps.push(Step::Hang);
                stream(steps)
            }
            Self::Running(_) => {
                let paced = |event: &String| [Step::Send(event.clone()), Step::Pause(TOKEN_TIME)];
                stream(said.events.iter().flat_map(paced).collect())
            }
        }
    }

    /// How many events the client must have before the kill; `None` = no content is out, so it has nothing yet.
    pub(crate) fn seen_before(self, said: &Said) -> Option<usize> {
        match self {
            Self::Sending(_) | Self::Silent => None,
            // The role alone waits for the first content.
            Self::Held(bytes) => Some(said.whole_within(bytes)).filter(|seen| *seen >= 2),
            Self::Running(seen) => Some(seen),
        }
    }

    /// Whether the engine can send no more after the kill than the client saw before it.
    pub(crate) fn is_exact(self) -> bool {
        matches!(self, Self::Silent | Self::Held(_))
    }
}
