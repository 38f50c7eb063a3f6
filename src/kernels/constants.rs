//! Reading the constants of a quantized matrix: as they are, or double-quantized.

use super::table;
use super::tile::{Place, THREADS};
use crate::format::double_quant::Encoding;
use crate::format::{Constants, Map256, fp8};
use ptx_asm::{Array, B32, B64, F32, Global, Kernel, Ptr, Reg, U8};

/// How the constants are stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ConstantsSpec {
    /// An f32 a block.
    Plain,
    /// A code a block, an f32 scale per 256, an f32 offset.
    Nested(NestedSpec),
}

/// The data type of double-quantized constants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NestedSpec {
    /// FP8 E4M3.
    Fp8,
    /// The signed dynamic map.
    Dynamic,
    /// The bits of the caller's map.
    Map(Box<[u32; 256]>),
}

impl ConstantsSpec {
    /// What a format asks for.
    pub fn of(constants: &Constants) -> Self {
        match constants {
            Constants::F32 => Self::Plain,
            Constants::Fp8 => Self::Nested(NestedSpec::Fp8),
            Constants::Dynamic => Self::Nested(NestedSpec::Dynamic),
            Constants::Map(values) => Self::Nested(NestedSpec::Map(Box::new(table::bits(**values)))),
        }
    }
}

impl ConstantsSpec {
    /// Whether they are quantized themselves.
    pub fn is_nested(&self) -> bool {
        matches!(self, Self::Nested(_))
    }
}

impl NestedSpec {
    /// What it encodes to.
    pub fn encoding(&self) -> Encoding {
        match self {
            Self::Fp8 => Encoding::Fp8,
            Self::Dynamic => Encoding::Map(Box::new(Map256::dynamic_signed())),
            Self::Map(values) => {
                Encoding::Map(Box::new(Map256::new(&values.map(f32::from_bits)).expect("checked by ops")))
            }
        }
    }
}

/// A constant as it is stored, in registers: the constant itself, or its code and that code's scale.
pub struct StoredConstant {
    /// The code of a double-quantized one.
    pub code: Reg<B32>,
    /// Its scale, or the constant itself.
    pub scale: Reg<F32>,
}

impl StoredConstant {
    /// Room for one.
    pub fn new(k: &Kernel) -> Self {
        Self { code: k.reg(), scale: k.reg() }
    }
}

/// The parameters, ready to be read.
pub enum ConstantsParam {
    /// The f32 constants.
    Plain(Ptr<Global>),
    /// Double quantization.
    Nested {
        /// One byte a block.
        codes: Ptr<Global>,
        /// One f32 per 256 blocks.
        scales: Ptr<Global>,
        /// The mean.
        offset: Reg<F32>,
        /// From codes to values.
        decoder: NestedDecoder,
    },
}

/// From the codes of constants to values.
pub enum NestedDecoder {
    /// FP8 E4M3, by arithmetic.
    Fp8,
    /// A map, in shared memory.
    Map(Array<F32>),
}

impl NestedDecoder {
    /// Brings a map to shared memory; a barrier must follow.
    fn new(k: &Kernel, spec: &NestedSpec, threads: u32) -> Self {
        match spec.encoding() {
            Encoding::Fp8 => Self::Fp8,
            Encoding::Map(map) => Self::Map(table::share(k, "constants", &table::bits(map.values), threads)),
        }
    }

    fn decode(&self, k: &Kernel, code: Reg<B32>) -> Reg<F32> {
        match self {
            Self::Fp8 => decode_fp8(k, code),
            Self::Map(values) => k.ld_shared::<F32>(values.element(k, code)),
        }
    }
}

/// [`crate::format::fp8::decode`]: exponent and mantissa moved to their places in an f32, whose exponent has another bias,
/// 127 for 7; subnormals come out right because the product is exact.
fn decode_fp8(k: &Kernel, code: Reg<B32>) -> Reg<F32> {
    let magnitude = k.and_b32(code, 0x7f);
    let biased = k.f32_from_bits(k.shl_b32(magnitude, 23 - 3));
    let value = k.f32_to_bits(k.mul_rn_f32(biased, f32::from_bits((127 + 127 - 7) << 23)));
    let value = k.selp_b32(f32::NAN.to_bits(), value, k.setp_eq_u32(magnitude, u32::from(fp8::NAN_CODE)));
    k.f32_from_bits(k.or_b32(value, k.shl_b32(k.and_b32(code, 0x80), 24)))
}

impl ConstantsParam {
    /// Declares the parameters, absmax or absmax_codes, absmax_scales, absmax_offset, and brings the table to shared
    /// memory; a barrier must follow.
    pub fn new(k: &Kernel, spec: &ConstantsSpec) -> Self {
        Self::of_block(k, spec, THREADS)
    }

    /// The same in a block of this many threads.
    pub fn of_block(k: &Kernel, spec: &ConstantsSpec, threads: u32) -> Self {
        match spec {
            ConstantsSpec::Plain => Self::Plain(k.param_ptr("absmax")),
            ConstantsSpec::Nested(nested) => {
                let [codes, scales, offset] =
                    ["absmax_codes", "absmax_scales", "absmax_offset"].map(|name| k.param_ptr(name));
                let decoder = NestedDecoder::new(k, nested, threads);
                Self::Nested { codes, scales, offset: k.ld_global::<F32>(offset), decoder }
            }
        }
    }

    /// The constant of a block; it must exist.
    pub fn load(&self, k: &Kernel, block: Reg<B64>) -> Reg<F32> {
        let stored = StoredConstant::new(k);
        self.fetch(k, block, &stored);
        self.decode(k, &stored)
    }

    /// Begins to load the constant of a block, which must exist.
    pub fn fetch(&self, k: &Kernel, block: Reg<B64>, to: &StoredConstant) {
        let word = |base: Ptr<Global>, index: Reg<B64>| k.offset(base, k.shl_b64(index, 2));
        match self {
            Self::Plain(absmax) => k.to(to.scale).ld_global_nc::<F32>(word(*absmax, block)),
            Self::Nested { codes, scales, .. } => {
                k.to(to.code).ld_global_nc::<U8>(k.offset(*codes, block));
                k.to(to.scale).ld_global_nc::<F32>(word(*scales, k.shr_u64(block, 8)));
            }
        }
    }

    /// The value of a constant that was loaded.
    pub fn decode(&self, k: &Kernel, stored: &StoredConstant) -> Reg<F32> {
        match self {
            Self::Plain(_) => stored.scale,
            Self::Nested { offset, decoder, .. } => {
                let value = decoder.decode(k, stored.code);
                // Product and sum each rounded, as the format says.
                k.add_rn_f32(k.mul_rn_f32(value, stored.scale), *offset)
            }
        }
    }

    /// The constants of the blocks in this warp's part of a tile: lane i reads and decodes the i-th, so that each is read
    /// once. `blocks` is how many there are in all.
    pub fn load_warps(&self, k: &Kernel, place: &Place, block_size: u32, blocks: Reg<B64>) -> WarpConstants {
        let warp_first = k.sub_u64(place.first, k.cvt_u64_u32(place.within_warp));
        let first = k.shr_u64(warp_first, block_size.trailing_zeros());
        let block = k.add_u64(first, k.cvt_u64_u32(place.lane));
        let here = (place.tile.warp() / block_size).max(1);
        let wanted = k.and_pred(k.setp_lt_u64(block, blocks), k.setp_lt_u32(place.lane, here));
        let absmax = k.var_f32(0.0);
        k.if_then(wanted, || k.to(absmax).mov(self.load(k, block)));
        WarpConstants { absmax, block_size }
    }
}

/// The constants of a warp's blocks, one a lane.
pub struct WarpConstants {
    absmax: Reg<F32>,
    block_size: u32,
}

impl WarpConstants {
    /// The constant of the block of the thread's vector `u`, from the lane that has it.
    pub fn of_vector(&self, k: &Kernel, place: &Place, u: u32) -> Reg<F32> {
        let lane = match self.block_size >= place.tile.warp() {
            true => k.mov(0),
            false => {
                let within = k.add_u32(place.within_warp, place.apart(u));
                k.shr_u32(within, self.block_size.trailing_zeros())
            }
        };
        k.shfl_idx_f32(self.absmax, lane, 31, u32::MAX)
    }
}

/// Blocks of `n` elements.
pub fn count_blocks(k: &Kernel, n: Reg<B64>, block_size: u32) -> Reg<B64> {
    k.shr_u64(k.add_u64(n, u64::from(block_size - 1)), block_size.trailing_zeros())
}
