//! AdamW steps with paged states: the CPU backend's bits, then bytes a second over the link.

use super::Result;
use super::data::Bytes;
use super::device::{Gpu, Memory};
use super::link::Link;
use super::optimizer::{Step, adamw};
use super::timing;
use qlora_kernels::format::optimizer::blocks::BLOCK;
use qlora_kernels::ops::{self, PagedBuffer};
use qlora_kernels::view::BufferMut;
use qlora_kernels::{DType, Pager, PagerKind, PagerOptions};
use serde::Serialize;
use std::fmt;

/// The share of the link's rate, both ways at once, that copies to and from the device are to reach.
const GOAL: f64 = 0.85;
/// How many times the budget the states are.
const SHARE: u64 = 4;
/// The least budget of a pager.
const LEAST: u64 = 256 << 10;

/// A step on parameters and gradients in bf16.
#[derive(Clone, Copy, Debug)]
pub struct PagedStep {
    kind: PagerKind,
    eight_bits: bool,
}

pub const STREAMED_8BIT: PagedStep = PagedStep { kind: PagerKind::Streamed, eight_bits: true };

pub fn select(only: Option<&str>) -> Vec<PagedStep> {
    let of = |kind| [false, true].map(|eight_bits| PagedStep { kind, eight_bits });
    let all = [PagerKind::Streamed, PagerKind::Managed].into_iter().flat_map(of);
    all.filter(|step| only.is_none_or(|pattern| step.to_string().contains(pattern))).collect()
}

impl fmt::Display for PagedStep {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {}", self.step(), format!("{:?}", self.kind).to_lowercase())
    }
}

/// A timed step.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    pub name: String,
    pub parameters: usize,
    pub budget: u64,
    /// Over the link, a step.
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Seconds a step.
    pub median: f64,
    pub least: f64,
    pub goal: Option<f64>,
}

impl Figures {
    /// Of the link's rate in the direction that has more to do, both ways at once.
    pub fn share(&self, link: &Link) -> f64 {
        self.bytes_in.max(self.bytes_out) as f64 / self.median / link.both
    }
}

impl PagedStep {
    /// Parameters of a step whose states take about as many bytes, whatever their kind.
    pub fn parameters(self, bytes: usize) -> usize {
        bytes / if self.eight_bits { 2 } else { 8 }
    }

    pub fn state_bytes(self, n: usize) -> u64 {
        (if self.eight_bits { 2 * n + 8 * n.div_ceil(BLOCK) } else { 8 * n }) as u64
    }

    pub fn budget(self, n: usize) -> u64 {
        LEAST.max(self.state_bytes(n) / SHARE)
    }

    fn step(self) -> Step {
        Step { dtype: DType::Bf16, eight_bits: self.eight_bits }
    }

    /// Checks two steps of `n` parameters; the bytes compared.
    pub fn check(self, gpu: &Gpu, n: usize) -> Result<usize> {
        let paging = Paging::new(gpu, self, n)?;
        let mut expected = self.step().state(n);
        for _ in 0..2 {
            paging.enqueue(gpu)?;
            self.step().on_cpu(n, &mut expected)?;
        }
        paging.compare(gpu, &expected)?;
        Ok(expected.iter().map(|bytes| bytes.len()).sum())
    }

    /// Checks and times it.
    pub fn check_and_time(self, gpu: &Gpu, n: usize, repetitions: usize) -> Result<Figures> {
        self.check(gpu, n)?;
        let paging = Paging::new(gpu, self, n)?;
        paging.enqueue(gpu)?; // what stays is there
        let before = paging.pager.statistics();
        paging.enqueue(gpu)?;
        let after = paging.pager.statistics();
        let seconds = timing::spans(gpu, repetitions, || paging.enqueue(gpu))?;
        Ok(Figures {
            name: self.to_string(),
            parameters: n,
            budget: after.budget,
            bytes_in: after.bytes_in - before.bytes_in,
            bytes_out: after.bytes_out - before.bytes_out,
            median: seconds[repetitions / 2],
            least: seconds[0],
            goal: (self.kind == PagerKind::Streamed).then_some(GOAL),
        })
    }
}

/// A step's memory.
pub struct Paging {
    step: PagedStep,
    n: usize,
    pub pager: Pager,
    /// Parameters and gradients.
    matrices: [Memory; 2],
    /// Of the states, the first one's values or codes, the second one's, then the scales.
    states: Vec<PagedBuffer<u8>>,
    workspace: Memory,
}

impl Paging {
    pub fn new(gpu: &Gpu, step: PagedStep, n: usize) -> Result<Self> {
        let state = step.step().state(n);
        let (matrices, states) = state.split_at(2);
        let bytes = step.state_bytes(n);
        let (free, _) = gpu.cuda.mem_get_info()?;
        if step.kind == PagerKind::Managed && bytes > free as u64 / 2 {
            return Err(format!("{bytes} bytes of states are more than half of the free memory").into());
        }
        let options = PagerOptions { kind: step.kind, budget: step.budget(n), folder: None };
        let pager = Pager::new(&gpu.context, &options)?;
        let paged = |bytes: &Bytes| {
            let buffer = pager.buffer::<u8>(bytes.len())?;
            let at = std::ptr::with_exposed_provenance_mut::<u8>(buffer.address());
            // SAFETY: the buffer's own memory, of the host; nobody uses it yet.
            unsafe { at.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
            Ok(buffer)
        };
        let states = states.iter().map(paged).collect::<Result<Vec<_>>>()?;
        let matrices = [gpu.upload(&matrices[0])?, gpu.upload(&matrices[1])?];
        let mut paging = Self { step, n, pager, matrices, states, workspace: gpu.allocate(0)? };
        // SAFETY: nothing is read or written.
        let parameter = [unsafe { step.step().parameter(n, &paging.addresses(gpu))? }];
        let size = ops::optimizer_workspace_size(&gpu.context, &adamw(), &parameter)?;
        paging.workspace = gpu.allocate(size)?;
        Ok(paging)
    }

    fn addresses(&self, gpu: &Gpu) -> Vec<*mut u8> {
        let states = self.states.iter().map(|state| std::ptr::with_exposed_provenance_mut(state.address()));
        self.matrices.iter().map(|memory| memory.address(gpu)).chain(states).collect()
    }

    pub fn enqueue(&self, gpu: &Gpu) -> Result<()> {
        // SAFETY: the memory is of these sizes; the device's stream, and the pager's, order its uses.
        unsafe {
            let mut parameter = [self.step.step().parameter(self.n, &self.addresses(gpu))?];
            let workspace = BufferMut::from_raw(self.workspace.address(gpu), self.workspace.len);
            Ok(ops::optimizer_step_paged(
                &gpu.context,
                &self.pager,
                &adamw(),
                &mut parameter,
                None,
                workspace,
            )?)
        }
    }

    /// Brings the states home and compares all with what is expected.
    fn compare(&self, gpu: &Gpu, expected: &[Bytes]) -> Result<()> {
        for state in &self.states {
            self.pager.evict(&gpu.context, state.address(), state.len() as u64)?;
        }
        let matrices = self.matrices.iter().map(|memory| gpu.download(memory)).collect::<Result<Vec<_>>>()?;
        gpu.stream.synchronize()?;
        let states = self.states.iter().map(|state| {
            let at = std::ptr::with_exposed_provenance::<u8>(state.address());
            // SAFETY: the buffer's own memory, which nothing writes to any more.
            unsafe { std::slice::from_raw_parts(at, state.len()) }
        });
        Step::compare(matrices.iter().map(|bytes| &bytes[..]).chain(states), expected)
    }
}
