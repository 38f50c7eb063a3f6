//! How the sums of a tile made by `wgmma` become the output: transposed through shared memory, 16 bytes at a time.
//!
//! The sums lie feature by feature, the output token by token ([`super::wgmma_pipeline`]). Each warp turns its 16 features by
//! itself, a piece of tokens at a time, in 2 KB of shared memory; a lane then has 8 features of a token and writes them: 32 or
//! 64 consecutive bytes of 16 tokens a warp. Sums are rounded once. An output of 16 bits that nothing is added to is rounded
//! before it is turned, 64 tokens at a time by `stmatrix`; otherwise f32 is turned, 32 tokens at a time.
//!
//! **Places.** In 16 bits, a token has two 16-byte units: unit u of token r lies at `u ^ ((r >> 2) & 1)`, and the 8 rows of a
//! matrix fill all banks. In f32 it has four, two tokens share a line of 128 bytes: unit u of token r lies in line
//! `2·(r >> 2) + (r & 1)`, in its half `(r >> 1) & 1`, at `u ^ (r & 1) ^ 2·((r >> 2) & 1)`. The sums that a warp writes at a time,
//! which belong to every other of 8 tokens, fill all banks, and so do the units of four tokens, which eight lanes read at a
//! time.

use super::decode::Half;
use super::dense::Dense;
use super::tensor::{narrow, widen};
use super::wgmma_pipeline::{Sums, WARPGROUP};
use crate::view::DType;
use ptx_asm::{B32, B64, F32, Global, Kernel, Pred, Ptr, Reg, Shared, U16};

/// Bytes of a piece: 16 features of 32 or 64 tokens.
const PIECE: u32 = 2048;
/// Bytes of shared memory: eight warps.
pub const SHARED: u32 = 2 * WARPGROUP / 32 * PIECE;

/// Where a consuming warp's sums go.
pub struct Store<'k> {
    k: &'k Kernel,
    out: Dense,
    bias: Option<Dense>,
    accumulate: bool,
    /// Features and tokens of the output.
    size: [Reg<B64>; 2],
    lane: Reg<B32>,
    turn: Turn,
    /// Whether 16 bytes may be accessed at once.
    wide: Reg<Pred>,
}

/// The warp's piece in shared memory.
enum Turn {
    /// In 16 bits: where the lane's row of four matrices of 16 tokens by 16 features lies, and its first 8 features to read.
    Halves { half: Half, write: Ptr<Shared>, read: Ptr<Shared> },
    /// In f32: where the lane writes its first sums, by feature (g or g + 8), then by token (even or odd); and its first 4
    /// features to read, which the next 4 lie beside.
    Singles { write: [[Ptr<Shared>; 2]; 2], read: Ptr<Shared> },
}

impl Turn {
    fn halves(k: &Kernel, half: Half, piece: Ptr<Shared>, lane: Reg<B32>) -> Self {
        let bit = |n: u32| k.and_b32(k.shr_u32(lane, n), 1);
        let place = |token: Reg<B32>, unit: Reg<B32>, swizzle: Reg<B32>| {
            k.element(k.element(piece, token, 32), k.xor_b32(unit, swizzle), 16)
        };
        // Lanes 8i … 8i + 7 give the rows of matrix i: 8 tokens of features 0 …, of features 8 …, then 8 tokens more.
        let token = k.mad_lo_u32(bit(4), 8, k.and_b32(lane, 7));
        let write = place(token, bit(3), bit(2));
        // Token lane >> 1, features 8·(lane & 1) ….
        let read = place(k.shr_u32(lane, 1), bit(0), bit(3));
        Self::Halves { half, write, read }
    }

    fn singles(k: &Kernel, piece: Ptr<Shared>, lane: Reg<B32>) -> Self {
        let (g, t) = (k.shr_u32(lane, 2), k.and_b32(lane, 3));
        // Token 2t + odd: line 2·(t >> 1) + odd, half t & 1.
        let (upper, half) = (k.shr_u32(t, 1), k.and_b32(t, 1));
        let line = k.element(k.element(piece, upper, 256), half, 64);
        let word = k.element(line, k.and_b32(g, 3), 4);
        let write = [0, 1].map(|lower| {
            [0, 1].map(|odd| {
                let unit = k.add_u32(k.shr_u32(g, 2), 2 * lower);
                let place = k.xor_b32(k.xor_b32(unit, k.shl_b32(upper, 1)), odd);
                k.offset(k.element(word, place, 16), 128 * odd)
            })
        });
        // Token r = lane >> 1, features 8·(lane & 1) ….
        let bit = |n: u32| k.and_b32(k.shr_u32(lane, n), 1);
        let line = k.element(k.element(piece, k.shr_u32(lane, 3), 256), bit(1), 128);
        let unit = k.xor_b32(k.xor_b32(k.shl_b32(bit(0), 1), bit(1)), k.shl_b32(bit(3), 1));
        let read = k.element(k.element(line, bit(2), 64), unit, 16);
        Self::Singles { write, read }
    }

    /// Tokens of a piece.
    fn tokens(&self) -> u32 {
        match self {
            Self::Halves { .. } => 64,
            Self::Singles { .. } => 32,
        }
    }

    /// Puts a piece there: of each 8 tokens two of feature g, two of feature g + 8.
    fn write(&self, k: &Kernel, sums: &[Reg<F32>]) {
        match self {
            Self::Halves { half, write, .. } => {
                for (i, sums) in (0..).zip(sums.chunks(8)) {
                    let pairs = std::array::from_fn(|q| half.pack(k, sums[2 * q], sums[2 * q + 1]));
                    k.stmatrix_x4_trans(write.at(16 * 32 * i), pairs);
                }
            }
            Self::Singles { write, .. } => {
                for (i, &sum) in sums.iter().enumerate() {
                    k.st_shared::<F32>(write[i / 2 % 2][i % 2].at(512 * (i / 4) as i32), sum);
                }
            }
        }
    }

    /// Where the lane reads of the piece's 16 tokens number `n`.
    fn read(&self, k: &Kernel, n: u32) -> Ptr<Shared> {
        match self {
            Self::Halves { read, .. } => k.offset(*read, 16 * 32 * n),
            Self::Singles { read, .. } => k.offset(*read, 16 * 64 * n),
        }
    }
}

impl<'k> Store<'k> {
    /// For a consuming warp, of eight that share the memory, and a lane of it.
    pub fn new(
        k: &'k Kernel,
        (shared, [warp, lane]): (Ptr<Shared>, [Reg<B32>; 2]),
        out: Dense,
        bias: Option<Dense>,
        accumulate: bool,
        size: [Reg<B64>; 2],
    ) -> Self {
        let piece = k.element(shared, warp, PIECE);
        let turn = match out.dtype {
            DType::F16 if !accumulate => Turn::halves(k, Half::F16, piece, lane),
            DType::Bf16 if !accumulate => Turn::halves(k, Half::Bf16, piece, lane),
            _ => Turn::singles(k, piece, lane),
        };
        let bytes = k.or_b64(out.base.reg(), k.shl_b64(out.stride, out.dtype.size().trailing_zeros()));
        let wide = k.setp_eq_u64(k.and_b64(bytes, 15), 0);
        Self { k, out, bias, accumulate, size, lane, turn, wide }
    }

    /// Writes a warp's sums: 16 features and a tile's tokens, from these on, of the output or of that one of several, one after
    /// the other.
    pub fn write(&self, sums: &Sums<'_>, [feature, token]: [Reg<B32>; 2], which: Option<Reg<B32>>) {
        let (k, [features, tokens]) = (self.k, self.size);
        k.section("store");
        let bias = self.biases(feature);
        // The lane's 8 features, and how many of them exist; its token of each 16, and how many exist from there on.
        let first = k.cvt_u64_u32(k.add_u32(feature, k.shl_b32(k.and_b32(self.lane, 1), 3)));
        let exist = k.cvt_u32_u64(k.min_u64(8, k.max_s64(k.sub_s64(features, first), 0)));
        let token = k.cvt_u64_u32(k.add_u32(token, k.shr_u32(self.lane, 1)));
        let left = k.sub_s64(tokens, token);
        let token = which.map_or(token, |which| k.mad_lo_u64(k.cvt_u64_u32(which), tokens, token));
        let whole = k.and_pred(self.wide, k.setp_eq_u32(exist, 8));
        let to = self.out.address(k, token, first);
        let step = k.shl_b64(self.out.stride, 4 + self.out.dtype.size().trailing_zeros());
        for (piece, sums) in (0..).zip(sums.registers.chunks((self.turn.tokens() / 2) as usize)) {
            let biased = |(i, &sum)| bias.map_or(sum, |bias| k.add_rn_f32(sum, bias[i / 2 % 2]));
            self.turn.write(k, &sums.iter().enumerate().map(biased).collect::<Vec<_>>());
            k.bar_warp_sync(u32::MAX);
            for n in 0..self.turn.tokens() / 16 {
                let ahead = piece * self.turn.tokens() + 16 * n;
                k.if_then(k.setp_gt_s64(left, ahead), || {
                    let from = self.turn.read(k, n);
                    k.if_else(
                        whole,
                        || self.write_vectors(from, to),
                        || self.write_elements(from, k.add_u64(token, u64::from(ahead)), first, exist),
                    );
                });
                k.advance(to, step);
            }
            k.bar_warp_sync(u32::MAX);
        }
    }

    /// The bias of the lane's features g and g + 8; 0 where there is none.
    fn biases(&self, feature: Reg<B32>) -> Option<[Reg<F32>; 2]> {
        let (k, g) = (self.k, self.k.shr_u32(self.lane, 2));
        self.bias.as_ref().map(|bias| {
            [0, 8].map(|lower| {
                let at = k.cvt_u64_u32(k.add_u32(k.add_u32(feature, g), lower));
                bias.load(k, k.mov(0), at, Some(k.setp_lt_u64(at, self.size[0])))
            })
        })
    }

    /// Eight features of a token at once.
    fn write_vectors(&self, from: Ptr<Shared>, to: Ptr<Global>) {
        let (k, dtype) = (self.k, self.out.dtype);
        if let Turn::Halves { .. } = self.turn {
            return k.st_global::<[B32; 4]>(to, k.ld_shared::<[B32; 4]>(from));
        }
        let second = Ptr::new(k.xor_b32(from.reg(), 16));
        let mut values = [from, second].map(|from| k.ld_shared::<[F32; 4]>(from)).concat();
        let vectors = (8 * dtype.size() / 16) as i32;
        if self.accumulate {
            let old = (0..vectors).flat_map(|v| widen(k, dtype, k.ld_global::<[B32; 4]>(to.at(16 * v))));
            values = values.iter().zip(old).map(|(&value, old)| k.add_rn_f32(value, old)).collect();
        }
        for (v, values) in (0..vectors).zip(values.chunks(16 / dtype.size())) {
            k.st_global::<[B32; 4]>(to.at(16 * v), narrow(k, dtype, values));
        }
    }

    /// As many as exist, one by one.
    fn write_elements(&self, from: Ptr<Shared>, token: Reg<B64>, first: Reg<B64>, exist: Reg<B32>) {
        let k = self.k;
        k.for_range(0, exist, 1, |i| {
            let col = k.add_u64(first, k.cvt_u64_u32(i));
            if let Turn::Halves { .. } = self.turn {
                let value = k.ld_shared::<U16>(k.element(from, i, 2));
                return k.st_global::<U16>(self.out.address(k, token, col), value);
            }
            let place = k.or_b32(k.shl_b32(k.and_b32(i, 4), 2), k.shl_b32(k.and_b32(i, 3), 2));
            let value = k.ld_shared::<F32>(Ptr::new(k.xor_b32(from.reg(), place)));
            let value = match self.accumulate {
                true => k.add_rn_f32(value, self.out.load(k, token, col, None)),
                false => value,
            };
            self.out.store(k, token, col, value);
        });
    }
}
