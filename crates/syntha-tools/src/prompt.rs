use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use syntha_mesh::{Agent, Entry, Filter};

use crate::error::{Error, ErrorKind, Result};
use crate::line::{label, push_one_line};

/// The most bytes of a prompt's text, unless another [budget](Prompt::budget) is given.
pub const PROMPT_BYTES: usize = 64 * 1024;

/// Where the context goes in a template, and in an existing prompt with [`Placement::Placeholder`].
const PLACEHOLDER: &str = "{context}";

/// The first line of the context.
const HEADER: &str = "[Context]";

/// Room for the line that says what was left out, and its line end.
const NOTE_BYTES: usize = 64;

/// Stands between the context and an existing prompt.
const GAP: &str = "\n\n";

/// How often the entries are read again because one of them changed meanwhile.
const TRIES: usize = 8;

/// Where the context goes in an existing prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Placement {
    /// Before it, with an empty line between.
    Prepend,
    /// After it, with an empty line between.
    Append,
    /// In place of the first `{context}` in it.
    Placeholder,
}

/// A prompt with the context that one agent can see.
///
/// The context is a header and a line for each entry, in order of keys:
///
/// ```text
/// [Context]
/// User Name: "Ann"
/// "Budget (EUR)": {"left":12}
/// (3 older or larger entries were left out)
/// ```
///
/// A key of lower-case words becomes readable; any other is written as a JSON string, so that two keys never look alike and
/// none looks like a heading or a line of a conversation. A value is its JSON text on one line, where everything that ends a
/// line is escaped. A placeholder in a key, in a value, or after the first one of a text stays as it is. Where there is
/// nothing to show, there is no header either.
///
/// What an entry says is what some agent wrote: a model should take it as data. The form keeps a value from posing as
/// anything else; it can't keep a model from believing it.
#[derive(Clone)]
#[must_use = "a prompt is made by `build`"]
pub struct Prompt {
    agent: Agent,
    keys: Option<Vec<String>>,
    template: Option<String>,
    existing: Option<(String, Placement)>,
    budget: usize,
    header: bool,
}

/// A prompt's text, and what is in it.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BuiltPrompt {
    /// The text, of at most the budget's bytes.
    pub text: String,
    /// The keys of the entries in it, in their order.
    pub included: Vec<Arc<str>>,
    /// How many entries the agent can see, and were asked for, and did not fit.
    pub left_out: usize,
}

impl Prompt {
    /// All that the agent can see, under a header.
    pub fn new(agent: &Agent) -> Self {
        Self {
            agent: agent.clone(),
            keys: None,
            template: None,
            existing: None,
            budget: PROMPT_BYTES,
            header: true,
        }
    }

    /// Only these entries, in this order. One that is absent, expired or not for the agent is not there, and not counted.
    pub fn keys<K: Into<String>>(mut self, keys: impl IntoIterator<Item = K>) -> Self {
        self.keys = Some(keys.into_iter().map(Into::into).collect());
        self
    }

    /// A text around the context, which goes in place of the first `{context}`.
    pub fn template(mut self, template: impl Into<String>) -> Self {
        self.template = Some(template.into());
        self
    }

    /// Adds the context, or the template that holds it, to a prompt that there is already.
    pub fn existing(mut self, prompt: impl Into<String>, placement: Placement) -> Self {
        self.existing = Some((prompt.into(), placement));
        self
    }

    /// The most bytes of the whole text in UTF-8, the template and the existing prompt included. Default [`PROMPT_BYTES`].
    ///
    /// The newest entries are kept, by the time at which their values were written, then by key; one that is too large
    /// makes room for older ones that do fit. No more values are loaded than fit.
    pub const fn budget(mut self, bytes: usize) -> Self {
        self.budget = bytes;
        self
    }

    /// Whether the context starts with the line `[Context]`. Default true.
    pub const fn header(mut self, header: bool) -> Self {
        self.header = header;
        self
    }

    /// Reads the entries, as of one commit, and writes the prompt. It can be called again, for the next turn.
    ///
    /// # Errors
    ///
    /// `Invalid` for a template, or an existing prompt to fill in, without `{context}`; `LimitExceeded` if the budget does
    /// not hold the prompt's own text, the header and 64 bytes; `Busy` if the entries change all the time; `Mesh`.
    pub async fn build(&self) -> Result<BuiltPrompt> {
        let frame = self.frame()?;
        let header = if self.header { HEADER.len() + 1 } else { 0 };
        let room = self.budget.checked_sub(frame.len() + header).filter(|room| *room >= NOTE_BYTES);
        let room = room.ok_or(Error::new(
            ErrorKind::LimitExceeded,
            "the prompt's own text leaves less than 64 bytes of the budget, raise the budget",
        ))?;
        let (entries, mut left_out) = self.read(room).await?;
        let mut lines: Vec<_> = entries.iter().map(|entry| Line::new(entry)).collect();
        left_out += keep_newest(&mut lines, room, left_out > 0);
        self.arrange(&mut lines);
        if lines.is_empty() && left_out == 0 {
            return Ok(BuiltPrompt { text: frame.around(""), included: Vec::new(), left_out });
        }
        let mut context = String::with_capacity(self.budget.min(PROMPT_BYTES));
        if self.header {
            context.push_str(HEADER);
            context.push('\n');
        }
        for line in &lines {
            context.push_str(&line.text);
            context.push('\n');
        }
        match left_out {
            0 => drop(context.pop()),
            1 => context.push_str("(1 older or larger entry was left out)"),
            _ => context.push_str(&format!("({left_out} older or larger entries were left out)")),
        }
        let included = lines.into_iter().map(|line| line.key).collect();
        Ok(BuiltPrompt { text: frame.around(&context), included, left_out })
    }

    /// The text around the context.
    fn frame(&self) -> Result<Frame<'_>> {
        let (before, after) = match &self.template {
            Some(template) => split(template)?,
            None => ("", ""),
        };
        let mut frame = Frame { outer: ["", ""], gaps: ["", ""], inner: [before, after] };
        match &self.existing {
            None => {}
            Some((text, Placement::Prepend)) => (frame.gaps[1], frame.outer[1]) = (GAP, text),
            Some((text, Placement::Append)) => (frame.outer[0], frame.gaps[0]) = (text, GAP),
            Some((text, Placement::Placeholder)) => {
                let (before, after) = split(text)?;
                frame.outer = [before, after];
            }
        }
        Ok(frame)
    }

    /// Entries with their values, the newest first, that may fit; and how many can't.
    ///
    /// They are as of one commit: what was chosen is what the list showed, or all is read again.
    async fn read(&self, room: usize) -> Result<(Vec<Arc<Entry>>, usize)> {
        for _ in 0..TRIES {
            let mut heads = self.agent.entries(&Filter::new()).await?;
            if let Some(keys) = &self.keys {
                let wanted: std::collections::HashSet<&str> = keys.iter().map(String::as_str).collect();
                heads.retain(|head| wanted.contains(head.key()));
            }
            heads.sort_by_key(|head| Reverse(head.updated()));
            let left_out = keep_newest(&mut heads, room, false);
            let keys: Vec<&str> = heads.iter().map(|head| head.key()).collect();
            let entries = self.agent.get_many(&keys).await?;
            let same = |(entry, head): (&Arc<Entry>, &Arc<Entry>)| {
                entry.version() == head.version() && entry.key() == head.key()
            };
            if entries.len() == heads.len() && entries.iter().zip(&heads).all(same) {
                return Ok((entries, left_out));
            }
        }
        Err(Error::new(ErrorKind::Busy, "the entries are written faster than they can be read, try again"))
    }

    /// Puts lines in the order in which they are shown.
    fn arrange(&self, lines: &mut [Line]) {
        match &self.keys {
            None => lines.sort_unstable_by(|a, b| a.key.cmp(&b.key)),
            Some(keys) => {
                // From the back, so that a key that is named twice stands where it is named first.
                let places: HashMap<&str, usize> =
                    keys.iter().enumerate().rev().map(|(place, key)| (key.as_str(), place)).collect();
                lines.sort_by_key(|line| places.get(&*line.key).copied());
            }
        }
    }
}

/// Shows no text, key or name.
impl fmt::Debug for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prompt")
            .field("budget", &self.budget)
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

/// Shows no text and no key.
impl fmt::Debug for BuiltPrompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuiltPrompt")
            .field("bytes", &self.text.len())
            .field("included", &self.included.len())
            .field("left_out", &self.left_out)
            .finish_non_exhaustive()
    }
}

/// What stands around the context: the existing prompt outside, the template inside.
struct Frame<'a> {
    outer: [&'a str; 2],
    gaps: [&'static str; 2],
    inner: [&'a str; 2],
}

impl Frame<'_> {
    fn len(&self) -> usize {
        self.outer.iter().chain(&self.gaps).chain(&self.inner).map(|part| part.len()).sum()
    }

    /// Puts the parts together, in one go: nothing that was put in is looked at again.
    fn around(&self, context: &str) -> String {
        let ([first, last], [before, after]) = (self.outer, self.inner);
        if context.is_empty() && before.is_empty() && after.is_empty() {
            return [first, last].concat();
        }
        let [gap_before, gap_after] = self.gaps;
        [first, gap_before, before, context, after, gap_after, last].concat()
    }
}

fn split(text: &str) -> Result<(&str, &str)> {
    text.split_once(PLACEHOLDER).ok_or(Error::new(
        ErrorKind::Invalid,
        "the text has no {context}, write it where the context should go",
    ))
}

/// An entry's line, without its line end.
struct Line {
    key: Arc<str>,
    text: String,
}

impl Line {
    fn new(entry: &Entry) -> Self {
        let mut text = label(entry.key());
        text.push_str(": ");
        push_one_line(&mut text, entry.json());
        Self { key: entry.key().into(), text }
    }
}

/// Something that takes at least so many bytes of the context, its line end included.
trait Measured {
    fn bytes(&self) -> usize;
}

impl Measured for Line {
    fn bytes(&self) -> usize {
        self.text.len() + 1
    }
}

/// Escapes only make a value longer, so that what does not fit by its stored size does not fit at all.
impl Measured for Arc<Entry> {
    fn bytes(&self) -> usize {
        label(self.key()).len() + ": ".len() + self.size() + 1
    }
}

/// Keeps all if all fit; else the first ones that do beside the line that says so. Says how many it took away.
fn keep_newest<T: Measured>(items: &mut Vec<T>, room: usize, noted: bool) -> usize {
    let all = items.iter().map(Measured::bytes).fold(0, usize::saturating_add);
    if !noted && all <= room {
        return 0;
    }
    let before = items.len();
    let mut left = room - NOTE_BYTES;
    items.retain(|item| match left.checked_sub(item.bytes()) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    });
    before - items.len()
}
