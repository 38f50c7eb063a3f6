//! How a product with few rows is cut for a device: by counting what its parts wait for.
//!
//! In clocks of an SM, of which a device with P of them takes the longest of
//!
//! - the weight's codes and constants from memory, 13 bytes a clock and SM (an H100's copy rate);
//! - what comes from L2, 24 bytes: codes, X again for each tile of rows, partial sums there and back;
//! - the busiest SM's decoding: shared memory's wavefronts a piece, as counted in [`crate::kernels::gemm_skinny`], or the
//!   tensor cores', 16 a piece for each 8 rows of X;
//!
//! and on top the time to fill and drain a block's ring, and the launch that adds the parts of a split sum. Wider tiles
//! read X less often; splitting K makes more of them. The constants are round: they order the choices, no more.

use crate::kernels::gemm_skinny::{GemmSkinnySpec, MOST_ROWS};
use crate::kernels::pieces::{COLS, ROWS, WARPS};

/// Bytes a clock and SM from memory and from L2.
const MEMORY_RATE: f64 = 13.0;
const L2_RATE: f64 = 24.0;
/// Clocks until the first chunk has come and the last is written.
const FILL: f64 = 2000.0;
/// Clocks of a second launch.
const LAUNCH: f64 = 2500.0;
/// Shared memory a block that the driver keeps for itself (CUDA programming guide, compute capability 8.0 on).
const RESERVED: u32 = 1024;
/// Slots of a ring: fewer do not bring ahead enough, more bring no more.
const STAGES: std::ops::RangeInclusive<u32> = 3..=6;

/// What a device has.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    /// Streaming multiprocessors.
    pub processors: u64,
    /// Bytes of shared memory that a block may have.
    pub shared: u32,
}

/// The cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Fragments of 8 rows of X.
    pub fragments: u32,
    /// Warps down W's rows.
    pub down: u32,
    /// Slots of the ring.
    pub stages: u32,
    /// Parts of K, at least 1, none of them empty.
    pub splits: u64,
    /// Columns of 64 of a part.
    pub per_split: u64,
    /// Blocks' worth of work: tiles times splits.
    pub items: u64,
}

/// For `Y[m, n] = X[m, k]·Wᵀ`; `None` if the kernel does not take it.
pub fn forward(device: Device, [m, n, k]: [u64; 3]) -> Option<Plan> {
    if m == 0 || m > MOST_ROWS.into() || n == 0 || k == 0 {
        return None;
    }
    let fragments = (m as u32).div_ceil(8).next_power_of_two();
    let cols = k / u64::from(COLS);
    let candidates = [1, 2, 4, 8].into_iter().filter_map(|down| {
        let stages = stages(device, |stages| GemmSkinnySpec::shared_bytes(fragments, down, stages))?;
        Some([1u64, 2, 3, 4, 6, 8, 12, 16, 24, 32].map(|splits| {
            let across = u64::from(WARPS / down);
            let per_split = cols.div_ceil(splits).next_multiple_of(across);
            let splits = cols.div_ceil(per_split);
            let items = n.div_ceil((ROWS * down).into()) * splits;
            Plan { fragments, down, stages, splits, per_split, items }
        }))
    });
    let clocks = |plan: &Plan| clocks(device, plan, [m, n, k]);
    candidates.flatten().min_by(|a, b| clocks(a).total_cmp(&clocks(b)))
}

/// The slots that leave room for a second block on the SM, or for one.
fn stages(device: Device, bytes: impl Fn(u32) -> u32) -> Option<u32> {
    let fitting = |blocks: u32| {
        let most = (device.shared + RESERVED) / blocks - RESERVED;
        STAGES.rev().find(|&stages| bytes(stages) <= most)
    };
    fitting(2).or_else(|| fitting(1))
}

fn clocks(device: Device, plan: &Plan, shape: [u64; 3]) -> f64 {
    let [m, n, k] = shape.map(|size| size as f64);
    let processors = device.processors as f64;
    let (down, fragments) = (f64::from(plan.down), f64::from(plan.fragments));
    let weight = n * k / 2.0;
    let x = 2.0 * m * k * (n / (f64::from(ROWS) * down)).ceil();
    let partial = if plan.splits > 1 { 8.0 * plan.splits as f64 * m * n } else { 0.0 };
    let memory = 1.03 * weight / MEMORY_RATE / processors;
    let l2 = (weight + x + partial) / L2_RATE / processors;
    let wavefronts = 54.0 + 8.0 * fragments + 8.0 * fragments / down;
    let pieces = down * (plan.per_split as f64);
    let of_item = pieces * wavefronts.max(16.0 * fragments);
    let busiest = plan.items.div_ceil(device.processors) as f64 * of_item;
    memory.max(l2).max(busiest) + FILL + if plan.splits > 1 { LAUNCH } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H100: Device = Device { processors: 132, shared: 227 << 10 };

    #[test]
    fn parts_cover_k_and_none_is_empty() {
        for m in [1, 7, 16, 33, 64] {
            for n in [1, 100, 4096, 28672] {
                for cols in [1, 5, 64, 172, 1000] {
                    for device in [H100, Device { processors: 2, shared: 99 << 10 }] {
                        let plan = forward(device, [m, n, 64 * cols]).unwrap();
                        assert!(plan.splits * plan.per_split >= cols, "{plan:?}");
                        assert!((plan.splits - 1) * plan.per_split < cols, "{plan:?}");
                        assert_eq!(plan.per_split % u64::from(WARPS / plan.down), 0, "{plan:?}");
                        let bytes = GemmSkinnySpec::shared_bytes(plan.fragments, plan.down, plan.stages);
                        assert!(bytes <= device.shared, "{plan:?}");
                    }
                }
            }
        }
    }

    /// One row of a usual layer needs no second launch; a short, long weight is split.
    #[test]
    fn splits_where_tiles_are_few() {
        assert_eq!(forward(H100, [1, 4096, 4096]).unwrap().splits, 1);
        assert!(forward(H100, [16, 64, 16384]).unwrap().splits > 1);
    }

    #[test]
    fn leaves_what_the_kernel_does_not_take() {
        assert_eq!(forward(H100, [65, 4096, 4096]), None);
        assert_eq!(forward(Device { processors: 40, shared: 64 << 10 }, [1, 64, 64]), None);
    }
}
