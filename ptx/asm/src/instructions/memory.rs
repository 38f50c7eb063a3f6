//! Loads, stores, prefetches, address conversion (PTX ISA §9.7.9.8–20).
//!
//! A load or store names what is in memory by its type argument: `ld_global::<U8>(p)`, `st_shared::<[F32; 4]>(p, x)`.

use crate::address::{Addr, Const, Generic, Global, Shared, SharedCluster, Space};
use crate::class::{B16, B32, B64, F32};
use crate::forms::{Form, family};
use crate::hints::{Evict, Load, Prefetch, Scope, Store};
use crate::kernel::{Kernel, To, When};
use crate::mem::{Mem, S8, S16, U8, U16};
use crate::operand::{Print, Sample};
use crate::register::{Destination, Guard};
use crate::target::sm;

mod plain {
    use super::*;

    family! {
        prefetch_global_l1 "prefetch.global.L1" (address: Addr<Global>);
        prefetch_global_l2 "prefetch.global.L2" (address: Addr<Global>);
        prefetch_global_l2_evict_last "prefetch.global.L2::evict_last" (address: Addr<Global>), sm(80).ptx(7, 4);
        prefetch_global_l2_evict_normal "prefetch.global.L2::evict_normal" (address: Addr<Global>), sm(80).ptx(7, 4);
        /// The line's data is no longer needed and need not be written back.
        discard_global_l2 "discard.global.L2 $, 128" (address: Addr<Global>), sm(80).ptx(7, 4);

        createpolicy_evict_first "createpolicy.fractional.L2::evict_first.b64 $, 0f3F800000" () -> B64, sm(80).ptx(7, 4);
        createpolicy_evict_last "createpolicy.fractional.L2::evict_last.b64 $, 0f3F800000" () -> B64, sm(80).ptx(7, 4);
        createpolicy_evict_unchanged "createpolicy.fractional.L2::evict_unchanged.b64 $, 0f3F800000" () -> B64, sm(80).ptx(7, 4);

        cvta_global "cvta.global.u64" (address: B64) -> B64;
        cvta_to_global "cvta.to.global.u64" (address: B64) -> B64;
        cvta_shared "cvta.shared.u64" (address: B64) -> B64;
        cvta_to_shared "cvta.to.shared.u64" (address: B64) -> B64;
    }
}

/// The opcode of a load.
fn ld<M: Mem, S: Space>(how: Load) -> String {
    let (nc, policy) =
        (if how.nc { ".nc" } else { "" }, if how.policy.is_some() { ".L2::cache_hint" } else { "" });
    format!(
        "ld{}{}{}{nc}{}{policy}{}.{}",
        how.order,
        S::QUALIFIER,
        how.cache,
        how.evict.qualifier(),
        how.prefetch.qualifier(),
        M::TYPE
    )
}

/// The opcode of a store.
fn st<M: Mem, S: Space>(how: Store) -> String {
    let policy = if how.policy.is_some() { ".L2::cache_hint" } else { "" };
    format!("st{}{}{}{}{policy}.{}", how.order, S::QUALIFIER, how.cache, how.evict.qualifier(), M::TYPE)
}

fn emit_ld<M: Mem, S: Space>(k: &Kernel, guard: Option<Guard>, to: M::Regs, how: Load, from: Addr<S>) {
    let operands: [&dyn Print; 1] = [&from];
    let mut all = operands.to_vec();
    if let Some(policy) = &how.policy {
        all.push(policy);
    }
    k.emit(guard, &ld::<M, S>(how), S::NEEDS.and(M::NEEDS).and(how.needs()), Some(&to), &all);
}

fn emit_st<M: Mem, S: Space>(k: &Kernel, guard: Option<Guard>, how: Store, to: Addr<S>, value: M::Value) {
    let mut all: Vec<&dyn Print> = vec![&to, &value];
    if let Some(policy) = &how.policy {
        all.push(policy);
    }
    k.emit(guard, &st::<M, S>(how), S::NEEDS.and(M::NEEDS).and(how.needs()), None, &all);
}

macro_rules! loads {
    ($($space:ident $ld:ident $ld_with:ident;)*) => {$(
        impl Kernel {
            #[doc = concat!("Loads an `M` from [`", stringify!($space), "`].")]
            pub fn $ld<M: Mem>(&self, from: impl Into<Addr<$space>>) -> M::Regs {
                self.$ld_with::<M>(Load::WEAK, from)
            }

            #[doc = concat!("Loads an `M` from [`", stringify!($space), "`], with ordering or cache hints.")]
            pub fn $ld_with<M: Mem>(&self, how: Load, from: impl Into<Addr<$space>>) -> M::Regs {
                let to = M::Regs::fresh(self);
                emit_ld::<M, $space>(self, None, to, how, from.into());
                to
            }
        }

        impl<D: Destination> To<'_, D> {
            #[doc = concat!("Loads an `M` from [`", stringify!($space), "`].")]
            pub fn $ld<M: Mem<Regs = D>>(self, from: impl Into<Addr<$space>>) {
                self.$ld_with::<M>(Load::WEAK, from);
            }

            #[doc = concat!("Loads an `M` from [`", stringify!($space), "`], with ordering or cache hints.")]
            pub fn $ld_with<M: Mem<Regs = D>>(self, how: Load, from: impl Into<Addr<$space>>) {
                emit_ld::<M, $space>(self.kernel, self.guard, self.to, how, from.into());
            }
        }
    )*};
}

macro_rules! stores {
    ($($space:ident $st:ident $st_with:ident;)*) => {$(
        impl Kernel {
            #[doc = concat!("Stores an `M` to [`", stringify!($space), "`].")]
            pub fn $st<M: Mem>(&self, to: impl Into<Addr<$space>>, value: impl Into<M::Value>) {
                self.$st_with::<M>(Store::WEAK, to, value);
            }

            #[doc = concat!("Stores an `M` to [`", stringify!($space), "`], with ordering or cache hints.")]
            pub fn $st_with<M: Mem>(&self, how: Store, to: impl Into<Addr<$space>>, value: impl Into<M::Value>) {
                emit_st::<M, $space>(self, None, how, to.into(), value.into());
            }
        }

        impl When<'_> {
            #[doc = concat!("Stores an `M` to [`", stringify!($space), "`], where the guard holds.")]
            pub fn $st<M: Mem>(self, to: impl Into<Addr<$space>>, value: impl Into<M::Value>) {
                self.$st_with::<M>(Store::WEAK, to, value);
            }

            #[doc = concat!("Stores an `M` to [`", stringify!($space), "`] with hints, where the guard holds.")]
            pub fn $st_with<M: Mem>(self, how: Store, to: impl Into<Addr<$space>>, value: impl Into<M::Value>) {
                emit_st::<M, $space>(self.kernel, Some(self.guard), how, to.into(), value.into());
            }
        }
    )*};
}

loads! {
    Global ld_global ld_global_with;
    Shared ld_shared ld_shared_with;
    SharedCluster ld_shared_cluster ld_shared_cluster_with;
    Const ld_const ld_const_with;
    Generic ld_generic ld_generic_with;
}

stores! {
    Global st_global st_global_with;
    Shared st_shared st_shared_with;
    SharedCluster st_shared_cluster st_shared_cluster_with;
    Generic st_generic st_generic_with;
}

impl Kernel {
    /// Loads an `M` from global memory that nobody writes while the grid runs (`ld.global.nc`).
    pub fn ld_global_nc<M: Mem>(&self, from: impl Into<Addr<Global>>) -> M::Regs {
        self.ld_global_with::<M>(Load::NC, from)
    }
}

impl<D: Destination> To<'_, D> {
    /// Loads an `M` from global memory that nobody writes while the grid runs (`ld.global.nc`).
    pub fn ld_global_nc<M: Mem<Regs = D>>(self, from: impl Into<Addr<Global>>) {
        self.ld_global_with::<M>(Load::NC, from);
    }
}

fn load_form<M: Mem, S: Space>(how: Load, with_policy: bool) -> Form {
    let policy = move |k: &Kernel| if with_policy { how.policy(k.reg()) } else { how };
    let opcode = ld::<M, S>(policy(&Kernel::scratch()));
    let needs = S::NEEDS.and(M::NEEDS).and(policy(&Kernel::scratch()).needs());
    let sample = move |k: &Kernel| {
        emit_ld::<M, S>(k, None, M::Regs::fresh(k), policy(k), Addr::sample(k));
    };
    Form { name: opcode.clone(), opcode, needs, sample: Box::new(sample) }
}

fn store_form<M: Mem, S: Space>(how: Store, with_policy: bool) -> Form {
    let policy = move |k: &Kernel| if with_policy { how.policy(k.reg()) } else { how };
    let opcode = st::<M, S>(policy(&Kernel::scratch()));
    let needs = S::NEEDS.and(M::NEEDS).and(policy(&Kernel::scratch()).needs());
    let sample = move |k: &Kernel| {
        emit_st::<M, S>(k, None, policy(k), Addr::sample(k), M::Value::sample(k));
    };
    Form { name: opcode.clone(), opcode, needs, sample: Box::new(sample) }
}

/// Every type in every space, and every hint on one type.
pub(crate) fn forms() -> Vec<Form> {
    let mut all = plain::forms();
    macro_rules! types {
        ($($t:ty)*) => {$(
            all.push(load_form::<$t, Global>(Load::WEAK, false));
            all.push(load_form::<$t, Global>(Load::NC, false));
            all.push(load_form::<$t, Shared>(Load::WEAK, false));
            all.push(load_form::<$t, SharedCluster>(Load::WEAK, false));
            all.push(load_form::<$t, Const>(Load::WEAK, false));
            all.push(load_form::<$t, Generic>(Load::WEAK, false));
            all.push(store_form::<$t, Global>(Store::WEAK, false));
            all.push(store_form::<$t, Shared>(Store::WEAK, false));
            all.push(store_form::<$t, SharedCluster>(Store::WEAK, false));
            all.push(store_form::<$t, Generic>(Store::WEAK, false));
        )*};
    }
    types!(U8 S8 U16 S16 B16 B32 B64 F32 [U8; 2] [U8; 4] [B16; 2] [B16; 4] [B32; 2] [B32; 4] [B64; 2] [F32; 2] [F32; 4]);
    for scope in Scope::ALL {
        all.push(load_form::<B32, Global>(Load::relaxed(scope), false));
        all.push(load_form::<B32, Global>(Load::acquire(scope), false));
        all.push(store_form::<B32, Global>(Store::relaxed(scope), false));
        all.push(store_form::<B32, Global>(Store::release(scope), false));
    }
    all.push(load_form::<B32, Global>(Load::VOLATILE, false));
    all.push(load_form::<B32, Shared>(Load::VOLATILE, false));
    all.push(store_form::<B32, Global>(Store::VOLATILE, false));
    all.push(store_form::<B32, Shared>(Store::VOLATILE, false));
    for how in [Load::WEAK.ca(), Load::WEAK.cg(), Load::WEAK.cs(), Load::WEAK.lu(), Load::WEAK.cv()] {
        all.push(load_form::<[B32; 4], Global>(how, false));
    }
    for how in [Load::NC.ca(), Load::NC.cg(), Load::NC.cs()] {
        all.push(load_form::<[B32; 4], Global>(how, false));
    }
    for how in [Store::WEAK.wb(), Store::WEAK.cg(), Store::WEAK.cs(), Store::WEAK.wt()] {
        all.push(store_form::<[B32; 4], Global>(how, false));
    }
    for evict in Evict::ALL {
        all.push(load_form::<[B32; 4], Global>(Load::WEAK.l1(evict), false));
        all.push(load_form::<[B32; 4], Global>(Load::NC.l1(evict), false));
        all.push(load_form::<[B32; 4], Global>(Load::NC.l1(evict), true));
        all.push(store_form::<[B32; 4], Global>(Store::WEAK.l1(evict), false));
        all.push(store_form::<[B32; 4], Global>(Store::WEAK.l1(evict), true));
    }
    for prefetch in Prefetch::ALL {
        all.push(load_form::<[B32; 4], Global>(Load::WEAK.l2(prefetch), false));
        all.push(load_form::<[B32; 4], Global>(Load::NC.l1(Evict::NoAllocate).l2(prefetch), false));
        all.push(load_form::<[B32; 4], Global>(Load::NC.l1(Evict::NoAllocate).l2(prefetch), true));
    }
    all
}
