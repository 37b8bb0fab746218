// SPDX-License-Identifier: MIT OR Apache-2.0
//! Transport interface receive objects: how a stream of packets is spread over receive queues.

use super::Table;
use super::lro::Lro;
use crate::bits::ctx::{HashContext, LroContext, TirContext, TirTarget};
use crate::datapath::packet::Headers;
use crate::datapath::rss::Hasher;

/// The most entries of an indirection table (capability `log_max_rqt_size`).
pub const MAX_RQT: usize = 256;

/// An indirection table.
#[derive(Debug)]
pub struct Rqt {
    /// The most entries it may get.
    pub max: usize,
    /// Numbers of receive queues. There is at least one.
    pub queues: Vec<u32>,
}

/// A transport interface receive object.
#[derive(Debug)]
pub struct Tir {
    target: TirTarget,
    hasher: Hasher,
    lro: Option<Lro>,
}

impl Tir {
    /// A TIR as `context` describes it.
    pub fn new(context: &TirContext) -> Self {
        Self {
            target: context.target,
            hasher: Hasher::new(&context.hash),
            lro: Lro::new(&context.lro),
        }
    }

    /// Changes how packets are spread.
    pub fn set_hash(&mut self, hash: &HashContext) {
        self.hasher = Hasher::new(hash);
    }

    /// Changes what is merged.
    pub fn set_lro(&mut self, lro: &LroContext) {
        self.lro = Lro::new(lro);
    }

    /// What is merged, if anything.
    pub fn lro(&self) -> Option<&Lro> {
        self.lro.as_ref()
    }

    /// The receive queue for a packet, its hash and the hash's type.
    pub fn select(&self, rqts: &Table<Rqt>, headers: &Headers) -> Option<(u32, u32, u8)> {
        let (hash, kind) = self.hasher.hash(headers);
        let rqn = match self.target {
            TirTarget::Direct(rqn) => rqn,
            TirTarget::Indirect(rqtn) => {
                let queues = &rqts.get(rqtn)?.queues;
                *queues.get(hash as usize % queues.len().max(1))?
            }
        };
        Some((rqn, hash, kind))
    }
}
