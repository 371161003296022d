//! The pair flavour: two bufferevents joined back to back in memory, as if by a socketpair.

use std::cell::Cell;
use std::rc::{Rc, Weak};

use super::core::Fin;
use super::types::FlushMode;
use super::{BufferEvent, Flavour, Inner, Options};
use crate::error::Error;
use crate::event_base::{EventBase, Interest};

/// What one side knows of the other.
#[derive(Default)]
pub(super) struct Pair {
    partner: Cell<Weak<Inner>>,
    /// The partner ended its stream, or is gone.
    ended: Cell<bool>,
}

impl Pair {
    /// The other side, unless it was freed.
    pub(super) fn partner(&self) -> Option<Rc<Inner>> {
        let weak = self.partner.take();
        let partner = weak.upgrade();
        self.partner.set(weak);
        let partner = partner?;
        (!partner.freed.get()).then_some(partner)
    }
}

impl BufferEvent {
    /// Two bufferevents: what one writes the other reads, without a socket between them
    /// (`bufferevent_pair_new`).
    ///
    /// Bytes move by reference, at once, when the source has WRITE and the sink READ enabled; callbacks are
    /// always deferred. Freeing one side gives the other the end of the stream.
    ///
    /// # Errors
    /// [`Error::Invalid`] for `UNLOCK_CALLBACKS` without `DEFER_CALLBACKS`.
    ///
    /// ```
    /// use evring::{BufferEvent, Callbacks, EventBase, Interest, Options};
    ///
    /// let base = EventBase::new()?;
    /// let (left, right) = BufferEvent::pair(&base, Options::empty())?;
    /// right.set_callbacks(Callbacks::new().on_read(|bev| {
    ///     assert_eq!(bev.input().len(), 4);
    ///     bev.free();
    /// }))?;
    /// right.enable(Interest::READ)?;
    /// left.write(b"ping")?;
    /// base.run()?;
    /// assert!(left.partner().is_none());
    /// # Ok::<(), evring::Error>(())
    /// ```
    pub fn pair(base: &EventBase, options: Options) -> Result<(Self, Self), Error> {
        let make = || {
            let flavour = Flavour::Pair(Box::default());
            Inner::new(base, options, flavour, None)
        };
        super::check_options(options)?;
        let (a, b) = (make(), make());
        for (side, other) in [(&a, &b), (&b, &a)] {
            if let Flavour::Pair(pair) = &side.flavour {
                pair.partner.set(Rc::downgrade(other));
            }
        }
        Ok((BufferEvent(a), BufferEvent(b)))
    }

    /// The other side of a pair, or none when it was freed or this is no pair
    /// (`bufferevent_pair_get_partner`).
    pub fn partner(&self) -> Option<BufferEvent> {
        match &self.0.flavour {
            Flavour::Pair(pair) => pair.partner().map(BufferEvent),
            _ => None,
        }
    }
}

impl Inner {
    /// Moves what can move in both directions of a pair, and tells of an end that is due.
    pub(super) fn move_pair(self: &Rc<Self>, base: &EventBase, pair: &Pair) {
        if let Some(partner) = pair.partner() {
            // In libevent's order, which is that of the callbacks.
            transfer(&partner, self, base, false);
            transfer(self, &partner, base, false);
        }
        self.end_pair_direction(base, pair);
        self.show_pair_end(base, pair);
    }

    /// `write` appended to the output of a pair.
    pub(super) fn pair_wrote(self: &Rc<Self>, base: &EventBase, pair: &Pair) {
        match pair.partner() {
            // Whoever wrote brings this side's timer up to date.
            Some(partner) => {
                transfer(self, &partner, base, false);
            }
            None => self.show_pair_end(base, pair),
        }
    }

    /// The input of a pair was drained below its mark: it takes more at once, if there is more.
    pub(super) fn pull_pair(self: &Rc<Self>, base: &EventBase, pair: &Pair) {
        if let Some(partner) = pair.partner() {
            transfer(&partner, self, base, false);
        }
    }

    /// What a flush does to a pair; whether bytes moved.
    pub(super) fn flush_pair(
        self: &Rc<Self>,
        base: &EventBase,
        pair: &Pair,
        interest: Interest,
        mode: FlushMode,
    ) -> bool {
        let Some(partner) = pair.partner() else {
            return false;
        };
        if mode == FlushMode::Normal {
            return false;
        }
        let mut moved = false;
        if interest.contains(Interest::READ) {
            moved |= transfer(&partner, self, base, true);
        }
        if interest.contains(Interest::WRITE) {
            moved |= transfer(self, &partner, base, true);
            if mode == FlushMode::Finished {
                partner.pair_ended(base);
            }
        }
        moved
    }

    /// This side is being freed: the other sees the end of the stream.
    pub(super) fn leave_pair(&self, base: &EventBase, pair: &Pair) {
        let partner = pair.partner();
        pair.partner.set(Weak::new());
        if let Some(partner) = partner {
            partner.pair_ended(base);
        }
    }

    /// The partner's stream is over.
    fn pair_ended(self: &Rc<Self>, base: &EventBase) {
        if let Flavour::Pair(pair) = &self.flavour {
            pair.ended.set(true);
            self.mark_dirty(base);
        }
    }

    /// The output was taken, and the end of the stream is to follow it.
    fn end_pair_direction(self: &Rc<Self>, base: &EventBase, pair: &Pair) {
        let due = self.core.borrow().fin_due(self.output_len());
        if due {
            self.core.borrow_mut().set_fin(Fin::Sent);
            if let Some(partner) = pair.partner() {
                partner.pair_ended(base);
            }
        }
    }

    /// Reports the end of the partner's stream, once all before it was shown.
    fn show_pair_end(self: &Rc<Self>, base: &EventBase, pair: &Pair) {
        let drained = pair.partner().is_none_or(|p| p.output_len() == 0);
        let mut core = self.core.borrow_mut();
        if pair.ended.get() && drained && core.wants_read() {
            core.handle_eof();
            drop(core);
            self.run_callbacks(base);
        }
    }
}

/// Moves bytes from the output of one side to the input of the other, as far as both allow;
/// `flushing` looks at neither enables nor marks. Whether any moved.
fn transfer(source: &Rc<Inner>, sink: &Rc<Inner>, base: &EventBase, flushing: bool) -> bool {
    let output = source.output_len();
    if output == 0 {
        return false;
    }
    let mut from = source.core.borrow_mut();
    let mut to = sink.core.borrow_mut();
    let allowed = from.wants_write(output) && to.wants_read();
    if !allowed && !flushing {
        return false;
    }
    let (Ok(mut output), Ok(mut input)) =
        (source.output.try_borrow_mut(), sink.input.try_borrow_mut())
    else {
        // A closure of the user holds one of them: when it is done.
        drop((from, to));
        source.mark_dirty(base);
        return false;
    };
    let room = if flushing {
        usize::MAX
    } else {
        to.room(input.len())
    };
    output.transfer(&mut input, room);
    let now = base.now();
    to.handle_received(input.len(), now);
    from.handle_sent(output.len(), now);
    let all_out = output.is_empty();
    drop((from, to, output, input));
    sink.run_callbacks(base);
    source.run_callbacks(base);
    sink.sync_in_memory(base);
    source.sync_in_memory(base);
    if all_out && (source.core.borrow().fin() == Fin::Wanted || source.is_closing()) {
        source.mark_dirty(base);
    }
    true
}
