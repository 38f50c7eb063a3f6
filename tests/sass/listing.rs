//! What nvdisasm prints: the instructions of a kernel with their labels, and what kind each is.

/// An instruction.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// Without the `@`; none if it is always executed.
    pub predicate: Option<String>,
    /// With its modifiers: `LDS.128`.
    pub opcode: String,
    pub operands: String,
}

/// A kernel.
#[derive(Debug, Default)]
pub struct Listing {
    pub instructions: Vec<Instruction>,
    /// Names, and the instruction that each stands before.
    pub labels: Vec<(String, usize)>,
}

/// What executes an instruction, as far as it limits how fast a loop can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    Tensor,
    /// Floating point: 128 lanes a clock and SM.
    Float,
    /// Integer multiplication and addition, and half of the moves: 64 lanes.
    Multiply,
    /// Integer, logic, comparison, conversion, and the other half of the moves: 64 lanes.
    Logic,
    Shared,
    Global,
    /// The warp's own registers and constants: one lane.
    Uniform,
    /// Branches, barriers, waits.
    Control,
}

impl Listing {
    /// The instructions of the listing's kernel, subroutines included.
    pub fn parse(text: &str) -> Self {
        let mut listing = Self::default();
        let mut is_code = false;
        for line in text.lines().map(str::trim) {
            if let Some(section) = line.strip_prefix(".section\t") {
                is_code = section.starts_with(".text.");
            } else if !is_code {
            } else if let Some(label) = line.strip_prefix(".L_x_").and_then(|rest| rest.strip_suffix(':')) {
                listing.labels.push((format!(".L_x_{label}"), listing.instructions.len()));
            } else if let Some(instruction) = Instruction::parse(line) {
                listing.instructions.push(instruction);
            }
        }
        listing
    }

    /// Where a branch leads: the instruction's index.
    pub fn target(&self, instruction: &Instruction) -> Option<usize> {
        let name = instruction.operands.split_once("`(")?.1.split_once(')')?.0;
        self.labels.iter().find(|(label, _)| label == name).map(|&(_, at)| at)
    }
}

impl Instruction {
    /// `/*0e60*/ @!P5 BRA ...;`
    fn parse(line: &str) -> Option<Self> {
        let code = line.strip_prefix("/*")?.split_once("*/")?.1.trim().trim_end_matches(';').trim();
        let (predicate, code) = match code.strip_prefix('@') {
            Some(rest) => {
                rest.split_once(' ').map(|(predicate, code)| (Some(predicate.to_owned()), code.trim()))?
            }
            None => (None, code),
        };
        let (opcode, operands) = code.split_once(' ').unwrap_or((code, ""));
        let is_opcode = opcode.starts_with(|c: char| c.is_ascii_uppercase());
        is_opcode.then(|| Self { predicate, opcode: opcode.to_owned(), operands: operands.trim().to_owned() })
    }

    /// The opcode without modifiers.
    pub fn base(&self) -> &str {
        self.opcode.split('.').next().unwrap_or_default()
    }

    fn has(&self, modifier: &str) -> bool {
        self.opcode.split('.').skip(1).any(|m| m == modifier)
    }

    /// Whether it does nothing: some stand before asynchronous copies.
    pub fn is_idle(&self) -> bool {
        self.base() == "NOP" || self.predicate.as_deref() == Some("!PT")
    }

    pub fn is_tensor(&self) -> bool {
        self.unit() == Unit::Tensor
    }

    /// Whether it only copies a register or a constant.
    pub fn is_move(&self) -> bool {
        match self.base() {
            "MOV" | "UMOV" | "CS2R" | "R2UR" => true,
            "IMAD" => (self.has("MOV") || self.has("U32")) && self.operands.contains("RZ, RZ, "),
            _ => false,
        }
    }

    pub fn unit(&self) -> Unit {
        match self.base() {
            "HMMA" | "HGMMA" | "IMMA" | "IGMMA" | "QGMMA" => Unit::Tensor,
            "FFMA" | "FMUL" | "FADD" | "HFMA2" | "HMUL2" | "HADD2" => Unit::Float,
            "IMAD" => Unit::Multiply,
            "LDS" | "LDSM" | "STS" | "STSM" | "ATOMS" => Unit::Shared,
            "LDG" | "STG" | "LDGSTS" | "LD" | "ST" | "RED" | "ATOMG" | "UTMALDG" | "UTMASTG" | "UBLKCP"
            | "LDL" | "STL" => Unit::Global,
            "BRA" | "BSSY" | "BSYNC" | "BAR" | "DEPBAR" | "LDGDEPBAR" | "EXIT" | "RET" | "CALL"
            | "WARPSYNC" | "SYNCS" | "WARPGROUP" | "NANOSLEEP" | "YIELD" | "MEMBAR" | "ERRBAR" | "FENCE"
            | "NOP" | "BREAK" | "ELECT" | "VOTE" | "UCGABAR_ARV" | "UCGABAR_WAIT" | "WARPGROUPSET"
            | "USETMAXREG" => Unit::Control,
            "R2UR" | "S2UR" | "LDC" | "LDCU" => Unit::Uniform,
            base if base.starts_with('U') => Unit::Uniform,
            _ => Unit::Logic,
        }
    }

    /// A memory access as its name and its bits a lane: `LDS.128`.
    pub fn access(&self) -> Option<String> {
        let kind = self.base();
        let bits = match self.unit() {
            Unit::Shared if kind.ends_with('M') => match () {
                () if self.has("4") => 128, // four 8 x 8 matrices of 16 bits, a register of each
                () if self.has("2") => 64,
                () => 32,
            },
            Unit::Shared | Unit::Global => match () {
                () if self.has("128") || kind.starts_with('U') => 128, // bulk copies are as wide as can be
                () if self.has("64") => 64,
                () if self.has("U16") || self.has("S16") => 16,
                () if self.has("U8") || self.has("S8") => 8,
                () => 32,
            },
            _ => return None,
        };
        Some(format!("{kind}.{bits}"))
    }
}
