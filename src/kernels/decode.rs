//! 4-bit codes to pairs of 16-bit values in registers, for tensor cores.
//!
//! [`PairDecoder`]: no memory, no conflicts, 2.6 instructions a value. The 16 values' low bytes lie in four registers and
//! their high bytes in four more. `prmt` picks four bytes by the lower three bits of four codes, once from the lower half of
//! the table and once from the upper; another `prmt`, its selector made of the codes' upper bits, chooses between the two.
//!
//! [`PairTable`]: 32 KB of shared memory, 1.5 instructions a value, one of them an integer operation. A byte of codes is the
//! index of a pair of values, and the table has a copy in each bank, for the lane of that number: lanes that look up
//! whatever never conflict. The address is one multiplication and addition, on another pipe than the byte's extraction.

use super::table;
use super::tensor::{narrow_pair_bf16, narrow_pair_f16, widen_pair_bf16, widen_pair_f16};
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

    /// Two values rounded to the type, to nearest even, the first in the low half.
    pub fn pack(self, k: &Kernel, low: Reg<F32>, high: Reg<F32>) -> Reg<B32> {
        match self {
            Half::F16 => narrow_pair_f16(k, low, high),
            Half::Bf16 => narrow_pair_bf16(k, low, high),
        }
    }

    /// The same two values, exact.
    pub fn unpack(self, k: &Kernel, pair: Reg<B32>) -> [Reg<F32>; 2] {
        match self {
            Half::F16 => widen_pair_f16(k, pair),
            Half::Bf16 => widen_pair_bf16(k, pair),
        }
    }

    /// Two values as sums of two of this type each, within the square of its unit roundoff: the values rounded, and what
    /// that leaves of them, rounded. Infinities become NaN.
    pub fn split(self, k: &Kernel, values: [Reg<F32>; 2]) -> [Reg<B32>; 2] {
        let first = self.pack(k, values[0], values[1]);
        let rounded = self.unpack(k, first);
        let [low, high] = [0, 1].map(|i| k.sub_rn_f32(values[i], rounded[i]));
        [first, self.pack(k, low, high)]
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

    /// The same in place: adds `A·B` to C.
    pub fn add_product(self, k: &Kernel, a: [Reg<B32>; 4], b: [Reg<B32>; 2], c: [Reg<F32>; 4]) {
        c.into_iter().zip(self.multiply(k, a, b, c)).for_each(|(c, sum)| k.to(c).mov(sum));
    }
}

/// A table of 16 values as bytes in registers.
pub struct PairDecoder {
    /// The low bytes, four a register.
    pub low: [Reg<B32>; 4],
    /// The high bytes.
    pub high: [Reg<B32>; 4],
}

impl PairDecoder {
    /// The 16 values, rounded to `half`, as words.
    fn words(half: Half, values: [f32; 16]) -> [u32; 8] {
        let bits = values.map(|value| half.round(value));
        std::array::from_fn(|word| {
            let byte = |i: usize| (bits[4 * (word % 4) + i] >> (8 * (word / 4))) as u8;
            u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)])
        })
    }

    /// The 16 values, rounded to `half`.
    pub fn new(k: &Kernel, half: Half, values: [f32; 16]) -> Self {
        let words = Self::words(half, values).map(|word| k.mov::<B32>(word));
        Self { low: std::array::from_fn(|r| words[r]), high: std::array::from_fn(|r| words[4 + r]) }
    }

    /// The same for use over and over: by way of shared memory, or ptxas, which would know the words, moves them to registers
    /// again for every use. All of a block's `threads` take part.
    pub fn in_registers(k: &Kernel, half: Half, values: [f32; 16], threads: u32) -> Self {
        let table = table::share(k, "pairs", &Self::words(half, values), threads).ptr(k);
        k.bar_sync(0);
        let [low, high] = [0, 16].map(|at| k.ld_shared::<[B32; 4]>(table.at(at)));
        Self { low, high }
    }

    /// The 16 values times `scale`, each rounded once, to `half`.
    pub fn scaled(k: &Kernel, half: Half, values: [f32; 16], scale: Reg<F32>) -> Self {
        let pairs: [_; 8] = std::array::from_fn(|i| {
            let [low, high] = [0, 1].map(|odd| k.mul_rn_f32(scale, values[2 * i + odd]));
            half.pack(k, low, high)
        });
        let bytes =
            |selector: u32| std::array::from_fn(|r| k.prmt_b32(pairs[2 * r], pairs[2 * r + 1], selector));
        Self { low: bytes(0x6420), high: bytes(0x7531) }
    }

    /// The values of a word's eight codes, two a register, the earlier one in the low half.
    pub fn pairs(&self, k: &Kernel, word: Reg<B32>) -> [Reg<B32>; 4] {
        let to = k.regs();
        self.pairs_to(k, word, to);
        to
    }

    /// The same, in these registers.
    pub fn pairs_to(&self, k: &Kernel, word: Reg<B32>, to: [Reg<B32>; 4]) {
        let index = k.and_b32(word, 0x7777_7777u32);
        // Nibble i of each half is i, where a code has its upper bit set i + 4.
        let chosen =
            k.lop3_b32(k.shr_u32(word, 1), 0x4444_4444u32, 0x3210_3210u32, lut(|a, b, c| (a & b) | c));
        self.two_pairs_to(k, index, chosen, [to[0], to[1]]);
        self.two_pairs_to(k, k.shr_u32(index, 16), k.shr_u32(chosen, 16), [to[2], to[3]]);
    }

    /// The values of four codes; of both selectors the low halves count.
    fn two_pairs_to(&self, k: &Kernel, index: Reg<B32>, chosen: Reg<B32>, to: [Reg<B32>; 2]) {
        let look_up = |table: &[Reg<B32>; 4]| {
            let from_lower = k.prmt_b32(table[0], table[1], index);
            let from_upper = k.prmt_b32(table[2], table[3], index);
            k.prmt_b32(from_lower, from_upper, chosen)
        };
        let (low, high) = (look_up(&self.low), look_up(&self.high));
        // A byte's high nibble is the earlier code, but its low nibble came first here.
        k.to(to[0]).prmt_b32(low, high, 0x4051);
        k.to(to[1]).prmt_b32(low, high, 0x6273);
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
