//! `wgmma`: asynchronous products of a warpgroup with factors in shared memory (PTX ISA §9.7.15).
//!
//! Each of the four warps computes its own 16 rows. Results are kept aside until they are waited for; an instruction that
//! touches a register of a product under way is a fault, and so is a product whose registers were touched since the last
//! `wgmma.fence`. That the four warps execute the same instructions is not checked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::lanes::WARP;
use super::tensor::Swizzle;
use super::warp::{Context, Warp};
use crate::fault::{FaultKind, Step, raise};
use crate::isa::{Element, Factor, Op, Wgmma};

/// One product under way.
struct Product {
    accumulators: Vec<u16>,
    factors: Vec<u16>,
    /// What it reads of shared memory.
    ranges: Vec<(usize, usize)>,
}

/// The products of a warp.
#[derive(Default)]
pub struct Products {
    uncommitted: Vec<Product>,
    groups: VecDeque<Vec<Product>>,
    /// Accumulators under way: how many products are to come, and the value after them.
    accumulators: BTreeMap<u16, (u32, [u32; WARP])>,
    /// Registers with fragments of A under way: how many products read them.
    factors: BTreeMap<u16, u32>,
    /// Registers touched since the last fence.
    touched: BTreeSet<u16>,
}

impl Products {
    pub fn fence(&mut self) {
        self.touched.clear();
    }

    pub fn commit(&mut self) {
        self.groups.push_back(std::mem::take(&mut self.uncommitted));
    }

    /// An instruction names these registers.
    pub fn touch(&mut self, op: &Op, uses: &[u16], mask: u32) -> Step {
        if matches!(op, Op::Wgmma(_)) {
            return Ok(());
        }
        for register in uses {
            if self.accumulators.contains_key(register) || self.factors.contains_key(register) {
                let text = "a register of a wgmma.mma_async that has not been waited for";
                return raise(FaultKind::MissingWait, mask.trailing_zeros() as usize, text.into());
            }
            self.touched.insert(*register);
        }
        Ok(())
    }

    fn check_fence(&self, op: &Wgmma) -> Step {
        let factors = match &op.a {
            Factor::Fragment(registers) => registers.as_slice(),
            Factor::Descriptor { .. } => &[],
        };
        match op.d.iter().chain(factors).find(|register| self.touched.contains(register)) {
            None => Ok(()),
            Some(_) => {
                let text = "registers were accessed since the last wgmma.fence: one is missing";
                raise(FaultKind::MissingWait, 0, text.into())
            }
        }
    }
}

/// A matrix descriptor (§9.7.15.5.1.2.2).
struct Descriptor {
    start: usize,
    leading: usize,
    stride: usize,
    swizzle: Swizzle,
}

impl Descriptor {
    fn new(bits: u64) -> Step<Self> {
        let field = |shift: u32| ((bits >> shift & 0x3FFF) << 4) as usize;
        if bits >> 49 & 7 != 0 {
            let text = "a matrix descriptor with a base offset (not simulated)";
            return raise(FaultKind::IllegalOperand, 0, text.into());
        }
        let swizzle = [Swizzle::None, Swizzle::B128, Swizzle::B64, Swizzle::B32][(bits >> 62) as usize];
        Ok(Self { start: field(0), leading: field(16), stride: field(32), swizzle })
    }

    /// The address of the 16 bytes that hold element (`mn`, `k`), and the byte within them. `size`: bytes of an element.
    ///
    /// The canonical layouts: K-major are core matrices of 8 rows of 16 bytes, or rows as wide as the swizzle; MN-major the
    /// same with the roles exchanged.
    fn place(&self, mn: usize, k: usize, size: usize, mn_major: bool) -> (usize, usize) {
        let (along, across) = if mn_major { (mn * size, k) } else { (k * size, mn) };
        let offset = match (self.swizzle, mn_major) {
            (Swizzle::None, false) => across / 8 * self.stride + along / 16 * self.leading + across % 8 * 16,
            (Swizzle::None, true) => along / 16 * self.stride + across / 8 * self.leading + across % 8 * 16,
            (swizzle, true) => {
                let span = swizzle.span();
                along / span * self.leading
                    + across / 8 * self.stride
                    + across % 8 * span
                    + along % span / 16 * 16
            }
            (swizzle, false) => across / 8 * self.stride + across % 8 * swizzle.span() + along / 16 * 16,
        };
        (self.swizzle.apply(self.start + offset), along % 16)
    }
}

impl Warp {
    /// Reads a factor from shared memory: `rows` rows of K elements from row `first` on.
    fn factor(
        &self,
        c: &mut Context<'_>,
        bits: u64,
        element: Element,
        (first, rows): (usize, usize),
        k: usize,
        transposed: bool,
        ranges: &mut Vec<(usize, usize)>,
    ) -> Step<Vec<f64>> {
        let size = 4 / element.per_register();
        let descriptor = Descriptor::new(bits)?;
        let mut chunks: BTreeMap<usize, [u8; 16]> = BTreeMap::new();
        let mut out = Vec::with_capacity(rows * k);
        for row in first..first + rows {
            for j in 0..k {
                let (at, byte) = descriptor.place(row, j, size, transposed);
                let at = self.in_cluster(c, 0, at as u64)? as usize;
                let chunk = match chunks.get(&at) {
                    Some(chunk) => *chunk,
                    None => {
                        self.shared_at(c, 0, at as u64, 16)?;
                        self.begin_async_read(c, 0, at, 16)?;
                        ranges.push((at, 16));
                        let chunk: [u8; 16] = c.block.shared.data[at..at + 16].try_into().expect("16 bytes");
                        chunks.insert(at, chunk);
                        chunk
                    }
                };
                let mut word = [0; 4];
                word[..size].copy_from_slice(&chunk[byte..byte + size]);
                out.push(element.value(u32::from_le_bytes(word), 0));
            }
        }
        Ok(out)
    }

    pub(super) fn wgmma(&mut self, c: &mut Context<'_>, op: &Wgmma) -> Step {
        self.products.check_fence(op)?;
        let (n, k) = (op.n, op.k);
        let uniform = |w: &Self, register: u16| -> Step<u64> {
            let values = &w.registers.b64[usize::from(register)];
            if values.iter().any(|v| *v != values[0]) {
                return raise(
                    FaultKind::IllegalOperand,
                    0,
                    "a matrix descriptor that differs between lanes".into(),
                );
            }
            Ok(values[0])
        };
        let mut ranges = Vec::new();
        let rows = (self.index % 4 * 16, 16);
        let mut factors = Vec::new();
        let a = match &op.a {
            Factor::Descriptor { register, transposed } => {
                let bits = uniform(self, *register)?;
                self.factor(c, bits, op.a_type, rows, k, *transposed, &mut ranges)?
            }
            Factor::Fragment(registers) => {
                factors.clone_from(registers);
                self.fragment_a(registers, op.a_type, k)
            }
        };
        let Factor::Descriptor { register, transposed } = &op.b else {
            unreachable!("B is in shared memory")
        };
        let bits = uniform(self, *register)?;
        let b = self.factor(c, bits, op.b_type, (0, n), k, *transposed, &mut ranges)?;
        let sign = if op.negate_a != op.negate_b { -1.0 } else { 1.0 };
        let accumulate = self.predicate(op.accumulate) & 1 != 0;
        let per_register = op.c_type.per_register();
        // D in a lane: of each 8 columns, rows g and g + 8, columns 2t and 2t + 1.
        for (q, register) in op.d.iter().enumerate() {
            let value = |old: &[u32; WARP], lane: usize| {
                (0..per_register).fold(0, |word, e| {
                    let index = q * per_register + e;
                    let row = lane / 4 + 8 * (index % 4 / 2);
                    let col = index / 4 * 8 + 2 * (lane % 4) + index % 2;
                    let (x, y) = (&a[row * k..(row + 1) * k], &b[col * k..(col + 1) * k]);
                    let product: f64 = x.iter().zip(y).map(|(x, y)| x * y).sum();
                    let start = if accumulate { op.c_type.value(old[lane], e) } else { 0.0 };
                    word | op.c_type.accumulator(start + sign * product, false) << (16 * e)
                })
            };
            let register_value = self.registers.b32[usize::from(*register)];
            let entry = self.products.accumulators.entry(*register).or_insert((0, register_value));
            let old = entry.1;
            entry.1 = std::array::from_fn(|lane| value(&old, lane));
            entry.0 += 1;
        }
        for register in &factors {
            *self.products.factors.entry(*register).or_default() += 1;
        }
        self.products.uncommitted.push(Product { accumulators: op.d.clone(), factors, ranges });
        Ok(())
    }

    /// This warp's 16 rows of A from its fragment, laid out as that of `mma`.
    fn fragment_a(&self, registers: &[u16], element: Element, k: usize) -> Vec<f64> {
        let e = element.per_register();
        let mut a = vec![0.0; 16 * k];
        for lane in 0..WARP {
            for (q, register) in registers.iter().enumerate() {
                let word = self.registers.b32[usize::from(*register)][lane];
                for j in 0..e {
                    let (row, col) = (lane / 4 + 8 * (q % 2), e * (lane % 4) + j + 4 * e * (q / 2));
                    a[row * k + col] = element.value(word, j);
                }
            }
        }
        a
    }

    pub(super) fn wgmma_wait(&mut self, c: &mut Context<'_>, keep: u32) {
        let mut done = Vec::new();
        while self.products.groups.len() > keep as usize {
            for product in self.products.groups.pop_front().expect("not empty") {
                for register in product.accumulators {
                    let entry = self.products.accumulators.get_mut(&register).expect("under way");
                    entry.0 -= 1;
                    if entry.0 == 0 {
                        self.registers.b32[usize::from(register)] = entry.1;
                        self.products.accumulators.remove(&register);
                    }
                }
                for register in product.factors {
                    let count = self.products.factors.get_mut(&register).expect("under way");
                    *count -= 1;
                    if *count == 0 {
                        self.products.factors.remove(&register);
                    }
                }
                done.extend(product.ranges);
            }
        }
        // A factor may be that of a later product, too.
        let left = self.products.groups.iter().flatten().chain(&self.products.uncommitted);
        self.end_async_reads(c.block, 0, &done, left.flat_map(|product| &product.ranges));
    }
}
