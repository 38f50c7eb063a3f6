//! How long the products should take on an H100 (SXM), before one is at hand: as long as the part of it that has the most to
//! do, and a launch.
//!
//! | part | what it has to do | how fast |
//! |---|---|---|
//! | memory | weight, activations and result, each once | 3.0 TB/s, a device copy |
//! | cache | the same, each as often as tiles read it | 5.5 TB/s |
//! | tensor | the products of whole tiles, on the SM that has most of them | 0.62 · 989 TFLOP/s by `mma.sync` |
//! | issue | the main loop's instructions | 4 a clock and SM |
//! | logic, multiply | of these, integer, moves and conversions | 64 lanes a clock and SM, of each kind |
//! | float | of these, floating point | 128 lanes |
//! | shared | of these, accesses to shared memory | 128 bytes |
//! | latency | each chunk of the inner dimension waits for its data, asked for some chunks ahead | 0.8 µs |
//!
//! The main loops are those of `ptx/generated/SASS.md`. Products by `wgmma` take the cut and the clocks of the plan that the library
//! launches them by, `cuda/gemm/wgmma_plan.rs`, or memory's time where that is longer. What this leaves out: the beginning and
//! end of tiles but for one latency each, bank conflicts (there are none), how well parts overlap, lower clocks under load, an
//! adapter's products.

use super::goals;
use super::products::Kind;
use qlora_kernels::wgmma_plan::{Decoding, LEAST_ROWS, Plan};
use std::fmt::Write;

const SMS: u32 = 132;
/// Clocks a second.
const CLOCK: f64 = 1.75e9;
/// Bytes a second.
const MEMORY: f64 = 3.0e12;
const CACHE: f64 = 5.5e12;
/// Operations a second.
const WGMMA: f64 = 790e12;
const MMA_SYNC: f64 = 0.62 * 989e12;
/// Seconds from a load to its data, and from one small kernel to the next in a graph.
const LATENCY: f64 = 0.8e-6;
const LAUNCH: f64 = 2e-6;
/// Codes, a constant's code for 64 of them, an f32 for 256 constants.
const BYTES_A_WEIGHT: f64 = 0.5 + 1.0 / 64.0 + 4.0 / 256.0 / 64.0;

/// A kernel for few rows: how it cuts the work.
pub struct Kernel {
    name: String,
    kind: Kind,
    /// Of a tile of the result.
    rows: usize,
    cols: usize,
    /// Of the inner dimension, brought at a time.
    chunk: usize,
    /// Into how many parts a tile's inner dimension can be cut; from 2 on their sums are added by a second launch.
    splits: &'static [usize],
    /// Its row of SASS.md: the loop that each of a block's 8 warps runs once a chunk.
    row: String,
    /// Chunks that are asked for before they are needed.
    ahead: usize,
    /// Blocks on an SM at once.
    blocks: usize,
}

/// All kernels for few rows of 16-bit activations, from what their modules say.
fn kernels() -> Vec<Kernel> {
    let mut all = Vec::new();
    // `gemm_skinny*`: 8 warps, `down` of them down the weight's rows, with a piece of 32 x 64 each; the loop is that of the
    // kernel for as many rows of activations, however the warps stand.
    for (kind, family, loops) in [
        (Kind::Forward, "gemm_skinny", ["8x1", "16x2", "32x8", "64x8"]),
        (Kind::Backward, "gemm_skinny_backward", ["8x8", "16x4", "32x2", "64x2"]),
    ] {
        for (rows, cut) in [8, 16, 32, 64].into_iter().zip(loops) {
            for down in [1, 2, 4, 8].into_iter().filter(|down| may_stand(kind, rows, *down)) {
                let [n, k] = [32 * down, 64 * (8 / down)];
                let (cols, chunk) = if kind == Kind::Forward { (n, k) } else { (k, n) };
                all.push(Kernel {
                    name: format!("skinny {rows}x{down}"),
                    kind,
                    rows,
                    cols,
                    chunk,
                    splits: &[1, 2, 3, 4, 6, 8, 12, 16],
                    row: format!("{family}_nf4_bf16_fp8_lora_{cut}"),
                    ahead: 4,
                    blocks: if rows > 16 { 1 } else { 2 },
                });
            }
        }
    }
    all
}

/// Whether a thread has the registers to bring its part of a chunk of so many rows.
fn may_stand(kind: Kind, rows: usize, down: usize) -> bool {
    match kind {
        Kind::Forward => rows * (8 / down) <= 128,
        _ => rows * down <= 256,
    }
}

/// How long, by which kernel, and because of what.
#[derive(Clone, Debug)]
pub struct Prediction {
    pub seconds: f64,
    pub kernel: String,
    pub part: &'static str,
}

/// Rows and columns of the result, and the inner length.
fn shape(kind: Kind, [m, n, k]: [usize; 3]) -> [usize; 3] {
    if kind == Kind::Backward { [m, k, n] } else { [m, n, k] }
}

/// Bytes of activations, weight and result.
fn bytes(kind: Kind, sizes: [usize; 3], a_weight: f64) -> [f64; 3] {
    let [rows, cols, inner] = shape(kind, sizes).map(|size| size as f64);
    [2.0 * rows * inner, a_weight * cols * inner, 2.0 * rows * cols]
}

fn operations([m, n, k]: [usize; 3]) -> f64 {
    2.0 * m as f64 * n as f64 * k as f64
}

/// Seconds of memory for everything once.
fn memory(kind: Kind, sizes: [usize; 3]) -> f64 {
    bytes(kind, sizes, BYTES_A_WEIGHT).iter().sum::<f64>() / MEMORY
}

/// No kernel can be faster.
pub fn floor(kind: Kind, sizes: [usize; 3]) -> f64 {
    memory(kind, sizes).max(operations(sizes) / WGMMA)
}

/// cuBLAS on a 16-bit weight, as fast as it can be.
pub fn cublas(kind: Kind, sizes: [usize; 3]) -> f64 {
    let bytes: f64 = bytes(kind, sizes, 2.0).iter().sum();
    (bytes / MEMORY).max(operations(sizes) / WGMMA) + LAUNCH
}

/// The product of a weight `[n, k]` with `m` rows, by `wgmma` or by the kernel for few rows that is fastest at it; `None` for
/// the gradients.
pub fn product(kind: Kind, sizes: [usize; 3]) -> Option<Prediction> {
    if sizes[0] >= LEAST_ROWS {
        return match kind {
            Kind::Forward => Some(by_wgmma(kind, sizes, Decoding::Forward)),
            Kind::Backward => Some(by_wgmma(kind, sizes, Decoding::Backward)),
            Kind::Gradients => None,
        };
    }
    let kernels = kernels().into_iter().filter(|kernel| kernel.kind == kind);
    let ways =
        |kernel: Kernel| kernel.splits.iter().map(|&split| kernel.predict(split, sizes)).collect::<Vec<_>>();
    kernels.flat_map(ways).min_by(|a, b| a.seconds.total_cmp(&b.seconds))
}

/// By the cut that the library takes.
fn by_wgmma(kind: Kind, sizes: [usize; 3], decoding: Decoding) -> Prediction {
    let [rows, features, inner] = shape(kind, sizes).map(|size| size as u64);
    let plan = Plan::new(SMS.into(), [features, rows, inner], decoding);
    let (clocks, memory) = (plan.clocks(SMS.into(), [features, rows], decoding) / CLOCK, memory(kind, sizes));
    let (part, seconds) =
        if memory > clocks { ("memory", memory) } else { (plan.longest(decoding).0, clocks) };
    let parts = match (plan.splits, plan.whole) {
        (1, _) => String::new(),
        (splits, 0) => format!(" in {splits}"),
        (splits, _) => format!(", last in {splits}"),
    };
    Prediction { seconds: seconds + LAUNCH, kernel: format!("wgmma {}{parts}", plan.rows), part }
}

impl Kernel {
    fn predict(&self, split: usize, sizes: [usize; 3]) -> Prediction {
        let [rows, cols, inner] = shape(self.kind, sizes);
        let [down, across] = [rows.div_ceil(self.rows), cols.div_ceil(self.cols)];
        let passes = inner.div_ceil(self.chunk).div_ceil(split) as f64;
        // Of the SM that has most.
        let tiles = (down * across * split).div_ceil(SMS as usize);
        let rounds = tiles.div_ceil(self.blocks) as f64;
        let work = tiles as f64 * passes;
        let [activations, weight, result] = bytes(self.kind, sizes, BYTES_A_WEIGHT);
        // Partial sums are f32, written and read.
        let (partial, launches) = if split > 1 { (4.0 * split as f64 * result, 2.0) } else { (0.0, 1.0) };
        let traffic = activations * across as f64 + weight * down as f64 + result + partial;
        let mut parts = vec![
            ("memory", (activations + weight + result) / MEMORY),
            ("cache", traffic / CACHE),
            ("tensor", work * operations([self.rows, self.cols, self.chunk]) * f64::from(SMS) / MMA_SYNC),
            ("latency", rounds * passes * LATENCY / self.ahead as f64),
        ];
        let main = Loop::of(&self.row);
        let clocks = |of: fn(&Loop) -> f64| 8.0 * of(&main);
        let mut add = |part, of: fn(&Loop) -> f64| parts.push((part, work * clocks(of) / CLOCK));
        add("issue", |of| of.count("all") / 4.0);
        add("logic", |of| of.count("logic") / 2.0);
        add("multiply", |of| of.count("multiply") / 2.0);
        add("float", |of| of.count("float") / 4.0);
        add("shared", Loop::shared_clocks);
        let (part, seconds) = parts.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).expect("there are parts");
        Prediction {
            seconds: seconds + launches * LAUNCH + rounds * LATENCY,
            kernel: self.name.clone(),
            part,
        }
    }
}

/// A row of the table of main loops.
struct Loop {
    cells: Vec<(&'static str, &'static str)>,
}

impl Loop {
    /// For the H100.
    fn of(kernel: &str) -> Self {
        const TABLE: &str = include_str!("../../ptx/generated/SASS.md");
        let cells = |line: &'static str| line.trim_matches('|').split('|').map(str::trim);
        let mut lines = TABLE.lines().filter(|line| line.starts_with('|'));
        let head = lines.next().expect("a table");
        let row = lines
            .find(|line| {
                cells(line).next() == Some(kernel)
                    && cells(line).nth(1).is_some_and(|gpu| gpu.starts_with("sm_90"))
            })
            .unwrap_or_else(|| panic!("ptx/generated/SASS.md has no row for {kernel}"));
        Self { cells: cells(head).zip(cells(row)).collect() }
    }

    fn cell(&self, column: &str) -> &'static str {
        self.cells.iter().find(|(head, _)| *head == column).expect("a column of SASS.md").1
    }

    fn count(&self, column: &str) -> f64 {
        self.cell(column).parse().expect("a number")
    }

    /// Accesses as `8 LDS.64, 1 STS.32`: 32 lanes of so many bits.
    fn shared_clocks(&self) -> f64 {
        let clocks = |access: &str| -> Option<f64> {
            let (count, form) = access.trim().split_once(' ')?;
            let (kind, bits) = form.split_once('.')?;
            let is_shared = ["LDS", "LDSM", "STS", "STSM", "LDGSTS"].contains(&kind);
            is_shared.then_some(count.parse::<f64>().ok()? * (bits.parse::<f64>().ok()? / 32.0).max(1.0))
        };
        self.cell("accesses").split(',').filter_map(clocks).sum()
    }
}

/// The shapes of the goals, for benches/RESULTS.md.
pub fn markdown() -> String {
    let mut text = "µs (floor) times faster than cuBLAS: kernel, what it waits for.\n".to_owned();
    let mut line =
        |cells: Vec<String>| writeln!(text, "| {} |", cells.join(" | ")).expect("writing to a string");
    let shapes = goals::SHAPES.map(|[n, k]| format!("N {n} K {k}"));
    for (kind, name) in [(Kind::Forward, "forward"), (Kind::Backward, "backward")] {
        line([[name.into(), "goal".into()].to_vec(), shapes.to_vec()].concat());
        line(vec!["---".into(); 2 + shapes.len()]);
        for m in goals::ROWS {
            let cell = |[n, k]: [usize; 2]| {
                let sizes = [m, n, k];
                let Prediction { seconds, kernel, part } =
                    product(kind, sizes).expect("a kernel of this kind");
                let (floor, faster) = (floor(kind, sizes) * 1e6, cublas(kind, sizes) / seconds);
                format!("{:.1} ({floor:.1}) {faster:.2}: {kernel}, {part}", seconds * 1e6)
            };
            let head = [format!("M {m}"), format!("{:.1}", goals::against_cublas(m))];
            line([head.to_vec(), goals::SHAPES.map(cell).to_vec()].concat());
        }
    }
    text.replace("\n| forward", "\n\n| forward").replace("\n| backward", "\n\n| backward")
}
