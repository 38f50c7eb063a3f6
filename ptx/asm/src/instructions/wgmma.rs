//! Matrix products of a warpgroup (PTX ISA §9.7.15), sm_90a only.
//!
//! B, and A if it is not in registers, lie in shared memory and are given by descriptors. The width N of the product is
//! what the accumulators make it: `N / 2` registers of f32 a thread, `N / 4` of f16x2. Between a write of them by
//! ordinary instructions and the product stands [`wgmma_fence`](crate::Kernel::wgmma_fence); they may be read once
//! [`wgmma_wait_group`](crate::Kernel::wgmma_wait_group) says so.

use crate::address::{Ptr, Shared};
use crate::class::{B32, B64, Bf16x2, F16x2, F32, Pred};
use crate::forms::{Form, family};
use crate::kernel::Kernel;
use crate::operand::{Imm, Print};
use crate::register::Reg;
use crate::target::sm_90a;

mod plain {
    use super::*;

    family! {
        wgmma_fence "wgmma.fence.sync.aligned" (), sm_90a();
        wgmma_commit_group "wgmma.commit_group.sync.aligned" (), sm_90a();
        /// Until at most `pending` of the warpgroup's groups are under way.
        wgmma_wait_group "wgmma.wait_group.sync.aligned" (pending: Imm), sm_90a();

        /// The warp may use this many registers a thread, a multiple of 8 from 24 to 256.
        setmaxnreg_inc "setmaxnreg.inc.sync.aligned.u32" (registers: Imm<232>), sm_90a();
        setmaxnreg_dec "setmaxnreg.dec.sync.aligned.u32" (registers: Imm<40>), sm_90a();
    }
}

/// How the rows of a matrix in shared memory are permuted, in units of 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Swizzle {
    None,
    Bytes128,
    Bytes64,
    Bytes32,
}

/// A matrix in shared memory as `wgmma` reads it (§9.7.15.5.1.2.2).
#[derive(Clone, Copy, Debug)]
pub struct Descriptor(Reg<B64>);

/// Which way a matrix in shared memory runs, and its sign.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reading {
    /// Contiguous along M (for A) or N (for B), not along K. Of 16-bit matrices only.
    pub mn_major: bool,
    /// Multiplied by -1.
    pub negated: bool,
}

impl Reading {
    /// As it lies, contiguous along K.
    pub const K_MAJOR: Self = Self { mn_major: false, negated: false };
    /// Contiguous along M or N.
    pub const MN_MAJOR: Self = Self { mn_major: true, negated: false };

    fn scale(self) -> i32 {
        if self.negated { -1 } else { 1 }
    }
}

impl Kernel {
    /// A matrix that begins at `start`. `leading` and `stride` are its two byte offsets, multiples of 16; the pattern of
    /// the swizzle begins at a multiple of 8 rows of it (1024 bytes for [`Swizzle::Bytes128`]).
    pub fn matrix_descriptor(
        &self,
        start: Ptr<Shared>,
        leading: u32,
        stride: u32,
        swizzle: Swizzle,
    ) -> Descriptor {
        let encode = |bytes: u32| u64::from(bytes & 0x3_FFFF) >> 4;
        let layout = encode(leading) << 16 | encode(stride) << 32 | (swizzle as u64) << 62;
        let start = self.bfe_u32(start.reg(), 4, 14);
        Descriptor(self.or_b64(self.cvt_u64_u32(start), layout))
    }

    /// The matrix `bytes` further on, a multiple of 16.
    pub fn descriptor_at(&self, matrix: Descriptor, bytes: u32) -> Descriptor {
        Descriptor(self.add_u64(matrix.0, bytes >> 4))
    }
}

/// `wgmma.mma_async.sync.aligned.m64n…k….types`
fn opcode(n: usize, k: u32, types: &str) -> String {
    format!("wgmma.mma_async.sync.aligned.m64n{n}k{k}.{types}")
}

/// N is a multiple of 8 up to 256.
const fn check_width(n: usize) {
    assert!(n > 0 && n <= 256 && n.is_multiple_of(8), "no wgmma has accumulators of this many registers");
}

/// The immediates after the operands: the signs of A and B, then the majorness of those in shared memory (16-bit
/// types only).
fn immediates(a: Option<Reading>, b: Reading, choose_major: bool) -> Vec<Imm> {
    let mut all = vec![a.unwrap_or_default().scale().into(), b.scale().into()];
    for reading in a.into_iter().chain([b]) {
        assert!(choose_major || !reading.mn_major, "only 16-bit matrices can be contiguous along M or N");
        all.extend(choose_major.then(|| Imm::from(u32::from(reading.mn_major))));
    }
    all
}

/// One line a combination of types: the methods with A in shared memory and in registers, the types in the opcode, K,
/// the accumulators' class and the columns that one register holds, A's registers.
macro_rules! products {
    ($($ss:ident $rs:ident $types:literal $k:literal $acc:ident $columns:literal $a:ident;)*) => {
        impl Kernel {$(
            #[doc = concat!("`wgmma.mma_async.sync.aligned.m64n(", $columns, "·R)k", $k, ".", $types, "`, A in shared memory:")]
            /// `acc = a · b`, plus `acc` where `accumulate` holds.
            pub fn $ss<const R: usize>(
                &self,
                acc: [Reg<$acc>; R],
                (a, how_a): (Descriptor, Reading),
                (b, how_b): (Descriptor, Reading),
                accumulate: Reg<Pred>,
            ) {
                const { check_width(R * $columns) };
                let immediates = immediates(Some(how_a), how_b, $k == 16);
                let mut operands: Vec<&dyn Print> = vec![&a.0, &b.0, &accumulate];
                operands.extend(immediates.iter().map(|i| i as &dyn Print));
                self.emit(None, &opcode(R * $columns, $k, $types), sm_90a(), Some(&acc), &operands);
            }

            #[doc = concat!("`wgmma.mma_async.sync.aligned.m64n(", $columns, "·R)k", $k, ".", $types, "`, A in registers:")]
            /// `acc = a · b`, plus `acc` where `accumulate` holds.
            pub fn $rs<const R: usize>(
                &self,
                acc: [Reg<$acc>; R],
                a: [Reg<$a>; 4],
                (b, how_b): (Descriptor, Reading),
                accumulate: Reg<Pred>,
            ) {
                const { check_width(R * $columns) };
                let immediates = immediates(None, how_b, $k == 16);
                let mut operands: Vec<&dyn Print> = vec![&a, &b.0, &accumulate];
                operands.extend(immediates.iter().map(|i| i as &dyn Print));
                self.emit(None, &opcode(R * $columns, $k, $types), sm_90a(), Some(&acc), &operands);
            }
        )*}

        /// Every combination of types at the least, a middling and the greatest width.
        pub(crate) fn forms() -> Vec<Form> {
            let mut all = plain::forms();
            $(
                all.push(form(stringify!($ss), opcode(8, $k, $types), |k| {
                    let a = (Descriptor(k.reg()), Reading::K_MAJOR);
                    k.$ss(k.regs::<$acc, { 8 / $columns }>(), a, a, k.reg());
                }));
                all.push(form(stringify!($rs), opcode(104, $k, $types), |k| {
                    let b = (Descriptor(k.reg()), Reading { mn_major: $k == 16, negated: true });
                    k.$rs(k.regs::<$acc, { 104 / $columns }>(), k.regs(), b, k.reg());
                }));
                all.push(form(stringify!($rs), opcode(256, $k, $types), |k| {
                    let b = (Descriptor(k.reg()), Reading::K_MAJOR);
                    k.$rs(k.regs::<$acc, { 256 / $columns }>(), k.regs(), b, k.reg());
                }));
            )*
            all
        }
    };
}

fn form(name: &str, opcode: String, sample: impl Fn(&Kernel) + 'static) -> Form {
    Form { name: name.into(), opcode, needs: sm_90a(), sample: Box::new(move |k, _| sample(k)) }
}

products! {
    wgmma_f32_f16_ss wgmma_f32_f16_rs "f32.f16.f16" 16 F32 2 F16x2;
    wgmma_f16_f16_ss wgmma_f16_f16_rs "f16.f16.f16" 16 F16x2 4 F16x2;
    wgmma_f32_bf16_ss wgmma_f32_bf16_rs "f32.bf16.bf16" 16 F32 2 Bf16x2;
    wgmma_f32_tf32_ss wgmma_f32_tf32_rs "f32.tf32.tf32" 8 F32 2 B32;
    wgmma_f32_e4m3_e4m3_ss wgmma_f32_e4m3_e4m3_rs "f32.e4m3.e4m3" 32 F32 2 B32;
    wgmma_f32_e4m3_e5m2_ss wgmma_f32_e4m3_e5m2_rs "f32.e4m3.e5m2" 32 F32 2 B32;
    wgmma_f32_e5m2_e4m3_ss wgmma_f32_e5m2_e4m3_rs "f32.e5m2.e4m3" 32 F32 2 B32;
    wgmma_f32_e5m2_e5m2_ss wgmma_f32_e5m2_e5m2_rs "f32.e5m2.e5m2" 32 F32 2 B32;
}
