//! Which formats a quantized matrix uses, and how many bytes that takes.

use super::codebook::Codebook;

/// Elements that share one scale of double quantization (QLoRA, section 3).
pub const CONSTANT_BLOCK: u64 = 256;
/// The least and the greatest 4-bit block size.
pub const BLOCK_SIZES: std::ops::RangeInclusive<u32> = 32..=4096;

/// How the scales ("constants") of the 4-bit blocks are stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Constants {
    /// As they are: f32 absmax, 32 bits a block.
    F32,
    /// Double quantization to FP8 E4M3 (the paper's).
    Fp8,
    /// Double quantization to the signed dynamic 8-bit map (bitsandbytes' default).
    Dynamic,
    /// Double quantization to the caller's ascending 8-bit map (a checkpoint's `nested_quant_map`).
    Map(Box<[f32; 256]>),
}

/// The format of a quantized matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantSpec {
    /// The 4-bit data type.
    pub codebook: Codebook,
    /// Consecutive elements that share a scale: a power of two in 32 … 4096.
    pub block_size: u32,
    /// How the scales are stored.
    pub constants: Constants,
}

/// How many bytes the parts of a quantized matrix take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// rows · cols.
    pub elements: u64,
    /// Bytes of packed 4-bit codes: ⌈elements / 2⌉.
    pub code_bytes: u64,
    /// 4-bit blocks, and so constants: ⌈elements / block_size⌉.
    pub blocks: u64,
    /// f32 values of `absmax` to provide: `blocks` for plain constants, else 0.
    pub absmax_len: u64,
    /// Bytes of 8-bit constants to provide: `blocks` with double quantization, else 0.
    pub absmax_codes_len: u64,
    /// f32 scales of double quantization: ⌈blocks / 256⌉, else 0.
    pub absmax_scales_len: u64,
    /// Everything, the 4-byte offset of double quantization included.
    pub total_bytes: u64,
}

impl Default for QuantSpec {
    /// NF4 in blocks of 64 with FP8 double quantization: the paper's configuration.
    fn default() -> Self {
        Self { codebook: Codebook::Nf4, block_size: 64, constants: Constants::Fp8 }
    }
}

impl QuantSpec {
    /// A format with plain f32 constants.
    pub fn new(codebook: Codebook, block_size: u32) -> Self {
        Self { codebook, block_size, constants: Constants::F32 }
    }

    /// The same with other constants.
    pub fn with_constants(mut self, constants: Constants) -> Self {
        self.constants = constants;
        self
    }

    /// Whether the constants are quantized themselves.
    pub fn is_double_quantized(&self) -> bool {
        self.constants != Constants::F32
    }

    /// Checks the block size.
    pub fn check_block_size(&self) -> Result<(), String> {
        if self.block_size.is_power_of_two() && BLOCK_SIZES.contains(&self.block_size) {
            Ok(())
        } else {
            Err(format!("block_size is {}; it must be a power of two from 32 to 4096", self.block_size))
        }
    }

    /// The sizes of a `[rows, cols]` matrix. Fails where a size does not fit 64 bits.
    pub fn sizes(&self, rows: u64, cols: u64) -> Result<Sizes, String> {
        self.check_block_size()?;
        let overflow = || format!("rows {rows} x cols {cols} is too large: the sizes do not fit 64 bits");
        let elements = rows.checked_mul(cols).ok_or_else(overflow)?;
        let blocks = elements.div_ceil(u64::from(self.block_size));
        let mut sizes = Sizes { elements, code_bytes: elements.div_ceil(2), blocks, ..Sizes::default() };
        let constants = if self.is_double_quantized() {
            sizes.absmax_codes_len = blocks;
            sizes.absmax_scales_len = blocks.div_ceil(CONSTANT_BLOCK);
            sizes.absmax_scales_len * 4 + blocks + 4 // blocks ≤ 2^64/32: no overflow
        } else {
            sizes.absmax_len = blocks;
            blocks * 4
        };
        sizes.total_bytes = sizes.code_bytes.checked_add(constants).ok_or_else(overflow)?;
        Ok(sizes)
    }
}

impl Sizes {
    /// Bytes of everything but the codes.
    pub fn constant_bytes(&self) -> u64 {
        self.total_bytes - self.code_bytes
    }

    /// Bits a parameter, constants included; 0 for an empty matrix.
    pub fn bits_per_parameter(&self) -> f64 {
        if self.elements == 0 { 0.0 } else { self.total_bytes as f64 * 8.0 / self.elements as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_papers_bits_per_parameter() {
        // Section 3: 32/64 = 0.5 bits of constants become 8/64 + 32/(64·256) = 0.127.
        let plain = QuantSpec::new(Codebook::Nf4, 64).sizes(4096, 4096).unwrap();
        assert_eq!(plain.bits_per_parameter(), 4.5);
        let double = QuantSpec::default().sizes(4096, 4096).unwrap();
        assert!((double.bits_per_parameter() - 4.127).abs() < 1e-3);
    }

    #[test]
    fn empty_and_short() {
        let spec = QuantSpec::default();
        assert_eq!(spec.sizes(0, 5).unwrap().code_bytes, 0);
        let s = spec.sizes(1, 65).unwrap();
        assert_eq!((s.code_bytes, s.blocks, s.absmax_codes_len, s.absmax_scales_len), (33, 2, 2, 1));
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        let spec = QuantSpec::default();
        assert!(spec.sizes(1 << 20, 1 << 20).is_ok()); // 2^40 elements
        assert!(spec.sizes(1 << 40, 1 << 40).unwrap_err().contains("64 bits"));
        assert!(spec.sizes(u64::MAX, 1).is_ok());
        for block_size in [0, 1, 16, 48, 8192, u32::MAX] {
            assert!(QuantSpec::new(Codebook::Nf4, block_size).sizes(1, 1).is_err());
        }
    }
}
