// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sending: from a send queue's entries to frames on the cable.

use std::time::{Duration, Instant};

use tracing::{error, warn};

use super::engine::Batch;
use super::gather::Cursor;
use super::link::peer;
use super::packet::{Constants, ETHERNET, Headers, Ip, Layers, MAX_HEADERS, MIN_FRAME};
use super::rx::{Fill, Frame, Outcome, Transported, from_cable, receive};
use super::tso;
use crate::bits::ctx::QueueState;
use crate::bits::event::{Cqe, Syndrome};
use crate::bits::umr::Umr;
use crate::bits::wqe::{BASIC_BLOCK, Control, Data, Ethernet, MAX_SEND, SEGMENT, SendOp};
use crate::fault::wire::{Full, Wire};
use crate::mem::{Access, Slice};
use crate::obj::counter;
use crate::obj::port::{MAX_MTU, Port};
use crate::obj::sq::{Sq, SqState};

/// The most payload bytes of a large send: more than Linux's largest (`GSO_MAX_SIZE`).
const MAX_PAYLOAD: usize = 1 << 20;
/// Room for the first bytes of a frame: all that can stand in an entry, or the headers.
pub const HEAD: usize = MAX_SEND + MAX_HEADERS;

/// Why [`run`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The queue is empty or has stopped.
    Idle,
    /// The budget is used up.
    More,
    /// A receiver has no buffer for the next packet.
    Blocked,
}

/// Why an entry is not done.
enum Stop {
    Budget,
    Blocked,
    Failed(Syndrome),
}

impl From<Syndrome> for Stop {
    fn from(syndrome: Syndrome) -> Self {
        Self::Failed(syndrome)
    }
}

/// Sends what is in `sq`, a queue of port `me`, as far as `budget` packets go, through `wire` if there is one.
pub fn run<'p>(
    ports: &'p [Port; 2],
    me: usize,
    sq: &'p Sq,
    batch: &mut Batch<'p>,
    budget: &mut u32,
    pause: Duration,
    mut wire: Option<&mut Wire>,
) -> Step {
    let port = &ports[me];
    let mut state = sq.state.lock();
    if state.state == QueueState::Reset {
        return Step::Idle;
    }
    // The record holds the producers of a receive and of a send queue, in this order.
    let producer = match port.bus.memory.load(sq.record.wrapping_add(4)) {
        Ok(record) => record as u16,
        Err(fault) => {
            error!(sqn = sq.number, %fault, "doorbell record cannot be read");
            state.state = QueueState::Error;
            return Step::Idle;
        }
    };
    let pending = producer.wrapping_sub(state.consumer);
    if u32::from(pending) > sq.ring.size() {
        if state.state == QueueState::Ready {
            error!(
                sqn = sq.number,
                pending, "more blocks posted than the ring has"
            );
            state.state = QueueState::Error;
            let syndrome = Syndrome::LocalOperation;
            push(
                port,
                sq,
                Cqe::send_error(sq.number, state.consumer, 0, syndrome),
                batch,
            );
        }
        return Step::Idle;
    }
    let mut entry = [0; MAX_SEND];
    let mut head = [0; HEAD];
    while state.consumer != producer {
        let left = producer.wrapping_sub(state.consumer);
        let (control, readable) = read_entry(port, sq, state.consumer, left, &mut entry);
        let result = match readable {
            _ if state.state == QueueState::Error => Err(Stop::Failed(Syndrome::Flush)),
            Err(syndrome) => Err(Stop::Failed(syndrome)),
            Ok(()) if port.faults.take_send() => Err(Stop::Failed(Syndrome::LocalProtection)),
            Ok(()) => {
                let mut sender = Sender {
                    ports,
                    me,
                    sq,
                    batch,
                    budget,
                    pause,
                    wire: wire.as_deref_mut(),
                };
                sender.entry(&mut state, control, &entry, &mut head)
            }
        };
        match result {
            Ok(()) if control.completion => {
                push(port, sq, Cqe::sent(sq.number, state.consumer), batch);
            }
            Ok(()) => {}
            Err(Stop::Budget) => return Step::More,
            Err(Stop::Blocked) => return Step::Blocked,
            Err(Stop::Failed(syndrome)) => {
                let (index, opcode) = (state.consumer, control.opcode);
                if syndrome != Syndrome::Flush {
                    warn!(sqn = sq.number, index, opcode, ?syndrome, "bad send entry");
                }
                push(
                    port,
                    sq,
                    Cqe::send_error(sq.number, index, opcode, syndrome),
                    batch,
                );
                state.state = QueueState::Error;
            }
        }
        // Not past the end, whatever length the entry claims.
        state.consumer = state.consumer.wrapping_add(control.blocks().min(left));
        state.sent = 0;
        state.blocked_since = None;
    }
    Step::Idle
}

/// Reads the entry that starts at block `consumer`; `left` blocks are posted. One that cannot be
/// read, or is not all there, still has a length to go on by.
fn read_entry(
    port: &Port,
    sq: &Sq,
    consumer: u16,
    left: u16,
    entry: &mut [u8; MAX_SEND],
) -> (Control, Result<(), Syndrome>) {
    let memory = &port.bus.memory;
    let read = |block: u16, to: &mut [u8]| {
        sq.ring.read(memory, u32::from(block), to).map_err(|fault| {
            error!(sqn = sq.number, %fault, "send queue cannot be read");
            Syndrome::LocalProtection
        })
    };
    let whole = sq.ring.entry(memory, u32::from(consumer));
    let first = match whole.ok().and_then(|block| block.array::<BASIC_BLOCK>(0)) {
        Some(block) => {
            entry[..BASIC_BLOCK].copy_from_slice(&block);
            Ok(())
        }
        None => read(consumer, &mut entry[..BASIC_BLOCK]),
    };
    let control = Control::decode(&entry[..]);
    let length = usize::from(control.segments) * SEGMENT;
    let readable = first.and_then(|()| match control.blocks() {
        1 => Ok(()),
        blocks if blocks > left => Err(Syndrome::LocalLength),
        _ => read(consumer.wrapping_add(1), &mut entry[BASIC_BLOCK..length]),
    });
    (control, readable)
}

fn push<'p>(port: &'p Port, sq: &Sq, entry: Cqe, batch: &mut Batch<'p>) {
    if let Some(cq) = port.hca.cqs.get(sq.cqn) {
        batch.completions.push(port, cq, entry);
    }
}

/// A packet that is about to be sent.
struct Packet<'a, 'p> {
    /// Its first bytes, all headers among them, and room for more.
    head: &'a mut [u8; HEAD],
    /// How many bytes of `head` they are.
    taken: usize,
    /// The rest.
    body: Cursor<'a, 'p>,
    /// Bytes of the rest.
    length: usize,
    /// The stream that it is of, if that is known.
    stream: Option<u32>,
    /// Of its outer headers.
    constants: Constants,
}

/// What it takes to send one entry.
struct Sender<'b, 'p> {
    ports: &'p [Port; 2],
    me: usize,
    sq: &'p Sq,
    batch: &'b mut Batch<'p>,
    budget: &'b mut u32,
    pause: Duration,
    wire: Option<&'b mut Wire>,
}

impl<'p> Sender<'_, 'p> {
    /// Sends one entry; `head` is room for the first bytes of its frames, whatever is in it.
    fn entry(
        &mut self,
        state: &mut SqState,
        control: Control,
        entry: &[u8; MAX_SEND],
        head: &mut [u8; HEAD],
    ) -> Result<(), Stop> {
        let bytes = &entry[..usize::from(control.segments) * SEGMENT];
        let operation = SendOp::try_from(control.opcode).map_err(|_| Syndrome::LocalOperation)?;
        match operation {
            SendOp::Nop => return self.spend(),
            SendOp::Umr => return self.remap(bytes),
            SendOp::Send | SendOp::LargeSend => {}
        }
        if bytes.len() < Ethernet::AT + SEGMENT {
            return Err(Syndrome::LocalLength.into());
        }
        let ethernet = Ethernet::decode(entry);
        let inline = bytes
            .get(Ethernet::INLINE..Ethernet::INLINE + usize::from(ethernet.inline))
            .ok_or(Syndrome::LocalLength)?;
        // The pieces leave the batch while it is in use for receiving.
        let mut pieces = std::mem::take(&mut self.batch.pieces);
        pieces.clear();
        let data = bytes.get(ethernet.data_at()..).unwrap_or_default();
        let result = self
            .gather(data, &mut pieces)
            .map_err(Stop::from)
            .and_then(|length| match operation {
                SendOp::LargeSend => self.large(state, &ethernet, inline, &pieces, length, head),
                _ => self.single(state, &ethernet, inline, &pieces, length, head),
            });
        self.batch.pieces = pieces;
        result
    }

    /// Changes a memory key.
    fn remap(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        if !self.sq.umr {
            return Err(Syndrome::LocalOperation.into());
        }
        let umr = Umr::decode(bytes)?;
        self.spend()?;
        let mkey = self.ports[self.me].hca.mkeys.get(umr.key >> 8);
        let updated = mkey.is_some_and(|mkey| mkey.update(self.sq.pd, &umr));
        updated
            .then_some(())
            .ok_or(Syndrome::LocalProtection.into())
    }

    fn spend(&mut self) -> Result<(), Stop> {
        *self.budget = self.budget.checked_sub(1).ok_or(Stop::Budget)?;
        Ok(())
    }

    /// Collects the pieces of memory that data segments name; returns how many bytes they have.
    fn gather(&self, data: &[u8], pieces: &mut Vec<Slice<'p>>) -> Result<usize, Syndrome> {
        const INLINE: u8 = 0x80;
        let port = &self.ports[self.me];
        let mut total = 0;
        for segment in data.chunks_exact(SEGMENT) {
            let Data {
                length,
                key,
                address,
            } = Data::decode(segment);
            let length = length as usize;
            total += length;
            if segment[0] & INLINE != 0 {
                return Err(Syndrome::LocalOperation);
            }
            if length == 0 || total > MAX_PAYLOAD {
                return Err(Syndrome::LocalLength);
            }
            port.slices(key, self.sq.pd, Access::Read, address, length, pieces)
                .map_err(|fault| {
                    error!(sqn = self.sq.number, %fault, "data to send cannot be read");
                    Syndrome::LocalProtection
                })?;
        }
        Ok(total)
    }

    /// One packet.
    fn single(
        &mut self,
        state: &mut SqState,
        ethernet: &Ethernet,
        inline: &[u8],
        pieces: &[Slice<'p>],
        length: usize,
        head: &mut [u8; HEAD],
    ) -> Result<(), Stop> {
        let total = inline.len() + length;
        if !(ETHERNET..=usize::from(MAX_MTU)).contains(&total) {
            return Err(Syndrome::LocalLength.into());
        }
        self.spend()?;
        let routes = &mut self.batch.routes;
        let first = pieces
            .first()
            .filter(|_| inline.is_empty())
            .and_then(|piece| piece.array(0));
        let (taken, layers, stream, constants);
        if let Some(first) = first
            && let Some(known) = routes.recognise(&first)
        {
            head[..first.len()].copy_from_slice(&first);
            (taken, stream) = (first.len(), Some(known.stream));
            (layers, constants) = (Layers::single(known.layout), known.constants);
        } else {
            head[..inline.len()].copy_from_slice(inline);
            let known = total.min(MAX_HEADERS).max(inline.len());
            Cursor::new(pieces).read(&mut head[inline.len()..known]);
            let bytes = &head[..known];
            layers = Layers::parse(bytes, &self.ports[self.me].hca.vxlan_ports);
            stream = routes.remember(bytes, &layers);
            taken = layers.head().clamp(inline.len(), known);
            constants = layers.outer.of(bytes).constants();
        }
        // What is behind the headers goes straight from its memory to the receiver's.
        let mut body = Cursor::new(pieces);
        body.advance(taken - inline.len());
        let packet = Packet {
            head,
            taken,
            body,
            length: total - taken,
            stream,
            constants,
        };
        self.transmit(state, ethernet, packet, &layers)
    }

    /// A header, and payload that is cut into packets.
    fn large(
        &mut self,
        state: &mut SqState,
        ethernet: &Ethernet,
        inline: &[u8],
        pieces: &[Slice<'p>],
        length: usize,
        head: &mut [u8; HEAD],
    ) -> Result<(), Stop> {
        let largest = inline.len() + length.min(usize::from(ethernet.mss));
        if ethernet.mss == 0
            || !(ETHERNET..=MAX_HEADERS).contains(&inline.len())
            || largest > usize::from(MAX_MTU)
        {
            return Err(Syndrome::LocalLength.into());
        }
        let mut body = Cursor::new(pieces);
        body.advance(state.sent as usize * usize::from(ethernet.mss));
        let vxlan = &self.ports[self.me].hca.vxlan_ports;
        let mut layers = Layers::parse(inline, vxlan);
        let constants = layers.outer.of(inline).constants();
        while let Some(segment) = tso::segment(state.sent, length, ethernet.mss) {
            self.spend()?;
            head[..inline.len()].copy_from_slice(inline);
            tso::cut(&mut head[..inline.len()], &segment, &mut layers);
            let packet = Packet {
                head,
                taken: inline.len(),
                body,
                length: segment.length,
                stream: None,
                constants,
            };
            self.transmit(state, ethernet, packet, &layers)?;
            body.advance(segment.length);
            state.sent += 1;
        }
        Ok(())
    }

    /// Puts one frame on the cable.
    #[inline(always)]
    fn transmit(
        &mut self,
        state: &mut SqState,
        ethernet: &Ethernet,
        packet: Packet<'_, 'p>,
        layers: &Layers,
    ) -> Result<(), Stop> {
        let Packet {
            head,
            mut taken,
            mut body,
            mut length,
            stream,
            constants,
        } = packet;
        let outer = layers.outer.of(&head[..taken]);
        let (mut layout, padded) = (&layers.outer, &mut None);
        let (total, outer_end) = (taken + length, outer.ip_end());
        let mut transported = Transported::of(&outer, &constants, total);
        let mut fill = if ethernet.l4_checksum && transported.is_some() {
            Fill::Own
        } else {
            Fill::Nothing
        };
        let ip_filled = match outer.ip() {
            Some((Ip::V4, at)) if ethernet.l3_checksum => {
                constants.fill_ipv4(&mut head[..taken], at);
                true
            }
            _ => false,
        };
        if let Some(layout) = &layers.inner
            && (ethernet.inner_l3_checksum || ethernet.inner_l4_checksum)
        {
            let inner = layout.of(&head[..taken]);
            let constants = inner.constants();
            if ethernet.inner_l4_checksum {
                // As far as the outer packet goes; a sum of anything else is nobody's checksum.
                fill = Transported::of(&inner, &constants, total)
                    .filter(|_| inner.ip_end() == outer_end)
                    .map_or(Fill::Nothing, Fill::Inner);
            }
            if let (true, Some((Ip::V4, at))) = (ethernet.inner_l3_checksum, layout.ip()) {
                constants.fill_ipv4(&mut head[..taken], at);
            }
        }
        if taken + length < MIN_FRAME {
            body.read(&mut head[taken..taken + length]);
            head[taken + length..MIN_FRAME].fill(0);
            (taken, length) = (MIN_FRAME, 0);
            // Padding is as good as any bytes to the receiver.
            let headers = Headers::parse(&head[..MIN_FRAME]);
            layout = padded.insert(headers.layout());
            let constants = headers.constants();
            transported = transported.or(Transported::of(&headers, &constants, MIN_FRAME));
        }
        let counted = counter::Frame::of(&head[..taken], taken + length);
        let mut frame = Frame {
            head: &mut head[..taken],
            layout,
            stream,
            counted,
            ip_filled,
            transported,
            body,
            length,
            fill,
            lie: false,
            with_fcs: false,
        };
        match destination(self.ports, self.me, frame.head) {
            Destination::Nowhere => self.ports[self.me].physical.counters.unsent.add(1),
            Destination::Back => {
                let patient = self.waits(state);
                if receive(self.ports, self.me, &mut frame, self.batch, patient) == Outcome::Blocked
                {
                    state.blocked_since.get_or_insert_with(Instant::now);
                    return Err(Stop::Blocked);
                }
                self.batch.looped.count(&counted);
            }
            Destination::Cable => {
                match &mut self.wire {
                    Some(wire) => wire
                        .send(Instant::now(), frame.flatten())
                        .map_err(|Full| Stop::Blocked)?,
                    None => self.deliver(state, &mut frame)?,
                }
                self.batch.wired.count(&counted);
            }
        }
        self.batch.sent.count(&counted);
        state.blocked_since = None;
        Ok(())
    }

    /// Whether the frame at hand may wait for a buffer, still.
    fn waits(&self, state: &SqState) -> bool {
        let since = state.blocked_since;
        since.is_none_or(|since| since.elapsed() < self.pause)
    }

    /// Puts a frame straight into the other port's memory. Without a buffer there, that port tells this one to pause, and in the
    /// end to go on.
    fn deliver(&mut self, state: &mut SqState, frame: &mut Frame<'_, 'p>) -> Result<(), Stop> {
        let to = peer(self.me);
        let [here, there] = [self.me, to].map(|port| &self.ports[port].physical);
        let patient = there.can_pause(here) && self.waits(state);
        let outcome = from_cable(self.ports, to, frame, self.batch, patient);
        let blocked = outcome == Outcome::Blocked;
        if blocked != state.blocked_since.is_some() {
            there.counters.pausing.add(1);
            here.counters.paused.add(1);
        }
        if blocked {
            state.blocked_since.get_or_insert_with(Instant::now);
            return Err(Stop::Blocked);
        }
        if let Some(since) = state.blocked_since {
            let microseconds = since.elapsed().as_micros() as u64;
            there.counters.pausing_us.add(microseconds);
            here.counters.paused_us.add(microseconds);
        }
        Ok(())
    }
}

/// Where a frame goes.
enum Destination {
    /// Back to the port that sends it.
    Back,
    /// To the other end of the cable.
    Cable,
    /// There is no link.
    Nowhere,
}

/// A port that sends to one of its own addresses gets the frame back.
fn destination(ports: &[Port; 2], me: usize, head: &[u8]) -> Destination {
    let port = &ports[me];
    let own = &port.hca.vport.unicast;
    if own.iter().any(|mac| head.starts_with(mac)) {
        Destination::Back
    } else if port.link_up() {
        Destination::Cable
    } else {
        Destination::Nowhere
    }
}
