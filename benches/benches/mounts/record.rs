//! What was measured, as a file that plots and tables are made from.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};

/// One line.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Row {
    pub(crate) placement: &'static str,
    pub(crate) readers: usize,
    pub(crate) buffer: usize,
    pub(crate) file: &'static str,
    pub(crate) server: &'static str,
    /// Reads per second, of all readers together.
    pub(crate) rate: f64,
    /// Microseconds that one read took.
    pub(crate) median: f64,
    pub(crate) p99: f64,
    /// Microseconds of CPU time that the server used for one read.
    pub(crate) server_cpu: f64,
}

#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) rows: Vec<Row>,
    pub(crate) requests: Vec<(&'static str, String)>,
    pub(crate) memory: Vec<(&'static str, u64)>,
}

impl Record {
    /// Writes it, one line each, with tabs between columns.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cpus = std::thread::available_parallelism()?;
        let mut text = format!("# Linux {}, {cpus} CPUs\n", kernel.trim());
        for (server, requests) in &self.requests {
            writeln!(text, "# {server}: requests for one read of proc/meminfo: {requests}")?;
        }
        for (server, kib) in &self.memory {
            writeln!(text, "# {server}: {kib} KiB resident")?;
        }
        text.push_str(
            "placement\treaders\tbuffer\tfile\tserver\treads_per_s\tmedian_us\tp99_us\tserver_cpu_us\n",
        );
        for row in &self.rows {
            let Row { placement, readers, buffer, file, server, rate, median, p99, server_cpu } =
                row;
            writeln!(
                text,
                "{placement}\t{readers}\t{buffer}\t{file}\t{server}\t{rate:.0}\t{median:.1}\t{p99:.1}\t{server_cpu:.1}"
            )?;
        }
        let written = fs::write(path, text);
        written.with_context(|| format!("cannot write {}", path.display()))?;
        let plot = path.with_extension("svg");
        let drawn = fs::write(&plot, self.draw()?);
        drawn.with_context(|| format!("cannot write {}", plot.display()))
    }

    /// How long one reader takes for a file, on one CPU: a bar for each server.
    fn draw(&self) -> Result<String> {
        const COLORS: [(&str, &str); 5] = [
            ("native", "#888888"),
            ("bare", "#b8cce4"),
            ("lxcfs", "#d9534f"),
            ("cgview", "#2f6db3"),
            ("by-id", "#3c9d5b"),
        ];
        const LEFT: f64 = 150.0;
        const WIDTH: f64 = 560.0;
        const BAR: f64 = 11.0;
        let rows: Vec<&Row> = self
            .rows
            .iter()
            .filter(|row| (row.placement, row.readers, row.buffer) == ("pinned", 1, 8192))
            .collect();
        let longest = rows.iter().map(|row| row.median).fold(1.0, f64::max);
        let mut bars = String::new();
        let mut y = 40.0;
        let mut file = "";
        for row in rows {
            if row.file != file {
                file = row.file;
                y += 12.0;
                writeln!(bars, "<text x='8' y='{:.0}'>{file}</text>", y + BAR)?;
            }
            let color = COLORS.iter().find(|(name, _)| *name == row.server).map_or("", |(_, c)| c);
            let width = row.median / longest * WIDTH;
            let (end, text) = (LEFT + width + 4.0, y + BAR - 2.0);
            writeln!(
                bars,
                "<rect x='{LEFT}' y='{y}' width='{width:.1}' height='{BAR}' fill='{color}'/>\
                 <text x='{end:.1}' y='{text}' font-size='9'>{:.1}</text>",
                row.median
            )?;
            y += BAR + 1.0;
        }
        for (x, (name, color)) in (0..).map(|index| LEFT + f64::from(index) * 90.0).zip(COLORS) {
            writeln!(
                bars,
                "<rect x='{x}' y='24' width='11' height='11' fill='{color}'/>\
                 <text x='{}' y='34'>{name}</text>",
                x + 16.0
            )?;
        }
        Ok(format!(
            "<svg xmlns='http://www.w3.org/2000/svg' width='780' height='{:.0}' \
             font-family='sans-serif' font-size='12'>\n<rect width='100%' height='100%' \
             fill='white'/>\n<text x='8' y='16'>Microseconds for open, read, read, close; one \
             reader, 8 KiB at a time, one CPU</text>\n{bars}</svg>\n",
            y + 10.0
        ))
    }
}
