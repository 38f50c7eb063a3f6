//! How many blocks of a kernel an SM holds at once, and the ring that each of them then has room for.

use crate::cuda::device::Capacity;
use std::ops::RangeInclusive;

/// Shared memory a block that the driver keeps for itself (CUDA programming guide, compute capability 8.0 on).
const RESERVED: u32 = 1024;

/// What a kernel is written and planned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Residence {
    /// Blocks on an SM.
    pub blocks: u32,
    /// Slots of the ring.
    pub stages: u32,
}

impl Residence {
    /// The most slots that leave room for so many blocks on an SM, or for one, which may have all shared memory; `None` if not
    /// even that has the least. `bytes` tells what a block with so many slots takes.
    pub fn new(
        capacity: Capacity,
        blocks: u32,
        stages: RangeInclusive<u32>,
        bytes: impl Fn(u32) -> u32,
    ) -> Option<Self> {
        let fitting = |blocks: u32| {
            let most = (capacity.shared_per_block + RESERVED) / blocks - RESERVED;
            let stages = stages.clone().rev().find(|&stages| bytes(stages) <= most)?;
            Some(Self { blocks, stages })
        };
        fitting(blocks).or_else(|| fitting(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slots of 24 KiB on the SMs of sm_75, sm_86, sm_80 and sm_90.
    #[test]
    fn blocks_share_what_is_there() {
        let found = [64, 99, 163, 227].map(|kib: u32| {
            let capacity = Capacity { processors: 1, shared_per_block: kib << 10 };
            let residence = Residence::new(capacity, 2, 3..=4, |stages| stages * (24 << 10))?;
            Some((residence.blocks, residence.stages))
        });
        assert_eq!(found, [None, Some((1, 4)), Some((2, 3)), Some((2, 4))]);
    }
}
