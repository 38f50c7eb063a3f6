//! Constants of W on their way through a ring: copied as they are stored, decoded where they are used, so that nobody waits
//! for a load.
//!
//! A double-quantized constant is a byte, but copies have 4 bytes at least: the word that it lies in is brought, as far as
//! the array goes. Blocks are counted from the first one of a walk, in 32 bits.

use super::constants::{ConstantsParam, StoredConstant};
use super::ring::Batch;
use ptx_asm::{Addr, B32, B64, F32, Global, Kernel, Pred, Ptr, Reg, Shared};

/// Where the constants of a walk lie.
pub enum RawConstants {
    /// From the first block's on.
    Plain(Ptr<Global>),
    /// Double quantization.
    Nested {
        /// The word with the first block's code.
        codes: Ptr<Global>,
        /// The place of the code in it.
        place: Reg<B32>,
        /// Bytes from that word to the end of the codes.
        bytes: Reg<B32>,
        /// The first block's scale.
        scales: Ptr<Global>,
        /// The place of the block among the 256 of the scale.
        within: Reg<B32>,
    },
}

impl RawConstants {
    /// From block `first` on, of `blocks` in all. The codes of constants are aligned to 4 bytes.
    pub fn new(k: &Kernel, constants: &ConstantsParam, first: Reg<B64>, blocks: Reg<B64>) -> Self {
        match constants {
            ConstantsParam::Plain(absmax) => Self::Plain(k.offset(*absmax, k.shl_b64(first, 2))),
            ConstantsParam::Nested { codes, scales, .. } => {
                let word = k.and_b64(first, -4i64);
                Self::Nested {
                    codes: k.offset(*codes, word),
                    place: k.and_b32(k.cvt_u32_u64(first), 3),
                    bytes: k.cvt_u32_u64(k.min_u64(k.sub_u64(blocks, word), 0x7fff_ffffu64)),
                    scales: k.offset(*scales, k.shl_b64(k.shr_u64(first, 8), 2)),
                    within: k.and_b32(k.cvt_u32_u64(first), 255),
                }
            }
        }
    }

    /// Starts to bring the constant of the block `further` on, if it exists: itself or its code to one place, its scale to
    /// another one.
    pub fn bring(
        &self,
        k: &Kernel,
        batch: &Batch<'_>,
        further: Reg<B32>,
        exists: Reg<Pred>,
        [to, scale_to]: [Addr<Shared>; 2],
    ) {
        match *self {
            Self::Plain(absmax) => {
                batch.copy_word(to, k.element(absmax, further, 4), k.selp_b32(4, 0, exists));
            }
            Self::Nested { codes, place, bytes, scales, within } => {
                let word = k.and_b32(k.add_u32(place, further), -4i32);
                let left = k.min_u32(k.sub_u32(bytes, word), 4);
                batch.copy_word(to, k.element(codes, word, 1), k.selp_b32(left, 0, exists));
                let scale = k.element(scales, k.shr_u32(k.add_u32(within, further), 8), 4);
                batch.copy_word(scale_to, scale, k.selp_b32(4, 0, exists));
            }
        }
    }
}

/// The constant that was brought to a place, of which the lower bits of its block's number are known. Where none was brought
/// it is finite if the constants are.
pub fn decode(
    k: &Kernel,
    constants: &ConstantsParam,
    [from, scale_from]: [Addr<Shared>; 2],
    block: Reg<B32>,
) -> Reg<F32> {
    let stored = match constants {
        ConstantsParam::Plain(_) => StoredConstant { code: k.mov(0), scale: k.ld_shared::<F32>(from) },
        ConstantsParam::Nested { .. } => {
            let word = k.ld_shared::<B32>(from);
            let shift = k.shl_b32(k.and_b32(block, 3), 3);
            let code = k.and_b32(k.shr_u32(word, shift), 0xff);
            StoredConstant { code, scale: k.ld_shared::<F32>(scale_from) }
        }
    };
    constants.decode(k, &stored)
}
