//! A ring of chunks in shared memory, brought ahead of their use by all threads of a block.
//!
//! From sm_80 on by `cp.async`, one group a chunk (PTX ISA §9.7.9.25.3). Turing has none: there the loads of a chunk are
//! started before the work on another one and their values stored after it.

use ptx_asm::{Addr, B32, F32, Global, Kernel, Pred, Ptr, Reg, Shared, Target};
use std::cell::RefCell;

/// The slots of a ring and their use.
pub struct Ring<'k> {
    k: &'k Kernel,
    /// Slots.
    pub stages: u32,
    /// How many chunks a slot is still used for after its own.
    pub lag: u32,
}

/// A thread's part in bringing a chunk.
pub struct Batch<'k> {
    k: &'k Kernel,
    late: RefCell<Vec<Late>>,
}

/// What is stored only after the work on another chunk, so that nobody waits for its load.
enum Late {
    Vector(Addr<Shared>, [Reg<B32>; 4]),
    Word(Addr<Shared>, Reg<F32>, Reg<Pred>),
}

/// Whether a target copies without registers.
fn copies(k: &Kernel) -> bool {
    k.target() >= Target::Sm80
}

impl Batch<'_> {
    /// Brings 16 bytes if `bytes` is 16, or 16 zeros if it is 0.
    pub fn copy(&self, to: impl Into<Addr<Shared>>, from: Ptr<Global>, bytes: Reg<B32>) {
        let k = self.k;
        if copies(k) {
            return k.cp_async_cg_16_zfill(to, from, bytes);
        }
        let values = k.splat::<B32, 4>(0);
        k.to(values).when(k.setp_ne_u32(bytes, 0)).ld_global_nc::<[B32; 4]>(from);
        self.late.borrow_mut().push(Late::Vector(to.into(), values));
    }

    /// Brings a word: `bytes` of it, at most 4, and zeros. From sm_80 on.
    pub fn copy_word(&self, to: impl Into<Addr<Shared>>, from: Ptr<Global>, bytes: Reg<B32>) {
        self.k.cp_async_ca_4_zfill(to, from, bytes);
    }

    /// Brings a value that has just been loaded, where `guard` holds.
    pub fn put(&self, to: impl Into<Addr<Shared>>, value: Reg<F32>, guard: Reg<Pred>) {
        self.late.borrow_mut().push(Late::Word(to.into(), value, guard));
    }

    fn finish(self) {
        let k = self.k;
        for late in self.late.into_inner() {
            match late {
                Late::Vector(to, values) => k.st_shared::<[B32; 4]>(to, values),
                Late::Word(to, value, guard) => k.when(guard).st_shared::<F32>(to, value),
            }
        }
    }
}

impl<'k> Ring<'k> {
    /// With this many slots, each used until `lag` chunks after its own.
    pub fn new(k: &'k Kernel, stages: u32, lag: u32) -> Self {
        assert!(stages >= 2 + lag, "a slot to fill beside those in use");
        Self { k, stages, lag }
    }

    /// Emits the walk over `chunks` chunks: `bring` starts to bring one (number, slot), `work` uses one when all threads have
    /// brought their part of it. At the end the ring may be filled anew.
    pub fn for_each(
        &self,
        chunks: Reg<B32>,
        bring: impl Fn(&Batch<'k>, Reg<B32>, Reg<B32>),
        work: impl FnOnce(Reg<B32>, Reg<B32>),
    ) {
        self.for_each_after(|| (), chunks, bring, work);
    }

    /// The same with something to do while the first chunks are under way; a barrier follows it.
    pub fn for_each_after(
        &self,
        meanwhile: impl FnOnce(),
        chunks: Reg<B32>,
        bring: impl Fn(&Batch<'k>, Reg<B32>, Reg<B32>),
        work: impl FnOnce(Reg<B32>, Reg<B32>),
    ) {
        let (k, ahead) = (self.k, self.stages - 1 - self.lag);
        let start = |chunk, slot, exists: Reg<Pred>| {
            let batch = Batch { k, late: RefCell::default() };
            k.if_then(exists, || bring(&batch, chunk, slot));
            if copies(k) {
                k.cp_async_commit_group();
            }
            batch
        };
        let finish = |batch: Batch<'k>, exists: Reg<Pred>| k.if_then(exists, || batch.finish());
        k.section("fill the ring");
        for stage in 0..ahead {
            let exists = k.setp_lt_u32(stage, chunks);
            finish(start(k.mov(stage), k.mov(stage), exists), exists);
        }
        meanwhile();
        k.section("chunk after chunk");
        let (chunk, slot) = (k.mov::<B32>(0), k.mov::<B32>(0));
        let (next, next_slot) = (k.mov::<B32>(ahead), k.mov::<B32>(ahead));
        k.while_(
            || k.setp_lt_u32(chunk, chunks),
            || {
                if copies(k) {
                    k.cp_async_wait_group(ahead - 1);
                }
                k.bar_sync(0);
                let exists = k.setp_lt_u32(next, chunks);
                let batch = start(next, next_slot, exists);
                work(chunk, slot);
                finish(batch, exists);
                for at in [chunk, next] {
                    k.to(at).add_u32(at, 1);
                }
                for at in [slot, next_slot] {
                    k.to(at).mov(self.after(at));
                }
            },
        );
        if copies(k) {
            k.cp_async_wait_all();
        }
        k.bar_sync(0);
    }

    /// The slot after one.
    fn after(&self, slot: Reg<B32>) -> Reg<B32> {
        let following = self.k.add_u32(slot, 1);
        self.k.selp_b32(0, following, self.k.setp_eq_u32(following, self.stages))
    }

    /// The slot before one.
    pub fn before(&self, slot: Reg<B32>) -> Reg<B32> {
        let preceding = self.k.sub_u32(slot, 1);
        self.k.selp_b32(self.stages - 1, preceding, self.k.setp_eq_u32(slot, 0))
    }
}
