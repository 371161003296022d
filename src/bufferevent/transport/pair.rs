//! The pair: two bufferevents joined back to back in memory, as if by a socketpair.

use std::cell::Cell;
use std::rc::{Rc, Weak};

use super::{Changed, End, Nature, Rest, Transport};
use crate::bufferevent::machine::{Fin, Link, Machine, StreamEnd};
use crate::bufferevent::shell::{Cx, Inner};
use crate::bufferevent::types::{FlushMode, FlushResult};
use crate::bufferevent::{BufferEvent, Options};
use crate::error::Error;
use crate::event_base::{EventBase, Interest};
use crate::sys::Errno;

/// What one side knows of the other.
#[derive(Default)]
pub(in crate::bufferevent) struct Pair {
    partner: Cell<Weak<Inner<Pair>>>,
    /// How the partner ended its stream, or went.
    ended: Cell<Option<StreamEnd>>,
}

impl Pair {
    /// The other side, unless it was freed.
    fn other(&self) -> Option<Rc<Inner<Pair>>> {
        let weak = self.partner.take();
        let partner = weak.upgrade();
        self.partner.set(weak);
        partner.filter(|partner| !partner.shell.is_freed())
    }
}

impl BufferEvent {
    /// Two bufferevents: what one writes the other reads, without a socket between them
    /// (`bufferevent_pair_new`).
    ///
    /// Bytes move by reference, at once, when the source has WRITE and the sink READ enabled;
    /// callbacks are always deferred. Freeing one side gives the other the end of the stream.
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
        crate::bufferevent::check_options(options)?;
        let options = options | Options::DEFER_CALLBACKS;
        let make = || Inner::create(base, options, Link::Up, Pair::default());
        let (a, b) = (make(), make());
        a.transport.partner.set(Rc::downgrade(&b));
        b.transport.partner.set(Rc::downgrade(&a));
        Ok((BufferEvent(a), BufferEvent(b)))
    }
}

impl Transport for Pair {
    fn nature(&self) -> Nature {
        Nature {
            in_memory: true,
            follows: false,
        }
    }

    fn pump(&self, cx: &Cx<'_>) {
        cx.machine_mut().show_end();
        self.move_both(cx);
    }

    fn changed(&self, cx: &Cx<'_>, what: Changed) {
        match what {
            Changed::Enabled(interest) => {
                if interest.contains(Interest::WRITE) {
                    cx.machine_mut().cancel_write_event();
                }
                self.move_both(cx);
                cx.mark_dirty();
            }
            Changed::OutputGrew => match self.other() {
                Some(partner) => {
                    let partner = BufferEvent(partner);
                    transfer(cx, &Cx::new(&partner, cx.base), Entered::Source, false);
                }
                None => self.show_end(cx),
            },
            Changed::InputHasRoom => {
                if let Some(partner) = self.other().map(|partner| BufferEvent(partner)) {
                    transfer(&Cx::new(&partner, cx.base), cx, Entered::Sink, false);
                }
            }
            Changed::Pace | Changed::Reopened => {}
        }
    }

    fn flush(&self, cx: &Cx<'_>, interest: Interest, mode: FlushMode) -> FlushResult {
        let Some(partner) = self.other() else {
            return FlushResult::Nothing;
        };
        if mode == FlushMode::Normal {
            return FlushResult::Nothing;
        }
        let partner = BufferEvent(partner);
        let there = Cx::new(&partner, cx.base);
        let mut moved = false;
        if interest.contains(Interest::READ) {
            moved |= transfer(&there, cx, Entered::Sink, true);
        }
        if interest.contains(Interest::WRITE) {
            moved |= transfer(cx, &there, Entered::Source, true);
            if mode == FlushMode::Finished {
                self.end_partner(cx, StreamEnd::Eof);
            }
        }
        match moved {
            true => FlushResult::Produced,
            false => FlushResult::Nothing,
        }
    }

    fn rest(&self, _: &Cx<'_>, _: &mut Machine, _: usize) -> Rest {
        // What can move has moved.
        Rest {
            waits: false,
            look_at: u64::MAX,
        }
    }

    fn is_cut(&self) -> bool {
        // What a partner did not take before it was freed, nobody takes.
        self.other().is_none()
    }

    fn end(&self, cx: &Cx<'_>, how: End) {
        let end = match how {
            End::Free | End::LetGo => StreamEnd::Eof,
            End::Reset => StreamEnd::Error(Errno::from_raw(libc::ECONNRESET)),
        };
        self.end_partner(cx, end);
        self.partner.set(Weak::new());
    }

    fn partner(&self) -> Option<BufferEvent> {
        self.other().map(|partner| BufferEvent(partner))
    }
}

impl Pair {
    /// Moves what can move in both directions, and tells of an end that is due.
    fn move_both(&self, cx: &Cx<'_>) {
        if let Some(partner) = self.other().map(|partner| BufferEvent(partner)) {
            let there = Cx::new(&partner, cx.base);
            // In libevent's order, which is that of the callbacks.
            transfer(&there, cx, Entered::Sink, false);
            transfer(cx, &there, Entered::Source, false);
        }
        self.end_direction(cx);
        self.show_end(cx);
    }

    /// The output was taken, and the end of the stream is to follow it.
    fn end_direction(&self, cx: &Cx<'_>) {
        let due = cx.machine().fin_due(cx.shell().output_len());
        if due {
            cx.machine_mut().set_fin(Fin::Sent);
            self.end_partner(cx, StreamEnd::Eof);
        }
    }

    /// This side's stream is over: the other is told once all before it was shown.
    fn end_partner(&self, cx: &Cx<'_>, end: StreamEnd) {
        if let Some(partner) = self.other() {
            partner.transport.ended.set(Some(end));
            let partner = BufferEvent(partner);
            Cx::new(&partner, cx.base).mark_dirty();
        }
    }

    /// Reports the end of the partner's stream, once all before it was shown.
    fn show_end(&self, cx: &Cx<'_>) {
        let Some(end) = self.ended.get() else { return };
        let drained = self.other().is_none_or(|p| p.shell.output_len() == 0);
        if drained && cx.machine().wants_read() {
            cx.ended(end);
        }
    }
}

/// Which side of a transfer a call or the loop has entered, and settles when it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entered {
    Source,
    Sink,
}

/// Moves bytes from the output of one side to the input of the other, as far as both allow;
/// `flushing` looks at neither enables nor marks. Whether any moved. The side that was not entered
/// is settled here, the other one by its entry; the sink's callbacks come first.
fn transfer(source: &Cx<'_>, sink: &Cx<'_>, entered: Entered, flushing: bool) -> bool {
    let (from, to) = (source.shell(), sink.shell());
    let (Some(mut output), Some(mut input)) = (from.buffers.output(), to.buffers.input()) else {
        // A closure of the user holds one of them: when it is done.
        source.mark_dirty();
        return false;
    };
    if output.is_empty() {
        return false;
    }
    let mut from_machine = from.machine.borrow_mut();
    let mut to_machine = to.machine.borrow_mut();
    let allowed = from_machine.wants_write(output.len()) && to_machine.wants_read();
    if !allowed && !flushing {
        return false;
    }
    let room = if flushing {
        usize::MAX
    } else {
        to_machine.room(input.len())
    };
    output.transfer(&mut input, room);
    let now = source.now();
    to_machine.handle_received(input.len(), now);
    from_machine.handle_sent(output.len(), now);
    let all_out = output.is_empty();
    let fin = from_machine.fin();
    drop((from_machine, to_machine, output, input));
    sink.settle();
    if entered == Entered::Sink {
        source.settle();
    }
    if all_out && (fin == Fin::Wanted || from.life().is_closing()) {
        source.mark_dirty();
    }
    true
}
