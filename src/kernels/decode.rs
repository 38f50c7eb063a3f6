//! 4-bit codes to pairs of 16-bit values in registers, for tensor cores.
//!
//! [`PairDecoder`]: no memory, about 3 instructions a value. The 16 values' low bytes lie in four registers and their high bytes in four more. `prmt` picks four bytes by the lower
//! three bits of four codes, once from the lower half of the table and once from the upper; the codes' upper bits, made a
//! mask of bytes, choose between the two.
//!
//! [`PairTable`]: 32 KB of shared memory, 1.5 instructions a value, one of them an integer operation. A byte of codes is the
//! index of a pair of values, and the table has a copy in each bank, for the lane of that number: lanes that look up
//! whatever never conflict. The address is one multiplication and addition, on another pipe than the byte's extraction.

use super::tensor::{narrow_pair_bf16, narrow_pair_f16};
use crate::view::DType;
use half::{bf16, f16};
use ptx_asm::{Array, B32, F32, Kernel, Ptr, Reg, Shared, Target, lut};

/// A 16-bit type that tensor cores multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half {
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
}

impl Half {
    /// The one that elements of this type have.
    pub fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F32 => None,
            DType::F16 => Some(Half::F16),
            DType::Bf16 => Some(Half::Bf16),
        }
    }

    /// The type of elements.
    pub fn dtype(self) -> DType {
        match self {
            Half::F16 => DType::F16,
            Half::Bf16 => DType::Bf16,
        }
    }

    /// The bits of a value rounded to the type.
    pub fn round(self, value: f32) -> u16 {
        match self {
            Half::F16 => f16::from_f32(value).to_bits(),
            Half::Bf16 => bf16::from_f32(value).to_bits(),
        }
    }

    /// Two values, rounded to nearest even.
    pub fn pack(self, k: &Kernel, low: Reg<F32>, high: Reg<F32>) -> Reg<B32> {
        match self {
            Half::F16 => narrow_pair_f16(k, low, high),
            Half::Bf16 => narrow_pair_bf16(k, low, high),
        }
    }

    /// `A[16, 16]·B[16, 8] + C` by a warp, fragments as in PTX ISA §9.7.14.5.8.
    pub fn multiply(self, k: &Kernel, a: [Reg<B32>; 4], b: [Reg<B32>; 2], c: [Reg<F32>; 4]) -> [Reg<F32>; 4] {
        match self {
            Half::F16 => {
                let (a, b) = (a.map(|r| r.as_f16x2()), b.map(|r| r.as_f16x2()));
                if k.target() >= Target::Sm80 {
                    return k.mma_m16n8k16_f32_f16(a, b, c);
                }
                // Turing's instruction takes the left half of A and the upper one of B, or the others.
                let c = k.mma_m16n8k8_f32_f16([a[0], a[1]], [b[0]], c);
                k.mma_m16n8k8_f32_f16([a[2], a[3]], [b[1]], c)
            }
            Half::Bf16 => k.mma_m16n8k16_f32_bf16(a.map(|r| r.as_bf16x2()), b.map(|r| r.as_bf16x2()), c),
        }
    }
}

/// A codebook as bytes in registers.
pub struct PairDecoder {
    low: [Reg<B32>; 4],
    high: [Reg<B32>; 4],
}

impl PairDecoder {
    /// The 16 values, rounded to `half`.
    pub fn new(k: &Kernel, half: Half, values: [f32; 16]) -> Self {
        let bits = values.map(|value| half.round(value));
        let bytes = |register: usize, shift: u32| {
            let byte = |i: usize| (bits[4 * register + i] >> shift) as u8;
            k.mov::<B32>(u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)]))
        };
        Self { low: std::array::from_fn(|r| bytes(r, 0)), high: std::array::from_fn(|r| bytes(r, 8)) }
    }

    /// The values of a word's eight codes, two a register, the earlier one in the low half.
    pub fn pairs(&self, k: &Kernel, word: Reg<B32>) -> [Reg<B32>; 4] {
        let [first, second] = self.two_pairs(k, word);
        let [third, fourth] = self.two_pairs(k, k.shr_u32(word, 16));
        [first, second, third, fourth]
    }

    /// The values of the four codes in the low half of a word.
    fn two_pairs(&self, k: &Kernel, codes: Reg<B32>) -> [Reg<B32>; 2] {
        let index = k.and_b32(codes, 0x7777);
        // Byte 1 of the constant, all ones, where a code has its upper bit set, else byte 0.
        let upper = k.prmt_b32(0xff00, 0, k.and_b32(k.shr_u32(codes, 3), 0x1111));
        let look_up = |table: &[Reg<B32>; 4]| {
            let from_lower = k.prmt_b32(table[0], table[1], index);
            let from_upper = k.prmt_b32(table[2], table[3], index);
            k.lop3_b32(upper, from_upper, from_lower, lut(|mask, a, b| (mask & a) | (!mask & b)))
        };
        let (low, high) = (look_up(&self.low), look_up(&self.high));
        // A byte's high nibble is the earlier code, but its low nibble came first here.
        [k.prmt_b32(low, high, 0x4051), k.prmt_b32(low, high, 0x6273)]
    }
}

/// Pairs of values by pairs of codes, in shared memory.
pub struct PairTable {
    table: Ptr<Shared>,
    /// This lane's copy of the first entry.
    first: Ptr<Shared>,
}

impl PairTable {
    /// Entries: a word for each byte of codes and each bank.
    pub const WORDS: usize = 256 * 32;
    /// Bytes between the entries of a lane.
    const APART: u32 = 4 * 32;

    /// In this memory, to be filled.
    pub fn new(k: &Kernel, table: Array<B32>) -> Self {
        let table = table.ptr(k);
        Self { table, first: k.element(table, k.and_b32(k.tid_x(), 31), 4) }
    }

    /// Fills the table with the 16 values, rounded to `half`, by a block of 256 threads: four lanes' copies of an entry a
    /// store, eight stores a thread; a barrier must follow.
    pub fn fill(&self, k: &Kernel, half: Half, values: [f32; 16]) {
        k.section("fill the table of pairs");
        let decoder = PairDecoder::new(k, half, values);
        let tid = k.tid_x();
        // A warp has 32 entries, each step four of them.
        let entry = k.mad_lo_u32(k.shr_u32(tid, 5), 32, k.bfe_u32(tid, 3, 2));
        let to = k.element(self.table, entry, Self::APART);
        let to = k.element(to, k.and_b32(tid, 7), 16);
        let entries = k.mul_lo_u32(entry, 0x0101_0101);
        for half in 0..2u32 {
            let codes = k.add_u32(entries, 0x0c08_0400 + half * 0x1010_1010);
            for (i, pair) in (4 * half..).zip(decoder.pairs(k, codes)) {
                k.st_shared::<[B32; 4]>(to.at((4 * i * Self::APART) as i32), [pair; 4]);
            }
        }
    }

    /// The values of a word's eight codes, two a register: byte after byte, the high nibble in the low half.
    pub fn pairs(&self, k: &Kernel, word: Reg<B32>) -> [Reg<B32>; 4] {
        std::array::from_fn(|byte| {
            let codes = k.prmt_b32(word, 0, 0x4440 + byte as u32);
            k.ld_shared::<B32>(k.element(self.first, codes, Self::APART))
        })
    }
}
