//! The GPU program: checks the kernels against the reference, then times them against a device copy and cuBLAS in the same
//! run.
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
//! | [`products`] | the matrix products: against f64, as operations a second, beside cuBLAS |
//! | [`goals`] | what they are to reach, and the shapes that this is for |
//! | [`cublas`] | cuBLAS, found at run time |
//! | [`predict`] | how long the products should take on an H100 |
//! | [`optimizer`] | the AdamW step with states in 32 and in 8 bits |
//! | [`paged`] | the same step with paged states |
//! | [`link`] | the roofline of those: copies between host and device |
//! | [`timeline`] | such a step as a picture, from the simulator's log |
//! | [`launch`] | calls too small to fill the device: the cost of a launch, with and without a graph |
//! | [`report`] | figures as a table and as JSON |
//! | [`plot`] | figures as an image |

pub mod call;
pub mod cases;
pub mod check;
pub mod copy;
pub mod cublas;
pub mod data;
pub mod device;
pub mod goals;
pub mod launch;
pub mod link;
pub mod optimizer;
pub mod options;
pub mod paged;
pub mod plot;
pub mod predict;
pub mod products;
pub mod reference;
pub mod report;
#[cfg(target_os = "linux")]
pub mod timeline;
pub mod timing;

use cases::{Case, Shape};
use clap::Parser;
use cublas::Cublas;
use device::Gpu;
use optimizer::Step;
use options::Options;
use paged::PagedStep;
use products::{Benches, Product};
use qlora_kernels::Status;
use report::{Figures, Report};
use serde::Serialize;
use std::fmt::Display;
use std::ops::{Add, AddAssign};
use std::process::ExitCode;
use std::time::Instant;

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A result differs from the reference, or a call failed.
const EXIT_FAILED: u8 = 1;
/// There is no GPU, or no driver that serves it. (2 is clap's, for a wrong command line.)
const EXIT_NO_DEVICE: u8 = 3;

/// Bytes of the copies that are only checked.
const SMALL_COPY: usize = 3 * copy::GRANULE;
/// Parameters of the steps that are only checked.
const SMALL_STEP: usize = 10_007;
/// The same where some states do not fit the least budget.
const SMALL_PAGED: usize = 150_011;

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

/// Puts the simulator in the driver's place; whether it is there, and not the machine's own driver.
fn install_simulator() -> Result<bool> {
    #[cfg(target_os = "linux")]
    return Ok(ptx_sim::install() == ptx_sim::Installed::Simulator);
    #[cfg(not(target_os = "linux"))]
    return Err("--simulate: the simulator runs on Linux only".into());
}

/// Does what the command line says; whether all results were right.
pub fn run(options: &Options) -> Result<bool> {
    if options.predict {
        println!("{}", predict::markdown());
        return Ok(true);
    }
    let simulated = options.simulate && install_simulator()?;
    let gpu = Gpu::open(options.device)?;
    if let Some(file) = &options.timeline {
        if !simulated {
            return Err("--timeline draws the simulator's log, and this is not the simulator".into());
        }
        #[cfg(target_os = "linux")]
        timeline::draw(
            file,
            &timeline::operations(&timeline::record(&gpu, paged::STREAMED_8BIT, timeline::PARAMETERS)?),
        )?;
        println!("{} is written", file.display());
        return Ok(true);
    }
    let work = Work::select(options);
    if work.count() == 0 {
        return Err(format!("no case's name holds {:?}", options.only.as_deref().unwrap_or_default()).into());
    }
    println!("{}{}", gpu.facts.name, if simulated { ": checks at small sizes" } else { "" });
    let deadline = options.deadline();
    let cublas = match simulated && options.cublas.is_none() {
        true => None,
        false => find_cublas(&gpu, options)?,
    };
    copy::check(&gpu, SMALL_COPY)?;
    let mut tally = work.check_small(&gpu);
    if !simulated {
        let elements = options.elements.map_or_else(|| gpu.default_elements(), Ok)?;
        let shape = Shape::of(elements);
        tally += match options.check_only {
            true => work.check_large(&gpu, shape),
            false => work.measure(&gpu, cublas.as_ref(), options, shape, deadline)?,
        };
    }
    println!("{} cases, {} with a wrong result or a failed call", work.count(), tally.failed);
    Ok(tally.failed == 0)
}

/// cuBLAS, if it is there; an error if it is not where the command line says.
fn find_cublas(gpu: &Gpu, options: &Options) -> Result<Option<Cublas>> {
    let found = match Cublas::find(gpu, options.cublas.as_deref()) {
        Err(error) if options.cublas.is_none() => {
            println!("cuBLAS does not work here: {error}");
            None
        }
        found => found?,
    };
    match &found {
        Some(cublas) => println!("cuBLAS: {}", cublas.description),
        None => println!("cuBLAS was not found: no comparison with it (--cublas says where it is)"),
    }
    Ok(found)
}

/// What the command line asks for.
pub struct Work {
    pub cases: Vec<Case>,
    /// Of the checks at small sizes, and of what is timed.
    pub products: [Vec<Product>; 2],
    pub steps: Vec<Step>,
    pub paged: Vec<PagedStep>,
}

impl Work {
    pub fn select(options: &Options) -> Self {
        let only = options.only.as_deref();
        Self {
            cases: cases::select(options.quick, only),
            products: [products::small(only), products::large(options.quick, only)],
            steps: optimizer::select(only),
            paged: paged::select(only),
        }
    }

    pub fn count(&self) -> usize {
        let products: usize = self.products.iter().map(Vec::len).sum();
        self.cases.len() + products + self.steps.len() + self.paged.len()
    }

    /// Checks all at the small shapes.
    pub fn check_small(&self, gpu: &Gpu) -> Tally {
        let (shapes, each) = (cases::SMALL.len(), Each { deadline: None });
        each.of(&self.cases, |case| Ok(format!("{} bytes at {shapes} shapes", check_by_format(gpu, case)?)))
            + each.of(&self.products[0], |product| Ok(format!("{} elements", product.check(gpu)?)))
            + each.of(&self.steps, |step| Ok(format!("{} bytes", step.check(gpu, SMALL_STEP)?)))
            + each.of(&self.paged, |step| Ok(format!("{} bytes", step.check(gpu, SMALL_PAGED)?)))
    }

    /// Checks all at the sizes that are timed.
    fn check_large(&self, gpu: &Gpu, shape: Shape) -> Tally {
        let each = Each { deadline: None };
        let mut benches = Benches::new(gpu, None, &self.products[1]);
        each.of(&self.cases, |case| check_large(gpu, case, shape).and(Ok(shape)))
            + each.of(&self.products[1], |p| Ok(format!("{} elements", benches.of(p)?.check(p)?)))
            + each.of(&self.steps, |step| Ok(format!("{} bytes", step.check(gpu, step_len(shape))?)))
            + each.of(&self.paged, |step| Ok(format!("{} bytes", step.check(gpu, paged_len(*step, shape))?)))
    }

    /// Checks and times all and writes the report. What the time may not suffice for comes last.
    pub fn measure(
        &self,
        gpu: &Gpu,
        cublas: Option<&Cublas>,
        options: &Options,
        shape: Shape,
        deadline: Option<Instant>,
    ) -> Result<Tally> {
        let (repetitions, each) = (options.repetitions(), Each { deadline });
        let mut report = Report::new(gpu, shape);
        report.cublas = cublas.map(|cublas| cublas.description.clone());
        report.copies = copy::rates(gpu, shape.elements() * 2)?;
        let mut tally = each.of(&launch::cases(options.only.as_deref()), |case| {
            report.launches.push(launch::figure(gpu, case, launch::SHAPE, repetitions)?);
            Ok(launch::SHAPE)
        });
        let mut benches = Benches::new(gpu, cublas, &self.products[1]);
        tally += each.of(&self.products[1], |product| {
            report.products.push(benches.of(product)?.check_and_time(product, repetitions)?);
            Ok("timed")
        });
        drop(benches);
        tally += each.of(&self.steps, |step| {
            report.cases.push(step.check_and_time(gpu, step_len(shape), repetitions)?);
            Ok(format!("{} parameters", step_len(shape)))
        });
        tally += each.of(&self.paged, |step| {
            let n = paged_len(*step, shape);
            if report.link.is_none() {
                report.link = Some(link::rates(gpu, step.state_bytes(n) as usize, repetitions)?);
            }
            report.paged.push(step.check_and_time(gpu, n, repetitions)?);
            Ok(format!("{n} parameters"))
        });
        tally += each.of(&self.cases, |case| {
            report.cases.push(check_and_time(gpu, case, shape, repetitions)?);
            Ok(shape)
        });
        report.tally = tally;
        println!("\n{}", report.markdown());
        report.write(&options.out)?;
        Ok(tally)
    }
}

/// How it went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Tally {
    /// Wrong results and failed calls; they have no figures.
    pub failed: usize,
    /// For want of time.
    pub left_out: usize,
}

impl Add for Tally {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { failed: self.failed + other.failed, left_out: self.left_out + other.left_out }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// Does something with each item and says how it went, until it is late.
struct Each {
    deadline: Option<Instant>,
}

impl Each {
    fn of<T: Display, D: Display>(&self, items: &[T], mut run: impl FnMut(&T) -> Result<D>) -> Tally {
        let mut tally = Tally::default();
        for (at, item) in items.iter().enumerate() {
            if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                tally.left_out = items.len() - at;
                break;
            }
            match run(item) {
                Ok(detail) => println!("right  {item}: {detail}"),
                Err(error) => {
                    println!("WRONG  {item}: {error}");
                    tally.failed += 1;
                }
            }
        }
        tally
    }
}

/// Parameters of an optimizer step, whose state is several times as large as a matrix of as many elements.
fn step_len(shape: Shape) -> usize {
    shape.elements() / 4
}

/// Parameters of a step with paged states: they take as many bytes as the matrix has in 16 bits, which no default makes more than
/// a sixteenth of the free memory; but enough that some do not fit the least budget.
fn paged_len(step: PagedStep, shape: Shape) -> usize {
    step.parameters(2 * shape.elements()).max(SMALL_PAGED)
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
