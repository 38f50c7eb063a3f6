//! `mma.sync`: D = A·B + C over the fragments of a warp (PTX ISA §9.7.14.5).
//!
//! With g = lane/4 and t = lane mod 4, and e elements in a 32-bit register: register q of A has row g + 8·(q mod 2) and
//! columns e·t … + 4e·⌊q/2⌋; register q of B has rows e·t … + 4e·q and column g; C and D have rows g and g + 8, columns 2t and
//! 2t + 1.
//!
//! Products are exact and summed in f64, then rounded once. Hardware promises no more than "at least single precision" and
//! no order, and truncates: results agree within the bound of an f32 sum, not bit for bit.

use super::lanes::WARP;
use super::warp::Warp;
use crate::isa::numeric::{E4M3, E5M2, F16, Round, bf16_to_f32, f16_to_f32};
use crate::isa::{Element, Mma};

impl Element {
    /// Element `k` of a register as a number; all are exact.
    pub(super) fn value(self, word: u32, k: usize) -> f64 {
        match self {
            Self::F16 => f16_to_f32((word >> (16 * k)) as u16).into(),
            Self::Bf16 => bf16_to_f32((word >> (16 * k)) as u16).into(),
            // The low 13 bits are not looked at.
            Self::Tf32 => f64::from(f32::from_bits(word & 0xFFFF_E000)),
            Self::F32 => f64::from(f32::from_bits(word)),
            Self::S8 => f64::from((word >> (8 * k)) as i8),
            Self::U8 => f64::from((word >> (8 * k)) as u8),
            Self::S32 => f64::from(word as i32),
            Self::E4m3 => E4M3.decode(word >> (8 * k) & 0xFF),
            Self::E5m2 => E5M2.decode(word >> (8 * k) & 0xFF),
        }
    }

    /// The bits of an accumulator.
    pub(super) fn accumulator(self, value: f64, saturate: bool) -> u32 {
        match self {
            Self::F16 => F16.encode(value, Round::Nearest, false),
            // Integers are exact in f64.
            Self::S32 if saturate => value as i32 as u32,
            Self::S32 => value as i64 as u32,
            _ => {
                let value = value as f32;
                if value.is_nan() { crate::isa::numeric::F32_NAN } else { value.to_bits() }
            }
        }
    }
}

/// Row and column of element `k` of register `q` of C or D in a lane.
fn c_place(lane: usize, q: usize, k: usize, per_register: usize) -> (usize, usize) {
    let element = q * per_register + k;
    (lane / 4 + 8 * (element / 2), 2 * (lane % 4) + element % 2)
}

impl Warp {
    pub(super) fn mma(&mut self, op: &Mma) {
        let [_, _, depth] = op.shape;
        let e = op.a_type.per_register();
        let file = &self.registers.b32;
        let (mut a, mut b, mut c) = ([[0f64; 32]; 16], [[0f64; 32]; 8], [[0f64; 8]; 16]);
        #[allow(clippy::needless_range_loop)] // of several arrays
        for lane in 0..WARP {
            let (g, t) = (lane / 4, lane % 4);
            for (q, register) in op.a.iter().enumerate() {
                let word = file[usize::from(*register)][lane];
                for k in 0..e {
                    a[g + 8 * (q % 2)][e * t + k + 4 * e * (q / 2)] = op.a_type.value(word, k);
                }
            }
            // Columns of B lie together, as rows of A do.
            for (q, register) in op.b.iter().enumerate() {
                let word = file[usize::from(*register)][lane];
                for k in 0..e {
                    b[g][e * t + k + 4 * e * q] = op.b_type.value(word, k);
                }
            }
            let per_register = op.c_type.per_register();
            for (q, register) in op.c.iter().enumerate() {
                for k in 0..per_register {
                    let (row, col) = c_place(lane, q, k, per_register);
                    c[row][col] = op.c_type.value(file[usize::from(*register)][lane], k);
                }
            }
        }
        for (row, c) in a.iter().zip(&mut c) {
            for (col, c) in b.iter().zip(c) {
                // Four sums at once, for speed; the order is ours to choose.
                let mut sums = [0f64; 4];
                for (x, y) in row[..depth].chunks_exact(4).zip(col.chunks_exact(4)) {
                    for k in 0..4 {
                        sums[k] += x[k] * y[k];
                    }
                }
                *c += (sums[0] + sums[1]) + (sums[2] + sums[3]);
            }
        }
        let per_register = op.c_type.per_register();
        for (q, register) in op.d.iter().enumerate() {
            let word = |lane: usize| {
                (0..per_register).fold(0, |word, k| {
                    let (row, col) = c_place(lane, q, k, per_register);
                    word | op.c_type.accumulator(c[row][col], op.saturate) << (16 * k)
                })
            };
            self.registers.b32[usize::from(*register)] = std::array::from_fn(word);
        }
    }
}
