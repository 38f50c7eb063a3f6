//! Loads, stores, prefetches, address conversion (PTX ISA §9.7.9.8–20).
//!
//! A load or store names what is in memory by its type argument: `ld_global::<U8>(p)`, `st_shared::<[F32; 4]>(p, x)`.

use crate::address::{Addr, Const, Generic, Global, Param, Shared, SharedCluster, Space};
use crate::class::{B16, B32, B64, F32};
use crate::emit::{To, When};
use crate::forms::{Form, family};
use crate::hints::{Access, Evict, Load, Prefetch, Scope, Store};
use crate::kernel::Kernel;
use crate::mem::{Mem, MemIn, S8, S16, U8, U16};
use crate::operand::{Inputs, Operands, Print};
use crate::register::{Destination, Guard};
use crate::target::{Needs, sm};

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

/// What an access of `M` in `S` needs.
fn needs<M: Mem, S: Space>(how: Access) -> Needs {
    S::NEEDS.and(M::NEEDS).and(how.needs())
}

fn emit_ld<M: Mem, S: Space>(k: &Kernel, guard: Option<Guard>, to: M::Regs, how: Access, from: Addr<S>) {
    let opcode = how.opcode("ld", S::QUALIFIER, M::TYPE);
    k.check(&opcode, how.fault::<S>());
    let mut operands: Vec<&dyn Print> = vec![&from];
    operands.extend(how.policy.as_ref().map(|policy| policy as &dyn Print));
    k.emit(guard, &opcode, needs::<M, S>(how), Some(&to), &operands);
}

fn emit_st<M: Mem, S: Space>(k: &Kernel, guard: Option<Guard>, how: Access, to: Addr<S>, value: M::Value) {
    let opcode = how.opcode("st", S::QUALIFIER, M::TYPE);
    k.check(&opcode, how.fault::<S>());
    let mut operands: Vec<&dyn Print> = vec![&to, &value];
    operands.extend(how.policy.as_ref().map(|policy| policy as &dyn Print));
    k.emit(guard, &opcode, needs::<M, S>(how), None, &operands);
}

macro_rules! loads {
    ($($space:ident $ld:ident $ld_with:ident;)*) => {$(
        impl Kernel {
            #[doc = concat!("Loads an `M` from [`", stringify!($space), "`].")]
            pub fn $ld<M: MemIn<$space>>(&self, from: impl Into<Addr<$space>>) -> M::Regs {
                self.$ld_with::<M>(Load::WEAK, from)
            }

            #[doc = concat!("Loads an `M` from [`", stringify!($space), "`], with ordering or cache hints.")]
            pub fn $ld_with<M: MemIn<$space>>(&self, how: Load, from: impl Into<Addr<$space>>) -> M::Regs {
                let to = M::Regs::fresh(self);
                emit_ld::<M, $space>(self, None, to, how.0, from.into());
                to
            }
        }

        impl<D: Destination> To<'_, D> {
            #[doc = concat!("Loads an `M` from [`", stringify!($space), "`].")]
            pub fn $ld<M: MemIn<$space> + Mem<Regs = D>>(self, from: impl Into<Addr<$space>>) {
                self.$ld_with::<M>(Load::WEAK, from);
            }

            #[doc = concat!("Loads an `M` from [`", stringify!($space), "`], with ordering or cache hints.")]
            pub fn $ld_with<M: MemIn<$space> + Mem<Regs = D>>(self, how: Load, from: impl Into<Addr<$space>>) {
                emit_ld::<M, $space>(self.kernel, self.guard, self.to, how.0, from.into());
            }
        }
    )*};
}

macro_rules! stores {
    ($($space:ident $st:ident $st_with:ident;)*) => {$(
        impl Kernel {
            #[doc = concat!("Stores an `M` to [`", stringify!($space), "`].")]
            pub fn $st<M: MemIn<$space>>(&self, to: impl Into<Addr<$space>>, value: impl Into<M::Value>) {
                self.$st_with::<M>(Store::WEAK, to, value);
            }

            #[doc = concat!("Stores an `M` to [`", stringify!($space), "`], with ordering or cache hints.")]
            pub fn $st_with<M: MemIn<$space>>(&self, how: Store, to: impl Into<Addr<$space>>, value: impl Into<M::Value>) {
                emit_st::<M, $space>(self, None, how.0, to.into(), value.into());
            }
        }

        impl When<'_> {
            #[doc = concat!("Stores an `M` to [`", stringify!($space), "`], where the guard holds.")]
            pub fn $st<M: MemIn<$space>>(self, to: impl Into<Addr<$space>>, value: impl Into<M::Value>) {
                self.$st_with::<M>(Store::WEAK, to, value);
            }

            #[doc = concat!("Stores an `M` to [`", stringify!($space), "`] with hints, where the guard holds.")]
            pub fn $st_with<M: MemIn<$space>>(self, how: Store, to: impl Into<Addr<$space>>, value: impl Into<M::Value>) {
                emit_st::<M, $space>(self.kernel, Some(self.guard), how.0, to.into(), value.into());
            }
        }
    )*};
}

loads! {
    Global ld_global ld_global_with;
    Shared ld_shared ld_shared_with;
    SharedCluster ld_shared_cluster ld_shared_cluster_with;
    Const ld_const ld_const_with;
    Param ld_param ld_param_with;
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
    pub fn ld_global_nc<M: MemIn<Global>>(&self, from: impl Into<Addr<Global>>) -> M::Regs {
        self.ld_global_with::<M>(Load::NC, from)
    }
}

impl<D: Destination> To<'_, D> {
    /// Loads an `M` from global memory that nobody writes while the grid runs (`ld.global.nc`).
    pub fn ld_global_nc<M: MemIn<Global> + Mem<Regs = D>>(self, from: impl Into<Addr<Global>>) {
        self.ld_global_with::<M>(Load::NC, from);
    }
}

fn load_form<M: Mem, S: Space>(how: impl Fn(&Kernel) -> Load + 'static) -> Form {
    let access = how(&Kernel::scratch()).0;
    let opcode = access.opcode("ld", S::QUALIFIER, M::TYPE);
    let sample = move |k: &Kernel, operands: Operands| {
        emit_ld::<M, S>(k, None, M::Regs::fresh(k), how(k).0, Addr::<S>::sample(k, operands))
    };
    Form { name: opcode.clone(), opcode, needs: needs::<M, S>(access), sample: Box::new(sample) }
}

fn store_form<M: Mem, S: Space>(how: impl Fn(&Kernel) -> Store + 'static) -> Form {
    let access = how(&Kernel::scratch()).0;
    let opcode = access.opcode("st", S::QUALIFIER, M::TYPE);
    let sample = move |k: &Kernel, operands: Operands| {
        emit_st::<M, S>(k, None, how(k).0, Addr::<S>::sample(k, operands), M::sample(k, operands))
    };
    Form { name: opcode.clone(), opcode, needs: needs::<M, S>(access), sample: Box::new(sample) }
}

/// Every type in every space, and every hint on one type.
pub(crate) fn forms() -> Vec<Form> {
    let mut all = plain::forms();
    macro_rules! types {
        ($($t:ty)*) => {$(
            all.push(load_form::<$t, Global>(move |_| Load::WEAK));
            all.push(load_form::<$t, Global>(move |_| Load::NC));
            all.push(load_form::<$t, Shared>(move |_| Load::WEAK));
            all.push(load_form::<$t, SharedCluster>(move |_| Load::WEAK));
            all.push(load_form::<$t, Const>(move |_| Load::WEAK));
            all.push(load_form::<$t, Param>(move |_| Load::WEAK));
            all.push(load_form::<$t, Generic>(move |_| Load::WEAK));
            all.push(store_form::<$t, Global>(move |_| Store::WEAK));
            all.push(store_form::<$t, Shared>(move |_| Store::WEAK));
            all.push(store_form::<$t, SharedCluster>(move |_| Store::WEAK));
            all.push(store_form::<$t, Generic>(move |_| Store::WEAK));
        )*};
    }
    types!(U8 S8 U16 S16 B16 B32 B64 F32 [U8; 2] [U8; 4] [B16; 2] [B16; 4] [B32; 2] [B32; 4] [B64; 2] [F32; 2] [F32; 4]);
    macro_rules! wide {
        ($($t:ty)*) => {$(
            all.push(load_form::<$t, Global>(move |_| Load::WEAK));
            all.push(load_form::<$t, Global>(move |_| Load::NC));
            all.push(store_form::<$t, Global>(move |_| Store::WEAK));
        )*};
    }
    wide!([B32; 8] [F32; 8] [B64; 4]);
    for scope in Scope::ALL {
        all.push(load_form::<B32, Global>(move |_| Load::relaxed(scope)));
        all.push(load_form::<B32, Global>(move |_| Load::acquire(scope)));
        all.push(store_form::<B32, Global>(move |_| Store::relaxed(scope)));
        all.push(store_form::<B32, Global>(move |_| Store::release(scope)));
    }
    all.push(load_form::<B32, Global>(move |_| Load::VOLATILE));
    all.push(load_form::<B32, Shared>(move |_| Load::VOLATILE));
    all.push(store_form::<B32, Global>(move |_| Store::VOLATILE));
    all.push(store_form::<B32, Shared>(move |_| Store::VOLATILE));
    for how in [Load::WEAK.ca(), Load::WEAK.cg(), Load::WEAK.cs(), Load::WEAK.lu(), Load::WEAK.cv()] {
        all.push(load_form::<[B32; 4], Global>(move |_| how));
    }
    for how in [Load::NC.ca(), Load::NC.cg(), Load::NC.cs()] {
        all.push(load_form::<[B32; 4], Global>(move |_| how));
    }
    for how in [Store::WEAK.wb(), Store::WEAK.cg(), Store::WEAK.cs(), Store::WEAK.wt()] {
        all.push(store_form::<[B32; 4], Global>(move |_| how));
    }
    for evict in Evict::ALL {
        all.push(load_form::<[B32; 4], Global>(move |_| Load::WEAK.l1(evict)));
        all.push(load_form::<[B32; 4], Global>(move |_| Load::NC.l1(evict)));
        all.push(load_form::<[B32; 4], Global>(move |k| Load::NC.l1(evict).policy(k.reg())));
        all.push(store_form::<[B32; 4], Global>(move |_| Store::WEAK.l1(evict)));
        all.push(store_form::<[B32; 4], Global>(move |k| Store::WEAK.l1(evict).policy(k.reg())));
    }
    for prefetch in Prefetch::ALL {
        all.push(load_form::<[B32; 4], Global>(move |_| Load::WEAK.l2(prefetch)));
        all.push(load_form::<[B32; 4], Global>(move |_| Load::NC.l1(Evict::NoAllocate).l2(prefetch)));
        all.push(load_form::<[B32; 4], Global>(move |k| {
            Load::NC.l1(Evict::NoAllocate).l2(prefetch).policy(k.reg())
        }));
    }
    all
}
