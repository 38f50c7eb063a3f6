//! How a load or store is ordered and cached (PTX ISA §8.4, §9.7.9.1–2).

use crate::address::Space;
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

    const fn qualifier(self) -> &'static str {
        match self {
            Self::Cta => ".cta",
            Self::Cluster => ".cluster",
            Self::Gpu => ".gpu",
            Self::Sys => ".sys",
        }
    }
}

/// What L1 does with the line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Evict {
    Normal,
    Unchanged,
    First,
    Last,
    NoAllocate,
}

impl Evict {
    pub(crate) const ALL: [Self; 5] =
        [Self::Normal, Self::Unchanged, Self::First, Self::Last, Self::NoAllocate];

    const fn qualifier(self) -> &'static str {
        match self {
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
    Bytes64,
    Bytes128,
    Bytes256,
}

impl Prefetch {
    pub(crate) const ALL: [Self; 3] = [Self::Bytes64, Self::Bytes128, Self::Bytes256];

    const fn qualifier(self) -> &'static str {
        match self {
            Self::Bytes64 => ".L2::64B",
            Self::Bytes128 => ".L2::128B",
            Self::Bytes256 => ".L2::256B",
        }
    }
}

/// How to load: start from a constant, add hints.
#[derive(Clone, Copy, Debug)]
pub struct Load(pub(crate) Access);

/// How to store: start from a constant, add hints.
#[derive(Clone, Copy, Debug)]
pub struct Store(pub(crate) Access);

/// The qualifiers of a load or store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    /// `.volatile`, `.relaxed`, `.acquire`, `.release`; empty for `.weak`.
    order: &'static str,
    scope: Option<Scope>,
    nc: bool,
    /// The cache operator.
    cache: &'static str,
    evict: Option<Evict>,
    prefetch: Option<Prefetch>,
    /// The L2 policy, the instruction's last operand.
    pub(crate) policy: Option<Reg<B64>>,
}

impl Access {
    const WEAK: Self =
        Self { order: "", scope: None, nc: false, cache: "", evict: None, prefetch: None, policy: None };

    const fn ordered(order: &'static str, scope: Option<Scope>) -> Self {
        Self { order, scope, ..Self::WEAK }
    }

    /// `instruction` (`ld` or `st`) with its qualifiers, in the order that the assembler wants.
    pub(crate) fn opcode(&self, instruction: &str, space: &str, of: &str) -> String {
        let scope = self.scope.map_or("", Scope::qualifier);
        let nc = if self.nc { ".nc" } else { "" };
        let evict = self.evict.map_or("", Evict::qualifier);
        let policy = if self.policy.is_some() { ".L2::cache_hint" } else { "" };
        let prefetch = self.prefetch.map_or("", Prefetch::qualifier);
        let (order, cache) = (self.order, self.cache);
        format!("{instruction}{order}{scope}{space}{cache}{nc}{evict}{policy}{prefetch}.{of}")
    }

    /// Eviction priorities and prefetch sizes came with PTX 7.4, policies and 256 bytes with sm_80.
    pub(crate) fn needs(&self) -> Needs {
        let hint = if self.evict.is_some() || self.prefetch.is_some() { ANY.ptx(7, 4) } else { ANY };
        let policy = if self.policy.is_some() { sm(80).ptx(7, 4) } else { ANY };
        let far = if self.prefetch == Some(Prefetch::Bytes256) { sm(80) } else { ANY };
        let cluster = if self.scope == Some(Scope::Cluster) { sm(90) } else { ANY };
        hint.and(policy).and(far).and(cluster)
    }

    /// Why the qualifiers do not go together, or not with the space (§9.7.9.8–11).
    pub(crate) fn fault<S: Space>(&self) -> Option<&'static str> {
        let (ordered, cached) = (!self.order.is_empty(), !self.cache.is_empty());
        let hinted = self.evict.is_some() || self.prefetch.is_some() || self.policy.is_some();
        let global = S::QUALIFIER == ".global" || S::QUALIFIER.is_empty();
        if ordered && matches!(S::QUALIFIER, ".const" | ".param") {
            Some("constants and parameters have no order")
        } else if self.nc && S::QUALIFIER != ".global" {
            Some("only global memory has a non-coherent path")
        } else if self.nc && ordered {
            Some("a non-coherent load has no order")
        } else if self.nc && matches!(self.cache, ".lu" | ".cv") {
            Some("a non-coherent load cannot be .lu or .cv")
        } else if (cached || hinted) && !global {
            Some("cache hints are for global memory")
        } else if ordered && cached {
            Some("an ordered access has no cache operator")
        } else if self.order == ".volatile" && (self.evict.is_some() || self.policy.is_some()) {
            Some("a volatile access has no eviction priority or policy")
        } else if cached && self.evict.is_some() {
            Some("a cache operator excludes an eviction priority")
        } else {
            None
        }
    }
}

/// The methods that only set a cache operator.
macro_rules! cache_operators {
    ($($(#[$doc:meta])* $name:ident $qualifier:literal)*) => {$(
        $(#[$doc])*
        pub const fn $name(self) -> Self {
            Self(Access { cache: $qualifier, ..self.0 })
        }
    )*};
}

impl Load {
    /// An ordinary load.
    pub const WEAK: Self = Self(Access::WEAK);
    /// Global memory that nobody writes while the grid runs.
    pub const NC: Self = Self(Access { nc: true, ..Access::WEAK });
    /// Not to be merged, moved or cached.
    pub const VOLATILE: Self = Self(Access::ordered(".volatile", None));

    /// Atomic, but orders nothing else.
    pub const fn relaxed(scope: Scope) -> Self {
        Self(Access::ordered(".relaxed", Some(scope)))
    }

    /// Atomic; what follows sees what the matching release came after.
    pub const fn acquire(scope: Scope) -> Self {
        Self(Access::ordered(".acquire", Some(scope)))
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
        Self(Access { evict: Some(evict), ..self.0 })
    }

    /// How much L2 should fetch.
    pub const fn l2(self, prefetch: Prefetch) -> Self {
        Self(Access { prefetch: Some(prefetch), ..self.0 })
    }

    /// The L2 policy, made by `createpolicy`.
    pub const fn policy(self, policy: Reg<B64>) -> Self {
        Self(Access { policy: Some(policy), ..self.0 })
    }
}

impl Store {
    /// An ordinary store.
    pub const WEAK: Self = Self(Access::WEAK);
    /// Not to be merged, moved or cached.
    pub const VOLATILE: Self = Self(Access::ordered(".volatile", None));

    /// Atomic, but orders nothing else.
    pub const fn relaxed(scope: Scope) -> Self {
        Self(Access::ordered(".relaxed", Some(scope)))
    }

    /// Atomic; who acquires it sees what came before.
    pub const fn release(scope: Scope) -> Self {
        Self(Access::ordered(".release", Some(scope)))
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
        Self(Access { evict: Some(evict), ..self.0 })
    }

    /// The L2 policy, made by `createpolicy`.
    pub const fn policy(self, policy: Reg<B64>) -> Self {
        Self(Access { policy: Some(policy), ..self.0 })
    }
}
