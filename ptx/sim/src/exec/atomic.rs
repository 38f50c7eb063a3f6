//! `atom` and `red` (PTX ISA §9.7.13.6).

use super::lanes::{Class, Reg, WARP};
use super::warp::{Context, Warp};
use crate::fault::Step;
use crate::isa::numeric::{BF16, F16, Format, Round, canonical, flush};
use crate::isa::{AtomOp, AtomType, Atomic};
use crate::parse::Space;

impl Warp {
    pub(super) fn atomic(&mut self, c: &mut Context<'_>, atomic: &Atomic, mask: u32) -> Step {
        let mut addresses = self.addresses(&atomic.address);
        let elements = if atomic.op == AtomOp::Cas { 1 } else { atomic.operands.len() };
        let (size, bytes) = (atomic.size, atomic.size * elements);
        let value = |w: &Self, reg: Reg, lane: usize| match reg.class {
            Class::B64 => w.registers.b64[usize::from(reg.index)][lane],
            _ => u64::from(w.registers.b32[usize::from(reg.index)][lane]),
        };
        let mut old_values = [[0u8; 32]; WARP];
        for (space, mask) in self.split(atomic.space, &mut addresses, mask) {
            let flushes = space == Space::Global; // only f32 additions in global memory flush subnormals
            let f = |lane: usize, old: &[u8; 32]| {
                old_values[lane] = *old;
                let mut new = *old;
                for k in 0..elements {
                    let part = k * size..(k + 1) * size;
                    let mut word = [0; 8];
                    word[..size].copy_from_slice(&old[part.clone()]);
                    let old = u64::from_le_bytes(word);
                    let b = value(self, atomic.operands[k], lane);
                    let new_word = match atomic.op {
                        AtomOp::Cas if old == truncate(b, size) => value(self, atomic.operands[1], lane),
                        AtomOp::Cas => old,
                        op => apply(op, atomic.ty, size, old, b, flushes),
                    };
                    new[part].copy_from_slice(&new_word.to_le_bytes()[..size]);
                }
                new
            };
            match space {
                Space::Shared => {
                    self.to_cluster(c, &mut addresses, mask)?;
                    self.update_shared(c, &addresses, mask, bytes, atomic.order, f)?
                }
                _ => self.update_global(c, &addresses, mask, bytes, atomic.order, f)?,
            }
        }
        for (k, reg) in atomic.dst.iter().flatten().enumerate() {
            for lane in super::warp::lanes(mask) {
                let mut word = [0; 8];
                word[..size].copy_from_slice(&old_values[lane][k * size..(k + 1) * size]);
                let old = u64::from_le_bytes(word);
                match reg.class {
                    Class::B64 => self.registers.b64[usize::from(reg.index)][lane] = old,
                    _ => self.registers.b32[usize::from(reg.index)][lane] = old as u32,
                }
            }
        }
        Ok(())
    }
}

fn truncate(value: u64, size: usize) -> u64 {
    if size == 8 { value } else { value & ((1 << (8 * size)) - 1) }
}

fn apply(op: AtomOp, ty: AtomType, size: usize, a: u64, b: u64, flushes: bool) -> u64 {
    let b = truncate(b, size);
    let signed = |v: u64| if size == 8 { v as i64 } else { i64::from(v as u32 as i32) };
    match (op, ty) {
        (AtomOp::Add, AtomType::F32) => {
            let (x, y) = (f32::from_bits(a as u32), f32::from_bits(b as u32));
            let sum = if flushes { flush(flush(x) + flush(y)) } else { x + y };
            u64::from(canonical(sum).to_bits())
        }
        (AtomOp::Add, AtomType::F64) => (f64::from_bits(a) + f64::from_bits(b)).to_bits(),
        (AtomOp::Add, AtomType::F16) => add_half(F16, a, b),
        (AtomOp::Add, AtomType::Bf16) => add_half(BF16, a, b),
        (AtomOp::Add, AtomType::F16x2) => {
            add_half(F16, a & 0xFFFF, b & 0xFFFF) | add_half(F16, a >> 16, b >> 16) << 16
        }
        (AtomOp::Add, AtomType::Bf16x2) => {
            add_half(BF16, a & 0xFFFF, b & 0xFFFF) | add_half(BF16, a >> 16, b >> 16) << 16
        }
        (AtomOp::Add, _) => a.wrapping_add(b),
        (AtomOp::And, _) => a & b,
        (AtomOp::Or, _) => a | b,
        (AtomOp::Xor, _) => a ^ b,
        (AtomOp::Min, AtomType::Signed) => signed(a).min(signed(b)) as u64,
        (AtomOp::Max, AtomType::Signed) => signed(a).max(signed(b)) as u64,
        (AtomOp::Min, _) => a.min(b),
        (AtomOp::Max, _) => a.max(b),
        (AtomOp::Inc, _) => {
            if a >= b {
                0
            } else {
                a + 1
            }
        }
        (AtomOp::Dec, _) => {
            if a == 0 || a > b {
                b
            } else {
                a - 1
            }
        }
        (AtomOp::Exch, _) => b,
        (AtomOp::Cas, _) => unreachable!("has two operands"),
    }
}

fn add_half(format: Format, a: u64, b: u64) -> u64 {
    u64::from(format.encode(format.decode(a as u32) + format.decode(b as u32), Round::Nearest, false))
}
