//! The GPU program: checks every kernel against the reference, then times it against a device copy of the same run.
//! How to build it and run it on another machine: benches/README.md.
//!
//! | file | what |
//! |---|---|
//! | [`options`] | the command line |
//! | [`cases`] | what is checked and timed: operations, formats, dtypes, layouts; the bytes that they move |
//! | [`call`] | a case as a call of the library, on memory of any device |
//! | [`data`] | host memory: noise, and matrices of each dtype |
//! | [`reference`] | what a call must give: by the format's definition, or by the CPU backend where that is too slow |
//! | [`device`] | the GPU: memory, stream, facts |
//! | [`check`] | results against the reference, bit for bit |
//! | [`timing`] | seconds by events |
//! | [`copy`] | the roofline: device copies |
//! | [`launch`] | calls too small to fill the device: the cost of a launch, with and without a graph |
//! | [`report`] | figures as a table and as JSON |
//! | [`plot`] | figures as an image |

pub mod call;
pub mod cases;
pub mod check;
pub mod copy;
pub mod data;
pub mod device;
pub mod launch;
pub mod options;
pub mod plot;
pub mod reference;
pub mod report;
pub mod timing;

use cases::{Case, Shape};
use clap::Parser;
use device::Gpu;
use options::Options;
use qlora_kernels::Status;
use report::{Figures, Report};
use std::process::ExitCode;

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A result differs from the reference, or a call failed.
const EXIT_FAILED: u8 = 1;
/// There is no GPU, or no driver that serves it. (2 is clap's, for a wrong command line.)
const EXIT_NO_DEVICE: u8 = 3;

/// Bytes of the copies that are only checked.
const SMALL_COPY: usize = 3 * copy::GRANULE;

fn main() -> ExitCode {
    let mut options = Options::parse();
    // `cargo bench` says --bench; `cargo test --benches` says nothing, and is there to check.
    let by_cargo = std::env::var_os("CARGO_MANIFEST_DIR").is_some();
    options.simulate |= options.test || by_cargo && !options.bench;
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_FAILED),
        Err(error) => {
            eprintln!("gpu: {error}");
            let no_device = |e: &qlora_kernels::Error| e.status() == Status::NoDevice;
            if error.downcast_ref().is_some_and(no_device) {
                eprintln!("gpu: --simulate runs the checks without a GPU");
                return ExitCode::from(EXIT_NO_DEVICE);
            }
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// Does what the command line says; whether all results were right.
pub fn run(options: &Options) -> Result<bool> {
    let simulated = options.simulate && ptx_sim::install() == ptx_sim::Installed::Simulator;
    let gpu = Gpu::open(options.device)?;
    let only = options.only.as_deref();
    let cases = cases::select(options.quick, only);
    if cases.is_empty() {
        return Err(format!("no case's name holds {:?}", only.unwrap_or_default()).into());
    }
    println!("{}{}", gpu.facts.name, if simulated { ": checks at small sizes" } else { "" });
    copy::check(&gpu, SMALL_COPY)?;
    let mut failed = check_small(&gpu, &cases);
    if !simulated {
        let elements = options.elements.map_or_else(|| gpu.default_elements(), Ok)?;
        let shape = Shape::of(elements);
        failed += match options.check_only {
            true => each(&cases, shape, |case| check_large(&gpu, case, shape).map(drop)),
            false => measure(&gpu, options, &cases, shape)?,
        };
    }
    println!("{} cases, {failed} with a wrong result or a failed call", cases.len());
    Ok(failed == 0)
}

/// Checks and times everything and writes the report; how many cases failed.
fn measure(gpu: &Gpu, options: &Options, cases: &[Case], shape: Shape) -> Result<usize> {
    let mut report = Report::new(gpu, shape);
    report.copies = copy::rates(gpu, shape.elements() * 2)?;
    report.failed += each(cases, shape, |case| {
        report.cases.push(check_and_time(gpu, case, shape, options.repetitions())?);
        Ok(())
    });
    let small = launch::cases(options.only.as_deref());
    report.failed += each(&small, launch::SHAPE, |case| {
        report.launches.push(launch::figure(gpu, case, launch::SHAPE, options.repetitions())?);
        Ok(())
    });
    println!("\n{}", report.markdown());
    report.write(&options.out)?;
    Ok(report.failed)
}

/// Does something with each case and says how it went; how many failed.
fn each(cases: &[Case], shape: Shape, mut run: impl FnMut(&Case) -> Result<()>) -> usize {
    let mut failed = 0;
    for case in cases {
        match run(case) {
            Ok(()) => println!("right  {case}, {shape}"),
            Err(error) => {
                println!("WRONG  {case}, {shape}: {error}");
                failed += 1;
            }
        }
    }
    failed
}

/// Checks all cases at the small shapes; how many were wrong.
pub fn check_small(gpu: &Gpu, cases: &[Case]) -> usize {
    let mut failed = 0;
    for case in cases {
        match check_by_format(gpu, case) {
            Ok(bytes) => println!("right  {case}: {bytes} bytes at {} shapes", cases::SMALL.len()),
            Err(error) => {
                println!("WRONG  {case}: {error}");
                failed += 1;
            }
        }
    }
    failed
}

/// Checks a case at the small shapes against the format's definition; the bytes compared.
fn check_by_format(gpu: &Gpu, case: &Case) -> Result<usize> {
    let wild = cases::SMALL.map(|shape| (shape, data::Noise::Wild));
    let tame = (cases::SMALL[4], data::Noise::Weights);
    let mut compared = 0;
    for (shape, noise) in wild.into_iter().chain([tame]) {
        let problem = reference::Problem::new(case, shape, noise, &reference::by_format)?;
        compared +=
            check::check(gpu, case, shape, &problem).map_err(|e| format!("{shape}, {noise:?}: {e}"))?;
    }
    Ok(compared)
}

/// Checks a case at the benchmark's shape against the CPU backend.
fn check_large(gpu: &Gpu, case: &Case, shape: Shape) -> Result<reference::Problem> {
    let problem = reference::Problem::new(case, shape, data::Noise::Weights, &reference::by_cpu)?;
    check::check(gpu, case, shape, &problem)?;
    Ok(problem)
}

/// The same, and times it there.
pub fn check_and_time(gpu: &Gpu, case: &Case, shape: Shape, repetitions: usize) -> Result<Figures> {
    let problem = check_large(gpu, case, shape)?;
    let times = timing::time(gpu, case, shape, &problem.inputs, repetitions)?;
    Ok(Figures::new(case, shape, times))
}
