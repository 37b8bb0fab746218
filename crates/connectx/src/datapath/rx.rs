// SPDX-License-Identifier: MIT OR Apache-2.0
//! Receiving: from a frame on the cable to a completion.

use super::checksum::Sum;
use super::engine::Batch;
use super::fcs::fcs;
use super::gather::Cursor;
use super::packet::{Constants, ETHERNET, Headers, Ip, Layout, Transport, VLAN_TAG};
use crate::bits::event::{Merged, RxInfo, Syndrome};
use crate::fault::Arrival;
use crate::mem::Slice;
use crate::obj::counter::{self, QueueCounters};
use crate::obj::cq::{Completions, Cq};
use crate::obj::flow::{MatchKey, Unwanted};
use crate::obj::lro::{Label, Lro};
use crate::obj::port::Port;
use crate::obj::rq::{NoPlace, Rq, RqState};
use crate::obj::series::Segment;
use crate::obj::striding::Shape;

/// A frame on the cable.
pub struct Frame<'a, 'p> {
    /// Its first bytes, all headers among them.
    pub head: &'a mut [u8],
    /// Where the headers are.
    pub layout: &'a Layout,
    /// The stream that it is of, if that is known.
    pub stream: Option<u32>,
    /// What is counted of it.
    pub counted: counter::Frame,
    /// The sender has filled in the checksum of the IPv4 header.
    pub ip_filled: bool,
    /// What is to be known for the TCP or UDP checksum of the packet, if it has one.
    pub transported: Option<Transported>,
    /// The memory with the rest.
    pub body: Cursor<'a, 'p>,
    /// Bytes of the rest.
    pub length: usize,
    /// The TCP or UDP checksum that the sender asked to be filled in.
    pub fill: Fill,
    /// The completion is to tell the opposite of the truth about checksums.
    pub lie: bool,
    /// Its FCS is among the bytes.
    pub with_fcs: bool,
}

impl<'a> Frame<'a, '_> {
    /// A frame whose bytes are all in `bytes`, with headers of `layout`.
    pub fn whole(bytes: &'a mut [u8], layout: &'a Layout) -> Self {
        let transported = {
            let headers = layout.of(bytes);
            Transported::of(&headers, &headers.constants(), bytes.len())
        };
        let counted = counter::Frame::of(bytes, bytes.len());
        Self {
            head: bytes,
            layout,
            stream: None,
            counted,
            ip_filled: false,
            transported,
            body: Cursor::new(&[]),
            length: 0,
            fill: Fill::Nothing,
            lie: false,
            with_fcs: false,
        }
    }

    /// The frame as it is on the cable.
    pub fn flatten(&mut self) -> Vec<u8> {
        let total = self.head.len() + self.length;
        let mut bytes = vec![0; total];
        let (head, body) = bytes.split_at_mut(self.head.len());
        head.copy_from_slice(self.head);
        self.body.read(body);
        let fill = match &self.fill {
            Fill::Nothing => None,
            Fill::Own => self.transported.as_ref(),
            Fill::Inner(inner) => Some(inner),
        };
        if let Some(transported) = fill {
            transported.fill(&mut bytes, Sum::default());
        }
        bytes
    }
}

/// A checksum that is filled in while a frame is copied.
pub enum Fill {
    /// None.
    Nothing,
    /// That of the packet.
    Own,
    /// That of the packet which it carries through a tunnel.
    Inner(Transported),
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was received or dropped.
    Done,
    /// The receiver has no buffer yet.
    Blocked,
}

/// Where a packet goes.
#[derive(Clone, Copy)]
pub struct Route<'p> {
    pub(super) rq: &'p Rq,
    pub(super) cq: &'p Cq,
    counters: Option<&'p QueueCounters>,
    pub(super) label: Label,
    /// What is merged.
    pub(super) lro: Option<&'p Lro>,
}

impl<'p> Route<'p> {
    /// To queue `rq` of `port`, if that still has a place for completions.
    pub(super) fn to(
        port: &'p Port,
        rq: &'p Rq,
        label: Label,
        lro: Option<&'p Lro>,
    ) -> Option<Self> {
        Some(Self {
            rq,
            cq: port.hca.cqs.get(rq.cqn)?,
            counters: port.hca.counters.get(rq.counters),
            label,
            // Elsewhere there is no room for a merged packet, or the driver wants each segment's headers.
            lro: lro.filter(|_| {
                rq.striding
                    .as_ref()
                    .is_some_and(|striding| !striding.splits())
            }),
        })
    }
}

/// Finds out where `port` wants a packet.
pub fn route<'p>(port: &'p Port, headers: &Headers, key: &MatchKey) -> Result<Route<'p>, Unwanted> {
    let (tirn, flow_tag) = port.hca.steering.walk(key)?;
    let queue = || {
        let tir = port.hca.tirs.get(tirn)?;
        let (rqn, hash, hash_type) = tir.select(&port.hca.rqts, headers)?;
        let label = Label {
            hash,
            hash_type,
            flow_tag,
        };
        Route::to(port, port.hca.rqs.get(rqn)?, label, tir.lro())
    };
    queue().ok_or(Unwanted::Dropped)
}

/// What the checksum engine has to know of the headers before they change.
pub struct Transported {
    protocol: Transport,
    /// Where the transport header starts.
    at: usize,
    /// Where the packet ends, without padding.
    end: usize,
    pseudo: Sum,
}

impl Transported {
    /// Of a packet of `total` bytes with `headers` that have `constants`; none where that is not what its headers say.
    pub fn of(headers: &Headers, constants: &Constants, total: usize) -> Option<Self> {
        let (protocol, at) = headers.transport_at()?;
        let end = headers.ip_end();
        // A length that the frame does not have, or that cuts the header: not a packet to check.
        if end > total || end < headers.end() {
            return None;
        }
        Some(Self {
            protocol,
            at,
            end,
            pseudo: constants.pseudo_header(end - at),
        })
    }

    /// Where the checksum is.
    fn field(&self) -> usize {
        match self.protocol {
            Transport::Tcp => self.at + 16,
            Transport::Udp => self.at + 6,
        }
    }

    /// Where the transport header, and payload behind it, end in `head`.
    fn end_in(&self, head: &[u8]) -> usize {
        head.len().min(self.end)
    }

    /// The sum over header and payload, given the payload's.
    #[inline(always)]
    fn sum(&self, head: &[u8], payload: Sum) -> Sum {
        let header = &head[self.at..self.end_in(head)];
        Sum::of(header).add(payload.at(header.len()))
    }

    /// Fills in the checksum. Returns the sum over header and payload, as [`Self::sum`] would from then on.
    #[inline(always)]
    fn fill(&self, head: &mut [u8], payload: Sum) -> Sum {
        let field = self.field()..self.field() + 2;
        let old = u16::from_be_bytes([head[field.start], head[field.start + 1]]);
        let sum = self.sum(head, payload).add(Sum::without(old));
        let mut checksum = !self.pseudo.add(sum).fold();
        // Zero says that a UDP packet has no checksum.
        if checksum == 0 && self.protocol == Transport::Udp {
            checksum = 0xffff;
        }
        head[field].copy_from_slice(&checksum.to_be_bytes());
        // It stands at an even byte of the header.
        sum.add(Sum::word(checksum))
    }

    /// Whether the checksum is right, given the sum over header and payload.
    fn is_right(&self, head: &[u8], sum: Sum) -> bool {
        let none =
            self.protocol == Transport::Udp && head[self.field()..self.field() + 2] == [0, 0];
        none || self.pseudo.add(sum).fold() == 0xffff
    }

    /// Whether the checksum is right of a frame that is whole in `bytes`.
    pub(super) fn intact(&self, bytes: &[u8]) -> bool {
        self.is_right(bytes, self.sum(bytes, Sum::default()))
    }

    /// `CQE_L4_HDR_TYPE_*`.
    #[inline(always)]
    fn completion_type(&self, head: &[u8]) -> u8 {
        const ACK: u8 = 0x10;
        match self.protocol {
            Transport::Udp => 2,
            Transport::Tcp if head[self.at + 13] & ACK == 0 => 1,
            Transport::Tcp if self.end == self.at + usize::from(head[self.at + 12] >> 4) * 4 => 3,
            Transport::Tcp => 4,
        }
    }
}

/// Takes `frame` off the cable at port `to`, and counts it. `patient` says that the sender can wait for a buffer.
#[inline(always)]
pub fn from_cable<'p>(
    ports: &'p [Port; 2],
    to: usize,
    frame: &mut Frame<'_, 'p>,
    batch: &mut Batch<'p>,
    patient: bool,
) -> Outcome {
    const FCS: usize = 4;
    let total = frame.head.len() + frame.length;
    if total + FCS > usize::from(ports[to].hca.vport.port_mtu) {
        ports[to].physical.counters.oversize.add(1);
        return Outcome::Done;
    }
    let outcome = receive(ports, to, frame, batch, patient);
    if outcome == Outcome::Done {
        batch.arrived.count(&frame.counted);
    }
    outcome
}

/// Delivers `frame` to port `to`. `patient` says that the sender can wait for a buffer.
pub fn receive<'p>(
    ports: &'p [Port; 2],
    to: usize,
    frame: &mut Frame<'_, 'p>,
    batch: &mut Batch<'p>,
    patient: bool,
) -> Outcome {
    let port = &ports[to];
    let found = batch.routes.find(ports, to, frame, &mut batch.completions);
    let (route, state) = match found {
        Ok(found) => found,
        Err(unwanted) => {
            let counter = match unwanted {
                Unwanted::Missed => &port.counters.missed,
                Unwanted::Dropped => &port.counters.dropped,
            };
            counter.add(1);
            return Outcome::Done;
        }
    };
    if route.rq.keep_fcs && !frame.with_fcs {
        let lie = frame.lie;
        let mut bytes = frame.flatten();
        bytes.extend(fcs(&bytes));
        let layout = Headers::parse(&bytes).layout();
        let mut frame = Frame {
            lie,
            with_fcs: true,
            ..Frame::whole(&mut bytes, &layout)
        };
        return receive(ports, to, &mut frame, batch, patient);
    }
    let mut receiver = Receiver {
        port,
        route,
        state,
        places: &mut batch.places,
        completions: &mut batch.completions,
    };
    let merging = receiver.route.lro.is_some() || !receiver.state.sessions.is_empty();
    if !merging || !matches!(frame.layout.transport(), Some((Transport::Tcp, _))) {
        return receiver.put(frame, None, patient);
    }
    let outcome = receiver.merge(frame, patient);
    if let Some(due) = receiver.state.sessions.look() {
        batch.unfinished.push((due, to, receiver.route.rq.number));
    }
    outcome
}

/// Who puts packets into one receive queue.
pub(super) struct Receiver<'b, 'p> {
    pub(super) port: &'p Port,
    pub(super) route: &'b mut Route<'p>,
    pub(super) state: &'b mut RqState,
    /// Room for the places of a packet.
    pub(super) places: &'b mut Vec<Slice<'p>>,
    pub(super) completions: &'b mut Completions<'p>,
}

impl Receiver<'_, '_> {
    /// Puts a packet that has waited into the queue. `merged` says that it is several segments.
    pub(super) fn deliver(
        &mut self,
        frame: &mut Frame<'_, '_>,
        merged: Option<Merged>,
        patient: bool,
    ) -> Outcome {
        self.put(frame, merged, patient)
    }

    /// Puts a packet into the queue.
    #[inline(always)]
    fn put(&mut self, frame: &mut Frame<'_, '_>, merged: Option<Merged>, patient: bool) -> Outcome {
        let &mut Route {
            rq,
            cq,
            counters,
            label,
            ..
        } = self.route;
        let port = self.port;
        let layout = frame.layout;
        let stripped = layout.cvlan().filter(|_| !rq.keep_vlan);
        let total = frame.head.len() + frame.length;
        let cut = if stripped.is_some() { VLAN_TAG } else { 0 };
        let shape = shape(rq, frame.head, layout, total, cut);
        let place = match port.faults.arrival() {
            Arrival::Well => rq.place(port, cq, self.state, &shape, self.places, self.completions),
            Arrival::Starved => Err(NoPlace::Wait),
            Arrival::Fails => {
                rq.fail(
                    port,
                    cq,
                    self.state,
                    Syndrome::LocalProtection,
                    self.completions,
                );
                Err(NoPlace::Starved)
            }
        };
        let place = match place {
            Ok(place) => place,
            Err(NoPlace::Wait) if patient => return Outcome::Blocked,
            Err(NoPlace::Wait | NoPlace::Starved) => {
                self.state.starved = true;
                if let Some(counters) = counters {
                    counters.out_of_buffer.add(1);
                }
                return Outcome::Done;
            }
            Err(NoPlace::Discard) => {
                port.counters.too_large.add(1);
                return Outcome::Done;
            }
        };
        for place in &*self.places {
            place.prefetch();
        }
        let payload = merged.map(|_| Sum::of(&frame.head[layout.end()..]).fold());
        let mut info = RxInfo {
            length: (total - cut) as u32,
            hash: label.hash,
            hash_type: label.hash_type,
            flow_tag: label.flow_tag,
            vlan: stripped,
            l2_ok: true,
            l3_ok: frame.ip_filled || layout.of(frame.head).ip_intact(),
            merged,
            ..RxInfo::default()
        };
        store(frame, Cursor::new(self.places), &mut info);
        info.checksum = payload.unwrap_or(info.checksum);
        if frame.lie {
            info.l3_ok = !info.l3_ok;
            info.l4_ok = !info.l4_ok;
            info.checksum = !info.checksum;
        }
        rq.received(port, cq, self.state, &place, &info, self.completions);
        Outcome::Done
    }
}

/// What laying down a packet of `total` bytes, of which `cut` are taken off, depends on.
#[inline(always)]
fn shape(rq: &Rq, head: &[u8], layout: &Layout, total: usize, cut: usize) -> Shape {
    let mut shape = Shape {
        length: total - cut,
        ..Shape::default()
    };
    if let Some(striding) = &rq.striding
        && striding.splits()
        && layout.transport().is_some()
    {
        let headers = layout.of(head);
        // What has no payload is a header with its padding.
        let payload = headers.ip_end() > headers.end();
        shape.header = Some(if payload { headers.end() } else { total } - cut);
        // Padding would lie between the payloads.
        if striding.merges() && headers.ip_end() == total {
            shape.segment = Segment::of(head, &headers);
        }
    }
    shape
}

/// Copies a frame to its places, and sets what `info` has to say of its checksum. The headers come last, because only then
/// they have theirs.
#[inline(always)]
fn store(frame: &mut Frame<'_, '_>, mut places: Cursor<'_, '_>, info: &mut RxInfo) {
    let head = &mut *frame.head;
    let cut = if info.vlan.is_some() { VLAN_TAG } else { 0 };
    let mut behind = places;
    behind.advance(head.len() - cut);
    // What follows the transport payload is padding, which only the sum of all bytes counts.
    let end = match (&frame.fill, &frame.transported) {
        (Fill::Inner(packet), _) | (_, Some(packet)) => packet.end,
        (_, None) => usize::MAX,
    };
    let payload = end.saturating_sub(head.len()).min(frame.length);
    let payload_sum = frame.body.transfer(&mut behind, payload);
    let padding = frame.length - payload;
    let mut padding_sum = Sum::default();
    if padding > 0 {
        padding_sum = frame.body.transfer(&mut behind, padding);
    }
    if let Fill::Inner(inner) = &frame.fill {
        inner.fill(head, payload_sum);
    }
    // The sum of what is behind the Ethernet header: up to the transport header, from there on to the end of its payload, and
    // what is left.
    let start = ETHERNET + cut;
    let sum = match &frame.transported {
        Some(transported) => {
            let sum = if let Fill::Own = frame.fill {
                info.l4_ok = true;
                transported.fill(head, payload_sum)
            } else {
                let sum = transported.sum(head, payload_sum);
                info.l4_ok = transported.is_right(head, sum);
                sum
            };
            info.l4_type = transported.completion_type(head);
            let (at, end) = (transported.at, transported.end_in(head));
            // An IPv4 header with its checksum, and nothing else, adds up to what is as good as nothing.
            let plain = frame.ip_filled && frame.layout.ip() == Some((Ip::V4, start));
            let mut sum = sum.at(at - start);
            if !plain {
                sum = sum.add(Sum::of(&head[start..at]));
            }
            if end < head.len() {
                sum = sum.add(Sum::of(&head[end..]).at(end - start));
            }
            sum
        }
        None => Sum::of(&head[start..]).add(payload_sum.at(head.len() - start)),
    };
    info.checksum = sum.add(padding_sum.at(head.len() - start + payload)).fold();
    // The tag stands before the type, behind the two addresses.
    const ADDRESSES: usize = ETHERNET - 2;
    if cut > 0 {
        places.write(&head[..ADDRESSES]);
        places.write(&head[ADDRESSES + cut..]);
    } else {
        places.write(head);
    }
}
