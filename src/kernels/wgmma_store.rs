//! How the sums of a tile made by `wgmma` become the output: transposed through shared memory, 16 bytes at a time.
//!
//! The sums lie feature by feature, the output token by token ([`super::wgmma_pipeline`]). Each warp turns its 16 features by
//! itself, 32 tokens at a time, in 2 KB of shared memory; a lane then has 8 features of a token, adds what is there if asked
//! to, rounds once and writes them: 32 or 64 consecutive bytes of 16 tokens a warp.
//!
//! **Places.** A token's 16 sums are four 16-byte units. Unit u of token r lies in line `2·(r >> 2) + (r & 1)` of 128 bytes, in
//! its half `(r >> 1) & 1`, at `u ^ (r & 1) ^ 2·((r >> 2) & 1)`: the 32 sums that a warp writes at a time, which belong to
//! every other of 8 tokens, fill all banks, and so do the units of four tokens, which eight lanes read at a time.

use super::dense::Dense;
use super::tensor::{narrow, widen};
use super::wgmma_pipeline::{Sums, WARPGROUP};
use ptx_asm::{B32, B64, F32, Global, Kernel, Pred, Ptr, Reg, Shared};

/// Tokens that a warp turns at a time.
const PIECE: u32 = 32;
/// Bytes of them in shared memory.
const PIECE_BYTES: u32 = PIECE * 16 * 4;
/// Bytes of shared memory: eight warps.
pub const SHARED: u32 = 2 * WARPGROUP / 32 * PIECE_BYTES;

/// Where a consumer's sums go.
pub struct Store<'k> {
    k: &'k Kernel,
    out: Dense,
    bias: Option<Dense>,
    accumulate: bool,
    /// Features and tokens of the output.
    size: [Reg<B64>; 2],
    lane: Reg<B32>,
    /// Where the lane writes the first of its tokens' sums: by feature (g or g + 8), then by token (even or odd).
    write: [[Ptr<Shared>; 2]; 2],
    /// Where it reads the first of its 8 features of a token.
    read: Reg<B32>,
    /// Whether 16 bytes may be accessed at once.
    wide: Reg<Pred>,
}

impl<'k> Store<'k> {
    /// For a consuming warp, of eight.
    pub fn new(
        k: &'k Kernel,
        shared: Ptr<Shared>,
        [warp, lane]: [Reg<B32>; 2],
        out: Dense,
        bias: Option<Dense>,
        accumulate: bool,
        size: [Reg<B64>; 2],
    ) -> Self {
        let own = k.element(shared, warp, PIECE_BYTES);
        let (g, t) = (k.shr_u32(lane, 2), k.and_b32(lane, 3));
        // Token 2t + odd: line 2·(t >> 1) + odd, half t & 1.
        let (upper, half) = (k.shr_u32(t, 1), k.and_b32(t, 1));
        let line = k.element(k.element(own, upper, 256), half, 64);
        let word = k.element(line, k.and_b32(g, 3), 4);
        let write = [0, 1].map(|lower| {
            [0, 1].map(|odd| {
                let unit = k.add_u32(k.shr_u32(g, 2), 2 * lower);
                let place = k.xor_b32(k.xor_b32(unit, k.shl_b32(upper, 1)), odd);
                k.offset(k.element(word, place, 16), 128 * odd)
            })
        });
        // Token lane >> 1, features 8·(lane & 1) …
        let (r, h) = (k.shr_u32(lane, 1), k.and_b32(lane, 1));
        let bit = |n: u32| k.and_b32(k.shr_u32(r, n), 1);
        let line = k.element(k.element(own, k.shr_u32(r, 2), 256), bit(0), 128);
        let unit = k.xor_b32(k.xor_b32(k.shl_b32(h, 1), bit(0)), k.shl_b32(bit(2), 1));
        let read = k.element(k.element(line, bit(1), 64), unit, 16).reg();
        let bytes = k.or_b64(out.base.reg(), k.shl_b64(out.stride, out.dtype.size().trailing_zeros()));
        let wide = k.setp_eq_u64(k.and_b64(bytes, 15), 0);
        Self { k, out, bias, accumulate, size, lane, write, read, wide }
    }

    /// Writes a warp's sums: 16 features from `feature` on, a tile's tokens from `token` on.
    pub fn write(&self, sums: &Sums<'_>, feature: Reg<B32>, token: Reg<B32>) {
        let (k, [features, tokens]) = (self.k, self.size);
        k.section("store");
        let bias = self.biases(feature);
        // The lane's 8 features, and how many of them exist; its token of each 16, and how many exist from there on.
        let first = k.cvt_u64_u32(k.add_u32(feature, k.shl_b32(k.and_b32(self.lane, 1), 3)));
        let exist = k.cvt_u32_u64(k.min_u64(8, k.max_s64(k.sub_s64(features, first), 0)));
        let token = k.cvt_u64_u32(k.add_u32(token, k.shr_u32(self.lane, 1)));
        let left = k.sub_s64(tokens, token);
        let whole = k.and_pred(self.wide, k.setp_eq_u32(exist, 8));
        let to = self.out.address(k, token, first);
        let step = k.shl_b64(self.out.stride, 4 + self.out.dtype.size().trailing_zeros());
        for (piece, sums) in (0..).zip(sums.registers.chunks((PIECE / 2) as usize)) {
            for (i, &sum) in (0..).zip(sums) {
                // Of 8 tokens: two of feature g, two of feature g + 8.
                let (lower, odd) = (i / 2 % 2, i % 2);
                let value = bias.map_or(sum, |bias| k.add_rn_f32(sum, bias[lower]));
                k.st_shared::<F32>(self.write[lower][odd].at(512 * (i / 4) as i32), value);
            }
            k.bar_warp_sync(u32::MAX);
            for half in 0..PIECE / 16 {
                let ahead = piece * PIECE + 16 * half;
                k.if_then(k.setp_gt_s64(left, ahead), || {
                    let from = Ptr::new(k.add_u32(self.read, 1024 * half));
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
            // Number i in the units of 4: the second lies beside the first.
            let place = k.or_b32(k.shl_b32(k.and_b32(i, 4), 2), k.shl_b32(k.and_b32(i, 3), 2));
            let value = k.ld_shared::<F32>(Ptr::new(k.xor_b32(from.reg(), place)));
            let col = k.add_u64(first, k.cvt_u64_u32(i));
            let value = match self.accumulate {
                true => k.add_rn_f32(value, self.out.load(k, token, col, None)),
                false => value,
            };
            self.out.store(k, token, col, value);
        });
    }
}
