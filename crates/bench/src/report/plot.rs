// SPDX-License-Identifier: MIT OR Apache-2.0
//! Plots: medians, with the least and the most of all runs as lines across.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::ranged1d::SegmentValue;
use plotters::prelude::*;

use super::Row;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: u32 = 1100;
const KERNEL: RGBColor = RGBColor(70, 110, 170);
const USER: RGBColor = RGBColor(230, 150, 60);

/// Bars for each direction and MTU: which metric, of what parts, in which file.
struct Bars {
    file: &'static str,
    title: &'static str,
    /// By direction.
    metric: fn(&str) -> &'static str,
    /// Metrics that add up to it, if it has parts.
    parts: &'static [(&'static str, RGBColor)],
}

const BARS: [Bars; 5] = [
    Bars {
        file: "instructions.svg",
        title: "Instructions per MiB (blue: kernel, orange: user)",
        metric: |_| "instructions/MiB",
        parts: &[
            ("kernel-instructions/MiB", KERNEL),
            ("user-instructions/MiB", USER),
        ],
    },
    Bars {
        file: "speed.svg",
        title: "Speed relative to read(2) and write(2) in the same round",
        metric: |direction| match direction {
            "rx" => "speed/read",
            _ => "speed/write",
        },
        parts: &[],
    },
    Bars {
        file: "limited.svg",
        title: "Share of a limited link that TCP payload can have",
        metric: |_| "share-of-link@limited",
        parts: &[],
    },
    Bars {
        file: "touched.svg",
        title: "Bytes of payload loaded or stored by CPUs per byte moved",
        metric: |_| "touched-bytes/byte",
        parts: &[],
    },
    Bars {
        file: "first-packet.svg",
        title: "Milliseconds from the first call to the first packet, 64 MiB of memory",
        metric: |_| "first-packet-ms",
        parts: &[],
    },
];

/// Lines over what is behind a metric's `@`.
struct Lines {
    file: &'static str,
    title: &'static str,
    /// What stands behind the `@`, before the number.
    over: &'static str,
    x: &'static str,
    metric: &'static str,
    y: &'static str,
}

const LINES: [Lines; 7] = [
    Lines {
        file: "messages.svg",
        title: "Messages",
        over: "message=",
        x: "bytes of a message",
        metric: "instructions/message",
        y: "instructions per message",
    },
    Lines {
        file: "sockets.svg",
        title: "Connections at a time",
        over: "sockets=",
        x: "connections",
        metric: "kernel-instructions/packet",
        y: "kernel instructions per packet",
    },
    Lines {
        file: "unmerged-sockets.svg",
        title: "Connections at a time, without GRO",
        over: "unmerged-sockets=",
        x: "connections",
        metric: "kernel-instructions/packet",
        y: "kernel instructions per packet",
    },
    Lines {
        file: "regions.svg",
        title: "Regions that 64 MiB are divided into",
        over: "regions=",
        x: "regions",
        metric: "instructions/MiB",
        y: "instructions per MiB",
    },
    Lines {
        file: "buffers.svg",
        title: "Buffers of the receive queue",
        over: "buffers=",
        x: "buffers of 4 KiB",
        metric: "instructions/MiB",
        y: "instructions per MiB",
    },
    Lines {
        file: "rx-ring.svg",
        title: "Entries of the rx ring",
        over: "rx-entries=",
        x: "entries",
        metric: "instructions/MiB",
        y: "instructions per MiB",
    },
    Lines {
        file: "fill-ring.svg",
        title: "Entries of the fill ring, for 16384 buffers",
        over: "fill-entries=",
        x: "entries",
        metric: "instructions/MiB",
        y: "instructions per MiB",
    },
];

/// Draws all of which there are rows, into files of `out`.
pub(super) fn draw(out: &Path, rows: &[Row]) -> Result<()> {
    for bars in &BARS {
        draw_bars(out, bars, rows)
            .map_err(|error| anyhow!("cannot draw {}: {error}", bars.file))?;
    }
    for lines in &LINES {
        draw_lines(out, lines, rows)
            .map_err(|error| anyhow!("cannot draw {}: {error}", lines.file))?;
    }
    Ok(())
}

/// What plotters says when it cannot.
type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw_bars(out: &Path, bars: &Bars, rows: &[Row]) -> Drawn {
    // Each is what is in one panel, sorted as the rows are.
    let mut panels: BTreeMap<_, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        if row.metric == (bars.metric)(&row.direction) {
            panels
                .entry((row.direction.as_str(), row.mtu, profile(row)))
                .or_default()
                .push(row);
        }
    }
    if panels.is_empty() {
        return Ok(());
    }
    let heights: Vec<_> = panels
        .values()
        .map(|shown| 70 + 24 * shown.len() as u32)
        .collect();
    let file = out.join(bars.file);
    let root =
        SVGBackend::new(&file, (WIDTH, 40 + heights.iter().sum::<u32>())).into_drawing_area();
    root.fill(&WHITE)?;
    let mut rest = root.titled(bars.title, ("sans-serif", 24))?;
    for (shown, height) in panels.values().zip(heights) {
        let (area, below) = rest.split_vertically(height);
        draw_panel(&area, bars, shown, rows)?;
        rest = below;
    }
    root.present()?;
    Ok(())
}

/// The profile of the software ConnectX, as it stands behind the path.
fn profile(row: &Row) -> &str {
    row.path
        .split_once('/')
        .map_or("cx5", |(_, profile)| profile)
}

/// What the measured end does, and with what MTU.
fn kind(row: &Row) -> String {
    let kind = if row.direction == "rx" {
        "receiving"
    } else {
        "sending"
    };
    format!("{kind}, MTU {}, {}", row.mtu, profile(row))
}

/// Path and memory.
fn name(row: &Row) -> String {
    let path = row.path.split('/').next().unwrap_or_default();
    match row.memory.as_str() {
        "host" => path.to_owned(),
        memory => format!("{path} ({memory})"),
    }
}

/// At least one row.
fn draw_panel(area: &Area<'_>, bars: &Bars, shown: &[&Row], rows: &[Row]) -> Drawn {
    let most = shown.iter().map(|row| row.max).fold(0.0, f64::max);
    // Something to see where all is zero.
    let most = if most > 0.0 { most * 1.15 } else { 1.0 };
    let names: Vec<_> = shown.iter().map(|row| name(row)).collect();
    let mut chart = ChartBuilder::on(area)
        .caption(
            format!("{}; medians of {} runs", kind(shown[0]), shown[0].runs),
            ("sans-serif", 16),
        )
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(170)
        .build_cartesian_2d(0.0..most, (0..shown.len() - 1).into_segmented())?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(shown.len())
        .y_label_formatter(&|value| match value {
            SegmentValue::CenterOf(at) => names.get(*at).cloned().unwrap_or_default(),
            _ => String::new(),
        })
        .x_label_formatter(&|value| number(*value))
        .draw()?;
    for (at, row) in shown.iter().enumerate() {
        let mut from = 0.0;
        let mut bar = |to: f64, color: RGBColor| -> Drawn {
            let corners = [
                (from, SegmentValue::Exact(at)),
                (to, SegmentValue::Exact(at + 1)),
            ];
            let mut rectangle = Rectangle::new(corners, color.filled());
            rectangle.set_margin(4, 4, 0, 0);
            chart.draw_series([rectangle])?;
            from = to;
            Ok(())
        };
        let mut to = 0.0;
        for (metric, color) in bars.parts {
            let part = rows.iter().find(|part| {
                part.metric == *metric
                    && (&part.direction, &part.path, &part.memory, part.mtu)
                        == (&row.direction, &row.path, &row.memory, row.mtu)
            });
            to += part.map_or(0.0, |part| part.median);
            bar(to, *color)?;
        }
        if bars.parts.is_empty() {
            bar(row.median, KERNEL)?;
        }
        let middle = SegmentValue::CenterOf(at);
        chart.draw_series([PathElement::new(
            [(row.min, middle.clone()), (row.max, middle.clone())],
            BLACK.stroke_width(2),
        )])?;
        chart.draw_series([EmptyElement::at((row.max, middle))
            + Text::new(number(row.median), (6, -7), ("sans-serif", 14))])?;
    }
    Ok(())
}

fn draw_lines(out: &Path, lines: &Lines, rows: &[Row]) -> Drawn {
    // Number behind the `@`, and the row.
    let points: Vec<(f64, &Row)> = rows
        .iter()
        .filter_map(|row| {
            let (metric, tag) = row.metric.split_once('@')?;
            let number = tag.strip_prefix(lines.over)?.parse().ok()?;
            (metric == lines.metric).then_some((number, row))
        })
        .collect();
    let mut panels: BTreeMap<_, Vec<(f64, &Row)>> = BTreeMap::new();
    for (number, row) in points {
        panels
            .entry((row.direction.as_str(), row.mtu, profile(row)))
            .or_default()
            .push((number, row));
    }
    if panels.is_empty() {
        return Ok(());
    }
    let file = out.join(lines.file);
    let root = SVGBackend::new(&file, (WIDTH, 40 + 380 * panels.len() as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    let areas = root
        .titled(lines.title, ("sans-serif", 24))?
        .split_evenly((panels.len(), 1));
    for (area, points) in areas.iter().zip(panels.values()) {
        let names: BTreeSet<_> = points.iter().map(|(_, row)| name(row)).collect();
        let least = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::INFINITY, f64::min);
        let most = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
        let x = least(&mut points.iter().map(|(x, _)| *x))
            ..most(&mut points.iter().map(|(x, _)| *x)) * 1.1;
        // Whole powers of ten are what has a label.
        let least_y = least(&mut points.iter().map(|(_, row)| row.min));
        let most_y = most(&mut points.iter().map(|(_, row)| row.max));
        let y = 10f64.powf(least_y.log10().floor())..10f64.powf(most_y.log10().ceil());
        let mut chart = ChartBuilder::on(area)
            .caption(
                format!(
                    "{}; medians of {} runs",
                    kind(points[0].1),
                    points[0].1.runs
                ),
                ("sans-serif", 16),
            )
            .margin(8)
            .x_label_area_size(44)
            .y_label_area_size(90)
            .build_cartesian_2d(x.log_scale(), y.log_scale())?;
        chart
            .configure_mesh()
            .x_desc(lines.x)
            .y_desc(lines.y)
            .x_label_formatter(&|value| number(*value))
            .y_label_formatter(&|value| number(*value))
            .draw()?;
        for (at, label) in names.into_iter().enumerate() {
            let color = Palette99::pick(at);
            let mut of: Vec<_> = points
                .iter()
                .filter(|(_, row)| name(row) == label)
                .collect();
            of.sort_by(|(a, _), (b, _)| a.total_cmp(b));
            let line = of.iter().map(|(x, row)| (*x, row.median));
            chart
                .draw_series(LineSeries::new(line, color.stroke_width(2)).point_size(3))?
                .label(label)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 16, y)], Palette99::pick(at).stroke_width(3))
                });
            chart.draw_series(of.iter().map(|(x, row)| {
                PathElement::new([(*x, row.min), (*x, row.max)], color.stroke_width(1))
            }))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()?;
    }
    root.present()?;
    Ok(())
}

/// A number as short as it can be read.
fn number(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{:.2} M", value / 1e6),
        value if value >= 1e4 => format!("{:.1} k", value / 1e3),
        value if value >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        value => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.0314, "0.031"),
            (1.5, "1.500"),
            (1024.0, "1024"),
            (65_536.0, "65.5 k"),
            (1_234_567.0, "1.23 M"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
