// SPDX-License-Identifier: MIT OR Apache-2.0
//! Striding receive queues: an entry is a large piece of memory that packets are laid into one after
//! the other, each at the start of a stride, and with header split a part of the header buffer, too.

use super::port::Port;
use super::ring::Ring;
use super::series::{Segment, Series};
use crate::bits::event::Syndrome;
use crate::bits::op::Refusal;
use crate::bits::striding::{ENTRY, Split, SplitContext, Strides, StridingContext, data, next};
use crate::bits::wqe::Data;
use crate::mem::{Access, Slice};

/// The largest header that a completion can tell of.
const MAX_HEADER: usize = u8::MAX as usize;

/// What is fixed about the entries of a striding queue.
#[derive(Debug)]
pub struct Striding {
    log_stride: u32,
    /// Strides in an entry.
    strides: u32,
    split: Option<SplitContext>,
    /// Header entries that belong to one entry. The driver posts it again only after it has read them.
    headers: u32,
}

/// How far a striding queue is.
#[derive(Debug, Default)]
pub struct Fill {
    /// The entry that was used up last.
    previous: Option<u16>,
    open: Option<Open>,
}

/// The entry in use.
#[derive(Debug)]
struct Open {
    entry: u16,
    data: Data,
    /// Strides that are taken.
    used: u32,
    /// Where the last payload ended.
    end: u32,
    /// Header entries that are taken.
    headers: u32,
    series: Option<(Series, u32)>,
}

/// What laying a packet down depends on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shape {
    /// Bytes to store.
    pub length: usize,
    /// How many of them are headers, if there is a place to split.
    pub header: Option<usize>,
    /// What merging has to know.
    pub segment: Option<Segment>,
}

/// Where a packet is laid. Nothing has changed yet.
#[derive(Clone, Copy, Debug)]
pub struct Landing {
    strides: Strides,
    start: u32,
    end: u32,
    segment: Option<Segment>,
}

impl Landing {
    /// What the completion says about place. A packet that is not `intact` continues nothing.
    fn completion(&self, flush: bool, intact: bool) -> Strides {
        let mut strides = self.strides;
        if let Some(split) = &mut strides.split {
            split.matches &= intact;
            split.flush = flush;
        }
        strides
    }
}

/// Why there is no [`Landing`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoLanding {
    /// The open entry has too little room left: [`Striding::close`] it.
    Full,
    /// No entry is open: [`Striding::open`] one.
    Closed,
    /// No entry is large enough.
    TooSmall,
    /// Memory that the queue was given cannot be reached; the queue must stop.
    Broken(String),
}

impl Striding {
    /// A queue of 2^`log_size` entries as `context` describes it.
    pub fn new(context: &StridingContext, log_size: u32) -> Result<Self, Refusal> {
        let headers = match context.split {
            Some(split) if split.log_entries < log_size => {
                return Err(Refusal::param(
                    "header split: fewer header entries than receive entries",
                ));
            }
            Some(split) => 1 << (split.log_entries - log_size),
            None => 0,
        };
        Ok(Self {
            log_stride: context.log_stride,
            strides: 1 << context.log_strides,
            split: context.split,
            headers,
        })
    }

    /// Bytes in an entry.
    fn size(&self) -> u32 {
        self.strides << self.log_stride
    }

    /// Strides that `bytes` bytes touch.
    fn touched(&self, bytes: u32) -> u32 {
        bytes.div_ceil(1 << self.log_stride)
    }

    /// Whether headers are split off.
    pub fn splits(&self) -> bool {
        self.split.is_some()
    }

    /// Whether payloads are merged.
    pub fn merges(&self) -> bool {
        self.split.is_some_and(|split| split.merge)
    }

    /// The entry that [`Self::close`] is about, or that failed.
    pub fn current(fill: &Fill) -> u16 {
        fill.open
            .as_ref()
            .map_or(fill.previous.unwrap_or(0), |open| open.entry)
    }

    /// Opens the next entry: the first, or the one that the last one leads to. There must be one posted:
    /// only then the driver has made the link.
    pub fn open(
        &self,
        port: &Port,
        ring: &Ring,
        fill: &mut Fill,
    ) -> Result<(), (Syndrome, String)> {
        let fault = |fault: crate::mem::Fault| (Syndrome::LocalProtection, fault.to_string());
        let read = |index: u16| -> Result<[u8; ENTRY], (Syndrome, String)> {
            let mut entry = [0; ENTRY];
            let memory = &port.bus.memory;
            ring.read(memory, u32::from(index), &mut entry)
                .map_err(fault)?;
            Ok(entry)
        };
        let entry = fill
            .previous
            .map_or(Ok(0), |index| read(index).map(|entry| next(&entry)))?;
        if u32::from(entry) >= ring.size() {
            return Err((
                Syndrome::LocalOperation,
                format!("the list leads to entry {entry}, which the queue does not have"),
            ));
        }
        let data = data(&read(entry)?);
        if data.length < self.size() {
            return Err((
                Syndrome::LocalLength,
                format!("{} bytes are less than its strides take", data.length),
            ));
        }
        fill.open = Some(Open {
            entry,
            data,
            used: 0,
            end: 0,
            headers: 0,
            series: None,
        });
        Ok(())
    }

    /// Gives up what is left of the open entry. Returns the strides, for a completion without a packet.
    pub fn close(&self, fill: &mut Fill) -> Option<Strides> {
        let open = fill.open.take()?;
        fill.previous = Some(open.entry);
        (open.used < self.strides).then(|| Strides {
            entry: open.entry,
            first: open.used as u16,
            taken: (self.strides - open.used) as u16,
            split: None,
        })
    }

    /// Finds the place for a packet in the open entry, and appends its pieces to `places`: first those in the
    /// header buffer, then those in the entry.
    pub fn lay<'p>(
        &self,
        port: &'p Port,
        pd: u32,
        fill: &Fill,
        shape: &Shape,
        places: &mut Vec<Slice<'p>>,
    ) -> Result<Landing, NoLanding> {
        let header = match (&self.split, shape.header) {
            (Some(split), Some(header)) if header <= MAX_HEADER.min(1 << split.log_entry) => header,
            _ => 0,
        };
        let payload = u32::try_from(shape.length - header).unwrap_or(u32::MAX);
        if payload > self.size() {
            return Err(NoLanding::TooSmall);
        }
        let open = fill.open.as_ref().ok_or(NoLanding::Closed)?;
        let segment = shape.segment.filter(|_| header > 0);
        let matched = segment.is_some_and(|segment| self.continues(open, &segment, payload));
        let start = match &self.split {
            _ if matched => open.end,
            Some(split) => open.end.next_multiple_of(1 << split.log_alignment),
            None => open.used << self.log_stride,
        };
        // A payload of nothing starts nowhere; one stride for a packet of any other kind.
        let end = if payload > 0 {
            start + payload
        } else {
            open.end
        };
        let used = self.touched(end).max(open.used);
        if used > self.strides || (header > 0 && open.headers >= self.headers) {
            return Err(NoLanding::Full);
        }
        let index = u32::from(open.entry) * self.headers + open.headers;
        let address = open.data.address.wrapping_add(u64::from(start));
        let broken = |fault: crate::obj::mkey::KeyFault| NoLanding::Broken(fault.to_string());
        if let Some(split) = self.split.filter(|_| header > 0) {
            let at = u64::from(index) << split.log_entry;
            port.slices(split.key, pd, Access::Write, at, header, places)
                .map_err(broken)?;
        }
        let key = open.data.key;
        port.slices(key, pd, Access::Write, address, payload as usize, places)
            .map_err(broken)?;
        Ok(Landing {
            strides: Strides {
                entry: open.entry,
                first: (start >> self.log_stride) as u16,
                taken: (used - open.used) as u16,
                split: self.split.map(|_| Split {
                    header_size: header as u8,
                    header_index: if header > 0 { index as u16 } else { 0 },
                    data_offset: start,
                    matches: matched,
                    flush: true,
                }),
            },
            start,
            end,
            segment,
        })
    }

    /// Whether a payload of `segment` can be laid right behind the last one.
    fn continues(&self, open: &Open, segment: &Segment, payload: u32) -> bool {
        let (Some(split), Some((series, start))) = (&self.split, &open.series) else {
            return false;
        };
        // Reservations are pieces of the entry; a series does not leave its own.
        let reservation_end = ((start >> split.log_reservation) + 1) << split.log_reservation;
        split.merge
            && series.takes(segment)
            && series.count() < 1 << split.log_packets
            && open.end + payload <= reservation_end.min(self.size())
    }

    /// A packet has been stored at `landing`, which is the last one asked for. `intact` says that its checksums are right.
    /// Returns what the completion says, and whether the entry is used up.
    pub fn commit(&self, fill: &mut Fill, landing: &Landing, intact: bool) -> (Strides, bool) {
        let Some(open) = &mut fill.open else {
            return (landing.strides, false);
        };
        let split = landing.strides.split.unwrap_or_default();
        open.used += u32::from(landing.strides.taken);
        open.end = landing.end;
        open.headers += u32::from(split.header_size > 0);
        let before = open.series.take();
        open.series = match (landing.segment.filter(|_| intact && self.merges()), before) {
            (Some(segment), Some((series, start))) if split.matches => {
                series.with(segment).map(|series| (series, start))
            }
            (Some(segment), _) => Series::start(segment).map(|series| (series, landing.start)),
            (None, _) => None,
        };
        let full = open.used == self.strides;
        let flush = full || open.series.is_none();
        if full {
            fill.previous = Some(open.entry);
            fill.open = None;
        }
        (landing.completion(flush, intact), full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bits::Fields;
    use crate::bits::FieldsMut;
    use crate::obj::mkey::{Mkey, Pages, Space};
    use crate::obj::port::tests::port;
    use crate::obj::series::tests::{segment, tcp};

    const PD: u32 = 5;
    const RING: u64 = 0x1000;

    /// Four entries of 16 strides of 256 bytes, the data at 0x10000, headers of 64 bytes at 0x8000: four an entry.
    struct Setup {
        port: Port,
        ring: Ring,
        striding: Striding,
        fill: Fill,
        data: u32,
    }

    fn setup(split: bool) -> Setup {
        let mut port = port(0x2_0000);
        let mut key = |pages: Vec<u64>| {
            let length = pages.len() as u64 * 0x1000;
            let mkey = Mkey {
                pd: PD,
                variant: 0,
                read: true,
                write: true,
                umr: true,
                space: Space::Pages(Pages::new(false, 0, length, 12, pages)),
            };
            port.hca.mkeys.insert(mkey).unwrap() << 8
        };
        let data = key((0..4).map(|i| 0x1_0000 + i * 0x1000).collect());
        let headers = key(vec![0x8000]);
        let split = split.then_some(SplitContext {
            key: headers,
            log_entry: 6,
            log_entries: 4,
            log_reservation: 12,
            log_packets: 3,
            log_alignment: 8,
            merge: true,
        });
        let context = StridingContext {
            log_stride: 8,
            log_strides: 4,
            split,
        };
        let setup = Setup {
            ring: Ring::new(Fields(&RING.to_be_bytes()), 0, 2, 5).unwrap(),
            port,
            striding: Striding::new(&context, 2).unwrap(),
            fill: Fill::default(),
            data,
        };
        // As the driver links them, but for the second and third, which change places.
        for (entry, next) in [(0, 2), (1, 3), (2, 1), (3, 0)] {
            setup.entry(entry, next, 0x1000);
        }
        setup
    }

    impl Setup {
        fn entry(&self, entry: u16, next: u16, length: u32) {
            let mut bytes = [0; ENTRY];
            let mut fields = FieldsMut(&mut bytes);
            fields.set_u16(0x02, next);
            fields.set_u32(0x10, length);
            fields.set_u32(0x14, self.data);
            fields.set_u64(0x18, u64::from(entry) * 0x1000);
            let at = RING + u64::from(entry) * ENTRY as u64;
            self.port.bus.memory.write(at, &bytes).unwrap();
        }

        fn open(&mut self) {
            self.striding
                .open(&self.port, &self.ring, &mut self.fill)
                .unwrap();
        }

        /// Lays a packet down; what the completion says, and the bytes of each piece.
        fn put(&mut self, shape: &Shape) -> Result<(Strides, Vec<usize>), NoLanding> {
            self.put_intact(shape, true)
        }

        fn put_intact(
            &mut self,
            shape: &Shape,
            intact: bool,
        ) -> Result<(Strides, Vec<usize>), NoLanding> {
            let mut places = Vec::new();
            let Self {
                port,
                striding,
                fill,
                ..
            } = self;
            let landing = striding.lay(port, PD, fill, shape, &mut places)?;
            let lengths = places.iter().map(|place| place.len()).collect();
            Ok((striding.commit(fill, &landing, intact).0, lengths))
        }

        /// The same with a segment; whether it matches, is flushed, where it starts, and strides.
        fn segment(&mut self, frame: &[u8], payload: usize) -> (bool, bool, u32, u16) {
            let (strides, _) = self.put(&shape_of(frame, payload)).unwrap();
            let split = strides.split.unwrap();
            (split.matches, split.flush, split.data_offset, strides.taken)
        }
    }

    fn plain(length: usize) -> Shape {
        Shape {
            length,
            ..Shape::default()
        }
    }

    fn shape_of(frame: &[u8], payload: usize) -> Shape {
        Shape {
            length: frame.len() + payload,
            header: Some(frame.len()),
            segment: segment(frame),
        }
    }

    #[test]
    fn packets_start_at_strides_and_an_entry_is_used_up_to_the_last() {
        let mut setup = setup(false);
        assert_eq!(setup.put(&plain(60)), Err(NoLanding::Closed));
        setup.open();
        let (strides, lengths) = setup.put(&plain(257)).unwrap();
        assert_eq!((strides.entry, strides.first, strides.taken), (0, 0, 2));
        assert_eq!((strides.split, lengths), (None, vec![257]));
        let (strides, _) = setup.put(&plain(256)).unwrap();
        assert_eq!((strides.first, strides.taken), (2, 1));
        assert_eq!(setup.put(&plain(13 * 256 + 1)), Err(NoLanding::Full));
        let (strides, _) = setup.put(&plain(13 * 256)).unwrap();
        assert_eq!((strides.first, strides.taken), (3, 13));
        assert_eq!(setup.put(&plain(60)), Err(NoLanding::Closed), "used up");
        assert_eq!(setup.striding.close(&mut setup.fill), None);
    }

    #[test]
    fn entries_follow_the_list() {
        let mut setup = setup(false);
        for entry in [0, 2, 1, 3, 0] {
            setup.open();
            let (strides, _) = setup.put(&plain(60)).unwrap();
            assert_eq!((strides.entry, strides.first), (entry, 0));
            let rest = setup.striding.close(&mut setup.fill).unwrap();
            assert_eq!((rest.entry, rest.first, rest.taken), (entry, 1, 15));
        }
    }

    #[test]
    fn a_broken_entry_is_refused() {
        let mut setup = setup(false);
        setup.entry(0, 4, 0x1000);
        setup.open();
        setup.striding.close(&mut setup.fill);
        let open = |setup: &mut Setup| {
            let Setup {
                striding,
                port,
                ring,
                fill,
                ..
            } = setup;
            striding.open(port, ring, fill).unwrap_err().0
        };
        assert_eq!(open(&mut setup), Syndrome::LocalOperation, "no such entry");
        setup.entry(0, 2, 0x1000);
        setup.entry(2, 1, 0xfff);
        assert_eq!(open(&mut setup), Syndrome::LocalLength, "too short");
        setup.data = 0x100;
        setup.entry(2, 1, 0x1000);
        setup.open();
        assert!(matches!(setup.put(&plain(60)), Err(NoLanding::Broken(_))));
        assert_eq!(setup.put(&plain(0x1001)), Err(NoLanding::TooSmall));
    }

    #[test]
    fn headers_go_to_entries_of_their_own() {
        let mut setup = setup(true);
        setup.open();
        let frame = tcp(0, 300, 1);
        let (strides, lengths) = setup.put(&shape_of(&frame, 300)).unwrap();
        assert_eq!((strides.taken, lengths), (2, vec![54, 300]));
        let split = strides.split.unwrap();
        assert_eq!((split.header_size, split.header_index), (54, 0));
        // No payload: no strides. No place to split: no header.
        let bare = Shape {
            length: 60,
            header: Some(60),
            segment: None,
        };
        let (strides, lengths) = setup.put(&bare).unwrap();
        assert_eq!((strides.taken, lengths), (0, vec![60]));
        assert_eq!(strides.split.unwrap().header_index, 1);
        let (strides, lengths) = setup.put(&plain(60)).unwrap();
        assert_eq!((strides.first, strides.taken, lengths), (2, 1, vec![60]));
        let split = strides.split.unwrap();
        assert_eq!((split.header_size, split.data_offset), (0, 512));
        // A header that is too long for its entry stays where it is.
        let long = Shape {
            length: 200,
            header: Some(65),
            segment: None,
        };
        assert_eq!(setup.put(&long).unwrap().1, [200]);
        // Four header entries belong to one entry of the queue.
        setup.put(&bare).unwrap();
        setup.put(&bare).unwrap();
        assert_eq!(setup.put(&bare), Err(NoLanding::Full));
        setup.striding.close(&mut setup.fill);
        setup.open();
        let (strides, _) = setup.put(&bare).unwrap();
        assert_eq!(strides.entry, 2);
        assert_eq!(strides.split.unwrap().header_index, 2 * 4);
    }

    #[test]
    fn payloads_that_continue_lie_behind_each_other() {
        let mut setup = setup(true);
        setup.open();
        assert_eq!(
            [
                setup.segment(&tcp(0, 100, 1), 100),
                setup.segment(&tcp(100, 100, 2), 100),
                setup.segment(&tcp(200, 100, 3), 100),
                setup.segment(&tcp(300, 50, 4), 50),
            ],
            [
                (false, false, 0, 1),
                (true, false, 100, 0),
                (true, false, 200, 1),
                (true, true, 300, 0),
            ]
        );
    }

    #[test]
    fn a_gap_starts_anew_at_a_stride() {
        let mut setup = setup(true);
        setup.open();
        setup.segment(&tcp(0, 300, 1), 300);
        let gap = setup.segment(&tcp(400, 300, 2), 300);
        assert_eq!(gap, (false, false, 512, 2));
        // Any other packet ends a series as well.
        setup.put(&plain(60)).unwrap();
        let again = setup.segment(&tcp(700, 300, 3), 300);
        assert_eq!(again, (false, false, 5 * 256, 2));
    }

    #[test]
    fn a_wrong_checksum_ends_the_series() {
        let mut setup = setup(true);
        setup.open();
        setup.segment(&tcp(0, 300, 1), 300);
        let frame = tcp(300, 300, 2);
        let (strides, _) = setup.put_intact(&shape_of(&frame, 300), false).unwrap();
        let split = strides.split.unwrap();
        assert!(!split.matches && split.flush);
        let next = setup.segment(&tcp(600, 300, 3), 300);
        assert_eq!(next, (false, false, 768, 2));
    }

    #[test]
    fn a_series_ends_with_its_reservation_and_its_entry() {
        let mut setup = setup(true);
        setup.open();
        setup.segment(&tcp(0, 3000, 1), 3000);
        let frame = tcp(3000, 3000, 2);
        assert_eq!(setup.put(&shape_of(&frame, 3000)), Err(NoLanding::Full));
        let rest = setup.striding.close(&mut setup.fill).unwrap();
        assert_eq!((rest.first, rest.taken), (12, 4));
        setup.open();
        let anew = setup.segment(&frame, 3000);
        assert_eq!(anew, (false, false, 0, 12));
        // To the last byte: the entry is used up, and nothing can follow.
        let last = setup.segment(&tcp(6000, 1096, 3), 1096);
        assert_eq!(last, (true, true, 3000, 4));
        assert_eq!(setup.put(&plain(60)), Err(NoLanding::Closed));
    }

    #[test]
    fn fewer_header_entries_than_entries() {
        let context = StridingContext {
            log_stride: 8,
            log_strides: 4,
            split: setup(true).striding.split,
        };
        assert!(Striding::new(&context, 4).is_ok());
        assert!(Striding::new(&context, 5).is_err());
    }
}
