// SPDX-License-Identifier: MIT OR Apache-2.0
//! The physical port: speeds, error correction and pause, and how two ends agree on them.
//!
//! These settings are the firmware's, not the driver's: they outlive a driver, and a reset of the function sets them back.

use super::counter::PhysicalCounters;

/// A mode of forward error correction: its bit in `fec_mode_active` (`enum mlx5e_fec_*` of `en/port.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fec {
    /// None.
    Off = 0,
    /// Fire code, BASE-R.
    FireCode = 1,
    /// Reed-Solomon, lanes of up to 25 Gbit/s.
    Rs528 = 2,
    /// Reed-Solomon, faster lanes.
    Rs544 = 7,
}

impl Fec {
    const fn bit(self) -> u32 {
        1 << self as u32
    }

    /// Of a Reed-Solomon code: its number in the histogram of corrections (`MLX5E_HISTOGRAM_FEC_RS_*`), and how many symbols of
    /// a code word it corrects.
    pub fn reed_solomon(self) -> Option<(u32, u32)> {
        match self {
            Self::Off | Self::FireCode => None,
            Self::Rs528 => Some((3, 7)),
            Self::Rs544 => Some((1, 15)),
        }
    }
}

/// Speeds that share their choice of error correction (fields of `struct mlx5_ifc_pplm_reg_bits`).
#[derive(Debug)]
pub struct FecClass {
    /// Which it is of a port's choices.
    pub index: usize,
    /// Where the possible modes are: byte of the word, lowest bit, number of bits.
    pub capability: (usize, u32, u32),
    /// Where the wanted mode is.
    pub admin: (usize, u32, u32),
    /// Possible modes, the one that two free ends agree on first.
    pub modes: &'static [Fec],
}

impl FecClass {
    /// A bit for each possible mode.
    pub fn possible(&self) -> u32 {
        self.modes.iter().fold(0, |bits, mode| bits | mode.bit())
    }

    /// What ends agree on that want these modes; zero is any.
    fn agreed(&self, wanted: [u32; 2]) -> Option<Fec> {
        let open = |wanted: u32, mode: Fec| wanted == 0 || wanted & mode.bit() != 0;
        let mut modes = self.modes.iter().copied();
        modes.find(|mode| wanted.iter().all(|&wanted| open(wanted, *mode)))
    }
}

/// How many [`FecClass`]es there are.
pub const FEC_CLASSES: usize = 10;

/// The class with this number, fields and modes.
pub const fn fec_class(
    index: usize,
    capability: (usize, u32, u32),
    admin: (usize, u32, u32),
    modes: &'static [Fec],
) -> FecClass {
    FecClass {
        index,
        capability,
        admin,
        modes,
    }
}

/// A speed of the link.
#[derive(Debug)]
pub struct Rate {
    /// Mbit/s.
    pub mbit: u32,
    /// Lanes.
    pub lanes: u32,
    /// Its bit among the link modes of generations up to the fifth (`enum mlx5e_link_mode`), if it has one.
    pub legacy: u32,
    /// Its bit among the extended link modes (`enum mlx5e_ext_link_mode`), if it has one.
    pub extended: u32,
    /// Its error correction, if it has any.
    pub fec: Option<&'static FecClass>,
}

/// The link modes of a register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    /// `enum mlx5e_link_mode`.
    pub legacy: u32,
    /// `enum mlx5e_ext_link_mode`.
    pub extended: u32,
}

impl Modes {
    /// Those of all `rates`.
    pub fn of(rates: &[Rate]) -> Self {
        Self {
            legacy: rates.iter().fold(0, |bits, rate| bits | rate.legacy),
            extended: rates.iter().fold(0, |bits, rate| bits | rate.extended),
        }
    }

    fn has(self, rate: &Rate) -> bool {
        self.legacy & rate.legacy != 0 || self.extended & rate.extended != 0
    }
}

/// What two ends have agreed on.
#[derive(Clone, Copy, Debug)]
pub struct Agreement {
    /// Speed.
    pub rate: &'static Rate,
    /// Error correction.
    pub fec: Fec,
    /// Speeds that the other end has offered; none if it does not negotiate.
    pub offered: Modes,
}

/// Which ends of a link stop when the other has no buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Tell the other end to stop.
    pub send: bool,
    /// Stop when told to.
    pub obey: bool,
}

/// What a driver can set.
#[derive(Debug)]
pub struct Settings {
    /// Speeds that it wants. One kind only: the other is zero.
    pub wanted: Modes,
    /// It wants no negotiation of the speed.
    pub fixed: bool,
    /// Error correction that it wants, by class; zero is any.
    pub fec: [u32; FEC_CLASSES],
    /// Pause frames.
    pub pause: Pause,
}

impl Settings {
    /// Those after power-on: anything goes.
    fn of(rates: &[Rate]) -> Self {
        let all = Modes::of(rates);
        let wanted = match all.extended {
            0 => all,
            extended => Modes {
                legacy: 0,
                extended,
            },
        };
        Self {
            wanted,
            fixed: false,
            fec: [0; FEC_CLASSES],
            pause: Pause {
                send: true,
                obey: true,
            },
        }
    }
}

/// The physical port of a function.
#[derive(Debug)]
pub struct Physical {
    /// Speeds that the hardware has, fastest first.
    pub rates: &'static [Rate],
    /// What the driver has set.
    pub settings: Settings,
    /// How the link runs. Nothing: it is down.
    pub link: Option<Agreement>,
    /// Statistics.
    pub counters: PhysicalCounters,
}

impl Physical {
    /// A port after power-on.
    pub fn new(rates: &'static [Rate]) -> Self {
        Self {
            rates,
            settings: Settings::of(rates),
            link: None,
            counters: PhysicalCounters::default(),
        }
    }

    /// Sets back all that a driver can set.
    pub fn reset(&mut self) {
        self.settings = Settings::of(self.rates);
    }

    /// Whether some speeds have extended link modes.
    pub fn has_extended_modes(&self) -> bool {
        Modes::of(self.rates).extended != 0
    }

    /// What this end and the other agree on, if they do: the fastest speed of both for which there is a mode of error
    /// correction of both.
    pub fn agree(&self, other: &Self) -> Option<Agreement> {
        let (mine, theirs) = (&self.settings, &other.settings);
        let both = |rate: &&Rate| mine.wanted.has(rate) && theirs.wanted.has(rate);
        self.rates.iter().filter(both).find_map(|rate| {
            let fec = match rate.fec {
                Some(class) => class.agreed([mine.fec[class.index], theirs.fec[class.index]])?,
                None => Fec::Off,
            };
            let offered = if theirs.fixed {
                Modes::default()
            } else {
                theirs.wanted
            };
            Some(Agreement { rate, fec, offered })
        })
    }

    /// Whether this end can make `other` wait.
    pub fn can_pause(&self, other: &Self) -> bool {
        self.settings.pause.send && other.settings.pause.obey
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CX5, CX7, Model};

    fn mbit(a: &Physical, b: &Physical) -> Option<u32> {
        a.agree(b).map(|link| link.rate.mbit)
    }

    fn fields(rates: &[Rate]) -> Vec<(usize, u32, u32)> {
        let classes = rates.iter().filter_map(|rate| rate.fec);
        let mut fields: Vec<_> = classes.flat_map(|c| [c.capability, c.admin]).collect();
        fields.sort_unstable();
        fields.dedup();
        fields
    }

    #[test]
    fn free_ends_take_the_fastest_speed() {
        let cx5 = || Physical::new(CX5.rates());
        let link = cx5().agree(&cx5()).unwrap();
        assert_eq!((link.rate.mbit, link.fec), (100_000, Fec::Rs528));
        let cx7 = || Physical::new(CX7.rates());
        let link = cx7().agree(&cx7()).unwrap();
        assert_eq!((link.rate.mbit, link.fec), (400_000, Fec::Rs544));
    }

    #[test]
    fn the_fastest_of_both_or_none() {
        let (mut a, mut b) = (Physical::new(CX5.rates()), Physical::new(CX5.rates()));
        a.settings.wanted.legacy = 1 << 27 | 1 << 12;
        assert_eq!(mbit(&a, &b), Some(25_000));
        b.settings.wanted.legacy = 1 << 12 | 1 << 20;
        assert_eq!(mbit(&a, &b), Some(10_000));
        b.settings.wanted.legacy = 1 << 20;
        assert_eq!(mbit(&a, &b), None);
    }

    #[test]
    fn error_correction_must_be_the_same_at_both_ends() {
        let (mut a, mut b) = (Physical::new(CX5.rates()), Physical::new(CX5.rates()));
        let class = a.rates[0].fec.unwrap().index;
        a.settings.fec[class] = Fec::Off.bit();
        assert_eq!(a.agree(&b).unwrap().fec, Fec::Off);
        b.settings.fec[class] = Fec::Rs528.bit();
        assert_eq!(
            mbit(&a, &b),
            Some(50_000),
            "at 100 Gbit/s they do not agree"
        );
    }

    #[test]
    fn rates_are_sorted_and_no_two_share_a_bit() {
        for rates in [CX5.rates(), CX7.rates()] {
            assert!(rates.windows(2).all(|pair| pair[0].mbit >= pair[1].mbit));
            let (mut legacy, mut extended) = (0, 0);
            for rate in rates {
                assert_eq!((legacy & rate.legacy, extended & rate.extended), (0, 0));
                legacy |= rate.legacy;
                extended |= rate.extended;
            }
            let fields = fields(rates);
            let overlap = fields
                .windows(2)
                .any(|pair| pair[0].0 == pair[1].0 && pair[0].1 + pair[0].2 > pair[1].1);
            assert!(!overlap, "{fields:x?}");
        }
    }
}
