//! Asynchronous copies of a thread, global to shared (PTX ISA §9.7.9.25.3). The number in the name is the bytes.

use crate::address::{Addr, Global, Shared};
use crate::class::{B32, B64};
use crate::forms::family;
use crate::operand::Imm;
use crate::target::sm;

family! {
    cp_async_ca_4 "cp.async.ca.shared.global $, $, 4" (to: Addr<Shared>, from: Addr<Global>), sm(80);
    cp_async_ca_8 "cp.async.ca.shared.global $, $, 8" (to: Addr<Shared>, from: Addr<Global>), sm(80);
    cp_async_ca_16 "cp.async.ca.shared.global $, $, 16" (to: Addr<Shared>, from: Addr<Global>), sm(80);
    cp_async_cg_16 "cp.async.cg.shared.global $, $, 16" (to: Addr<Shared>, from: Addr<Global>), sm(80);
    cp_async_cg_16_l2_64b "cp.async.cg.shared.global.L2::64B $, $, 16" (to: Addr<Shared>, from: Addr<Global>), sm(80).ptx(7, 4);
    cp_async_cg_16_l2_128b "cp.async.cg.shared.global.L2::128B $, $, 16" (to: Addr<Shared>, from: Addr<Global>), sm(80).ptx(7, 4);
    cp_async_cg_16_l2_256b "cp.async.cg.shared.global.L2::256B $, $, 16" (to: Addr<Shared>, from: Addr<Global>), sm(80).ptx(7, 4);

    /// Copies `bytes` and fills the rest with zeros.
    cp_async_ca_4_zfill "cp.async.ca.shared.global $, $, 4, $" (to: Addr<Shared>, from: Addr<Global>, bytes: B32), sm(80);
    /// Copies `bytes` and fills the rest with zeros.
    cp_async_ca_8_zfill "cp.async.ca.shared.global $, $, 8, $" (to: Addr<Shared>, from: Addr<Global>, bytes: B32), sm(80);
    /// Copies `bytes` and fills the rest with zeros.
    cp_async_ca_16_zfill "cp.async.ca.shared.global $, $, 16, $" (to: Addr<Shared>, from: Addr<Global>, bytes: B32), sm(80);
    /// Copies `bytes` and fills the rest with zeros.
    cp_async_cg_16_zfill "cp.async.cg.shared.global $, $, 16, $" (to: Addr<Shared>, from: Addr<Global>, bytes: B32), sm(80);
    /// Copies `bytes` and fills the rest with zeros.
    cp_async_cg_16_l2_128b_zfill "cp.async.cg.shared.global.L2::128B $, $, 16, $" (to: Addr<Shared>, from: Addr<Global>, bytes: B32), sm(80).ptx(7, 4);

    cp_async_cg_16_policy "cp.async.cg.shared.global.L2::cache_hint $, $, 16, $" (to: Addr<Shared>, from: Addr<Global>, policy: B64), sm(80).ptx(7, 4);
    cp_async_cg_16_l2_128b_policy "cp.async.cg.shared.global.L2::cache_hint.L2::128B $, $, 16, $" (to: Addr<Shared>, from: Addr<Global>, policy: B64), sm(80).ptx(7, 4);

    cp_async_commit_group "cp.async.commit_group" (), sm(80);
    /// Until at most `pending` of this thread's groups are under way.
    cp_async_wait_group "cp.async.wait_group" (pending: Imm), sm(80);
    cp_async_wait_all "cp.async.wait_all" (), sm(80);
    cp_async_mbarrier_arrive "cp.async.mbarrier.arrive.shared.b64" (barrier: Addr<Shared>), sm(80);
    /// Arrives once this thread's copies are done; the arrival is one of those that the barrier was made for.
    cp_async_mbarrier_arrive_noinc "cp.async.mbarrier.arrive.noinc.shared.b64" (barrier: Addr<Shared>), sm(80);
}
