//! The optimizers' arithmetic on registers, and their random bits.

use crate::format::optimizer::Arithmetic;
use crate::format::optimizer::stochastic::{MULTIPLIERS, ROUNDS, WEYL};
use ptx_asm::{B32, B64, F32, Kernel, Pred, Reg};

/// [`Arithmetic`] that writes instructions: the rounding of each is spelled out, so that the assembler fuses none.
pub struct Registers<'k>(pub &'k Kernel);

impl Arithmetic for Registers<'_> {
    type Value = Reg<F32>;
    type Truth = Reg<Pred>;

    fn number(&self, value: f32) -> Reg<F32> {
        self.0.mov(value)
    }
    fn add(&self, a: Reg<F32>, b: Reg<F32>) -> Reg<F32> {
        self.0.add_rn_f32(a, b)
    }
    fn sub(&self, a: Reg<F32>, b: Reg<F32>) -> Reg<F32> {
        self.0.sub_rn_f32(a, b)
    }
    fn mul(&self, a: Reg<F32>, b: Reg<F32>) -> Reg<F32> {
        self.0.mul_rn_f32(a, b)
    }
    fn div(&self, a: Reg<F32>, b: Reg<F32>) -> Reg<F32> {
        self.0.div_rn_f32(a, b)
    }
    fn sqrt(&self, a: Reg<F32>) -> Reg<F32> {
        self.0.sqrt_rn_f32(a)
    }
    fn greater(&self, a: Reg<F32>, b: Reg<F32>) -> Reg<Pred> {
        self.0.setp_gt_f32(a, b)
    }
    fn is_finite(&self, a: Reg<F32>) -> Reg<Pred> {
        self.0.testp_finite_f32(a)
    }
    fn both(&self, a: Reg<Pred>, b: Reg<Pred>) -> Reg<Pred> {
        self.0.and_pred(a, b)
    }
    fn select(&self, which: Reg<Pred>, a: Reg<F32>, b: Reg<F32>) -> Reg<F32> {
        self.0.selp_f32(a, b, which)
    }
}

/// [`crate::format::optimizer::stochastic::Key`], in registers.
pub struct Key {
    seed: [Reg<B32>; 2],
    step: Reg<B32>,
}

impl Key {
    /// Declares the parameters: seed, step (u64).
    pub fn new(k: &Kernel) -> Self {
        Self { seed: k.unpack_b64(k.param_u64("seed")), step: k.cvt_u32_u64(k.param_u64("step")) }
    }

    /// The random words of a group of elements of a parameter.
    pub fn words(&self, k: &Kernel, parameter: Reg<B32>, group: Reg<B64>) -> [Reg<B32>; 4] {
        let [mut c0, mut c1] = k.unpack_b64(group);
        let [mut c2, mut c3] = [parameter, self.step];
        let mut key = self.seed;
        for _ in 0..ROUNDS {
            let [low0, high0] = k.unpack_b64(k.mul_wide_u32(c0, MULTIPLIERS[0]));
            let [low1, high1] = k.unpack_b64(k.mul_wide_u32(c2, MULTIPLIERS[1]));
            let mix = |a, b, c| k.xor_b32(k.xor_b32(a, b), c);
            (c0, c1, c2, c3) = (mix(high1, c1, key[0]), low1, mix(high0, c3, key[1]), low0);
            key = [k.add_u32(key[0], WEYL[0]), k.add_u32(key[1], WEYL[1])];
        }
        [c0, c1, c2, c3]
    }
}

/// [`crate::format::optimizer::stochastic::round`].
pub fn round_at_random(k: &Kernel, x: Reg<F32>, word: Reg<B32>) -> Reg<F32> {
    let moved = k.add_u32(k.f32_to_bits(x), k.shr_u32(word, 16));
    let rounded = k.f32_from_bits(k.and_b32(moved, 0xffff_0000u32));
    k.selp_f32(rounded, x, k.testp_finite_f32(x))
}
