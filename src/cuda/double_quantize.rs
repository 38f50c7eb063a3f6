//! Double quantization of constants: the levels of the sum, then the codes.

use super::device::Queue;
use super::launch::Args;
use super::memory::Address;
use crate::error::Result;
use crate::format::spec::CONSTANT_BLOCK;
use crate::format::{Constants, sum::FAN_IN};
use crate::kernels::constants::{ConstantsSpec, NestedSpec};
use crate::kernels::double_quantize::{DoubleDequantizeSpec, DoubleQuantizeSpec, SumSpec};
use crate::kernels::tile::THREADS;
use crate::view::{Buffer, BufferMut};

/// Alignment of the parts of a workspace.
const ALIGN: u64 = 16;

/// The next address that is aligned.
pub fn aligned(address: u64) -> u64 {
    address.next_multiple_of(ALIGN)
}

/// Bytes of workspace for as many constants, at any alignment: two levels' sums and counts, and room to align them.
pub fn workspace_size(blocks: u64) -> Option<u64> {
    let level = blocks.div_ceil(FAN_IN as u64).checked_mul(4 + 8)?;
    level.checked_mul(2)?.checked_add(6 * ALIGN)
}

/// A vector of partial sums with its counts.
#[derive(Clone, Copy)]
struct Level {
    sums: u64,
    counts: u64,
}

impl Level {
    /// Room for `len` entries from `start` on, and where it ends.
    fn place(start: u64, len: u64) -> (Self, u64) {
        let counts = aligned(start);
        let sums = aligned(counts + 8 * len);
        (Self { sums, counts }, aligned(sums + 4 * len))
    }
}

/// Enqueues the double quantization of `n` constants at `absmax`. `out` is where codes, scales and offset go;
/// `workspace` has [`workspace_size`] bytes.
pub fn enqueue(
    queue: &Queue<'_>,
    absmax: u64,
    n: u64,
    constants: &Constants,
    [codes, scales, offset]: [u64; 3],
    workspace: u64,
) -> Result<()> {
    if n == 0 {
        return queue.fill_word(offset, 0f32.to_bits()); // the mean of nothing
    }
    let most = n.div_ceil(FAN_IN as u64);
    let (mut to, end) = Level::place(workspace, most);
    let (mut next, _) = Level::place(end, most);
    let (mut values, mut counts, mut len) = (absmax, 0, n);
    let mut first = true;
    while first || len > 1 {
        let runs = len.div_ceil(FAN_IN as u64);
        let args = Args::new().number(values).number(counts).number(len).number(to.sums).number(to.counts);
        queue.launch(SumSpec { first }.into(), blocks_of_runs(runs), args)?;
        (values, counts, len, first) = (to.sums, to.counts, runs, false);
        std::mem::swap(&mut to, &mut next);
    }
    let args = Args::new().number(absmax).number(n).number(values).number(counts);
    let args = args.number(codes).number(scales).number(offset);
    let spec = DoubleQuantizeSpec { nested: nested(constants) };
    queue.launch(spec.into(), blocks_of_runs(n.div_ceil(CONSTANT_BLOCK)), args)
}

/// Enqueues [`enqueue`] for constants of the caller's.
pub fn quantize(
    queue: &Queue<'_>,
    absmax: Buffer<'_, f32>,
    constants: &Constants,
    out: [u64; 3],
    workspace: BufferMut<'_, u8>,
) -> Result<()> {
    enqueue(queue, absmax.address(), absmax.len() as u64, constants, out, workspace.address())
}

/// Enqueues the reading back of constants.
pub fn dequantize(
    queue: &Queue<'_>,
    constants: &Constants,
    [codes, scales, offset]: [u64; 3],
    absmax: &BufferMut<'_, f32>,
) -> Result<()> {
    let n = absmax.len() as u64;
    if n == 0 {
        return Ok(());
    }
    let spec = DoubleDequantizeSpec { nested: nested(constants) };
    let args = Args::new().number(codes).number(scales).number(offset).number(n).pointer(absmax);
    queue.launch(spec.into(), blocks_of_runs(n.div_ceil(CONSTANT_BLOCK)), args)
}

/// A warp does a run.
fn blocks_of_runs(runs: u64) -> u64 {
    runs.div_ceil(u64::from(THREADS / 32))
}

fn nested(constants: &Constants) -> NestedSpec {
    match ConstantsSpec::of(constants) {
        ConstantsSpec::Nested(nested) => nested,
        ConstantsSpec::Plain => unreachable!("plain constants have no second quantization"),
    }
}
