//! Targets, PTX versions, and what an instruction needs of them.

use std::fmt;

/// A PTX ISA version, as `.version` states it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Version {
    /// The number before the point.
    pub major: u8,
    /// The number after the point.
    pub minor: u8,
}

impl Version {
    /// `major.minor`.
    pub const fn new(major: u8, minor: u8) -> Self {
        Self { major, minor }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What a module is written for. A driver compiles it for every later GPU as well; `Sm90a` runs on compute
/// capability 9.0 only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs)]
pub enum Target {
    /// Turing.
    Sm75,
    /// Ampere (A100).
    Sm80,
    /// Ampere (RTX 30).
    Sm86,
    /// Ada.
    Sm89,
    /// Hopper.
    Sm90,
    /// Hopper with its architecture-specific instructions.
    Sm90a,
    /// Blackwell (B200).
    Sm100,
    /// Blackwell (RTX 50).
    Sm120,
}

impl Target {
    /// Every target, oldest first.
    pub const ALL: [Self; 8] =
        [Self::Sm75, Self::Sm80, Self::Sm86, Self::Sm89, Self::Sm90, Self::Sm90a, Self::Sm100, Self::Sm120];

    /// The name in `.target`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sm75 => "sm_75",
            Self::Sm80 => "sm_80",
            Self::Sm86 => "sm_86",
            Self::Sm89 => "sm_89",
            Self::Sm90 => "sm_90",
            Self::Sm90a => "sm_90a",
            Self::Sm100 => "sm_100",
            Self::Sm120 => "sm_120",
        }
    }

    /// The compute capability, major · 10 + minor.
    pub const fn sm(self) -> u32 {
        match self {
            Self::Sm75 => 75,
            Self::Sm80 => 80,
            Self::Sm86 => 86,
            Self::Sm89 => 89,
            Self::Sm90 | Self::Sm90a => 90,
            Self::Sm100 => 100,
            Self::Sm120 => 120,
        }
    }

    /// The least `.version` that knows the target.
    pub const fn floor(self) -> Version {
        match self {
            Self::Sm75 => Version::new(6, 3),
            Self::Sm80 => Version::new(7, 0),
            Self::Sm86 => Version::new(7, 1),
            Self::Sm89 | Self::Sm90 => Version::new(7, 8),
            Self::Sm90a => Version::new(8, 0),
            Self::Sm100 => Version::new(8, 6),
            Self::Sm120 => Version::new(8, 7),
        }
    }

    /// Whether a module for this target may hold an instruction with these needs.
    pub const fn has(self, needs: Needs) -> bool {
        match needs.only {
            Some(only) => self as u8 == only as u8,
            None => self.sm() >= needs.sm,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The least target and `.version` of an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Needs {
    sm: u32,
    only: Option<Target>,
    version: Version,
    /// Targets from this one on are content with their own floor.
    floor_from: u32,
}

/// Every target.
pub(crate) const ANY: Needs = sm(75);

/// At least this compute capability, at the `.version` that brought the target.
pub(crate) const fn sm(sm: u32) -> Needs {
    Needs { sm, only: None, version: Version::new(0, 0), floor_from: u32::MAX }
}

/// Every target, at this `.version` or later.
pub(crate) const fn ptx(major: u8, minor: u8) -> Needs {
    ANY.ptx(major, minor)
}

/// An architecture-specific instruction of sm_90a: no other target has it, later ones included.
pub(crate) const fn sm_90a() -> Needs {
    Needs { only: Some(Target::Sm90a), ..sm(90) }
}

impl Needs {
    /// The same, at this `.version` or later.
    pub(crate) const fn ptx(self, major: u8, minor: u8) -> Self {
        Self { version: Version::new(major, minor), ..self }
    }

    /// The `.version` matters to targets below `sm` only: later ones had the instruction from their start.
    pub(crate) const fn below(self, sm: u32) -> Self {
        Self { floor_from: sm, ..self }
    }

    /// Both this and that.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            sm: self.sm.max(other.sm),
            only: self.only.or(other.only),
            version: self.version.max(other.version),
            floor_from: self.floor_from.max(other.floor_from),
        }
    }

    /// The least target that has the instruction.
    pub fn target(self) -> Target {
        Target::ALL.into_iter().find(|t| t.has(self)).expect("every instruction has a target")
    }

    /// The least `.version` that has the instruction for a target; `None` if the target lacks it.
    pub fn version_on(self, target: Target) -> Option<Version> {
        let own = if target.sm() < self.floor_from { self.version } else { target.floor() };
        target.has(self).then(|| own.max(target.floor()))
    }
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (target, exactly) = (self.target(), if self.only.is_some() { "exactly " } else { "" });
        let version = self.version_on(target).expect("it is a target that has it");
        write!(f, "{exactly}{target} and .version {version}")
    }
}
