// SPDX-License-Identifier: MIT OR Apache-2.0
//! Speeds of the generations over a copper cable (`mlx5e_link_info`, `mlx5e_ext_link_info` of Linux), and their error correction.

use crate::obj::physical::{Fec, FecClass, Rate, fec_class};

const LANES_10G_40G: FecClass =
    fec_class(0, (0x10, 0, 4), (0x14, 0, 4), &[Fec::Off, Fec::FireCode]);
const LANES_25G: FecClass = fec_class(
    1,
    (0x10, 4, 4),
    (0x14, 4, 4),
    &[Fec::Rs528, Fec::FireCode, Fec::Off],
);
const LANES_50G: FecClass = fec_class(
    2,
    (0x10, 8, 4),
    (0x14, 8, 4),
    &[Fec::Rs528, Fec::FireCode, Fec::Off],
);
const LANES_100G: FecClass = fec_class(3, (0x10, 12, 4), (0x14, 12, 4), &[Fec::Rs528, Fec::Off]);
const LANE_50G_1: FecClass = fec_class(4, (0x1c, 0, 16), (0x24, 0, 16), &[Fec::Rs544]);
const LANES_100G_2: FecClass = fec_class(5, (0x1c, 16, 16), (0x24, 16, 16), &[Fec::Rs544]);
const LANES_200G_4: FecClass = fec_class(6, (0x18, 0, 16), (0x20, 0, 16), &[Fec::Rs544]);
const LANE_100G_1: FecClass = fec_class(7, (0x2c, 0, 16), (0x48, 0, 16), &[Fec::Rs544]);
const LANES_200G_2: FecClass = fec_class(8, (0x2c, 16, 16), (0x48, 16, 16), &[Fec::Rs544]);
const LANES_400G_4: FecClass = fec_class(9, (0x28, 0, 16), (0x44, 0, 16), &[Fec::Rs544]);

const NONE: u32 = 0;

const fn rate(
    mbit: u32,
    lanes: u32,
    legacy: u32,
    extended: u32,
    fec: Option<&'static FecClass>,
) -> Rate {
    Rate {
        mbit,
        lanes,
        legacy,
        extended,
        fec,
    }
}

/// Four lanes of up to 25 Gbit/s.
pub const UP_TO_100G: &[Rate] = &[
    rate(100_000, 4, 1 << 20, NONE, Some(&LANES_100G)),
    rate(50_000, 2, 1 << 30, NONE, Some(&LANES_50G)),
    rate(40_000, 4, 1 << 6, NONE, Some(&LANES_10G_40G)),
    rate(25_000, 1, 1 << 27, NONE, Some(&LANES_25G)),
    rate(10_000, 1, 1 << 12, NONE, Some(&LANES_10G_40G)),
    rate(1_000, 1, 1 << 1, NONE, None),
];

/// Four lanes of up to 100 Gbit/s.
pub const UP_TO_400G: &[Rate] = &[
    rate(400_000, 4, NONE, 1 << 16, Some(&LANES_400G_4)),
    rate(200_000, 4, NONE, 1 << 12, Some(&LANES_200G_4)),
    rate(200_000, 2, NONE, 1 << 13, Some(&LANES_200G_2)),
    rate(100_000, 4, 1 << 20, 1 << 9, Some(&LANES_100G)),
    rate(100_000, 2, NONE, 1 << 10, Some(&LANES_100G_2)),
    rate(100_000, 1, NONE, 1 << 11, Some(&LANE_100G_1)),
    rate(50_000, 2, 1 << 30, 1 << 7, Some(&LANES_50G)),
    rate(50_000, 1, NONE, 1 << 8, Some(&LANE_50G_1)),
    rate(40_000, 4, 1 << 6, 1 << 5, Some(&LANES_10G_40G)),
    rate(25_000, 1, 1 << 27, 1 << 6, Some(&LANES_25G)),
    rate(10_000, 1, 1 << 12, 1 << 4, Some(&LANES_10G_40G)),
    rate(1_000, 1, 1 << 1, 1 << 1, None),
];
