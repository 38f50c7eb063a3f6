//! The instruction set: from syntax to operations with resolved registers.
//!
//! Arithmetic is decoded straight to its meaning, a function of one lane (`integer`, `float`, …: each file is a table from
//! opcode and type to such a function). Instructions that touch memory or other threads become variants of [`Op`] that
//! `exec` carries out.

mod async_copy;
mod compare;
mod control;
mod convert;
mod data;
mod decoder;
mod float;
mod forms;
mod half;
mod integer;
mod logic;
mod matrix;
mod memory;
mod mods;
pub mod numeric;
mod op;
mod operands;
mod wgmma;

pub use decoder::{Symbol, Symbols, decode};
pub use forms::*;
pub use op::*;

use crate::parse::Instruction;
use decoder::Decoder;

/// A decoded operation, or why the instruction is refused.
pub(crate) type Decoded = Result<Op, String>;

/// A form that the family does not have.
fn unknown<T>() -> Result<T, String> {
    Err("unknown form of the instruction".into())
}

/// Finds the family that knows the opcode.
fn decode_instruction(d: &mut Decoder, i: &Instruction) -> Decoded {
    match i.opcode.as_str() {
        "add" | "sub" | "mul" | "mad" | "min" | "max" | "neg" | "abs" | "fma" | "div" | "tanh" | "ex2" => {
            let has = |names: &[&str]| i.modifiers.iter().any(|m| names.contains(&m.as_str()));
            if has(&["f16", "f16x2", "bf16", "bf16x2"]) {
                half::decode(d, i)
            } else if has(&["f32", "f64"]) {
                float::decode(d, i)
            } else {
                integer::decode(d, i)
            }
        }
        "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "copysign" | "testp" => float::decode(d, i),
        "addc" | "subc" | "madc" | "mul24" | "mad24" | "sad" | "rem" | "popc" | "clz" | "bfind" | "brev"
        | "bfe" | "bfi" | "dp4a" | "dp2a" | "bmsk" | "szext" => integer::decode(d, i),
        "and" | "or" | "xor" | "not" | "cnot" | "lop3" | "shf" | "shl" | "shr" | "prmt" => {
            logic::decode(d, i)
        }
        "setp" | "set" | "selp" | "slct" => compare::decode(d, i),
        "mov" | "cvta" | "isspacep" | "mapa" => data::decode(d, i),
        "cvt" => convert::decode(d, i),
        "ld" | "ldu" | "st" | "atom" | "red" | "prefetch" | "prefetchu" | "discard" | "applypriority"
        | "createpolicy" => memory::decode(d, i),
        "bra" | "exit" | "ret" | "trap" | "brkpt" | "nanosleep" | "bar" | "barrier" | "fence" | "membar"
        | "shfl" | "griddepcontrol" | "vote" | "match" | "redux" | "activemask" | "elect" => {
            control::decode(d, i)
        }
        "cp" | "mbarrier" => async_copy::decode(d, i),
        "ldmatrix" | "stmatrix" | "movmatrix" | "mma" => matrix::decode(d, i),
        "wgmma" => wgmma::decode(d, i),
        "setmaxnreg" => wgmma::setmaxnreg(i),
        _ => Err("unknown instruction".into()),
    }
}
