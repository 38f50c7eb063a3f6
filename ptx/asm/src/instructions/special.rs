//! Special registers (PTX ISA §10) and the miscellaneous instructions.

use crate::class::{B32, B64};
use crate::forms::family;
use crate::target::sm;

family! {
    tid_x "mov.u32 $, %tid.x" () -> B32;
    tid_y "mov.u32 $, %tid.y" () -> B32;
    tid_z "mov.u32 $, %tid.z" () -> B32;

    ntid_x "mov.u32 $, %ntid.x" () -> B32;
    ntid_y "mov.u32 $, %ntid.y" () -> B32;
    ntid_z "mov.u32 $, %ntid.z" () -> B32;

    ctaid_x "mov.u32 $, %ctaid.x" () -> B32;
    ctaid_y "mov.u32 $, %ctaid.y" () -> B32;
    ctaid_z "mov.u32 $, %ctaid.z" () -> B32;

    nctaid_x "mov.u32 $, %nctaid.x" () -> B32;
    nctaid_y "mov.u32 $, %nctaid.y" () -> B32;
    nctaid_z "mov.u32 $, %nctaid.z" () -> B32;

    clusterid_x "mov.u32 $, %clusterid.x" () -> B32, sm(90);
    clusterid_y "mov.u32 $, %clusterid.y" () -> B32, sm(90);
    clusterid_z "mov.u32 $, %clusterid.z" () -> B32, sm(90);
    nclusterid_x "mov.u32 $, %nclusterid.x" () -> B32, sm(90);
    nclusterid_y "mov.u32 $, %nclusterid.y" () -> B32, sm(90);
    nclusterid_z "mov.u32 $, %nclusterid.z" () -> B32, sm(90);
    cluster_ctaid_x "mov.u32 $, %cluster_ctaid.x" () -> B32, sm(90);
    cluster_ctaid_y "mov.u32 $, %cluster_ctaid.y" () -> B32, sm(90);
    cluster_ctaid_z "mov.u32 $, %cluster_ctaid.z" () -> B32, sm(90);
    cluster_nctaid_x "mov.u32 $, %cluster_nctaid.x" () -> B32, sm(90);
    cluster_nctaid_y "mov.u32 $, %cluster_nctaid.y" () -> B32, sm(90);
    cluster_nctaid_z "mov.u32 $, %cluster_nctaid.z" () -> B32, sm(90);
    cluster_ctarank "mov.u32 $, %cluster_ctarank" () -> B32, sm(90);
    cluster_nctarank "mov.u32 $, %cluster_nctarank" () -> B32, sm(90);

    laneid "mov.u32 $, %laneid" () -> B32;
    warpid "mov.u32 $, %warpid" () -> B32;
    nwarpid "mov.u32 $, %nwarpid" () -> B32;
    smid "mov.u32 $, %smid" () -> B32;
    nsmid "mov.u32 $, %nsmid" () -> B32;
    lanemask_eq "mov.u32 $, %lanemask_eq" () -> B32;
    lanemask_lt "mov.u32 $, %lanemask_lt" () -> B32;
    lanemask_le "mov.u32 $, %lanemask_le" () -> B32;
    lanemask_gt "mov.u32 $, %lanemask_gt" () -> B32;
    lanemask_ge "mov.u32 $, %lanemask_ge" () -> B32;
    dynamic_smem_size "mov.u32 $, %dynamic_smem_size" () -> B32;
    total_smem_size "mov.u32 $, %total_smem_size" () -> B32;
    clock "mov.u32 $, %clock" () -> B32;
    clock64 "mov.u64 $, %clock64" () -> B64;
    globaltimer "mov.u64 $, %globaltimer" () -> B64;

    nanosleep "nanosleep.u32" (nanoseconds: B32);
    trap "trap" ();
    brkpt "brkpt" ();
}
