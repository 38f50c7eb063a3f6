//! Clusters of thread blocks and dependent grids (PTX ISA §9.7.9.23–24, §9.7.13.3, §9.7.13.13).

use crate::address::{Addr, Ptr, Shared, SharedCluster};
use crate::class::{B32, B64, F32};
use crate::forms::family;
use crate::kernel::Kernel;
use crate::operand::Operand;
use crate::target::sm;

family! {
    mapa_shared_cluster_u32 "mapa.shared::cluster.u32" (address: B32, rank: B32) -> B32, sm(90);
    getctarank_shared_cluster_u32 "getctarank.shared::cluster.u32" (address: B32) -> B32, sm(90);

    /// Releases what came before.
    barrier_cluster_arrive "barrier.cluster.arrive.aligned" (), sm(90);
    barrier_cluster_arrive_relaxed "barrier.cluster.arrive.relaxed.aligned" (), sm(90).ptx(8, 0);
    /// Acquires what the others released.
    barrier_cluster_wait "barrier.cluster.wait.aligned" (), sm(90);

    st_async_b32 "st.async.shared::cluster.mbarrier::complete_tx::bytes.b32" (to: Addr<SharedCluster>, value: B32, barrier: Addr<SharedCluster>), sm(90).ptx(8, 1);
    st_async_b64 "st.async.shared::cluster.mbarrier::complete_tx::bytes.b64" (to: Addr<SharedCluster>, value: B64, barrier: Addr<SharedCluster>), sm(90).ptx(8, 1);
    st_async_v4_b32 "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32" (to: Addr<SharedCluster>, value: [B32; 4], barrier: Addr<SharedCluster>), sm(90).ptx(8, 1);
    st_async_v4_f32 "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32" (to: Addr<SharedCluster>, value: [F32; 4], barrier: Addr<SharedCluster>), sm(90).ptx(8, 1);

    griddepcontrol_launch_dependents "griddepcontrol.launch_dependents" (), sm(90);
    griddepcontrol_wait "griddepcontrol.wait" (), sm(90);
}

impl Kernel {
    /// The same place in the shared memory of the cluster's block `rank`.
    pub fn map_shared(&self, pointer: Ptr<Shared>, rank: impl Into<Operand<B32>>) -> Ptr<SharedCluster> {
        Ptr::new(self.mapa_shared_cluster_u32(pointer.reg(), rank))
    }
}
