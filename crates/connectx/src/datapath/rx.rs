// SPDX-License-Identifier: MIT OR Apache-2.0
//! Receiving: from a frame on the cable to a completion.

use super::checksum::Sum;
use super::engine::Batch;
use super::fcs::fcs;
use super::gather::Cursor;
use super::packet::{ETHERNET, Headers, Transport, VLAN_TAG};
use crate::bits::event::{RxInfo, Syndrome};
use crate::fault::Arrival;
use crate::obj::counter::{self, QueueCounters};
use crate::obj::cq::Cq;
use crate::obj::flow::{MatchKey, Unwanted};
use crate::obj::port::Port;
use crate::obj::rq::{NoPlace, Rq};
use crate::obj::series::Segment;
use crate::obj::striding::Shape;

/// A frame on the cable.
pub struct Frame<'a, 'p> {
    /// Its first bytes, all headers among them.
    pub head: &'a mut [u8],
    /// The memory with the rest.
    pub body: Cursor<'a, 'p>,
    /// Bytes of the rest.
    pub length: usize,
    /// The TCP or UDP checksum that the sender asked to be filled in.
    pub fill: Option<Transported>,
    /// The completion is to tell the opposite of the truth about checksums.
    pub lie: bool,
    /// Its FCS is among the bytes.
    pub with_fcs: bool,
}

impl Frame<'_, '_> {
    /// The frame as it is on the cable.
    pub fn flatten(mut self) -> Vec<u8> {
        let total = self.head.len() + self.length;
        let mut bytes = vec![0; total];
        let (head, body) = bytes.split_at_mut(self.head.len());
        head.copy_from_slice(self.head);
        self.body.read(body);
        if let Some(transported) = self.fill {
            transported.fill(&mut bytes, Sum::default());
        }
        bytes
    }
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
    cq: &'p Cq,
    counters: Option<&'p QueueCounters>,
    hash: u32,
    hash_type: u8,
    flow_tag: u32,
}

/// Finds out where `port` wants a packet.
pub fn route<'p>(port: &'p Port, headers: &Headers, key: &MatchKey) -> Result<Route<'p>, Unwanted> {
    let (tirn, flow_tag) = port.hca.steering.walk(key)?;
    let queue = || {
        let tir = port.hca.tirs.get(tirn)?;
        let (rqn, hash, hash_type) = tir.select(&port.hca.rqts, headers)?;
        let rq = port.hca.rqs.get(rqn)?;
        let cq = port.hca.cqs.get(rq.cqn)?;
        Some(Route {
            rq,
            cq,
            counters: port.hca.counters.get(rq.counters),
            hash,
            hash_type,
            flow_tag,
        })
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
    /// Of a packet of `total` bytes; none where that is not what its headers say.
    pub fn of(headers: &Headers, total: usize) -> Option<Self> {
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
            pseudo: headers.pseudo_header(end - at),
        })
    }

    /// Where the checksum is.
    fn field(&self) -> usize {
        match self.protocol {
            Transport::Tcp => self.at + 16,
            Transport::Udp => self.at + 6,
        }
    }

    /// The sum over pseudo-header, header and payload, given the payload's.
    fn sum(&self, head: &[u8], payload: Sum) -> Sum {
        let header = &head[self.at..head.len().min(self.end)];
        self.pseudo
            .add(Sum::of(header))
            .add(payload.at(header.len()))
    }

    /// Fills in the checksum.
    fn fill(&self, head: &mut [u8], payload: Sum) {
        let field = self.field()..self.field() + 2;
        head[field.clone()].fill(0);
        let mut checksum = !self.sum(head, payload).fold();
        // Zero says that a UDP packet has no checksum.
        if checksum == 0 && self.protocol == Transport::Udp {
            checksum = 0xffff;
        }
        head[field].copy_from_slice(&checksum.to_be_bytes());
    }

    /// Whether the checksum is right.
    fn intact(&self, head: &[u8], payload: Sum) -> bool {
        let none =
            self.protocol == Transport::Udp && head[self.field()..self.field() + 2] == [0, 0];
        none || self.sum(head, payload).fold() == 0xffff
    }

    /// `CQE_L4_HDR_TYPE_*`.
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
pub fn from_cable<'p>(
    ports: &'p [Port; 2],
    to: usize,
    frame: Frame<'_, 'p>,
    batch: &mut Batch<'p>,
    patient: bool,
) -> Outcome {
    const FCS: usize = 4;
    let total = frame.head.len() + frame.length;
    if total + FCS > usize::from(ports[to].hca.vport.port_mtu) {
        ports[to].physical.counters.oversize.add(1);
        return Outcome::Done;
    }
    let counted = counter::Frame::of(frame.head, total);
    let outcome = receive(ports, to, frame, batch, patient);
    if outcome == Outcome::Done {
        batch.arrived.count(&counted);
    }
    outcome
}

/// Delivers `frame` to port `to`. `patient` says that the sender can wait for a buffer.
pub fn receive<'p>(
    ports: &'p [Port; 2],
    to: usize,
    frame: Frame<'_, 'p>,
    batch: &mut Batch<'p>,
    patient: bool,
) -> Outcome {
    let port = &ports[to];
    let headers = Headers::parse(frame.head);
    let (route, state) = match batch.routes.find(ports, to, &headers) {
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
        let frame = Frame {
            head: &mut bytes,
            body: Cursor::new(&[]),
            length: 0,
            fill: None,
            lie,
            with_fcs: true,
        };
        return receive(ports, to, frame, batch, patient);
    }
    let stripped = headers.cvlan().filter(|_| !route.rq.keep_vlan);
    let total = frame.head.len() + frame.length;
    let cut = if stripped.is_some() { VLAN_TAG } else { 0 };
    let stored = total - cut;
    let shape = shape(route.rq, frame.head, &headers, total, cut);
    let places = &mut batch.places;
    let place = match port.faults.arrival() {
        Arrival::Well => {
            let (rq, completions) = (route.rq, &mut batch.completions);
            rq.place(port, route.cq, state, &shape, places, completions)
        }
        Arrival::Starved => Err(NoPlace::Wait),
        Arrival::Fails => {
            let (syndrome, completions) = (Syndrome::LocalProtection, &mut batch.completions);
            route.rq.fail(port, route.cq, state, syndrome, completions);
            Err(NoPlace::Starved)
        }
    };
    let place = match place {
        Ok(place) => place,
        Err(NoPlace::Wait) if patient => return Outcome::Blocked,
        Err(NoPlace::Wait | NoPlace::Starved) => {
            state.starved = true;
            if let Some(counters) = route.counters {
                counters.out_of_buffer.add(1);
            }
            return Outcome::Done;
        }
        Err(NoPlace::Discard) => {
            port.counters.too_large.add(1);
            return Outcome::Done;
        }
    };
    for place in &batch.places {
        place.prefetch();
    }
    let info = RxInfo {
        length: stored as u32,
        hash: route.hash,
        hash_type: route.hash_type,
        flow_tag: route.flow_tag,
        vlan: stripped,
        l2_ok: true,
        l3_ok: headers.ip_intact(),
        ..RxInfo::default()
    };
    let transported = Transported::of(&headers, total);
    let lie = frame.lie;
    let mut info = store(
        frame,
        transported.as_ref(),
        Cursor::new(&batch.places),
        info,
    );
    if lie {
        info.l3_ok = !info.l3_ok;
        info.l4_ok = !info.l4_ok;
        info.checksum = !info.checksum;
    }
    let entry = route.rq.received(state, &place, &info);
    batch.completions.push(port, route.cq, entry);
    Outcome::Done
}

/// What laying down a packet of `total` bytes, of which `cut` are taken off, depends on.
fn shape(rq: &Rq, head: &[u8], headers: &Headers<'_>, total: usize, cut: usize) -> Shape {
    let mut shape = Shape {
        length: total - cut,
        ..Shape::default()
    };
    if let Some(striding) = &rq.striding
        && striding.splits()
        && headers.transport_at().is_some()
    {
        // What has no payload is a header with its padding.
        let payload = headers.ip_end() > headers.end();
        shape.header = Some(if payload { headers.end() } else { total } - cut);
        // Padding would lie between the payloads.
        if striding.merges() && headers.ip_end() == total {
            shape.segment = Segment::of(head, headers);
        }
    }
    shape
}

/// Copies a frame to its places; the headers last, because only then their checksum is known.
fn store(
    mut frame: Frame<'_, '_>,
    transported: Option<&Transported>,
    mut places: Cursor<'_, '_>,
    mut info: RxInfo,
) -> RxInfo {
    let head = &mut *frame.head;
    let fill = frame.fill.as_ref();
    let cut = if info.vlan.is_some() { VLAN_TAG } else { 0 };
    let mut behind = places;
    behind.advance(head.len() - cut);
    // What follows the transport payload is padding, which only the sum of all bytes counts.
    let payload = fill
        .or(transported)
        .map_or(frame.length, |transported| {
            transported.end.saturating_sub(head.len())
        })
        .min(frame.length);
    let payload_sum = frame.body.transfer(&mut behind, payload);
    let padding_sum = frame.body.transfer(&mut behind, frame.length - payload);
    if let Some(fill) = fill {
        fill.fill(head, payload_sum);
    }
    if let Some(transported) = transported {
        info.l4_ok = transported.intact(head, payload_sum);
        info.l4_type = transported.completion_type(head);
    }
    let covered = &head[ETHERNET + cut..];
    info.checksum = Sum::of(covered)
        .add(payload_sum.at(covered.len()))
        .add(padding_sum.at(covered.len() + payload))
        .fold();
    // The tag stands before the type, behind the two addresses.
    const ADDRESSES: usize = ETHERNET - 2;
    places.write(&head[..ADDRESSES]);
    places.write(&head[ADDRESSES + cut..]);
    info
}
