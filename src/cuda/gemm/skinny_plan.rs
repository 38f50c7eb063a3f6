//! How a product with few rows is cut for a device: by counting what its parts wait for.
//!
//! In clocks of an SM, of which a device with P of them takes the longest of
//!
//! - the weight's codes and constants from memory, 13 bytes a clock and SM (an H100's copy rate);
//! - what comes from L2, 24 bytes: codes, X or dY again for each tile, partial sums there and back;
//! - the busiest SM's decoding: shared memory's wavefronts a piece, as counted in [`crate::kernels::gemm_skinny`] and
//!   [`crate::kernels::gemm_skinny_backward`], or the tensor cores', 16 a piece for each 8 rows of X or dY;
//!
//! and on top a tenth of what is not the longest, the time to fill and drain a block's ring, and the launch that adds the
//! parts of a split sum. Wider tiles read X or dY less often; splitting the sum makes more of them. The constants are round:
//! they order the choices, no more.

use super::residence::Residence;
use crate::cuda::device::Capacity;
use crate::kernels::gemm_skinny::{GemmSkinnySpec, MOST_ROWS, most_blocks};
use crate::kernels::gemm_skinny_backward::GemmSkinnyBackwardSpec;
use crate::kernels::pieces::{COLS, ROWS, WARPS};

/// Bytes a clock and SM from memory and from L2.
const MEMORY_RATE: f64 = 13.0;
const L2_RATE: f64 = 24.0;
/// Clocks until the first chunk has come and the last is written.
const FILL: f64 = 2000.0;
/// Clocks of a second launch.
const LAUNCH: f64 = 2500.0;
/// The share of shared memory's wavefronts that the warps of one block on an SM use, and of two.
const ONE_BLOCK_USES: f64 = 0.75;
const TWO_BLOCKS_USE: f64 = 0.9;
/// What the longest part does not hide of the others.
const NOT_HIDDEN: f64 = 0.1;
/// Slots of a ring: fewer do not bring ahead enough, more bring no more.
const STAGES: std::ops::RangeInclusive<u32> = 3..=6;
/// Units that a thread brings a chunk, at most: more take the registers of sums.
const MOST_UNITS: u32 = 4;
/// Parts that a sum is split in.
const SPLITS: [u64; 11] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48];

/// The cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Fragments of 8 rows of X.
    pub fragments: u32,
    /// Warps down W's rows.
    pub down: u32,
    /// Blocks on an SM, and the slots of their rings.
    pub residence: Residence,
    /// Parts of the sum, at least 1, none of them empty.
    pub splits: u64,
    /// The length of a part: columns of 64 forward, rows backward.
    pub per_split: u64,
    /// Blocks' worth of work: tiles times splits.
    pub items: u64,
}

/// Which product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// `Y[m, n] = X[m, k]·Wᵀ`.
    Forward,
    /// `dX[m, k] = dY[m, n]·W`.
    Backward,
}

/// What warps that stand `down` and `across` make of a product.
struct Cut {
    /// Tiles of the output.
    tiles: u64,
    /// The length of the sum, and of a chunk's part of it, in the kernel's unit.
    inner: u64,
    chunk: u64,
    /// Wavefronts of shared memory a piece.
    wavefronts: u32,
    /// Units of 16 bytes of X or dY that a thread brings a chunk: they cost registers.
    units: u32,
}

impl Product {
    fn cut(self, [_, n, k]: [u64; 3], fragments: u32, down: u32) -> Cut {
        let across = WARPS / down;
        let (rows, cols) = (u64::from(ROWS * down), u64::from(COLS * across));
        match self {
            Self::Forward => Cut {
                tiles: n.div_ceil(rows),
                inner: k / u64::from(COLS),
                chunk: across.into(),
                wavefronts: 54 + 8 * fragments + 8 * fragments / down,
                units: fragments * across / 4,
            },
            Self::Backward => Cut {
                tiles: k.div_ceil(cols),
                inner: n,
                chunk: rows,
                wavefronts: 62 + 4 * fragments + 4 * fragments / across,
                units: fragments * down / 8,
            },
        }
    }

    fn shared_bytes(self, fragments: u32, down: u32, stages: u32) -> u32 {
        match self {
            Self::Forward => GemmSkinnySpec::shared_bytes(fragments, down, stages),
            Self::Backward => GemmSkinnyBackwardSpec::shared_bytes(fragments, down, stages),
        }
    }
}

/// The cut of a product with a weight `[n, k]` for a device; `None` if the kernels do not take it.
pub fn plan(device: Capacity, product: Product, shape: [u64; 3]) -> Option<Plan> {
    let [m, n, k] = shape;
    if m == 0 || m > MOST_ROWS.into() || n == 0 || k == 0 || !k.is_multiple_of(COLS.into()) {
        return None;
    }
    let fragments = (m as u32).div_ceil(8).next_power_of_two();
    let candidates = [1, 2, 4, 8].into_iter().filter_map(|down| {
        let cut = product.cut(shape, fragments, down);
        if cut.units > MOST_UNITS {
            return None;
        }
        let plans = SPLITS.map(|splits| {
            let per_split = cut.inner.div_ceil(splits).next_multiple_of(cut.chunk);
            let splits = cut.inner.div_ceil(per_split);
            let items = cut.tiles * splits;
            // An SM has two blocks, if there are so many and their registers allow it.
            let blocks = if items <= device.processors { 1 } else { most_blocks(fragments) };
            let bytes = |stages| product.shared_bytes(fragments, down, stages);
            let residence = Residence::new(device, blocks, STAGES, bytes)?;
            let plan = Plan { fragments, down, residence, splits, per_split, items };
            Some((plan, clocks(device, product, shape, &cut, &plan)))
        });
        Some(plans.into_iter().flatten())
    });
    let best = candidates.flatten().min_by(|(_, a), (_, b)| a.total_cmp(b));
    best.map(|(plan, _)| plan)
}

fn clocks(device: Capacity, product: Product, shape: [u64; 3], cut: &Cut, plan: &Plan) -> f64 {
    let [m, n, k] = shape.map(|size| size as f64);
    let (processors, blocks) = (device.processors as f64, plan.residence.blocks);
    let (inner, out) = match product {
        Product::Forward => (k, n),
        Product::Backward => (n, k),
    };
    let weight = n * k / 2.0;
    let read_again = 2.0 * m * inner * cut.tiles as f64;
    let parts = if plan.splits > 1 { 8.0 * plan.splits as f64 * m * out } else { 0.0 };
    let memory = 1.03 * weight / MEMORY_RATE / processors;
    let l2 = (weight + read_again + parts) / L2_RATE / processors;
    let pieces = plan.per_split.div_ceil(cut.chunk) * u64::from(WARPS);
    let of_piece = f64::from(cut.wavefronts.max(16 * plan.fragments));
    let items = plan.items.div_ceil(device.processors);
    let used = if items.min(blocks.into()) > 1 { TWO_BLOCKS_USE } else { ONE_BLOCK_USES };
    let busiest = (items * pieces) as f64 * of_piece / used;
    let (longest, all) = (memory.max(l2).max(busiest), memory + l2 + busiest);
    // The second block of an SM works while the first one fills its ring.
    let waves = plan.items.div_ceil(device.processors * u64::from(blocks));
    let fill = FILL * (1.0 + (waves - 1) as f64 / f64::from(blocks));
    longest + NOT_HIDDEN * (all - longest) + fill + if plan.splits > 1 { LAUNCH } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H100: Capacity = Capacity { processors: 132, shared_per_block: 227 << 10 };

    #[test]
    fn parts_cover_the_sum_and_none_is_empty() {
        for m in [1, 7, 16, 33, 64] {
            for n in [64, 128, 4096, 28672] {
                for k in [64, 320, 4096, 64_000] {
                    for device in [H100, Capacity { processors: 2, shared_per_block: 99 << 10 }] {
                        for product in [Product::Forward, Product::Backward] {
                            let Some(plan) = plan(device, product, [m, n, k]) else {
                                // The sums of all warps need more room than such a device has.
                                assert!(
                                    product == Product::Backward
                                        && m > 32
                                        && device.shared_per_block < 128 << 10
                                );
                                continue;
                            };
                            let cut = product.cut([m, n, k], plan.fragments, plan.down);
                            assert!(plan.splits * plan.per_split >= cut.inner, "{plan:?}");
                            assert!((plan.splits - 1) * plan.per_split < cut.inner, "{plan:?}");
                            assert_eq!(plan.per_split % cut.chunk, 0, "{plan:?}");
                            let bytes =
                                product.shared_bytes(plan.fragments, plan.down, plan.residence.stages);
                            // Each block has 1 KiB that is not its own.
                            let all = plan.residence.blocks * (bytes + 1024);
                            assert!(all <= device.shared_per_block + 1024, "{plan:?}");
                        }
                    }
                }
            }
        }
    }

    /// One row of a usual layer needs no second launch; a short, long weight is split.
    #[test]
    fn splits_where_tiles_are_few() {
        assert_eq!(plan(H100, Product::Forward, [1, 4096, 4096]).unwrap().splits, 1);
        assert!(plan(H100, Product::Forward, [16, 64, 16384]).unwrap().splits > 1);
        assert!(plan(H100, Product::Backward, [16, 16384, 64]).unwrap().splits > 1);
    }

    /// Two blocks of 16 rows fit on an SM of sm_90, one only on an SM of sm_86.
    #[test]
    fn blocks_are_as_many_as_fit() {
        let shape = [16, 28672, 4096];
        let blocks = |device, product| plan(device, product, shape).unwrap().residence.blocks;
        let small = Capacity { processors: 132, shared_per_block: 99 << 10 };
        for product in [Product::Forward, Product::Backward] {
            assert_eq!([H100, small].map(|device| blocks(device, product)), [2, 1], "{product:?}");
        }
    }

    #[test]
    fn leaves_what_the_kernels_do_not_take() {
        assert_eq!(plan(H100, Product::Forward, [65, 4096, 4096]), None);
        assert_eq!(plan(H100, Product::Backward, [1, 64, 63]), None);
        assert_eq!(
            plan(Capacity { processors: 40, shared_per_block: 64 << 10 }, Product::Forward, [1, 64, 64]),
            None
        );
    }
}
