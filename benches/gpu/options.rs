//! The command line.

use clap::Parser;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Checks the GPU kernels against the reference and times them against a device copy and cuBLAS.
///
/// Exit status: 0, all results right; 1, a wrong result or a failed call; 2, a wrong command line; 3, no GPU or no driver.
#[derive(Parser, Clone, Debug)]
#[command(name = "gpu", version)]
pub struct Options {
    /// Check; time nothing
    #[arg(long)]
    pub check_only: bool,
    /// The main cases only, and fewer repetitions
    #[arg(long)]
    pub quick: bool,
    /// Elements of the timed matrices, such as 2^28 [default: 2^28, or as many as a quarter of the free memory has
    /// room for]
    #[arg(long, value_name = "N", value_parser = elements)]
    pub elements: Option<usize>,
    /// Only cases whose name holds this
    #[arg(long, value_name = "PATTERN")]
    pub only: Option<String>,
    /// Where gpu.json and gpu.svg go
    #[arg(long, value_name = "DIR", default_value = "target/gpu")]
    pub out: PathBuf,
    /// Start nothing more after so many seconds; the report says how much was left out. 0: no end [default: 300, or 60 with
    /// --quick]
    #[arg(long, value_name = "SECONDS")]
    pub budget: Option<u64>,
    /// cuBLAS, or the folder of it [default: looked for where the system, CUDA and Python's packages keep it]
    #[arg(long, value_name = "PATH")]
    pub cublas: Option<PathBuf>,
    /// Which GPU
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub device: u32,
    /// Check on the simulated GPU, at small sizes; needs libptx_sim.so beside the program, where cargo puts it
    #[arg(long)]
    pub simulate: bool,
    /// Only say how long the products should take on an H100, by counting; needs no GPU
    #[arg(long)]
    pub predict: bool,
    /// Only draw how a step with paged states should go on an H100, from the simulator's log
    #[arg(long, value_name = "FILE", requires = "simulate")]
    pub timeline: Option<PathBuf>,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    pub bench: bool,
    /// What cargo's own test programs take: the same as --simulate
    #[arg(long, hide = true)]
    pub test: bool,
}

impl Options {
    /// Timed runs a case.
    pub fn repetitions(&self) -> usize {
        if self.quick { 10 } else { 30 }
    }

    /// When no more is started, if it is timed.
    pub fn deadline(&self) -> Option<Instant> {
        let seconds = self.budget.unwrap_or(if self.quick { 60 } else { 300 });
        (seconds > 0).then(|| Instant::now() + Duration::from_secs(seconds))
    }
}

/// A number, or a power of two as `2^28`.
fn elements(text: &str) -> Result<usize, String> {
    let number = match text.strip_prefix("2^") {
        Some(exponent) => exponent.parse().ok().and_then(|exponent| 1usize.checked_shl(exponent)),
        None => text.parse().ok(),
    };
    let number = number.ok_or("not a number of elements")?;
    if (4096..=1 << 36).contains(&number) { Ok(number) } else { Err("must be from 4096 to 2^36".into()) }
}
