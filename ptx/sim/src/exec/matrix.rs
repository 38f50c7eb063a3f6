//! `ldmatrix`, `stmatrix`, `movmatrix`: 8×8 matrices of 16-bit elements between shared memory and fragments.
//!
//! A fragment has in lane `l` the elements (row l/4, columns 2·(l mod 4) and the next); of a transposed matrix, those of its
//! transpose.
//!
//! The lane that gives a row's address is not the one that gets or has its elements (§9.7.14.5.15), so rows count as accessed by
//! several lanes: whoever else touches them must be ordered by `bar.warp.sync` or more.

use super::banks::bank_conflicts;
use super::lanes::WARP;
use super::warp::{Context, Warp, lanes};
use crate::fault::Step;
use crate::isa::Ldmatrix;

/// Rows of 16 bytes.
type Matrix = [[u16; 8]; 8];

fn to_fragment(m: &Matrix, trans: bool) -> [u32; WARP] {
    std::array::from_fn(|lane| {
        let (row, col) = (lane / 4, 2 * (lane % 4));
        let (lo, hi) = if trans { (m[col][row], m[col + 1][row]) } else { (m[row][col], m[row][col + 1]) };
        u32::from(hi) << 16 | u32::from(lo)
    })
}

fn from_fragment(fragment: &[u32; WARP], trans: bool) -> Matrix {
    let mut m = Matrix::default();
    for (lane, word) in fragment.iter().enumerate() {
        let (row, col) = (lane / 4, 2 * (lane % 4));
        let (lo, hi) = (*word as u16, (word >> 16) as u16);
        if trans {
            (m[col][row], m[col + 1][row]) = (lo, hi);
        } else {
            (m[row][col], m[row][col + 1]) = (lo, hi);
        }
    }
    m
}

/// The lanes that give the row addresses of the first `count` matrices.
fn row_lanes(count: usize) -> u32 {
    u32::MAX >> (32 - 8 * count)
}

impl Warp {
    pub(super) fn ldmatrix(&mut self, c: &mut Context<'_>, op: &Ldmatrix) -> Step {
        let (mut addresses, mask) = (self.addresses(&op.address), row_lanes(op.registers.len()));
        self.to_cluster(c, &mut addresses, mask)?;
        c.tally.bank_conflicts += bank_conflicts(&addresses, mask, 16);
        let mut matrices = [Matrix::default(); 4];
        self.each_shared_read_by::<true>(c, &addresses, mask, 16, false, |shared, lane, at| {
            let row = &mut matrices[lane / 8][lane % 8];
            for (k, element) in row.iter_mut().enumerate() {
                *element = u16::from_le_bytes([shared.data[at + 2 * k], shared.data[at + 2 * k + 1]]);
            }
            Ok(())
        })?;
        for (register, matrix) in op.registers.iter().zip(&matrices) {
            self.registers.b32[usize::from(*register)] = to_fragment(matrix, op.trans);
        }
        Ok(())
    }

    pub(super) fn stmatrix(&mut self, c: &mut Context<'_>, op: &Ldmatrix) -> Step {
        let (mut addresses, mask) = (self.addresses(&op.address), row_lanes(op.registers.len()));
        self.to_cluster(c, &mut addresses, mask)?;
        c.tally.bank_conflicts += bank_conflicts(&addresses, mask, 16);
        let mut rows = [[0u8; 32]; WARP];
        for (k, register) in op.registers.iter().enumerate() {
            let matrix = from_fragment(&self.registers.b32[usize::from(*register)], op.trans);
            for (row, elements) in matrix.iter().enumerate() {
                for (j, element) in elements.iter().enumerate() {
                    rows[8 * k + row][2 * j..2 * j + 2].copy_from_slice(&element.to_le_bytes());
                }
            }
        }
        debug_assert_eq!(lanes(mask).count(), 8 * op.registers.len());
        self.each_shared_write_by::<true>(c, &addresses, mask, 16, false, |lane| &rows[lane])
    }

    pub(super) fn movmatrix(&mut self, d: u16, a: u16) {
        let matrix = from_fragment(&self.registers.b32[usize::from(a)], false);
        self.registers.b32[usize::from(d)] = to_fragment(&matrix, true);
    }
}
