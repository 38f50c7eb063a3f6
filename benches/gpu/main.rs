//! The GPU program: checks the kernels against the reference, then times them against a device copy of the same run.
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
//! | [`products`] | the matrix products: against f64, as operations a second |
//! | [`optimizer`] | the AdamW step |
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
pub mod optimizer;
pub mod options;
pub mod plot;
pub mod products;
pub mod reference;
pub mod report;
pub mod timing;

use cases::{Case, Shape};
use clap::Parser;
use device::Gpu;
use optimizer::Step;
use options::Options;
use products::Product;
use qlora_kernels::Status;
use report::{Figures, Report};
use std::fmt::Display;
use std::process::ExitCode;

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A result differs from the reference, or a call failed.
const EXIT_FAILED: u8 = 1;
/// There is no GPU, or no driver that serves it. (2 is clap's, for a wrong command line.)
const EXIT_NO_DEVICE: u8 = 3;

/// Bytes of the copies that are only checked.
const SMALL_COPY: usize = 3 * copy::GRANULE;
/// Parameters of the steps that are only checked.
const SMALL_STEP: usize = 10_007;

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
    let work = Work::select(options);
    if work.count() == 0 {
        return Err(format!("no case's name holds {:?}", options.only.as_deref().unwrap_or_default()).into());
    }
    println!("{}{}", gpu.facts.name, if simulated { ": checks at small sizes" } else { "" });
    copy::check(&gpu, SMALL_COPY)?;
    let mut failed = work.check_small(&gpu);
    if !simulated {
        let elements = options.elements.map_or_else(|| gpu.default_elements(), Ok)?;
        let shape = Shape::of(elements);
        failed += match options.check_only {
            true => work.check_large(&gpu, shape),
            false => work.measure(&gpu, options, shape)?,
        };
    }
    println!("{} cases, {failed} with a wrong result or a failed call", work.count());
    Ok(failed == 0)
}

/// What the command line asks for.
pub struct Work {
    pub cases: Vec<Case>,
    /// Of the checks at small sizes, and of what is timed.
    pub products: [Vec<Product>; 2],
    pub steps: Vec<Step>,
}

impl Work {
    pub fn select(options: &Options) -> Self {
        let only = options.only.as_deref();
        Self {
            cases: cases::select(options.quick, only),
            products: [products::small(only), products::large(options.quick, only)],
            steps: optimizer::select(only),
        }
    }

    pub fn count(&self) -> usize {
        self.cases.len() + self.products.iter().map(Vec::len).sum::<usize>() + self.steps.len()
    }

    /// Checks all at the small shapes; how many were wrong.
    pub fn check_small(&self, gpu: &Gpu) -> usize {
        let shapes = cases::SMALL.len();
        each(&self.cases, |case| Ok(format!("{} bytes at {shapes} shapes", check_by_format(gpu, case)?)))
            + each(&self.products[0], |product| Ok(format!("{} elements", product.check(gpu)?)))
            + each(&self.steps, |step| Ok(format!("{} bytes", step.check(gpu, SMALL_STEP)?)))
    }

    /// Checks all at the sizes that are timed; how many were wrong.
    fn check_large(&self, gpu: &Gpu, shape: Shape) -> usize {
        each(&self.cases, |case| check_large(gpu, case, shape).and(Ok(shape)))
            + each(&self.products[1], |product| Ok(format!("{} elements", product.check(gpu)?)))
            + each(&self.steps, |step| Ok(format!("{} bytes", step.check(gpu, step_len(shape))?)))
    }

    /// Checks and times all and writes the report; how many failed.
    fn measure(&self, gpu: &Gpu, options: &Options, shape: Shape) -> Result<usize> {
        let repetitions = options.repetitions();
        let mut report = Report::new(gpu, shape);
        report.copies = copy::rates(gpu, shape.elements() * 2)?;
        let mut failed = each(&self.cases, |case| {
            report.cases.push(check_and_time(gpu, case, shape, repetitions)?);
            Ok(shape)
        });
        failed += each(&self.steps, |step| {
            report.cases.push(step.check_and_time(gpu, step_len(shape), repetitions)?);
            Ok(format!("{} parameters", step_len(shape)))
        });
        failed += each(&self.products[1], |product| {
            report.products.push(product.check_and_time(gpu, repetitions)?);
            Ok("timed")
        });
        let small = launch::cases(options.only.as_deref());
        failed += each(&small, |case| {
            report.launches.push(launch::figure(gpu, case, launch::SHAPE, repetitions)?);
            Ok(launch::SHAPE)
        });
        report.failed = failed;
        println!("\n{}", report.markdown());
        report.write(&options.out)?;
        Ok(failed)
    }
}

/// Does something with each item and says how it went; how many failed.
fn each<T: Display, D: Display>(items: &[T], mut run: impl FnMut(&T) -> Result<D>) -> usize {
    let mut failed = 0;
    for item in items {
        match run(item) {
            Ok(detail) => println!("right  {item}: {detail}"),
            Err(error) => {
                println!("WRONG  {item}: {error}");
                failed += 1;
            }
        }
    }
    failed
}

/// Parameters of an optimizer step, whose state is several times as large as a matrix of as many elements.
fn step_len(shape: Shape) -> usize {
    shape.elements() / 4
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
