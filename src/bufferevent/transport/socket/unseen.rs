//! What a receive brought while the input could not take it: past the high mark, or paused.

use super::{Incoming, Socket, is_eof};
use crate::arena::Piece;
use crate::bufferevent::machine::{Life, StreamEnd};
use crate::bufferevent::shell::{COPY_OUT_FRACTION, Cx};
use crate::evbuffer::{EvBuffer, Pinning};
use crate::event_base::EventBase;

/// It waits here, in order; an end behind it.
#[derive(Debug, Default)]
pub(super) struct Unseen {
    bytes: EvBuffer,
    end: Option<StreamEnd>,
}

impl Unseen {
    pub(super) fn is_drained(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether the connection broke behind it.
    pub(super) fn is_broken(&self) -> bool {
        matches!(self.end, Some(StreamEnd::Error(_)))
    }

    pub(super) fn take_end(&mut self) -> Option<StreamEnd> {
        self.end.take()
    }

    /// Copies pieces of up to `limit` bytes out of the slots that they pin.
    pub(super) fn copy_out(&mut self, limit: usize) {
        self.bytes.compact_small(limit);
    }
}

impl Socket {
    /// Bytes came in: to the input if it may take them, to wait unseen if not.
    pub(super) fn take_in(&self, cx: &Cx<'_>, piece: Piece, pinning: Pinning) {
        let n = piece.len();
        cx.base.tally().received(n);
        if self.is_closing_down(cx) {
            return;
        }
        let mut machine = cx.machine_mut();
        if machine.wants_read()
            && !self.unseen.is_some()
            && let Some(mut input) = cx.shell().buffers.input()
            && n <= machine.room(input.len())
        {
            append_received(&mut input, piece, pinning, cx.base);
            machine.handle_received(input.len(), cx.now());
            return;
        }
        drop(machine);
        self.unseen
            .with_made(|unseen| unseen.bytes.push_received(piece, pinning));
        match cx.shell().life() {
            Life::StoppingReads => self.show_unseen(cx),
            _ => self.deliver(cx),
        }
        if self.unseen.is_some() {
            // These bytes may not be shown: cancel the multishot, so that only what is already in
            // flight still arrives (I10).
            self.stop_receive(cx);
        }
    }

    /// The stream ended: to be told behind what waits.
    pub(super) fn stream_ended(&self, cx: &Cx<'_>, end: StreamEnd) {
        self.incoming.set(match is_eof(end) {
            true => Incoming::Ended,
            false => Incoming::Broken,
        });
        if self.is_closing_down(cx) {
            return self.ended_while_closing(cx, end);
        }
        self.unseen.with_made(|unseen| unseen.end = Some(end));
        self.deliver(cx);
    }

    /// Moves all that waits unseen to the input, whatever its high mark. An end that waits behind
    /// it is not told any more.
    pub(super) fn show_unseen(&self, cx: &Cx<'_>) {
        let Some(mut unseen) = self.unseen.take() else {
            return;
        };
        let Some(mut input) = cx.shell().buffers.input() else {
            self.unseen.replace(Some(unseen));
            return;
        };
        if unseen.bytes.is_empty() {
            return;
        }
        input.take_all(&mut unseen.bytes);
        let len = input.len();
        drop(input);
        let now = cx.now();
        cx.machine_mut().handle_received(len, now);
    }

    /// Shows what waited unseen: bytes as far as the high mark allows, or else the end. The end
    /// never in one go with bytes: their callback may pause reading.
    pub(super) fn deliver(&self, cx: &Cx<'_>) {
        let mut machine = cx.machine_mut();
        if machine.show_end() {
            return;
        }
        let Some(mut unseen) = self.unseen.take() else {
            return;
        };
        let mut more = false;
        if !machine.wants_read() {
            Self::show_end_of_paused(&mut unseen, &mut machine);
        } else if let Some(mut input) = cx.shell().buffers.input() {
            if !unseen.bytes.is_empty() {
                let n = machine.room(input.len()).min(unseen.bytes.len());
                unseen.bytes.transfer(&mut input, n);
                machine.handle_received(input.len(), cx.now());
            } else if let Some(end) = unseen.end.take() {
                machine.handle_end(end);
            }
            more = machine.wants_read();
        }
        drop(machine);
        if !unseen.bytes.is_empty() || unseen.end.is_some() {
            self.unseen.replace(Some(unseen));
            if more {
                cx.mark_dirty();
            }
        }
    }
}

/// Appends received bytes by reference. A small piece behind others is copied, so that many of
/// them share one block instead of pinning a slot each.
#[inline]
fn append_received(input: &mut EvBuffer, piece: Piece, pinning: Pinning, base: &EventBase) {
    let shares = !input.is_empty() && piece.len() <= base.slot_size() / COPY_OUT_FRACTION;
    match pinning {
        Pinning::Slot if !shares => input.push_piece(piece),
        _ => input.push_received(piece, Pinning::CopyOut),
    }
}
