//! Barriers in shared memory that count arrivals and bytes (PTX ISA §9.7.13.15). A barrier is one `B64`.

use crate::address::{Addr, Shared, SharedCluster};
use crate::class::{B32, B64, Pred};
use crate::forms::family;
use crate::kernel::Kernel;
use crate::operand::Operand;
use crate::target::sm;

family! {
    /// A phase ends when `count` arrivals, and the bytes expected, have come.
    mbarrier_init "mbarrier.init.shared.b64" (barrier: Addr<Shared>, count: B32), sm(80);
    mbarrier_inval "mbarrier.inval.shared.b64" (barrier: Addr<Shared>), sm(80);

    /// The state of the phase that the arrival belongs to.
    mbarrier_arrive "mbarrier.arrive.shared.b64" (barrier: Addr<Shared>) -> B64, sm(80);
    mbarrier_arrive_count "mbarrier.arrive.shared.b64" (barrier: Addr<Shared>, count: B32) -> B64, sm(90);
    mbarrier_arrive_no_complete "mbarrier.arrive.noComplete.shared.b64" (barrier: Addr<Shared>, count: B32) -> B64, sm(80);
    mbarrier_arrive_drop "mbarrier.arrive_drop.shared.b64" (barrier: Addr<Shared>) -> B64, sm(80);
    /// Arrives, and adds `bytes` to what the phase waits for.
    mbarrier_arrive_expect_tx "mbarrier.arrive.expect_tx.shared.b64" (barrier: Addr<Shared>, bytes: B32) -> B64, sm(90).ptx(8, 0);
    /// Arrives at a barrier of any block of the cluster.
    mbarrier_arrive_remote "mbarrier.arrive.release.cluster.shared::cluster.b64 _, $" (barrier: Addr<SharedCluster>), sm(90).ptx(8, 0);
    mbarrier_arrive_expect_tx_remote "mbarrier.arrive.expect_tx.release.cluster.shared::cluster.b64 _, $, $" (barrier: Addr<SharedCluster>, bytes: B32), sm(90).ptx(8, 0);
    mbarrier_expect_tx "mbarrier.expect_tx.relaxed.cta.shared.b64" (barrier: Addr<Shared>, bytes: B32), sm(90).ptx(8, 0);
    mbarrier_complete_tx "mbarrier.complete_tx.relaxed.cta.shared.b64" (barrier: Addr<Shared>, bytes: B32), sm(90).ptx(8, 0);

    mbarrier_test_wait "mbarrier.test_wait.shared.b64" (barrier: Addr<Shared>, state: B64) -> Pred, sm(80);
    mbarrier_test_wait_parity "mbarrier.test_wait.parity.shared.b64" (barrier: Addr<Shared>, parity: B32) -> Pred, sm(80).ptx(7, 1);
    mbarrier_try_wait "mbarrier.try_wait.shared.b64" (barrier: Addr<Shared>, state: B64) -> Pred, sm(90);
    /// May sleep, for a time that the system sets.
    mbarrier_try_wait_parity "mbarrier.try_wait.parity.shared.b64" (barrier: Addr<Shared>, parity: B32) -> Pred, sm(90);
    mbarrier_try_wait_parity_for "mbarrier.try_wait.parity.shared.b64" (barrier: Addr<Shared>, parity: B32, nanoseconds: B32) -> Pred, sm(90);
    mbarrier_try_wait_parity_cluster "mbarrier.try_wait.parity.acquire.cluster.shared.b64" (barrier: Addr<Shared>, parity: B32) -> Pred, sm(90).ptx(8, 0);
    mbarrier_pending_count "mbarrier.pending_count.b64" (state: B64) -> B32, sm(80);

    /// Makes initialized barriers known to the cluster.
    fence_mbarrier_init_release_cluster "fence.mbarrier_init.release.cluster" (), sm(90).ptx(8, 0);
}

impl Kernel {
    /// Waits until the phase with this parity (0 for the first) has ended. The barrier of a new phase blocks those that
    /// ask for its own parity and lets those that ask for the other one through.
    pub fn mbarrier_wait_parity(&self, barrier: impl Into<Addr<Shared>>, parity: impl Into<Operand<B32>>) {
        let (barrier, parity) = (barrier.into(), parity.into());
        self.do_while(|| {
            let done = match self.target().sm() {
                90.. => self.mbarrier_try_wait_parity(barrier, parity),
                _ => self.mbarrier_test_wait_parity(barrier, parity),
            };
            !done
        });
    }
}
