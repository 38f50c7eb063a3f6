//! Barriers and fences (PTX ISA §9.7.13.1–4).

use crate::class::{B32, Pred};
use crate::forms::family;
use crate::operand::Multiple;
use crate::target::sm;

family! {
    /// All threads of the block meet.
    bar_sync "bar.sync" (barrier: B32);
    /// As many threads meet, whole warps.
    bar_sync_count "bar.sync" (barrier: B32, threads: Multiple<32>);
    /// Arrives without waiting.
    bar_arrive "bar.arrive" (barrier: B32, threads: Multiple<32>);
    bar_red_popc_u32 "bar.red.popc.u32" (barrier: B32, p: Pred) -> B32;
    bar_red_and_pred "bar.red.and.pred" (barrier: B32, p: Pred) -> Pred;
    bar_red_or_pred "bar.red.or.pred" (barrier: B32, p: Pred) -> Pred;
    barrier_sync "barrier.sync" (barrier: B32);
    bar_warp_sync "bar.warp.sync" (members: B32);

    fence_acq_rel_cta "fence.acq_rel.cta" ();
    fence_acq_rel_gpu "fence.acq_rel.gpu" ();
    fence_acq_rel_sys "fence.acq_rel.sys" ();
    fence_acq_rel_cluster "fence.acq_rel.cluster" (), sm(90);
    fence_sc_cta "fence.sc.cta" ();
    fence_sc_gpu "fence.sc.gpu" ();
    fence_sc_sys "fence.sc.sys" ();
    fence_sc_cluster "fence.sc.cluster" (), sm(90);
    membar_cta "membar.cta" ();
    membar_gl "membar.gl" ();
    membar_sys "membar.sys" ();
}
