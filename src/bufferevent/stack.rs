//! What is asked of a bufferevent together with those below it: what a relay needs to know.

use std::time::Duration;

use super::BufferEvent;
use super::closing::deadline_of;
use super::machine::Hold;
use super::transport::Changed;

impl BufferEvent {
    /// Ends a close that is under way within so long, at the latest.
    pub(crate) fn shorten_deadline(&self, within: Duration) {
        for bev in self.down() {
            let _freed = bev.command(|cx| cx.shorten_deadline(deadline_of(cx, Some(within))));
        }
    }

    /// Says that what it received is still waiting to be sent somewhere: while memory is short it
    /// receives no more.
    pub(crate) fn set_backlogged(&self, backlogged: bool) {
        let lowest = self.lowest();
        if let Some(socket) = lowest.0.transport.socket()
            && socket.set_backlogged(backlogged)
        {
            let _freed = lowest.command(|cx| cx.mark_dirty());
        }
    }

    /// Bounds what one receive brings before it is armed again, and so what arrives in spite of a
    /// pause, in bytes; 0: no bound but the receive window.
    pub(crate) fn set_receive_bound(&self, bytes: usize) {
        if let Some(socket) = self.lowest().0.transport.socket() {
            socket.set_receive_bound(bytes);
        }
    }

    /// Has the progress of what is sent told as the kernel takes bytes, not as operations end.
    pub(crate) fn watch_progress(&self) {
        let lowest = self.lowest();
        if let Some(socket) = lowest.0.transport.socket() {
            let _freed = lowest.command(|cx| socket.watch_progress(cx, true));
        }
    }

    /// When a byte moved last, here or below, in the driver's time; also one that only the peer's
    /// acknowledgement tells of.
    pub(crate) fn moved_at(&self) -> u64 {
        let mut latest = 0;
        for bev in self.down() {
            let _freed = bev.command(|cx| {
                if cx.transport().made_way(cx) {
                    let now = cx.now();
                    cx.machine_mut().handle_progress(now);
                }
            });
            latest = latest.max(bev.0.shell.machine.borrow().moved_at());
        }
        latest
    }

    /// Keeps it from reading, or lets it read again, for a relay.
    pub(crate) fn hold_for_relay(&self, hold: bool) {
        let hold = match hold {
            true => Hold::Relay,
            false => Hold::Free,
        };
        let _freed = self.command(|cx| {
            let resumed = cx.machine_mut().hold_read(hold);
            if resumed {
                cx.transport().changed(cx, Changed::InputHasRoom);
            }
            cx.mark_dirty();
        });
    }

    /// Bytes that wait to leave, here and in whatever it passes them on to.
    #[inline]
    pub(crate) fn backlog(&self) -> usize {
        let here = self.0.shell.output_len();
        match self.0.shell.follows() {
            true => self
                .down()
                .skip(1)
                .fold(here, |all, bev| all + bev.0.shell.output_len()),
            false => here,
        }
    }

    /// Bytes that would be lost if it ended now: its own, and what went down to those that end with
    /// it.
    pub(super) fn unsent(&self) -> usize {
        let mut ends = true;
        let with_it = self.down().take_while(|bev| {
            let counts = ends;
            ends = bev.0.shell.closes();
            counts
        });
        with_it.map(|bev| bev.0.shell.output_len()).sum()
    }

    /// Has the write callback called once [`backlog`](Self::backlog) is down to the low mark.
    pub(crate) fn await_drain(&self) {
        self.0.transport.await_below();
    }

    /// Whether anything can come in, and whether anything can go out: a pipe has one of both.
    pub(crate) fn directions(&self) -> (bool, bool) {
        match self.lowest().0.transport.socket() {
            Some(socket) => (socket.reads(), socket.writes()),
            None => (true, true),
        }
    }

    /// This one and those below it.
    pub(super) fn down(&self) -> impl Iterator<Item = &BufferEvent> {
        std::iter::successors(Some(self), |bev| bev.0.transport.under())
    }

    /// The one that moves the bytes by itself.
    pub(super) fn lowest(&self) -> &BufferEvent {
        match self.0.shell.follows() {
            true => self.down().last().unwrap_or(self),
            false => self,
        }
    }
}
