//! Who waits for a group's budget, and in which order they get it.
//!
//! Members that ran out since the last refill are *fresh*. A refill puts them, from a random
//! start, behind those that waited longer; from there they are served first come, first
//! served. So a budget too small for all goes round instead of always to the same ones.
//! A member that was given a share is *ready* until its base collects it. Joining, leaving,
//! waiting and being served take constant time (the rotation is paid once per wait).

use slab::Slab;

/// No node: the end of a list.
const NIL: usize = usize::MAX;

/// The members of one direction of a group and their order.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    nodes: Slab<Node>,
    fresh: Vec<usize>,
    queue: List,
    ports: Vec<PortMembers>,
}

/// What concerns the members of one port.
#[derive(Debug, Default)]
struct PortMembers {
    /// Those with a share that their base has not been told about.
    ready: List,
    /// How many wait, in `fresh` or `queue`.
    waiting: usize,
}

#[derive(Debug)]
struct Node {
    port: usize,
    token: u64,
    state: State,
    prev: usize,
    next: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not waiting.
    Out,
    /// At this index of `fresh`.
    Fresh(usize),
    /// In `queue`.
    Queued,
    /// In its port's `ready`, with a share of so many bytes.
    Ready(u64),
    /// The base was told; the share is still to be collected.
    Told(u64),
}

/// What became of a member that waited; a share is so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Waiting,
    Served(u64),
}

impl Waiters {
    /// Makes room for the members of port `port`.
    pub(crate) fn add_port(&mut self, port: usize) {
        if self.ports.len() <= port {
            self.ports.resize_with(port + 1, PortMembers::default);
        }
    }

    pub(crate) fn join(&mut self, port: usize, token: u64) -> usize {
        self.nodes.insert(Node {
            port,
            token,
            state: State::Out,
            prev: NIL,
            next: NIL,
        })
    }

    /// Removes a member; gives what became of its wait, if it was in one.
    pub(crate) fn leave(&mut self, key: usize) -> Option<Fate> {
        let fate = self.cancel(key);
        self.nodes.remove(key);
        fate
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Lets a member wait that does not yet.
    pub(crate) fn wait(&mut self, key: usize) {
        debug_assert_eq!(self.nodes[key].state, State::Out);
        self.nodes[key].state = State::Fresh(self.fresh.len());
        self.fresh.push(key);
        self.ports[self.nodes[key].port].waiting += 1;
    }

    /// Ends a member's wait; gives what became of it, `None` if it was in none.
    pub(crate) fn cancel(&mut self, key: usize) -> Option<Fate> {
        let port = self.nodes[key].port;
        let fate = match self.nodes[key].state {
            State::Out => return None,
            State::Fresh(index) => {
                self.fresh.swap_remove(index);
                if let Some(&moved) = self.fresh.get(index) {
                    self.nodes[moved].state = State::Fresh(index);
                }
                self.ports[port].waiting -= 1;
                Fate::Waiting
            }
            State::Queued => {
                self.queue.remove(&mut self.nodes, key);
                self.ports[port].waiting -= 1;
                Fate::Waiting
            }
            State::Ready(share) => {
                self.ports[port].ready.remove(&mut self.nodes, key);
                Fate::Served(share)
            }
            State::Told(share) => Fate::Served(share),
        };
        self.nodes[key].state = State::Out;
        Some(fate)
    }

    /// Collects the share of a member that waits; `None` while it has none.
    pub(crate) fn collect(&mut self, key: usize) -> Option<u64> {
        match self.nodes[key].state {
            State::Ready(share) | State::Told(share) => {
                self.cancel(key);
                Some(share)
            }
            State::Out | State::Fresh(_) | State::Queued => None,
        }
    }

    /// Queues the fresh behind the others, beginning at a place that `random` picks.
    pub(crate) fn queue_fresh(&mut self, random: u64) {
        let count = self.fresh.len();
        if count == 0 {
            return;
        }
        let start = (random % count as u64) as usize;
        for index in (start..count).chain(0..start) {
            let key = self.fresh[index];
            self.nodes[key].state = State::Queued;
            self.queue.push_back(&mut self.nodes, key);
        }
        self.fresh.clear();
    }

    /// Whether members of `port` wait.
    pub(crate) fn port_waits(&self, port: usize) -> bool {
        self.ports
            .get(port)
            .is_some_and(|members| members.waiting > 0)
    }

    /// The ports whose members wait.
    pub(crate) fn waiting_ports(&self) -> impl Iterator<Item = usize> {
        let ports = self.ports.iter().enumerate();
        ports.filter_map(|(port, members)| (members.waiting > 0).then_some(port))
    }

    /// Whether members of `port` wait, or have a share that their base has not been told about.
    pub(crate) fn port_expects(&self, port: usize) -> bool {
        self.ports
            .get(port)
            .is_some_and(|members| members.waiting > 0 || members.ready.head != NIL)
    }

    #[cfg(test)]
    pub(crate) fn is_waiting(&self, key: usize) -> bool {
        matches!(self.nodes[key].state, State::Fresh(_) | State::Queued)
    }

    pub(crate) fn has_fresh(&self) -> bool {
        !self.fresh.is_empty()
    }

    pub(crate) fn has_queued(&self) -> bool {
        self.queue.head != NIL
    }

    /// Gives a share to the member that is first in the queue, and tells its port.
    pub(crate) fn serve(&mut self, share: u64) -> Option<usize> {
        let key = self.queue.pop_front(&mut self.nodes)?;
        let port = self.nodes[key].port;
        self.nodes[key].state = State::Ready(share);
        self.ports[port].waiting -= 1;
        self.ports[port].ready.push_back(&mut self.nodes, key);
        Some(port)
    }

    /// The next member of `port` that has a share and whose base has not been told.
    pub(crate) fn next_ready(&mut self, port: usize) -> Option<u64> {
        let key = self.ports.get_mut(port)?.ready.pop_front(&mut self.nodes)?;
        let node = &mut self.nodes[key];
        if let State::Ready(share) = node.state {
            node.state = State::Told(share);
        }
        Some(node.token)
    }
}

/// A doubly linked list through the nodes.
#[derive(Debug)]
struct List {
    head: usize,
    tail: usize,
}

impl Default for List {
    fn default() -> Self {
        Self {
            head: NIL,
            tail: NIL,
        }
    }
}

impl List {
    fn push_back(&mut self, nodes: &mut Slab<Node>, key: usize) {
        (nodes[key].prev, nodes[key].next) = (self.tail, NIL);
        match self.tail {
            NIL => self.head = key,
            tail => nodes[tail].next = key,
        }
        self.tail = key;
    }

    fn remove(&mut self, nodes: &mut Slab<Node>, key: usize) {
        let (prev, next) = (nodes[key].prev, nodes[key].next);
        match prev {
            NIL => self.head = next,
            prev => nodes[prev].next = next,
        }
        match next {
            NIL => self.tail = prev,
            next => nodes[next].prev = prev,
        }
    }

    fn pop_front(&mut self, nodes: &mut Slab<Node>) -> Option<usize> {
        let key = self.head;
        if key == NIL {
            return None;
        }
        self.remove(nodes, key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHARE: u64 = 1;

    fn served(waiters: &mut Waiters) -> Vec<u64> {
        while waiters.serve(SHARE).is_some() {}
        std::iter::from_fn(|| waiters.next_ready(0)).collect()
    }

    #[test]
    fn fresh_ones_start_at_random_behind_the_old() {
        let mut waiters = Waiters::default();
        waiters.add_port(0);
        let keys: Vec<_> = (0..6).map(|token| waiters.join(0, token)).collect();
        waiters.wait(keys[5]);
        waiters.wait(keys[4]);
        waiters.queue_fresh(0);
        for &key in &keys[..4] {
            waiters.wait(key);
        }
        waiters.queue_fresh(4 + 2);
        assert_eq!(served(&mut waiters), [5, 4, 2, 3, 0, 1]);
    }

    proptest! {
        /// Against the same thing done naively.
        #[test]
        fn any_sequence_keeps_order(ops in prop::collection::vec((0..6u8, 0..8usize), 1..200)) {
            let mut waiters = Waiters::default();
            waiters.add_port(0);
            let keys: Vec<_> = (0..8).map(|token| waiters.join(0, token)).collect();
            let mut queue: Vec<usize> = Vec::new();
            let mut out: Vec<usize> = Vec::new();
            for (op, who) in ops {
                match op {
                    0 | 1 if !queue.contains(&who) && !out.contains(&who) => {
                        waiters.wait(keys[who]);
                        waiters.queue_fresh(0);
                        queue.push(who);
                    }
                    2 => {
                        let fate = waiters.cancel(keys[who]);
                        let expected = match (queue.contains(&who), out.contains(&who)) {
                            (true, _) => Some(Fate::Waiting),
                            (_, true) => Some(Fate::Served(SHARE)),
                            _ => None,
                        };
                        prop_assert_eq!(fate, expected);
                        queue.retain(|&other| other != who);
                        out.retain(|&other| other != who);
                    }
                    3 | 4 => {
                        let served = waiters.serve(SHARE);
                        prop_assert_eq!(served.is_some(), !queue.is_empty());
                        if !queue.is_empty() {
                            out.push(queue.remove(0));
                        }
                    }
                    _ => {
                        let collected = waiters.collect(keys[who]);
                        prop_assert_eq!(collected.is_some(), out.contains(&who));
                        out.retain(|&other| other != who);
                    }
                }
            }
            let told = served(&mut waiters).into_iter();
            let told: Vec<_> = told.map(|token| token as usize).collect();
            prop_assert_eq!(told, [out, queue].concat());
        }

        #[test]
        fn fresh_ones_may_leave(
            count in 1..20usize,
            leavers in prop::collection::vec(0..20usize, 0..20),
            random: u64,
        ) {
            let mut waiters = Waiters::default();
            waiters.add_port(0);
            let keys: Vec<_> = (0..count).map(|token| waiters.join(0, token as u64)).collect();
            keys.iter().for_each(|&key| waiters.wait(key));
            let mut left: Vec<_> = leavers.into_iter().filter(|&who| who < count).collect();
            left.sort_unstable();
            left.dedup();
            for &who in &left {
                prop_assert_eq!(waiters.leave(keys[who]), Some(Fate::Waiting));
            }
            waiters.queue_fresh(random);
            let mut told = served(&mut waiters);
            told.sort_unstable();
            let stayed = (0..count).filter(|who| !left.contains(who));
            let expected: Vec<_> = stayed.map(|who| who as u64).collect();
            prop_assert_eq!(told, expected);
            prop_assert_eq!(waiters.len(), count - left.len());
        }
    }
}
