//! A listing of a made-up kernel: what must be found in it.

use super::listing::{Listing, Unit};
use super::loops;
use super::mix::{Mix, main_loops};
use std::collections::{BTreeMap, BTreeSet};

/// A loop with a waiting side elsewhere, inside a longer one, after it a shorter one; and the warps that bring data.
const EXAMPLE: &str = "\
\t.section\t.nv.info,\"\",@\"SHT_CUDA_INFO\"
        /*0000*/ \t.byte\t0x04, 0x2f
\t.section\t.text.example,\"ax\",@progbits
\t.sectioninfo\t@\"SHI_REGISTERS=8\"
.L_x_0:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0000*/              @!P3 BRA `(.L_x_6) ;
.L_x_1:
        /*0010*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
        /*0020*/              @!P0 BRA `(.L_x_4) ;
.L_x_2:
        /*0030*/                   IMAD.MOV.U32 R2, RZ, RZ, R3 ;
        /*0030*/                   FMUL R2, R2, R3 ;
        /*0040*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
        /*0050*/              @!PT LDS RZ, [RZ] ;
        /*0060*/                   LDSM.16.MT88.4 R8, [R2] ;
        /*0070*/               @P1 BRA `(.L_x_1) ;
.L_x_3:
        /*0080*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
        /*0080*/                   LDSM.16.M88.2 R8, [R2] ;
        /*0090*/                   IMAD.U32 R2, R3, R4, R5 ;
        /*00a0*/                   STS.U16 [R2], R3 ;
        /*00a0*/                   LDG.E.64.CONSTANT R2, desc[UR14][R14.64] ;
        /*00a0*/                   NOP ;
        /*00a0*/                   F2FP.BF16.F32.PACK_AB R2, R2, R3 ;
        /*00a0*/                   SHF.R.U32.HI R2, RZ, 0x3, R0 ;
        /*00a0*/                   PRMT R2, R2, R3, R4 ;
        /*00a0*/                   ULDC UR13, c[0x0][0x270] ;
        /*00a0*/                   BRA UP0, `(.L_x_3) ;
        /*00b0*/               @P2 BRA `(.L_x_0) ;
        /*00c0*/                   EXIT ;
.L_x_4:
        /*00d0*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [R2] ;
        /*00e0*/              @!P0 BRA `(.L_x_4) ;
        /*00f0*/                   BRA `(.L_x_2) ;
.L_x_6:
        /*0100*/                   UTMALDG.2D [UR24], [UR22] ;
        /*0100*/                   IADD3 R1, R1, R2, R3 ;
        /*0100*/                   IADD3 R1, R1, R2, R3 ;
        /*0100*/                   IADD3 R1, R1, R2, R3 ;
        /*0100*/                   IADD3 R1, R1, R2, R3 ;
        /*0100*/                   IADD3 R1, R1, R2, R3 ;
        /*0100*/                   IADD3 R1, R1, R2, R3 ;
        /*0100*/                   IADD3 R1, R1, R2, R3 ;
        /*0100*/                   IADD3 R1, R1, R2, R3 ;
        /*0100*/              @!P0 BRA `(.L_x_6) ;
        /*0100*/               @P1 BRA `(.L_x_6) ;
        /*00c0*/                   EXIT ;
.L_x_5:
        /*0100*/                   BRA `(.L_x_5);
";

#[test]
fn the_example_s_loops_are_found() {
    let listing = Listing::parse(EXAMPLE);
    assert_eq!((listing.instructions.len(), listing.labels.len()), (39, 7));
    let mut lengths: Vec<usize> = loops::loops(&listing).iter().map(BTreeSet::len).collect();
    lengths.sort_unstable();
    // The idle one at the end, the wait, the main loop with the wait, the producers', the one after, and all but them.
    assert_eq!(lengths, [1, 2, 11, 11, 11, 25]);
    let [main, producers] = main_loops(&listing).map(Option::unwrap);
    // Not the one with less, nor the one around both.
    assert_eq!((main.count(Unit::Tensor), main.moves, main.all()), (2, 1, 10));
    assert_eq!(main.accesses, BTreeMap::from([("LDSM.128".to_owned(), 1)]));
    assert_eq!((producers.all(), &producers.accesses["UTMALDG.128"]), (11, &1));

    let after = Mix::of(listing.instructions[10..21].iter());
    let forms = ["LDG.64", "LDSM.64", "STS.16"].map(|form| (form.to_owned(), 1));
    assert_eq!((after.accesses, after.moves), (BTreeMap::from(forms), 0));
    let units =
        [Unit::Tensor, Unit::Multiply, Unit::Logic, Unit::Shared, Unit::Global, Unit::Uniform, Unit::Control];
    assert_eq!(units.map(|unit| after.counts[&unit]), [1, 1, 3, 2, 1, 1, 1]);
}
