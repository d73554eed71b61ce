//! The plots of the document.

use anyhow::Result;
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::{
    goals::name,
    records::{BUFFER, MEMINFO, Records},
    tables::SERVERS,
};

/// A color for each of [`SERVERS`].
const COLORS: [RGBColor; 5] = [
    RGBColor(0x88, 0x88, 0x88),
    RGBColor(0xa6, 0xc4, 0xe8),
    RGBColor(0xd0, 0x4a, 0x40),
    RGBColor(0x24, 0x62, 0xa8),
    RGBColor(0x34, 0x94, 0x54),
];

const FONT: (&str, i32) = ("sans-serif", 14);

/// Room for the names of files, and of servers.
const LEFT: u32 = 140;
const RIGHT: u32 = 130;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws into an SVG of that size, with the names of the servers at the right.
fn draw(size: (u32, u32), draw: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE)?;
        let (plot, legend) = area.split_horizontally(size.0.saturating_sub(RIGHT));
        draw(&plot)?;
        for ((y, (_, words)), color) in (40..).step_by(22).zip(SERVERS).zip(COLORS) {
            legend.draw(&Rectangle::new([(4, y), (16, y + 12)], color.filled()))?;
            legend.draw(&Text::new(words, (22, y), FONT))?;
        }
        area.present()?;
    }
    Ok(svg)
}

/// How long one reader takes for each file: bars, as long as the logarithm.
pub(crate) fn reads(records: &Records) -> Result<String> {
    let files = records.files();
    // A bar is 1 high, and files are 1 apart.
    let step = SERVERS.len() as f64 + 1.0;
    draw((900, 860), |area| {
        let mut chart = ChartBuilder::on(area)
            .caption("Microseconds for open, read, read, close (8 KiB, one reader, one CPU)", FONT)
            .margin(10)
            .x_label_area_size(30)
            .y_label_area_size(LEFT)
            .build_cartesian_2d((1.0..1000.0).log_scale(), files.len() as f64 * step..0.0)?;
        chart.configure_mesh().disable_y_mesh().y_labels(0).label_style(FONT).draw()?;
        let style = TextStyle::from(FONT).pos(Pos::new(HPos::Right, VPos::Center));
        for (index, file) in (0u32..).zip(&files) {
            let top = f64::from(index) * step;
            let (x, y) = chart.backend_coord(&(1.0, top + step / 2.0));
            area.draw(&Text::new(name(file), (x - 8, y), style.clone()))?;
            let reads = SERVERS.map(|(server, _)| records.read(file, server));
            for ((bar, read), color) in (0u32..).zip(reads).zip(COLORS) {
                let Some(read) = read else { continue };
                let top = top + 0.5 + f64::from(bar);
                let corners = [(1.0, top), (read.median_us, top + 0.9)];
                chart.plotting_area().draw(&Rectangle::new(corners, color.filled()))?;
            }
        }
        Ok(())
    })
}

/// How many reads of `meminfo` there are in a second, by how many readers: on one CPU, and on all.
pub(crate) fn readers(records: &Records) -> Result<String> {
    draw((900, 420), |area| {
        let panels = area.split_evenly((1, 2));
        for (panel, (placement, words)) in
            panels.iter().zip([("pinned", "one CPU"), ("free", "all CPUs")])
        {
            let mut chart = ChartBuilder::on(panel)
                .caption(format!("Reads of meminfo in a second, {words}"), FONT)
                .margin(10)
                .x_label_area_size(40)
                .y_label_area_size(70)
                .build_cartesian_2d((1.0..64.0).log_scale().base(2.0), (1e3..1e6).log_scale())?;
            chart.configure_mesh().x_desc("readers").label_style(FONT).draw()?;
            for ((server, _), color) in SERVERS.into_iter().zip(COLORS) {
                let points: Vec<(f64, f64)> = [1u32, 2, 4, 64]
                    .into_iter()
                    .filter_map(|readers| {
                        let of = usize::try_from(readers).ok()?;
                        let read = records.read_by(placement, of, BUFFER, MEMINFO, server)?;
                        Some((f64::from(readers), read.reads_per_s))
                    })
                    .collect();
                chart.draw_series(LineSeries::new(points.clone(), color.stroke_width(2)))?;
                let dots = points.into_iter().map(|point| Circle::new(point, 3, color.filled()));
                chart.draw_series(dots)?;
            }
        }
        Ok(())
    })
}
