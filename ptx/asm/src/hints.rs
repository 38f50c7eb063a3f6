//! How a load or store is ordered and cached (PTX ISA §8.4, §9.7.9.1–2).

use crate::class::B64;
use crate::register::Reg;
use crate::target::{ANY, Needs, sm};

/// The threads that an ordered access synchronizes with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Scope {
    Cta,
    Cluster,
    Gpu,
    Sys,
}

impl Scope {
    pub(crate) const ALL: [Self; 4] = [Self::Cta, Self::Cluster, Self::Gpu, Self::Sys];

    const fn needs(self) -> Needs {
        if matches!(self, Self::Cluster) { sm(90).ptx(7, 8) } else { ANY }
    }
}

/// What L1 does with the line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Evict {
    Unspecified,
    Normal,
    Unchanged,
    First,
    Last,
    NoAllocate,
}

impl Evict {
    pub(crate) const ALL: [Self; 5] =
        [Self::Normal, Self::Unchanged, Self::First, Self::Last, Self::NoAllocate];

    pub(crate) const fn qualifier(self) -> &'static str {
        match self {
            Self::Unspecified => "",
            Self::Normal => ".L1::evict_normal",
            Self::Unchanged => ".L1::evict_unchanged",
            Self::First => ".L1::evict_first",
            Self::Last => ".L1::evict_last",
            Self::NoAllocate => ".L1::no_allocate",
        }
    }
}

/// How much around the address L2 should fetch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Prefetch {
    Unspecified,
    Bytes64,
    Bytes128,
    Bytes256,
}

impl Prefetch {
    pub(crate) const ALL: [Self; 3] = [Self::Bytes64, Self::Bytes128, Self::Bytes256];

    pub(crate) const fn qualifier(self) -> &'static str {
        match self {
            Self::Unspecified => "",
            Self::Bytes64 => ".L2::64B",
            Self::Bytes128 => ".L2::128B",
            Self::Bytes256 => ".L2::256B",
        }
    }
}

/// How to load: start from a constant, add hints.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub(crate) order: &'static str,
    pub(crate) nc: bool,
    pub(crate) cache: &'static str,
    pub(crate) evict: Evict,
    pub(crate) prefetch: Prefetch,
    pub(crate) policy: Option<Reg<B64>>,
    scope: Needs,
}

/// How to store: start from a constant, add hints.
#[derive(Clone, Copy, Debug)]
pub struct Store {
    pub(crate) order: &'static str,
    pub(crate) cache: &'static str,
    pub(crate) evict: Evict,
    pub(crate) policy: Option<Reg<B64>>,
    scope: Needs,
}

/// Eviction priorities and prefetch sizes came with PTX 7.4, policies with sm_80.
fn hint_needs(hint: bool, policy: bool) -> Needs {
    match (hint, policy) {
        (_, true) => sm(80).ptx(7, 4),
        (true, false) => ANY.ptx(7, 4),
        _ => ANY,
    }
}

macro_rules! cache_operators {
    ($($(#[$doc:meta])* $name:ident $qualifier:literal)*) => {$(
        $(#[$doc])*
        pub const fn $name(self) -> Self {
            Self { cache: $qualifier, ..self }
        }
    )*};
}

impl Load {
    /// An ordinary load.
    pub const WEAK: Self = Self {
        order: "",
        nc: false,
        cache: "",
        evict: Evict::Unspecified,
        prefetch: Prefetch::Unspecified,
        policy: None,
        scope: ANY,
    };
    /// Global memory that nobody writes while the grid runs.
    pub const NC: Self = Self { nc: true, ..Self::WEAK };
    /// Not to be merged, moved or cached.
    pub const VOLATILE: Self = Self { order: ".volatile", ..Self::WEAK };

    /// Atomic, but orders nothing else.
    pub const fn relaxed(scope: Scope) -> Self {
        let order = match scope {
            Scope::Cta => ".relaxed.cta",
            Scope::Cluster => ".relaxed.cluster",
            Scope::Gpu => ".relaxed.gpu",
            Scope::Sys => ".relaxed.sys",
        };
        Self { order, scope: scope.needs(), ..Self::WEAK }
    }

    /// Atomic; what follows sees what the matching release came after.
    pub const fn acquire(scope: Scope) -> Self {
        let order = match scope {
            Scope::Cta => ".acquire.cta",
            Scope::Cluster => ".acquire.cluster",
            Scope::Gpu => ".acquire.gpu",
            Scope::Sys => ".acquire.sys",
        };
        Self { order, scope: scope.needs(), ..Self::WEAK }
    }

    cache_operators! {
        /// `.ca`: cache at all levels.
        ca ".ca"
        /// `.cg`: cache in L2 only.
        cg ".cg"
        /// `.cs`: streaming, evict first.
        cs ".cs"
        /// `.lu`: last use.
        lu ".lu"
        /// `.cv`: fetch again.
        cv ".cv"
    }

    /// What L1 does with the line.
    pub const fn l1(self, evict: Evict) -> Self {
        Self { evict, ..self }
    }

    /// How much L2 should fetch.
    pub const fn l2(self, prefetch: Prefetch) -> Self {
        Self { prefetch, ..self }
    }

    /// The L2 policy, made by `createpolicy`.
    pub const fn policy(self, policy: Reg<B64>) -> Self {
        Self { policy: Some(policy), ..self }
    }

    pub(crate) fn needs(self) -> Needs {
        let hint = self.evict != Evict::Unspecified || self.prefetch != Prefetch::Unspecified;
        let far = if self.prefetch == Prefetch::Bytes256 { sm(80) } else { ANY };
        hint_needs(hint, self.policy.is_some()).and(self.scope).and(far)
    }
}

impl Store {
    /// An ordinary store.
    pub const WEAK: Self = Self { order: "", cache: "", evict: Evict::Unspecified, policy: None, scope: ANY };
    /// Not to be merged, moved or cached.
    pub const VOLATILE: Self = Self { order: ".volatile", ..Self::WEAK };

    /// Atomic, but orders nothing else.
    pub const fn relaxed(scope: Scope) -> Self {
        Self { order: Load::relaxed(scope).order, scope: scope.needs(), ..Self::WEAK }
    }

    /// Atomic; who acquires it sees what came before.
    pub const fn release(scope: Scope) -> Self {
        let order = match scope {
            Scope::Cta => ".release.cta",
            Scope::Cluster => ".release.cluster",
            Scope::Gpu => ".release.gpu",
            Scope::Sys => ".release.sys",
        };
        Self { order, scope: scope.needs(), ..Self::WEAK }
    }

    cache_operators! {
        /// `.wb`: write back.
        wb ".wb"
        /// `.cg`: cache in L2 only.
        cg ".cg"
        /// `.cs`: streaming, evict first.
        cs ".cs"
        /// `.wt`: write through.
        wt ".wt"
    }

    /// What L1 does with the line.
    pub const fn l1(self, evict: Evict) -> Self {
        Self { evict, ..self }
    }

    /// The L2 policy, made by `createpolicy`.
    pub const fn policy(self, policy: Reg<B64>) -> Self {
        Self { policy: Some(policy), ..self }
    }

    pub(crate) fn needs(self) -> Needs {
        hint_needs(self.evict != Evict::Unspecified, self.policy.is_some()).and(self.scope)
    }
}
