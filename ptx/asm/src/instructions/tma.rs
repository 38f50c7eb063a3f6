//! Bulk and tensor copies (PTX ISA §9.7.9.25.4–5) and the fences between them and ordinary accesses.
//!
//! A pointer or address in [`Shared`] serves where one in [`SharedCluster`] is asked for: it names the block's own memory.

use crate::address::{Addr, Generic, Global, Shared, SharedCluster};
use crate::class::{B16, B64};
use crate::forms::family;
use crate::operand::{Imm, Multiple};
use crate::target::{ptx, sm};
use crate::tensor_map::Tile;

family! {
    /// Global to shared; the bytes count on the barrier, which lies in the same block as `to`.
    cp_async_bulk_load "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes" (to: Addr<SharedCluster>, from: Addr<Global>, bytes: Multiple<16>, barrier: Addr<SharedCluster>), sm(90).ptx(8, 0);
    /// The same by a newer form that needs no cluster.
    cp_async_bulk_load_cta "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes" (to: Addr<Shared>, from: Addr<Global>, bytes: Multiple<16>, barrier: Addr<Shared>), sm(90).ptx(8, 6);
    cp_async_bulk_load_policy "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint" (to: Addr<SharedCluster>, from: Addr<Global>, bytes: Multiple<16>, barrier: Addr<SharedCluster>, policy: B64), sm(90).ptx(8, 0);
    /// To the same offset in every block of the mask.
    cp_async_bulk_load_multicast "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster" (to: Addr<SharedCluster>, from: Addr<Global>, bytes: Multiple<16>, barrier: Addr<SharedCluster>, blocks: B16), sm(90).ptx(8, 0);
    /// Shared to shared of another block.
    cp_async_bulk_send "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes" (to: Addr<SharedCluster>, from: Addr<Shared>, bytes: Multiple<16>, barrier: Addr<SharedCluster>), sm(90).ptx(8, 0);
    /// Shared to global; the copy belongs to the bulk group that is committed next.
    cp_async_bulk_store "cp.async.bulk.global.shared::cta.bulk_group" (to: Addr<Global>, from: Addr<Shared>, bytes: Multiple<16>), sm(90).ptx(8, 0);
    cp_async_bulk_store_policy "cp.async.bulk.global.shared::cta.bulk_group.L2::cache_hint" (to: Addr<Global>, from: Addr<Shared>, bytes: Multiple<16>, policy: B64), sm(90).ptx(8, 0);
    cp_reduce_async_bulk_add_u32 "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32" (to: Addr<Global>, from: Addr<Shared>, bytes: Multiple<16>), sm(90).ptx(8, 0);
    cp_reduce_async_bulk_add_u64 "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u64" (to: Addr<Global>, from: Addr<Shared>, bytes: Multiple<16>), sm(90).ptx(8, 0);
    cp_reduce_async_bulk_add_f32 "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32" (to: Addr<Global>, from: Addr<Shared>, bytes: Multiple<16>), sm(90).ptx(8, 0);
    cp_reduce_async_bulk_add_noftz_f16 "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.noftz.f16" (to: Addr<Global>, from: Addr<Shared>, bytes: Multiple<16>), sm(90).ptx(8, 0);
    cp_reduce_async_bulk_add_noftz_bf16 "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.noftz.bf16" (to: Addr<Global>, from: Addr<Shared>, bytes: Multiple<16>), sm(90).ptx(8, 0);
    cp_reduce_async_bulk_min_u32 "cp.reduce.async.bulk.global.shared::cta.bulk_group.min.u32" (to: Addr<Global>, from: Addr<Shared>, bytes: Multiple<16>), sm(90).ptx(8, 0);
    cp_reduce_async_bulk_max_u32 "cp.reduce.async.bulk.global.shared::cta.bulk_group.max.u32" (to: Addr<Global>, from: Addr<Shared>, bytes: Multiple<16>), sm(90).ptx(8, 0);
    cp_reduce_async_bulk_max_s32 "cp.reduce.async.bulk.global.shared::cta.bulk_group.max.s32" (to: Addr<Global>, from: Addr<Shared>, bytes: Multiple<16>), sm(90).ptx(8, 0);
    cp_async_bulk_prefetch_l2 "cp.async.bulk.prefetch.L2.global" (from: Addr<Global>, bytes: Multiple<16>), sm(90).ptx(8, 0);

    cp_async_bulk_commit_group "cp.async.bulk.commit_group" (), sm(90).ptx(8, 0);
    /// Until at most `pending` of this thread's groups are under way.
    cp_async_bulk_wait_group "cp.async.bulk.wait_group" (pending: Imm), sm(90).ptx(8, 0);
    /// Until all but `pending` groups have read their sources, which may then be written again.
    cp_async_bulk_wait_group_read "cp.async.bulk.wait_group.read" (pending: Imm), sm(90).ptx(8, 0);

    cp_async_bulk_tensor_1d_load "cp.async.bulk.tensor.1d.shared::cluster.global.tile.mbarrier::complete_tx::bytes" (to: Addr<SharedCluster>, from: Tile<1>, barrier: Addr<SharedCluster>), sm(90).ptx(8, 0);
    cp_async_bulk_tensor_1d_load_policy "cp.async.bulk.tensor.1d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint" (to: Addr<SharedCluster>, from: Tile<1>, barrier: Addr<SharedCluster>, policy: B64), sm(90).ptx(8, 0);
    cp_async_bulk_tensor_1d_load_multicast "cp.async.bulk.tensor.1d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster" (to: Addr<SharedCluster>, from: Tile<1>, barrier: Addr<SharedCluster>, blocks: B16), sm(90).ptx(8, 0);
    cp_async_bulk_tensor_1d_store "cp.async.bulk.tensor.1d.global.shared::cta.tile.bulk_group" (to: Tile<1>, from: Addr<Shared>), sm(90).ptx(8, 0);
    cp_reduce_async_bulk_tensor_1d_add "cp.reduce.async.bulk.tensor.1d.global.shared::cta.add.tile.bulk_group" (to: Tile<1>, from: Addr<Shared>), sm(90).ptx(8, 0);
    cp_async_bulk_prefetch_tensor_1d "cp.async.bulk.prefetch.tensor.1d.L2.global.tile" (from: Tile<1>), sm(90).ptx(8, 0);

    cp_async_bulk_tensor_2d_load "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes" (to: Addr<SharedCluster>, from: Tile<2>, barrier: Addr<SharedCluster>), sm(90).ptx(8, 0);
    cp_async_bulk_tensor_2d_load_policy "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint" (to: Addr<SharedCluster>, from: Tile<2>, barrier: Addr<SharedCluster>, policy: B64), sm(90).ptx(8, 0);
    cp_async_bulk_tensor_2d_load_multicast "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster" (to: Addr<SharedCluster>, from: Tile<2>, barrier: Addr<SharedCluster>, blocks: B16), sm(90).ptx(8, 0);
    cp_async_bulk_tensor_2d_store "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group" (to: Tile<2>, from: Addr<Shared>), sm(90).ptx(8, 0);
    cp_reduce_async_bulk_tensor_2d_add "cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group" (to: Tile<2>, from: Addr<Shared>), sm(90).ptx(8, 0);
    cp_async_bulk_prefetch_tensor_2d "cp.async.bulk.prefetch.tensor.2d.L2.global.tile" (from: Tile<2>), sm(90).ptx(8, 0);

    cp_async_bulk_tensor_3d_load "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes" (to: Addr<SharedCluster>, from: Tile<3>, barrier: Addr<SharedCluster>), sm(90).ptx(8, 0);
    cp_async_bulk_tensor_3d_load_policy "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint" (to: Addr<SharedCluster>, from: Tile<3>, barrier: Addr<SharedCluster>, policy: B64), sm(90).ptx(8, 0);
    cp_async_bulk_tensor_3d_load_multicast "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster" (to: Addr<SharedCluster>, from: Tile<3>, barrier: Addr<SharedCluster>, blocks: B16), sm(90).ptx(8, 0);
    cp_async_bulk_tensor_3d_store "cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group" (to: Tile<3>, from: Addr<Shared>), sm(90).ptx(8, 0);
    cp_reduce_async_bulk_tensor_3d_add "cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.tile.bulk_group" (to: Tile<3>, from: Addr<Shared>), sm(90).ptx(8, 0);
    cp_async_bulk_prefetch_tensor_3d "cp.async.bulk.prefetch.tensor.3d.L2.global.tile" (from: Tile<3>), sm(90).ptx(8, 0);

    cp_async_bulk_tensor_4d_load "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes" (to: Addr<SharedCluster>, from: Tile<4>, barrier: Addr<SharedCluster>), sm(90).ptx(8, 0);
    cp_async_bulk_tensor_4d_load_policy "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint" (to: Addr<SharedCluster>, from: Tile<4>, barrier: Addr<SharedCluster>, policy: B64), sm(90).ptx(8, 0);
    cp_async_bulk_tensor_4d_load_multicast "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster" (to: Addr<SharedCluster>, from: Tile<4>, barrier: Addr<SharedCluster>, blocks: B16), sm(90).ptx(8, 0);
    cp_async_bulk_tensor_4d_store "cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group" (to: Tile<4>, from: Addr<Shared>), sm(90).ptx(8, 0);
    cp_reduce_async_bulk_tensor_4d_add "cp.reduce.async.bulk.tensor.4d.global.shared::cta.add.tile.bulk_group" (to: Tile<4>, from: Addr<Shared>), sm(90).ptx(8, 0);
    cp_async_bulk_prefetch_tensor_4d "cp.async.bulk.prefetch.tensor.4d.L2.global.tile" (from: Tile<4>), sm(90).ptx(8, 0);

    cp_async_bulk_tensor_5d_load "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes" (to: Addr<SharedCluster>, from: Tile<5>, barrier: Addr<SharedCluster>), sm(90).ptx(8, 0);
    cp_async_bulk_tensor_5d_load_policy "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint" (to: Addr<SharedCluster>, from: Tile<5>, barrier: Addr<SharedCluster>, policy: B64), sm(90).ptx(8, 0);
    cp_async_bulk_tensor_5d_load_multicast "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster" (to: Addr<SharedCluster>, from: Tile<5>, barrier: Addr<SharedCluster>, blocks: B16), sm(90).ptx(8, 0);
    cp_async_bulk_tensor_5d_store "cp.async.bulk.tensor.5d.global.shared::cta.tile.bulk_group" (to: Tile<5>, from: Addr<Shared>), sm(90).ptx(8, 0);
    cp_reduce_async_bulk_tensor_5d_add "cp.reduce.async.bulk.tensor.5d.global.shared::cta.add.tile.bulk_group" (to: Tile<5>, from: Addr<Shared>), sm(90).ptx(8, 0);
    cp_async_bulk_prefetch_tensor_5d "cp.async.bulk.prefetch.tensor.5d.L2.global.tile" (from: Tile<5>), sm(90).ptx(8, 0);

    prefetch_tensormap "prefetch.tensormap" (map: Addr<Generic>), sm(90).ptx(8, 0);
    /// Orders this thread's ordinary accesses before the asynchronous ones that follow, and the other way round.
    fence_proxy_async "fence.proxy.async" (), sm(90).ptx(8, 0);
    fence_proxy_async_global "fence.proxy.async.global" (), sm(90).ptx(8, 0);
    fence_proxy_async_shared "fence.proxy.async.shared::cta" (), sm(90).ptx(8, 0);
    fence_proxy_async_shared_cluster "fence.proxy.async.shared::cluster" (), sm(90).ptx(8, 0);
    fence_proxy_alias "fence.proxy.alias" (), ptx(7, 5);
    fence_proxy_tensormap_release_gpu "fence.proxy.tensormap::generic.release.gpu" (), sm(90).ptx(8, 3);
    fence_proxy_tensormap_acquire_gpu "fence.proxy.tensormap::generic.acquire.gpu $, 128" (map: Addr<Generic>), sm(90).ptx(8, 3);
}
