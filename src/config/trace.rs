//! What the reader asks of each value: from this the schema is made, so that it says what the reader does.

use super::yaml::Node;
use std::cell::RefCell;
use std::collections::HashMap;

/// Something the reader wants of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ask {
    /// A mapping of these keys.
    Fields(&'static [&'static str]),
    /// A mapping of these keys has to have this one.
    Required(String),
    /// A mapping has exactly one of these keys.
    OneOf(Vec<String>),
    /// What holds when a mapping does not have this key.
    Default(String, String),
    /// A mapping whose keys are of the user's choice.
    Named,
    List,
    Text,
    /// Text, a number or a truth value.
    Scalar,
    Boolean,
    Number(usize, usize),
    Duration,
    Size,
    /// One of these words.
    Word(Vec<String>),
}

/// What was asked, value by value.
#[derive(Debug, Default)]
pub(super) struct Trace(RefCell<HashMap<usize, Vec<Ask>>>);

impl Trace {
    pub(super) fn note(&self, node: &Node, ask: Ask) {
        let mut asks = self.0.borrow_mut();
        let asks = asks.entry(place(node)).or_default();
        if !asks.contains(&ask) {
            asks.push(ask);
        }
    }

    /// What was asked of a value, in order.
    pub(super) fn of(&self, node: &Node) -> Vec<Ask> {
        self.0.borrow().get(&place(node)).cloned().unwrap_or_default()
    }
}

/// A tree does not move while it is read.
fn place(node: &Node) -> usize {
    std::ptr::from_ref(node).addr()
}
