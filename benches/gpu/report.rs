//! Figures as a table, as JSON, and (by [`plot`](super::plot)) as an image.

use super::cases::{Case, Shape};
use super::copy::Copy;
use super::device::{Facts, Gpu};
use super::launch::Launch;
use super::link::Link;
use super::timing::Times;
use super::{Result, Tally, paged, plot, products};
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Everything of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    pub version: &'static str,
    /// UTC.
    pub date: String,
    pub command: Vec<String>,
    pub device: Facts,
    pub elements: usize,
    pub tally: Tally,
    /// Where it was found, and its version.
    pub cublas: Option<String>,
    pub copies: Vec<Copy>,
    pub cases: Vec<Figures>,
    pub products: Vec<products::Figures>,
    pub link: Option<Link>,
    pub paged: Vec<paged::Figures>,
    pub launches: Vec<Launch>,
}

/// A timed case.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    pub name: String,
    /// Read and written, as the format counts them.
    pub bytes: usize,
    pub times: Times,
    pub bytes_per_second: f64,
    /// The share of the copy rate that is aimed at.
    pub goal: Option<f64>,
}

impl Figures {
    pub fn new(case: &Case, shape: Shape, times: Times) -> Self {
        let bytes = case.traffic(shape);
        let bytes_per_second = bytes as f64 / times.median;
        Self { name: case.to_string(), bytes, times, bytes_per_second, goal: case.goal() }
    }
}

impl Report {
    /// Of a run that begins.
    pub fn new(gpu: &Gpu, shape: Shape) -> Self {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        Self {
            version: env!("CARGO_PKG_VERSION"),
            date: date(seconds / 86_400),
            command: std::env::args().collect(),
            device: gpu.facts.clone(),
            elements: shape.elements(),
            tally: Tally::default(),
            cublas: None,
            copies: Vec::new(),
            cases: Vec::new(),
            products: Vec::new(),
            link: None,
            paged: Vec::new(),
            launches: Vec::new(),
        }
    }

    /// The roofline: the best copy's bytes a second.
    pub fn copy_rate(&self) -> f64 {
        self.copies.iter().map(|copy| copy.bytes_per_second).fold(0.0, f64::max)
    }

    /// For benches/RESULTS.md.
    pub fn markdown(&self) -> String {
        let Facts { name, multiprocessors, driver_version, cuda_version, kernel_target, .. } = &self.device;
        let driver = driver_version.as_deref().unwrap_or("unknown");
        let mut out = format!(
            "{name} ({multiprocessors} SMs), driver {driver} (CUDA {cuda_version}), kernels for {kernel_target}, {}. \
             `{}`\n\n",
            self.date,
            self.command.join(" ")
        );
        let mut line = |text: std::fmt::Arguments| writeln!(out, "{text}").expect("writing to a string");
        line(format_args!(
            "| copy of {} bytes | ms | GB/s |",
            self.copies.first().map_or(0, |c| c.bytes / 2)
        ));
        line(format_args!("|---|---|---|"));
        for copy in &self.copies {
            line(format_args!(
                "| {} | {:.3} | {:.0} |",
                copy.name,
                copy.times.median * 1e3,
                copy.bytes_per_second / 1e9
            ));
        }
        line(format_args!("\n| {} elements | ms | GB/s | share of copy | goal | met |", self.elements));
        line(format_args!("|---|---|---|---|---|---|"));
        for case in &self.cases {
            let (ms, gb) = (case.times.median * 1e3, case.bytes_per_second / 1e9);
            let share = case.bytes_per_second / self.copy_rate();
            let (goal, met) = (ratio(case.goal), yes(case.goal.map(|goal| share >= goal)));
            line(format_args!("| {} | {ms:.3} | {gb:.0} | {share:.2} | {goal} | {met} |", case.name));
        }
        match &self.cublas {
            Some(cublas) => line(format_args!("\ncuBLAS: {cublas}.")),
            None => line(format_args!("\ncuBLAS was not found.")),
        }
        line(format_args!(
            "\n| products | ms | TFLOP/s | GB/s | share of copy | cuBLAS, ms | times faster | goal | met | predicted, ms |"
        ));
        line(format_args!("|---|---|---|---|---|---|---|---|---|---|"));
        for product in &self.products {
            let seconds = product.times.median;
            let (name, ms, tera) = (&product.name, seconds * 1e3, product.operations / seconds / 1e12);
            let rate = product.bytes as f64 / seconds;
            let (gb, share) = (rate / 1e9, rate / self.copy_rate());
            let theirs = product.cublas.map_or("-".into(), |times| format!("{:.4}", times.median * 1e3));
            let predicted = product.predicted.map_or("-".into(), |seconds| format!("{:.4}", seconds * 1e3));
            let (faster, goal, met) = (ratio(product.ratio()), ratio(product.goal), yes(product.is_met()));
            line(format_args!(
                "| {name} | {ms:.4} | {tera:.1} | {gb:.0} | {share:.2} | {theirs} | {faster} | {goal} | {met} | {predicted} |"
            ));
        }
        let met = |wanted| self.products.iter().filter(|p| p.is_met() == Some(wanted)).count();
        line(format_args!("\n{} of {} goals of products are met.", met(true), met(true) + met(false)));
        if let Some(link) = &self.link {
            let [into, out, both] = [link.into, link.out, link.both].map(|rate| rate / 1e9);
            line(format_args!(
                "\nThe link, {} bytes each way: {into:.1} GB/s in, {out:.1} out, {both:.1} each way at once.\n",
                link.bytes
            ));
            line(format_args!(
                "| paged steps | parameters | budget | ms | MB in | MB out | share of link | goal | met |"
            ));
            line(format_args!("|---|---|---|---|---|---|---|---|---|"));
            for step in &self.paged {
                let paged::Figures { name, parameters, budget, .. } = step;
                let [ms, into, out] =
                    [step.median * 1e3, step.bytes_in as f64 / 1e6, step.bytes_out as f64 / 1e6];
                let share = step.share(link);
                let (goal, met) = (ratio(step.goal), yes(step.goal.map(|goal| share >= goal)));
                line(format_args!(
                    "| {name} | {parameters} | {budget} | {ms:.3} | {into:.1} | {out:.1} | {share:.2} | {goal} | {met} |"
                ));
            }
        }
        if self.tally.left_out > 0 {
            line(format_args!(
                "\n{} cases were left out: the time was over (--budget).",
                self.tally.left_out
            ));
        }
        line(format_args!("\n| small calls, µs each | elements | host | in a stream | in a graph |"));
        line(format_args!("|---|---|---|---|---|"));
        for launch in &self.launches {
            let [host, stream, graph] =
                [launch.host, launch.stream, launch.graph].map(|seconds| seconds * 1e6);
            let (name, elements) = (&launch.name, launch.elements);
            line(format_args!("| {name} | {elements} | {host:.2} | {stream:.2} | {graph:.2} |"));
        }
        out
    }

    /// Writes gpu.json and gpu.svg.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let error =
            |what: &Path, error: &dyn std::fmt::Display| format!("cannot write {}: {error}", what.display());
        std::fs::create_dir_all(folder).map_err(|e| error(folder, &e))?;
        let (json, image) = (folder.join("gpu.json"), folder.join("gpu.svg"));
        std::fs::write(&json, serde_json::to_string_pretty(self)? + "\n").map_err(|e| error(&json, &e))?;
        plot::shares(&image, self).map_err(|e| error(&image, &e))?;
        println!("{} and {} are written", json.display(), image.display());
        Ok(())
    }
}

/// A number of the table, if there is one.
fn ratio(ratio: Option<f64>) -> String {
    ratio.map_or("-".into(), |ratio| format!("{ratio:.2}"))
}

fn yes(is_so: Option<bool>) -> &'static str {
    match is_so {
        Some(true) => "yes",
        Some(false) => "NO",
        None => "-",
    }
}

/// The date, so many days after 1970-01-01.
pub fn date(mut days: u64) -> String {
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let months = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= months[month] {
        days -= months[month];
        month += 1;
    }
    format!("{year}-{:02}-{:02}", month + 1, days + 1)
}
