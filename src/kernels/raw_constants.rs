//! Constants of W on their way through a ring: copied as they are stored, decoded where they are used, so that nobody waits
//! for a load.
//!
//! A double-quantized constant is a byte, but copies have 4 bytes at least: the word that it lies in is brought, as far as
//! the array goes.

use super::constants::ConstantsParam;
use super::ring::Batch;
use ptx_asm::{Array, B32, B64, DynamicShared, F32, Kernel, Pred, Reg};

/// Room in shared memory.
pub struct RawConstants {
    /// The constants, or the words of their codes.
    words: Array<B32>,
    /// The scales of double-quantized ones.
    scales: Option<Array<B32>>,
}

impl RawConstants {
    /// For `len` constants, those of all slots.
    pub fn new(shared: &mut DynamicShared, nested: bool, len: u32) -> Self {
        let words = shared.array(len as usize);
        Self { words, scales: nested.then(|| shared.array(len as usize)) }
    }

    /// Starts to bring the constant of a block to place `at`, if it exists. `blocks` is how many there are in all; the codes
    /// of constants are aligned to 4 bytes.
    pub fn bring(
        &self,
        k: &Kernel,
        batch: &Batch<'_>,
        constants: &ConstantsParam,
        [block, blocks]: [Reg<B64>; 2],
        exists: Reg<Pred>,
        at: Reg<B32>,
    ) {
        let four = k.selp_b32(4, 0, exists);
        let to = self.words.element(k, at);
        match constants {
            ConstantsParam::Plain(absmax) => {
                batch.copy_word(to, k.offset(*absmax, k.shl_b64(block, 2)), four);
            }
            ConstantsParam::Nested { codes, scales, .. } => {
                let first = k.and_b64(block, -4i64);
                let left = k.cvt_u32_u64(k.min_u64(k.sub_u64(blocks, first), 4u64));
                batch.copy_word(to, k.offset(*codes, first), k.min_u32(left, four));
                let from = k.offset(*scales, k.shl_b64(k.shr_u64(block, 8), 2));
                batch.copy_word(self.scales.expect("nested").element(k, at), from, four);
            }
        }
    }

    /// The constant at a place, of which the lower bits of its block's number are known. Without one it is finite if the
    /// constants are.
    pub fn decode(&self, k: &Kernel, constants: &ConstantsParam, at: Reg<B32>, block: Reg<B32>) -> Reg<F32> {
        let word = k.ld_shared::<B32>(self.words.element(k, at));
        match constants {
            ConstantsParam::Plain(_) => k.f32_from_bits(word),
            ConstantsParam::Nested { offset, decoder, .. } => {
                let scale = k.ld_shared::<F32>(self.scales.expect("nested").element(k, at));
                let byte = k.and_b32(k.shr_u32(word, k.shl_b32(k.and_b32(block, 3), 3)), 0xff);
                decoder.constant(k, byte, scale, *offset)
            }
        }
    }
}
