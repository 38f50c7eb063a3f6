//! Products of up to [`AT_ONCE`] rows with a 4-bit weight. Each row of W is walked once, as its codes lie, and decoded in registers
//! only: a product with so few rows would not pay for writing decoded elements down.
//!
//! All elements of a block are among 16 numbers, value · absmax, which fill a register; an element is a look-up in it by a code
//! that stands in the lowest bits of a lane. A lane of zero-extended bytes has the code of an odd element there, and after one
//! shift that of an even one. So X is dealt, group by group, into its even and its odd elements, and codes need no reordering.
//! The backward product's sums are dealt likewise ([`backward`]).
//!
//! **Cost** of 64 codes for M rows on Zen 4, in instructions, of which it begins two a cycle and of look-ups and of products one:
//!
//! | | AVX-512 | AVX512-BF16 | AVX2 |
//! |---|---|---|---|
//! | the block's numbers | 2 | 3 | 3 |
//! | bytes to lanes, shifts | 4 | 2 | 8 |
//! | look-ups | 4 | 2 | 32 |
//! | products | 4 M | 2 M | 8 M |

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_bf16;
#[cfg(target_arch = "x86_64")]
mod backward;
mod portable;
#[cfg(target_arch = "x86_64")]
mod registers;

/// The most rows of X. Sums of so many, for four rows of W, leave registers for what is multiplied.
pub const AT_ONCE: usize = 4;
/// The most rows of X of a product, in passes of those.
pub const MOST: usize = 16;
/// The most lanes of a sum.
pub const MOST_LANES: usize = 16;

/// Rows of a weight, a whole number of blocks of each from one column on.
pub struct Rows<'a> {
    /// The codebook's.
    pub values: &'a [f32; 16],
    /// Of the first row; those of each next one are `row_bytes` further.
    pub codes: &'a [u8],
    pub row_bytes: usize,
    /// Of the first row; those of each next one are `absmax_stride` further.
    pub absmax: &'a [f32],
    pub absmax_stride: usize,
    pub block_size: usize,
    pub count: usize,
    /// Elements of a row.
    pub len: usize,
}

/// `sums[r, m, lane]` = or `+=` products of row `r` of W with row `m` of X, in which each group is dealt. X's rows are `x_stride`
/// words apart.
type Kernel = unsafe fn(w: &Rows<'_>, x: *const f32, x_stride: usize, sums: *mut f32, add: bool);

/// `sums[m, k] +=` products of rows of W with row `m` of dY; columns of each group are dealt. Rows of both are so far apart.
type BackwardKernel = unsafe fn(w: &Rows<'_>, dy: (*const f32, usize), sums: (*mut f32, usize));

/// The functions for `dY[M, N]·W`.
pub struct Backward {
    /// See [`FewRows::most`].
    pub most: usize,
    /// The same where the processor has products of pairs for more rows.
    pub most_beside_pairs: usize,
    /// How many columns are dealt together; no run of a block's columns is shorter.
    pub group: usize,
    kernels: [BackwardKernel; AT_ONCE],
}

impl Backward {
    /// See [`BackwardKernel`]. `dy` holds `[m, w.count]` numbers, `sums` `[m, w.len]`.
    pub fn multiply_add(
        &self,
        w: &Rows<'_>,
        m: usize,
        (dy, dy_stride): (&[f32], usize),
        (sums, sums_stride): (&mut [f32], usize),
    ) {
        w.check(self.group);
        assert!(m > 0 && dy.len() >= (m - 1) * dy_stride + w.count);
        assert!(sums.len() >= (m - 1) * sums_stride + w.len);
        unsafe { (self.kernels[m - 1])(w, (dy.as_ptr(), dy_stride), (sums.as_mut_ptr(), sums_stride)) }
    }

    /// Puts dealt columns in order: of each group the first half are the even ones.
    pub fn order(&self, columns: &mut [f32]) {
        let mut ordered = [0f32; 2 * MOST_LANES];
        for group in columns.chunks_exact_mut(self.group) {
            let (even, odd) = group.split_at(self.group / 2);
            for (pair, (even, odd)) in ordered.chunks_exact_mut(2).zip(even.iter().zip(odd)) {
                (pair[0], pair[1]) = (*even, *odd);
            }
            group.copy_from_slice(&ordered[..self.group]);
        }
    }
}

impl Rows<'_> {
    /// That everything is there, for functions that take so many elements at a time.
    fn check(&self, group: usize) {
        assert!(self.block_size.is_multiple_of(group) && self.len.is_multiple_of(self.block_size));
        assert!(self.count == 0 || self.codes.len() >= (self.count - 1) * self.row_bytes + self.len / 2);
        let blocks = self.len / self.block_size;
        assert!(self.count == 0 || self.absmax.len() >= (self.count - 1) * self.absmax_stride + blocks);
    }
}

/// The functions for one kind of words.
pub struct FewRows {
    /// For more rows of X than this, a few at a time, it pays to write decoded elements down once for all; at most [`MOST`].
    pub most: usize,
    /// Elements of a word.
    elements: usize,
    /// How many lanes a sum has.
    pub lanes: usize,
    /// How many elements are dealt together; no block is shorter.
    pub group: usize,
    deal: unsafe fn(&mut [f32]),
    add_up: unsafe fn(&[f32], &mut [f32]),
    /// For 1, 2, 3, 4 rows of X.
    kernels: [Kernel; AT_ONCE],
    /// For the backward product, whose words are f32.
    pub backward: Option<Backward>,
}

impl FewRows {
    /// Deals whole groups of X.
    pub fn deal(&self, x: &mut [f32]) {
        unsafe { (self.deal)(x) }
    }

    /// `out[i]` = the sum of the lanes of sum `i`.
    pub fn add_up(&self, sums: &[f32], out: &mut [f32]) {
        assert!(sums.len() >= out.len() * self.lanes);
        unsafe { (self.add_up)(sums, out) }
    }

    /// See [`Kernel`]. `sums` holds `[w.count, m, lanes]` numbers.
    pub fn multiply(
        &self,
        w: &Rows<'_>,
        (x, x_stride): (&[f32], usize),
        m: usize,
        sums: &mut [f32],
        add: bool,
    ) {
        w.check(self.group);
        let words = w.len / self.elements;
        assert!(m > 0 && x.len() >= (m - 1) * x_stride + words && sums.len() >= w.count * m * self.lanes);
        unsafe { (self.kernels[m - 1])(w, x.as_ptr(), x_stride, sums.as_mut_ptr(), add) }
    }
}

pub(super) const PORTABLE: FewRows = FewRows {
    most: 8,
    elements: 1,
    lanes: portable::LANES,
    group: portable::GROUP,
    deal: portable::deal,
    add_up: portable::add_up,
    kernels: [portable::rows::<1>, portable::rows::<2>, portable::rows::<3>, portable::rows::<4>],
    backward: None,
};

#[cfg(target_arch = "x86_64")]
pub(super) const AVX2: FewRows = FewRows {
    most: MOST,
    elements: 1,
    lanes: 8,
    group: 16,
    deal: avx2::deal,
    add_up: portable::add_up,
    kernels: [avx2::rows::<2, 1>, avx2::rows::<2, 2>, avx2::rows::<1, 3>, avx2::rows::<1, 4>],
    backward: Some(Backward {
        most: 4,
        most_beside_pairs: 0,
        group: 16,
        kernels: [
            avx2::backward::<2, 1>,
            avx2::backward::<2, 2>,
            avx2::backward::<2, 3>,
            avx2::backward::<2, 4>,
        ],
    }),
};

#[cfg(target_arch = "x86_64")]
pub(super) const AVX512: FewRows = FewRows {
    most: MOST,
    elements: 1,
    lanes: 16,
    group: 32,
    deal: avx512::deal,
    add_up: avx512::add_up,
    kernels: [avx512::rows::<4, 1>, avx512::rows::<4, 2>, avx512::rows::<4, 3>, avx512::rows::<4, 4>],
    backward: Some(Backward {
        most: MOST,
        most_beside_pairs: 6,
        group: 32,
        kernels: [
            avx512::backward::<4, 1>,
            avx512::backward::<4, 2>,
            avx512::backward::<4, 3>,
            avx512::backward::<4, 4>,
        ],
    }),
};

#[cfg(target_arch = "x86_64")]
pub(super) const AVX512_BF16: FewRows = FewRows {
    most: MOST,
    elements: 2,
    lanes: 16,
    group: 64,
    deal: avx512_bf16::deal,
    add_up: avx512::add_up,
    kernels: [
        avx512_bf16::rows::<4, 1>,
        avx512_bf16::rows::<4, 2>,
        avx512_bf16::rows::<4, 3>,
        avx512_bf16::rows::<4, 4>,
    ],
    backward: None, // that of f32 serves
};
